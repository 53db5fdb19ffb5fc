"""The classical baselines: independent Gaussian noise, homoscedastic or with a noise level function.

The Gaussian whose colours vary together is `noiseflow.models.full_covariance`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from noiseflow.cells import cells, log_normal_mass
from noiseflow.conditions import Conditions
from noiseflow.models.base import FittedModel
from noiseflow.noise_level import NoiseLevel
from noiseflow.randomness import SAMPLE, normal
from noiseflow.shot import Shot


class _PixelGaussian(FittedModel):
    """Independent Gaussian noise at every pixel, mean and variance from a `NoiseLevel`."""

    name: str
    slope = False
    shared = False
    """Whether the three channels of sRGB share their values, as those of raw always do."""

    def __init__(self, pairs: Iterable[tuple[str, float]], channels: int = 4) -> None:
        conditions = Conditions(pairs)
        super().__init__(conditions, channels)
        self.level = NoiseLevel(conditions, 3 if channels == 3 and not self.shared else 1, slope=self.slope)
        self.architecture = (self.name, {"pairs": [list(pair) for pair in conditions.pairs], "channels": channels})

    def _moments(self, shot: Shot) -> tuple[Tensor, Tensor]:
        """Mean and variance of the noise, float64."""
        self.check_channels(shot.clean)
        wide = shot.to(dtype=torch.float64)
        return self.level.mean(wide).double(), self.level.variance(wide).double()

    def log_prob(self, noise: Tensor, shot: Shot) -> Tensor:
        """Log density of noise, nats, `(B,)`, in noise's dtype."""
        mean, variance = self._moments(shot)
        terms = -0.5 * ((noise.double() - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi))
        return terms.sum(dim=(1, 2, 3)).to(noise.dtype)

    def log_mass(self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0) -> Tensor:
        """Log probability of the stored codes, nats, `(B,)`, float64: exact, whatever the seed."""
        return self.log_mass_map(noisy, shot).sum(dim=(1, 2))

    def log_mass_map(self, noisy: Tensor, shot: Shot) -> Tensor:
        """Log probability of the stored codes of every pixel, nats, `(B, H, W)`, float64."""
        mean, variance = self._moments(shot)
        return log_normal_mass(cells(noisy, shot), mean, variance.sqrt()).sum(dim=1)

    @torch.no_grad()
    def sample(self, shot: Shot, *, seed: int | Tensor) -> Tensor:
        """Draw latent noise, linear units, in clean's dtype."""
        mean, variance = self._moments(shot)
        shape = tuple(shot.clean.shape)
        z = normal(seed, shape, stream=SAMPLE, origin=shot.origin, device=shot.clean.device)  # type: ignore[arg-type]
        return (mean + variance.sqrt() * z).to(shot.clean.dtype)


class Gaussian(_PixelGaussian):
    """Homoscedastic Gaussian noise: one variance per camera and ISO (per channel in sRGB).

    Args:
        pairs: the (camera, ISO) pairs.
        channels: 4 for packed raw, 3 for sRGB, 1 for mono.
    """

    name = "gaussian"


class Isotropic(_PixelGaussian):
    """Homoscedastic Gaussian noise: one variance per camera and ISO, and one mean per camera, for all colours of sRGB.

    Args:
        pairs: the (camera, ISO) pairs.
        channels: 3; of raw noise, `Gaussian` is isotropic.
    """

    name = "isotropic"
    shared = True

    def __init__(self, pairs: Iterable[tuple[str, float]], channels: int = 3) -> None:
        if channels != 3:
            raise ValueError(f"isotropic: expected 3 channels, sRGB, got {channels}, for which gaussian is isotropic")
        super().__init__(pairs, channels)


class NoiseLevelFunction(_PixelGaussian):
    """Heteroscedastic Gaussian noise, variance a·clean + b: one (a, b) per camera and ISO (per channel in sRGB).

    Args:
        pairs: the (camera, ISO) pairs.
        channels: 4 for packed raw, 3 for sRGB, 1 for mono.
    """

    name = "nlf"
    slope = True
