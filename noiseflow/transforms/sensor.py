"""Layers that know how a sensor works: noise grows with the signal, and with the gain."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noiseflow.conditions import Conditions
from noiseflow.noise_level import NoiseLevel
from noiseflow.shot import Shot
from noiseflow.transforms.base import Transform


class SignalDependentScale(Transform):
    """z = (x − m) / √(a·max(clean, 0) + b), with (a, b) per camera and ISO; log_det = −½ Σ log variance.

    Args:
        level: the noise level function; trained with the flow.

    Source: Abdelhamed, Brubaker and Brown 2019, section 4.1, with the parameters per camera and ISO as a table.
    """

    def __init__(self, level: NoiseLevel) -> None:
        super().__init__()
        self.level = level

    def start_from(self, level: NoiseLevel) -> None:
        """Equal the noise level function."""
        self.level.copy_from(level)

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """Noise → noise in units of its standard deviation."""
        z, variance = self._forward(x, shot)
        return z, self._log_det(x, variance).sum(dim=(1, 2))

    def forward_map(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """Noise → noise in units of its standard deviation, with −½ Σ log variance of every pixel."""
        z, variance = self._forward(x, shot)
        return z, self._log_det(x, variance)

    def _forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        variance = self.level.variance(shot).to(x.dtype)
        return (x - self.level.mean(shot).to(x.dtype)) * variance.rsqrt(), variance

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """Units of the standard deviation → noise."""
        variance = self.level.variance(shot).to(z.dtype)
        x = z * variance.sqrt() + self.level.mean(shot).to(z.dtype)
        return x, -self._log_det(z, variance).sum(dim=(1, 2))

    @staticmethod
    def _log_det(x: Tensor, variance: Tensor) -> Tensor:
        shared = x.shape[1] // variance.shape[1]  # channels that share one variance
        return -0.5 * shared * variance.log().sum(dim=1)

    def __repr__(self) -> str:
        return f"SignalDependentScale({self.level.extra_repr()})"


class Gain(Transform):
    """z = x / g, one g per camera and ISO; log_det = −C·H·W·log g. Starts at g = 1.

    Args:
        conditions: the known (camera, ISO) pairs.

    Source: Abdelhamed, Brubaker and Brown 2019, section 4.2 (there one g per ISO).
    """

    def __init__(self, conditions: Conditions) -> None:
        super().__init__()
        self.conditions = conditions
        self.log_gain = nn.Parameter(torch.zeros(len(conditions), 1))

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x → x/g."""
        log_gain = self._read(shot, x)
        return x * (-log_gain).exp()[:, None, None, None], -x[0].numel() * log_gain

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z → g·z."""
        log_gain = self._read(shot, z)
        return z * log_gain.exp()[:, None, None, None], z[0].numel() * log_gain

    def _read(self, shot: Shot, x: Tensor) -> Tensor:
        return self.conditions.locate(shot).read(self.log_gain)[:, 0].to(x.dtype)

    def __repr__(self) -> str:
        return f"Gain({self.conditions})"
