"""Moments of recorded values against sums over codes, of normal and of photon noise."""

import numpy as np
import pytest
from scipy import stats

from noiseflow.recorded_moments import recorded_moments
from noiseflow.sensors import SENSORS

SIGNALS = np.array([-0.005, 0.0, 0.003, 0.02, 0.5, 0.985, 1.0, 1.004])


def over_codes(probability, codes):
    mean = probability @ codes
    return mean, probability @ codes**2 - mean**2


@pytest.mark.parametrize("codes_per_sigma", [1.0, 2.5])
def test_normal_noise_against_sums_over_codes(codes_per_sigma):
    lsb = 0.01
    sigma, codes = codes_per_sigma * lsb, np.arange(101) * lsb
    steps = stats.norm.cdf((codes[:-1] + lsb / 2 - SIGNALS[:, None]) / sigma)
    ends = np.zeros((len(SIGNALS), 1)), np.ones((len(SIGNALS), 1))
    mean, variance = over_codes(np.diff(np.concatenate((ends[0], steps, ends[1]), axis=1)), codes)
    found = recorded_moments(SIGNALS, sigma**2, lsb=lsb)
    # The next terms of the midpoint rule: 7/5760·h⁴ times third derivatives of the distribution, of order h/σ⁴.
    bound = 0.02 * lsb**4 / sigma**4
    assert np.abs(found.mean - mean).max() < bound * sigma
    assert np.abs(found.variance - variance).max() < bound * sigma**2


def test_photon_noise_against_a_sensor():
    """The night phone: white is 25 electrons. The third power of the skewness, at most 0.03, over thirty is left."""
    sensor, iso = SENSORS["night"], 3200
    a, b = sensor.noise_level(iso)
    codes = np.arange(sensor.max_code + 1) * sensor.lsb
    signals = np.array([0.001, 0.01, 0.05, 0.2, 0.6, 0.9, 1.0])
    mean, variance = over_codes(np.stack([sensor.pmf(x, iso) for x in signals]), codes)
    found = recorded_moments(signals, a * signals + b, a * a * signals, a**3 * signals, lsb=sensor.lsb)
    normal = recorded_moments(signals, a * signals + b, lsb=sensor.lsb)
    assert np.abs(found.mean - mean).max() < 0.0002 * np.sqrt(variance.max())
    assert np.abs(found.variance / variance - 1).max() < 0.001
    assert np.abs(normal.variance / variance - 1).max() > 0.05  # what the cumulants are there for


def test_without_ends_nothing_is_clipped():
    found = recorded_moments(np.array([-3.0, 0.3]), 1e-4, 1e-7, 1e-9, lsb=0.01, low=-1e6, high=1e6)
    assert np.allclose(found.mean, [-3.0, 0.3], atol=1e-15)
    assert np.allclose(found.variance, 1e-4 + 1e-4 / 12, rtol=1e-12)
    assert np.array_equal(found.inside, [1.0, 1.0])
