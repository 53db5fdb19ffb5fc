import math

import numpy as np
import pytest
import torch

from noiseflow.metrics.curves import IntensityCurve
from noiseflow.metrics.structure import (
    LAG,
    Structure,
    autocovariance,
    effects,
    monte_carlo,
    permutation,
    standard_deviation,
    statistics,
)


def sums(noise, image=0, images=1, std=None, clean=None):
    structure = Structure(images, noise.shape[1])
    flat = torch.full_like(noise, 0.5)
    structure.update(noise, torch.ones_like(noise) if std is None else std, flat if clean is None else clean, image)
    return structure.state


def row(state, i=0):
    return {name: value[i] for name, value in state.items()}


def blurred(white, sigma):
    """Interior of white noise (N, C, H + 16, W + 16) under a blur that keeps the variance."""
    offsets = torch.arange(-LAG, LAG + 1, dtype=white.dtype)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.square().sum().sqrt()
    planes = white.flatten(0, 1)[:, None]
    planes = torch.nn.functional.conv2d(planes, weights[None, None, :, None])
    planes = torch.nn.functional.conv2d(planes, weights[None, None, None, :])
    return planes.reshape(*white.shape[:2], *planes.shape[-2:]), weights


def draw(law, shape, generator):
    n, c, h, w = shape
    if law == "correlated":
        return blurred(torch.randn(n, c, h + 2 * LAG, w + 2 * LAG, generator=generator), 0.7)[0]
    white = torch.randn(shape, generator=generator)
    if law == "row":
        return math.sqrt(0.9) * white + math.sqrt(0.1) * torch.randn(n, c, h, 1, generator=generator)
    return white


def test_autocovariance_is_the_sum_of_products_pixel_by_pixel():
    noise = torch.randn(2, 2, 11, 6, generator=torch.Generator().manual_seed(0)).double()
    got = autocovariance(row(sums(noise)))
    x = noise.numpy()
    mean = x.mean((0, 2, 3))
    for k, (a, b) in enumerate([(0, 0), (0, 1), (1, 1)]):
        for i in range(-LAG, LAG + 1):
            for j in range(-LAG, LAG + 1):
                terms = [
                    x[n, a, y, z] * x[n, b, y + i, z + j]
                    for n in range(2)
                    for y in range(max(0, -i), 11 - max(0, i))
                    for z in range(max(0, -j), 6 - max(0, j))
                ]
                # a narrow tile has no products at wide lags: the map says 0 − mean²; FFT of 19×14: a few ulp of Σ x²
                expected = (sum(terms) / len(terms) if terms else 0.0) - mean[a] * mean[b]
                assert got[k, i + LAG, j + LAG].item() == pytest.approx(expected, abs=1e-12)


def test_blurred_noise_has_its_theoretical_autocovariance():
    white = torch.randn(64, 1, 64 + 2 * LAG, 64 + 2 * LAG, generator=torch.Generator().manual_seed(0)).double()
    noise, weights = blurred(white, 1.0)
    taps = weights.numpy()
    along = np.array([(taps[: len(taps) - k] * taps[k:]).sum() for k in range(LAG + 1)])
    theory = along[np.abs(np.arange(-LAG, LAG + 1))]
    got = autocovariance(row(sums(noise)))[0].numpy()
    # 262,144 values, about 12.6 to an independent one (Σρ²): standard error √(2·12.6/262144) at most; 4.5 of them
    np.testing.assert_allclose(got, np.outer(theory, theory), atol=4.5 * math.sqrt(2 * 12.6 / 64**3))
    assert theory[LAG + 1] == pytest.approx(math.exp(-0.25), rel=1e-3)  # of a continuous Gaussian blur


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 9), (12, 7)])
def test_power_is_parsevals(height, width):
    noise = torch.randn(3, 2, height, width, generator=torch.Generator().manual_seed(1)).double() + 0.3
    state = row(sums(noise))
    constant = noise.sum((-2, -1)).square().sum(0) / (height * width)
    torch.testing.assert_close(state["power"].sum(-1) + constant, noise.square().sum((0, 2, 3)), rtol=1e-12, atol=0)
    assert state["frequencies"].sum() == 3 * (height * width - 1)


