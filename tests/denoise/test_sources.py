"""Noise drawn for training: a function of each row's seed, of the right cameras, on the right codes."""

import pytest
import torch

from noiseflow.conditions import Conditions
from noiseflow.datasets import open_dataset
from noiseflow.denoise.sources import Grid, Recorded, Redrawn, chosen_pairs, grids_of
from noiseflow.errors import UserError
from noiseflow.models import NoiseLevelFunction, noise_flow
from noiseflow.noise_level import NoiseLevel
from noiseflow.randomness import combine
from noiseflow.sensors import SENSORS, SensorTruth
from noiseflow.shot import Shot
from noiseflow.simulate import simulate

PAIRS = [("a", 100.0), ("a", 800.0), ("b", 100.0)]
GRIDS = {
    "a": Grid(*(torch.full((4,), v, dtype=torch.float64) for v in (1 / 1023, 0.0, 1.0))),
    "b": Grid(*(torch.full((4,), v, dtype=torch.float64) for v in (0.0, -0.5, 2.0))),
}


def levels(pairs=PAIRS):
    level = NoiseLevel(Conditions(pairs), 1)
    with torch.no_grad():
        level.log_a.copy_(torch.linspace(-7, -5, len(level.log_a))[:, None])
        level.log_b.copy_(torch.linspace(-10, -8, len(level.log_b))[:, None])
    return level


def nlf():
    model = NoiseLevelFunction(PAIRS, 4)
    model.level.copy_from(levels())
    return model


def flow():
    model = noise_flow(PAIRS, 4, hidden=4)
    model.start_from(levels())
    return model.eval()


def batch(rows, side=8, level=0.3):
    clean = torch.full((rows, 4, side, side), level)
    shot = Shot.of(clean, camera="other", iso=50, lsb=0.01)
    return torch.zeros_like(clean), shot, combine(7, torch.arange(rows))


@pytest.mark.parametrize("make", [nlf, flow])
def test_a_row_depends_on_its_seed_alone(make):
    noise = Redrawn(make(), PAIRS, GRIDS)
    noisy, shot, seeds = batch(6)
    drawn, conditions = noise(noisy, shot, seeds)
    order = torch.tensor([4, 0, 5])
    some, theirs = noise(noisy[order], shot.rows(order), seeds[order])
    assert torch.equal(conditions.iso[order], theirs.iso) and torch.equal(conditions.camera[order], theirs.camera)
    # flows draw in float32, whose last bits may put a value on the next code (1/1023) now and then
    assert (drawn[order] != some).float().mean() < 1e-2 and (drawn[order] - some).abs().max() < 1.01 / 1023
    assert drawn.dtype == torch.float32 and torch.equal(conditions.clean, shot.clean)
    assert not torch.equal(drawn[0], drawn[1])


def test_every_camera_and_iso_comes_equally_often():
    rows = 6000
    _, shot, seeds = batch(rows, side=1)
    found = Redrawn(nlf(), PAIRS, GRIDS).conditions(shot, seeds)
    share = 1 / len(PAIRS)
    for camera, iso in PAIRS:
        count = sum(name == camera and value == iso for name, value in zip(found.camera_names, found.iso, strict=True))
        assert abs(count - rows * share) < 4.5 * (rows * share * (1 - share)) ** 0.5


def test_values_lie_on_the_codes_of_the_camera_that_was_drawn():
    noisy, shot, seeds = batch(40)
    drawn, conditions = Redrawn(nlf(), PAIRS, GRIDS)(noisy, shot.replace(clean=0 * shot.clean), seeds)
    a = torch.tensor([name == "a" for name in conditions.camera_names])
    codes = drawn[a].double() * 1023
    assert (codes - codes.round()).abs().max() < 1e-3 and drawn[a].min() == 0  # float32 of codes below a thousand
    assert (drawn[~a] < 0).any() and (conditions.low[~a] == -0.5).all()


@pytest.mark.parametrize("make", [nlf, flow])
def test_moments_are_those_of_the_model(make):
    """A flow at its start equals the noise level function: variance a·clean + b of the row's own camera and ISO."""
    pairs, grid = [("b", 100.0)], {"b": GRIDS["b"]}
    noisy, shot, seeds = batch(16, side=32, level=0.3)
    drawn, conditions = Redrawn(make(), pairs, grid)(noisy, shot, seeds)
    noise = (drawn - shot.clean).double()
    expected = levels().variance(conditions).double().mean()
    count = noise.numel()
    assert abs(noise.mean()) < 4.5 * (expected / count) ** 0.5
    assert abs(noise.var() / expected - 1) < 4.5 * (2 / count) ** 0.5


def test_the_sensor_itself_is_redrawn():
    sensor = SENSORS["night"]
    iso = 3200.0
    grid = Grid(*(torch.full((4,), v, dtype=torch.float64) for v in (sensor.lsb, sensor.min_code * sensor.lsb, 1.0)))
    noisy, shot, seeds = batch(8, side=16, level=0.2)
    drawn, _ = Redrawn(SensorTruth([sensor]), [("night", iso)], {"night": grid})(noisy, shot, seeds)
    codes = torch.arange(sensor.min_code, sensor.max_code + 1)
    mass = torch.from_numpy(sensor.log_pmf(codes.numpy()[None], torch.full((1, 1), 0.2).double().numpy(), iso)).exp()[0]
    mean = float((mass * codes).sum())
    variance = float((mass * (codes - mean) ** 2).sum())
    found = drawn.double() / sensor.lsb
    assert abs(float(found.mean()) - mean) < 4.5 * (variance / found.numel()) ** 0.5


def test_recorded_noise_stays():
    noisy, shot, seeds = batch(2)
    same, still = Recorded()(noisy, shot, seeds)
    assert same is noisy and still is shot


def test_pairs_that_were_asked_for():
    assert chosen_pairs(PAIRS, None, None) == tuple(PAIRS)
    assert chosen_pairs(PAIRS, ["a"], [800.0, 1600.0]) == (("a", 800.0),)
    with pytest.raises(UserError, match="a 100, a 800, b 100"):
        chosen_pairs(PAIRS, ["c"], None)
    with pytest.raises(ValueError, match="code grid of every camera, got none of 'b'"):
        Redrawn(nlf(), PAIRS, {"a": GRIDS["a"]})
    with pytest.raises(ValueError, match="at least one camera"):
        Redrawn(nlf(), [], GRIDS)


def test_the_code_grid_is_that_of_the_data_then_that_of_the_card(tmp_path, caplog):
    simulate(tmp_path / "tree", cameras=["S6"], isos=[100], scenes=1, size=(32, 32))
    frames = open_dataset(tmp_path / "tree").frames
    model = nlf()
    model.card = {"cameras": {"S6": {"lsb": 0.5}, "a": {"lsb": [0.1] * 4, "low": -0.2, "high": 1.0, "cfa": "RGGB"}}}
    found = grids_of(frames, ["S6", "a", "b"], 4, model)
    assert torch.allclose(found["S6"].lsb, torch.full((4,), 1 / 1023, dtype=torch.float64))
    assert found["a"].lsb.tolist() == [0.1] * 4 and found["a"].low.tolist() == [-0.2] * 4
    assert found["b"].lsb.tolist() == [0.0] * 4 and "b: neither" in caplog.text
