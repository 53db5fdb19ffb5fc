"""The denoising networks: DnCNN, the U-Net of Noise2Noise with its levels sharing weights, and a small NAFNet."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Denoiser(nn.Module):
    """Base of the networks that a file can hold: noisy image in, clean image out, neither clipped.

    Attributes:
        channels: channels of the images.
        packing: order of those channels, as in `NoiseModel`.
        card: what is known about the network's training; plain JSON values.
        architecture: name and arguments that build the network again.
        size_multiple: what height and width must divide by.
    """

    size_multiple = 1

    def __init__(self, channels: int, packing: str | None) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels: expected at least 1, got {channels}")
        self.channels = channels
        self.packing = packing or {1: "mono", 3: "RGB", 4: "RGGB"}.get(channels, f"{channels} channels")
        self.card: dict[str, Any] = {}
        self.architecture: tuple[str, dict[str, Any]] = ("", {})

    def forward(self, noisy: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The clean image, in the units of the noisy one."""
        raise NotImplementedError

    @property
    def reach(self) -> int:
        """How far an output pixel sees, in pixels: no input pixel further away, along either axis, changes it."""
        raise NotImplementedError

    def parameter_count(self) -> int:
        """Number of trainable values."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def _check_size(self, noisy: Tensor) -> None:
        height, width = noisy.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"{type(self).__name__}: expected height and width to divide by {self.size_multiple}, "
                f"got {height}×{width}"
            )


class DnCNN(Denoiser):
    """x − net(x): conv → ReLU, depth − 2 times (conv → batch norm → ReLU), conv; all 3×3, `width` channels inside.

    Convolutions start orthogonal and without bias (but the first); batch norm's weights start normal with variance
    2/(9·width), clipped to ± 0.025, so that the network starts near the identity.

    Args:
        channels: 4 for packed raw, 3 for sRGB, 1 for mono.
        width: channels of the hidden layers.
        depth: number of convolutions, at least 2.
        packing: order of the channels where it is not this package's own.

    Source: Zhang, Zuo, Chen, Meng and Zhang 2017; 9 layers as in Maleky, Kousha, Brown and Brubaker 2022.

    Examples:
        >>> DnCNN(channels=4).parameter_count()
        263616
    """

    def __init__(self, channels: int = 4, width: int = 64, depth: int = 9, packing: str | None = None) -> None:
        super().__init__(channels, packing)
        if depth < 2:
            raise ValueError(f"depth: expected at least 2, got {depth}")
        if width < 1:
            raise ValueError(f"width: expected at least 1, got {width}")
        self.depth = depth
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=False))
        self.net = nn.Sequential(*layers)
        for layer in self.net:
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight)
            elif isinstance(layer, nn.BatchNorm2d):
                with torch.no_grad():
                    nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * width))).clamp_(-0.025, 0.025)
        arguments = {"channels": channels, "width": width, "depth": depth, "packing": packing}
        self.architecture = ("dncnn", arguments)

    @property
    def reach(self) -> int:
        """A pixel for each convolution."""
        return self.depth

    def forward(self, noisy: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The noisy image without the noise that the network finds in it."""
        found: Tensor = self.net(noisy)
        return noisy - found


