"""Mean and variance of what a sensor records, after rounding and clipping.

The latent noise n has variance s² and cumulants κ₃, κ₄ (κ₃ = a²x and κ₄ = a³x where the slope a of the variance is
photon noise). Its density is the normal one times the first terms of Edgeworth's series (Cramér 1946, chapter 17),

    φ(u)·(1 + Σ cₖ·Heₖ(u)),    c₃ = κ₃/(6s³),    c₄ = κ₄/(24s⁴),    c₆ = κ₃²/(72s⁶)

With z = x + n, f its density, A = low − x, B = high − x, P₋, Pᵢₙ, P₊ the normal probabilities of z below, inside and
above the range, α = A/s, β = B/s and [g] = g(α) − g(β), the moments of t = clip(z, low, high) − x are

    E[t]  = A·P₋ + s·[φ] + B·P₊                  + s·Σ cₖ·[φ·Heₖ₋₂]
    E[t²] = A²·P₋ + s²·(Pᵢₙ + [u·φ]) + B²·P₊     + 2s²·Σ cₖ·[φ·(u·Heₖ₋₂ + Heₖ₋₃)]

and dE[y]/dx is Pᵢₙ + Σ cₖ·[φ·Heₖ₋₁]. Summing over codes of width h instead is the midpoint rule, whose leading errors
are −h²/24·(f(low) − f(high)) in E[t] and h²/12·(Pᵢₙ + B·f(high) − A·f(low)) in E[t²]. Correct to a per cent of h²/12
from s = 0.6 h on, and to the third power of the skewness κ₃/s³ where pixels are clipped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.polynomial import hermite_e
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
    fourth: npt.ArrayLike = 0.0,
    *,
    lsb: float = 0.0,
    low: float = 0.0,
    high: float = 1.0,
) -> RecordedMoments:
    """Moments of y = clip(round(x + n), low, high).

    Args:
        signal: x, any shape, linear units.
        variance: s² of the latent noise n, > 0, broadcast against signal.
        third: κ₃, its third cumulant, likewise.
        fourth: κ₄, its fourth one, likewise.
        lsb: h, width of a code; 0: not rounded.
        low: lowest value that can be recorded.
        high: highest value that can be recorded.

    Examples:
        >>> inner = recorded_moments(0.5, 1e-4, lsb=0.01)
        >>> round(float(inner.mean), 9), round(float(inner.variance - 1e-4) * 12e4, 9)
        (0.5, 1.0)
    """
    x, s2, kappa3, kappa4 = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (signal, variance, third, fourth)))
    s, below, above = np.sqrt(s2), low - x, high - x
    alpha, beta = below / s, above / s
    at_low, at_high = (np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi) for u in (alpha, beta))
    under, over = ndtr(alpha), ndtr(-beta)
    inside = ndtr(beta) - under
    edge = alpha * at_low - beta * at_high
    first = below * under + s * (at_low - at_high) + above * over
    second = below**2 * under + s2 * (inside + edge) + above**2 * over
    bend = (at_low - at_high) / s
    first = first - lsb**2 / 24 * bend
    second = second + lsb**2 / 12 * (inside - edge)
    for k, weight in ((3, kappa3 / (6 * s**3)), (4, kappa4 / (24 * s2**2)), (6, kappa3**2 / (72 * s2**3))):
        (one, low1, low2), (two, high1, high2) = (_hermite(k, u) for u in (alpha, beta))
        first = first + s * weight * (at_low * low1 - at_high * high1)
        second = second + 2 * s2 * weight * (at_low * (alpha * low1 + low2) - at_high * (beta * high1 + high2))
        inside = inside + weight * (at_low * one - at_high * two)
    return RecordedMoments(x + first, np.maximum(second - first**2, 0.0), inside, bend)


def _hermite(k: int, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Heₖ₋₁, Heₖ₋₂ and Heₖ₋₃ at u."""
    one, two, three = (np.asarray(hermite_e.hermeval(u, [0.0] * n + [1.0]), np.float64) for n in (k - 1, k - 2, k - 3))
    return one, two, three
