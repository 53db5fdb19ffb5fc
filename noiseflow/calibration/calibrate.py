"""From frames of one camera to its noise profile, with intervals, findings and a verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from noiseflow.calibration.darks import CLIPPED, DarkFit, Darks, code_step, dark_statistics, fit_darks
from noiseflow.calibration.diagnostics import IsoDiagnostics, line_spectra, read_plot, transfer_curve
from noiseflow.calibration.findings import Evidence, Finding, find_faults
from noiseflow.calibration.frames import FloatArray, FrameSet
from noiseflow.calibration.laws import at_most, gain_law, read_law, root
from noiseflow.calibration.motion import burst_shift
from noiseflow.calibration.pattern import OddPixels, odd_pixels, sensitivity
from noiseflow.calibration.profile import Estimate, IsoProfile, Profile
from noiseflow.calibration.single import flattest_blocks
from noiseflow.calibration.stacks import stack_statistics
from noiseflow.calibration.transfer import Line, Points, black_shift, fit_colours, fit_line, points_of
from noiseflow.calibration.verdict import Targets, Verdict, judge
from noiseflow.errors import UserError
from noiseflow.progress import SILENT, Progress, track

_PILE = 5e-4  # share of a frame's pixels at one highest code that shows saturation


_BAD_FIT = 2.0  # mean square residual of the photon-transfer line that is said
_ROUGH = 0.15  # relative error of a gain from single pictures that texture may make, whatever their number


@dataclass(frozen=True, eq=False)
class Calibration:
    """What calibration found.

    Attributes:
        profile: the noise parameters.
        diagnostics: numbers to plot, one entry for each ISO.
        findings: what looks wrong with the frames, each with its likely cause.
        verdict: whether the frames were enough.
    """

    profile: Profile
    diagnostics: tuple[IsoDiagnostics, ...]
    findings: tuple[Finding, ...]
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class _Curve:
    """The light side of one ISO."""

    profile: IsoProfile
    diagnostics: IsoDiagnostics
    evidence: Evidence
    read: Estimate | None
    freedom: float
    warnings: tuple[str, ...]


def calibrate(
    frames: Sequence[FrameSet], targets: Targets | None = None, *, source: str = "", progress: Progress = SILENT
) -> Calibration:
    """Fit the noise parameters of a camera to frames of it.

    Each ISO has parameters of its own: the conversion gain K, the slope of variance over mean of flats and bursts
    with the black level as a free parameter; read noise, row and column noise and black level of the darks; PRNU of
    the flats. Over the ISOs they share the kind of read noise, and are put together in the law of the gain and in read
    noise before and behind the gain. What the frames cannot tell is None, and a warning says why.

    Args:
        frames: one set for each ISO, of one camera.
        targets: half widths of the intervals that are wanted; the usual ones if not given.
        source: where the frames come from, for the profile.
        progress: what shows how many ISOs are done.

    Raises:
        UserError: no frames, two sets of one ISO, more than one camera or CFA, or codes that are no whole numbers.
    """
    if not frames:
        raise UserError("calibrate: expected frames, got none")
    frames = sorted(frames, key=lambda group: group.iso)
    if len({group.iso for group in frames}) < len(frames):
        raise UserError("calibrate: expected one set of frames for each ISO, got two of the same")
    if len({(group.camera, group.cfa) for group in frames}) > 1:
        raise UserError(f"calibrate: expected one camera and CFA, got {sorted({g.camera for g in frames})}")
    step = code_step([stack for group in frames for stack in _stacks(group)])
    with_darks = [group for group in frames if len(group.darks)]
    statistics = [dark_statistics(group, step) for group in with_darks]
    fits = fit_darks(statistics, [len(group.darks) for group in with_darks])
    known = {group.iso: pair for group, *pair in zip(with_darks, statistics, fits, strict=True)}

    curves = [
        _one_iso(group, step, *known.get(group.iso, (None, None)))
        for group in track(frames, total=len(frames), description="fitting", progress=progress)
    ]
    gains = {g.iso: c.profile.gain_dn_per_e for g, c in zip(frames, curves, strict=True) if c.profile.gain_dn_per_e}
    law = gain_law(gains)
    both = [(c.profile.gain_dn_per_e, c.read, c.freedom) for c in curves if c.profile.gain_dn_per_e and c.read]
    read = read_law([k for k, _, _ in both], [r for _, r, _ in both], [freedom for _, _, freedom in both])
    warnings = [w for c in curves for w in c.warnings] + list(law.breaks) + list(read.warnings)
    profile = Profile(
        camera=frames[0].camera,
        cfa=frames[0].cfa,
        bits=frames[0].bits,
        isos={group.iso: curve.profile for group, curve in zip(frames, curves, strict=True)},
        read_noise_pre_e=read.pre_e,
        read_noise_post_dn=read.post_dn,
        gain_segments=law.segments,
        warnings=tuple(warnings),
        source=source,
    )
    findings = find_faults([curve.evidence for curve in curves])
    verdict = judge(profile, frames, targets or Targets())
    return Calibration(profile, tuple(curve.diagnostics for curve in curves), findings, verdict)


def _stacks(group: FrameSet) -> list[np.ndarray]:
    darks = [group.darks] if len(group.darks) else []
    return [*darks, *group.flats, *group.bursts, *(single[None] for single in group.singles)]


def saturation(group: FrameSet) -> float:
    """Code at which the sensor saturates: the given white level, or one at which codes pile up; else infinity."""
    highest = max((float(stack.max()) for stack in _stacks(group)), default=math.inf)
    piled = any(float((stack == highest).mean()) > _PILE for stack in (*group.flats, *group.bursts))
    found = highest if piled else math.inf
    return found if group.white is None else min(group.white, found)


def _one_iso(group: FrameSet, step: float, darks: Darks | None, fit: DarkFit | None) -> _Curve:
    high = saturation(group)
    clipped = darks is not None and darks.clipped >= CLIPPED
    black, black_se = _black(group, darks, fit)
    still = [burst for burst in group.bursts if not burst_shift(burst, group)[0]]
    stacks = [stack_statistics(stack, group) for stack in (*group.flats, *still)]
    points = points_of(stacks, black, 0.0, high)
    if fit is None or clipped:
        noise, noise_se = None, 0.0
    else:
        noise, noise_se = fit.noise, fit.noise_se
    line = fit_line(points, noise, noise_se, black_se)
    said = f"ISO {group.iso:g}: "
    warnings = [said + warning for warning in (fit.warnings if fit else ())]
    profile = IsoProfile(white_dn=high if math.isfinite(high) else None, step_dn=step)
    diagnostics = IsoDiagnostics(group.iso)
    read, freedom = None, math.inf
    if fit is not None and darks is not None:
        profile = dataclasses.replace(
            profile, read_noise_dn=fit.read, tukey_lambda=fit.shape, row_noise_dn=fit.row,
            column_noise_dn=fit.column, black_dn=fit.black,
        )  # fmt: skip
        read, freedom = fit.std, fit.freedom
        diagnostics = _dark_diagnostics(group, darks, fit, diagnostics)
    colours = None
    if line is None and group.singles:
        points = flattest_blocks(group.singles, group, black, high)
        colours = fit_colours(points, group.channels)
        line = None if colours is None else colours.pooled
        warnings.append(
            f"{said}from single pictures, of their {points.mean.size} flattest blocks: the gain is rough (texture adds "
            f"to it, so its interval is at least ±{100 * _ROUGH:.0f} %), read noise includes what differs between "
            "pixels for good"
        )
    gain = line.interval() if line is not None else None
    if gain is not None and not stacks:
        k = gain.value
        gain = Estimate(k, min(gain.low, (1 - _ROUGH) * k), max(gain.high, (1 + _ROUGH) * k))
    if gain is None:
        warnings.append(f"{said}the conversion gain is not identifiable: that takes flat pairs, best at several levels")
    elif line is not None:
        shift = None if noise is None else black_shift(line, noise, noise_se)
        if line.freedom > 0 and line.chi2 > _BAD_FIT:
            warnings.append(
                f"{said}the variances scatter {line.chi2:.3g} times as much about the line as noise does: something in "
                "the scene changes from frame to frame, or the sensor is not linear; the gain is doubtful"
            )
        if not line.free:
            warnings.append(
                f"{said}the light levels of the flats lie too close together to check the black level: the gain "
                "trusts that of the darks"
            )
        if fit is None or fit.read is None:
            extra, said_extra = _read_of_line(line, group, step, black_se)
            read = extra
            profile = dataclasses.replace(profile, read_noise_dn=extra)
            warnings += [said + sentence for sentence in said_extra]
        profile = dataclasses.replace(profile, gain_dn_per_e=gain, prnu=sensitivity(group, black, high))
        diagnostics = dataclasses.replace(
            diagnostics, line=line, transfer=transfer_curve(points, line), black_shift=shift,
            channel_gains=colours.gains if colours else _channel_gains(points, line, group.channels),
        )  # fmt: skip
    evidence = Evidence(group, darks, fit, stacks, line, black, high, diagnostics)
    return _Curve(profile, diagnostics, evidence, read, freedom, tuple(warnings))


def _black(group: FrameSet, darks: Darks | None, fit: DarkFit | None) -> tuple[FloatArray, float]:
    """Black level of each channel and its standard error: that of the darks, else the known one, else 0."""
    if fit is not None and all(fit.black):
        levels = [b for b in fit.black if b is not None]
        return np.array([b.value for b in levels]), max((b.high - b.low) / 3.92 for b in levels)
    if group.blacks is not None:
        return group.blacks, 0.0
    if darks is not None:
        return darks.stack.frame_means.mean(axis=0), 0.0
    return np.zeros(group.channels), 0.0


def _dark_diagnostics(group: FrameSet, darks: Darks, fit: DarkFit, out: IsoDiagnostics) -> IsoDiagnostics:
    if fit.read is not None:
        shape = None if fit.shape is None else fit.shape.value
        out = dataclasses.replace(out, read_plot=read_plot(darks, fit.read.value, shape))
    if len(group.darks) > 1:
        rows, columns = line_spectra(group)
        odd: OddPixels = odd_pixels(group.darks, darks.stack.frame_means.mean(axis=0), darks.stack.noise, group)
        out = dataclasses.replace(out, rows=rows, columns=columns, hot=odd.hot, jumping=odd.jumping)
    return dataclasses.replace(out, dark_means=darks.stack.frame_means, exposures=group.exposures)


def _read_of_line(line: Line, group: FrameSet, step: float, black_se: float) -> tuple[Estimate | None, tuple[str, ...]]:
    """Read noise from where the line meets a known black level; with rounding taken off."""
    if group.black is None:
        return None, ("read noise is not identifiable without darks or a known black level",)
    error = math.hypot(math.sqrt(line.covariance[1, 1]), line.slope * black_se)
    found = root(line.intercept - step**2 / 12, error)
    if found.low == 0:
        return None, (f"read noise is not identifiable from the flats: {at_most(found)}",)
    return found, ("read noise is that of the flats at the known black level, not of darks",)


def _channel_gains(points: Points, line: Line, channels: int) -> tuple[Estimate | None, ...]:
    """The gain of each channel; with the intercept of all where one's own levels are too close."""
    out = []
    for channel in range(channels):
        part = points.only(points.channel == channel)
        own = fit_line(part, line.intercept, math.sqrt(line.covariance[1, 1])) if part.mean.size > 1 else None
        out.append(own.interval() if own is not None else None)
    return tuple(out)
