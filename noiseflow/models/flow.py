"""Flows: a chain of transforms from noise to independent standard normals.

The likelihood of stored codes under a flow has no closed form. It is bounded from below by drawing the latent noise n
from a proposal q, a Gaussian truncated to each pixel's cell:

    log mass  >=  E_q[ log p(n | shot) - log q(n) ].

The Gaussian before truncation is the flow's *reference*: the noise level function that it was started from, kept as a
frozen table. A flow that still equals its reference makes q the exact posterior, and the bound exact for every draw.
Half the variance of log p - log q, per value, measures how loose the bound is (the second-order term of Jensen's gap).

A flow with an `SrgbIntensity` is conditioned on a picture: the clean raw signal then only tells noise from signal, and
everything that depends on brightness, the proposal included, sees the intensity estimated from the picture instead.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.cells import Cells, cells, draw_in_cells
from noiseflow.intensity import SrgbIntensity
from noiseflow.models.base import FittedModel
from noiseflow.noise_level import NoiseLevel
from noiseflow.randomness import PROPOSAL, SAMPLE, combine, normal, uniform
from noiseflow.shot import Shot
from noiseflow.transforms import Chain


class MassBound(NamedTuple):
    """A lower bound on the log mass and its looseness.

    Attributes:
        log_mass: `(B,)`, nats, float64, the mean over the draws.
        looseness: `(B,)`, nats, half the unbiased variance over the draws; NaN for a single draw.
    """

    log_mass: Float[Tensor, "b"]
    looseness: Float[Tensor, "b"]


class Flow(FittedModel):
    """A normalizing flow for noise: `transform` maps it to N(0, 1), given the shot.

    Args:
        transform: the layers, from noise to base space; base space has the shape of the noise.
        reference: the noise level function that proposals are drawn from; frozen here. Its conditions are the flow's.
        channels: 4 for packed raw, 3 for sRGB, 1 for mono.
        intensity: estimates the intensity of packed raw from `shot.srgb`; None: the model sees the clean signal.
    """

    def __init__(
        self, transform: Chain, reference: NoiseLevel, channels: int, intensity: SrgbIntensity | None = None
    ) -> None:
        super().__init__(reference.conditions, channels)
        self.transform = transform
        self.reference = reference.freeze()
        self.intensity = intensity
        if intensity is not None:
            self.condition = "srgb"

    @property
    def size_multiple(self) -> int:
        """What height and width must divide by in `log_prob`; the rest pads."""
        return self.transform.size_multiple

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters, in which the transform computes."""
        return self.reference.log_b.dtype

    def start_from(self, level: NoiseLevel) -> None:
        """Make the flow equal to a noise level function, as nearly as its layers can, and take it as the reference."""
        self.reference.copy_from(level)
        for layer in self.transform:
            layer.start_from(level)

    def initialize(self, noise: Tensor, shot: Shot) -> None:
        """Set the data-dependent state of layers that were not started yet, from a batch."""
        self.transform.initialize(noise.to(self.dtype), self.with_context(shot))

    def with_context(self, shot: Shot) -> Shot:
        """The shot in the flow's dtype, with what the couplings see: clean and log std, both about unit range."""
        shot = shot.to(dtype=self.dtype)
        if self.intensity is not None:
            shot = shot.replace(clean=self.intensity(shot))
        log_std = 0.5 * self.reference.variance(shot).log()
        return shot.replace(context=torch.cat((shot.clean, 0.5 * (log_std + 4.0)), dim=1))

    def log_prob(self, noise: Tensor, shot: Shot) -> Tensor:
        """Log density of noise, nats, `(B,)`.

        Raises:
            ValueError: height or width do not divide by `size_multiple`.
        """
        self.check_channels(noise)
        z, log_det = self.transform(_channels_last(noise.to(self.dtype)), self.with_context(shot))
        log_prob: Tensor = log_det - 0.5 * (z.square().sum(dim=(1, 2, 3)) + z[0].numel() * math.log(2 * math.pi))
        return log_prob

    def log_mass(self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0) -> Tensor:
        """Lower bound on the log probability of the stored codes, one draw, nats, `(B,)`, float64."""
        return self.mass_bound(noisy, shot, seed=seed, draws=1).log_mass

    def mass_bound(self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0, draws: int = 2) -> MassBound:
        """The bound with its looseness.

        Args:
            noisy: `(B, C, H, W)`, stored values, linear units, any height and width.
            shot: clean images and conditions.
            seed: as in `sample`; draw k uses its own stream.
            draws: number of draws per row.
        """
        values = []
        for k in range(draws):
            key = combine(torch.as_tensor(seed, dtype=torch.int64), k)
            shape = tuple(noisy.shape)
            uniforms = uniform(key, shape, stream=PROPOSAL, origin=shot.origin, device=noisy.device)  # type: ignore[arg-type]
            values.append(self.mass_with(noisy, shot, uniforms))
        stacked = torch.stack(values)
        looseness = 0.5 * stacked.var(dim=0) if draws > 1 else torch.full_like(values[0], torch.nan)
        return MassBound(stacked.mean(dim=0), looseness)

    def mass_with(self, noisy: Tensor, shot: Shot, uniforms: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        """One draw of the bound from given uniform numbers, nats, float64; what training maximises.

        Images whose sides do not divide by `size_multiple` are padded by reflection; the padded pixels count as not
        observed, so the bound is one on the mass of the real ones.
        """
        self.check_channels(noisy)
        cell = cells(noisy, shot)
        padded, (bottom, right) = _pad(shot, self.size_multiple)
        if bottom or right:
            edges = (0, right, 0, bottom)
            cell = Cells(nn.functional.pad(cell.low, edges, value=-1e6), nn.functional.pad(cell.high, edges, value=1e6))
            uniforms = nn.functional.pad(
                uniforms, edges, mode="reflect" if min(uniforms.shape[-2:]) > 1 else "replicate"
            )
        with torch.no_grad():
            wide = padded.to(dtype=torch.float64)
            if self.intensity is not None:
                wide = wide.replace(clean=self.intensity.curve(wide))
            std = self.reference.variance(wide).double().sqrt()
            noise, log_q = draw_in_cells(cell, self.reference.mean(wide).double(), std, uniforms)
        return self.log_prob(noise, padded).double() - log_q.sum(dim=(1, 2, 3))

    @torch.no_grad()
    def sample(self, shot: Shot, *, seed: int | Tensor) -> Tensor:
        """Draw latent noise, linear units, in clean's dtype; computed in float64.

        In float32 the last bits of a convolution depend on how the work is cut up, and now and then one of them moves
        a value to the next code. In float64 they do not reach the result.
        """
        self.check_channels(shot.clean)
        flow = self if self.dtype == torch.float64 else copy.deepcopy(self).double()
        padded, _ = _pad(shot, self.size_multiple)
        padded = flow.with_context(padded)
        shape = tuple(padded.clean.shape)
        z = normal(seed, shape, stream=SAMPLE, origin=shot.origin, device=shot.clean.device)  # type: ignore[arg-type]
        noise, _ = flow.transform.inverse(_channels_last(z), padded)
        height, width = shot.clean.shape[-2:]
        return noise[..., :height, :width].to(shot.clean.dtype)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _pad(shot: Shot, multiple: int) -> tuple[Shot, tuple[int, int]]:
    """Pad the clean image, and its picture, at the bottom and right to a multiple of `multiple`."""
    height, width = shot.clean.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return shot, (0, 0)
    mode = "reflect" if bottom < height and right < width else "replicate"
    edges = (0, right, 0, bottom)
    clean, srgb = nn.functional.pad(shot.clean, edges, mode=mode), shot.srgb
    if srgb is not None:  # whole cells of the mosaic, so that its pattern stays
        srgb = nn.functional.pixel_shuffle(
            nn.functional.pad(nn.functional.pixel_unshuffle(srgb, 2), edges, mode=mode), 2
        )
    return shot.replace(clean=clean, srgb=srgb, offset=None, gain=None, variance=None), (bottom, right)
