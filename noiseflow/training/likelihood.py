"""Maximum-likelihood training of flows, as a plain Lightning task and data module.

Every draw is a function of (seed, step) and every patch one of (seed, its number), so a run does not depend on the
number of workers, and a step can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from noiseflow.datasets import FramePair, Pair, PatchDataset, collate
from noiseflow.errors import UserError
from noiseflow.models import Flow
from noiseflow.randomness import combine
from noiseflow.shot import Shot
from noiseflow.training.mean_noise import mean_error

_TRAINING, _VALIDATION, _MEAN = 0, 1, 2


class NonFiniteError(UserError):
    """Training met a loss or a gradient that is not a finite number."""


class NoiseModelTask(L.LightningModule):
    """Maximises a flow's log mass of the stored codes with Adam on a one-cycle schedule.

    Args:
        model: the flow to train.
        steps: length of the schedule.
        learning_rate: its peak.
        mean_weight: weight of the squared bias of the flow's draws (`noiseflow.training.mean_noise`); 0 draws none.
        seed: seed of the draws inside the cells.
        resume_from: a loaded checkpoint to go on from, as if never stopped.
        source: names the file that a patch was cut from, by the patch's number; for error messages.

    Attributes:
        first_step: steps taken before this process began.
        figures: names of the values that a step gives beside its loss, for `metrics.csv`.
        validated: name of the validation scenes' score there; the lower, the better.

    Logs `mass` and `val_mass`, −log mass in nats per value.
    """

    figures: tuple[str, ...] = ("mass",)
    validated = "val_mass"

    def __init__(
        self,
        model: Flow,
        *,
        steps: int,
        learning_rate: float = 4e-3,
        mean_weight: float = 0.0,
        seed: int = 0,
        resume_from: dict[str, Any] | None = None,
        source: Callable[[int], str] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.resume_from = resume_from
        self.first_step = 0
        self.source = source
        self._shot: Shot | None = None
        self._restore()
        self.steps = steps
        self.learning_rate = learning_rate
        self.mean_weight = mean_weight
        self.seed = seed

    def _restore(self) -> None:
        """Take weights and step of the checkpoint to go on from."""
        if self.resume_from is not None:
            self.first_step = int(self.resume_from["noiseflow_step"])
            self.load_state_dict(self.resume_from["state_dict"])

    @property
    def step(self) -> int:
        """Steps taken since the very start, over all processes of a resumed run."""
        return self.first_step + self.global_step

    def mass(self, noisy: Tensor, shot: Shot, number: int, purpose: int) -> Tensor:
        """-log mass in nats per value, one draw that is a function of (seed, purpose, number)."""
        generator = torch.Generator().manual_seed(int(combine(self.seed, purpose, number)))
        uniforms = torch.rand(noisy.shape, dtype=torch.float64, generator=generator).clamp_min(1e-16)
        return -self.model.mass_with(noisy, shot, uniforms.to(noisy.device)).sum() / noisy.numel()

    def on_train_batch_start(self, batch: tuple[Tensor, Shot], batch_idx: int) -> None:
        """Initialise what depends on data from the first batch, where the flow was not started from a noise level."""
        if self.step == 0:
            noisy, shot = batch
            self.model.initialize(noisy - shot.clean, shot)

    def training_step(self, batch: tuple[Tensor, Shot], batch_idx: int) -> dict[str, Tensor]:
        """One step on a batch of patches; the loss, and the mass that is its main part."""
        noisy, shot = batch
        self._shot = shot
        mass = self.mass(noisy, shot, self.step, _TRAINING)
        loss = mass
        if self.mean_weight:
            generator = torch.Generator().manual_seed(int(combine(self.seed, _MEAN, self.step)))
            z = torch.randn(noisy.shape, generator=generator).to(noisy.device)
            loss = mass + self.mean_weight * mean_error(self.model, noisy, shot, z)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(self._blame(noisy, shot))
        self.log("mass", mass.detach(), batch_size=len(shot))
        return {"loss": loss, "mass": mass.detach()}

    def check_finite(self, loss: Tensor, shot: Shot) -> None:
        """Stop at a loss that is not a finite number, naming what was in the batch."""
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(
                f"the loss is not finite at step {self.step + 1}; {self._rows(shot, range(len(shot)))}; "
                "try a lower --learning-rate, or look at the file"
            )

    def _rows(self, shot: Shot, rows: Iterable[int]) -> str:
        """Camera, ISO and file of some rows of the batch in hand, each once."""
        names, cameras = [], shot.camera_names
        for row in rows:
            name = f"camera {cameras[row]}, ISO {float(shot.iso[row]):g}"
            if self.source is not None:
                name += f", {self.source(self.step * len(shot) + row)}"
            names.append(name)
        return "in the batch: " + "; ".join(dict.fromkeys(names))

    @torch.no_grad()
    def _blame(self, noisy: Tensor, shot: Shot) -> str:
        """Which layer first gave a value that is not finite, and for which camera, ISO and file."""
        shot = self.model.with_context(shot)
        x, layer, bad = noisy - shot.clean, "the proposal", torch.zeros(len(shot), dtype=torch.bool)
        for i, transform in enumerate(self.model.transform):
            x, log_det = transform(x, shot)
            bad = ~(torch.isfinite(x).flatten(1).all(dim=1) & torch.isfinite(log_det))
            if bool(bad.any()):
                layer = f"layer {i}, {type(transform).__name__}"
                break
        rows = bad.nonzero().flatten().tolist() or range(len(shot))
        return (
            f"the loss is not finite at step {self.step + 1}, from {layer} on; {self._rows(shot, rows)}; "
            "try a lower --learning-rate, or look at the file"
        )

    def validation_score(self, batch: tuple[Tensor, Shot], batch_idx: int) -> Tensor:
        """-log mass of a batch of validation patches in nats per value, always with the same draws."""
        return self.mass(*batch, batch_idx, _VALIDATION)

    def validation_step(self, batch: tuple[Tensor, Shot], batch_idx: int) -> None:
        """Score a batch of validation patches."""
        self.log("val_mass", self.validation_score(batch, batch_idx), batch_size=len(batch[1]))

    def configure_optimizers(self) -> Any:
        """Adam, one cycle: straight up for a tenth of the steps, down along a cosine for the rest."""
        optimizer = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)
        if self.resume_from is not None:
            optimizer.load_state_dict(self.resume_from["optimizer_states"][0])

        def factor(since: int) -> float:
            return one_cycle(self.first_step + since, self.steps)

        for group in optimizer.param_groups:
            group["initial_lr"] = self.learning_rate  # a resumed optimizer remembers a rate that had moved
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a gradient that is not finite reaches the weights."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if bool(torch.isfinite(torch.stack([g.square().sum() for g in gradients]).sum())):
            return
        assert self._shot is not None
        where = self._rows(self._shot, range(len(self._shot)))
        for full_name, parameter in self.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                name = full_name.removeprefix("model.")
                raise NonFiniteError(f"the gradient of {name} is not finite at step {self.step + 1}; {where}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the number of steps since the very start: Lightning counts those of this process."""
        checkpoint["noiseflow_step"] = self.step

    def transfer_batch_to_device(
        self, batch: tuple[Tensor, Shot], device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Shot]:
        """Lightning cannot move frozen dataclasses by itself."""
        noisy, shot = batch
        return noisy.to(device), shot.to(device)


