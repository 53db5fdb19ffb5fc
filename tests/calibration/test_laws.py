"""Laws over ISOs: breaks of the gain, read noise before and behind it."""

import math

import numpy as np
from scipy import stats

from noiseflow.calibration.laws import gain_law, read_law
from noiseflow.calibration.profile import Estimate


def about(value: float, relative: float = 0.01) -> Estimate:
    return Estimate(value, value * (1 - relative), value * (1 + relative))


def test_a_dual_gain_sensor_breaks_in_two():
    gains = {100: about(0.2), 200: about(0.4), 400: about(3.2), 800: about(6.4)}
    law = gain_law(gains)
    assert law.segments == ((100, 200), (400, 800))
    assert len(law.breaks) == 1 and "8-fold" in law.breaks[0]


def test_small_deviations_are_no_break():
    law = gain_law({100: about(0.35), 200: about(0.704), 400: about(1.401), 800: about(2.78), 1600: about(5.397)})
    assert law.segments == ((100, 1600),) and not law.breaks


def test_read_noise_before_and_behind_the_gain_is_found_with_its_interval():
    generator = np.random.default_rng(0)
    gains = [0.3, 1.2, 4.8]
    hits = np.zeros(2)
    for _ in range(150):
        stds = [math.hypot(2.0 * k, 1.5) * math.exp(generator.normal(0, 0.01)) for k in gains]
        law = read_law([about(k, 1e-6) for k in gains], [about(s, 0.0196) for s in stds])
        assert law.pre_e is not None and law.post_dn is not None
        hits += [law.pre_e.low <= 2.0 <= law.pre_e.high, law.post_dn.low <= 1.5 <= law.post_dn.high]
    # Binomial(150, 0.95): 4 standard deviations are 7.1 %.
    assert (hits / 150 > 0.879).all()


def test_errors_of_few_degrees_of_freedom_are_put_together():
    """Two ISOs whose variances are means of 6 squares: intervals by t for each, and 95 % for both parts together."""
    generator = np.random.default_rng(1)
    gains, freedom, hits = [1.0, 8.0], 6, np.zeros(2)
    reach = stats.t.ppf(0.975, freedom)
    for _ in range(2000):
        stds = []
        for k in gains:
            error = 0.01 * math.sqrt(generator.chisquare(freedom) / freedom)  # as it is estimated
            std = math.hypot(2.0 * k, 8.0) * math.exp(generator.normal(0, 0.01))
            stds.append(Estimate(std, std * math.exp(-reach * error), std * math.exp(reach * error)))
        law = read_law([about(k, 1e-6) for k in gains], stds, [freedom, freedom])
        assert law.pre_e is not None and law.post_dn is not None
        hits += [law.pre_e.low <= 2.0 <= law.pre_e.high, law.post_dn.low <= 8.0 <= law.post_dn.high]
    # Binomial(2000, 0.95): 4 standard deviations are 2 %.
    assert (abs(hits / 2000 - 0.95) < 0.02).all()


def test_one_gain_cannot_divide_read_noise():
    law = read_law([about(1.0), about(1.2)], [about(3.0), about(3.1)])
    assert law.pre_e is None and law.post_dn is None
    assert "two ISOs" in law.warnings[0]


def test_read_noise_that_follows_no_law_is_said():
    gains = [about(k, 1e-6) for k in (1.0, 2.0, 4.0)]
    law = read_law(gains, [about(2.0), about(4.0), about(3.0)])
    assert any("does not follow" in warning for warning in law.warnings)
