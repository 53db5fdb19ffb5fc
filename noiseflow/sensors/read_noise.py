"""Read noise: Gaussian, Tukey-lambda, or the sum of both, and the probability of any interval of it.

The Tukey-lambda distribution is given by its quantile function (Joiner and Rosenblatt 1971),

    Q_λ(u) = (u^λ − (1 − u)^λ) / λ,   λ = 0: log(u / (1 − u)), the logistic distribution.

λ < 0 has power-law tails, P(|x| > X) ~ X^(1/λ), as the read noise of many sensors does; λ > 0 is bounded. Everything
here is in logarithms, because a code's probability is needed as far out as any sensor can write it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from noiseflow.errors import UserError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NEVER = -1e30
"""Stands for log 0: finite, so that differences of two of them are not NaN."""

_CHUNK = 1 << 19  # numbers held at a time


@dataclass(frozen=True)
class ReadNoise:
    """The read noise of one pixel, DN: Gaussian plus an independent Tukey-lambda part.

    Attributes:
        gaussian_dn: standard deviation of the Gaussian part, DN, >= 0.
        tukey_dn: scale of the Tukey-lambda part, DN, >= 0.
        tukey_lambda: its shape, above −0.25 (below, it has no fourth moment) and at most 1.

    Raises:
        UserError: a value is out of range.

    Examples:
        >>> round(ReadNoise(3.0, tukey_dn=4.0, tukey_lambda=1.0).std, 6)  # λ = 1 is uniform on [−scale, scale]
        3.785939
    """

    gaussian_dn: float
    tukey_dn: float = 0.0
    tukey_lambda: float = 0.0

    def __post_init__(self) -> None:
        parts = (self.gaussian_dn, self.tukey_dn)
        if not (all(0 <= part < math.inf for part in parts) and max(parts) > 0):
            raise UserError(f"read noise: expected two scales >= 0, one of them > 0, got {parts[0]} and {parts[1]} DN")
        if not -0.25 < self.tukey_lambda <= 1:
            raise UserError(f"tukey_lambda: expected a shape above -0.25 and at most 1, got {self.tukey_lambda}")

    @property
    def std(self) -> float:
        """Standard deviation of the sum, DN."""
        return math.hypot(self.gaussian_dn, self.tukey_dn * tukey_std(self.tukey_lambda))

    def log_interval(self, lower: FloatArray, upper: FloatArray) -> FloatArray:
        """log(F(upper) − F(lower)), nats, element by element; F is the CDF of the noise.

        A sum of both parts takes a trapezoidal rule over one of them, whose error falls exponentially: over the
        Gaussian where the other CDF is analytic (λ <= 0), over the logit of u where it is bounded (λ > 0).

        Args:
            lower: lower ends, DN, any shape; −inf allowed.
            upper: upper ends, DN, above the lower ones, the same shape; inf allowed.

        Returns:
            float64; −inf, or anything below −1e29, where the probability is 0.
        """
        if self.tukey_dn == 0:
            return log_normal_interval(lower / self.gaussian_dn, upper / self.gaussian_dn)
        if self.gaussian_dn == 0:
            return _log_tukey_interval(lower / self.tukey_dn, upper / self.tukey_dn, self.tukey_lambda)
        shifts, log_weights = _nodes(self)
        low, high = (np.asarray(ends, np.float64).reshape(-1, 1) for ends in np.broadcast_arrays(lower, upper))
        out = np.empty(low.shape[0])
        step = max(1, _CHUNK // shifts.size)
        for start in range(0, out.size, step):
            a, b = low[start : start + step] - shifts, high[start : start + step] - shifts
            if self.tukey_lambda > 0:
                terms = log_normal_interval(a / self.gaussian_dn, b / self.gaussian_dn)
            else:
                terms = _log_tukey_interval(a / self.tukey_dn, b / self.tukey_dn, self.tukey_lambda)
            out[start : start + step] = special.logsumexp(np.maximum(terms, NEVER) + log_weights, axis=1)
        return out.reshape(np.shape(np.broadcast_arrays(lower, upper)[0]))

    def quantile(self, u: FloatArray, z: FloatArray) -> FloatArray:
        """A draw of the noise, DN, from uniform and standard normal numbers of one shape.

        Args:
            u: numbers in (0, 1), for the Tukey-lambda part.
            z: standard normal numbers, for the Gaussian part.
        """
        noise: FloatArray = self.gaussian_dn * z
        if self.tukey_dn > 0:
            noise = noise + self.tukey_dn * special.boxcox(u, self.tukey_lambda)
            noise -= self.tukey_dn * special.boxcox(1.0 - u, self.tukey_lambda)
        return noise


def tukey_std(shape: float) -> float:
    """Standard deviation of a Tukey-lambda distribution of scale 1, λ > −0.5.

        variance = 2/λ² · (1/(1 + 2λ) − Γ(1 + λ)²/Γ(2 + 2λ))

    Examples:
        >>> tukey_std(0.0) == math.pi / math.sqrt(3)  # the logistic distribution
        True
    """
    # The logarithm of Γ(1 + λ)²/Γ(1 + 2λ); near 0 by the series of log Γ, as the difference would cancel.
    if abs(shape) < 0.05:
        orders = np.arange(2, 40)
        over_square = special.zeta(orders) * (-1.0) ** orders * shape ** (orders - 2.0) * (2 - 2.0**orders) / orders
        log_ratio, square = float(over_square.sum()) * shape**2, shape**2
        if shape == 0:
            return math.sqrt(-2 * float(over_square[0]))
    else:
        log_ratio = 2 * math.lgamma(1 + shape) - math.lgamma(1 + 2 * shape)
        square = shape**2
    return math.sqrt(-2 * math.expm1(log_ratio) / (square * (1 + 2 * shape)))


def log_normal_interval(lower: FloatArray, upper: FloatArray) -> FloatArray:
    """log(Φ(upper) − Φ(lower)), element by element; −inf where the interval is too narrow to tell its ends apart."""
    # The normal CDF is used on its left side, where its logarithm is accurate.
    flip = lower + upper > 0
    lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    log_upper = special.log_ndtr(upper)
    with np.errstate(divide="ignore"):
        mass: FloatArray = log_upper + np.log(-np.expm1(special.log_ndtr(lower) - log_upper))
    return mass


def _log_tukey_interval(lower: FloatArray, upper: FloatArray, shape: float) -> FloatArray:
    """log(F(upper) − F(lower)) of a Tukey-lambda distribution of scale 1."""
    flip = lower + upper > 0
    lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    log_upper = np.maximum(_log_tukey_cdf(upper, shape), NEVER)
    with np.errstate(divide="ignore"):
        mass: FloatArray = log_upper + np.log(-np.expm1(_log_tukey_cdf(lower, shape) - log_upper))
    return mass


def _log_tukey_cdf(x: FloatArray, shape: float) -> FloatArray:
    """log u with Q(u) = x, by Newton's method in the logit of u.

    It solves log(1 + λ·Q)/λ for negative x, which is log u but for a factor near 1 in the tail, so that it is nearly
    straight everywhere; positive x are mirrored.
    """
    mirrored = x > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        target = _log_tail(-np.abs(x), shape)
    inside = np.isfinite(target)
    goal = np.where(inside, target, -1.0)
    logit = goal.copy()
    for _ in range(40):
        log_u, log_v = -np.logaddexp(0.0, -logit), -np.logaddexp(0.0, logit)
        quantile = _box_cox(log_u, shape) - _box_cox(log_v, shape)
        slope = np.exp(shape * log_u + log_v) + np.exp(shape * log_v + log_u)
        step = (_log_tail(quantile, shape) - goal) * (1 + shape * quantile) / slope
        logit -= step
        if np.abs(step / (1 + np.abs(logit))).max(initial=0.0) < 1e-15:
            break
    logit = np.where(mirrored, -logit, logit)
    out: FloatArray = -np.logaddexp(0.0, -logit)
    return np.where(inside, out, np.where(mirrored, 0.0, -np.inf))


def _box_cox(log_u: FloatArray, shape: float) -> FloatArray:
    """(u^λ − 1)/λ, and log u for λ = 0."""
    out: FloatArray = log_u if shape == 0 else np.expm1(shape * log_u) / shape
    return out


def _log_tail(quantile: FloatArray, shape: float) -> FloatArray:
    """log(1 + λ·Q)/λ, the inverse of `_box_cox`; −inf or NaN beyond a bounded support."""
    out: FloatArray = quantile if shape == 0 else np.log1p(shape * quantile) / shape
    return out


@functools.lru_cache(maxsize=16)
def _nodes(read: ReadNoise) -> tuple[FloatArray, FloatArray]:
    """Shifts (DN) and log weights of the trapezoidal rule over one part of a sum."""
    ratio = read.tukey_dn / read.gaussian_dn
    if read.tukey_lambda > 0:
        # dQ/dt <= 1 for u = logistic(t): steps of at most 0.6 standard deviations of the Gaussian that is summed.
        reach = min(700.0, 40.0 + 12.0 / read.tukey_lambda)
        count = math.ceil(reach / min(0.25, 0.6 / ratio))
        t = np.linspace(-reach, reach, 2 * count + 1)
        log_u, log_v = -np.logaddexp(0.0, -t), -np.logaddexp(0.0, t)
        shifts = read.tukey_dn * (_box_cox(log_u, read.tukey_lambda) - _box_cox(log_v, read.tukey_lambda))
        return shifts, log_u + log_v + math.log(t[1] - t[0])
    # The logistic CDF has its poles at ±iπ: steps of 0.5·scale leave an error of exp(−4π²). Its tail shifts the
    # Gaussian's peak by at most σ²/scale.
    reach = 9.0 + min(38.0, 1.0 / ratio)
    count = math.ceil(reach / min(0.5, 0.5 * ratio))
    z = np.linspace(-reach, reach, 2 * count + 1)
    return read.gaussian_dn * z, -0.5 * z**2 - 0.5 * math.log(2 * math.pi) + math.log(z[1] - z[0])
