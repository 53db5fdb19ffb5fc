"""Maximum-likelihood training of flows, as a plain Lightning task and data module.

Every draw is a function of (seed, step) and every patch one of (seed, its number), so a run does not depend on the
number of workers, and a step can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from noiseflow.datasets import FramePair, PatchDataset, collate
from noiseflow.models import Flow
from noiseflow.randomness import combine
from noiseflow.shot import Shot

_TRAINING, _VALIDATION = 0, 1


class NoiseModelTask(L.LightningModule):
    """Maximises a flow's log mass of the stored codes with Adam on a one-cycle schedule.

    Args:
        model: the flow to train.
        steps: length of the schedule.
        learning_rate: its peak.
        seed: seed of the draws inside the cells.

    Logs `mass` and `val_mass`, −log mass in nats per value.
    """

    def __init__(self, model: Flow, *, steps: int, learning_rate: float = 4e-3, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.steps = steps
        self.learning_rate = learning_rate
        self.seed = seed

    def mass(self, noisy: Tensor, shot: Shot, number: int, purpose: int) -> Tensor:
        """-log mass in nats per value, one draw that is a function of (seed, purpose, number)."""
        generator = torch.Generator().manual_seed(int(combine(self.seed, purpose, number)))
        uniforms = torch.rand(noisy.shape, dtype=torch.float64, generator=generator).clamp_min(1e-16)
        return -self.model.mass_with(noisy, shot, uniforms.to(noisy.device)).sum() / noisy.numel()

    def on_train_batch_start(self, batch: tuple[Tensor, Shot], batch_idx: int) -> None:
        """Initialise what depends on data from the first batch, where the flow was not started from a noise level."""
        if self.global_step == 0:
            noisy, shot = batch
            self.model.initialize(noisy - shot.clean, shot)

    def training_step(self, batch: tuple[Tensor, Shot], batch_idx: int) -> Tensor:
        """One step on a batch of patches."""
        noisy, shot = batch
        loss = self.mass(noisy, shot, self.global_step, _TRAINING)
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the loss is not finite at step {self.global_step}: try a lower --learning_rate")
        self.log("mass", loss.detach(), batch_size=len(shot))
        return loss

    def validation_step(self, batch: tuple[Tensor, Shot], batch_idx: int) -> None:
        """Score a batch of validation patches, always with the same draws."""
        noisy, shot = batch
        self.log("val_mass", self.mass(noisy, shot, batch_idx, _VALIDATION), batch_size=len(shot))

    def configure_optimizers(self) -> Any:
        """Adam, one cycle: a tenth up, the rest down."""
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=max(self.steps, 2), pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(
        self, batch: tuple[Tensor, Shot], device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Shot]:
        """Lightning cannot move frozen dataclasses by itself."""
        noisy, shot = batch
        return noisy.to(device), shot.to(device)


class PatchDataModule(L.LightningDataModule):
    """Batches of patches, drawn uniformly over whole frames.

    Args:
        train: frames to train on.
        validation: frames of the held-out scenes; may be empty.
        patch: side of the patches, in packed pixels (raw) or pixels (sRGB).
        batch: patches per step.
        steps: number of training batches.
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
        workers: int = 0,
        validation_batches: int = 8,
    ) -> None:
        super().__init__()
        self.batch = batch
        self.workers = workers
        self.train_patches = PatchDataset(train, patch, seed, batch * steps)
        self.validation_patches = (
            PatchDataset(validation, patch, seed + 1, batch * validation_batches, augment=False) if validation else None
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """The training batches, in the order of the patch numbers."""
        return self._loader(self.train_patches)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation batches; none where no scene could be held out."""
        return [] if self.validation_patches is None else self._loader(self.validation_patches)

    def _loader(self, patches: PatchDataset) -> DataLoader[Any]:
        return DataLoader(patches, self.batch, num_workers=self.workers, collate_fn=collate)
