"""Sums over electrons where the read noise is Gaussian: windows of a table, one row of it a cell.

A cell is an interval of the signal in DN that the converter writes as one code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from noiseflow.sensors.read_noise import NEVER, FloatArray, IntArray, log_normal_interval

_SPREAD = 11.0  # half width of a window of electrons in read-noise standard deviations: exp(-11²/2) < 1e-26
_SLACK = 8.0  # how far, in the same unit, the tabulated band reaches beyond a window centred on its code
_CERTAIN = 9.0  # where the normal CDF is 1 to double precision, standard deviations
_DARK_LOG_RATE = -1e5  # stands for the log of a rate of 0: every electron costs more than any read noise
_NO_ELECTRON = 1 << 40  # more electrons than any pixel has


def log_of_rate(rate: FloatArray) -> FloatArray:
    """log λ; where λ is 0, a finite number so low that it decides."""
    log_rate = np.full(rate.shape, _DARK_LOG_RATE)
    np.log(rate, out=log_rate, where=rate > 0)
    return log_rate


def middle(lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Middle of each cell, DN; of an open cell the edge that it has."""
    return 0.5 * (np.where(np.isinf(lower), upper, lower) + np.where(np.isinf(upper), lower, upper))


class Bands(NamedTuple):
    """The table log([F(upper) − F(lower)] / e!), for each cell over a band of electrons."""

    gain: float  # DN per electron
    read_noise: float  # DN
    lower: FloatArray  # (cells,), DN
    upper: FloatArray  # (cells,), DN
    half_window: float  # electrons
    window: int  # electrons in a window
    sure_below: IntArray  # (cells,), up to this number of electrons a cell that is open below is certain; −1: never
    sure_above: IntArray  # (cells,), from this number of electrons on a cell that is open above is certain
    first: IntArray  # (cells,), lowest electron of each band
    band: FloatArray  # (cells, width)

    def log_pmf(self, index: IntArray, rate: FloatArray) -> FloatArray:
        """Log probabilities of the cells `index` `(n,)` at `(n,)` rates, n·window numbers in memory."""
        log_rate = log_of_rate(rate)
        start = self._window_start(index, log_rate)
        in_band = start - self.first[index]
        tabulated = (in_band >= 0) & (in_band + self.window <= self.band.shape[1])
        windows = np.lib.stride_tricks.sliding_window_view(self.band.reshape(-1), self.window)
        terms = windows[np.where(tabulated, index * self.band.shape[1] + in_band, 0)]
        if not tabulated.all():
            rest = ~tabulated
            electrons = start[rest, None] + np.arange(self.window)
            terms[rest] = self.cell(index[rest, None], electrons)
        terms += np.arange(self.window) * log_rate[:, None]
        peak = terms.max(axis=1)
        terms -= peak[:, None]
        total: FloatArray = np.log(np.exp(terms, out=terms).sum(axis=1)) + peak + start * log_rate - rate
        above = np.isinf(self.upper[index])
        if above.any():
            first = self.sure_above[index[above]]
            total[above] = np.logaddexp(total[above], _log_poisson_tail(first, rate[above], log_rate[above]))
        below = self.sure_below[index] >= 0
        if below.any():
            last = self.sure_below[index[below]]
            total[below] = np.logaddexp(total[below], _log_poisson_head(last, rate[below], log_rate[below]))
        return total

    def cell(self, index: IntArray, electrons: IntArray) -> FloatArray:
        """Logarithm of [F(upper) − F(lower)] / e!, `NEVER` where the sums of certain electrons take over."""
        signal = self.gain * electrons
        mass = log_normal_interval(
            (self.lower[index] - signal) / self.read_noise, (self.upper[index] - signal) / self.read_noise
        )
        mass = np.maximum(mass - special.gammaln(electrons + 1.0), NEVER)
        mass[(electrons >= self.sure_above[index]) | (electrons <= self.sure_below[index])] = NEVER
        return mass

    def _window_start(self, index: IntArray, log_rate: FloatArray) -> IntArray:
        """First electron of a window around the peak of Poisson(e; λ)·cell(e).

        With the cell as a Gaussian around c/K with variance s² and log Γ' ≈ log(e + ½), the peak solves
        u + s²·log u = c/K + ½ + s²·log λ for u = e + ½. In v = log u the left side is convex and rising, and
        Newton's method descends to the root from any point right of it.
        """
        variance = (self.read_noise / self.gain) ** 2
        centre = middle(self.lower[index], self.upper[index]) / self.gain
        target = centre + 0.5 + variance * log_rate
        v = np.minimum(np.log(np.maximum(target, 1.0)), target / variance)
        for _ in range(6):
            u = np.exp(v)
            v -= (u + variance * v - target) / (u + variance)
        peak = np.exp(v) - 0.5
        peak = np.clip(peak, self.sure_below[index], self.sure_above[index])
        start: IntArray = np.maximum(np.floor(peak - self.half_window), 0.0).astype(np.int64)
        return start


