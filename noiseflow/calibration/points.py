"""A calibration from photon-transfer points that somebody else measured: means and standard deviations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from noiseflow.calibration.diagnostics import IsoDiagnostics, TransferCurve
from noiseflow.calibration.frames import FloatArray
from noiseflow.calibration.laws import at_most, gain_law, read_law, root
from noiseflow.calibration.profile import Estimate, IsoProfile, Profile
from noiseflow.calibration.transfer import Line, Points, weighted_line
from noiseflow.errors import UserError


def calibrate_points(
    points: Mapping[float, ArrayLike], *, black: float | None = None, camera: str = "", source: str = ""
) -> Profile:
    """Fit a photon-transfer curve to points of each ISO: sigma² = K·(mean − black) + noise.

    How many pixels stand behind a point is unknown: relative errors of the variances are taken as equal, and found
    from the residuals of all ISOs together, so that an ISO of two points has an interval as well.

    Args:
        points: ISO → `(n, 2)`, mean with the pedestal and temporal standard deviation, DN; n >= 2.
        black: black level, DN; without it the read noise is not identifiable.
        camera: its name.
        source: where the points come from.

    Raises:
        UserError: points of a wrong shape, no positive standard deviations, or too few points in all.

    Examples:
        >>> curve = [(m, (0.5 * (m - 64) + 4.0) ** 0.5) for m in (100, 200, 400, 800)]
        >>> round(calibrate_points({100: curve}, black=64).isos[100].gain_dn_per_e.value, 6)
        0.5
    """
    lines: dict[float, Line] = {}
    sums, freedom, slight = 0.0, 0, []
    for iso in sorted(points):
        table = np.asarray(points[iso], np.float64)
        if table.ndim != 2 or table.shape[1] != 2 or not (np.isfinite(table).all() and (table[:, 1] > 0).all()):
            raise UserError(
                f"points at ISO {iso:g}: expected rows of mean and standard deviation > 0, got {table.shape}"
            )
        line = _line(table, 0.0 if black is None else black) if len(table) > 1 else None
        if line is None:
            slight.append(f"ISO {iso:g}: two points of different means are needed for a gain")
            continue
        lines[iso] = line
        # Two degrees of freedom stand for a relative variance of 1; chi2 is the mean square of relative residuals.
        sums, freedom = sums + line.chi2 * line.freedom, freedom + line.freedom
    if freedom == 0:
        raise UserError("photon-transfer points: expected three at one ISO at least, to know their scatter")
    scatter, reach = sums / freedom, float(stats.t.ppf(0.975, freedom))
    isos: dict[float, IsoProfile] = {iso: IsoProfile() for iso in sorted(points)}
    gains: dict[float, Estimate] = {}
    reads: dict[float, Estimate] = {}
    warnings = slight
    for iso, line in lines.items():
        slope_error, intercept_error = np.sqrt(np.diag(line.covariance) * scatter)
        half = reach * float(slope_error)
        if line.slope - half <= 0:
            warnings.append(f"ISO {iso:g}: the gain cannot be told from 0")
            continue
        gains[iso] = Estimate(line.slope, line.slope - half, line.slope + half)
        read = root(line.intercept, float(intercept_error) * reach / 1.96) if black is not None else None
        if read is not None and read.low > 0:
            reads[iso] = read
        elif read is not None:
            warnings.append(f"ISO {iso:g}: read noise cannot be told from 0: {at_most(read)}")
        isos[iso] = IsoProfile(gain_dn_per_e=gains[iso], read_noise_dn=reads.get(iso))
    if black is None:
        warnings.append("read noise is not identifiable from these points without the black level")
    law = gain_law(gains)
    both = [iso for iso in gains if iso in reads]
    read_parts = read_law([gains[iso] for iso in both], [reads[iso] for iso in both])
    return Profile(
        camera=camera, cfa=None, bits=None, isos=isos, read_noise_pre_e=read_parts.pre_e,
        read_noise_post_dn=read_parts.post_dn, gain_segments=law.segments,
        warnings=(*warnings, *law.breaks, *read_parts.warnings), source=source,
    )  # fmt: skip


def diagnose_points(points: Mapping[float, ArrayLike], *, black: float | None = None) -> tuple[IsoDiagnostics, ...]:
    """The points of each ISO with the line through them, to plot; their errors are the scatter of all ISOs together.

    Args:
        points: as `calibrate_points` takes them.
        black: likewise; without it, means keep the pedestal.
    """
    tables = {iso: np.asarray(points[iso], np.float64) for iso in sorted(points)}
    lines = {iso: _line(table, black or 0.0) if len(table) > 1 else None for iso, table in tables.items()}
    sums = sum(line.chi2 * line.freedom for line in lines.values() if line is not None)
    scatter = math.sqrt(sums / max(sum(line.freedom for line in lines.values() if line is not None), 1))
    out = []
    for iso, line in lines.items():
        mean, variance = tables[iso][:, 0] - (black or 0.0), tables[iso][:, 1] ** 2
        fitted = variance if line is None else line.intercept + line.slope * mean
        number = np.arange(mean.size, dtype=np.float64)
        curve = TransferCurve(mean, variance, np.abs(fitted) * scatter, fitted, np.zeros(mean.size), number)
        out.append(IsoDiagnostics(iso, transfer=curve, line=line))
    return tuple(out)


def _line(table: FloatArray, black: float) -> Line | None:
    mean, variance = table[:, 0] - black, table[:, 1] ** 2
    same = np.zeros_like(mean)
    line = weighted_line(Points(mean, variance, np.full(mean.size, 2.0), same, same), None)
    return line if line is not None and math.isfinite(line.slope) else None
