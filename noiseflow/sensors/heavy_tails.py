"""Sums over electrons where the read noise has a Tukey-lambda part.

Its tails are heavier than Poisson's, so that the product of the two need not have one peak. The sum is taken over all
electrons that could matter: since the cell's probability never exceeds 1, electrons outside a window that holds all
but P·10⁻¹¹ of the Poisson distribution add less than that to P.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import interpolate, special

from noiseflow.sensors.bands import log_of_rate, middle
from noiseflow.sensors.read_noise import NEVER, FloatArray, IntArray, ReadNoise

_NEGLIGIBLE = 25.0  # exp(−25) ~ 1e-11
_AT_ONCE = 1024  # pixels
_CHUNK = 1 << 19  # numbers held at a time
_STEPS = 16  # knots a scale of the noise
_DEGREE = 7


def heavy_log_pmf(
    gain: float, read: ReadNoise, lower: FloatArray, upper: FloatArray, index: IntArray, rate: FloatArray
) -> FloatArray:
    """Log probabilities of cells, nats.

    Args:
        gain: DN per electron.
        read: the read noise.
        lower: `(cells,)`, DN, −inf where open.
        upper: `(cells,)`, DN, inf where open; one DN above `lower` where neither is.
        index: `(n,)`, which cell each pixel fell into.
        rate: `(n,)`, expected electrons, >= 0.
    """
    first, stop = _windows(gain, read, lower[index], upper[index], rate)
    log_rate = log_of_rate(rate)
    out = np.empty(index.shape)
    order = np.lexsort((rate, index))
    start = 0
    while start < order.size:
        part = order[start : start + _AT_ONCE]
        width = int(stop[part].max() - first[part].min())
        part = part[: max(1, _CHUNK // width)]
        electrons = np.arange(first[part].min(), stop[part].max())
        cells, row = np.unique(index[part], return_inverse=True)
        table = _log_cell(gain, read, lower[cells, None], upper[cells, None], electrons)
        table -= special.gammaln(electrons + 1.0)
        terms = table[row]
        terms += electrons * log_rate[part, None]
        peak = terms.max(axis=1)
        terms -= peak[:, None]
        out[part] = np.log(np.exp(terms, out=terms).sum(axis=1)) + peak - rate[part]
        start += part.size
    return out


def _windows(
    gain: float, read: ReadNoise, lower: FloatArray, upper: FloatArray, rate: FloatArray
) -> tuple[IntArray, IntArray]:
    """The electrons that matter to each pixel, from `first` to before `stop`.

    P is at least its term at e ≈ λ; Poisson's tails beyond λ ± w are below exp(−w²/(2λ + ⅔w)) (Bernstein's inequality).
    Where that term is next to nothing the window ends beyond both λ and the cell.
    """
    centre = np.maximum(middle(lower, upper) / gain, 0.0)
    at_rate = _log_cell(gain, read, lower, upper, np.floor(rate))
    budget = _NEGLIGIBLE + 1.0 + 0.5 * np.log(2 * math.pi * (rate + 1.0)) - at_rate
    half = budget / 3 + np.sqrt(budget**2 / 9 + 2 * budget * rate)
    enough = 80.0 / 3 + np.sqrt(80.0**2 / 9 + 160.0 * np.maximum(rate, centre)) + 40.0 * read.std / gain
    first = np.maximum(np.maximum(rate - half, np.minimum(rate, centre) - enough), 0.0)
    stop = np.minimum(rate + half, np.maximum(rate, centre) + enough) + 2.0
    return np.floor(first).astype(np.int64), np.ceil(stop).astype(np.int64)


def _log_cell(gain: float, read: ReadNoise, lower: FloatArray, upper: FloatArray, electrons: FloatArray) -> FloatArray:
    """log[F(upper − K·e) − F(lower − K·e)], broadcast; `NEVER` or lower where it is 0."""
    low, high = np.broadcast_arrays(lower - gain * electrons, upper - gain * electrons)
    if read.gaussian_dn == 0 and read.tukey_lambda > 0:  # no smooth function, but a closed one
        return np.maximum(read.log_interval(low, high), NEVER)
    below, above = np.isinf(low), np.isinf(high)
    # The noise is symmetric: 1 − F(x) = F(−x).
    place = np.where(below, high, np.where(above, -low, -np.abs(low + 0.5)))
    reach = float(2.0 ** math.ceil(math.log2(np.abs(place).max(initial=1.0) + 1.0)))
    profile = _profile(read, reach)
    open_end = below | above
    if not open_end.any():
        return profile.interior(place)
    out = np.empty(place.shape)
    out[open_end] = profile.tail(place[open_end])
    out[~open_end] = profile.interior(place[~open_end])
    return out


class _Profile(NamedTuple):
    """Splines of the log probability of a cell of one DN, and of log F, over x = unit·sinh(y/unit)."""

    unit: float
    support: float  # beyond it, DN, the probability underflows
    cell: interpolate.BSpline
    cdf: interpolate.BSpline

    def interior(self, centre: FloatArray) -> FloatArray:
        """log[F(x + ½) − F(x − ½)]."""
        return self._at(self.cell, centre, NEVER)

    def tail(self, x: FloatArray) -> FloatArray:
        """log F(x)."""
        return np.minimum(self._at(self.cdf, x, NEVER, 0.0), 0.0)

    def _at(self, spline: interpolate.BSpline, x: FloatArray, left: float, right: float = NEVER) -> FloatArray:
        out: FloatArray = spline(self.unit * np.arcsinh(np.clip(x, -self.support, self.support) / self.unit))
        out[x < -self.support], out[x > self.support] = left, right
        return out


@functools.lru_cache(maxsize=16)
def _profile(read: ReadNoise, reach: float) -> _Profile:
    """Splines of degree 7 through the exact values, `_STEPS` knots a scale of the noise near 0, sparser far out."""
    scale = max(read.gaussian_dn, read.tukey_dn)
    support = reach
    if read.tukey_lambda > 0:
        scale = read.gaussian_dn
        support = min(reach, read.tukey_dn / read.tukey_lambda + 36.0 * read.gaussian_dn)
    unit = max(20.0 * scale, 2.0)
    if read.tukey_lambda > 0:
        unit = max(unit, support)  # the tail of a bounded part falls as fast as the Gaussian's: no sparser knots
    end = unit * math.asinh(support / unit)
    y = np.linspace(-end, end, 2 * max(_DEGREE, math.ceil(end * _STEPS / scale)) + 1)
    x = unit * np.sinh(y / unit)
    return _Profile(
        unit=unit,
        support=support,
        cell=interpolate.make_interp_spline(y, read.log_interval(x - 0.5, x + 0.5), k=_DEGREE),
        cdf=interpolate.make_interp_spline(y, read.log_interval(np.full(x.shape, -np.inf), x), k=_DEGREE),
    )
