"""What looks wrong with the frames, each with its likely cause and the numbers that say so.

Every check is a statistic that is near a known value for a good set, a threshold on its size (what would harm a
calibration) and one on its certainty (what chance gives once in a thousand sets); both must be passed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from noiseflow.calibration.darks import CLIPPED, DarkFit, Darks
from noiseflow.calibration.diagnostics import IsoDiagnostics
from noiseflow.calibration.frames import Codes, FloatArray, FrameSet
from noiseflow.calibration.stacks import Stack
from noiseflow.calibration.transfer import Line, Points, weighted_line

Kind = Literal[
    "denoised",
    "clipped black",
    "light leak",
    "flicker",
    "moved",
    "mixed ISO",
    "lens shading",
    "black drift",
    "odd pixels",
]

_CORRELATED = 0.02  # correlation of the noise of neighbours of one colour
_LEAK = 0.15  # standard deviation over tiles of the dark level, in standard deviations of the read noise
_FLICKER = 0.005  # relative difference of the light of two frames of a pair
_BANDED = 0.002  # relative amplitude of bands across rows
_SHIFT = 0.05  # pixels
_OTHER_GAIN = 0.15  # relative deviation of the noise of a pair or dark from that of the others
_SHADING = 0.15  # relative range of the light over the tiles of a flat
_DRIFT = 0.15  # range of dark levels, in standard deviations of the read noise
_DRIFT_UNDER_LIGHT = 0.5  # the same of the black level that flats say
_ODD = 1e-3  # share of hot or jumping pixels
_SURE = 4.5  # standard errors


@dataclass(frozen=True)
class Finding:
    """One suspicion.

    Attributes:
        kind: its name.
        iso: ISO speed of the frames.
        message: what was seen, with numbers, and the likely cause; one or two sentences.
        evidence: the numbers by name.
    """

    kind: Kind
    iso: float
    message: str
    evidence: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the checks look at: one ISO.

    Attributes:
        frames: the frames.
        darks: statistics of the dark frames.
        fit: what they gave.
        stacks: statistics of flat pairs, then of bursts.
        line: photon-transfer line.
        black: `(C,)`, DN.
        high: code at which the sensor saturates.
        diagnostics: the rest.
    """

    frames: FrameSet
    darks: Darks | None
    fit: DarkFit | None
    stacks: Sequence[Stack]
    line: Line | None
    black: FloatArray
    high: float
    diagnostics: IsoDiagnostics

    @property
    def iso(self) -> float:
        """ISO speed."""
        return self.frames.iso

    @property
    def noise(self) -> float | None:
        """Variance of a dark pixel, DN², where darks know it."""
        return None if self.fit is None or self.fit.read is None else self.fit.noise


def find_faults(evidence: Iterable[Evidence]) -> tuple[Finding, ...]:
    """All findings, ISO by ISO; one that another explains is left out."""
    checks = (_clipped_black, _denoised, _mixed_iso, _light_leak, _black_drift, _flicker, _moved, _shading, _odd_pixels)
    out: list[Finding] = []
    for one in evidence:
        found = [finding for check in checks if (finding := check(one)) is not None]
        bends_the_line = {finding.kind for finding in found} & {"denoised", "mixed ISO"}
        out += [f for f in found if not (bends_the_line and f.kind == "black drift" and "shift_dn" in f.evidence)]
    return tuple(out)


def _clipped_black(e: Evidence) -> Finding | None:
    if e.darks is None or e.darks.clipped < CLIPPED:
        return None
    lowest = float(e.frames.darks.min())
    return Finding(
        "clipped black", e.iso,
        f"{100 * e.darks.clipped:.1f} % of the dark pixels have the lowest code {lowest:g}: the camera (or the raw "
        "converter) took the black level off and cut what fell below it",
        {"share": e.darks.clipped, "code": lowest},
    )  # fmt: skip


