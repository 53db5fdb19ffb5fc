"""What every training here has in common: steps counted from the very start, one cycle of Adam, a stop at NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from noiseflow.errors import UserError
from noiseflow.shot import Shot


class NonFiniteError(UserError):
    """Training met a loss or a gradient that is not a finite number."""


class Task(L.LightningModule):
    """Trains a network on batches of images with their shot, by Adam on a one-cycle schedule.

    Args:
        model: what to train.
        steps: length of the schedule.
        learning_rate: its peak.
        seed: seed of every draw.
        resume_from: a loaded checkpoint to go on from, as if never stopped.
        source: names the file that a patch was cut from, by the patch's number; for error messages.

    Attributes:
        first_step: steps taken before this process began.
        figures: names of the values that a step gives beside its loss, for `metrics.csv`.
        validated: name of the validation scenes' score there; the lower, the better.
    """

    figures: tuple[str, ...]
    validated: str

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        learning_rate: float,
        seed: int = 0,
        resume_from: dict[str, Any] | None = None,
        source: Callable[[int], str] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.steps = steps
        self.learning_rate = learning_rate
        self.seed = seed
        self.resume_from = resume_from
        self.first_step = 0 if resume_from is None else int(resume_from["noiseflow_step"])
        self.source = source
        self._batch: tuple[Tensor, Shot] | None = None  # the one in hand, for messages

    def setup(self, stage: str) -> None:
        """Take the weights of the checkpoint to go on from."""
        if self.resume_from is not None:
            self.load_state_dict(self.resume_from["state_dict"])

    @property
    def step(self) -> int:
        """Steps taken since the very start, over all processes of a resumed run."""
        return self.first_step + self.global_step

    def validation_score(self, batch: tuple[Tensor, Shot], batch_idx: int) -> Tensor:
        """The score of a batch of validation patches, always with the same draws; not every task has one."""
        raise NotImplementedError

    def validation_step(self, batch: tuple[Tensor, Shot], batch_idx: int) -> None:
        """Score a batch of validation patches."""
        self.log(self.validated, self.validation_score(batch, batch_idx), batch_size=len(batch[1]))

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
        for full_name, parameter in self.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                name = full_name.removeprefix("model.")
                raise NonFiniteError(f"the gradient of {name} is not finite at step {self.step + 1}; {self._said()}")

    def check_finite(self, loss: Tensor) -> None:
        """Stop at a loss that is not a finite number, naming what was in the batch."""
        if not bool(torch.isfinite(loss)):
            assert self._batch is not None
            layer, rows = self.culprit(*self._batch)
            raise NonFiniteError(
                f"the loss is not finite at step {self.step + 1}{layer}; {self._said(rows)}; "
                "try a lower --learning-rate, or look at the file"
            )

    def culprit(self, noisy: Tensor, shot: Shot) -> tuple[str, Sequence[int]]:
        """Where values first were not finite, as a part of a sentence, and in which rows, as far as can be told."""
        return "", range(len(shot))

    def _said(self, rows: Sequence[int] | None = None) -> str:
        """Camera, ISO and file of rows of the batch in hand, each once."""
        assert self._batch is not None
        shot = self._batch[1]
        names, cameras = [], shot.camera_names
        for row in range(len(shot)) if rows is None else rows:
            name = f"camera {cameras[row]}, ISO {float(shot.iso[row]):g}"
            if self.source is not None:
                name += f", {self.source(self.step * len(shot) + row)}"
            names.append(name)
        return "in the batch: " + "; ".join(dict.fromkeys(names))

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
