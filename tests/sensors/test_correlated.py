"""Correlated noise against scipy's multivariate normal, its own samples, and the data set that it writes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from noiseflow.datasets import open_dataset
from noiseflow.datasets.base import UNCLIPPED
from noiseflow.datasets.checking import check
from noiseflow.errors import UserError
from noiseflow.evaluation import Entry, evaluate
from noiseflow.models import NoDensityError
from noiseflow.raw.cfa import pack
from noiseflow.sensors import PHONES, SENSORS, CorrelatedSensor, SensorTruth
from noiseflow.shot import Shot
from noiseflow.simulate import simulate

SENSOR = SENSORS["correlated"]
LAGS = [1.0, 2 / 3, 1 / 6]  # autocorrelation of [1, 2, 1]: 6, 4 and 1 of 6


def covariance(sensor, clean, iso):
    """Σ of a plane, from the Kronecker product of what rows and columns share."""
    a = sensor.slope(iso)
    rows, columns = (linalg.toeplitz((LAGS + [0.0] * side)[:side]) for side in clean.shape)
    own = a * np.maximum(clean, 0).ravel() + (a * sensor.read_e) ** 2
    return np.diag(own) + (a * sensor.correlated_e) ** 2 * np.kron(rows, columns)


def shot_of(clean, sensor=SENSOR, **rest):
    return Shot.of(clean, camera=sensor.name, iso=800, low=-UNCLIPPED, high=UNCLIPPED, **rest)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 3), (3, 5), (12, 16)])
def test_log_mass_is_the_multivariate_normals(size):
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 4, *size, generator=generator, dtype=torch.float64) - 0.1
    shot, truth = shot_of(clean), SensorTruth([SENSOR])
    noise = truth.sample(shot, seed=torch.tensor([1, 2]))
    want = [
        sum(
            stats.multivariate_normal.logpdf(n.ravel(), cov=covariance(SENSOR, x, 800))
            for n, x in zip(noise[row].numpy(), clean[row].numpy(), strict=True)
        )
        for row in range(2)
    ]
    np.testing.assert_allclose(truth.log_prob(noise, shot).numpy(), want, rtol=1e-10)
    np.testing.assert_allclose(truth.log_mass(clean + noise, shot).numpy(), want, rtol=1e-10)
    share = truth.log_mass_map(clean + noise, shot)
    assert share.shape == (2, *size)
    np.testing.assert_allclose(share.sum(dim=(1, 2)).numpy(), want, rtol=1e-10)


def test_a_share_is_the_density_given_the_pixels_before():
    clean = torch.full((1, 1, 3, 4), 0.2, dtype=torch.float64)
    shot, truth = shot_of(clean), SensorTruth([SENSOR])
    noise = truth.sample(shot, seed=3)
    share = truth.log_mass_map(clean + noise, shot).numpy().ravel()
    sigma, values = covariance(SENSOR, clean[0, 0].numpy(), 800), noise.numpy().ravel()
    until = [0.0] + [stats.multivariate_normal.logpdf(values[:n], cov=sigma[:n, :n]) for n in range(1, 13)]
    np.testing.assert_allclose(share, np.diff(until), rtol=1e-9)


@pytest.mark.parametrize("recorded", [False, True])
def test_samples_have_the_covariance(recorded):
    """Sample and truth, over 4 × 3600 blocks of 3×3; four standard errors of a product of normals."""
    if recorded:
        mosaic = SENSOR.record(np.full((360, 480), 0.3), 800, np.random.default_rng(1))
        noise = pack(torch.from_numpy(mosaic), SENSOR.cfa).numpy() - 0.3
    else:
        clean = torch.full((1, 4, 180, 240), 0.3, dtype=torch.float64)
        noise = SensorTruth([SENSOR]).sample(shot_of(clean), seed=7).numpy()[0]
    sigma = covariance(SENSOR, np.full((3, 3), 0.3), 800)
    # Blocks five pixels apart are independent.
    blocks = np.lib.stride_tricks.sliding_window_view(noise, (3, 3), axis=(1, 2))[:, ::5, ::5].reshape(-1, 9)
    error = np.sqrt((sigma**2 + np.outer(np.diag(sigma), np.diag(sigma))) / len(blocks))
    assert (np.abs(blocks.T @ blocks / len(blocks) - sigma) < 4 * error).all()
    planes = noise.reshape(4, -1)
    # Planes are independent; neighbours within them are not: Σ_d ρ(d)² numbers in a thousand are one.
    between = np.corrcoef(planes)[np.triu_indices(4, 1)]
    shared = covariance(SENSOR, np.full((5, 5), 0.3), 800)[12]
    effective = planes.shape[1] / ((shared / shared[12]) ** 2).sum()
    assert np.abs(between).max() < 4 / np.sqrt(effective)


def test_samples_are_the_same_alone_and_in_a_crop():
    other = dataclasses.replace(SENSOR, name="other", correlated_e=9.0)
    truth = SensorTruth([SENSOR, other, PHONES["S6"]])
    clean = torch.rand(3, 4, 20, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shot = Shot.of(clean, camera=["correlated", "S6", "other"], iso=800)
    seeds = torch.tensor([5, 6, 7])
    noise = truth.sample(shot, seed=seeds)
    crop = shot.replace(clean=clean[..., 3:11, 4:], origin=torch.tensor([3, 4]))
    assert torch.equal(truth.sample(crop, seed=seeds), noise[..., 3:11, 4:])
    assert torch.equal(truth.sample(shot.rows(2), seed=seeds[2:])[0], noise[2])
    assert torch.equal(truth.sample(shot.rows(0), seed=5)[0], noise[0])
    noisy = (clean + noise)[..., :8, :8]
    together = truth.log_mass(noisy, shot.crop(0, 0, 8, 8))
    for row in range(3):
        assert truth.log_mass(noisy[row : row + 1], shot.crop(0, 0, 8, 8).rows(row))[0] == together[row]


def test_refusals():
    truth = SensorTruth([SENSOR, PHONES["S6"]])
    assert truth.largest_patch == 32
    assert SensorTruth([PHONES["S6"]]).largest_patch is None
    clean = torch.full((1, 4, 8, 33), 0.5)
    with pytest.raises(ValueError, match="at most 32×32"):
        truth.log_mass(clean, shot_of(clean))
    with pytest.raises(NoDensityError, match="log_mass"):
        truth.log_prob(clean, Shot.of(clean, camera="S6", iso=800))
    with pytest.raises(UserError, match="read_e"):
        dataclasses.replace(SENSOR, read_e=0.0)
    with pytest.raises(UserError, match="letters"):
        dataclasses.replace(SENSOR, name="a_b")
    with pytest.raises(UserError, match="bits"):
        CorrelatedSensor.from_dict({**SENSOR.to_dict(), "bits": 10})
    with pytest.raises(UserError, match="slopes"):
        CorrelatedSensor.from_dict({"kind": "correlated", "name": "x", "cfa": "RGGB"})


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("correlated") / "tree"
    simulate(root, sensors=["correlated"], scenes=2, size=(40, 72), seed=1)  # tiles of 20×32 and 20×4
    return root


def test_a_tree_is_read_as_it_was_recorded(tree, caplog):
    data = open_dataset(tree)
    truth = SensorTruth.from_dict(data.sensor)
    assert (
        truth.sensors == {"correlated": SENSOR} and json.loads((tree / "sensor.json").read_text())["truth"] == "exact"
    )
    for frame in data.frames:
        noisy, _ = frame.stored()
        pair = frame.read()
        assert torch.equal(pair.noisy.double(), noisy)
        assert (noisy < 0).any()
        assert (frame.lsb == 0).all() and (frame.low == -UNCLIPPED).all() and (frame.high == UNCLIPPED).all()
    assert check(tree)[1] == []
    assert check(tree)[0][0].levels == {"correlated": {"continuous"}}
    assert caplog.text == ""


def test_evaluate_scores_tiles_of_the_largest_patch(tree):
    data = open_dataset(tree)
    truth = SensorTruth.from_dict(data.sensor)
    white = dataclasses.replace(SENSOR, correlated_e=0.0, read_e=float(np.hypot(2.1, 3.0)))
    entries = [Entry("truth", truth), Entry("white", SensorTruth([white]))]
    results = evaluate(entries, data, split="all", samples=False).results
    assert results["protocol"]["tile"] == 32
    best, other = results["models"]
    assert best["regret"]["value"] == 0
    assert best["nll"]["value"] == pytest.approx(best["mass"]["value"], rel=1e-6)
    # The variances being equal, the white model loses ½(Σ log Σ_ii − log det Σ) nats on average, and the standard
    # deviation of what it loses is √(½ tr((Σ·D⁻¹ − 1)²)), D the diagonal of Σ.
    mean, variance, values = 0.0, 0.0, 0
    for frame in data.frames:
        for plane in frame.read().clean.double().numpy():
            for tile in (plane[:, :32], plane[:, 32:]):
                sigma = covariance(SENSOR, tile, 800)
                mean += 0.5 * (np.log(np.diag(sigma)).sum() - np.linalg.slogdet(sigma)[1])
                variance += 0.5 * ((sigma / np.diag(sigma)) * (sigma / np.diag(sigma)).T).sum() - 0.5 * tile.size
                values += tile.size
    assert abs(other["regret"]["value"] - mean / values) < 4 * np.sqrt(variance) / values
    assert mean / values > 0.05