def _denoised(e: Evidence) -> Finding | None:
    """Noise of neighbours of one colour goes together (or apart), as it does behind a filter."""
    pairs = [pair for pair in e.frames.flats if pair.max() < e.high]
    worst: tuple[float, float, str] | None = None
    darks = e.frames.darks if e.darks is not None and e.darks.clipped < CLIPPED else e.frames.darks[:0]
    for what, differences in (
        ("dark frames", [b.astype(np.float32) - a for a, b in itertools.pairwise(darks)]),
        ("flats", [pair[1].astype(np.float32) - pair[0] for pair in pairs]),
    ):
        found = [_neighbour_correlation(e.frames.planes(difference)) for difference in differences]
        if not found:
            continue
        value = np.mean([rho for rho, _ in found], axis=0)
        error = math.sqrt(sum(1 / n for _, n in found)) / len(found)
        k = int(np.abs(value).argmax())
        if abs(value[k]) > max(_CORRELATED, _SURE * error) and (worst is None or abs(value[k]) > abs(worst[0])):
            worst = float(value[k]), error, what
    if worst is None:
        return None
    rho, error, what = worst
    return Finding(
        "denoised", e.iso,
        f"the noise of neighbouring pixels of one colour has a correlation of {rho:.3f} ± {2 * error:.3f} in the "
        f"{what}, where a sensor has none: the camera filters its raw files (denoising, long-exposure or hot-pixel "
        "correction); gain and read noise come out too small",
        {"correlation": rho, "error": error},
    )  # fmt: skip


def _neighbour_correlation(planes: NDArray[np.float32]) -> tuple[FloatArray, int]:
    """Correlation with the next pixel of one colour across and down, rows and columns apart, and the count of pairs."""
    inner = planes - planes.mean(axis=-1, keepdims=True) - planes.mean(axis=-2, keepdims=True)
    inner += planes.mean(axis=(-2, -1), keepdims=True)
    # A few wild pixels would drown the others.
    limit = 6 * np.sqrt(np.square(inner).mean(axis=(-2, -1), keepdims=True))
    inner = np.clip(inner, -limit, limit)
    square = np.square(inner).mean(dtype=np.float64)
    # Taking row and column means off leaves −1/n.
    rho = [(inner[..., 1:] * inner[..., :-1]).mean(dtype=np.float64) + square / planes.shape[-1],
           (inner[..., 1:, :] * inner[..., :-1, :]).mean(dtype=np.float64) + square / planes.shape[-2]]  # fmt: skip
    return np.array(rho) / square, inner.size


def _mixed_iso(e: Evidence) -> Finding | None:
    """One dark frame or one flat pair has a noise of its own."""
    odd: list[tuple[float, str]] = []
    if len(e.frames.darks) > 2 and e.noise is not None:
        rest = e.frames.darks.astype(np.float32)
        noises = [_difference_noise(frame, e.frames) for frame in rest]
        variance = np.array([noise for noise, _ in noises])
        k = int(np.abs(np.log(variance / np.median(variance))).argmax())
        if abs(math.log(variance[k] / np.median(variance))) > _SURE * noises[k][1]:
            odd.append((float(variance[k] / np.median(variance)), f"dark frame {k + 1}"))
    if (pair := _odd_pair(e)) is not None:
        odd.append(pair)
    ratio, who = max(odd, key=lambda pair: abs(math.log(max(pair[0], 1e-9))), default=(1.0, ""))
    if abs(math.log(max(ratio, 1e-9))) < _OTHER_GAIN:
        return None
    return Finding(
        "mixed ISO", e.iso,
        f"{who} has {ratio:.2f} times the noise that the others say it should: it was probably taken at another "
        "ISO, or by another camera",
        {"ratio": ratio},
    )  # fmt: skip


