"""The virtual sensors against brute force, against their own samples and against the contract of a model."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from fits import p_value_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from noiseflow.errors import UserError
from noiseflow.models.base import NoDensityError
from noiseflow.sensors import PHONES, SensorTruth, VirtualSensor
from noiseflow.sensors.poisson import poisson_quantile
from noiseflow.shot import Shot

CONDITIONS = [(sensor, iso) for sensor in PHONES.values() for iso in sensor.isos]
IDS = [f"{sensor.name}-{iso}" for sensor, iso in CONDITIONS]
TOY = VirtualSensor("toy", "RGGB", 6, 4, 60, ((100, 0.05), (400, 0.2)), read_pre_e=0.7, read_post_dn=0.05)


def brute_force(sensor: VirtualSensor, code: int, clean: float, iso: float) -> float:
    """Log probability of a code as one sum over all electrons that could matter."""
    rate, gain, read = max(clean, 0.0) * sensor.white_e(iso), sensor.gain(iso), sensor.read_noise_dn(iso)
    electrons = np.arange(int(2 * max(rate, sensor.white_e(iso)) + 80 * read / gain + 500))
    poisson = special.xlogy(electrons, rate) - rate - special.gammaln(electrons + 1)
    lower = (code - 0.5 - gain * electrons) / read if code > 0 else np.full(electrons.shape, -np.inf)
    upper = (code + 0.5 - gain * electrons) / read if code < sensor.max_code else -lower * 0 + np.inf
    swap = lower + upper > 0
    lower, upper = np.where(swap, -upper, lower), np.where(swap, -lower, upper)
    with np.errstate(divide="ignore"):
        cell = special.log_ndtr(upper) + np.log1p(-np.exp(special.log_ndtr(lower) - special.log_ndtr(upper)))
    return float(special.logsumexp(poisson + cell))


@pytest.mark.parametrize(("sensor", "iso"), [*CONDITIONS, (TOY, 100), (TOY, 400)], ids=[*IDS, "toy", "toy4"])
def test_log_pmf_is_the_sum_over_all_electrons(sensor, iso):
    rng = np.random.default_rng(7)
    cleans = [0.0, -0.1, 1e-6, 1e-3, 0.03, 0.5, 0.98, 1.05, *np.exp(rng.uniform(-7, 0, 4))]
    for clean in cleans:
        codes = np.concatenate([[0, 1, sensor.max_code - 1, sensor.max_code], rng.integers(0, sensor.max_code + 1, 6)])
        got = sensor.log_pmf(codes, clean, iso)
        want = [brute_force(sensor, int(code), clean, iso) for code in codes]
        # Terms near e·log λ ~ 1e4 carry rounding errors of 1e4 · 1e-16 · (a few); far codes are relative.
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


def test_far_codes_have_finite_logs():
    sensor = PHONES["S6"]
    logs = sensor.log_pmf([0, 0, 1023, 1023], [1.0, 0.9, 0.0, 0.02], 100)
    assert np.isfinite(logs).all()
    assert (logs < -700).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(CONDITIONS), st.floats(-0.05, 1.05))
def test_pmf_sums_to_one(condition, clean):
    sensor, iso = condition
    assert abs(sensor.pmf(clean, iso).sum() - 1.0) < 1e-9


def test_log_pmf_of_an_array_is_that_of_its_elements():
    sensor = PHONES["N6"]
    rng = np.random.default_rng(3)
    clean = rng.uniform(0, 1, (30, 40))
    codes = rng.integers(0, sensor.max_code + 1, (30, 40))
    together = sensor.log_pmf(codes, clean, 800)
    assert together.shape == (30, 40) and together.dtype == np.float64
    for place in [(0, 0), (7, 31), (29, 39)]:
        assert together[place] == sensor.log_pmf(codes[place], clean[place], 800)


def test_the_fit_test_sees_a_wrong_read_noise():
    sensor = PHONES["S6"]
    codes = sensor.sample_codes(np.full(1_000_000, 0.05), 800, 0)
    wrong = dataclasses.replace(sensor, read_pre_e=2.2)
    p = p_value_of(codes, wrong.pmf(0.05, 800))
    assert p is not None and p < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 5000), st.integers(0, 1000))
def test_poisson_quantile_is_scipys(rate, seed):
    u = np.random.default_rng(seed).uniform(1e-9, 1 - 1e-9, 200)
    got = poisson_quantile(u, np.full(200, rate))
    assert (special.pdtr(got, rate) >= u).all()
    assert (np.where(got > 0, special.pdtr(np.maximum(got - 1, 0), rate), 0.0) < u).all()


def test_levels_follow_the_published_slopes():
    s6 = PHONES["S6"]
    assert s6.white_e(800) == pytest.approx(1 / 0.003696)
    # Log-log interpolation: the geometric mean of two ISOs has the geometric mean of their slopes.
    assert s6.slope(np.sqrt(100 * 400)) == pytest.approx(np.sqrt(0.000479 * 0.001774))
    assert PHONES["IP"].slope(250) == pytest.approx(7.0e-4 * 2.5)
    assert PHONES["IP"].isos == (100, 400, 800, 1600)
    assert PHONES["G4"].isos == (100, 400, 800)
    a, b = s6.noise_level(800)
    assert a == pytest.approx(0.003696)
    assert b == pytest.approx((0.003696 * 2.1) ** 2 + (0.8 / 1023) ** 2)
    with pytest.raises(UserError, match="ISO 100 to 800"):
        PHONES["G4"].white_e(1600)


def test_variance_of_samples_is_the_noise_level_function():
    sensor = PHONES["GP"]
    a, b = sensor.noise_level(400)
    codes = sensor.sample_codes(np.full(400_000, 0.3), 400, 5) * sensor.lsb
    want = a * 0.3 + b + sensor.lsb**2 / 12  # rounding adds a uniform error
    assert codes.mean() == pytest.approx(0.3, abs=5 * np.sqrt(want / 400_000))
    assert codes.var() == pytest.approx(want, rel=5 * np.sqrt(2 / 400_000))


@pytest.mark.parametrize(
    "change",
    [
        {"cfa": "RGBG"},
        {"white_dn": 4096},
        {"black_dn": 1023},
        {"slopes": ()},
        {"slopes": ((400, 0.1), (100, 0.1))},
        {"read_pre_e": -1.0},
        {"read_pre_e": 0.0, "read_post_dn": 0.0},
    ],
)
def test_impossible_sensors_are_refused(change):
    with pytest.raises(UserError, match="S6"):
        dataclasses.replace(PHONES["S6"], **change)


def test_codes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="0 to 1023"):
        PHONES["S6"].log_pmf([1024], [0.5], 100)
    with pytest.raises(ValueError, match="integers"):
        PHONES["S6"].log_pmf([0.5], [0.5], 100)


def test_dict_round_trip_through_json():
    for sensor in PHONES.values():
        assert VirtualSensor.from_dict(json.loads(json.dumps(sensor.to_dict()))) == sensor
    with pytest.raises(UserError, match="slopes"):
        VirtualSensor.from_dict({"name": "x"})


def mixed_shot(generator: torch.Generator) -> Shot:
    clean = torch.rand(4, 4, 6, 8, generator=generator)
    return Shot.of(clean, camera=["S6", "IP", "S6", "G4"], iso=torch.tensor([100.0, 400.0, 3200.0, 100.0]), lsb=0.001)


def test_truth_scores_each_row_by_its_own_camera_and_iso():
    truth = SensorTruth(list(PHONES.values()))
    shot = mixed_shot(torch.Generator().manual_seed(0))
    noisy = shot.clean.double() + truth.sample(shot, seed=torch.arange(4)).double()
    got = truth.log_mass(noisy, shot)
    assert got.dtype == torch.float64 and got.shape == (4,)
    for row, (name, iso) in enumerate(zip(shot.camera_names, shot.iso.tolist(), strict=True)):
        sensor = PHONES[name]
        codes = np.rint(noisy[row].numpy() * sensor.max_code).astype(int)
        want = sensor.log_pmf(codes, shot.clean[row].double().numpy(), iso).sum()
        assert got[row].item() == pytest.approx(want, rel=1e-12)
        assert truth.log_mass(noisy[row : row + 1], shot.rows(row)).item() == got[row].item()


def test_truth_samples_are_the_same_alone_and_in_a_crop():
    truth = SensorTruth(list(PHONES.values()))
    shot = mixed_shot(torch.Generator().manual_seed(1))
    seeds = torch.tensor([5, 6, 7, 8])
    together = truth.sample(shot, seed=seeds)
    assert together.dtype == shot.clean.dtype
    for row in range(4):
        alone = truth.sample(shot.rows(row), seed=seeds[row : row + 1])
        assert torch.equal(alone[0], together[row])
    crop = shot.replace(clean=shot.clean[:, :, 2:5, 3:7], origin=torch.tensor([2, 3]))
    assert torch.equal(truth.sample(crop, seed=seeds), together[:, :, 2:5, 3:7])
    assert not torch.equal(truth.sample(shot, seed=9), together)


@pytest.mark.parametrize(("camera", "iso", "clean"), [("S6", 800, 0.004), ("IP", 100, 0.2), ("N6", 3200, 0.97)])
def test_truth_samples_fit_the_pmf(camera, iso, clean):
    sensor = PHONES[camera]
    shot = Shot.of(torch.full((1, 4, 250, 200), clean, dtype=torch.float64), camera=camera, iso=iso)
    noisy = shot.clean + SensorTruth([sensor]).sample(shot, seed=11)
    codes = np.rint(noisy.numpy().reshape(-1) * sensor.max_code).astype(int)
    p = p_value_of(codes, sensor.pmf(clean, iso))
    assert p is not None and p > 1e-3


def test_truth_names_what_it_cannot_do():
    truth = SensorTruth([PHONES["S6"]])
    shot = Shot.of(torch.full((1, 4, 2, 2), 0.5), camera="GP", iso=100)
    with pytest.raises(ValueError, match="S6"):
        truth.sample(shot, seed=0)
    with pytest.raises(NoDensityError, match="log_mass"):
        truth.log_prob(shot.clean, shot)
    known = Shot.of(shot.clean, camera="S6", iso=100)
    with pytest.raises(ValueError, match="1/1023"):
        truth.log_mass(torch.full((1, 4, 2, 2), 0.5004), known)
    with pytest.raises(UserError, match="format 1"):
        SensorTruth.from_dict({"format": 2})


def test_truth_from_sensor_json():
    description = {"format": 1, "sensors": {name: sensor.to_dict() for name, sensor in PHONES.items()}}
    truth = SensorTruth.from_dict(json.loads(json.dumps(description)))
    assert truth.sensors == PHONES
    assert truth.cameras == ("IP", "GP", "S6", "N6", "G4")
