"""Several resolutions in one flow: half of the channels leave early, under a Gaussian that the other half predicts.

Glow takes the halves that leave out of the flow and scores each under its own prior. Here they stay where they are,
standardised by that prior: the density is the same, base space has the shape of the image and is N(0, 1) throughout,
and a multi-scale flow is a `Transform` like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from noiseflow.shot import Shot
from noiseflow.transforms.base import Chain, Squeeze, Transform, Unsqueeze


class Split(Transform):
    """z_b = (x_b − μ) · exp(−s) with (μ, s) = conv(x_a), z_a = x_a; log_det = −Σ s.

    x_a is the first half of the channels, which a flow goes on with (`OnFirst`); x_b is finished here. If z_b is
    N(0, 1), then x_b given x_a is N(μ, exp(s)²): the learned prior. The convolution is 3×3 and starts at zero, so the
    split starts as the identity.

    Args:
        channels: channels of x, at least 2.

    Source: Kingma and Dhariwal 2018, section 3.4 and table 1; Dinh, Sohl-Dickstein and Bengio 2017, section 3.6.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"split: expected at least 2 channels, got {channels}")
        self.kept = channels - channels // 2
        self.prior = nn.Conv2d(self.kept, 2 * (channels - self.kept), 3, padding=1)
        nn.init.zeros_(self.prior.weight)
        nn.init.zeros_(self.prior.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x_b → (x_b − μ)·exp(−s)."""
        z, log_std = self._forward(x)
        return z, -log_std.sum(dim=(1, 2, 3))

    def forward_map(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x_b → (x_b − μ)·exp(−s), with −Σ s of every pixel."""
        z, log_std = self._forward(x)
        return z, -log_std.sum(dim=1)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, leaving = x[:, : self.kept], x[:, self.kept :]
        mean, log_std = self.prior(kept).chunk(2, dim=1)
        return torch.cat((kept, (leaving - mean) * (-log_std).exp()), dim=1), log_std

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z_b → exp(s)·z_b + μ."""
        kept, leaving = z[:, : self.kept], z[:, self.kept :]
        mean, log_std = self.prior(kept).chunk(2, dim=1)
        return torch.cat((kept, leaving * log_std.exp() + mean), dim=1), log_std.sum(dim=(1, 2, 3))

    def __repr__(self) -> str:
        return f"Split(kept={self.kept})"


class OnFirst(Transform):
    """A transform of the first channels only; the others pass unchanged. log_det is the inner one's.

    Args:
        channels: how many channels the inner transform sees.
        inner: the transform; its output has the shape of its input.
    """

    def __init__(self, channels: int, inner: Transform) -> None:
        super().__init__()
        self.channels = channels
        self.inner = inner

    @property
    def size_multiple(self) -> int:  # type: ignore[override]
        """The inner transform's."""
        return self.inner.size_multiple

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """The first channels → inner(them)."""
        z, log_det = self.inner(x[:, : self.channels], shot)
        return torch.cat((z, x[:, self.channels :]), dim=1), log_det

    def forward_map(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """The first channels → inner(them), with the inner transform's shares."""
        z, share = self.inner.forward_map(x[:, : self.channels], shot)
        return torch.cat((z, x[:, self.channels :]), dim=1), share

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """The first channels → inner⁻¹(them)."""
        x, log_det = self.inner.inverse(z[:, : self.channels], shot)
        return torch.cat((x, z[:, self.channels :]), dim=1), log_det

    def initialize(self, x: Tensor, shot: Shot) -> None:
        """Initialise the inner transform on the first channels."""
        self.inner.initialize(x[:, : self.channels], shot)

    def __repr__(self) -> str:
        return f"OnFirst({self.channels}, {self.inner!r})"


def multi_scale(channels: int, levels: int, steps: Callable[[int], Sequence[Transform]]) -> Chain:
    """Squeeze, steps, split, and so on with the half that is kept, `levels` times; the last level does not split.

    Args:
        channels: channels of the image.
        levels: number of resolutions L, at least 1; height and width must divide by 2^L.
        steps: returns a level's steps, given the channels it works on; called finest level first.

    Returns:
        A chain from images to a base space of the same shape.

    Source: Dinh, Sohl-Dickstein and Bengio 2017, section 3.6; Kingma and Dhariwal 2018, figure 2b.

    Examples:
        >>> from noiseflow.transforms import ActNorm
        >>> multi_scale(1, 2, lambda channels: [ActNorm(channels)])
        Chain(
          Squeeze(2)
          ActNorm(4)
          Split(kept=2)
          OnFirst(2, Chain(
            Squeeze(2)
            ActNorm(8)
            Unsqueeze(2)
          ))
          Unsqueeze(2)
        )
    """
    if levels < 1:
        raise ValueError(f"levels: expected at least 1, got {levels}")
    squeezed = 4 * channels
    layers: list[Transform] = [Squeeze(2), *steps(squeezed)]
    if levels > 1:
        split = Split(squeezed)
        layers += [split, OnFirst(split.kept, multi_scale(split.kept, levels - 1, steps))]
    return Chain([*layers, Unsqueeze(2)])
