"""What every invertible layer guarantees, and how layers are put in a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.noise_level import NoiseLevel
from noiseflow.shot import Shot


class Transform(nn.Module):
    """A bijection between noise and base space, given a shot.

    An implementer guarantees, for every `Shot` and in float32 and float64:

    - `forward` maps noise towards base space and `inverse` undoes it; both return `(value, log_det)`, log_det
      being log |det Jacobian| of the map just taken, `(B,)`, in nats, summed over C·H·W, in the input's dtype and
      on its device.
    - No row of the output depends on another row, and neither call changes any state.
    - Any height and width that `size_multiple` divides, square or not.
    - State that depends on data is set by `initialize` alone, once, and is saved with the parameters.
    """

    size_multiple: int = 1
    """What height and width must divide by."""

    def forward(self, x: Float[Tensor, "b c h w"], shot: Shot) -> tuple[Tensor, Float[Tensor, "b"]]:
        """Noise → base space."""
        raise NotImplementedError

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Float[Tensor, "b"]]:
        """Base space → noise."""
        raise NotImplementedError

    def forward_map(self, x: Float[Tensor, "b c h w"], shot: Shot) -> tuple[Tensor, Float[Tensor, "b h w"]]:
        """Noise → base space, with the log_det as shares of x's pixels that add up to it.

        Layers whose scale differs from pixel to pixel say so; the others share it out evenly.
        """
        z, log_det = self(x, shot)
        height, width = x.shape[-2:]
        return z, (log_det / (height * width))[:, None, None].expand(-1, height, width)

    def initialize(self, x: Tensor, shot: Shot) -> None:
        """Set data-dependent state from a batch, unless that was done before. Called once, by training."""

    def start_from(self, level: NoiseLevel) -> None:
        """Begin training where the noise has this noise level; most layers have nothing to take over."""


class Chain(Transform):
    """Transforms in a row, applied in order from noise to base space.

    Args:
        transforms: the layers; the first sees the noise.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(transforms)

    def __iter__(self) -> Iterator[Transform]:
        for layer in self.layers:
            assert isinstance(layer, Transform)
            yield layer

    @property
    def size_multiple(self) -> int:  # type: ignore[override]
        """The product of the squeezes met on the way."""
        multiple, factor = 1, 1
        for layer in self:
            factor = factor * layer.size_multiple
            if isinstance(layer, Unsqueeze):
                factor //= layer.factor
            multiple = max(multiple, factor)
        return multiple

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """Noise → base space, first layer first."""
        total = x.new_zeros(x.shape[0])
        for layer in self:
            x, log_det = layer(x, shot)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """Base space → noise, last layer first."""
        total = z.new_zeros(z.shape[0])
        for layer in reversed(list(self)):
            z, log_det = layer.inverse(z, shot)
            total = total + log_det
        return z, total

    def forward_map(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """Noise → base space, with shares of the log_det at the resolution of x."""
        total = x.new_zeros(x.shape[0], *x.shape[-2:])
        for layer in self:
            z, share = layer.forward_map(x, shot)
            total = total + at_resolution(share, total)
            x = z
        return x, total

    def initialize(self, x: Tensor, shot: Shot) -> None:
        """Initialise every layer on what the layers before it make of the batch."""
        with torch.no_grad():
            for layer in self:
                layer.initialize(x, shot)
                x, _ = layer(x, shot)

    def __repr__(self) -> str:
        lines = ["  " + repr(layer).replace("\n", "\n  ") for layer in self]
        return "Chain(\n" + "\n".join(lines) + "\n)"


class Squeeze(Transform):
    """Space to channels: every factor × factor block of a channel becomes factor² channels. log_det = 0.

    Args:
        factor: side of the block, pixels.

    Source: Dinh, Sohl-Dickstein and Bengio 2017, section 3.6.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.size_multiple = factor

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """`(B, C, H, W)` → `(B, C·f², H/f, W/f)`."""
        return _blocks_to_channels(x, self.factor), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """`(B, C·f², H/f, W/f)` → `(B, C, H, W)`."""
        return _channels_to_blocks(z, self.factor), z.new_zeros(z.shape[0])

    def extra_repr(self) -> str:
        """The factor."""
        return str(self.factor)


class Unsqueeze(Transform):
    """Channels to space, the inverse of `Squeeze`. log_det = 0.

    Args:
        factor: side of the block, pixels.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """`(B, C·f², H, W)` → `(B, C, f·H, f·W)`."""
        return _channels_to_blocks(x, self.factor), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """`(B, C, f·H, f·W)` → `(B, C·f², H, W)`."""
        return _blocks_to_channels(z, self.factor), z.new_zeros(z.shape[0])

    def extra_repr(self) -> str:
        """The factor."""
        return str(self.factor)


def at_resolution(share: Float[Tensor, "b h w"], like: Float[Tensor, "b h2 w2"]) -> Float[Tensor, "b h2 w2"]:
    """Shares of blocks as shares of their pixels, or the other way round; the sum stays."""
    if share.shape[-1] > like.shape[-1]:
        factor = share.shape[-1] // like.shape[-1]
        return nn.functional.avg_pool2d(share, factor) * factor**2
    factor = like.shape[-1] // max(share.shape[-1], 1)
    if factor == 1:
        return share
    return share.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1) / factor**2


def _blocks_to_channels(x: Tensor, factor: int) -> Tensor:
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"squeeze: expected height and width to divide by {factor}, got {height}×{width}")
    return nn.functional.pixel_unshuffle(x, factor)


def _channels_to_blocks(x: Tensor, factor: int) -> Tensor:
    return nn.functional.pixel_shuffle(x, factor)
