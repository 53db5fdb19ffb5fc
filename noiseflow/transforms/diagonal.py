"""Diagonal scaling: NICE's last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noiseflow.shot import Shot
from noiseflow.transforms.base import Transform


class DiagonalScale(Transform):
    """z = exp(s) · x per channel; log_det = H·W·Σ s for every row. Starts as the identity.

    Behind a `Squeeze` that makes one pixel of an image, every dimension is a channel and has a scale of its own, as
    NICE has it.

    Args:
        channels: number of channels.

    Source: Dinh, Krueger and Bengio 2014, section 3.3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x → exp(s)·x."""
        return x * self.log_scale.exp()[:, None, None], self._log_det(x)

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z → exp(−s)·z."""
        return z * (-self.log_scale).exp()[:, None, None], -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return (x.shape[-2] * x.shape[-1] * self.log_scale.sum()).expand(x.shape[0])

    def extra_repr(self) -> str:
        """The number of channels."""
        return str(self.log_scale.numel())
