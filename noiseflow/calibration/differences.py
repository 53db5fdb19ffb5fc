"""The probability of the difference of two dark codes of one pixel, and the read noise under which it is largest.

Of two dark frames a pixel's own offset φ cancels but for its fraction of a code:

    P(d) = Σ_φ w_φ Σ_c p(c | φ)·p(c + d | φ),   p(c | φ) = P(c − ½ < φ + n < c + ½)

with n the read noise plus the offsets of rows, columns and frames, taken as normal. φ has the fractions of the black
levels, spread by what differs between pixels. n is kept on a lattice of a fraction of a code; its normal part
is multiplied in as a characteristic function and the sum over c is a correlation, both by Fourier transform. Rounding
is in it, so read noise below a code is found without bias; hot pixels and fixed pattern are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import fft, special, stats

from noiseflow.calibration.frames import FloatArray
from noiseflow.sensors.read_noise import tukey_std

_FINE = 16  # lattice points a code where the noise is about as narrow as a code
_WIDE = 2.0  # codes; noise beyond it hides the code lattice: exp(−2π²·4) ~ 1e-34
_REACH = 10.0  # standard deviations of a difference that are told apart; beyond, a difference counts as "far"
_LOWEST, _HIGHEST = -0.245, 0.6  # of λ
_LEAST = 1e-18  # stands for the probability 0 of a Fourier transform that has rounding errors
_STEP = 1e-4  # of numerical derivatives

# The left half of the quantile function of Tukey's lambda distribution is tabulated over the logit of u.
_LOGIT = np.linspace(-90.0, 0.0, 9001)
_LOG_U, _LOG_V = -np.logaddexp(0.0, -_LOGIT), -np.logaddexp(0.0, _LOGIT)


class Read(NamedTuple):
    """Read noise: `scale` is the standard deviation, or the scale of Tukey's lambda distribution; in codes."""

    scale: float
    shape: float | None = None

    @property
    def std(self) -> float:
        """Standard deviation, codes."""
        return self.scale if self.shape is None else self.scale * tukey_std(self.shape)


@dataclass(frozen=True, eq=False)
class Differences:
    """How often differences of each size were seen in pairs of frames, by band of rows.

    Attributes:
        counts: `(bands, sizes + 1)`, how often |d| = 0, 1, …, and in the last column how often more.
        pairs_per_dof: pairs of frames over independent ones, N/2 where all pairs of N frames are taken.
        fractions: `(C,)`, black level of each channel, codes; its fraction matters.
        pattern: standard deviation of the pixels' own offsets, codes.
        shared: standard deviation of all offsets that change from frame to frame and are shared by pixels, codes.
    """

    counts: FloatArray
    pairs_per_dof: float
    fractions: FloatArray
    pattern: float
    shared: float

    def log_pmf(self, read: Read, shared: float | None = None) -> FloatArray:
        """log P(|d|), nats, `(sizes + 1,)`."""
        shared = self.shared if shared is None else shared
        sizes = self.counts.shape[1] - 1
        std = math.hypot(read.std, shared)
        fine = _FINE if std < _WIDE else 1
        half = sizes + math.ceil(8 * std) + 2
        mass = noise_masses(read, shared, half, fine)
        length = fft.next_fast_len(2 * (2 * half + 1), real=True)
        total = np.zeros(length)
        for phase, weight in enumerate(_phase_weights(self.fractions, self.pattern, fine)):
            if weight > 0:
                # Code c takes the lattice cells from c − ½ − φ on; `mass` has `fine` cells before its first code.
                cells = mass[fine - phase :][: (2 * half + 1) * fine].reshape(-1, fine).sum(axis=1)
                total += weight * fft.irfft(np.abs(fft.rfft(cells, length)) ** 2, length)
        p = total[:sizes] * np.where(np.arange(sizes) == 0, 1.0, 2.0)
        far = max(1.0 - float(p.sum()), _LEAST)
        out: FloatArray = np.log(np.maximum(np.append(p, far), _LEAST))
        return out


def noise_masses(read: Read, shared: float, half: int, fine: int) -> FloatArray:
    """Masses of lattice cells 1/fine code wide, from −half − 1½ to half + ½ codes, of read noise plus normal noise."""
    edges = (np.arange((2 * half + 2) * fine + 1) / fine) - half - 1.5
    if read.shape is None:
        std = math.hypot(read.scale, shared)
        left = -np.abs(edges) / std
        cdf = special.ndtr(left)
    else:
        quantile = _LOGIT
        if read.shape != 0:
            quantile = (np.expm1(read.shape * _LOG_U) - np.expm1(read.shape * _LOG_V)) / read.shape
        cdf = special.expit(np.interp(-np.abs(edges) / read.scale, quantile, _LOGIT, left=-np.inf))
    # Taken on the left, where small probabilities keep their digits; one cell may hold the middle.
    mass = np.where(edges[1:] <= 0, cdf[1:] - cdf[:-1], cdf[:-1] - cdf[1:])
    mass[(edges[:-1] < 0) & (edges[1:] > 0)] = 1.0 - 2 * cdf[:-1][(edges[:-1] < 0) & (edges[1:] > 0)]
    if read.shape is not None and shared > 0:
        spectrum = np.exp(-0.5 * (2 * math.pi * shared * fine * fft.rfftfreq(mass.size)) ** 2)
        mass = np.maximum(fft.irfft(fft.rfft(mass) * spectrum, mass.size), 0.0)
    out: FloatArray = mass
    return out


