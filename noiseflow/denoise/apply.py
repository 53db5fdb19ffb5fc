"""A denoiser applied to images as this package holds them, whatever order of channels its network saw."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from noiseflow.denoise.networks import Denoiser
from noiseflow.raw.cfa import from_clockwise_transposed, to_clockwise_transposed
from noiseflow.shot import Shot


def denoise(network: Denoiser, noisy: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b c h w"]:
    """The clean images that a network finds in noisy ones, not clipped.

    Args:
        network: the denoiser; in training mode, its batch norms take the batch's statistics.
        noisy: `(B, C, H, W)`, linear units, packed as this package packs.
        shot: gives the colour filter pattern of every row, where the network's own packing needs it.

    Returns:
        Clean images, linear units, in noisy's order of channels and in the network's dtype.

    Raises:
        ValueError: the network needs a pattern that is not known.
    """
    image = noisy.to(next(network.parameters()).dtype)
    found: Tensor
    if network.packing == "clockwise, transposed":
        found = from_clockwise_transposed(network(to_clockwise_transposed(image, shot.patterns)), shot.patterns)
    elif network.packing == "BGR":
        found = network(image.flip(1)).flip(1)
    else:
        found = network(image)
    return found
