"""Moments between frames against known errors and sensors; brought-back noise against the sensor's distribution."""

import numpy as np
import pytest
import torch
from scipy import stats

from noiseflow.cells import cells
from noiseflow.conditions import Conditions
from noiseflow.models import quantise
from noiseflow.noise_level import NoiseLevel
from noiseflow.sensors import SENSORS
from noiseflow.shot import Shot
from noiseflow.training import frame_moments as fm

SIZE = 300_000


def made(sensor, iso, error, seed):
    """u, and two frames of signals that lie about u with a standard deviation of `error`."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(0.0, 1.0, SIZE) ** 3  # many dark ones
    x = np.abs(u + error * rng.standard_normal(SIZE))
    first, last = (sensor.sample_codes(x, iso, rng) * sensor.lsb for _ in "12")
    return u, first, last, rng.uniform(0, 1, SIZE)


def moments_of(u, first, last, texture):
    return fm.frame_moments(u, (first + last) / 2, (first - u) * (last - u), (first - last) ** 2 / 2, texture)


def test_products_of_residuals_hold_the_error_and_nothing_of_the_noise():
    """Skewed noise of variance 0.01 about errors of variance 0.0004; texture says nothing here."""
    rng = np.random.default_rng(0)
    u, error = rng.uniform(0, 1, SIZE), 0.02 * rng.standard_normal(SIZE)
    first, last = (u + error + 0.1 * (rng.exponential(1.0, SIZE) - 1) for _ in "12")
    found = moments_of(u, first, last, rng.uniform(0, 1, SIZE))
    whole = {name: np.average(getattr(found, name), weights=found.values) for name in ("error", "difference", "found")}
    # Standard errors: products vary by 0.01, exponentials squared by √5 · 0.01 · √2.
    assert abs(whole["error"] - 0.02**2) < 5 * 0.0104 / np.sqrt(SIZE) + found.values.size * 0.01 / SIZE
    assert abs(whole["difference"] - 0.01) < 5 * 0.032 / np.sqrt(SIZE)
    assert whole["found"] == pytest.approx(u.mean(), rel=1e-12)
    assert found.values.sum() == SIZE
    assert (np.diff(found.found, axis=0) > 0).all()
    share = found.values.sum(axis=0) / SIZE
    assert share == pytest.approx(np.diff([0, *fm.TEXTURE_STEPS, 1]), abs=0.002)


@pytest.mark.parametrize(("name", "iso"), [("S6", 800), ("night", 3200)])
def test_the_noise_level_is_the_sensor_s(name, iso):
    """Clipped at both ends, few electrons, a denoiser that errs by a tenth of the read noise."""
    sensor = SENSORS[name]
    a, b = sensor.noise_level(iso)
    u, first, last, texture = made(sensor, iso, 0.1 * np.sqrt(b), seed=1)
    found = moments_of(u, first, last, texture)
    behind = fm.fit_moments(found, lsb=sensor.lsb)
    # Half of the values count, half of those for b: standard errors of 0.7 and 1.5 %, and 1 % of each bin that the
    # square of the skewness is worth.
    assert behind.a == pytest.approx(a, rel=0.025)
    assert behind.b == pytest.approx(b, rel=0.06)
    inner = (found.found > 0.2) & (found.found < 0.6)
    sigma = np.sqrt(a * found.found + b)
    assert (np.abs(behind.signal - found.found) < 6 * sigma / np.sqrt(found.values))[inner].all()


def table(error, low=-0.1, high=1.1):
    """A table that says: the signal lies about u with a variance of `error`."""
    found = fm.FoundSignal(Conditions([("C", 100.0)]), 1)
    knots = np.linspace(low, high, 9)
    groups = np.ones((9, fm.GROUPS))
    moments = fm.FrameMoments(groups, knots[:, None] * groups, groups, groups, groups, groups[:, 1:])
    found.fill(0, 0, moments, fm.SignalBehind(0.0, 1.0, knots[:, None] * groups, error * groups))
    return found


@pytest.mark.parametrize("u", [0.0, 0.02, 0.4, 0.99])
def test_noise_brought_back_is_what_the_sensor_stores(u):
    """Normal noise, normal error: every code has its probability, at the clip as inside; rounding counts once."""
    lsb, sigma, r = 0.02, 0.03, 0.02**2
    rng = torch.Generator().manual_seed(3)
    shape = (1, 1, 300, 300)
    normals = [torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(3)]
    uniforms = torch.rand(shape, generator=rng, dtype=torch.float64).clamp_min(1e-16)
    shot = Shot.of(torch.full(shape, u, dtype=torch.float64), camera="C", iso=100, lsb=lsb)
    level = NoiseLevel(Conditions([("C", 100.0)]), 1, slope=False).double()
    with torch.no_grad():
        level.log_b.fill_(2 * np.log(sigma))
    noisy = quantise(u + r**0.5 * normals[0] + sigma * normals[1], shot)
    stored, given = table(r).bring_back(noisy, torch.full(shape, u), shot, level, uniforms, normals[2])
    assert torch.allclose(given.clean, torch.full(shape, u, dtype=torch.float64), atol=1e-7)
    assert not torch.equal(stored, noisy)
    edges = (np.arange(50) + 0.5) * lsb
    probability = np.diff([0, *stats.norm.cdf((edges - u) / sigma), 1])
    counts = np.bincount(torch.round(stored / lsb).long().flatten().numpy(), minlength=51)
    many = probability * stored.numel() > 10
    expected = np.append(probability[many], probability[~many].sum()) * stored.numel()
    seen = np.append(counts[many], counts[~many].sum())
    keep = expected > 0
    assert stats.chisquare(seen[keep], expected[keep] * seen[keep].sum() / expected[keep].sum()).pvalue > 1e-3
    wide = np.bincount(torch.round(noisy / lsb).long().flatten().numpy(), minlength=51)
    wide = np.append(wide[many], wide[~many].sum())[keep]
    assert stats.chisquare(wide, expected[keep] * wide.sum() / expected[keep].sum()).pvalue < 1e-6  # before, it is not
    assert bool((cells(stored, given).low < cells(stored, given).high).all())


def test_rows_find_their_own_condition_and_texture():
    """Two conditions with other tables; a rough place has the error of its group."""
    found = fm.FoundSignal(Conditions([("A", 100.0), ("A", 200.0)]), 1)
    groups = np.ones((2, fm.GROUPS))
    knots = np.array([[0.0], [1.0]]) * groups
    for row in (0, 1):
        errors = groups * np.arange(1, fm.GROUPS + 1) * 10.0**row
        moments = fm.FrameMoments(groups, knots, groups, groups, groups, np.tile([0.01, 0.02, 0.03, 0.2], (2, 1)))
        found.fill(row, 0, moments, fm.SignalBehind(0.0, 1.0, knots + 0.5 * row, errors))
    u = torch.full((2, 1, 8, 8), 0.25)
    u[:, :, :, 4:] = 0.75
    shot = Shot.of(u, camera="A", iso=torch.tensor([200.0, 100.0]))
    x, error = found.look_up(u, shot)
    assert torch.allclose(x, u.double() + torch.tensor([0.5, 0.0], dtype=torch.float64)[:, None, None, None])
    rough = torch.zeros(8, 8, dtype=torch.bool)
    rough[:, 3:5] = True  # the step of 0.5: a variance of 1/18 within 3×3, between 0.03 and 0.2
    expected = torch.where(rough, 4.0, 1.0).double()
    assert torch.equal(error[1, 0], expected)
    assert torch.equal(error[0, 0], 10 * expected)
