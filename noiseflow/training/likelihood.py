"""Maximum-likelihood training of flows, as a plain Lightning task.

Every draw is a function of (seed, step), so a step can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from noiseflow.models import Flow
from noiseflow.randomness import combine
from noiseflow.shot import Shot
from noiseflow.training.mean_noise import mean_error
from noiseflow.training.task import Task

_TRAINING, _VALIDATION, _MEAN = 0, 1, 2


class NoiseModelTask(Task):
    """Maximises a flow's log mass of the stored codes.

    Args:
        model: the flow to train.
        mean_weight: weight of the squared bias of the flow's draws (`noiseflow.training.mean_noise`); 0 draws none.
        learning_rate, rest: as in `Task`.

    Logs `mass` and `val_mass`, −log mass in nats per value.
    """

    figures = ("mass",)
    validated = "val_mass"
    model: Flow

    def __init__(self, model: Flow, *, learning_rate: float = 4e-3, mean_weight: float = 0.0, **rest: Any) -> None:
        super().__init__(model, learning_rate=learning_rate, **rest)
        self.mean_weight = mean_weight

    def on_train_batch_start(self, batch: tuple[Tensor, Shot], batch_idx: int) -> None:
        """Initialise what depends on data from the first batch, where the flow was not started from a noise level."""
        if self.step == 0:
            noisy, shot = batch
            self.model.initialize(noisy - shot.clean, shot)

    def training_step(self, batch: tuple[Tensor, Shot], batch_idx: int) -> dict[str, Tensor]:
        """One step on a batch of patches; the loss, and the mass that is its main part."""
        noisy, shot = self._batch = batch
        mass = drawn_mass(self.model, noisy, shot, int(combine(self.seed, _TRAINING, self.step)))
        loss = mass
        if self.mean_weight:
            generator = torch.Generator().manual_seed(int(combine(self.seed, _MEAN, self.step)))
            z = torch.randn(noisy.shape, generator=generator).to(noisy.device)
            loss = mass + self.mean_weight * mean_error(self.model, noisy, shot, z)
        self.check_finite(loss)
        self.log("mass", mass.detach(), batch_size=len(shot))
        return {"loss": loss, "mass": mass.detach()}

    def validation_score(self, batch: tuple[Tensor, Shot], batch_idx: int) -> Tensor:
        """-log mass of a batch of validation patches in nats per value."""
        return drawn_mass(self.model, *batch, int(combine(self.seed, _VALIDATION, batch_idx)))

    @torch.no_grad()
    def culprit(self, noisy: Tensor, shot: Shot) -> tuple[str, Sequence[int]]:
        """The layer that first gave a value that is not finite, and for which rows."""
        shot = self.model.with_context(shot)
        x, everyone = noisy - shot.clean, range(len(shot))
        for i, transform in enumerate(self.model.transform):
            x, log_det = transform(x, shot)
            bad = ~(torch.isfinite(x).flatten(1).all(dim=1) & torch.isfinite(log_det))
            if bool(bad.any()):
                return f", from layer {i}, {type(transform).__name__} on", bad.nonzero().flatten().tolist()
        return ", from the proposal on", everyone


def drawn_mass(flow: Flow, noisy: Tensor, shot: Shot, seed: int) -> Tensor:
    """-log mass of stored codes in nats per value, estimated from one draw inside their cells.

    Args:
        flow: the noise model.
        noisy: `(B, C, H, W)`, stored values, linear units.
        shot: their clean images and conditions.
        seed: the draw is a function of it.

    Returns:
        A scalar that gradients flow through.
    """
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(noisy.shape, dtype=torch.float64, generator=generator).clamp_min(1e-16)
    return -flow.mass_with(noisy, shot, uniforms.to(noisy.device)).sum() / noisy.numel()
