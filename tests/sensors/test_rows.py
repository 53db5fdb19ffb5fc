"""Row noise against brute-force integration, a closed form, and the contract of `SensorTruth`."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import special

from noiseflow.raw.cfa import pack, unpack
from noiseflow.sensors import SENSORS, SensorTruth
from noiseflow.sensors.pmf import PixelNoise, ReadNoise
from noiseflow.sensors.rows import log_mass_rows, shares_rows
from noiseflow.shot import CFA_PATTERNS, Shot


def brute_force(pixel: PixelNoise, row_std: float, codes: np.ndarray, rate: np.ndarray) -> float:
    """The integral by a dense trapezoid, the pixels' probabilities tabulated for the distinct (code, rate)."""
    read = pixel.read.gaussian_dn
    # e^-40 of the whole is as good as nothing: the nodes that the plain Gaussian approximation can reach.
    variance = pixel.gain**2 * (rate + 2) + read**2 + 1
    spread = np.sqrt(1 / (1 / row_std**2 + (1 / variance).sum()))
    centre = ((codes - pixel.gain * rate) / variance).sum() * spread**2
    step = min(1.0, read) / (3 * np.sqrt(codes.size))
    reach = 9 * spread + 2 * pixel.gain
    nodes = centre + np.arange(-reach, reach, step)
    (code, level), count = np.unique(np.stack([codes, rate]), axis=1, return_counts=True)
    electrons = np.arange(int(rate.max() + 12 * np.sqrt(rate.max()) + 30))
    poisson = np.exp(special.xlogy(electrons, level[:, None]) - level[:, None] - special.gammaln(electrons + 1))
    total = -0.5 * (nodes / row_std) ** 2 - np.log(row_std * np.sqrt(2 * np.pi))
    for c, p, times in zip(code, poisson, count, strict=True):
        used = p > 1e-40
        middle = c - pixel.gain * electrons[used] - nodes[:, None]
        low = (middle - 0.5) / read if c > pixel.min_code else np.full(middle.shape, -np.inf)
        high = (middle + 0.5) / read if c < pixel.max_code else np.full(middle.shape, np.inf)
        mirrored = low + high > 0
        cell = special.ndtr(np.where(mirrored, -low, high)) - special.ndtr(np.where(mirrored, -high, low))
        total += times * np.log(cell @ p[used] + 1e-300)
    return float(special.logsumexp(total) + np.log(step))


@pytest.mark.parametrize("n", [4, 64, 512])
@pytest.mark.parametrize(
    ("read", "gain", "row_std", "mean"), [(0.1, 1.0, 0.5, 2), (0.3, 0.37, 0.3, 3), (1, 0.8, 0.6, 12), (3, 2, 1.5, 6)]
)
def test_log_mass_is_the_integral(n, read, gain, row_std, mean):
    rng = np.random.default_rng(n)
    pixel = PixelNoise(gain, ReadNoise(read), 63)
    rate = mean * rng.choice([0.3, 1.0, 2.2], n)
    noise = read * rng.normal(size=n) + row_std * rng.normal()
    codes = np.clip(np.rint(gain * rng.poisson(rate) + noise), 0, 63).astype(np.int64)
    assert (codes == 0).any() or n == 4 or mean > 3
    got = log_mass_rows(pixel, row_std, codes[None], rate[None])[0]
    assert abs(got - brute_force(pixel, row_std, codes, rate)) / n < 1e-6


def test_closed_form_of_4000_gaussian_pixels():
    """Dark pixels: codes are as good as continuous, with variance 40² + 1/12 (Sheppard's correction)."""
    rng = np.random.default_rng(0)
    n, row_std = 4000, 15.0
    pixel = PixelNoise(50.0, ReadNoise(40.0), 10_000, -10_000)
    rate = np.zeros((1, n))
    noise = 40 * rng.normal(size=(1, n)) + row_std * rng.normal(size=(1, 1))
    codes = np.rint(noise).astype(np.int64)
    x, variance = codes.astype(np.float64), 40.0**2 + 1 / 12
    total = variance + n * row_std**2
    quadratic = (x**2).sum(axis=1) / variance - row_std**2 / (variance * total) * x.sum(axis=1) ** 2
    want = -0.5 * (n * np.log(2 * np.pi) + (n - 1) * np.log(variance) + np.log(total) + quadratic)
    np.testing.assert_allclose(log_mass_rows(pixel, row_std, codes, rate), want, rtol=0, atol=1e-6 * n)


