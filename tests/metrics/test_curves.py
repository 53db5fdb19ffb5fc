import numpy as np
import pytest
import torch

from noiseflow.metrics.curves import IntensityCurve

S6, IP = ("S6", 800.0), ("IP", 100.0)


def batch(seed, b=4, c=4, h=16, w=16):
    rng = np.random.default_rng(seed)
    clean = torch.from_numpy(rng.uniform(-0.05, 1.1, (b, c, h, w)))
    noise = torch.from_numpy(rng.normal(0.01, 0.05, (b, c, h, w)))
    return noise, clean


def test_batches_add_up_to_a_plain_numpy_loop():
    curve = IntensityCurve(bins=12)
    first, second = batch(0), batch(1)
    keys = [S6, IP, S6, S6]
    for noise, clean in (first, second):
        curve.update(noise, clean, keys)
    assert curve.keys == [IP, S6]
    rows = [i for i, key in enumerate(keys) if key == S6]
    noise = np.concatenate([first[0][rows].numpy().ravel(), second[0][rows].numpy().ravel()])
    clean = np.concatenate([first[1][rows].numpy().ravel(), second[1][rows].numpy().ravel()])
    bins = np.digitize(np.clip(clean, 0, 1), curve.edges[1:-1])
    got = curve.statistics(S6)
    for k in range(12):
        inside = noise[bins == k]
        # sums of some hundred float64 values of order 0.05: relative error well below 1e-10
        assert got.count[k] == len(inside)
        assert got.mean[k] == pytest.approx(inside.mean(), rel=1e-10)
        assert got.std[k] == pytest.approx(inside.std(ddof=1), rel=1e-10)
        assert got.intensity[k] == pytest.approx(clean[bins == k].mean(), rel=1e-10)


def test_rows_keep_their_own_condition():
    noise, clean = batch(2, b=2)
    both, alone = IntensityCurve(), IntensityCurve()
    both.update(noise, clean, [S6, IP])
    alone.update(noise[1:], clean[1:], [IP])
    np.testing.assert_array_equal(both.statistics(IP).count, alone.statistics(IP).count)
    # same sums in the same order
    np.testing.assert_array_equal(both.statistics(IP).std, alone.statistics(IP).std)


def test_edges_are_even_in_the_square_root():
    edges = IntensityCurve(bins=10, low=0.1, high=0.9).edges
    assert edges[0] == pytest.approx(0.1) and edges[-1] == pytest.approx(0.9)
    np.testing.assert_allclose(np.diff(np.sqrt((edges - 0.1) / 0.8)), 0.1, rtol=1e-12)


def test_empty_and_thin_bins_are_nan():
    curve = IntensityCurve(bins=4)
    curve.update(torch.full((1, 1, 1, 1), 0.1), torch.full((1, 1, 1, 1), 0.9), [S6])
    got = curve.statistics(S6)
    assert got.count.tolist() == [0, 0, 0, 1]
    assert np.isnan(got.std).all() and np.isnan(got.low).all()
    assert np.isnan(got.mean[:3]).all() and got.mean[3] == pytest.approx(0.1)
    assert np.isfinite(got.intensity).all()


@pytest.mark.parametrize("law", ["normal", "uniform", "exponential"])
def test_interval_covers_the_true_std_whatever_the_law(law):
    trials, n = 800, 2000
    rng = np.random.default_rng(3)
    draw = {
        "normal": lambda: rng.normal(0, 1, n),
        "uniform": lambda: rng.uniform(-(3**0.5), 3**0.5, n),
        "exponential": lambda: rng.exponential(1.0, n) - 1,
    }[law]
    hits = 0
    clean = torch.full((1, 1, 40, 50), 0.5)
    for _ in range(trials):
        curve = IntensityCurve(bins=1)
        curve.update(torch.from_numpy(draw()).reshape(1, 1, 40, 50), clean, [S6])
        got = curve.statistics(S6)
        hits += got.low[0] <= 1.0 <= got.high[0]
    # binomial sd of the rate is sqrt(.95 * .05 / 800) = 0.008; 4 of them, and 0.01 for the skewed law's
    # finite-sample bias at n = 2000
    assert abs(hits / trials - 0.95) < 0.042


def test_float32_input_is_summed_in_float64():
    noise = torch.full((1, 1, 512, 512), 0.1)
    curve = IntensityCurve(bins=1)
    for _ in range(4):
        curve.update(noise, torch.zeros_like(noise), [S6])
    got = curve.statistics(S6)
    # a million equal values: float32 sums would drift by 1e-3
    assert got.mean[0] == pytest.approx(float(noise[0, 0, 0, 0]), rel=1e-10)
    assert (got.std[0], got.low[0], got.high[0]) == (0.0, 0.0, 0.0)


def test_refuses_shapes_that_do_not_agree():
    noise, clean = batch(4)
    with pytest.raises(ValueError, match="a key per row"):
        IntensityCurve().update(noise, clean, [S6])
    with pytest.raises(ValueError, match="one shape"):
        IntensityCurve().update(noise[:, :1], clean, [S6] * 4)
    with pytest.raises(ValueError, match="low < high"):
        IntensityCurve(low=1.0, high=0.0)
