"""The exact probability of a code: Poisson electrons, a gain, read noise, rounding and clip.

    P(c) = Σ_e Poisson(e; λ)·[F(c + ½ − K·e) − F(c − ½ − K·e)]

with λ the expected electrons, K the gain in DN per electron and F the CDF of the read noise in DN. The lowest cell
reaches to −∞ and the highest to +∞. Virtual sensors and the `physics` model share it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

_SPREAD = 11.0  # half width of a window of electrons in read-noise standard deviations: exp(-11²/2) < 1e-26
_SLACK = 8.0  # how far, in the same unit, the tabulated band reaches beyond a window centred on its code
_CERTAIN = 9.0  # where the normal CDF is 1 to double precision, standard deviations
_NEVER = -1e30  # stands for log 0: finite, so that differences of two of them are not NaN
_DARK_LOG_RATE = -1e5  # stands for the log of a rate of 0: every electron costs more than any read noise
_CHUNK = 1 << 19  # numbers held at a time

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PixelNoise:
    """What turns the expected electrons of a pixel into a code.

    Attributes:
        gain: K, DN per electron.
        read_noise: standard deviation of the read noise, DN.
        max_code: the highest code; the lowest is 0.
    """

    gain: float
    read_noise: float
    max_code: int

    def log_pmf(self, codes: IntArray, rate: FloatArray) -> FloatArray:
        """Exact log probability of codes, nats.

        Both factors of the sum are log-concave in e, so it is taken over a window around the peak of their product,
        found by Newton's method; the electrons that fill the highest cell with certainty enter as a Poisson tail.

        Args:
            codes: `(n,)`, 0 to `max_code`.
            rate: `(n,)`, expected electrons, >= 0.
        """
        table = _cell_table(self)
        out = np.empty(codes.shape)
        step = max(1, _CHUNK // table.window)
        for start in range(0, codes.size, step):
            part = slice(start, start + step)
            out[part] = table.log_pmf(codes[part], rate[part])
        return out


class _CellTable(NamedTuple):
    """The table log([F(upper) − F(lower)] / e!) of one sensor and ISO, for each code over a band of electrons."""

    gain: float  # DN per electron
    read_noise: float  # DN
    max_code: int
    half_window: float  # electrons
    window: int  # electrons in a window
    certain: int  # from this number of electrons on, the highest cell is certain
    first: IntArray  # (codes,), lowest electron of each band
    band: FloatArray  # (codes, width)

    def log_pmf(self, codes: IntArray, rate: FloatArray) -> FloatArray:
        """Log probabilities of `(n,)` codes at `(n,)` rates, n·window numbers in memory."""
        log_rate = np.full(rate.shape, _DARK_LOG_RATE)
        np.log(rate, out=log_rate, where=rate > 0)
        start = self._window_start(codes, log_rate)
        in_band = start - self.first[codes]
        tabulated = (in_band >= 0) & (in_band + self.window <= self.band.shape[1])
        windows = np.lib.stride_tricks.sliding_window_view(self.band.reshape(-1), self.window)
        terms = windows[np.where(tabulated, codes * self.band.shape[1] + in_band, 0)]
        if not tabulated.all():
            rest = ~tabulated
            electrons = start[rest, None] + np.arange(self.window)
            terms[rest] = self.cell(codes[rest, None], electrons)
        terms += np.arange(self.window) * log_rate[:, None]
        peak = terms.max(axis=1)
        terms -= peak[:, None]
        total: FloatArray = np.log(np.exp(terms, out=terms).sum(axis=1)) + peak + start * log_rate - rate
        top = codes == self.max_code
        if top.any():
            total[top] = np.logaddexp(total[top], _log_poisson_tail(self.certain, rate[top], log_rate[top]))
        return total

    def cell(self, codes: IntArray, electrons: IntArray) -> FloatArray:
        """Logarithm of [F(upper) − F(lower)] / e!, `_NEVER` where the Poisson tail takes over."""
        signal = self.gain * electrons
        lower = np.where(codes > 0, codes - 0.5 - signal, -np.inf) / self.read_noise
        upper = np.where(codes < self.max_code, codes + 0.5 - signal, np.inf) / self.read_noise
        # The normal CDF is used on its left side, where its logarithm is accurate.
        flip = lower + upper > 0
        lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
        log_upper = special.log_ndtr(upper)
        with np.errstate(divide="ignore"):
            mass: FloatArray = log_upper + np.log(-np.expm1(special.log_ndtr(lower) - log_upper))
        mass = np.maximum(mass - special.gammaln(electrons + 1.0), _NEVER)
        mass[np.broadcast_to((codes == self.max_code) & (electrons >= self.certain), mass.shape)] = _NEVER
        return mass

    def _window_start(self, codes: IntArray, log_rate: FloatArray) -> IntArray:
        """First electron of a window around the peak of Poisson(e; λ)·cell(e).

        With the cell as a Gaussian around c/K with variance s² and log Γ' ≈ log(e + ½), the peak solves
        u + s²·log u = c/K + ½ + s²·log λ for u = e + ½. In v = log u the left side is convex and rising, and
        Newton's method descends to the root from any point right of it.
        """
        variance = (self.read_noise / self.gain) ** 2
        centre = _code_edge(codes, self.max_code) / self.gain
        target = centre + 0.5 + variance * log_rate
        v = np.minimum(np.log(np.maximum(target, 1.0)), target / variance)
        for _ in range(6):
            u = np.exp(v)
            v -= (u + variance * v - target) / (u + variance)
        peak = np.exp(v) - 0.5
        peak = np.where(codes == self.max_code, np.minimum(peak, self.certain), peak)
        start: IntArray = np.maximum(np.floor(peak - self.half_window), 0.0).astype(np.int64)
        return start


def _code_edge(codes: IntArray, max_code: int) -> FloatArray:
    """Middle of a cell, DN; for the two open cells the edge that they have."""
    return np.clip(codes, 0.5, max_code - 0.5)


@functools.lru_cache(maxsize=16)
def _cell_table(pixel: PixelNoise) -> _CellTable:
    gain, read_noise = pixel.gain, pixel.read_noise
    spread = read_noise / gain
    half_window = _SPREAD * spread + 1.0 / gain + 2.0
    reach = half_window + _SLACK * spread
    codes = np.arange(pixel.max_code + 1)
    centre = _code_edge(codes, pixel.max_code) / gain
    table = _CellTable(
        gain=gain,
        read_noise=read_noise,
        max_code=pixel.max_code,
        half_window=half_window,
        window=2 * math.ceil(half_window) + 1,
        certain=math.ceil(centre[-1] + _CERTAIN * spread),
        first=np.maximum(np.floor(centre - reach), 0.0).astype(np.int64),
        band=np.empty((0, 0)),
    )
    electrons = table.first[:, None] + np.arange(2 * math.ceil(reach) + 1)
    return table._replace(band=table.cell(codes[:, None], electrons))


def _log_poisson_tail(first: int, rate: FloatArray, log_rate: FloatArray) -> FloatArray:
    """Logarithm of P(e >= first), e ~ Poisson(rate), also where the probability itself underflows."""
    tail = special.gammainc(first, rate)
    with np.errstate(divide="ignore"):
        out: FloatArray = np.log(tail)
    deep = tail < 1e-280
    if deep.any():
        # P = Poisson(first)·(1 + λ/(first + 1) + λ²/((first + 1)(first + 2)) + …); so deep in the tail λ is
        # far below `first`, and the terms fall fast.
        ratio = rate[deep]
        term, total = np.ones_like(ratio), np.ones_like(ratio)
        for k in range(1, 400):
            term = term * (ratio / (first + k))
            total += term
        out[deep] = first * log_rate[deep] - ratio - special.gammaln(first + 1.0) + np.log(total)
    return out