def bands(gain: float, read_noise: float, lower: FloatArray, upper: FloatArray) -> Bands:
    """The table of some cells.

    Args:
        gain: DN per electron.
        read_noise: standard deviation, DN.
        lower: `(cells,)`, DN, −inf where open.
        upper: `(cells,)`, DN, inf where open.
    """
    spread = read_noise / gain
    half_window = _SPREAD * spread + 1.0 / gain + 2.0
    reach = half_window + _SLACK * spread
    centre = middle(lower, upper) / gain
    sure_above = np.where(np.isinf(upper), np.maximum(np.ceil(centre + _CERTAIN * spread), 0.0), _NO_ELECTRON)
    sure_below = np.where(np.isinf(lower), np.maximum(np.floor(centre - _CERTAIN * spread), -1.0), -1.0)
    table = Bands(
        gain=gain,
        read_noise=read_noise,
        lower=lower,
        upper=upper,
        half_window=half_window,
        window=2 * math.ceil(half_window) + 1,
        sure_below=sure_below.astype(np.int64),
        sure_above=sure_above.astype(np.int64),
        first=np.maximum(np.floor(centre - reach), 0.0).astype(np.int64),
        band=np.empty((0, 0)),
    )
    electrons = table.first[:, None] + np.arange(2 * math.ceil(reach) + 1)
    return table._replace(band=table.cell(np.arange(lower.size)[:, None], electrons))


def _log_poisson_tail(first: IntArray, rate: FloatArray, log_rate: FloatArray) -> FloatArray:
    """Logarithm of P(e >= first), e ~ Poisson(rate), also where the probability itself underflows."""
    tail = np.where(first > 0, special.gammainc(np.maximum(first, 1), rate), 1.0)
    with np.errstate(divide="ignore"):
        out: FloatArray = np.log(tail)
    deep = tail < 1e-280
    if deep.any():
        # P = Poisson(first)·(1 + λ/(first + 1) + λ²/((first + 1)(first + 2)) + …); so deep in the tail λ is
        # far below `first`, and the terms fall fast.
        start, ratio = first[deep], rate[deep]
        term, total = np.ones_like(ratio), np.ones_like(ratio)
        for k in range(1, 400):
            term = term * (ratio / (start + k))
            total += term
        out[deep] = start * log_rate[deep] - ratio - special.gammaln(start + 1.0) + np.log(total)
    return out


def _log_poisson_head(last: IntArray, rate: FloatArray, log_rate: FloatArray) -> FloatArray:
    """Logarithm of P(e <= last), last >= 0, e ~ Poisson(rate), also where the probability itself underflows."""
    head = special.gammaincc(last + 1.0, rate)
    with np.errstate(divide="ignore"):
        out: FloatArray = np.log(head)
    deep = head < 1e-280
    if deep.any():
        # P = Poisson(last)·(1 + last/λ + last·(last − 1)/λ² + …); λ is far above `last` there.
        start, ratio = last[deep], rate[deep]
        term, total = np.ones_like(ratio), np.ones_like(ratio)
        for k in range(400):
            term = term * (np.maximum(start - k, 0) / ratio)
            total += term
        out[deep] = start * log_rate[deep] - ratio - special.gammaln(start + 1.0) + np.log(total)
    return out
