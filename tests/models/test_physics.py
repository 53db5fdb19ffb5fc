"""The physics model: code probabilities add up, samples follow them, and no row knows of another."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from noiseflow.datasets.base import UNCLIPPED
from noiseflow.models import NoDensityError, Physics, synthesize
from noiseflow.models.electronics import Electronics, Grid
from noiseflow.sensors import PHONES, SensorTruth
from noiseflow.shot import Shot

PAIRS = [("IP", 100), ("S6", 800), ("S6", 3200)]
PLAIN = [Electronics(1400.0, 6e-4), Electronics(270.0, 8e-3), Electronics(50.0, 0.04)]


def model_of(values, channels=4):
    model = Physics(PAIRS, channels)
    for k, electronics in enumerate(values):
        model.set(k, electronics)
    return model


TUKEY = [Electronics(1400.0, 6e-4, -0.1), Electronics(270.0, 8e-3, -0.15), Electronics(50.0, 0.04, -0.02)]
ROWS = [Electronics(1400.0, 6e-4, row=6e-4), Electronics(270.0, 8e-3, row=3e-3), Electronics(50.0, 0.04, row=0.04)]
BUILD = {
    "plain": lambda: model_of(PLAIN),
    "mono": lambda: model_of(PLAIN, 1),
    "tukey": lambda: model_of(TUKEY),
    "rows": lambda: model_of(ROWS),
    "mono rows": lambda: model_of(ROWS, 1),
}


def shot_for(batch, channels, height, width, **rest):
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(batch, channels, height, width, dtype=torch.float64, generator=generator) ** 2
    chosen = [PAIRS[i % len(PAIRS)] for i in range(batch)]
    return Shot.of(clean, camera=[c for c, _ in chosen], iso=torch.tensor([float(i) for _, i in chosen]), **rest)


def every_code(clean, pair, *, lsb, low=0.0, channels=1):
    """One pixel at one clean value, once with each code that it can have."""
    noisy = (low + lsb * torch.arange(round((1.0 - low) / lsb) + 1, dtype=torch.float64)).reshape(-1, 1, 1, 1)
    noisy = noisy.expand(-1, channels, 1, 1)
    return noisy, Shot.of(torch.full_like(noisy, clean), camera=pair[0], iso=pair[1], lsb=lsb, low=low)


@pytest.mark.parametrize("clean", [-0.05, 0.0, 0.003, 0.4, 1.0, 1.1])
@pytest.mark.parametrize("low", [0.0, -16 / 255])
@pytest.mark.parametrize("values", [PLAIN, TUKEY], ids=["plain", "tukey"])
def test_masses_of_all_codes_sum_to_one(values, clean, low):
    model = model_of(values, 1)
    for pair in PAIRS:
        noisy, shot = every_code(clean, pair, lsb=1 / 255, low=low)
        assert float((model.log_mass(noisy, shot).exp().sum() - 1).abs()) <= 1e-9


@pytest.mark.parametrize("values", [PLAIN, TUKEY], ids=["plain", "tukey"])
@pytest.mark.parametrize(("row", "clean"), [(1, 0.004), (2, 0.5), (0, 0.02)])
def test_density_integrates_to_one_and_what_is_clipped_is_the_rest(values, row, clean):
    model = model_of(values, 1)
    spread = math.sqrt(clean / values[row].white_e + values[row].read ** 2)
    noise = torch.linspace(-25, 25, 2001, dtype=torch.float64).reshape(-1, 1, 1, 1) * spread
    step = float(noise[1] - noise[0])
    camera, iso = PAIRS[row]
    shot = Shot.of(torch.full_like(noise, clean), camera=camera, iso=iso, low=-1e3, high=1e3)
    log_density = model.log_prob(noise, shot)
    density = log_density.exp()
    # A trapezium rule with 40 steps a standard deviation. Of Tukey's tails, X^(1/lambda), 1e-9 lies beyond.
    assert float(density.sum()) * step == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(model.log_mass(shot.clean + noise, shot), log_density, rtol=1e-9, atol=1e-9)
    low, high = (clean + float(noise[i]) for i in (940, 1120))
    ends = torch.tensor([low, high], dtype=torch.float64).reshape(2, 1, 1, 1)
    clipped = Shot.of(torch.full_like(ends, clean), camera=camera, iso=iso, low=low, high=high)
    inside = (float(density[940:1121].sum()) - 0.5 * float(density[940] + density[1120])) * step
    assert float(model.log_mass(ends, clipped).exp().sum()) + inside == pytest.approx(1.0, abs=2e-4)


@pytest.mark.parametrize("clean", [0.0, 0.003, 0.4])
def test_the_limit_of_many_electrons_is_where_no_single_one_shows(clean):
    """Just below the limit every electron counts, just above it none does: the divergence is that of the skewness."""
    model = Physics([("S6", 800)], 1)
    noisy, shot = every_code(clean, ("S6", 800), lsb=1 / 255)
    mass = []
    for factor in (0.99999, 1.00001):
        model.set(0, Electronics(factor * 64 / math.hypot(0.02, 1 / 255 / math.sqrt(12)), 0.02))
        mass.append(model.log_mass(noisy, shot).numpy())
    counted, limit = mass
    assert float(np.exp(limit).sum()) == pytest.approx(1.0, abs=1e-9)
    assert -1e-12 < float((np.exp(counted) * (counted - limit)).sum()) < 4e-6


def test_it_is_the_virtual_sensor_whose_values_it_has():
    sensor = PHONES["S6"]
    model = model_of(
        [PLAIN[0], *(Electronics(sensor.white_e(i), sensor.noise_level(i)[1] ** 0.5) for i in (800, 3200))]
    )
    truth = SensorTruth([sensor])
    shot = shot_for(6, 4, 6, 8, lsb=sensor.lsb).rows([1, 2, 4, 5])
    noisy = shot.clean + truth.sample(shot, seed=torch.arange(4))
    np.testing.assert_allclose(model.log_mass(noisy, shot), truth.log_mass(noisy, shot), rtol=1e-9)
    a, b = sensor.noise_level(800)
    level = model.noise_level()
    assert math.exp(level.log_a[1, 0]) == pytest.approx(a, rel=1e-5)
    assert math.exp(level.log_b[1, 0]) == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("name", [n for n in BUILD if "rows" not in n])  # rows go together
@pytest.mark.parametrize(("pair", "clean"), [(PAIRS[1], 0.004), (PAIRS[2], 0.5), (PAIRS[0], 0.02)])
def test_synthesized_codes_have_their_probabilities(name, pair, clean):
    model, lsb = BUILD[name](), 1 / 255
    shot = Shot.of(torch.full((1, model.channels, 150, 160), clean), camera=pair[0], iso=pair[1], lsb=lsb)
    codes = np.rint(synthesize(model, shot, seed=3).numpy().reshape(-1) / lsb).astype(int)
    noisy, each = every_code(clean, pair, lsb=lsb, channels=model.channels)
    p = np.exp(model.log_mass_map(noisy, each).numpy().reshape(-1) / model.channels)
    expected = p / p.sum() * codes.size
    bins = np.minimum(np.cumsum(expected) // 50, expected.sum() // 50 - 1).astype(int)  # some 50 expected in each
    observed, expected = (np.bincount(bins, weights=w) for w in (np.bincount(codes, minlength=p.size), expected))
    kept = expected > 0
    assert stats.chisquare(observed[kept], expected[kept]).pvalue > 1e-3


@pytest.mark.parametrize("name", BUILD)
def test_samples_have_the_noise_levels_moments(name):
    model = BUILD[name]()
    level = model.noise_level().double()
    for i in range(3):
        shot = shot_for(3, model.channels, 200, 200).rows(i)
        noise = model.sample(shot, seed=5)
        z = (noise / level.variance(shot).sqrt()).detach().numpy()
        rows = z.mean(axis=-1)  # row noise is one number a row, and R and G beside it share it
        assert abs(z.mean()) < 4 * math.sqrt(2) * rows.std() / math.sqrt(rows.size)
        spread = float((z**2).std())  # Poisson noise has more of a tail than a normal's sqrt(2)
        of_rows = float((rows**2).std()) * math.sqrt(2)
        assert abs((z**2).mean() - 1) < 4 * max(spread / math.sqrt(z.size), of_rows / math.sqrt(rows.size))


@pytest.mark.parametrize("name", BUILD)
def test_rows_of_mixed_batches_stand_alone(name):
    model = BUILD[name]()
    shot = shot_for(5, model.channels, 8, 6, lsb=1 / 1023)
    seeds = torch.tensor([3, 3, 4, 5, 6])
    noise = model.sample(shot, seed=seeds)
    noisy = synthesize(model, shot, seed=seeds)
    mass, shares = model.log_mass(noisy, shot), model.log_mass_map(noisy, shot)
    assert shares.shape == (5, 8, 6)
    torch.testing.assert_close(shares.sum(dim=(1, 2)), mass, rtol=1e-12, atol=0)
    for i in range(5):
        row = shot.rows(i)
        assert torch.equal(model.sample(row, seed=int(seeds[i]))[0], noise[i])
        # Sums with Tukey's tails leave out 1e-10 of a probability, row integrals 1e-9: where depends on the company.
        assert float(model.log_mass(noisy[i : i + 1], row)) == pytest.approx(float(mass[i]), rel=1e-9)
        torch.testing.assert_close(model.log_mass_map(noisy[i : i + 1], row)[0], shares[i], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", BUILD)
def test_a_tile_has_the_noise_of_its_place_in_the_frame(name):
    model = BUILD[name]()
    shot = shot_for(1, model.channels, 24, 26)
    whole = model.sample(shot, seed=9)
    tile = shot.replace(clean=shot.clean[..., 8:20, 10:26], origin=torch.tensor([[8, 10]]))
    assert torch.equal(model.sample(tile, seed=9), whole[..., 8:20, 10:26])


def test_row_noise_is_an_offset_that_the_pixels_of_a_sensor_row_share():
    """Against the plain sum over offsets, each with the probability of the row's pixels given it."""
    model = BUILD["rows"]()
    shot = Shot.of(torch.full((1, 4, 3, 5), 0.01, dtype=torch.float64), camera="S6", iso=800, lsb=1 / 255)
    noisy = synthesize(model, shot, seed=4)
    codes = np.rint(noisy.numpy()[0] * 255).astype(int)
    sigma = ROWS[1].row * 255
    offsets = np.linspace(-9 * sigma, 9 * sigma, 801)
    pixel, want = ROWS[1].pixel(1 / 255, 0, 255), 0.0
    for channels in ([0, 1], [2, 3]):
        for row in range(3):
            total = np.zeros(offsets.size)
            for code in codes[channels, row].reshape(-1):
                total += pixel.log_pmf(np.full(offsets.size, code), np.full(offsets.size, 2.7), offsets)
            weight = np.exp(-0.5 * (offsets / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
            want += math.log(np.trapezoid(np.exp(total) * weight, offsets))
    assert float(model.log_mass(noisy, shot)) == pytest.approx(want, abs=1e-6)


def test_sampled_rows_go_together():
    model = BUILD["rows"]()
    shot = Shot.of(torch.full((1, 4, 3000, 8), 0.02, dtype=torch.float64), camera="S6", iso=800)
    z = model.sample(shot, seed=1)[0].mean(dim=-1)  # (4, 3000)
    # Means of 8 pixels: variance row² + v/8; those of R and the G beside it have row² in common.
    pixel, row = 0.02 / 270 + 8e-3**2, 3e-3**2
    want = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]) * row + torch.eye(4) * pixel / 8
    assert float((torch.cov(z) - want).abs().max()) < 5 * (row + pixel / 8) * math.sqrt(2 / 3000)


