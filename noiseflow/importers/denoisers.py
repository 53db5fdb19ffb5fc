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
        width, channels = variables.shape(DNCNN)[:2]
        depth = 2 + sum(name.endswith(".running_mean") for name in variables)
        network = DnCNN(channels, width, depth, _packing(channels))
        names = {key: f"dncnn.{key.removeprefix('net.')}" for key in network.state_dict()}
    else:
        channels = variables.shape(UNET)[1]
        network = UNet(channels, _packing(channels))
        ours = {mine: theirs for theirs, mine in _UNET_BLOCKS.items()}
        names = {key: f"{ours[key.split('.')[0]]}.{key.split('.', 1)[1]}" for key in network.state_dict()}
    with torch.no_grad():
        for key, value in network.state_dict().items():
            value.copy_(variables.take(names[key], *value.shape))
    variables.finish()
    network.card = {"imported": {"model": network.architecture[0]} | CARD}
    return network.eval()


def _packing(channels: int) -> str | None:
    """What the released networks saw: raw ones the flow's own planes, sRGB ones B G R."""
    return {4: "clockwise, transposed", 3: "BGR"}.get(channels)