def one_cycle(step: int, steps: int) -> float:
    """A schedule relative to its peak: straight up for a tenth of the steps, down along a cosine for the rest."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise + 1) / (steps - rise + 1))))


class PatchDataModule(L.LightningDataModule):
    """Batches of patches, drawn uniformly over whole frames.

    Args:
        train: frames to train on.
        validation: frames of the held-out scenes; may be empty.
        patch: side of the patches, in packed pixels (raw) or pixels (sRGB).
        batch: patches per step.
        steps: number of training batches, those of earlier processes among them.
        first_step: batches that earlier processes of a resumed run have used.
        seed: seed of order and position.
        workers: reading processes; 0 reads in the main process.
        validation_batches: number of validation batches, always the same ones.
    """

    def __init__(
        self,
        train: Sequence[FramePair],
        validation: Sequence[FramePair],
        *,
        patch: int,
        batch: int,
        steps: int,
        seed: int,
        first_step: int = 0,
        workers: int = 0,
        validation_batches: int = 8,
    ) -> None:
        super().__init__()
        self.batch = batch
        self.workers = workers
        self.first_step = first_step
        self.train_patches = PatchDataset(train, patch, seed, batch * steps)
        self.validation_patches = (
            PatchDataset(validation, patch, seed + 1, batch * validation_batches, augment=False) if validation else None
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """The training batches, in the order of the patch numbers."""
        rest = range(self.first_step * self.batch, len(self.train_patches))
        return self._loader(Subset(self.train_patches, rest))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation batches; none where no scene could be held out."""
        return [] if self.validation_patches is None else self._loader(self.validation_patches)

    def _loader(self, patches: Dataset[Pair]) -> DataLoader[Any]:
        return DataLoader(patches, self.batch, num_workers=self.workers, collate_fn=collate)
