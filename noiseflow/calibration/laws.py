"""What holds over the ISOs of a camera: how the gain grows, and read noise before and behind it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from noiseflow.calibration.profile import Estimate

TOLERANCE = 0.06
"""Relative deviation of the ratio of two gains from that of their ISOs that still counts as proportional."""

_SPREAD_GAINS = 1.5  # ratio of gains below which read noise before and behind the gain look alike
_SURE = 0.001


class GainLaw(NamedTuple):
    """Ranges of ISO in which the gain is proportional to ISO, or stays; and sentences about what lies between."""

    segments: tuple[tuple[float, float], ...]
    breaks: tuple[str, ...]


def gain_law(gains: Mapping[float, Estimate]) -> GainLaw:
    """Test from ISO to ISO whether the gain grows in proportion, stays as it is, or does something else.

    A step counts as proportional (or as none) where it deviates from that by at most 6 %, or no more than its
    interval.

    Examples:
        >>> gains = {100: 1.0, 200: 2.0, 400: 4.0, 800: 4.0, 1600: 4.0}
        >>> gain_law({iso: Estimate(k, 0.99 * k, 1.01 * k) for iso, k in gains.items()}).segments
        ((100, 400), (800, 1600))
    """
    isos = sorted(gains)
    if not isos:
        return GainLaw((), ())
    kinds = [_step(a, b, gains[a], gains[b]) for a, b in itertools.pairwise(isos)]
    segments, breaks = [], []
    first, kind = 0, None
    for k, step in enumerate(kinds):
        if step != "other" and kind in (None, step):
            kind = step
            continue
        segments.append((isos[first], isos[k]))
        ratio = gains[isos[k + 1]].value / gains[isos[k]].value
        breaks.append(
            f"the gain is not proportional to ISO from {isos[k]:g} to {isos[k + 1]:g}: it grows {ratio:.3g}-fold, "
            f"ISO {isos[k + 1] / isos[k]:.3g}-fold"
        )
        first, kind = k + 1, None
    segments.append((isos[first], isos[-1]))
    return GainLaw(tuple(segments), tuple(breaks))


def _step(iso: float, next_iso: float, gain: Estimate, next_gain: Estimate) -> str:
    ratio = math.log(next_gain.value / gain.value)
    error = math.hypot(*(math.log(g.high / g.low) / 2 for g in (gain, next_gain)))
    allowed = max(TOLERANCE, min(error, 0.5 * math.log(next_iso / iso)))
    if abs(ratio - math.log(next_iso / iso)) <= allowed:
        return "proportional"
    return "constant" if abs(ratio) <= allowed else "other"


class ReadLaw(NamedTuple):
    """Read noise before the gain, electrons, and behind it, DN; None where not identifiable, with the reason."""

    pre_e: Estimate | None
    post_dn: Estimate | None
    warnings: tuple[str, ...]


def read_law(gains: Sequence[Estimate], stds: Sequence[Estimate], freedoms: Sequence[float] | None = None) -> ReadLaw:
    """Divide read noise over gains: std² = (K·pre)² + post².

    Weighted least squares on variances, whose errors come from the intervals; the square roots carry the intervals
    over. Both parts are at least 0. The degrees of freedom of an error that several contribute to are Welch's and
    Satterthwaite's, (Σ v_i)² / Σ v_i²/ν_i.

    Args:
        gains: conversion gain of each ISO.
        stds: standard deviation of the read noise there, without rounding, DN.
        freedoms: degrees of freedom of their errors, where their intervals are Student's; None: they are normal.
    """
    if len(gains) < 2 or max(g.value for g in gains) < _SPREAD_GAINS * min(g.value for g in gains):
        return ReadLaw(None, None, (
            "read noise before and behind the gain cannot be told apart: that takes darks and flats at two ISOs whose "
            "gains differ, say 100 and 800",
        ))  # fmt: skip
    k = np.array([g.value for g in gains])
    variance = np.array([s.value**2 for s in stds])
    k_error = np.array([(g.high - g.low) / 3.92 for g in gains])
    # Relative, for the logarithm is what is near to normal.
    error = np.array([s.value**2 * math.log(s.high / s.low) if s.low > 0 else math.inf for s in stds])
    freedom = np.full(k.size, np.inf) if freedoms is None else np.array(freedoms, dtype=np.float64)
    error = error / stats.t.ppf(0.975, freedom)
    usable = np.isfinite(error)
    k, variance, k_error, error, freedom = (v[usable] for v in (k, variance, k_error, error, freedom))
    if usable.sum() < 2:
        return ReadLaw(None, None, ("read noise is not known at two ISOs: before and behind the gain cannot be told",))
    design = np.stack([k**2, np.ones_like(k)])
    total = error
    solution = np.zeros(2)
    for _ in range(4):
        weight = 1 / total
        solution, _ = optimize.nnls((design * weight).T, variance * weight)
        total = np.hypot(error, 2 * solution[0] * k * k_error)
    covariance = np.linalg.inv((design / total**2) @ design.T)
    chi2 = float((((variance - solution @ design) / total) ** 2).sum())
    warnings = []
    if k.size > 2 and chi2 > stats.chi2.ppf(1 - _SURE, k.size - 2):
        warnings.append(
            "read noise does not follow one law over the gains, std² = (K·before)² + behind²: the camera may have two "
            "conversion gains, or a filter at some ISOs; the two parts are a compromise"
        )
        covariance = covariance * chi2 / (k.size - 2)
    own = np.square(covariance @ (design / total**2) * error)  # what each ISO's own error adds, for both parts
    spread = np.diag(covariance)
    with np.errstate(divide="ignore"):
        # At least one degree of freedom: below it, the formula's normal approximation has no meaning.
        reach = stats.t.ppf(0.975, np.maximum(spread**2 / (own**2 / freedom).sum(axis=1), 1.0))
    errors = np.sqrt(spread) * reach / 1.96
    parts = [root(float(value), float(half)) for value, half in zip(solution, errors, strict=True)]
    for part, where, unit in zip(parts, ("before", "behind"), ("electrons", "DN"), strict=True):
        if part.low == 0:
            warnings.append(f"read noise {where} the gain cannot be told from 0: at most {part.high:.3g} {unit}")
    return ReadLaw(parts[0], parts[1], tuple(warnings))


def at_most(read: Estimate) -> str:
    """What is known of read noise whose interval begins at 0 DN."""
    if read.high > 0:
        return f"it is at most {read.high:.3g} DN"
    return "less variance is left at black than none; the black level is probably lower than was said"


def root(value: float, error: float) -> Estimate:
    """The square root of a number >= 0 that is known with a standard error, with its 95 % interval."""
    low, high = value - 1.96 * error, value + 1.96 * error
    return Estimate(*(math.sqrt(max(part, 0.0)) for part in (value, low, high)))
