import math

import numpy as np
import pytest
import scipy.stats

from noiseflow.metrics.intervals import paired_difference, scene_interval


def test_equals_the_one_sample_t_interval_for_scenes_of_equal_size():
    means = np.random.default_rng(0).normal(2.0, 0.3, 7)
    interval = scene_interval((means * 50).tolist(), [50] * 7)
    oracle = scipy.stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    # float64 sums of 7 numbers of order 1: a few ulp
    assert interval.value == pytest.approx(means.mean(), rel=1e-13)
    assert interval.se == pytest.approx(scipy.stats.sem(means), rel=1e-12)
    assert (interval.low, interval.high) == pytest.approx((oracle.low, oracle.high), rel=1e-12)
    assert interval.method == "t interval over 7 scenes"


def test_value_averages_pixels_not_scenes():
    interval = scene_interval([1.0, 1.0, 98.0], [1, 1, 98])
    assert interval.value == 1.0
    assert scene_interval([0.0, 0.0, 98.0], [1, 1, 98]).value == pytest.approx(0.98)


def test_se_is_the_linearised_ratio_estimators():
    totals, counts = [3.0, 11.0, 2.0, 40.0], [4, 9, 1, 30]
    r = sum(totals) / sum(counts)
    squares = sum((n / 44) ** 2 * (m / n - r) ** 2 for m, n in zip(totals, counts, strict=True))
    assert scene_interval(totals, counts).se == pytest.approx(math.sqrt(4 / 3 * squares), rel=1e-13)


def test_covers_the_truth_at_the_stated_rate():
    rng = np.random.default_rng(1)
    trials, scenes = 2000, 8
    hits = 0
    for _ in range(trials):
        counts = rng.integers(80, 121, scenes)
        means = rng.normal(1.5, 0.2, scenes)
        interval = scene_interval((means * counts).tolist(), counts.tolist())
        hits += interval.low <= 1.5 <= interval.high
    # binomial sd of the rate is sqrt(.95 * .05 / 2000) = 0.0049; 0.02 is 4 of them
    assert abs(hits / trials - 0.95) < 0.02


@pytest.mark.parametrize("scenes", [1, 2])
def test_no_interval_below_three_scenes(scenes):
    interval = scene_interval([1.0] * scenes, [2] * scenes)
    assert interval.value == 0.5
    assert (interval.low, interval.high, interval.se) == (None, None, None)
    assert "3 needed" in interval.method


def test_no_interval_where_the_score_is_not_finite():
    for bad in (math.inf, math.nan):
        interval = scene_interval([1.0, bad, 2.0], [1, 1, 1])
        assert not math.isfinite(interval.value)
        assert interval.low is None and "not finite" in interval.method


def test_pairing_cancels_what_scenes_have_in_common():
    rng = np.random.default_rng(2)
    scene = rng.normal(0.0, 5.0, 10)
    first, second = scene + rng.normal(0.0, 0.01, 10), scene + 0.1 + rng.normal(0.0, 0.01, 10)
    difference = paired_difference((first * 100).tolist(), (second * 100).tolist(), [100] * 10)
    oracle = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    # the subtraction of totals of order 500 leaves 1e-13 of absolute error, against a width of 0.01
    assert (difference.low, difference.high) == pytest.approx((oracle.low, oracle.high), abs=1e-11)
    assert difference.high < 0
    alone = scene_interval((first * 100).tolist(), [100] * 10)
    assert alone.high - alone.low > 100 * (difference.high - difference.low)


@pytest.mark.parametrize(
    ("totals", "counts", "level"),
    [([], [], 0.95), ([1.0], [1, 2], 0.95), ([1.0, 2.0], [1, 0], 0.95), ([1.0], [1], 1.0)],
)
def test_refuses_what_it_cannot_average(totals, counts, level):
    with pytest.raises(ValueError, match="expected"):
        scene_interval(totals, counts, level)


def test_pairing_refuses_different_scenes():
    with pytest.raises(ValueError, match="same scenes"):
        paired_difference([1.0, 2.0], [1.0], [1, 1])
