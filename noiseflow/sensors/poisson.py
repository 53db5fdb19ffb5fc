"""Poisson numbers as a function of uniform ones."""

from __future__ import annotations

import numpy as np
from scipy import special

from noiseflow.sensors.read_noise import FloatArray


def poisson_quantile(u: FloatArray, rate: FloatArray) -> FloatArray:
    """The smallest e with P(E <= e) >= u, E ~ Poisson(rate): a Cornish–Fisher guess, then single steps.

    Args:
        u: `(n,)`, numbers in (0, 1).
        rate: `(n,)`, expected numbers, >= 0.

    Returns:
        `(n,)`, whole numbers.

    Examples:
        >>> poisson_quantile(np.array([0.1, 0.5, 0.9]), np.array([3.0, 3.0, 0.0]))
        array([1., 3., 0.])
    """
    z = special.ndtri(u)
    guess = np.maximum(np.floor(rate + np.sqrt(rate) * z + (z * z - 1.0) / 6.0), 0.0)
    walking = np.flatnonzero(special.pdtr(guess, rate) < u)
    while walking.size:
        guess[walking] += 1.0
        walking = walking[special.pdtr(guess[walking], rate[walking]) < u[walking]]
    walking = np.flatnonzero(guess > 0)
    while walking.size:
        walking = walking[special.pdtr(guess[walking] - 1.0, rate[walking]) >= u[walking]]
        guess[walking] -= 1.0
        walking = walking[guess[walking] > 0]
    return guess
