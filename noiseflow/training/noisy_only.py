"""Training of a denoiser and a flow on bursts of noisy frames, as Lightning tasks.

First the denoiser alone, by Noise2Noise: the squared error between what it finds in one frame and another frame
(Lehtinen et al. 2018). Then the flow, in one of two ways:

- `UnbiasedTask`: the denoiser stands still. Frames are compared once (`noiseflow.training.frame_moments`), the flow
  starts as the noise level function found, and is trained by mass on frames whose noise about what the denoiser finds
  has been brought back to the sensor's.
- `JointTask`: both networks go on together on the joint loss of Noise2NoiseFlow (`noiseflow.training.noise2noise`).

Every draw is a function of (seed, step), as in `noiseflow.training.likelihood`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.denoise import Denoiser, denoise
from noiseflow.models import Flow
from noiseflow.models.base import FittedModel
from noiseflow.noise_level import NoiseLevel
from noiseflow.randomness import combine
from noiseflow.shot import Shot
from noiseflow.training.frame_moments import FoundSignal
from noiseflow.training.likelihood import drawn_mass
from noiseflow.training.noise2noise import PUBLISHED_WEIGHT, joint_loss
from noiseflow.training.task import Task, one_cycle

DENOISER_RATE = 3e-3
"""Peak of the denoiser's one-cycle schedule."""

JOINT_RATE = 1e-3
"""Learning rate of the joint loss, constant, as published."""

_LATENT, _ERROR, _TRAINING = 10, 11, 12

Calibration = Callable[[Denoiser, FoundSignal], NoiseLevel]
"""Compares frames with what a denoiser finds: fills the table, returns the noise level function."""


class NoisyOnlyTask(Task):
    """A denoiser, then a noise model, from batches of frames `(B, N, C, H, W)` with their shot.

    Args:
        model: the noise model to train.
        denoiser: the denoiser to train.
        denoiser_steps: steps that the denoiser is trained alone.
        steps: steps after those.
        learning_rate: peak, or constant, of the noise model's schedule.
        rest: as in `Task`.
    """

    figures = ("mass", "mse")
    validated = "val_mass"  # of which there is none: frames have no clean image to be scored with
    model: FittedModel

    def __init__(self, model: FittedModel, denoiser: Denoiser, *, denoiser_steps: int, **rest: Any) -> None:
        super().__init__(model, **rest)
        self.denoiser = denoiser
        self.denoiser_steps = denoiser_steps

    trains_denoiser = False
    """Whether the second part of the training changes the denoiser too."""

    def on_train_batch_start(self, batch: tuple[Tensor, Shot], batch_idx: int) -> None:
        """Have both networks in the mode that the step needs."""
        alone = self.step < self.denoiser_steps
        self.denoiser.train(alone or self.trains_denoiser)
        self.model.train(not alone)

    def training_step(self, batch: tuple[Tensor, Shot], batch_idx: int) -> dict[str, Tensor]:
        """One step: of the denoiser, or of what comes after it."""
        frames, shot = self._batch = batch
        if self.step < self.denoiser_steps:
            error = (denoise(self.denoiser, frames[:, 0], shot) - frames[:, 1]).square().mean()
            result = {"loss": error, "mse": error.detach()}
        else:
            result = self.second_step(frames, shot)
        self.check_finite(result["loss"])
        return result

    @abstractmethod
    def second_step(self, frames: Tensor, shot: Shot) -> dict[str, Tensor]:
        """A step after the denoiser's own: the loss and the figures."""

    @abstractmethod
    def second_rates(self, step: int) -> tuple[float, float]:
        """Learning rates of both networks at a step, counted from the end of the denoiser's own ones."""

    def configure_optimizers(self) -> Any:
        """One Adam for both networks, whose rates are those of the step; a network without gradient stands still."""
        groups = [list(self.denoiser.parameters()), [p for p in self.model.parameters() if p.requires_grad]]
        optimizer = torch.optim.Adam([{"params": group, "lr": 1.0} for group in groups])
        if self.resume_from is not None:
            optimizer.load_state_dict(self.resume_from["optimizer_states"][0])
        for group in optimizer.param_groups:
            group["initial_lr"] = 1.0  # a resumed optimizer remembers a rate that had moved

        def rate(network: int) -> Callable[[int], float]:
            return lambda since: self._rates(self.first_step + since)[network]

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [rate(0), rate(1)])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rates(self, step: int) -> tuple[float, float]:
        """Learning rates of the denoiser and of the noise model at a step."""
        if step < self.denoiser_steps:
            return DENOISER_RATE * one_cycle(step, self.denoiser_steps), 0.0
        return self.second_rates(step - self.denoiser_steps)


