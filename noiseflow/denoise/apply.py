"""A denoiser applied to images as this package holds them, whatever order of channels its network saw."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.datasets.patches import tiles
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


@torch.no_grad()
def denoise_whole(
    network: Denoiser, noisy: Float[Tensor, "b c h w"], shot: Shot, *, tile: int | None = None
) -> Float[Tensor, "b c h w"]:
    """The clean images that a network in inference mode finds in noisy ones of any size, tile by tile.

    Images are padded by reflection to a multiple of the network's `size_multiple`. Tiles overlap by its `reach` and
    begin where its cells begin, so that there are no seams: what comes out is what the network makes of the whole image
    at once, to rounding, and only the memory of a tile is needed.

    Args:
        network: the denoiser, in inference mode.
        noisy: `(B, C, H, W)`, linear units.
        shot: as in `denoise`.
        tile: side of the part that a tile contributes; default 256, or twice the network's reach.

    Returns:
        Clean images, linear units, not clipped, in the network's dtype and on noisy's device.

    Raises:
        ValueError: a tile of less than one pixel, or as `denoise`.
    """
    multiple, height, width = network.size_multiple, *noisy.shape[-2:]
    padded = pad_to_multiple(noisy, multiple)
    bottom, right = padded.shape[-2:]
    overlap = -(-network.reach // multiple) * multiple
    side = max(256, 2 * network.reach) if tile is None else tile
    device, dtype = next(network.parameters()).device, next(network.parameters()).dtype
    # The network needs the pattern only; clean is never seen, and the padded image has no shot of its own.
    found = torch.empty(noisy.shape, dtype=dtype, device=noisy.device)
    for top, left, rows, columns in tiles((height, width), -(-side // multiple) * multiple):
        first_row, first_column = max(0, top - overlap), max(0, left - overlap)
        last_row = min(bottom, -(-(top + rows) // multiple) * multiple + overlap)
        last_column = min(right, -(-(left + columns) // multiple) * multiple + overlap)
        part = padded[..., first_row:last_row, first_column:last_column].to(device)
        clean = denoise(network, part, shot)
        inside = clean[..., top - first_row :, left - first_column :][..., :rows, :columns]
        found[..., top : top + rows, left : left + columns] = inside.to(found.device)
    return found


def pad_to_multiple(image: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c h2 w2"]:
    """Padded at the bottom and right, by reflection where the image is large enough, else by its border."""
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    mode = "reflect" if bottom < height and right < width else "replicate"
    return nn.functional.pad(image, (0, right, 0, bottom), mode=mode) if bottom or right else image
