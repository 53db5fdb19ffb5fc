"""Code probabilities with offsets, pedestals and heavy tails against sums over all electrons; 200 random sensors."""

import numpy as np
import pytest
from fits import p_value_of
from scipy import special

from noiseflow.sensors import VirtualSensor
from noiseflow.sensors.pmf import PixelNoise, ReadNoise


def brute_force(pixel: PixelNoise, code: int, rate: float, offset: float) -> float:
    """The sum over all electrons up to far beyond both the expected number and the cell."""
    top = max(rate, (code - offset) / pixel.gain, 0.0)
    electrons = np.arange(int(top + 15 * np.sqrt(top) + 40 * pixel.read.std / pixel.gain + 60))
    poisson = special.xlogy(electrons, rate) - rate - special.gammaln(electrons + 1)
    lower = (code - 0.5 if code > pixel.min_code else -np.inf) - offset - pixel.gain * electrons
    upper = (code + 0.5 if code < pixel.max_code else np.inf) - offset - pixel.gain * electrons
    return float(special.logsumexp(poisson + np.maximum(pixel.read.log_interval(lower, upper), -1e30)))


@pytest.mark.parametrize(
    "pixel",
    [
        PixelNoise(3.78, ReadNoise(8.0), 1023, -64),
        PixelNoise(3.78, ReadNoise(0.8, 7, -0.15), 1023),
        PixelNoise(0.5, ReadNoise(0.8, 1, 0), 255),
        PixelNoise(1.0, ReadNoise(0.1), 255),
        PixelNoise(41.0, ReadNoise(0, 49, -0.2), 1023, -20),
        PixelNoise(2.0, ReadNoise(0, 3, 0.2), 255),  # bounded: cells beyond it are impossible at rate 0
        PixelNoise(2.0, ReadNoise(0.3, 0.3, 0.14), 63),  # bounded, but for a Gaussian: none is
        PixelNoise(2.0, ReadNoise(0.4, 1, 0.5), 63, -20),
    ],
    ids=str,
)
def test_log_pmf_is_the_sum_over_all_electrons(pixel):
    rng = np.random.default_rng(1)
    rate = np.exp(rng.uniform(np.log(0.05), np.log(1.1 * pixel.max_code / pixel.gain), 60))
    rate[:4] = 0.0
    spread = 2 * np.sqrt(pixel.gain**2 * rate + pixel.read.std**2)
    codes = np.clip(np.rint(pixel.gain * rate + spread * rng.standard_t(2, 60)), pixel.min_code, pixel.max_code)
    codes = codes.astype(np.int64)
    codes[8:12], codes[12:16] = pixel.min_code, pixel.max_code
    offset = np.round(rng.normal(size=60) * 40 * 8) / 8
    for shift in (np.zeros(60), offset):
        got = pixel.log_pmf(codes, rate, shift)
        want = np.array([brute_force(pixel, *values) for values in zip(codes, rate, shift, strict=True)])
        possible = want > -1e20
        np.testing.assert_allclose(got[possible], want[possible], rtol=1e-10, atol=1e-10)
        assert (got[~possible] < -1e20).all()


def test_no_offset_is_an_offset_of_zero():
    pixel = PixelNoise(1.3, ReadNoise(2.0), 255)
    codes, rate = np.arange(256), np.full(256, 30.0)
    np.testing.assert_allclose(pixel.log_pmf(codes, rate), pixel.log_pmf(codes, rate, np.zeros(256)), rtol=1e-13)


def random_sensor(rng: np.random.Generator) -> VirtualSensor:
    """Any sensor without row or column noise."""
    tails = bool(rng.integers(2))
    bits = int(rng.integers(8, 10 if tails else 13))
    white = 2**bits - 1
    low, high = np.sort(np.exp(rng.uniform(np.log(2e-3), np.log(0.05), 2)))
    dual = bool(rng.integers(2))
    return VirtualSensor(
        "random",
        "RGGB",
        bits,
        int(rng.integers(0, white // 8)),
        white,
        ((100, low), (1600, high)),
        read_pre_e=((100, rng.uniform(2, 4)), (1600, rng.uniform(0.5, 2))) if dual else rng.uniform(0, 4),
        read_post_dn=rng.uniform(0.05, 3),
        tukey_lambda=rng.uniform(-0.24, 0.0) if tails else None,
        keep_pedestal=bool(rng.integers(2)),
    )


def test_two_hundred_random_sensors_write_what_their_pmf_says():
    """Seed 20; 10⁶ codes each. Bonferroni at 1 % for the chi-squares, 4 standard errors for the entropies."""
    rng = np.random.default_rng(20)
    p_values, scores = [], []
    while len(p_values) < 200:
        sensor, iso = random_sensor(rng), float(np.exp(rng.uniform(np.log(100), np.log(1600))))
        clean = float(np.exp(rng.uniform(np.log(5e-4), 0.05)))
        codes = sensor.sample_codes(np.full(1_000_000, clean), iso, rng) - sensor.min_code
        everything = sensor.log_pmf(np.arange(sensor.min_code, sensor.max_code + 1), clean, iso)
        pmf = np.exp(everything)
        assert abs(pmf.sum() - 1) < 1e-9
        counts = np.bincount(codes, minlength=pmf.size)
        p = p_value_of(codes, pmf)
        if p is None:
            continue
        p_values.append(p)
        mean = (pmf * everything).sum()
        variance = (pmf * (everything - mean) ** 2).sum()
        scores.append(((counts * everything).sum() / 1e6 - mean) / np.sqrt(variance / 1e6))
    assert min(p_values) > 0.01 / 200
    assert np.abs(scores).max() < 4
