"""The denoising networks of the published work: DnCNN, and the U-Net of Noise2Noise with its levels sharing weights."""

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
        self.channels = channels
        self.packing = packing or {1: "mono", 3: "RGB", 4: "RGGB"}.get(channels, f"{channels} channels")
        self.card: dict[str, Any] = {}
        self.architecture: tuple[str, dict[str, Any]] = ("", {})

    def forward(self, noisy: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The clean image, in the units of the noisy one."""
        raise NotImplementedError

    def parameter_count(self) -> int:
        """Number of trainable values."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


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

    def forward(self, noisy: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The clean image.

        Raises:
            ValueError: height or width do not divide by 32.
        """
        height, width = noisy.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(f"U-Net: expected height and width to divide by 32, got {height}×{width}")
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