def test_spectrum_is_flat_for_white_noise_and_gaussian_for_blurred():
    generator = torch.Generator().manual_seed(2)
    white = torch.randn(100, 1, 48, 48, generator=generator).double()
    state = row(sums(white))
    # power of n frequencies, each pair of which is exponential: relative standard error √(2/n)
    error = (10 / math.log(10)) * (2 / state["frequencies"]).sqrt()
    assert (statistics(state)["spectrum"].abs() < 4 * error + 0.01).all()
    noise, weights = blurred(white, 1.0)
    state = row(sums(noise))
    # mean periodogram of a 32×32 tile: the transform of the blur's autocovariance times a triangle
    taps = weights.numpy()
    lag = np.arange(-LAG, LAG + 1)
    along = np.array([(taps[: len(taps) - abs(k)] * taps[abs(k) :]).sum() for k in lag]) * (1 - np.abs(lag) / 32)
    f = np.fft.fftfreq(32)
    power = (along * np.cos(2 * np.pi * f[:, None] * lag)).sum(1)
    power, radius = power[:, None] * power, np.sqrt(2 * (f[:, None] ** 2 + f**2))
    radius[0, 0] = np.inf  # without frequency 0
    expected = [10 * math.log10(power[np.floor(radius * 8) == ring].mean()) for ring in range(8)]
    # within a ring the power varies, so that fewer frequencies count, at least a quarter of them; in the last two,
    # 25 dB down, what leaks in from the tile's edges makes them depend on one another
    far = np.abs(statistics(state)["spectrum"].numpy() - expected) / (4 * 2 * error + 0.05).numpy()
    assert (far[:6] < 1).all()


def test_rows_columns_tails_and_std_are_numpys():
    rng = np.random.default_rng(0)
    noise = rng.standard_t(5, (4, 2, 20, 30)) * 0.05 + 0.01
    clean = rng.uniform(0, 1, noise.shape)
    std = 0.02 + 0.05 * clean
    got = statistics(
        row(sums(*map(torch.from_numpy, (noise,)), std=torch.from_numpy(std), clean=torch.from_numpy(clean)))
    )
    u = noise / std
    mean, variance = u.mean((0, 2, 3)), u.var((0, 2, 3))
    np.testing.assert_allclose(got["mean"], mean, rtol=1e-10)
    rows = 30 * ((u.mean(3) - mean[:, None]) ** 2).mean((0, 2)) / variance - 1
    columns = 20 * ((u.mean(2) - mean[:, None]) ** 2).mean((0, 2)) / variance - 1
    np.testing.assert_allclose(got["rows"], rows, rtol=1e-9)
    np.testing.assert_allclose(got["columns"], columns, rtol=1e-9)
    # quantiles from bins of 0.05: within a bin, and as far as the neighbouring values lie apart
    at = [0.001, 0.01, 0.05, 0.95, 0.99, 0.999]
    wanted = np.quantile(u, at)
    gaps = np.quantile(u, np.clip(np.array(at) + 1 / 4800, 0, 1)) - np.quantile(
        u, np.clip(np.array(at) - 1 / 4800, 0, 1)
    )
    assert (np.abs(got["tails"].numpy() * np.sqrt(variance.mean()) - wanted) < 0.05 + gaps).all()
    level = np.minimum(np.floor(np.sqrt(clean) * 16), 15)
    for k in range(16):
        inside = level == k
        expected = 0.5 * np.log((u[inside] ** 2).mean()) if inside.mean() >= 0.01 else 0.0
        assert got["std"][k].item() == pytest.approx(expected, abs=1e-12)


