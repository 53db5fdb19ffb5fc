"""Couplings: one half of the channels shifts the other, and scales it where the coupling is affine."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.shot import Shot
from noiseflow.transforms.base import Transform


class _Coupling(Transform):
    """What the couplings share: which channels drive, which change, and the network between them."""

    parameters_per_value: int
    """Maps that the network returns for every changed channel."""

    def __init__(self, channels: int, hidden: int, *, context: int = 0, swap: bool = False, kernel: int = 3) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"coupling: expected at least 2 channels, got {channels}")
        self.kept = channels - channels // 2 if swap else channels // 2
        self.swap = swap
        self.context = context
        last = nn.Conv2d(hidden, self.parameters_per_value * (channels - self.kept), kernel, padding=kernel // 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.net = nn.Sequential(
            nn.Conv2d(self.kept + context, hidden, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            last,
        )

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.swap:
            return x[:, -self.kept :], x[:, : -self.kept]
        return x[:, : self.kept], x[:, self.kept :]

    def _join(self, kept: Tensor, changed: Tensor) -> Tensor:
        return torch.cat((changed, kept) if self.swap else (kept, changed), dim=1)

    def _predict(self, kept: Tensor, shot: Shot) -> Tensor:
        seen = kept
        if self.context:
            if shot.context is None:
                raise ValueError("coupling: expected shot.context, which the flow that owns this layer sets")
            seen = torch.cat((kept, context_at(kept, shot.context).to(kept.dtype)), dim=1)
        predicted: Tensor = self.net(seen)
        return predicted

    def extra_repr(self) -> str:
        """What drives what."""
        first = self.net[0]
        assert isinstance(first, nn.Conv2d)
        return f"kept={self.kept}, context={self.context}, hidden={first.out_channels}, swap={self.swap}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class AffineCoupling(_Coupling):
    """z_b = exp(s) · x_b + t with (s, t) = net(x_a, context), z_a = x_a; log_det = Σ s.

    The network is conv 3×3 → ReLU → conv 1×1 → ReLU → conv 3×3; its last layer starts at zero, so the coupling starts
    as the identity. s is bounded by ± 2 (2·tanh(·/2)), which keeps both directions stable.

    Args:
        channels: channels of x, at least 2.
        hidden: channels of the hidden layers.
        context: channels of `shot.context` that the network sees beside x_a, counted at x's own resolution (a squeezed
            x sees the context squeezed alike); 0 for none.
        swap: let the second half of the channels drive the first.
        kernel: side of the first and the last convolution, odd.

    Source: Dinh, Sohl-Dickstein and Bengio 2017, section 3.2.
    """

    parameters_per_value = 2

    def _scale_and_shift(self, kept: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        raw, shift = self._predict(kept, shot).chunk(2, dim=1)
        return 2 * torch.tanh(raw / 2), shift

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x_b → exp(s)·x_b + t."""
        z, log_scale = self._forward(x, shot)
        return z, log_scale.sum(dim=(1, 2, 3))

    def forward_map(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x_b → exp(s)·x_b + t, with Σ s of every pixel."""
        z, log_scale = self._forward(x, shot)
        return z, log_scale.sum(dim=1)

    def _forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        kept, changed = self._split(x)
        log_scale, shift = self._scale_and_shift(kept, shot)
        return self._join(kept, changed * log_scale.exp() + shift), log_scale

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z_b → (z_b − t)·exp(−s)."""
        kept, changed = self._split(z)
        log_scale, shift = self._scale_and_shift(kept, shot)
        return self._join(kept, (changed - shift) * (-log_scale).exp()), -log_scale.sum(dim=(1, 2, 3))


class AdditiveCoupling(_Coupling):
    """z_b = x_b + net(x_a, context), z_a = x_a; log_det = 0.

    The network and the arguments are those of `AffineCoupling`; it too starts as the identity. Volume is preserved: a
    `DiagonalScale` after the couplings is what lets a flow of them change it.

    Source: Dinh, Krueger and Bengio 2014, section 3.2.
    """

    parameters_per_value = 1

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x_b → x_b + net(x_a)."""
        kept, changed = self._split(x)
        return self._join(kept, changed + self._predict(kept, shot)), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z_b → z_b − net(z_a)."""
        kept, changed = self._split(z)
        return self._join(kept, changed - self._predict(kept, shot)), z.new_zeros(z.shape[0])


def context_at(x: Float[Tensor, "b c h w"], context: Float[Tensor, "b f h2 w2"]) -> Tensor:
    """The context at x's resolution: blocks of pixels become channels where x was squeezed."""
    factor = context.shape[-1] // max(x.shape[-1], 1)
    return context if factor == 1 else nn.functional.pixel_unshuffle(context, factor)
