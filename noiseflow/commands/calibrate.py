"""`noiseflow calibrate`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from noiseflow.calibration import Calibration, Profile, calibrate
from noiseflow.calibration.classify import Group, classify
from noiseflow.calibration.exchange import read_photon_transfer
from noiseflow.calibration.gather import UNNAMED, Role, check, declared, frame_sets, used
from noiseflow.calibration.points import calibrate_points, diagnose_points
from noiseflow.calibration.profile import write_profile
from noiseflow.errors import UserError
from noiseflow.files import write_atomically
from noiseflow.folders import claim_file
from noiseflow.options import CalibrateOptions, listed
from noiseflow.progress import Progress, open_progress
from noiseflow.raw.frame import RawFrame
from noiseflow.raw.read import read_frames

_ROLES: tuple[Role, ...] = ("dark", "flat", "burst", "single")
_MOST_NAMES = 3

NO_VERDICT = "none, as the points do not say how many pixels stand behind them"


def run(frames: list[str], options: CalibrateOptions, command: str) -> int:
    """Fit a profile to frames or photon-transfer points, write it, and print what was found."""
    for name, suffix in ((options.out, ".json"), (options.report, ".html")):
        if name is not None:
            claim_file(name, [suffix], overwrite=options.overwrite)
    with open_progress() as progress:
        if options.ptc is not None:
            profile, page = _from_points(frames, options)
        else:
            profile, page = _from_frames(frames, options, progress)
        html = None
        if options.report is not None:
            from noiseflow.report.calibration_page import render_calibration

            html = render_calibration(profile, command=command, progress=progress, **page)
    # All is made before anything is written.
    write_profile(profile, options.out)
    if html is not None and options.report is not None:
        write_atomically(Path(options.report), html.encode())
    _say(profile, page)
    if options.report is not None:
        print(options.report)
    print(options.out)
    return 0


def _from_points(frames: list[str], options: CalibrateOptions) -> tuple[Profile, dict[str, Any]]:
    """A profile from a table of photon-transfer points."""
    if frames or any(getattr(options, role) for role in _ROLES):
        raise UserError("--ptc: expected the points alone, got frames as well; calibrate one or the other")
    assert options.ptc is not None
    levels = _levels(options.black)
    black = None if levels is None else sum(levels) / len(levels)
    points: dict[float, list[tuple[float, float]]] = {}
    for point in read_photon_transfer(options.ptc):
        points.setdefault(point.iso, []).append((point.mean, point.sigma))
    source = f"photon-transfer points of {Path(options.ptc).name}"
    camera = options.camera or UNNAMED
    profile = calibrate_points(points, black=black, camera=camera, source=source)
    count = sum(map(len, points.values()))
    used_for = (f"{count} points at {len(points)} ISOs", str(Path(options.ptc).name))
    return profile, {"diagnostics": diagnose_points(points, black=black), "used": [used_for]}


def _from_frames(frames: list[str], options: CalibrateOptions, progress: Progress) -> tuple[Profile, dict[str, Any]]:
    """A profile from frames, and what the page needs beside it."""
    groups = _groups(frames, options, progress)
    lines = _lines(groups)
    for line in lines:
        print("  ".join(line).rstrip())
    print(flush=True)
    check(groups)
    doubts = tuple(dict.fromkeys(warning for g in groups for f in g.frames for warning in f.warnings))
    size = groups[0].frames[0].codes.shape
    count = sum(len(group.frames) for group in groups if used(group))
    sets = frame_sets(groups)
    found = calibrate(sets, source=f"{count} frame{'s' * (count > 1)}", progress=progress)
    profile = dataclasses.replace(found.profile, warnings=(*_said(found), *doubts, *found.profile.warnings))
    if not any(one.gain_dn_per_e or one.read_noise_dn for one in profile.isos.values()):
        raise UserError(f"nothing could be found from these frames: {'; '.join(profile.warnings)}")
    page = {
        "diagnostics": found.diagnostics, "findings": found.findings, "verdict": found.verdict, "size": size,
        "used": lines,
    }  # fmt: skip
    return profile, page


def _said(found: Calibration) -> Iterator[str]:
    """The findings as warnings of the profile."""
    return (f"ISO {f.iso:g}: {f.kind}: {f.message}" for f in found.findings)


def _groups(frames: list[str], options: CalibrateOptions, progress: Progress) -> list[Group]:
    """Read all frames, and say of each what it is."""
    named: list[tuple[Role | None, list[list[Path]]]] = [(None, [_files(pattern) for pattern in frames])]
    named += [(role, [_files(pattern) for pattern in getattr(options, role) or []]) for role in _ROLES]
    paths = [path.resolve() for _, patterns in named for files in patterns for path in files]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: the file is given twice")
    progress.start("reading", len(paths))
    groups: list[Group] = []
    for role, patterns in named:
        if role == "burst":
            for burst in _bursts(patterns, options, progress):
                groups += declared("burst", burst)
            continue
        read = [frame for files in patterns for path in files for frame in _read(path, options, progress)]
        groups += classify(read) if role is None else declared(role, read)
    progress.close()
    return sorted(groups, key=lambda group: group.frames[0].iso or 0.0)


def _files(pattern: str) -> list[Path]:
    """The files of a pattern, by name; a file's own name is a pattern too, whatever is in it."""
    path = Path(pattern)
    if path.exists():
        return [path]
    found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not found:
        raise UserError(f"{pattern}: no such file")
    return found