def test_pieces_add_up():
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(6, 2, 12, 16, generator=generator)
    clean = torch.rand(6, 2, 12, 16, generator=generator)
    image = torch.tensor([2, 0, 1, 2, 2, 0])
    whole, first, second = (Structure(3, 2) for _ in range(3))
    whole.update(noise, clean + 1, clean, image)
    first.update(noise[:2], clean[:2] + 1, clean[:2], image[:2])
    second.update(noise[2:], clean[2:] + 1, clean[2:], image[2:])
    first.merge(second)
    for name, value in whole.state.items():
        torch.testing.assert_close(first.state[name], value, rtol=1e-11, atol=1e-10)
    alone = Structure(1, 2)
    alone.update(noise, clean + 1, clean)
    for name, value in statistics({k: v.sum(0) for k, v in whole.state.items()}).items():
        torch.testing.assert_close(value, statistics(alone.state)[name][0], rtol=1e-9, atol=1e-10)


def test_reference_follows_the_curve():
    generator = torch.Generator().manual_seed(4)
    clean = torch.rand(1, 1, 400, 400, generator=generator).double()
    std = (0.01 * clean + 1e-4).sqrt()
    curve = IntensityCurve()
    curve.update(std * torch.randn(clean.shape, generator=generator), clean, [("S6", 100.0)])
    got = standard_deviation(curve.statistics(("S6", 100.0)), clean)
    bright = clean > 0.05  # 160,000 values: a bin there holds at least 1500, √(1/3000) = 1.8 %
    assert ((got / std - 1).abs()[bright] < 0.08).all()
    empty = IntensityCurve(bins=2)
    empty.update(clean[..., :1, :1] * 0, clean[..., :1, :1], [("S6", 100.0)])
    with pytest.raises(ValueError, match="at least 30 values"):
        standard_deviation(empty.statistics(("S6", 100.0)), clean)


@pytest.mark.parametrize("law", ["white", "row", "correlated"])
def test_a_true_model_is_rejected_at_the_stated_rate(law):
    generator = torch.Generator().manual_seed(5)
    rejected = {"family": 0}
    image = torch.arange(400).repeat_interleave(4)
    for _ in range(20):  # of 20 repetitions each, of 20 sets each, of 4 patches each
        every = statistics(sums(draw(law, (1600, 1, 16, 16), generator), image, 400))
        for first in range(0, 400, 20):
            test = monte_carlo({name: values[first : first + 20] for name, values in every.items()})
            for name, p in {"family": test.p, **test.p_each}.items():
                rejected[name] = rejected.get(name, 0) + (p <= 0.05)
    # one of 20 places is p <= 0.05: 20 of 400, binomial standard deviation 4.4, 4 of them
    low, high = 20 - 4 * math.sqrt(400 * 0.05 * 0.95), 20 + 4 * math.sqrt(400 * 0.05 * 0.95)
    assert rejected.pop("std") <= high  # one intensity: a single entry
    assert all(low <= count <= high for count in rejected.values()), rejected


def test_a_reference_from_the_model_keeps_the_rate_where_noise_depends_on_intensity():
    generator = torch.Generator().manual_seed(9)
    clean = torch.rand(4, 1, 1, 16, generator=generator).expand(4, 1, 16, 16).double()
    level = (0.012 * clean + 2e-5).sqrt()
    rejected, found, repeats = 0, 0, 200
    for _ in range(repeats):
        curve = IntensityCurve()
        further = level.repeat(4, 1, 1, 1) * torch.randn(16, 1, 16, 16, generator=generator)
        curve.update(further, clean.repeat(4, 1, 1, 1), [("S6", 100.0)] * 16)
        std = standard_deviation(curve.statistics(("S6", 100.0)), clean)
        noise = (level * torch.randn(20, 4, 1, 16, 16, generator=generator)).flatten(0, 1)
        sets, image = Structure(21, 1), torch.arange(20).repeat_interleave(4)
        sets.update(noise, std.repeat(20, 1, 1, 1), clean.repeat(20, 1, 1, 1), image)
        flat = noise[:4] / level * level.square().mean().sqrt()  # one level for dark and bright
        sets.update(flat, std, clean, 20)
        rows = statistics(sets.state)
        rejected += monte_carlo({name: v[:20] for name, v in rows.items()}).p <= 0.05
        test = monte_carlo({name: torch.cat([v[20:], v[1:20]]) for name, v in rows.items()})
        found += test.p_each["std"] <= 0.05
    # one of 20 places: 10 of 200, 4 binomial standard deviations
    assert 0 < rejected <= 10 + 4 * math.sqrt(200 * 0.05 * 0.95)
    assert found == repeats


