"""Mean and variance of what a sensor records, after rounding and clipping.

The latent noise n has variance s² and third cumulant κ (κ = a²x where the slope a of the variance is photon noise). Its
density is the normal one and the first term of Edgeworth's series, φ(u)·(1 + κ/(6s³)·He₃(u)). With z = x + n, f its
density, A = low − x, B = high − x, P₋, Pᵢₙ, P₊ the probabilities of z below, inside and above the range, and
α = A/s, β = B/s, the moments of t = clip(z, low, high) − x are

    E[t]  = A·P₋ + s·(φ(α) − φ(β)) + B·P₊                 + κ/(6s²)·(α·φ(α) − β·φ(β))
    E[t²] = A²·P₋ + s²·(Pᵢₙ + α·φ(α) − β·φ(β)) + B²·P₊    + κ/(3s)·((α² + 1)·φ(α) − (β² + 1)·φ(β))

(P without the term in κ). Summing over codes of width h instead is the midpoint rule, whose leading errors are
−h²/24·(f(low) − f(high)) in E[t] and h²/12·(Pᵢₙ + B·f(high) − A·f(low)) in E[t²]. Correct to a per cent of h²/12 from
s = 0.6 h on, and to the square of the skewness κ/s³ where pixels are clipped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

FloatArray = npt.NDArray[np.float64]


class RecordedMoments(NamedTuple):
    """Moments of what is recorded, linear units; and what they are made of.

    Attributes:
        mean: m(x) = E[y].
        variance: of y.
        inside: Pᵢₙ, probability that the pixel is not clipped: dm/dx.
        bend: f(low) − f(high): d²m/dx².
    """

    mean: FloatArray
    variance: FloatArray
    inside: FloatArray
    bend: FloatArray


def recorded_moments(
    signal: npt.ArrayLike,
    variance: npt.ArrayLike,
    third: npt.ArrayLike = 0.0,
    *,
    lsb: float = 0.0,
    low: float = 0.0,
    high: float = 1.0,
) -> RecordedMoments:
    """Moments of y = clip(round(x + n), low, high).

    Args:
        signal: x, any shape, linear units.
        variance: s² of the latent noise n, > 0, broadcast against signal.
        third: κ, its third cumulant, likewise.
        lsb: h, width of a code; 0: not rounded.
        low: lowest value that can be recorded.
        high: highest value that can be recorded.

    Examples:
        >>> inner = recorded_moments(0.5, 1e-4, lsb=0.01)
        >>> round(float(inner.mean), 9), round(float(inner.variance - 1e-4) * 12e4, 9)
        (0.5, 1.0)
    """
    x, s2, kappa = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (signal, variance, third)))
    s, below, above = np.sqrt(s2), low - x, high - x
    alpha, beta = below / s, above / s
    at_low, at_high = (np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi) for u in (alpha, beta))
    under, over = ndtr(alpha), ndtr(-beta)
    inside = ndtr(beta) - under
    skew = kappa / (6 * s**3)
    edge = alpha * at_low - beta * at_high
    first = below * under + s * (at_low - at_high) + above * over + skew * s * edge
    second = below**2 * under + s2 * (inside + edge) + above**2 * over
    second = second + 2 * skew * s2 * ((alpha**2 + 1) * at_low - (beta**2 + 1) * at_high)
    bend = (at_low - at_high) / s
    first = first - lsb**2 / 24 * bend
    second = second + lsb**2 / 12 * (inside - edge)
    inside = inside + skew * ((alpha**2 - 1) * at_low - (beta**2 - 1) * at_high)
    return RecordedMoments(x + first, np.maximum(second - first**2, 0.0), inside, bend)


def signal_from_mean(
    mean: npt.ArrayLike,
    slope: float,
    rest: npt.ArrayLike,
    *,
    photons: bool = False,
    lsb: float = 0.0,
    low: float = 0.0,
    high: float = 1.0,
    reach: float = 3.0,
) -> FloatArray:
    """The signal x whose recorded mean is given, where the latent variance is slope·max(x, 0) + rest, by bisection.

    Args:
        mean: E[y], any shape, linear units.
        slope: a of the noise level function.
        rest: b, and what else widens the noise, > 0, broadcast against mean.
        photons: whether the slope is photon noise, of third cumulant slope²·x.
        lsb: width of a code.
        low: lowest value that can be recorded.
        high: highest value that can be recorded.
        reach: how far beyond a clip end a signal is sought, in standard deviations there.
    """
    value, other = np.broadcast_arrays(np.asarray(mean, np.float64), np.asarray(rest, np.float64))
    left = low - reach * np.sqrt(slope * max(low, 0.0) + other)
    right = high + reach * np.sqrt(slope * max(high, 0.0) + other)
    for _ in range(50):
        middle = 0.5 * (left + right)
        light = slope * np.maximum(middle, 0.0)
        third = slope * light if photons else 0.0
        short = recorded_moments(middle, light + other, third, lsb=lsb, low=low, high=high).mean < value
        left, right = np.where(short, middle, left), np.where(short, right, middle)
    return 0.5 * (left + right)
