"""Read noise against mpmath, scipy and its own draws."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from noiseflow.errors import UserError
from noiseflow.sensors.heavy_tails import _log_cell
from noiseflow.sensors.read_noise import ReadNoise, tukey_std

CELLS = [(-0.5, 0.5), (2.5, 3.5), (-20.5, -19.5), (-math.inf, -7.5), (12.5, math.inf), (-math.inf, 1.0)]


def quadrature(read: ReadNoise, lower: float, upper: float) -> float:
    """log of ∫₀¹ [Φ((upper − s·Q(u))/σ) − Φ((lower − s·Q(u))/σ)] du by scipy's adaptive rule in the logit of u."""

    def integrand(t: float) -> float:
        u, v, shape = special.expit(t), special.expit(-t), read.tukey_lambda
        q = t if shape == 0 else (u**shape - v**shape) / shape
        a, b = ((end - read.tukey_dn * q) / read.gaussian_dn for end in (lower, upper))
        inside = special.ndtr(b) - special.ndtr(a) if a + b < 0 else special.ndtr(-a) - special.ndtr(-b)
        return float(inside * u * v)

    pieces = [integrate.quad(integrand, t, t + 1, epsabs=0, epsrel=1e-11, limit=200)[0] for t in range(-60, 60)]
    return math.log(math.fsum(pieces))


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")  # pieces that underflow
@pytest.mark.parametrize(
    ("gaussian", "scale", "shape"), [(0.8, 3, -0.1), (3, 0.8, -0.2), (1, 1, 0), (1, 0.1, -0.15), (1, 2, 0.2)]
)
def test_log_interval_of_a_sum_is_its_integral(gaussian, scale, shape):
    read = ReadNoise(gaussian, scale, shape)
    for lower, upper in CELLS:
        got = read.log_interval(np.array([lower]), np.array([upper]))[0]
        assert got == pytest.approx(quadrature(read, lower, upper), abs=1e-9)  # absolute in the log: relative in F


@pytest.mark.parametrize("shape", [-0.24, -0.1, -1e-7, 0.0, 0.14, 1.0])
def test_pure_tukey_inverts_its_quantile_function(shape):
    u = np.array([1e-30, 1e-9, 0.01, 0.3, 0.5, 0.8]) if shape <= 0 else np.array([0.01, 0.3, 0.5, 0.8, 0.99])
    quantile = (
        np.log(u / (1 - u)) if shape == 0 else (np.expm1(shape * np.log(u)) - np.expm1(shape * np.log1p(-u))) / shape
    )
    got = ReadNoise(0, 2.0, shape).log_interval(np.full(u.shape, -np.inf), 2.0 * quantile)
    np.testing.assert_allclose(got, np.log(u), rtol=1e-9)


@pytest.mark.parametrize("shape", [-0.2, -0.049, 1e-9, 0.0, 0.049, 0.051, 0.5])
def test_std_is_scipys(shape):
    assert tukey_std(shape) == pytest.approx(float(stats.tukeylambda.std(shape)), rel=1e-9)


@pytest.mark.parametrize("read", [ReadNoise(1.5), ReadNoise(0.7, 2.0, -0.15), ReadNoise(0, 3.0, 0.3)])
def test_draws_have_the_cdf(read):
    rng = np.random.default_rng(1)
    draws = read.quantile(rng.random(4000), rng.standard_normal(4000))

    def cdf(x):
        return np.exp(read.log_interval(np.full(x.shape, -np.inf), x))

    assert stats.kstest(draws, cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    "read", [ReadNoise(0.8, 7, -0.15), ReadNoise(0.1, 0.05, -0.2), ReadNoise(1, 0.3, -0.2), ReadNoise(0.5, 2, 0.14)]
)
def test_splines_of_cells_are_exact(read):
    x = np.random.default_rng(0).uniform(-1, 1, 300) * np.repeat([2.0, 20.0, 900.0], 100)
    for lower, upper in ((x - 0.5, x + 0.5), (np.full(x.shape, -np.inf), x)):
        want = read.log_interval(lower, upper)
        got = _log_cell(1.0, read, lower, upper, np.zeros(x.shape))
        near = want > -300  # beyond, a bounded part counts as impossible
        np.testing.assert_allclose(got[near], want[near], rtol=0, atol=1e-10)


@pytest.mark.parametrize("values", [(0.0,), (-1.0,), (1.0, 1.0, -0.25), (1.0, 1.0, 1.1), (math.nan,)])
def test_impossible_noise_is_refused(values):
    with pytest.raises(UserError, match="expected"):
        ReadNoise(*values)
