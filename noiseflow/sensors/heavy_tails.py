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

from noiseflow.sensors.bands import middle
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
    # At rate 0 any electron is impossible, more so than any read noise is unlikely.
    log_rate = np.log(rate, out=np.full(rate.shape, NEVER), where=rate > 0)
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


class _Far(NamedTuple):
    """log P of a bounded part plus a Gaussian, d DN beyond the bound: −d²/2σ² and a spline over log d, nearly straight.

    At d the Gaussian takes the bounded part's outermost σ²/d DN alone, so that their own logarithm bends slowly.
    """

    gaussian_dn: float
    bound: float  # DN
    spline: interpolate.BSpline

    def __call__(self, x: FloatArray) -> FloatArray:
        """log P at x DN from the middle, beyond the bound."""
        d = x - self.bound
        out: FloatArray = self.spline(np.log(d)) - 0.5 * (d / self.gaussian_dn) ** 2
        return out


class _Profile(NamedTuple):
    """Splines of the log probability of a cell of one DN, and of log F, over x = unit·sinh(y/unit)."""

    unit: float
    support: float  # DN; beyond it the probability underflows, or `far` holds
    cell: interpolate.BSpline
    cdf: interpolate.BSpline
    far: tuple[_Far, _Far] | None  # of a cell, by its nearer end, and of F

    def interior(self, centre: FloatArray) -> FloatArray:
        """log[F(x + ½) − F(x − ½)]."""
        out = self._at(self.cell, centre)
        outside = np.abs(centre) > self.support
        out[outside] = NEVER if self.far is None else self.far[0](np.abs(centre[outside]) - 0.5)
        return out

    def tail(self, x: FloatArray) -> FloatArray:
        """log F(x)."""
        out = self._at(self.cdf, x)
        below = x < -self.support
        out[below] = NEVER if self.far is None else self.far[1](-x[below])
        out[x > self.support] = 0.0
        return np.minimum(out, 0.0)

    def _at(self, spline: interpolate.BSpline, x: FloatArray) -> FloatArray:
        out: FloatArray = spline(self.unit * np.arcsinh(np.clip(x, -self.support, self.support) / self.unit))
        return out


@functools.lru_cache(maxsize=16)
def _profile(read: ReadNoise, reach: float) -> _Profile:
    """Splines of degree 7 through the exact values, `_STEPS` knots a scale of the noise near 0, sparser far out."""
    scale = max(read.gaussian_dn, read.tukey_dn)
    support, far = reach, None
    if read.tukey_lambda > 0:
        scale = read.gaussian_dn
        bound = read.tukey_dn / read.tukey_lambda
        support = min(reach, bound + 36.0 * read.gaussian_dn + 0.5)
        if support < reach:
            far = _beyond(read, bound, support - 1.0, reach)
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
        far=far,
    )


def _beyond(read: ReadNoise, bound: float, start: float, end: float) -> tuple[_Far, _Far]:
    """log P of cells and of the open tail whose nearer end lies from `start` to `end` DN from the middle."""
    first = max(start - bound, 0.5 * read.gaussian_dn)
    y = np.linspace(math.log(first), math.log(end - bound), max(16, math.ceil(math.log((end - bound) / first) * 64)))
    d = np.exp(y)
    x = -(bound + d)
    ends = read.log_interval(x - 1.0, x), read.log_interval(np.full(x.shape, -np.inf), x)
    splines = [interpolate.make_interp_spline(y, end + 0.5 * (d / read.gaussian_dn) ** 2, k=_DEGREE) for end in ends]
    return _Far(read.gaussian_dn, bound, splines[0]), _Far(read.gaussian_dn, bound, splines[1])
