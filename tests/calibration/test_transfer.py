"""The photon-transfer line against the likelihood of sample variances, and its refusal to trust a wrong black."""

import numpy as np
import pytest
from scipy import optimize

from noiseflow.calibration.points import calibrate_points
from noiseflow.calibration.transfer import Points, black_shift, fit_colours, fit_line
from noiseflow.errors import UserError


def drawn(seed: int, gain: float, noise: float, levels: np.ndarray, dof: float = 400.0, black: float = 0.0) -> Points:
    """Sample variances of normal noise, χ² each."""
    generator = np.random.default_rng(seed)
    mean = np.repeat(levels, 20)
    variance = (gain * (mean - black) + noise) * generator.chisquare(dof, mean.size) / dof
    zero = np.zeros_like(mean)
    return Points(mean, variance, np.full(mean.size, dof), zero, zero)


LEVELS = np.array([50.0, 200.0, 800.0, 2000.0])


def test_the_line_has_the_largest_likelihood():
    points = drawn(0, 1.7, 30.0, LEVELS)
    line = fit_line(points)
    assert line is not None and line.free

    def loss(x: np.ndarray) -> float:
        v = x[0] * points.mean + x[1]
        return float((points.dof / 2 * (np.log(v) + points.variance / v)).sum())

    best = optimize.minimize(loss, [1.0, 50.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    assert line.slope == pytest.approx(best.x[0], rel=1e-5)
    assert line.intercept == pytest.approx(best.x[1], rel=1e-4)


def test_a_wrong_black_level_moves_the_intercept_and_not_the_gain():
    points = drawn(1, 0.8, 25.0, LEVELS)
    shifted = Points(points.mean + 40, points.variance, points.dof, points.channel, points.stack)
    right, wrong = fit_line(points, 25.0), fit_line(shifted, 25.0)
    assert right is not None and wrong is not None
    assert wrong.slope == pytest.approx(right.slope, rel=1e-9)
    shift = black_shift(wrong, 25.0, 0.1)
    assert shift is not None and shift.low < 40 < shift.high


def test_light_levels_too_close_together_take_the_known_noise():
    points = drawn(2, 0.8, 25.0, np.array([1000.0]))
    alone, with_noise = fit_line(points), fit_line(points, 25.0, 0.5)
    assert alone is None
    assert with_noise is not None and not with_noise.free
    estimate = with_noise.interval()
    assert estimate is not None and estimate.low < 0.8 < estimate.high
    assert black_shift(with_noise, 25.0, 0.5) is None


def test_intervals_cover():
    hits = 0
    for seed in range(150):
        line = fit_line(drawn(seed, 2.0, 10.0, LEVELS))
        estimate = line.interval() if line is not None else None
        hits += estimate is not None and estimate.low <= 2.0 <= estimate.high
    # Binomial(150, 0.95): 4 standard deviations are 7.1 %.
    assert 0.879 < hits / 150 <= 1.0


def test_points_of_a_curve_without_scatter_give_back_its_parameters():
    curves = {
        iso: [(m, np.sqrt(k * (m - 130) + (k * 2.5) ** 2 + 1.0)) for m in (150, 400, 1000, 4000)]
        for iso, k in ((100, 0.35), (200, 0.7), (400, 1.4), (800, 1.4))
    }
    profile = calibrate_points(curves, black=130)
    assert profile.isos[200].gain_dn_per_e is not None
    assert profile.isos[200].gain_dn_per_e.value == pytest.approx(0.7, rel=1e-6)
    assert profile.gain_segments == ((100, 400), (800, 800))
    assert any("400 to 800" in warning for warning in profile.warnings)
    assert profile.read_noise_pre_e is not None and profile.read_noise_post_dn is not None
    # The fit starts and stops at rounding errors of the differences of variances, relative 1e-9 of 1e4.
    assert profile.read_noise_pre_e.value == pytest.approx(2.5, rel=1e-3)
    assert profile.read_noise_post_dn.value == pytest.approx(1.0, rel=1e-2)
    without = calibrate_points(curves)
    assert without.read_noise_pre_e is None
    assert any("black level" in warning for warning in without.warnings)


@pytest.mark.parametrize("points", [{100: [(1, 2, 3)]}, {100: [(1.0, -1.0)] * 3}, {100: [(1.0, 1.0), (2.0, 2.0)]}])
def test_points_that_say_nothing_are_refused(points):
    with pytest.raises(UserError, match=r"points"):
        calibrate_points(points)


def test_channels_of_different_gains_share_their_black_level():
    generator = np.random.default_rng(4)
    gains, black = np.array([0.8, 1.0, 1.1, 0.9]), 60.0
    channel = np.repeat(np.arange(4), 200)
    mean = generator.uniform(300, 3000, channel.size)
    variance = gains[channel] * (mean - black) * generator.chisquare(60, channel.size) / 60
    points = Points(mean, variance, np.full(mean.size, 60.0), channel.astype(float), np.zeros(mean.size))
    found = fit_colours(points, 4)
    assert found is not None
    for estimate, gain in zip(found.gains, gains, strict=True):
        assert abs(estimate.value - gain) < 4.5 * (estimate.high - estimate.low) / 3.92
        assert estimate.high - estimate.low < 0.1
    # The pooled line meets the axis at black; its error by the rule for quotients.
    level = -found.pooled.intercept / found.pooled.slope
    by_line = np.array([level, 1.0]) / found.pooled.slope
    assert abs(level - black) < 4.5 * np.sqrt(by_line @ found.pooled.covariance @ by_line)