class UNet(Denoiser):
    """Five levels down by max-pooling, five up by transposed convolutions, each joined with the level's own input.

    The four inner levels of the way down share one block, the three outer ones of the way up another. The last layer
    is a leaky ReLU with slope 0.1; nothing is subtracted from the input.

    Args:
        channels: 4 for packed raw, 3 for sRGB, 1 for mono.
        packing: order of the channels where it is not this package's own.

    Source: Lehtinen et al. 2018, Noise2Noise, appendix; with shared levels as in Maleky et al. 2022.

    Examples:
        >>> UNet(channels=4).parameter_count()
        701908
    """

    size_multiple = 32

    def __init__(self, channels: int = 4, packing: str | None = None) -> None:
        super().__init__(channels, packing)
        self.enter = nn.Sequential(*_conv(channels, 48), *_conv(48, 48), nn.MaxPool2d(2))
        self.down = nn.Sequential(*_conv(48, 48), nn.MaxPool2d(2))
        self.turn = nn.Sequential(*_conv(48, 48), _double(48))
        self.up_first = nn.Sequential(*_conv(96, 96), *_conv(96, 96), _double(96))
        self.up = nn.Sequential(*_conv(144, 96), *_conv(96, 96), _double(96))
        self.leave = nn.Sequential(
            *_conv(96 + channels, 64), *_conv(64, 32), nn.Conv2d(32, channels, 3, padding=1), nn.LeakyReLU(0.1)
        )
        self.architecture = ("unet", {"channels": channels, "packing": packing})

    @property
    def reach(self) -> int:
        """What the pixels that an output pixel sees span, for every place in a cell of 32, followed layer by layer."""
        return max(max(pixel - low, high - pixel) for pixel in range(32) for low, high in [self._seen_from(pixel)])

    @staticmethod
    def _seen_from(pixel: int) -> tuple[int, int]:
        """First and last input pixel, along an axis, that an output pixel sees through the coarsest level."""
        low, high = pixel - 3, pixel + 3  # three convolutions on the way out
        for _ in range(4):
            low, high = low // 2 - 2, -(-high // 2) + 2  # a doubling and two convolutions before it, going backwards
        low, high = low // 2 - 1, -(-high // 2) + 1  # the turn
        for convolutions in (1, 1, 1, 1, 2):
            low, high = 2 * low - convolutions, 2 * high + 1 + convolutions  # a pooling and what comes before it
        return low, high

    def forward(self, noisy: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The clean image.

        Raises:
            ValueError: height or width do not divide by 32.
        """
        self._check_size(noisy)
        levels = [noisy, self.enter(noisy)]
        for _ in range(4):
            levels.append(self.down(levels[-1]))
        x = self.turn(levels.pop())
        for block in (self.up_first, self.up, self.up, self.up):
            x = block(torch.cat((x, levels.pop()), dim=1))
        clean: Tensor = self.leave(torch.cat((x, levels.pop()), dim=1))
        return clean


def _conv(inside: int, out: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inside, out, 3, padding=1), nn.ReLU()


def _double(width: int) -> nn.Module:
    """A transposed convolution that doubles height and width."""
    return nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)


class NAFNet(Denoiser):
    """A U-shaped net of blocks without activation functions: noisy + net(noisy).

    An entering convolution; on the way down two levels of one block each, halved by a 2×2 convolution of stride 2 that
    doubles the channels; a block at the bottom; the same back up, by a 1×1 convolution and a pixel shuffle, each level
    added to the one of the way down. The last convolution starts at zero, so that the network starts as the identity.

    Attention averages over a window around each pixel instead of the whole image, in training as in use, 33×33 pixels
    of the image at every level: so a pixel sees finitely far, and tiles have no seams.

    Args:
        channels: 4 for packed raw, 3 for sRGB, 1 for mono.
        width: channels of the blocks at full resolution.
        packing: order of the channels where it is not this package's own.

    Source: Chen, Chu, Zhang and Sun 2022, Simple Baselines for Image Restoration; windows for averages over the whole
    image: Chu, Chen, Chen and Lu 2022.

    Examples:
        >>> NAFNet(channels=4).parameter_count()
        160732
    """

    size_multiple = 4

    def __init__(self, channels: int = 4, width: int = 24, packing: str | None = None) -> None:
        super().__init__(channels, packing)
        if width < 1:
            raise ValueError(f"width: expected at least 1, got {width}")
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.first, self.second, self.bottom = (_NAFBlock(width << level, 16 >> level) for level in range(3))
        self.down = nn.ModuleList(nn.Conv2d(width << level, width << level + 1, 2, stride=2) for level in range(2))
        self.up = nn.ModuleList(_shuffled(width << level + 1) for level in range(2))
        self.second_back, self.first_back = _NAFBlock(2 * width, 8), _NAFBlock(width, 16)
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)
        self.architecture = ("nafnet-small", {"channels": channels, "width": width, "packing": packing})

    @property
    def reach(self) -> int:
        """Convolutions and windows at their resolution; through a halving, the far end of a 4×4 cell is seen too."""
        full, half, quarter = (block.reach for block in (self.first, self.second, self.bottom))
        return 1 + 2 * full + 2 * (2 * half) + 4 * quarter + 1 + 3

    def forward(self, noisy: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The clean image.

        Raises:
            ValueError: height or width do not divide by 4.
        """
        self._check_size(noisy)
        full = self.first(self.enter(noisy))
        half = self.second(self.down[0](full))
        x = self.bottom(self.down[1](half))
        x = self.second_back(self.up[1](x) + half)
        x = self.first_back(self.up[0](x) + full)
        found: Tensor = self.leave(x)
        return noisy + found


class _NAFBlock(nn.Module):
    """Two residual parts: depthwise convolution, gate and attention; then a gated pair of 1×1 convolutions.

    Args:
        width: channels.
        radius: of the window that attention averages over, pixels.
    """

    def __init__(self, width: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.reach = 1 + radius
        self.norm1, self.norm2 = _ChannelNorm(width), _ChannelNorm(width)
        self.mix = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        )
        self.attend = nn.Conv2d(width, width, 1)
        self.out1, self.out2 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.scale1, self.scale2 = (nn.Parameter(torch.zeros(width, 1, 1)) for _ in range(2))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        gated = _gate(self.mix(self.norm1(x)))
        gated = gated * self.attend(_window_mean(gated, self.radius))
        x = x + self.scale1 * self.out1(gated)
        out: Tensor = x + self.scale2 * self.out2(_gate(self.widen(self.norm2(x))))
        return out


class _ChannelNorm(nn.Module):
    """Every pixel's channels to mean 0 and variance 1, then scaled and shifted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        centred = x - x.mean(dim=1, keepdim=True)
        return centred * (centred.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt() * self.weight + self.bias


def _gate(x: Tensor) -> Tensor:
    """The product of the two halves of the channels."""
    first, second = x.chunk(2, dim=1)
    return first * second


def _window_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the part of each pixel's window, 2·radius + 1 pixels wide, that lies inside the image."""
    for kernel in ((2 * radius + 1, 1), (1, 2 * radius + 1)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        x = nn.functional.avg_pool2d(x, kernel, stride=1, padding=padding, count_include_pad=False)
    return x


def _shuffled(width: int) -> nn.Module:
    """Doubles height and width and halves the channels."""
    return nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2))