def test_what_row_noise_cannot_do_is_said():
    model = BUILD["rows"]()
    shot = Shot.of(torch.full((1, 4, 2, 2), 0.5), camera="S6", iso=800)
    with pytest.raises(NoDensityError, match="log_mass"):
        model.log_prob(shot.clean, shot)
    with pytest.raises(NoDensityError, match="lsb > 0"):
        model.log_mass(shot.clean, shot)
    with pytest.raises(ValueError, match="one code grid"):
        model.log_mass(shot.clean, shot.replace(lsb=torch.tensor([[0.01, 0.02, 0.01, 0.01]])))


def test_isos_between_known_ones_are_interpolated():
    model = model_of(PLAIN)
    model.conditions.allow_unseen = True
    shot = Shot.of(torch.zeros(1, 4, 1, 1), camera="S6", iso=1600)
    (between,) = model.electronics(shot)
    assert between.white_e == pytest.approx(math.sqrt(270.0 * 50.0))
    assert between.read == pytest.approx(math.sqrt(8e-3 * 0.04))


def test_pictures_are_refused():
    with pytest.raises(ValueError, match="got 3"):
        Physics(PAIRS, 3)


def test_images_that_were_not_clipped():
    """A clip end far out of reach and none at all give the same probabilities, and the same time and memory."""
    far, none = (Grid(1 / 1023, -end, end) for end in (0.5, UNCLIPPED))
    electronics = Electronics(200.0, 0.01)
    clean = np.linspace(0.0, 0.2, 500)
    stored = np.rint((clean + 0.03 * np.sin(np.arange(500))) * 1023) / 1023
    assert np.allclose(electronics.log_mass(stored, clean, none), electronics.log_mass(stored, clean, far), rtol=1e-12)