def _odd_pair(e: Evidence) -> tuple[float, str] | None:
    """The flat pair whose noise is farthest off the line through the others, if surely; with a free black level."""
    kept = [k for k, stack in enumerate(e.stacks[: len(e.frames.flats)]) if stack.highest.max() < e.high]
    light = np.array([float((e.stacks[k].mean - e.black[:, None, None]).mean()) for k in kept])
    noise = np.array([e.stacks[k].noise for k in kept])
    dof = np.array([float(e.stacks[k].dof.sum()) * len(e.stacks[k].mean) for k in kept])
    worst: tuple[float, float, str] | None = None
    for k in range(len(kept)):
        rest = np.arange(len(kept)) != k
        zero = np.zeros(int(rest.sum()))
        line = weighted_line(Points(light[rest], noise[rest], dof[rest], zero, zero), None) if rest.sum() > 1 else None
        if line is None:
            continue
        at = np.array([light[k], 1.0])
        expected = line.slope * light[k] + line.intercept
        if min(expected, noise[k]) <= 0:
            continue
        error = math.sqrt(at @ line.covariance @ at / expected**2 + 2 / dof[k])
        ratio = math.log(noise[k] / expected)
        # The right one to leave out is the one without which the others agree.
        misfit = line.chi2 if line.freedom > 0 else -abs(ratio)
        if abs(ratio) > _SURE * error and (worst is None or misfit < worst[0]):
            worst = misfit, math.exp(ratio), f"flat pair {kept[k] + 1}"
    return None if worst is None else worst[1:]


def _difference_noise(frame: NDArray[np.float32], frames: FrameSet) -> tuple[float, float]:
    """Robust variance of a frame's pixels from differences of neighbours along rows, and its relative error."""
    planes = frames.planes(frame)
    step = np.abs(planes[..., 1:] - planes[..., :-1])
    square = np.square(np.minimum(step, 8 * np.median(step) + 8), dtype=np.float64)
    mean = float(square.mean())
    # Neighbouring differences share a pixel.
    return mean / 2, math.sqrt(2 / square.size) * float(square.std()) / mean


def _light_leak(e: Evidence) -> Finding | None:
    """The level of the dark frames varies smoothly over the frame."""
    if e.darks is None or len(e.frames.darks) < 2 or e.darks.clipped >= CLIPPED or e.noise is None:
        return None
    stack = e.darks.stack
    level = stack.mean.mean(axis=0)
    level = level - level.mean()
    if level.size < 4:
        return None
    smooth = ndimage.uniform_filter(level, 3, mode="nearest") if min(level.shape) > 2 else level
    spread = float(smooth.std())
    # What chance leaves in the mean of a tile: its pixels, the rows and the columns through it.
    pixels = stack.dof / (stack.frames - 1) * len(stack.mean)
    tile = stack.noise / (stack.frames * float(pixels.mean()))
    tile += max(stack.spatial - spread**2, 0.0) / float(pixels.mean())
    across = (stack.columns.length / level.shape[0], stack.rows.length / level.shape[1])
    lines = sum(max(line.variance, 0.0) / (stack.frames * per) for line, per in
                ((stack.rows, across[0]), (stack.columns, across[1])))  # fmt: skip
    chance = math.sqrt(tile + lines)
    if spread < max(_LEAK * math.sqrt(e.noise), 2.5 * chance):
        return None
    high, low = (np.unravel_index(int(at), level.shape) for at in (smooth.argmax(), smooth.argmin()))
    return Finding(
        "light leak", e.iso,
        f"the dark frames are not evenly dark: tile {tuple(int(i) for i in high)} lies "
        f"{float(smooth[high] - smooth[low]):.2f} DN above tile {tuple(int(i) for i in low)} "
        f"(read noise {math.sqrt(e.noise):.2f} DN): light came in (viewfinder, lens cap, status lamp), or the "
        "amplifier glows",
        {"spread_dn": spread, "range_dn": float(smooth[high] - smooth[low])},
    )  # fmt: skip