def _phase_weights(fractions: FloatArray, pattern: float, fine: int) -> FloatArray:
    """Share of pixels whose offset has the fraction k/fine of a code, divided between the two nearest k."""
    spread = stats.norm.ppf((np.arange(64) + 0.5) / 64) * pattern if pattern > 0 else np.zeros(1)
    place = np.mod(fractions[:, None] + spread, 1.0).ravel() * fine
    low = np.floor(place).astype(np.int64)
    part = place - low
    weights = np.bincount(low % fine, 1 - part, fine) + np.bincount((low + 1) % fine, part, fine)
    out: FloatArray = weights / place.size
    return out


def largest_difference(std: float) -> int:
    """Differences to tell apart where noise, rounding apart, has this standard deviation, codes."""
    return max(4, math.ceil(_REACH * math.sqrt(2) * std))


class ReadFit(NamedTuple):
    """Read noise and how well it is known.

    Attributes:
        read: the read noise, codes.
        log_likelihood: `(bands,)`, nats, of as many differences as are independent.
        covariance: `(1, 1)` or `(2, 2)`, of log scale and, if there is one, λ; from bands of rows.
    """

    read: Read
    log_likelihood: FloatArray
    covariance: FloatArray

    @property
    def bands(self) -> int:
        """How many bands it rests on."""
        return self.log_likelihood.size

    @property
    def dof(self) -> int:
        """Degrees of freedom of the covariance: bands less the parameters and the shared variance."""
        return self.bands - 1 - len(self.covariance)


def fit_read(data: Differences, line_squares: FloatArray, start: Read) -> ReadFit:
    """Climb to the read noise under which the differences are most probable (composite likelihood of pairs).

    Fisher scoring with numerical derivatives. The covariance is that of the estimating equations over bands of rows,
    H⁻¹ Var(Σ s_b) H⁻¹, with the score s_b of each band and what the band adds to the estimate of the shared variance:
    the rows' offsets of this very set raise both, and cancel.

    Args:
        data: the differences.
        line_squares: `(bands,)`, what each band adds to the error of the shared variance, codes².
        start: where to start; with a shape, the shape is fitted too.
    """
    counts = data.counts.sum(axis=0)
    total = counts.sum()

    def at(x: FloatArray) -> Read:
        return Read(math.exp(x[0]), None if start.shape is None else float(x[1]))

    def loss(x: FloatArray) -> float:
        return -float(counts @ data.log_pmf(at(x)))

    x = np.array([math.log(start.scale)] + ([] if start.shape is None else [start.shape]))
    value = loss(x)
    for _ in range(40):
        slopes, information = _derivatives(data, at, x)
        step = np.linalg.solve(information * total, slopes @ counts)
        step *= min(1.0, 1.0 / float(np.abs(step / np.array([1.0, 0.1][: step.size])).max() + 1e-300))
        while True:
            tried = x + step
            tried[1:] = np.clip(tried[1:], _LOWEST, _HIGHEST)
            new = loss(tried)
            if new <= value + 1e-9 * abs(value) or np.abs(step).max() < 1e-9:
                break
            step = step / 2
        moved = float(np.abs(tried - x).max())
        x, value = tried, min(new, value)
        if moved < 1e-7:
            break
    slopes, information = _derivatives(data, at, x)
    hessian = np.linalg.inv(information * total)
    # d score / d shared variance, by the information identity: −E[∂ log P · ∂ log P / ∂ s²].
    here = data.log_pmf(at(x))
    delta = 1e-3 * at(x).std ** 2
    by_shared = (data.log_pmf(at(x), math.sqrt(data.shared**2 + delta)) - here) / delta
    crossed = -(slopes * np.exp(here)) @ by_shared * total
    scores = data.counts @ slopes.T + np.outer(line_squares, crossed)
    scores = scores - scores.mean(axis=0)
    bands = len(scores)
    covariance = hessian @ (scores.T @ scores * bands / max(bands - 1 - x.size, 1)) @ hessian
    return ReadFit(at(x), data.counts @ here / data.pairs_per_dof, covariance)


def _derivatives(data: Differences, at: Callable[[FloatArray], Read], x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """∂ log P(|d|) by the parameters, `(parameters, sizes + 1)`, and the information of one difference."""
    slopes = []
    for k in range(x.size):
        unit = np.zeros(x.size)
        unit[k] = _STEP
        slopes.append((data.log_pmf(at(x + unit)) - data.log_pmf(at(x - unit))) / (2 * _STEP))
    table = np.array(slopes)
    weight = np.exp(data.log_pmf(at(x)))
    return table, (table * weight) @ table.T