@pytest.mark.parametrize("channels", [1, 4])
def test_blur_with_the_right_marginal_is_found(channels):
    generator = torch.Generator().manual_seed(6)
    for _ in range(3 if channels == 1 else 1):
        data = blurred(torch.randn(64, channels, 48, 48, generator=generator), 1.0)[0]
        model = torch.randn(19 * 64, channels, 32, 32, generator=generator)
        state = sums(torch.cat([data, model]), torch.arange(20).repeat_interleave(64), 20)
        test = monte_carlo(statistics(state))
        assert test.p == 0.05  # the least that 19 draws can give
        assert test.p_each["autocorrelation"] == test.p_each["spectrum"] == 0.05
        assert test.effects["autocorrelation"] == pytest.approx(math.exp(-0.25), abs=0.03)


def test_permutation_is_exact_and_finds_what_differs():
    generator = torch.Generator().manual_seed(7)
    every = [sums(draw("row", (2000, 1, 16, 16), generator), torch.arange(2000), 2000) for _ in range(2)]
    rejected = 0
    for seed in range(200):
        both = [{name: value[10 * seed : 10 * seed + 10] for name, value in state.items()} for state in every]
        rejected += permutation(*both, seed=seed, draws=39).p <= 0.05
    # 2 of 40 places, a little less for ties (an exchange of all): 10 of 200, 4 binomial standard deviations
    assert 0 < rejected <= 10 + 4 * math.sqrt(200 * 0.05 * 0.95)
    image = torch.arange(10)
    data = sums(draw("row", (10, 1, 32, 32), generator), image, 10)
    sample = sums(draw("white", (10, 1, 32, 32), generator), image, 10)
    test = permutation(data, sample, seed=0, draws=199)
    assert test.p <= 0.03 and test.p_each["rows"] <= 0.03
    assert test.effects["rows"] == pytest.approx(0.1 * 31, rel=0.4)  # 640 rows: √(2/320)·4.1 = 0.32 in standard error


def test_effects_are_in_their_units():
    generator = torch.Generator().manual_seed(8)
    noise = torch.randn(50, 1, 32, 32, generator=generator).double()
    base = statistics(row(sums(noise)))
    louder = statistics(row(sums(1.1 * noise + 0.05)))
    got = effects(louder, base)
    assert got["std"] == pytest.approx(math.log(1.1), abs=0.003) and got["mean"] == pytest.approx(0.05, abs=0.002)
    # level and offset are told by std and mean alone; the offset leaks into wide lags, whose products leave out edges:
    # 2·0.05 of the scatter of a mean over 50·1024·(1 − 9/16) values, 4 standard errors
    assert max(got[name] for name in ("spectrum", "rows", "columns")) < 1e-9
    assert got["autocorrelation"] < 4 * 2 * 0.05 / math.sqrt(50 * 1024 * 7 / 16)


def test_what_is_wrong_is_said():
    noise = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match="std: expected positive"):
        sums(noise, std=noise)
    with pytest.raises(ValueError, match="with 2 channels"):
        Structure(1, 2).update(noise, noise, noise)
    with pytest.raises(ValueError, match="at least 19 draws"):
        monte_carlo({"mean": torch.zeros(19, 1)})
    one, two = (sums(torch.ones(n, 1, 16, 16), torch.arange(n), n) for n in (1, 2))
    with pytest.raises(ValueError, match="the data's 1 images, got 2"):
        permutation(one, two, seed=0)