def _black_drift(e: Evidence) -> Finding | None:
    """The level moves from dark to dark, or lies elsewhere under light."""
    if e.darks is None or e.noise is None:
        return None
    stack, sigma = e.darks.stack, math.sqrt(e.noise)
    count = stack.frames if len(e.frames.darks) > 1 else 1
    means = stack.frame_means.mean(axis=1)
    if count > 2:
        height, width = stack.columns.length, stack.rows.length
        chance = math.sqrt(stack.rows.variance / height + stack.columns.variance / width)
        moved = float(np.ptp(means))
        if moved > max(_DRIFT * sigma, math.sqrt(2) * _SURE * chance):
            return Finding(
                "black drift", e.iso,
                f"the level of the dark frames moves by {moved:.2f} DN from frame to frame (read noise {sigma:.2f} DN, "
                f"chance {chance:.3f} DN): the sensor was warming up, or the exposures differ",
                {"range_dn": moved, "chance_dn": chance},
            )  # fmt: skip
    shift = e.diagnostics.black_shift
    if shift is None:
        return None
    error = (shift.high - shift.low) / 3.92
    if abs(shift.value) < max(_DRIFT_UNDER_LIGHT * sigma, _SURE * error):
        return None
    return Finding(
        "black drift", e.iso,
        f"the flats say that black lies {shift.value:+.2f} ± {2 * error:.2f} DN from where the darks have it: the "
        "black level drifts with exposure or light, or the sensor is not linear; the gain does not trust the darks",
        {"shift_dn": shift.value, "error_dn": error},
    )  # fmt: skip


