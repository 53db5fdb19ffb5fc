"""The mean of clipped noise and its inverse."""

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import norm

from noiseflow.clipped_mean import FURTHEST, mean_of_clipped, signal_of_mean
from noiseflow.datasets import collate
from noiseflow.options import EvaluateOptions
from noiseflow.sensors import SensorTruth
from noiseflow.simulate import simulate
from noiseflow.training.fit import open_split

LEVELS = [(0.02, 3e-4), (5e-4, 1e-6), (0.2, 0.01), (0.0, 2e-3)]


@pytest.mark.parametrize(("a", "b"), LEVELS)
@pytest.mark.parametrize("x", [-0.01, 0.0, 0.004, 0.3, 0.99, 1.0, 1.05])
def test_mean_is_the_integral(a, b, x):
    sigma = np.sqrt(a * max(x, 0) + b)
    inside, _ = integrate.quad(
        lambda y: y * norm.pdf(y, x, sigma), 0, 1, epsabs=1e-13, points=sorted({min(max(x, 0), 1), 0.5}), limit=400
    )
    assert abs(mean_of_clipped(x, a, b) - (inside + norm.sf(1, x, sigma))) < 1e-11


@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_inverse(a, b):
    """Straight lines between nodes h apart: error <= m''·h²/8 / m', m'' <= 1/(σ·√(2π)) for a clip end.

    At the bright end h = 11 σ/400, so the error is below 4e-5 σ / m', and m' = Φ(−2) = 0.023 two σ beyond the end,
    where m'' has fallen to φ(2)/σ: 0.054·9.5e-5/0.023 σ = 2.3e-4 σ.
    """
    x = np.linspace(-2 * np.sqrt(b), 1 + 2 * np.sqrt(a + b), 40_001)
    back = signal_of_mean(mean_of_clipped(x, a, b), a, b)
    assert (np.abs(back - x) / np.sqrt(a * np.maximum(x, 0) + b)).max() < 3e-4


def test_inverse_stops_beyond_the_ends():
    a, b = 0.01, 1e-4
    low, high = signal_of_mean([0.0, 1.0], a, b)
    assert low == pytest.approx(-FURTHEST * np.sqrt(b))
    assert high == pytest.approx(1 + FURTHEST * np.sqrt(a + b))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """One scene set, recorded alike: with the exact signal and with the mean of 150 frames as ground truth."""
    root = tmp_path_factory.mktemp("mean_truth")
    for truth in ("exact", "mean"):
        simulate(root / truth, cameras=["S6"], isos=[3200], scenes=3, size=(192, 192), truth=truth, seed=5)
    return root


def opened(root, mean_truth="invert"):
    return open_split(EvaluateOptions(data=str(root), out="", split="all", mean_truth=mean_truth), "all")


def test_true_sensor_on_a_tree_of_means(trees):
    """The true sensor loses at black what the clip did to the mean; taking the mean back recovers it.

    What stays is the mean's own noise: 150 frames leave a variance of σ²/150, which costs 1/300 nats a pixel.
    """
    exact, kept, inverted = opened(trees / "exact"), opened(trees / "mean", "keep"), opened(trees / "mean")
    sensor = SensorTruth.from_dict(exact.sensor).sensors["S6"]

    def minus_log_mass(dataset):
        noisy, shot = collate([frame.read() for frame in dataset.frames])
        codes = np.rint(noisy.double().numpy() * sensor.max_code).astype(np.int64)
        return -sensor.log_pmf(codes, shot.clean.double().numpy(), 3200), shot.clean.numpy()

    best, clean = minus_log_mass(exact)
    lost, (recovered, signal) = minus_log_mass(kept)[0] - best, minus_log_mass(inverted)
    recovered = recovered - best
    dark = clean < 0.005
    assert dark.sum() > 10_000
    assert lost[dark].mean() > 0.05
    assert recovered[dark].mean() < 0.1 * lost[dark].mean()
    assert recovered.mean() < 1.5 / 300
    assert abs((signal - clean)[dark].mean()) < 1e-3
    assert exact.clean == kept.clean == "as stored"
    assert "taken back" in inverted.clean


def test_only_the_clean_image_changes(trees):
    kept, inverted = (opened(trees / "mean", way).frames[0].read(3, 5, 20, 30) for way in ("keep", "invert"))
    assert torch.equal(kept.noisy, inverted.noisy)
    assert not torch.equal(kept.clean, inverted.clean)
    whole = opened(trees / "mean").frames[0].read()
    assert torch.equal(whole.clean[:, 3:23, 5:35], inverted.clean)


def test_exact_ground_truths_stay(trees):
    assert opened(trees / "exact", "invert").clean == "as stored"
