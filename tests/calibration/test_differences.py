"""The probability of differences of dark codes against brute force, and the fit against moments and truth."""

import math

import numpy as np
import pytest
from scipy import special

from noiseflow.calibration.differences import Differences, Read, fit_read, noise_masses
from noiseflow.sensors.read_noise import ReadNoise, tukey_std


def brute_force(noise: ReadNoise, offsets: np.ndarray, sizes: int) -> np.ndarray:
    """P(|d|) by sums over codes with the sensors' own probabilities of intervals, averaged over offsets."""
    codes = np.arange(-60, 61)
    total = np.zeros(sizes)
    for offset in offsets:
        p = np.exp(noise.log_interval(codes - 0.5 - offset, codes + 0.5 - offset))
        for d in range(sizes):
            total[d] += (p[: codes.size - d] * p[d:]).sum() * (1 if d == 0 else 2)
    return np.append(total / len(offsets), 1 - total.sum() / len(offsets))


@pytest.mark.parametrize(
    ("read", "shared", "noise"),
    [
        (Read(0.5), 0.3, ReadNoise(math.hypot(0.5, 0.3))),
        (Read(3.0), 1.0, ReadNoise(math.hypot(3.0, 1.0))),
        (Read(0.4, -0.15), 0.3, ReadNoise(0.3, 0.4, -0.15)),
        (Read(0.9, 0.0), 0.0, ReadNoise(0.0, 0.9, 0.0)),
        (Read(2.0, 0.08), 0.7, ReadNoise(0.7, 2.0, 0.08)),
    ],
)
def test_probabilities_are_those_of_brute_force(read, shared, noise):
    fractions = np.array([512.0, 512.25, 511.5, 512.8125])  # multiples of 1/16: on the lattice
    data = Differences(np.zeros((1, 9)), 1.0, fractions, 0.0, shared)
    # The table of the Tukey quantile is linear between 9001 nodes 0.01 apart: log u is good to 0.01²/8.
    np.testing.assert_allclose(np.exp(data.log_pmf(read)), brute_force(noise, np.mod(fractions, 1.0), 8), atol=3e-5)


def test_a_fixed_pattern_as_wide_as_a_code_makes_all_fractions_alike():
    wide = Differences(np.zeros((1, 9)), 1.0, np.array([0.3]), 5.0, 0.0)
    even = (np.arange(16) + 0.5) / 16
    # 64 quantiles fill the circle to 1/64 of a code; the probabilities move by at most 0.6 per code of offset.
    np.testing.assert_allclose(np.exp(wide.log_pmf(Read(0.5))), brute_force(ReadNoise(0.5), even, 8), atol=2e-3)


@pytest.mark.parametrize("fine", [1, 16])
def test_masses_of_the_lattice_are_intervals_of_the_distribution(fine):
    mass = noise_masses(Read(1.5), 0.0, 20, fine)
    edges = np.arange(mass.size + 1) / fine - 21.5
    np.testing.assert_allclose(mass, np.diff(special.ndtr(edges / 1.5)), atol=1e-14)


def test_the_fit_of_wide_normal_noise_is_the_root_mean_square():
    generator = np.random.default_rng(1)
    d = np.abs(np.rint(generator.normal(0, 20 * math.sqrt(2), (16, 2000)))).astype(int)
    counts = np.stack([np.bincount(np.minimum(row, 300), minlength=301) for row in d])
    found = fit_read(Differences(counts.astype(float), 1.0, np.zeros(1), 0.0, 0.0), np.zeros(16), Read(15.0))
    # Rounding two codes adds 2/12 to the variance of a difference; here only one rounding was done: 1/12 is missing.
    expected = math.sqrt(np.mean(d**2) / 2 - 1 / 12)
    assert found.read.scale == pytest.approx(expected, rel=1e-4)
    # d log σ = ½ d log σ², and the variance of a sample variance is 2σ⁴/n; bands of 16 give it to 20 %, 4 of those.
    assert math.sqrt(found.covariance[0, 0]) == pytest.approx(0.5 * math.sqrt(2 / d.size), rel=0.8)


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.05])
def test_scale_and_shape_are_found_within_their_errors(shape):
    generator = np.random.default_rng(2)
    noise = ReadNoise(0.0, 0.8, shape)
    u = generator.random((2, 32, 4000))
    first, other = (np.rint(noise.quantile(part, part) + 0.2).astype(int) for part in u)
    counts = np.stack([np.bincount(np.minimum(row, 40), minlength=41) for row in np.abs(first - other)])
    data = Differences(counts.astype(float), 1.0, np.array([0.2]), 0.0, 0.0)
    found = fit_read(data, np.zeros(32), Read(0.5, 0.0))
    error = np.sqrt(np.diag(found.covariance))
    # 4.5 standard errors from 30 bands: one in 10⁴.
    assert abs(math.log(found.read.scale / 0.8)) < 4.5 * error[0]
    assert found.read.shape is not None and abs(found.read.shape - shape) < 4.5 * error[1]
    assert error[1] < 0.02
    assert found.read.std == pytest.approx(0.8 * tukey_std(shape), rel=0.05)