def _read(path: Path, options: CalibrateOptions, progress: Progress) -> tuple[RawFrame, ...]:
    read = read_frames(
        path, size=options.size, dtype=options.dtype, cfa=options.cfa, black=_levels(options.black),
        white=options.white, iso=options.iso, exposure=options.exposure, camera=options.camera,
    )  # fmt: skip
    progress.update()
    return read


def _bursts(
    patterns: Sequence[list[Path]], options: CalibrateOptions, progress: Progress
) -> Iterator[Sequence[RawFrame]]:
    """Files of one frame are a burst with those of their pattern (a list of names counts as one), others alone."""
    listed_alone: list[RawFrame] = []
    for files in patterns:
        together: list[RawFrame] = []
        for path in files:
            read = _read(path, options, progress)
            if len(read) > 1:
                yield read
            else:
                together += read
        if len(files) == 1:
            listed_alone += together
        else:
            yield together
    yield listed_alone


def _levels(text: str | None) -> list[float] | None:
    """The black levels of --black."""
    parts = listed(text)
    if parts is None:
        return None
    try:
        levels = [float(part) for part in parts]
    except ValueError:
        levels = []
    if len(levels) not in (1, 4) or not all(0 <= level < math.inf for level in levels):
        raise UserError(f"--black: expected one number of 0 or more, or four separated by commas, got {text!r}")
    return levels


def _lines(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """The classification: a line for each group."""
    out = []
    for group in groups:
        iso, names = group.frames[0].iso, [Path(frame.name).name for frame in group.frames]
        count = len(names)
        what = {
            "dark": f"{count} dark{'s' * (count > 1)}", "flat": "flat pair" if count == 2 else "flat field",
            "burst": f"burst of {count}", "single": "single picture", "saturated": f"{count} saturated",
        }.get(group.kind, group.kind)  # fmt: skip
        if count > _MOST_NAMES:
            names = [names[0], "…", names[-1]]
        left_out = "" if used(group) or group.kind == "unclear" else "left out: "
        speed = "ISO ?" if iso is None else f"ISO {iso:g}"
        out.append((f"{speed}: {what}", f"{' '.join(names)} ({left_out}{group.reason})"))
    return out


def _say(profile: Profile, page: dict[str, Any]) -> None:
    """The table, what looks wrong, what could not be told, and the verdict."""
    from rich.console import Console

    from noiseflow.report.calibration_table import profile_table, shown

    Console().print(profile_table(profile))
    for one in page["diagnostics"]:
        if len(one.channel_gains) > 1:
            gains = ["?" if gain is None else shown(gain)[0] for gain in one.channel_gains]
            print(f"ISO {one.iso:g}: gain of R, G, G, B alone: {', '.join(gains)} DN/e⁻")
    print()
    for warning in profile.warnings:
        print(f"- {warning}")
    if profile.warnings:
        print()
    print(f"verdict: {page.get('verdict') or NO_VERDICT}")
