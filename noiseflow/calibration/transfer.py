"""The photon-transfer curve: variance of a pixel against its mean, and the conversion gain that is its slope.

    variance = K·(mean − black) + noise

of single frames, both temporal, tile by tile: the line holds whatever the scene, since each side is linear in it.
The line is not forced through the black level of the dark frames: that drifts with exposure, and a wrong one bends
the slope. Where the light levels are spread enough the intercept is free, and black is read from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from noiseflow.calibration.frames import FloatArray
from noiseflow.calibration.profile import Estimate
from noiseflow.calibration.stacks import Stack

_FREE_ENOUGH = 0.02
"""Half width of the interval of K, relative, up to which a free intercept is affordable whatever a fixed one gives."""

_AS_GOOD = 3.0  # or a half width up to this many times that of the fixed intercept
_SURE = 0.001  # of a test of the line's fit
_NEAR_SATURATION = 5.0  # standard deviations


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a photon-transfer curve.

    Attributes:
        mean: `(n,)`, DN, the black level of darks (or a known one) taken off, where there is one.
        variance: `(n,)`, DN².
        dof: `(n,)`, degrees of freedom of the variance.
        channel: `(n,)`, packed channel.
        stack: `(n,)`, which of the stacks of frames.
    """

    mean: FloatArray
    variance: FloatArray
    dof: FloatArray
    channel: FloatArray
    stack: FloatArray

    def only(self, chosen: FloatArray) -> Points:
        """Some of the points."""
        parts = (self.mean, self.variance, self.dof, self.channel, self.stack)
        return Points(*(part[chosen] for part in parts))


def points_of(stacks: Sequence[Stack], black: FloatArray, low: float, high: float) -> Points:
    """Tiles of stacks as points; tiles near either end of the codes are left out.

    Args:
        stacks: statistics of flat pairs and bursts.
        black: `(C,)`, taken off the means.
        low: lowest code there can be, −inf where none was reached.
        high: code at which the sensor saturates, inf where unknown.
    """
    columns: list[list[FloatArray]] = [[] for _ in range(5)]
    for number, stack in enumerate(stacks):
        # The variance of the channel, scaled by the mean: a tile's own would leave out those that chance made noisy.
        typical = stack.variance.mean(axis=(1, 2)) / (stack.mean - black[:, None, None]).mean(axis=(1, 2))
        light = np.maximum(stack.mean - black[:, None, None], 0.0)
        reach = _NEAR_SATURATION * np.sqrt(np.maximum(typical, 0.0)[:, None, None] * light)
        inside = (stack.highest < high) & (stack.lowest > low)
        inside &= (stack.mean + reach < high) & (stack.mean - reach > low)
        shape = stack.mean.shape
        channel = np.broadcast_to(np.arange(shape[0], dtype=np.float64)[:, None, None], shape)
        values = (
            stack.mean - black[:, None, None],
            stack.variance,
            np.broadcast_to(stack.dof, shape),
            channel,
            np.full(shape, float(number)),
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value[inside])
    empty = np.zeros(0)
    return Points(*(np.concatenate([*column, empty]) for column in columns))


class Line(NamedTuple):
    """A weighted straight line.

    Attributes:
        slope: K, DN per electron.
        intercept: variance at mean 0, DN².
        covariance: `(2, 2)`, of the two.
        free: whether the intercept was fitted.
        chi2: weighted sum of squared residuals over its degrees of freedom.
        freedom: degrees of freedom.
    """

    slope: float
    intercept: float
    covariance: FloatArray
    free: bool
    chi2: float
    freedom: int

    def interval(self) -> Estimate | None:
        """K with its 95 % interval; None where it is not positive for sure."""
        half = 1.96 * math.sqrt(self.covariance[0, 0])
        if not 0 < self.slope - half < math.inf:
            return None
        return Estimate(self.slope, self.slope - half, self.slope + half)


def fit_line(points: Points, noise: float | None = None, noise_se: float = 0.0, black_se: float = 0.0) -> Line | None:
    """Straight line through the points of one ISO by iterated weights, dof / (2·variance²) at the line itself.

    These are the likelihood equations of sample variances of normal noise. Where residuals are larger than that for
    sure (a test at 0.1 %), errors are widened in proportion.

    Args:
        points: at least two.
        noise: variance in the dark, DN², if known: the intercept to use where the light levels cannot give one.
        noise_se: standard error of it.
        black_se: standard error of the black level that was taken off, DN; moves a fixed intercept by K times that.

    Returns:
        None where there are too few points.
    """
    if points.mean.size < 2:
        return None
    free = _honest(weighted_line(points, None))
    if noise is None:
        return free
    fixed = _honest(weighted_line(points, noise))
    if fixed is None:
        return free
    # The error of the fixed intercept moves the slope by Σ w·m / Σ w·m².
    weight = points.dof / (2 * np.maximum(fixed.intercept + fixed.slope * points.mean, 1e-12) ** 2)
    lever = float((weight * points.mean).sum() / (weight * points.mean**2).sum())
    shift = math.hypot(noise_se, fixed.slope * black_se)
    covariance = fixed.covariance.copy()
    covariance[0, 0] += (lever * shift) ** 2
    fixed = fixed._replace(covariance=covariance)
    if free is None or free.slope <= 0:
        return fixed
    width, other = (1.96 * math.sqrt(line.covariance[0, 0]) / fixed.slope for line in (free, fixed))
    return free if width <= max(_FREE_ENOUGH, _AS_GOOD * other) else fixed


