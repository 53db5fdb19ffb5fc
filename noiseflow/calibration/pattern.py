"""What differs between pixels for good: their sensitivity (PRNU), their offsets, and those that are hot or jump."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from noiseflow.calibration.frames import Codes, FloatArray, FrameSet
from noiseflow.calibration.laws import root
from noiseflow.calibration.profile import Estimate

_LOCAL = 15  # pixels of one colour that give the local mean
_BANDS = 24
_HOT = 8.0  # standard deviations of the read noise above the black level
_JUMPS = 6.0  # times the temporal standard deviation of the others


class _Product(NamedTuple):
    """Sum over pairs of different frames of the products of their high-passed pixels, by band of rows."""

    sums: FloatArray
    pixels: FloatArray
    weight: float


def sensitivity(frames: FrameSet, black: FloatArray, high: float) -> Estimate | None:
    """PRNU: relative standard deviation of the pixels' sensitivity, from the flats of one ISO.

    Second differences along rows, D, of every flat over its local mean take out shading; products of *different*
    frames have no share of the noise:

        prnu² = Σ_{f≠g} w_f w_g D_f D_g / Σ_{f≠g} w_f w_g,   w = 1 / relative variance of a pixel

    less what pixels' own offsets add, which the same sum over darks gives. The interval is that of bands of rows.

    Args:
        frames: two flats at least.
        black: `(C,)`, DN.
        high: code at which the sensor saturates; flats that come near it are left out.

    Returns:
        None without flats.
    """
    passed, weights, offsets = [], [], []
    for flat in (frame for pair in frames.flats for frame in pair):
        if flat.max() >= high:
            continue
        planes: NDArray[np.float32] = frames.planes(flat.astype(np.float32))
        planes = planes - black[:, None, None].astype(np.float32)
        local = ndimage.uniform_filter(planes, (0, _LOCAL, _LOCAL), mode="nearest")
        if local.min() <= 0:
            continue
        passed.append(_second_difference(planes / local))
        weights.append(1.0 / float(np.square(passed[-1]).mean(dtype=np.float64)))
        offsets.append(float((1.0 / local).mean()))
    if len(passed) < 2:
        return None
    weight = np.array(weights) / max(weights)
    product = _products(passed, weight)
    by_band = product.sums / (product.pixels * product.weight)
    value = float(product.sums.sum() / (product.pixels.sum() * product.weight))
    error = float(np.std(by_band, ddof=1)) / math.sqrt(by_band.size)
    if len(frames.darks) > 1:
        dark = _products([_second_difference(frames.planes(dark.astype(np.float32))) for dark in frames.darks])
        level = np.array(offsets) * weight
        share = float(level.sum() ** 2 - (level**2).sum()) / product.weight
        value -= share * float(dark.sums.sum() / (dark.pixels.sum() * dark.weight))
    return root(value, error * float(stats.t.ppf(0.975, by_band.size - 1)) / 1.96)


def _second_difference(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    out: NDArray[np.float32] = (planes[..., :-2] - 2 * planes[..., 1:-1] + planes[..., 2:]) / np.float32(math.sqrt(6))
    return out


def _products(frames: list[NDArray[np.float32]], weight: FloatArray | None = None) -> _Product:
    weight = np.ones(len(frames)) if weight is None else weight
    total = np.zeros(frames[0].shape)
    squares = np.zeros(frames[0].shape)
    for frame, w in zip(frames, weight, strict=True):
        total += w * frame
        squares += w**2 * np.square(frame)
    product = (np.square(total) - squares).sum(axis=(0, 2))
    rows = product.size
    edges = np.unique(np.linspace(0, rows, min(_BANDS, max(rows // 4, 2)) + 1).astype(int))[:-1]
    pixels = np.add.reduceat(np.full(rows, total.size / rows), edges)
    return _Product(np.add.reduceat(product, edges), pixels, float(weight.sum() ** 2 - (weight**2).sum()))


class OddPixels(NamedTuple):
    """Pixels unlike the others, as (row, column) of the mosaic.

    Attributes:
        hot: `(n, 2)`, their mean over dark frames lies far above the others'.
        jumping: `(n, 2)`, they change from frame to frame far more than the others, as those do that switch between
            levels (random telegraph signal).
    """

    hot: NDArray[np.int64]
    jumping: NDArray[np.int64]


def odd_pixels(darks: Codes, black: FloatArray, noise: float, frames: FrameSet) -> OddPixels:
    """Find hot and jumping pixels in dark frames.

    Hot: the mean over frames is more than 8 σ above the black level. Jumping: the standard deviation over N frames is
    more than 6 σ, or where few frames let normal noise reach that in one pixel of a frame, more than it ever does.

    Args:
        darks: `(N, H, W)`, N >= 2.
        black: `(C,)`, DN.
        noise: σ², variance of a pixel, DN².
        frames: for the colour filters.
    """
    count, height, width = darks.shape
    codes = darks.astype(np.float32)
    level = np.zeros((height, width))
    cells = frames.planes(np.arange(height * width).reshape(height, width))
    for channel, value in enumerate(black):
        level.ravel()[cells[channel].ravel()] = value
    hot = codes.mean(axis=0) - level > _HOT * math.sqrt(noise)
    rare = stats.chi2.isf(0.01 / (height * width), count - 1) / (count - 1)
    jumping = codes.var(axis=0, ddof=1) > max(_JUMPS**2, 2 * float(rare)) * noise
    return OddPixels(np.argwhere(hot), np.argwhere(jumping))