class UnbiasedTask(NoisyOnlyTask):
    """The flow is trained by mass on frames whose noise has been brought back to the sensor's (see the module).

    Args:
        model: the flow.
        denoiser: the denoiser.
        calibrate: compares frames, when the denoiser is done.
        margin: pixels along the border of a patch that are left out: there the denoiser sees less.
        rest: as in `NoisyOnlyTask`.
    """

    model: Flow

    def __init__(self, model: Flow, denoiser: Denoiser, *, calibrate: Calibration, margin: int, **rest: Any) -> None:
        super().__init__(model, denoiser, **rest)
        self.calibrate = calibrate
        self.margin = margin
        self.found = FoundSignal(model.conditions, model.reference.channels)

    def on_train_batch_start(self, batch: tuple[Tensor, Shot], batch_idx: int) -> None:
        """Between the two networks, compare frames."""
        super().on_train_batch_start(batch, batch_idx)
        if self.step == self.denoiser_steps:
            self.start_flow()

    def start_flow(self) -> None:
        """Compare frames, and start the flow as the noise level function that they give."""
        self.denoiser.eval()
        self.model.start_from(self.calibrate(self.denoiser, self.found))

    def second_step(self, frames: Tensor, shot: Shot) -> dict[str, Tensor]:
        """Minus the log mass of the second frame, brought back to what the denoiser finds in the first one."""
        with torch.no_grad():
            found, noisy, shot = interior(denoise(self.denoiser, frames[:, 0], shot), frames[:, 1], shot, self.margin)
        uniforms, normals = (self._uniforms(noisy, purpose) for purpose in (_LATENT, _ERROR))
        noisy, shot = self.found.bring_back(
            noisy, found, shot, self.model.reference, uniforms, torch.special.ndtri(normals)
        )
        loss = drawn_mass(self.model, noisy, shot, int(combine(self.seed, _TRAINING, self.step)))
        return {"loss": loss, "mass": loss.detach()}

    def _uniforms(self, like: Tensor, purpose: int) -> Tensor:
        generator = torch.Generator().manual_seed(int(combine(self.seed, purpose, self.step)))
        uniforms = torch.rand(like.shape, dtype=torch.float64, generator=generator).clamp_min(1e-16)
        return uniforms.to(like.device)

    def second_rates(self, step: int) -> tuple[float, float]:
        """The flow's own cycle."""
        return 0.0, self.learning_rate * one_cycle(step, self.steps)


class JointTask(NoisyOnlyTask):
    """Both networks are trained on the joint loss of Noise2NoiseFlow, at one constant rate.

    Args:
        model: the density of recorded noise.
        denoiser: the denoiser.
        weight: of the squared error.
        rest: as in `NoisyOnlyTask`.
    """

    figures = ("nll", "mse")
    trains_denoiser = True

    def __init__(
        self, model: FittedModel, denoiser: Denoiser, *, weight: float = PUBLISHED_WEIGHT, **rest: Any
    ) -> None:
        super().__init__(model, denoiser, **rest)
        self.weight = weight

    def second_step(self, frames: Tensor, shot: Shot) -> dict[str, Tensor]:
        """The joint loss."""
        loss = joint_loss(self.model, self.denoiser, frames[:, 0], frames[:, 1], shot, self.weight)
        return {"loss": loss.total, "nll": loss.nll.detach(), "mse": loss.mse.detach()}

    def second_rates(self, step: int) -> tuple[float, float]:
        """The same for both, constant."""
        return self.learning_rate, self.learning_rate


def interior(
    found: Float[Tensor, "b c h w"], noisy: Float[Tensor, "b c h w"], shot: Shot, margin: int
) -> tuple[Float[Tensor, "b c h2 w2"], Float[Tensor, "b c h2 w2"], Shot]:
    """Found and noisy images and their shot without a border."""
    height, width = (side - 2 * margin for side in noisy.shape[-2:])
    inside = (..., slice(margin, margin + height), slice(margin, margin + width))
    return found[inside], noisy[inside], shot.crop(margin, margin, height, width)
