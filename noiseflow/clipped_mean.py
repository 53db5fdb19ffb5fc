"""The mean of recorded frames, and the signal behind it.

A ground truth that averages recorded frames is not the signal x but

    m(x) = E[clip(x + n)] = low + σ·ψ((x − low)/σ) − σ·ψ((x − high)/σ),    ψ(u) = u·Φ(u) + φ(u),

for Gaussian noise n of variance σ²(x): next to black the clip lifts it, by 0.4 σ at x = low, and a model that takes it
for the signal expects too much there. `signal_of_mean` inverts m. Rounding moves the mean by less than 0.003 codes as
soon as σ is half a code, and is left out.

Source: Foi, "Clipped noisy images: heteroskedastic modeling and practical denoising", Signal Processing 89 (2009),
section 2, gives m for Gaussian noise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

FloatArray = npt.NDArray[np.float64]

FURTHEST = 3.0
"""How far beyond a clip end, in standard deviations there, a signal is sought: an all-black mean says no more."""

_REACH = 8.0  # standard deviations from a clip end where its effect is below double precision
_NODES = 401


def mean_of_clipped(signal: npt.ArrayLike, a: float, b: float, low: float = 0.0, high: float = 1.0) -> FloatArray:
    """m(x): the mean of what is recorded of a signal, linear units.

    Args:
        signal: x, any shape, linear units.
        a: slope of the noise level function variance = a·max(x, 0) + b.
        b: its intercept, > 0.
        low: lowest value that can be recorded.
        high: highest value that can be recorded.
    """
    x = np.asarray(signal, np.float64)
    sigma = np.sqrt(a * np.maximum(x, 0.0) + b)
    result: FloatArray = low + sigma * (_psi((x - low) / sigma) - _psi((x - high) / sigma))
    return result


def signal_of_mean(mean: npt.ArrayLike, a: float, b: float, low: float = 0.0, high: float = 1.0) -> FloatArray:
    """The signal x whose recorded mean is m(x), linear units; at most `FURTHEST` σ beyond a clip end.

    Args:
        mean: values of m, any shape, linear units; those that no signal in reach has go to the nearest end.
        a: slope of the noise level function variance = a·max(x, 0) + b.
        b: its intercept, > 0.
        low: lowest value that can be recorded.
        high: highest value that can be recorded.

    Examples:
        >>> x = np.array([0.0, 0.001, 0.5, 1.0])
        >>> np.allclose(signal_of_mean(mean_of_clipped(x, 0.01, 1e-5), 0.01, 1e-5), x, atol=1e-5)
        True
    """
    value = np.asarray(mean, np.float64)
    at_low, at_high = (np.sqrt(a * max(end, 0.0) + b) for end in (low, high))
    # Where x − low = 8·σ(x): beyond, m(x) = x.
    inner = low + 32 * a + np.sqrt((32 * a) ** 2 + _REACH**2 * (a * max(low, 0.0) + b))
    inner = min(inner, high)  # a very noisy sensor has no middle that the clip spares
    outer = max(high - _REACH * at_high, inner)
    below = np.linspace(low - FURTHEST * at_low, low, _NODES)
    dark = low + (inner - low) * np.linspace(0.0, 1.0, 2 * _NODES) ** 2  # dense at black, where σ may be small
    bright = np.linspace(outer, high + FURTHEST * at_high, _NODES)
    nodes = np.concatenate((below, dark[1:], bright))
    result: FloatArray = np.interp(value, mean_of_clipped(nodes, a, b, low, high), nodes)
    return result


def _psi(u: FloatArray) -> FloatArray:
    """ψ(u) = u·Φ(u) + φ(u), the mean of max(u + n, 0)."""
    result: FloatArray = u * ndtr(u) + np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)
    return result
