"""The released denoisers: plain state dicts, or the `denoiser.*` of a Noise2NoiseFlow checkpoint."""

from __future__ import annotations

import torch

from noiseflow.denoise import Denoiser, DnCNN, UNet
from noiseflow.importers.variables import Variables

PREFIX = "denoiser."
DNCNN, UNET = "dncnn.0.weight", "_block1.0.weight"

CARD = {
    "source": "Maleky, Kousha, Brown and Brubaker, Noise2NoiseFlow, CVPR 2022; weights released by its authors",
    "licence": "CC BY-NC 4.0",
}

_UNET_BLOCKS = {"_block1": "enter", "_block2": "down", "_block3": "turn", "_block4": "up_first", "_block5": "up",
                "_block6": "leave"}  # fmt: skip


def convert(variables: Variables) -> Denoiser:
    """Build the network whose tensors these are, all of them."""
    network: Denoiser
    if DNCNN in variables:
        width, channels = _shape(variables, DNCNN)[:2]
        numbers = [name.split(".")[1] for name in variables if name.startswith("dncnn.")]
        last = max(int(number) for number in numbers if number.isdecimal())
        depth = 2 - (2 - last) // 3  # convolutions 0, 2, 5, 8, …
        network = DnCNN(channels, width, depth, _packing(channels))
        names = {key: f"dncnn.{key.removeprefix('net.')}" for key in network.state_dict()}
    else:
        channels = _shape(variables, UNET)[1]
        network = UNet(channels, _packing(channels))
        ours = {mine: theirs for theirs, mine in _UNET_BLOCKS.items()}
        names = {key: f"{ours[key.split('.')[0]]}.{key.split('.', 1)[1]}" for key in network.state_dict()}
    with torch.no_grad():
        for key, value in network.state_dict().items():
            value.copy_(variables.take(names[key], *value.shape))
    variables.finish()
    network.card = {"imported": {"model": network.architecture[0]} | CARD}
    return network.eval()


def _shape(variables: Variables, name: str) -> tuple[int, ...]:
    shape = variables.shape(name)
    if len(shape) != 4 or 0 in shape:
        variables.refuse(name, f"should be the kernel of a convolution, has the shape {shape}")
    return shape


def _packing(channels: int) -> str | None:
    """What the released networks saw: raw ones the flow's own planes, sRGB ones B G R."""
    return {4: "clockwise, transposed", 3: "BGR"}.get(channels)
