"""A rough calibration from pictures of anything, one each: noise and mean of their flattest blocks.

Flat blocks picked by their own variance would show too little noise: the pick takes the blocks in which chance made it
small. Here each block is a checkerboard of two halves whose noise is independent. Half A says whether the block is
flat, half B alone gives mean and noise, so that the pick cannot know it. Texture that A cannot see still adds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from noiseflow.calibration.frames import Codes, FloatArray, FrameSet
from noiseflow.calibration.transfer import Points, fit_line

SIDE = 16
"""Pixels of one colour along a block."""

_LEVELS = 12  # ranges of brightness, in each of which the flattest blocks are the first choice
_FIRST = 0.1  # of the blocks in a range
_TURNS = 8
_FEWEST = 12  # blocks of a channel
_SPREAD = 2.0  # standard deviations of A's variance above the line up to which a block is flat
# Squares of diagonal second differences go together where these overlap: each is worth 1 / Σ ρ² of one on its own.
_WORTH = 1 / (1 + 2 * ((2 / 3) ** 2 + (1 / 6) ** 2))


def flattest_blocks(singles: Sequence[Codes], frames: FrameSet, black: FloatArray, high: float) -> Points:
    """The flat blocks of 16×16 pixels of one colour, as points of a photon-transfer curve.

    A block is flat where the variance of its half A about a plane is at most 2 standard deviations above what the
    line of variance over mean, fitted to halves B of flat blocks, has for it. The first choice is the tenth with the
    smallest variance of A in each of twelve ranges of brightness; choice and line are then found in turns, for each
    channel.

    Args:
        singles: `(H, W)` each, DN.
        frames: what they belong to, for the colour filters.
        black: `(C,)`, taken off the means.
        high: code at which the sensor saturates; blocks that reach it, or code 0, are left out.
    """
    columns: list[list[FloatArray]] = [[] for _ in range(5)]
    for number, single in enumerate(singles):
        for channel, plane in enumerate(frames.planes(single.astype(np.float64))):
            block = _cut(plane)
            block = block[(block.max(axis=(1, 2)) < high) & (block.min(axis=(1, 2)) > 0)]
            if len(block) < _FEWEST:
                continue
            rows, across = np.indices((SIDE, SIDE))
            half = (rows + across) % 2 == 0
            texture = _about_plane(block[:, half], rows[half], across[half])
            variance, dof = _diagonal_noise(block, ~half)
            mean = block[:, ~half].mean(axis=1) - black[channel]
            points = _flat(Points(mean, variance, np.full(mean.size, dof), np.full(mean.size, float(channel)),
                                  np.full(mean.size, float(number))), texture)  # fmt: skip
            parts = (points.mean, points.variance, points.dof, points.channel, points.stack)
            for column, value in zip(columns, parts, strict=True):
                column.append(value)
    return Points(*(np.concatenate([*column, np.zeros(0)]) for column in columns))


def _cut(plane: FloatArray) -> FloatArray:
    h, w = (size // SIDE for size in plane.shape)
    tiles = plane[: h * SIDE, : w * SIDE].reshape(h, SIDE, w, SIDE)
    return tiles.transpose(0, 2, 1, 3).reshape(h * w, SIDE, SIDE)


def _diagonal_noise(block: FloatArray, half: NDArray[np.bool_]) -> tuple[FloatArray, float]:
    """Variance of a pixel, `(blocks,)`, from second differences along diagonals, whose pixels all lie in one half."""
    second = (block[:, :-2, :-2] - 2 * block[:, 1:-1, 1:-1] + block[:, 2:, 2:]) / math.sqrt(6)
    there = half[1:-1, 1:-1]
    return np.square(second[:, there]).mean(axis=1), float(there.sum()) * _WORTH


def _about_plane(pixels: FloatArray, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> FloatArray:
    """Variance of pixels `(blocks, n)` about the plane that fits each block best."""
    design = np.linalg.qr(np.stack([np.ones(rows.size), rows, columns], axis=1))[0]
    left = pixels - (pixels @ design) @ design.T
    out: FloatArray = np.square(left).sum(axis=1) / (rows.size - 3)
    return out


def _flat(points: Points, texture: FloatArray) -> Points:
    """Those points whose half A, of variance `texture`, is flat."""
    ranges = np.searchsorted(np.quantile(points.mean, np.linspace(0, 1, _LEVELS + 1)[1:-1]), points.mean)
    chosen = np.zeros(points.mean.size, bool)
    for k in range(_LEVELS):
        members = np.flatnonzero(ranges == k)
        chosen[members[np.argsort(texture[members])[: math.ceil(_FIRST * members.size)]]] = True
    allowed = 1 + _SPREAD * math.sqrt(2 / (SIDE**2 / 2 - 3))
    for _ in range(_TURNS):
        line = fit_line(points.only(chosen))
        if line is None:
            break
        again = texture <= allowed * (line.intercept + line.slope * points.mean)
        if again.sum() < _FEWEST or (again == chosen).all():
            break
        chosen = again
    return points.only(chosen)
