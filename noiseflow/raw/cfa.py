"""Bayer mosaics as four colour planes, and the crops and mirrors that keep the pattern.

A packed frame has the channels R, G on the R rows, G on the B rows, B, whatever pattern the sensor has. One
packed pixel is one 2×2 cell of the mosaic; cell (0, 0) lies at mosaic row 0, column 0.

Mirroring each packed plane on its own is *not* the mirror of the picture: it leaves the four pixels of a cell
in their order while the cells change theirs, so that an edge becomes a zigzag and neighbours end up three
pixels apart. The mirrors here reverse the mosaic and crop one line at either end, which brings every colour
back to its place; `mirror_packed` does the same to packed frames without unpacking them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noiseflow.shot import CFA_PATTERNS

Array = TypeVar("Array", Tensor, NDArray[Any])


def sites(cfa: str) -> tuple[tuple[int, int], ...]:
    """Row and column, in the 2×2 cell, of each packed channel.

    Args:
        cfa: RGGB, BGGR, GRBG or GBRG: the cell read row by row.

    Raises:
        ValueError: another pattern.

    Examples:
        >>> sites("GRBG")
        ((0, 1), (0, 0), (1, 1), (1, 0))
    """
    if cfa not in CFA_PATTERNS:
        raise ValueError(f"cfa: expected one of {', '.join(CFA_PATTERNS)}, got {cfa!r}")
    row, column = divmod(cfa.index("R"), 2)
    return (row, column), (row, 1 - column), (1 - row, column), (1 - row, 1 - column)


def pack(mosaic: Array, cfa: str) -> Array:
    """Mosaic `(…, H, W)` to packed `(…, 4, H/2, W/2)`; a tensor or a numpy array, any dtype, copied.

    Args:
        mosaic: `(…, H, W)`, H and W even.
        cfa: pattern of the mosaic's top-left cell.

    Returns:
        `(…, 4, H/2, W/2)`: R, G on the R rows, G on the B rows, B.

    Raises:
        ValueError: odd sides, fewer than two dimensions, or an unknown pattern.

    Examples:
        >>> pack(torch.tensor([[1, 2], [3, 4]]), "BGGR").flatten().tolist()
        [4, 3, 2, 1]
    """
    if mosaic.ndim < 2 or mosaic.shape[-2] % 2 or mosaic.shape[-1] % 2:
        raise ValueError(f"mosaic: expected (…, H, W) with even H and W, got {tuple(mosaic.shape)}")
    planes = [mosaic[..., row::2, column::2] for row, column in sites(cfa)]
    if isinstance(mosaic, Tensor):
        return torch.stack(planes, dim=-3)
    return np.stack(planes, axis=-3)


def unpack(packed: Array, cfa: str) -> Array:
    """Packed `(…, 4, h, w)` to mosaic `(…, 2h, 2w)`: the exact inverse of `pack`.

    Args:
        packed: `(…, 4, h, w)`: R, G on the R rows, G on the B rows, B.
        cfa: pattern of the mosaic to be made.

    Raises:
        ValueError: the channel dimension is not 4, or the pattern is unknown.
    """
    if packed.ndim < 3 or packed.shape[-3] != 4:
        raise ValueError(f"packed: expected (…, 4, h, w), got {tuple(packed.shape)}")
    shape = (*packed.shape[:-3], 2 * packed.shape[-2], 2 * packed.shape[-1])
    mosaic = packed.new_empty(shape) if isinstance(packed, Tensor) else np.empty(shape, packed.dtype)
    for channel, (row, column) in enumerate(sites(cfa)):
        mosaic[..., row::2, column::2] = packed[..., channel, :, :]
    return mosaic


def to_clockwise_transposed(packed: Tensor, cfa: Sequence[str]) -> Tensor:
    """Packed frames as the published raw noise flows saw them: the planes of the transposed mosaic, clockwise.

    Channel k holds the pixels at (0, 0), (0, 1), (1, 1), (1, 0) of the cells of the mosaic with rows and columns
    exchanged, whatever colours they are: those of the sensor's cells at (0, 0), (1, 0), (1, 1), (0, 1).

    Args:
        packed: `(B, 4, h, w)`: R, G on the R rows, G on the B rows, B.
        cfa: pattern of each row's sensor.

    Returns:
        `(B, 4, w, h)`.
    """
    rows = torch.arange(len(packed), device=packed.device)[:, None]
    return packed[rows, _clockwise(cfa).to(packed.device)].transpose(-1, -2)


def from_clockwise_transposed(planes: Tensor, cfa: Sequence[str]) -> Tensor:
    """The exact inverse of `to_clockwise_transposed`.

    Args:
        planes: `(B, 4, w, h)`.
        cfa: pattern of each row's sensor.

    Returns:
        `(B, 4, h, w)`: R, G on the R rows, G on the B rows, B.
    """
    rows = torch.arange(len(planes), device=planes.device)[:, None]
    return planes.transpose(-1, -2)[rows, _clockwise(cfa).argsort(dim=1).to(planes.device)]


def _clockwise(cfa: Sequence[str]) -> Tensor:
    """`(B, 4)`: the packed channel of each plane of `to_clockwise_transposed`."""
    channels = [[sites(name).index(site) for site in _CLOCKWISE_TRANSPOSED] for name in cfa]
    return torch.tensor(channels, dtype=torch.int64).reshape(-1, 4)


_CLOCKWISE_TRANSPOSED = ((0, 0), (1, 0), (1, 1), (0, 1))


def crop(mosaic: Array, top: int, left: int, height: int, width: int) -> Array:
    """A rectangle of a mosaic `(…, H, W)` that begins on a whole cell, so that the pattern stays.

    Args:
        mosaic: `(…, H, W)`.
        top: first row, even.
        left: first column, even.
        height: rows, even.
        width: columns, even.

    Returns:
        `(…, height, width)`, a view.

    Raises:
        ValueError: an odd number, or a rectangle that leaves the mosaic.
    """
    if any(value % 2 for value in (top, left, height, width)):
        raise ValueError(
            f"crop: expected an even rectangle, so that the pattern stays, got row {top}, column {left}, "
            f"size {height}×{width}"
        )
    rows, columns = mosaic.shape[-2:]
    if min(top, left, height, width) < 0 or top + height > rows or left + width > columns:
        raise ValueError(
            f"crop: expected a rectangle inside {rows}×{columns}, got row {top}, column {left}, size {height}×{width}"
        )
    return mosaic[..., top : top + height, left : left + width]


def mirror(mosaic: Array, *, vertical: bool = False, horizontal: bool = False) -> Array:
    """The mirrored mosaic without its first and last line, so that the pattern stays.

    Reversing an even number of lines moves every colour by one line; without the outer two the colours are
    where they were: line i of the result is line n − 2 − i of the mosaic, which has i's parity.

    Args:
        mosaic: `(…, H, W)`, H and W even.
        vertical: turn the rows round (top becomes bottom).
        horizontal: turn the columns round (left becomes right).

    Returns:
        `(…, H − 2·vertical, W − 2·horizontal)`.

    Raises:
        ValueError: odd sides.
    """
    if mosaic.ndim < 2 or mosaic.shape[-2] % 2 or mosaic.shape[-1] % 2:
        raise ValueError(f"mosaic: expected (…, H, W) with even H and W, got {tuple(mosaic.shape)}")
    inner = mosaic[..., 1:-1, :] if vertical else mosaic
    inner = inner[..., 1:-1] if horizontal else inner
    axes = _flipped_axes(vertical, horizontal)
    return inner.flip(axes) if isinstance(inner, Tensor) else np.flip(inner, axes)


def mirror_packed(packed: Array, cfa: str, *, vertical: bool = False, horizontal: bool = False) -> Array:
    """`mirror` of packed frames: equals `pack(mirror(unpack(packed, cfa)), cfa)`.

    A colour in the first line of its cell loses the first cell, one in the second line the last cell; then
    the plane is reversed.

    Args:
        packed: `(…, 4, h, w)`.
        cfa: pattern of the sensor.
        vertical: turn the rows round.
        horizontal: turn the columns round.

    Returns:
        `(…, 4, h − vertical, w − horizontal)`.

    Raises:
        ValueError: the channel dimension is not 4, or the pattern is unknown.
    """
    if packed.ndim < 3 or packed.shape[-3] != 4:
        raise ValueError(f"packed: expected (…, 4, h, w), got {tuple(packed.shape)}")
    planes = []
    for channel, (row, column) in enumerate(sites(cfa)):
        plane = packed[..., channel, :, :]
        if vertical:
            plane = plane[..., :-1, :] if row else plane[..., 1:, :]
        if horizontal:
            plane = plane[..., :-1] if column else plane[..., 1:]
        planes.append(plane)
    axes = _flipped_axes(vertical, horizontal)
    if isinstance(packed, Tensor):
        return torch.stack(planes, dim=-3).flip(axes)
    return np.flip(np.stack(planes, axis=-3), axes)


def _flipped_axes(vertical: bool, horizontal: bool) -> tuple[int, ...]:
    return ((-2,) if vertical else ()) + ((-1,) if horizontal else ())
