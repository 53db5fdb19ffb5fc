"""Training of a denoiser on noise that is drawn while it trains, as a plain Lightning task."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from noiseflow.denoise import Denoiser, denoise
from noiseflow.denoise.sources import Source
from noiseflow.randomness import combine
from noiseflow.shot import Shot
from noiseflow.training.task import Task

_DRAWING = 20


class DenoiserTask(Task):
    """Minimises the mean squared error between what a denoiser finds and the clean image.

    Every draw is a function of (seed, step, row), so a step can be repeated.

    Args:
        network: the denoiser to train.
        noise: makes the noisy images of every step.
        rest: as in `Task`.

    Attributes:
        drawing_seconds: time that this process has spent on drawing noise.
        step_seconds: time of its steps: drawing, both passes of the network, and the update; without reading images.
    """

    figures = ("mse",)
    validated = "val_mse"
    model: Denoiser

    def __init__(self, network: Denoiser, noise: Source, **rest: Any) -> None:
        super().__init__(network, **rest)
        self.noise = noise
        self.drawing_seconds = self.step_seconds = 0.0

    def on_fit_start(self) -> None:
        """Draw noise where the batches are."""
        self.noise.to(self.device)

    def training_step(self, batch: tuple[Tensor, Shot], batch_idx: int) -> dict[str, Tensor]:
        """Draw noise, denoise, compare."""
        began = self._clock()
        noisy, shot = self._batch = batch
        noisy, shot = self.noise(noisy, shot, combine(self.seed, _DRAWING, self.step, torch.arange(len(shot))))
        self.drawing_seconds += self._clock() - began
        error = (denoise(self.model, noisy, shot) - shot.clean).square().mean()
        self.check_finite(error)
        return {"loss": error, "mse": error.detach()}

    def validation_score(self, batch: tuple[Tensor, Shot], batch_idx: int) -> Tensor:
        """Mean squared error on a batch of recorded noise."""
        noisy, shot = batch
        return (denoise(self.model, noisy, shot) - shot.clean).square().mean()

    def optimizer_step(self, *arguments: Any, **rest: Any) -> None:
        """Lightning's step, timed; both passes of the network happen inside it."""
        began = self._clock()
        super().optimizer_step(*arguments, **rest)
        self.step_seconds += self._clock() - began

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
