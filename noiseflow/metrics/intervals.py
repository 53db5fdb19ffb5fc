"""How sure a score is: intervals over scenes, not over pixels.

Pixels of one scene share its content, its ground truth and its camera, so they are no independent sample of
"scores on a new scene"; scenes are. A score averages pixels (a ratio of sums), its interval counts scenes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

MIN_SCENES = 3


@dataclass(frozen=True)
class Interval:
    """A mean over pixel values and its interval over scenes.

    Attributes:
        value: the mean, in the unit of the score (nats per value for likelihoods).
        low: lower end of the interval; None where it cannot be computed.
        high: upper end of the interval; None where it cannot be computed.
        se: standard error of `value` over scenes; None where it cannot be computed.
        scenes: number of scenes.
        method: how the interval was made, or why there is none, to print beside it.
    """

    value: float
    low: float | None
    high: float | None
    se: float | None
    scenes: int
    method: str


def scene_interval(totals: Sequence[float], counts: Sequence[int], level: float = 0.95) -> Interval:
    r"""Mean of a per-value score over all pixels, with a t interval over scenes.

    With n_s values in scene s, their mean m_s = totals_s / n_s, N = Σ n_s and S scenes, the value is the ratio
    r = Σ totals_s / N and its variance is that of the linearised ratio estimator,

    se² = S/(S − 1) · Σ_s (n_s/N)² (m_s − r)²,

    which for scenes of equal size is the variance of a mean of S numbers. The interval is r ± t · se with
    S − 1 degrees of freedom.

    Args:
        totals: S sums, each over the values of one scene, in nats (or any unit).
        counts: S numbers of values, > 0.
        level: coverage, in (0, 1).

    Returns:
        The value and its interval in the unit of `totals` per value. Below 3 scenes, or where a total is not
        finite, `low`, `high` and `se` are None and `method` says why.

    Raises:
        ValueError: no scenes, lengths that differ, a count that is not positive, or a level outside (0, 1).

    References:
        Cochran, Sampling Techniques, 3rd edition (1977), section 6.4, without the finite-population factor.

    Examples:
        >>> interval = scene_interval([10.0, 12.0, 14.0], [10, 10, 10])
        >>> round(interval.value, 4), round(interval.low, 4), round(interval.high, 4), interval.method
        (1.2, 0.7032, 1.6968, 't interval over 3 scenes')
    """
    scenes = len(totals)
    if scenes == 0 or len(counts) != scenes:
        raise ValueError(f"expected as many counts as totals, at least one, got {len(counts)} and {scenes}")
    if min(counts) <= 0:
        raise ValueError(f"counts: expected positive numbers of values, got {min(counts)}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    total = math.fsum(totals) if all(map(math.isfinite, totals)) else sum(totals)
    size = sum(counts)
    value = total / size
    if not math.isfinite(value):
        return Interval(value, None, None, None, scenes, "no interval: the score is not finite")
    if scenes < MIN_SCENES:
        plural = "scene" if scenes == 1 else "scenes"
        return Interval(value, None, None, None, scenes, f"no interval: {scenes} {plural}, 3 needed")
    # (n_s/N)(m_s − r) = (totals_s − r n_s)/N
    residuals = (np.asarray(totals, np.float64) - value * np.asarray(counts, np.float64)) / size
    se = math.sqrt(scenes / (scenes - 1) * float(residuals @ residuals))
    margin = float(stdtrit(scenes - 1, 0.5 + level / 2)) * se
    return Interval(value, value - margin, value + margin, se, scenes, f"t interval over {scenes} scenes")


def paired_difference(
    totals: Sequence[float], others: Sequence[float], counts: Sequence[int], level: float = 0.95
) -> Interval:
    """Mean difference of two models' scores over the same scenes, with a t interval over scenes.

    The difference is taken within each scene, so what all models find hard about a scene cancels: two models
    can differ surely although their own intervals overlap.

    Args:
        totals: S sums of the first model's per-value score, one a scene, in nats.
        others: S sums of the second model's, over the same values.
        counts: S numbers of values, > 0.
        level: coverage, in (0, 1).

    Returns:
        First minus second, in nats per value; negative where the first is lower.

    Raises:
        ValueError: as `scene_interval`, or the two models have different numbers of scenes.

    Examples:
        >>> paired_difference([10.0, 21.0, 29.0], [11.0, 22.0, 30.0], [10, 10, 10]).value
        -0.1
    """
    if len(totals) != len(others):
        raise ValueError(f"expected the same scenes for both models, got {len(totals)} and {len(others)}")
    return scene_interval([a - b for a, b in zip(totals, others, strict=True)], counts, level)
