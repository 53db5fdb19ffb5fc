"""Fitting the physics model: it finds the sensor that made the data, and falls short of it by next to nothing."""

import json
import math

import numpy as np
import pytest
import torch

from noiseflow.cli import main
from noiseflow.errors import UserError
from noiseflow.models import Physics, synthesize
from noiseflow.models.electronics import Electronics
from noiseflow.sensors import PHONES
from noiseflow.shot import Shot
from noiseflow.training.fit import fit_baseline
from noiseflow.training.physics import fit_physics

COUNT = (98, 4, 16, 16)  # 100,352 values, as many as calibration_patches reads


def recorded(sensor, isos, seed=0, shape=COUNT):
    """Codes of a ramp that is steeper in the dark, its values strewn over the patches."""
    rng = np.random.default_rng(seed)
    size = (shape[0] * len(isos), *shape[1:])
    clean = rng.permutation(np.linspace(0.0, 1.0, math.prod(size)) ** 3).reshape(size)
    iso = np.repeat(isos, shape[0])
    codes = np.concatenate([sensor.sample_codes(clean[iso == i], i, rng) for i in isos])
    shot = Shot.of(torch.from_numpy(clean), camera=sensor.name, iso=torch.from_numpy(iso), lsb=sensor.lsb)
    return torch.from_numpy(codes * sensor.lsb), shot, codes


@torch.no_grad()
def regret(model, sensor, noisy, shot, codes):
    """Nats per value that the model falls short of the sensor, per ISO, on other data than it was fitted to."""
    found = {}
    for iso in shot.iso.unique().tolist():
        rows = torch.nonzero(shot.iso == iso)[:, 0]
        truth = sensor.log_pmf(codes[rows.numpy()], shot.clean[rows].numpy(), iso).sum()
        found[iso] = (truth - float(model.log_mass(noisy[rows], shot.rows(rows)).sum())) / noisy[rows].numel()
    return found


def test_finds_the_sensor_under_clipping_at_black():
    sensor, isos = PHONES["S6"], (800, 3200)
    noisy, shot, codes = recorded(sensor, isos)
    assert (codes == 0).mean() > 0.03
    model = fit_physics(noisy, shot)
    for iso, electronics in zip(isos, model.electronics(shot.rows([0, COUNT[0]])), strict=True):
        assert electronics.white_e == pytest.approx(sensor.white_e(iso), rel=0.02)
        assert electronics.read == pytest.approx(sensor.noise_level(iso)[1] ** 0.5, rel=0.05)
        assert (electronics.tukey_lambda, electronics.row) == (None, 0.0)
    # Each of p fitted values costs 1/(2n) nats a value, and two draws of one sensor differ by no more than their
    # standard error, which cancels in the difference.
    fresh = recorded(sensor, isos, seed=1)
    found, nlf = regret(model, sensor, *fresh), regret(fit_baseline("nlf", noisy, shot), sensor, *fresh)
    for iso in isos:
        assert -1e-4 < found[iso] < 1e-3
        assert found[iso] < nlf[iso]


@pytest.mark.parametrize(
    "electronics",
    [Electronics(270.0, 8e-3, -0.12), Electronics(270.0, 8e-3, None, 4e-3)],
    ids=["tails", "rows"],
)
def test_finds_heavy_tails_and_row_noise(electronics):
    truth = Physics([("S6", 800)])
    truth.set(0, electronics)
    clean = torch.from_numpy(np.random.default_rng(0).permutation(np.linspace(0.0, 0.7, math.prod(COUNT)) ** 3))
    origin = torch.stack((16 * torch.arange(COUNT[0]), torch.zeros(COUNT[0], dtype=torch.int64)), dim=1)
    shot = Shot.of(clean.reshape(COUNT), camera="S6", iso=800, lsb=1 / 1023, origin=origin)
    noisy = synthesize(truth, shot, seed=3)
    model = fit_physics(noisy, shot)
    (found,) = model.table
    # white_e and read as without extras. Row noise is found from 625 rows: a relative error of 3 % and more,
    # as the mean of a row's own noise adds to it. A lambda's standard error here is about 0.01.
    assert found.white_e == pytest.approx(270.0, rel=0.02)
    assert found.read == pytest.approx(electronics.read, rel=0.05)
    assert (found.tukey_lambda is None) == (electronics.tukey_lambda is None)
    if electronics.tukey_lambda is not None:
        assert found.tukey_lambda == pytest.approx(electronics.tukey_lambda, abs=0.05)
    assert found.row == pytest.approx(electronics.row, rel=0.12)
    noisy, shot = noisy[:20], shot.rows(slice(0, 20))
    gap = float((truth.log_mass(noisy, shot) - model.log_mass(noisy, shot)).sum()) / noisy.numel()
    assert gap < 1e-3


def test_a_pair_is_fitted_the_same_alone_and_beside_others():
    noisy, shot, _ = recorded(PHONES["S6"], (800, 3200), shape=(8, 4, 16, 16))
    both = fit_physics(noisy, shot)
    alone = fit_physics(noisy[8:], shot.rows(slice(8, 16)))
    assert float(both.log_white_e[1]) == pytest.approx(float(alone.log_white_e[0]), abs=1e-3)
    assert float(both.log_read[1]) == pytest.approx(float(alone.log_read[0]), abs=1e-3)


def test_pictures_are_refused():
    shot = Shot.of(torch.full((2, 3, 8, 8), 0.5), camera="S6", iso=800, lsb=1 / 255)
    with pytest.raises(UserError, match="raw"):
        fit_physics(shot.clean, shot)


def test_from_the_command_line(tmp_path, capsys):
    def run(*arguments):
        return main([str(a) for a in arguments])

    sim = ("--data", tmp_path / "sim")
    assert run("simulate", tmp_path / "sim", "--cameras", "S6", "--isos", "800", "--scenes", 4, "--size", "64x64",
               "--srgb") == 0  # fmt: skip
    assert run("fit", *sim, "--model", "physics", "--out", tmp_path / "fit") == 0
    assert run("evaluate", tmp_path / "fit", "physics", *sim, "--out", tmp_path / "e") == 0
    capsys.readouterr()
    assert run("info", tmp_path / "fit") == 0
    assert "S6 ISO 800: " in capsys.readouterr().out
    fitted, by_name = json.loads((tmp_path / "e" / "results.json").read_text())["models"]
    assert fitted["mass"]["value"] == pytest.approx(by_name["mass"]["value"], abs=1e-9)
    assert by_name["mass"]["looseness"] == 0
    assert 0 < by_name["regret"]["value"] < 2e-3  # 2 values fitted to 12,288
    assert run("fit", *sim, "--domain", "srgb", "--model", "physics", "--out", tmp_path / "p") == 1
    assert "raw" in capsys.readouterr().err
    assert run("evaluate", "physics", *sim, "--domain", "srgb", "--baseline-data", tmp_path / "sim", "--out",
               tmp_path / "q") == 1  # fmt: skip
    assert "raw" in capsys.readouterr().err