def weighted_line(points: Points, intercept: float | None) -> Line | None:
    """Straight line with weights dof / (2·variance²) at the line itself, and the errors these stand for.

    Args:
        points: at least two, or one if the intercept is given.
        intercept: variance at mean 0, DN²; fitted if not given.

    Returns:
        None where all means are the same.
    """
    x, y, dof = points.mean, points.variance, points.dof
    free = intercept is None
    design = np.stack([x, np.ones_like(x)]) if free else x[None]
    target = y if intercept is None else y - intercept
    floor = 1e-3 * float(np.median(y))
    fitted = y
    solution = np.zeros(len(design))
    inverse = np.zeros((len(design), len(design)))
    for turn in range(30):
        weight = dof / (2 * np.maximum(fitted, floor) ** 2) if turn else dof / np.mean(y) ** 2
        normal = (design * weight) @ design.T
        if np.linalg.cond(normal) > 1e14:
            return None
        inverse = np.linalg.inv(normal)
        new = inverse @ ((design * weight) @ target)
        change = float(np.abs(new - solution).max() / np.abs(new).max())
        solution = new
        fitted = solution @ design + (0.0 if intercept is None else intercept)
        if turn > 1 and change < 1e-10:
            break
    freedom = x.size - len(design)
    weight = dof / (2 * np.maximum(fitted, floor) ** 2)
    chi2 = float((weight * (y - fitted) ** 2).sum() / max(freedom, 1))
    covariance = np.zeros((2, 2))
    covariance[: len(design), : len(design)] = inverse
    return Line(float(solution[0]), float(solution[1]) if free else float(intercept or 0.0), covariance, free, chi2,
                freedom)  # fmt: skip


class ColourLines(NamedTuple):
    """Lines of several channels that meet the axis at one level.

    Attributes:
        gains: of each channel, None where it has no points.
        pooled: their weighted mean as a line.
    """

    gains: tuple[Estimate | None, ...]
    pooled: Line


def fit_colours(points: Points, channels: int) -> ColourLines | None:
    """Gains of channels that share their black level but not their gain, as where a camera scales colours.

        variance = K_c·(mean − b)

    by maximum likelihood of sample variances: given b, K_c is the mean of variance/(mean − b); b is then a search in
    one dimension. Read noise that is not known apart moves b below black, by the same for all channels if they read
    alike in electrons.

    Args:
        points: of one ISO.
        channels: how many there are.
    """
    x, y, dof, of = points.mean, points.variance, points.dof, points.channel.astype(np.int64)
    if x.size < channels + 2 or np.ptp(x) == 0:
        return None
    total = np.bincount(of, dof, channels)

    def gains(b: float) -> FloatArray:
        sums = np.bincount(of, dof * y / (x - b), channels)
        out: FloatArray = np.divide(sums, total, out=np.full(channels, math.nan), where=total > 0)
        return out

    def loss(b: float) -> float:
        v = gains(b)[of] * (x - b)
        return float((dof / 2 * (np.log(v) + y / v)).sum())

    lowest, reach = float(x.min()), float(np.ptp(x))
    b = float(optimize.minimize_scalar(loss, bounds=(lowest - 2 * reach, lowest - 1e-3 * reach), method="bounded").x)
    k = gains(b)
    v = k[of] * (x - b)
    weight = dof / (2 * v**2)
    there = np.flatnonzero(total > 0)
    information = np.zeros((there.size + 1, there.size + 1))
    information[np.arange(there.size), np.arange(there.size)] = np.bincount(of, weight * (x - b) ** 2, channels)[there]
    information[:-1, -1] = information[-1, :-1] = -(np.bincount(of, weight * (x - b), channels) * k)[there]
    information[-1, -1] = float((weight * k[of] ** 2).sum())
    chi2 = float((weight * (y - v) ** 2).sum()) / (x.size - there.size - 1)
    covariance = np.linalg.inv(information) * max(chi2, 1.0)
    errors = np.sqrt(np.diag(covariance))
    found: list[Estimate | None] = [None] * channels
    for place, channel in enumerate(there):
        half = 1.96 * float(errors[place])
        found[channel] = Estimate(float(k[channel]), float(k[channel]) - half, float(k[channel]) + half)
    share = 1 / errors[:-1] ** 2 / (1 / errors[:-1] ** 2).sum()
    slope = float(share @ k[there])
    # slope = Σ share·K, intercept = −b·slope.
    jacobian = np.stack([np.append(share, 0.0), np.append(-b * share, -slope)])
    line = Line(slope, -b * slope, jacobian @ covariance @ jacobian.T, True, chi2, x.size - there.size - 1)
    return ColourLines(tuple(found), line)


def _honest(line: Line | None) -> Line | None:
    """Errors widened where the residuals say so for sure."""
    if line is None or line.freedom < 1 or line.chi2 * line.freedom <= stats.chi2.ppf(1 - _SURE, line.freedom):
        return line
    return line._replace(covariance=line.covariance * line.chi2)


def black_shift(line: Line, noise: float, noise_se: float) -> Estimate | None:
    """How far the black level under light lies above that of the darks, DN: where the line meets the dark noise.

    Args:
        line: with a free intercept, else the answer is None.
        noise: variance in the dark, DN².
        noise_se: standard error of it.
    """
    if not line.free or line.slope <= 0:
        return None
    value = (noise - line.intercept) / line.slope
    by_line = np.array([-value / line.slope, -1 / line.slope])
    half = 1.96 * math.sqrt(by_line @ line.covariance @ by_line + (noise_se / line.slope) ** 2)
    return Estimate(value, value - half, value + half)