def _flicker(e: Evidence) -> Finding | None:
    """The two frames of a flat pair saw different light, over the frame or in bands across rows."""
    worst = (0.0, 0, "")
    for number, (pair, stack) in enumerate(zip(e.frames.flats, e.stacks, strict=False)):
        light = float((stack.mean - e.black[:, None, None]).mean())
        if light <= 0 or pair.max() >= e.high:
            continue
        mean = stack.frame_means.mean(axis=1)
        height, width = stack.columns.length, stack.rows.length
        chance = math.sqrt(2 * (stack.rows.variance / height + stack.columns.variance / width))
        moved = abs(float(mean[1] - mean[0]))
        if moved > max(_FLICKER * light, _SURE * chance):
            worst = max(worst, (moved / light, number, "over the whole frame"))
        rows = (pair[1].astype(np.float32) - pair[0]).mean(axis=1, dtype=np.float64)
        slow = ndimage.uniform_filter1d(rows, max(height // 16, 4)) - rows.mean()
        # The mean of n rows whose differences have variance 2·v.
        noise = math.sqrt(2 * stack.rows.variance / max(height // 16, 4))
        own = float(np.std(np.diff(rows))) / math.sqrt(2)
        noise = min(noise, own / math.sqrt(max(height // 16, 4)))
        if slow.std() > max(_BANDED * light, 2.0 * noise):
            worst = max(worst, (math.sqrt(2) * float(slow.std()) / light, number, "in bands across the rows"))
    size, number, where = worst
    if not size:
        return None
    return Finding(
        "flicker", e.iso,
        f"the light of the two frames of flat pair {number + 1} differs by {100 * size:.2f} % {where}: the lamp "
        "flickers (use daylight, a battery lamp, or a shutter time that holds many periods), or it was not the same "
        "exposure",
        {"relative": size, "pair": float(number + 1)},
    )  # fmt: skip


def _moved(e: Evidence) -> Finding | None:
    """Frames of one scene differ as they do when shifted: in proportion to the gradient."""
    shift, error, number = 0.0, 0.0, 0
    for k, burst in enumerate(e.frames.bursts):
        size, uncertain = burst_shift(burst, e.frames)
        if size > shift:
            shift, error, number = size, uncertain, k + 1
    if not number:
        return None
    return Finding(
        "moved", e.iso,
        f"the frames of burst {number} are shifted by {shift:.2f} ± {2 * error:.2f} pixels of one colour against each "
        "other: the tripod moved, or the scene did; edges would count as noise, so the burst is left out",
        {"shift_px": shift, "error_px": error},
    )  # fmt: skip


def burst_shift(burst: Codes, frames: FrameSet) -> tuple[float, float]:
    """How far frames of a burst are shifted against its first, pixels of one colour, and the standard error.

    Returns:
        The largest shift that is sure and above a twentieth of a pixel; (0, 0) where there is none.
    """
    found = [_shift(burst[0], other, frames) for other in burst[1:]]
    return max((pair for pair in found if pair[0] > _SHIFT), default=(0.0, 0.0))


def _shift(first: Codes, other: Codes, frames: FrameSet) -> tuple[float, float]:
    """Length of the shift between two frames, pixels of one colour, as far as it is sure, and its standard error.

    Least squares of the difference on the gradients of the smoothed mean; smoothing keeps the noise, which is in both,
    from looking like a gradient.
    """
    a, b = (frames.planes(frame.astype(np.float32)).mean(axis=0) for frame in (first, other))
    scene = ndimage.gaussian_filter((a + b) / 2, 2.0)
    difference = ndimage.gaussian_filter(b - a, 2.0)
    down, across = np.gradient(scene)
    edge = (slice(2, -2), slice(2, -2))
    design = np.stack([down[edge].ravel(), across[edge].ravel(), (scene[edge] - scene[edge].mean()).ravel(),
                       np.ones(scene[edge].size)])  # fmt: skip
    target = difference[edge].ravel()
    size = np.maximum(np.sqrt(np.square(design).mean(axis=1)), 1e-12)
    design = design / size[:, None]
    inverse = np.linalg.pinv(design @ design.T, rcond=1e-10)
    solution = inverse @ (design @ target)
    left = target - solution @ design
    # Smoothing with σ = 2 makes 4πσ² neighbours go together.
    errors = np.sqrt(np.square(left).mean() * 16 * math.pi * np.diag(inverse))
    shift, error = (values[:2] / size[:2] for values in (solution, errors))
    # A scene of stripes says nothing about shifts along them.
    sure = np.abs(shift) > _SURE * error
    return float(np.hypot(*(shift * sure))), float(np.hypot(*(error * sure)))


def _shading(e: Evidence) -> Finding | None:
    """Flats are darker in places, as behind a lens."""
    ranges = []
    for stack in e.stacks[: len(e.frames.flats)]:
        light = (stack.mean - e.black[:, None, None]).mean(axis=0)
        pixels = stack.dof / (stack.frames - 1) * len(stack.mean)
        error = math.sqrt(stack.noise / 2 / float(pixels.mean()))
        if stack.highest.max() < e.high and light.mean() > 100 * error:
            ranges.append(float(np.ptp(light) / light.max()))
    if not ranges or np.median(ranges) < _SHADING:
        return None
    size = float(np.median(ranges))
    return Finding(
        "lens shading", e.iso,
        f"the flats fall off by {100 * size:.0f} % over the frame: lens shading or uneven light. Gain and noise are "
        "not harmed, as each tile has its own level; the white level and PRNU of the corners are",
        {"range": size},
    )  # fmt: skip


def _odd_pixels(e: Evidence) -> Finding | None:
    hot, jumping = e.diagnostics.hot, e.diagnostics.jumping
    if hot is None or jumping is None or e.noise is None:
        return None
    size = e.frames.darks[0].size
    share = max(len(hot), len(jumping)) / size
    if share < _ODD:
        return None
    return Finding(
        "odd pixels", e.iso,
        f"{len(hot)} hot pixels and {len(jumping)} that jump between frames, of {size}: an old or warm sensor; they "
        "make the tails of the read noise heavier",
        {"hot": float(len(hot)), "jumping": float(len(jumping))},
    )  # fmt: skip
