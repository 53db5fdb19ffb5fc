"""Invertible 1×1 convolutions: one matrix mixes the channels of every pixel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.shot import Shot
from noiseflow.transforms.base import Transform


def _mix(x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c c"]) -> Float[Tensor, "b c h w"]:
    return nn.functional.conv2d(x, weight[:, :, None, None])


def _random_rotation(channels: int, generator: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64, generator=generator))
    rotation: Tensor = q * r.diagonal().sign()  # the sign makes it uniform over rotations and reflections
    return rotation


class Conv1x1(Transform):
    """z = W·x at every pixel; log_det = H·W·log |det W|.

    Args:
        channels: number of channels.
        generator: draws a random rotation to start from; None starts from the identity.

    Source: Kingma and Dhariwal 2018, section 3.2.
    """

    def __init__(self, channels: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        start = torch.eye(channels) if generator is None else _random_rotation(channels, generator)
        self.weight = nn.Parameter(start.to(torch.get_default_dtype()))

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x → W·x."""
        return _mix(x, self.weight), self._log_det(x)

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z → W⁻¹·z, the inverse taken in float64."""
        return _mix(z, torch.linalg.inv(self.weight.double()).to(z.dtype)), -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        log_abs_det: Tensor = torch.linalg.slogdet(self.weight).logabsdet
        return (x.shape[-2] * x.shape[-1] * log_abs_det).expand(x.shape[0])

    def extra_repr(self) -> str:
        """The number of channels."""
        return str(self.weight.shape[0])


class Conv1x1LU(Transform):
    """z = P·L·(U + diag(s))·x at every pixel; log_det = H·W·Σ log |s|. Always invertible.

    P is a fixed permutation, L is unit lower and U strictly upper triangular; the signs of s are fixed.

    Args:
        channels: number of channels.
        generator: draws a random rotation to start from; None starts from the identity.

    Source: Kingma and Dhariwal 2018, section 3.2, eq. 10.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        start = torch.eye(channels).double() if generator is None else _random_rotation(channels, generator)
        permutation, lower, upper = torch.linalg.lu(start)
        diagonal = upper.diagonal()
        dtype = torch.get_default_dtype()
        self.register_buffer("permutation", permutation.to(dtype))
        self.register_buffer("sign", diagonal.sign().to(dtype))
        self.lower = nn.Parameter(lower.tril(-1).to(dtype))
        self.upper = nn.Parameter(upper.triu(1).to(dtype))
        self.log_s = nn.Parameter(diagonal.abs().log().to(dtype))

    def _factors(self) -> tuple[Tensor, Tensor]:
        eye = torch.eye(self.log_s.numel(), dtype=self.log_s.dtype, device=self.log_s.device)
        return self.lower.tril(-1) + eye, self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x → P·L·(U + diag(s))·x."""
        lower, upper = self._factors()
        return _mix(x, self.permutation @ lower @ upper), self._log_det(x)

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """The inverse, by two triangular solves in float64."""
        lower, upper = (factor.double() for factor in self._factors())
        right = torch.linalg.solve_triangular(lower, self.permutation.double().T, upper=False, unitriangular=True)
        inverse = torch.linalg.solve_triangular(upper, right, upper=True)
        return _mix(z, inverse.to(z.dtype)), -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return (x.shape[-2] * x.shape[-1] * self.log_s.sum()).expand(x.shape[0])

    def extra_repr(self) -> str:
        """The number of channels."""
        return str(self.log_s.numel())
