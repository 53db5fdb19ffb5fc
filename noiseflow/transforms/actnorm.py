"""ActNorm: a scale and a shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noiseflow.noise_level import NoiseLevel
from noiseflow.shot import Shot
from noiseflow.transforms.base import Transform


class ActNorm(Transform):
    """z = s · (x + b) per channel; log_det = H·W·Σ log s, with s = exp(log_scale).

    Starts as the identity. `initialize` sets s and b so that the batch it is given has zero mean and unit variance in
    every channel, once; the flag is saved, so a loaded model is not initialised again.

    Args:
        channels: number of channels.

    Source: Kingma and Dhariwal 2018, section 3.1.
    """

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))

    def initialize(self, x: Tensor, shot: Shot) -> None:
        """Zero mean and unit variance on this batch, unless initialised before."""
        if bool(self.initialized):
            return
        with torch.no_grad():
            self.bias.copy_(-x.mean(dim=(0, 2, 3)))
            self.log_scale.copy_(-0.5 * x.var(dim=(0, 2, 3), correction=0).clamp_min(1e-12).log())
        self.initialized.fill_(True)

    def start_from(self, level: NoiseLevel) -> None:
        """The identity is its start, whatever the noise level: no batch is to move it."""
        self.initialized.fill_(True)

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x → s·(x + b)."""
        z = (x + self.bias[:, None, None]) * self.log_scale.exp()[:, None, None]
        return z, self._log_det(x)

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z → z/s − b."""
        x = z * (-self.log_scale).exp()[:, None, None] - self.bias[:, None, None]
        return x, -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return (x.shape[-2] * x.shape[-1] * self.log_scale.sum()).expand(x.shape[0])

    def extra_repr(self) -> str:
        """The number of channels."""
        return str(self.log_scale.numel())
