"""Fitting a noise level function: it finds what the data were made with, clipping and rounding included."""

import math

import pytest
import torch

from noiseflow.conditions import Conditions, UnknownConditionError
from noiseflow.models.base import quantise
from noiseflow.noise_level import NoiseLevel
from noiseflow.shot import Shot
from noiseflow.training.noise_level import fit_noise_level

TRUE = {("IP", 100.0): (7e-4, 1e-6), ("S6", 800.0): (4e-3, 5e-5), ("S6", 3200.0): (2e-2, 8e-4)}


def recorded(channels=4, lsb=1 / 1023, n=30, side=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys = [key for key in TRUE for _ in range(n)]
    clean = torch.rand(len(keys), channels, side, side, dtype=torch.float64, generator=generator) ** 3
    a, b = (torch.tensor([TRUE[key][i] for key in keys], dtype=torch.float64)[:, None, None, None] for i in (0, 1))
    shot = Shot.of(clean, camera=[camera for camera, _ in keys], iso=torch.tensor([iso for _, iso in keys]), lsb=lsb)
    noise = (a * clean + b).sqrt() * torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    return quantise(clean + noise, shot).float(), shot.to(dtype=torch.float32)


def test_finds_slope_and_intercept_under_clipping_and_rounding():
    noisy, shot = recorded()
    assert 0.02 < float((noisy == 0).float().mean()) < 0.4
    level = fit_noise_level(noisy, shot)
    values = 30 * 4 * 24 * 24
    for k, key in enumerate(level.conditions.pairs):
        a, b = TRUE[key]
        # A variance from n values has relative standard error sqrt(2/n) = 0.5 %; a and b share the data: 5 of them.
        assert math.exp(level.log_a[k, 0].item()) == pytest.approx(a, rel=5 * math.sqrt(2 / values) * 2)
        assert math.exp(level.log_b[k, 0].item()) == pytest.approx(b, rel=5 * math.sqrt(2 / values) * 6)
    assert float(level.offset.detach().abs().max()) == 0.0


def test_srgb_gets_values_per_channel_and_an_offset_per_camera():
    _, shot = recorded(channels=3, lsb=0.0)
    shot = shot.replace(low=-9.0, high=9.0)
    generator = torch.Generator().manual_seed(3)
    noise = (
        0.02 * torch.randn(shot.clean.shape, generator=generator) + torch.tensor([0.004, 0.0, -0.003])[:, None, None]
    )
    level = fit_noise_level(shot.clean + noise, shot)
    assert level.log_b.shape == (3, 3)
    assert level.offset.shape == (2, 3)
    error = 0.02 / math.sqrt(30 * 24 * 24)
    expected = torch.tensor([[0.004, 0.0, -0.003]]).expand(2, 3)
    assert float((level.offset - expected).detach().abs().max()) < 5 * error


def test_homoscedastic_fit_has_no_slope():
    noisy, shot = recorded()
    level = fit_noise_level(noisy, shot, slope=False)
    variance = level.variance(shot)
    assert float((variance.amax(dim=(2, 3)) - variance.amin(dim=(2, 3))).detach().max()) == 0.0


def test_variance_has_its_floor():
    level = NoiseLevel(Conditions([("S6", 100)]))
    with torch.no_grad():
        level.log_b.fill_(-60.0)
    shot = Shot.of(torch.tensor([-0.2, 0.5]).reshape(1, 1, 1, 2), camera="S6", iso=100, lsb=0.1)
    low, high = level.variance(shot).flatten().tolist()
    assert low == pytest.approx((0.1 / 20) ** 2, rel=1e-5)
    assert high == pytest.approx((0.1 / 20) ** 2 + 0.5 * math.exp(-6), rel=1e-5)


def test_conditions_are_resolved_by_name_and_interpolated_between_known_isos():
    conditions = Conditions([("S6", 100), ("S6", 400), ("IP", 100)])
    table = torch.tensor([[5.0], [1.0], [3.0]])  # IP 100, S6 100, S6 400

    def shot(camera, iso):
        return Shot.of(torch.zeros(1, 1, 1, 1), camera=camera, iso=iso)

    mixed = Shot(torch.zeros(2, 1, 1, 1), torch.tensor([400.0, 100.0]), torch.tensor([1, 0]), ("IP", "S6"))
    assert conditions.locate(mixed).read(table).flatten().tolist() == [3.0, 5.0]
    with pytest.raises(UnknownConditionError, match="camera 'G4' is unknown; known: IP, S6"):
        conditions.locate(shot("G4", 100))
    with pytest.raises(UnknownConditionError, match="known: 100, 400"):
        conditions.locate(shot("S6", 200))
    conditions.allow_unseen = True
    assert float(conditions.locate(shot("S6", 200)).read(table)) == pytest.approx(2.0)
    for iso in (50, 800):
        with pytest.raises(UnknownConditionError, match="nothing is extrapolated"):
            conditions.locate(shot("S6", iso))


def test_a_map_of_the_read_noise_takes_the_place_of_b():
    """Read noise differs tenfold between pixels, and the offset and the gain of each are known: the slope is found."""
    generator = torch.Generator().manual_seed(5)
    shape = (20, 1, 48, 48)
    light = torch.rand(shape, dtype=torch.float64, generator=generator) ** 3
    offset = 0.02 * torch.randn(shape, dtype=torch.float64, generator=generator)
    gain = 0.7 + 0.6 * torch.rand(shape, dtype=torch.float64, generator=generator)
    variance = 1e-3 * torch.rand(shape, dtype=torch.float64, generator=generator) ** 4
    clean = offset + gain * light  # what the pixel reads: its variance is a·gain²·light
    noise = (4e-3 * gain**2 * light + variance).sqrt() * torch.randn(shape, dtype=torch.float64, generator=generator)
    maps = {"offset": offset, "gain": gain, "variance": variance}
    shot = Shot.of(clean, camera="lab", iso=100.0, lsb=1 / 4095, low=-1.0, high=2.0, **maps)
    level = fit_noise_level(quantise(clean + noise, shot), shot)
    # 46,080 squares of unit variance: relative standard error of a scale sqrt(2/n) = 0.7 %, here with the part of them
    # that the light makes, about half.
    assert math.exp(level.log_a[0, 0].item()) == pytest.approx(4e-3, rel=5 * 2 * math.sqrt(2 / light.numel()))
    assert torch.isfinite(level.log_b).all()
