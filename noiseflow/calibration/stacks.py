"""Frames of one unchanging scene, divided into what stays and what changes from frame to frame.

A pixel of frame k at row i, column j reads

    y = fixed_ij + frame_k + row_ki + column_kj + noise_kij

The mean over frames takes out all that is fixed (scene, sensitivity, offsets of pixels), means over rows and columns
of what is left tell the shared offsets from the noise of pixels. Every variance below is unbiased whatever the scene.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from noiseflow.calibration.frames import Codes, FloatArray, FrameSet

TILE = 16
"""Wanted side of a tile, pixels of one colour."""

_MOST_TILES = 16  # a side


class Lines(NamedTuple):
    """What the rows (or columns) of frames share.

    Attributes:
        variance: mean square over frames of the deviation of a line's mean, DN²: that of the offset it shares plus
            `noise / length`.
        dof: degrees of freedom of it.
        by_line: `(lines,)`, the sum of squares of each line; their sum is variance · dof.
        length: pixels of a line.
    """

    variance: float
    dof: int
    by_line: FloatArray
    length: int


class Stack(NamedTuple):
    """Statistics of N >= 2 frames of one scene.

    Attributes:
        frames: N.
        mean: `(C, rows, columns)`, mean of each tile, DN.
        variance: `(C, rows, columns)`, temporal variance of a pixel within each tile, row and column offsets apart,
            DN².
        dof: `(rows, columns)`, degrees of freedom of each tile.
        lowest, highest: `(C, rows, columns)`, extreme codes of each tile.
        noise: variance of a pixel over the whole frame, row and column offsets apart, DN².
        rows, columns: what sensor rows and columns share.
        frame_means: `(N, C)`, DN.
        spatial: variance over a frame of the pixels' means over frames, minus what the noise leaves in them, pooled
            over channels: that of the fixed pattern, DN².
    """

    frames: int
    mean: FloatArray
    variance: FloatArray
    dof: FloatArray
    lowest: FloatArray
    highest: FloatArray
    noise: float
    rows: Lines
    columns: Lines
    frame_means: FloatArray
    spatial: float


def stack_statistics(stack: Codes, frames: FrameSet) -> Stack:
    """Divide frames of one scene into variances.

    Args:
        stack: `(N, H, W)`, N >= 2, DN.
        frames: what they belong to, for the colour filters.
    """
    count, height, width = stack.shape
    codes = stack.astype(np.float32)
    fixed = codes.mean(axis=0, dtype=np.float64)
    rest = np.subtract(codes, fixed, out=np.empty_like(codes), casting="same_kind")  # no copy in float64
    by_frame = rest.mean(axis=(1, 2), dtype=np.float64)
    rows = rest.mean(axis=2, dtype=np.float64) - by_frame[:, None]
    columns = rest.mean(axis=1, dtype=np.float64) - by_frame[:, None]

    planes = frames.planes(rest)
    inner = planes - planes.mean(axis=-1, keepdims=True) - planes.mean(axis=-2, keepdims=True)
    inner += planes.mean(axis=(-2, -1), keepdims=True)
    squares = np.square(inner, out=inner).sum(axis=0, dtype=np.float64)
    h, w = squares.shape[-2:]
    across = tile_edges(h), tile_edges(w)
    area = np.outer(np.diff(across[0]), np.diff(across[1])).astype(np.float64)
    dof = area * (count - 1) * (1 - 1 / h) * (1 - 1 / w)
    variance = tile_sums(squares, across) / dof
    colours = frames.planes(fixed)
    noise = float((variance * dof).sum() / (dof.sum() * len(variance)))
    spatial = float(colours.var(axis=(-2, -1), ddof=1).mean())
    line_variance = _lines(rows, width), _lines(columns, height)
    left = noise + sum(max(line.variance - noise / line.length, 0.0) for line in line_variance)
    packed = frames.planes(codes)
    return Stack(
        frames=count,
        mean=tile_sums(colours, across) / area,
        variance=variance,
        dof=dof,
        lowest=_tile_extremes(np.minimum, packed.min(axis=0), across),
        highest=_tile_extremes(np.maximum, packed.max(axis=0), across),
        noise=noise,
        rows=line_variance[0],
        columns=line_variance[1],
        frame_means=packed.mean(axis=(-2, -1), dtype=np.float64),
        spatial=spatial - left / count,
    )


def _lines(deviation: FloatArray, length: int) -> Lines:
    frames, lines = deviation.shape
    by_line = np.square(deviation).sum(axis=0)
    dof = (frames - 1) * (lines - 1)
    return Lines(float(by_line.sum()) / dof, dof, by_line, length)


def tile_edges(size: int) -> list[int]:
    """Edges of tiles of about `TILE` pixels, at least one and at most 16, that cover `size` pixels."""
    tiles = min(max(size // TILE, 1), _MOST_TILES)
    return [round(edge) for edge in np.linspace(0, size, tiles + 1)]


def tile_sums(values: FloatArray, edges: tuple[list[int], list[int]]) -> FloatArray:
    """Sums over tiles: `(…, h, w)` to `(…, rows, columns)`."""
    rows = np.add.reduceat(values, edges[0][:-1], axis=-2)
    out: FloatArray = np.add.reduceat(rows, edges[1][:-1], axis=-1)
    return out


def _tile_extremes(extreme: np.ufunc, values: FloatArray, edges: tuple[list[int], list[int]]) -> FloatArray:
    rows = extreme.reduceat(values, edges[0][:-1], axis=-2)
    out: FloatArray = extreme.reduceat(rows, edges[1][:-1], axis=-1).astype(np.float64)
    return out