def test_shares_add_up():
    rng = np.random.default_rng(4)
    pixel = PixelNoise(2.0, ReadNoise(1.0, 2.0, -0.1), 255)
    rate = rng.gamma(2.0, 10.0, (3, 40))
    codes = np.clip(np.rint(2 * rng.poisson(rate) + 2 * rng.normal(size=(3, 1))), 0, 255).astype(np.int64)
    shares = shares_rows(pixel, 2.0, codes, rate)
    np.testing.assert_allclose(shares.sum(axis=1), log_mass_rows(pixel, 2.0, codes, rate), rtol=1e-11)


@pytest.mark.parametrize("line", ["row", "column"])
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_truth_knows_which_pixels_share_a_line(cfa, line):
    """The mass of packed raw is that of the mosaic's rows (columns), each integrated by itself."""
    names = {"row_noise_dn": 0.0, "column_noise_dn": 0.0, f"{line}_noise_dn": 4.0}
    sensor = dataclasses.replace(SENSORS["rows"], cfa=cfa, **names)
    mosaic = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = sensor.sample_codes(mosaic[0].numpy(), 3200, 1)
    noisy = pack(torch.from_numpy(codes * sensor.lsb)[None], cfa)
    shot = Shot.of(pack(mosaic, cfa), camera="rows", iso=3200, cfa=cfa)
    truth = SensorTruth([sensor])
    lines, rates = (codes, mosaic[0].numpy()) if line == "row" else (codes.T, mosaic[0].numpy().T)
    want = log_mass_rows(sensor.pixel(3200), 4.0, lines, rates * sensor.white_e(3200)).sum()
    got = truth.log_mass(noisy, shot)
    assert got.item() == pytest.approx(want, rel=1e-10)
    shares = truth.log_mass_map(noisy, shot)
    assert shares.shape == (1, 3, 4)
    assert shares.sum().item() == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("line", ["row", "column"])
def test_truth_samples_share_their_lines_whatever_the_tile(line):
    names = {"row_noise_dn": 0.0, "column_noise_dn": 0.0, f"{line}_noise_dn": 60.0}
    sensor = dataclasses.replace(SENSORS["rows"], white_dn=1023, black_dn=400, bits=10, **names)
    truth = SensorTruth([sensor])
    shot = Shot.of(torch.full((2, 4, 40, 40), 0.2, dtype=torch.float64), camera="rows", iso=100)
    seeds = torch.tensor([3, 4])
    noise = truth.sample(shot, seed=seeds)
    crop = shot.replace(clean=shot.clean[..., 8:20, 4:30], origin=torch.tensor([8, 4]))
    assert torch.equal(truth.sample(crop, seed=seeds), noise[..., 8:20, 4:30])
    mosaic = unpack(noise, sensor.cfa).numpy() / sensor.lsb
    means = mosaic.mean(axis=2 if line == "row" else 1)  # (2, 80)
    inside = mosaic.std(axis=2 if line == "row" else 1)
    # 80 means of standard deviation 60: their own scatters by 60/√160 = 4.7; the pixels' noise is far below.
    assert (np.abs(means.std(axis=1) - 60) < 5 * 4.8).all()
    assert (inside < 30).all()
    # Neighbouring lines are independent: correlation of 79 pairs scatters by 1/√79.
    assert all(abs(np.corrcoef(m[:-1], m[1:])[0, 1]) < 4.5 / np.sqrt(79) for m in means)
