"""Whether a noisy and a clean image belong together: which of the two is noisier, and how far they are apart.

Both tests say something only where the images leave no doubt; on a sound pair they say nothing, however dark,
noisy or textured it is.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from noiseflow.raw.cfa import unpack

Image = NDArray[np.float64]

SWAPPED_RATIO = 1.5
"""A clean image with that many times the fine energy of the noisy one is the noisy one."""

_WINDOW = 256  # pixels; what is looked at of large images, at up to nine places
_BLOCK = 8
_FEWEST_BLOCKS = 12
_FLATTEST = 0.25
_USABLE = (0.005, 0.95)  # block means, linear units: away from the clip ends, where noise is cut off

_FARTHEST = 24  # pixels
_SMOOTHING = 2.0  # standard deviation of what counts as coarse, pixels
_OUTLIER = 3.0  # robust standard deviations that a pixel may weigh
_SIGMAS = 7.0


def fine_energy_ratio(noisy: Image, clean: Image, lsb: Image) -> float:
    """Energy of the finest detail in the clean image over that in the noisy one, where the scene is flattest.

    The detail is d = x(i,j) − x(i,j+1) − x(i+1,j) + x(i+1,j+1). Noise adds 4σ² to its energy, and the flattest
    quarter of the blocks, flat in either image, has little else. Rounding to codes is allowed for.

    Args:
        noisy: `(C, H, W)`, linear units.
        clean: `(C, H, W)`, linear units.
        lsb: `(C,)`, code width in linear units; 0: not quantised.

    Returns:
        At most about 1 for a sound pair; 0 where too few blocks are away from the clip ends.
    """
    noisies, cleans = [], []
    for window in _windows(noisy.shape):
        blocks = [_blocks(_detail(image[window]) ** 2).mean(-1) for image in (noisy, clean)]
        means = [_blocks(image[window][:, :-1, :-1]).mean(-1) for image in (noisy, clean)]
        usable = np.all([(mean > _USABLE[0]) & (mean < _USABLE[1]) for mean in means], axis=0)
        noisies.append((blocks[0] + lsb[:, None] ** 2)[usable])  # variance 4/12 of each, and some to spare
        cleans.append(blocks[1][usable])
    a, b = np.concatenate(noisies), np.concatenate(cleans)
    if a.size < _FEWEST_BLOCKS:
        return 0.0
    flattest = np.argsort(np.minimum(a, b))[: max(_FEWEST_BLOCKS, round(_FLATTEST * a.size))]
    energy = float(a[flattest].sum())
    return float(b[flattest].sum()) / energy if energy > 0 else 0.0


def displacement(noisy: Image, clean: Image, cfa: str | None) -> tuple[int, int] | None:
    """How far the clean image lies from where the noisy one has it, if that is beyond doubt.

    Both images are brought to the square root (which evens out shot noise), freed of coarse structure, divided
    by their robust spread and clipped; their cross-correlation then peaks where they fit. For a sound pair the
    expected peak is at zero (rearrangement inequality: both are increasing functions of one signal), so a peak
    elsewhere is believed only if it is higher by seven standard deviations of what chance does. By Bartlett
    (1935) a chance correlation has the variance v = Σ ρ₁ρ₂ / N, ρ₁ and ρ₂ being the two autocorrelations; the
    difference of those at lags l and 0 has about 2 v (1 − ρ₂(l)).

    Args:
        noisy: `(C, H, W)`, linear units.
        clean: `(C, H, W)`, linear units.
        cfa: pattern of the mosaic that was packed, or None.

    Returns:
        Rows and columns, in pixels of the mosaic or picture; None where the two fit or nothing can be said.
    """
    reach = min(_FARTHEST, min(noisy.shape[1:]) // 4)
    total = variance = np.zeros((2 * reach + 1, 2 * reach + 1))
    for window in _windows(noisy.shape):
        first, second = (_flattened(image[window], cfa) for image in (noisy, clean))
        scale = math.sqrt(float((first**2).sum() * (second**2).sum()))
        if scale == 0:
            continue
        one, two = scipy.fft.rfft2(first), scipy.fft.rfft2(second)
        correlation = scipy.fft.irfft2(np.conj(one) * two, s=first.shape) / scale
        powers = [scipy.fft.irfft2(np.abs(f) ** 2, s=first.shape) for f in (one, two)]
        own = [_near(power / power[0, 0], reach) for power in powers]
        variance = variance + 2 * max(float((own[0] * own[1]).sum()), 1.0) / first.size * (1 - own[1])
        total = total + _near(correlation, reach)
    row, column = (int(n) for n in np.unravel_index(int(np.argmax(total)), total.shape))
    gain = float(total[row, column] - total[reach, reach])
    if gain <= _SIGMAS * math.sqrt(max(float(variance[row, column]), 0.0)):
        return None
    return row - reach, column - reach


def _windows(shape: tuple[int, ...]) -> list[tuple[slice, slice, slice]]:
    """Up to 3×3 squares, spread evenly; the whole image where it is smaller."""
    places = []
    for side in shape[1:]:
        count = min(3, max(1, side // _WINDOW))
        room = max(side - _WINDOW, 0)
        places.append([slice(start, start + _WINDOW) for start in np.linspace(0, room, count).astype(int)])
    return [(slice(None), rows, columns) for rows in places[0] for columns in places[1]]


def _detail(image: Image) -> Image:
    return image[:, :-1, :-1] - image[:, :-1, 1:] - image[:, 1:, :-1] + image[:, 1:, 1:]


def _blocks(image: Image) -> Image:
    """`(C, H, W)` to `(C, N, 64)`: whole blocks of 8×8, what is left over at the ends dropped."""
    channels, rows, columns = image.shape[0], image.shape[1] // _BLOCK, image.shape[2] // _BLOCK
    cut = image[:, : rows * _BLOCK, : columns * _BLOCK].reshape(channels, rows, _BLOCK, columns, _BLOCK)
    return cut.transpose(0, 1, 3, 2, 4).reshape(channels, rows * columns, _BLOCK * _BLOCK)


def _flattened(image: Image, cfa: str | None) -> Image:
    """`(H, W)`: fine structure, each channel in units of its robust spread; the mosaic where there is one."""
    root = np.sqrt(np.clip(image, 0.0, 1.0))
    fine = root - ndimage.gaussian_filter(root, (0, _SMOOTHING, _SMOOTHING))
    spread = 1.4826 * np.median(np.abs(fine), axis=(1, 2), keepdims=True)
    spread = np.where(spread > 0, spread, np.maximum(fine.std(axis=(1, 2), keepdims=True), 1e-12))
    even = np.clip(fine / spread, -_OUTLIER, _OUTLIER)
    flat: Image = even.mean(axis=0) if cfa is None else unpack(even, cfa)
    return flat


def _near(correlation: Image, reach: int) -> Image:
    """Lags of at most `reach`, zero in the middle."""
    rolled: Image = np.roll(correlation, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    return rolled
