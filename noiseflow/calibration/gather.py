"""From the frames of files to what calibration takes: one set of frames for each ISO, each frame in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from noiseflow.calibration.classify import Group
from noiseflow.calibration.frames import Codes, FrameSet
from noiseflow.errors import UserError
from noiseflow.raw.frame import RawFrame

Role = Literal["dark", "flat", "burst", "single"]
"""What a user can say that frames are."""

UNNAMED = "unknown"
"""Name of a camera that nobody named."""

_ALIKE = 0.05  # relative difference of the light of two flat fields up to which they are a pair
_SAMPLE = 7  # every seventh pixel tells the level of a frame well enough to pair it


def declared(role: Role, frames: Sequence[RawFrame]) -> list[Group]:
    """Frames whose role the user has said, as groups; flat fields are paired by ISO, exposure time and level.

    Args:
        role: what they are.
        frames: of any ISO; for a burst, those of one scene.
    """
    reason = f"given as --{role}"
    if role == "single":
        return [Group("single", (frame,), reason) for frame in frames]
    alike: dict[tuple[float | None, float | None], list[RawFrame]] = {}
    for frame in frames:
        alike.setdefault((frame.iso, None if role == "dark" else frame.exposure), []).append(frame)
    if role != "flat":
        return [Group(role, tuple(members), reason) for members in alike.values()]
    return [group for members in alike.values() for group in _pairs(members, reason)]


def _pairs(frames: list[RawFrame], reason: str) -> list[Group]:
    """Neighbours by level; what has no partner within a twentieth of its light stays alone."""
    levels = [float(frame.codes[::_SAMPLE].mean(dtype=np.float64)) for frame in frames]
    waiting = sorted(zip(levels, range(len(frames)), strict=True))
    out = []
    while waiting:
        level, first = waiting.pop(0)
        black = frames[first].black
        light = level if black is None else level - float(black.mean())
        if waiting and waiting[0][0] - level <= _ALIKE * abs(light):
            second = waiting.pop(0)[1]
            both = frames[min(first, second)], frames[max(first, second)]
            out.append(Group("flat", both, reason))
        else:
            out.append(Group("flat", (frames[first],), f"{reason}; no second frame of this level"))
    return out


def used(group: Group) -> bool:
    """Whether calibration has a use for a group: not for saturated fields, lone flat fields and bursts of one."""
    least = {"dark": 1, "flat": 2, "burst": 2, "single": 1}
    return len(group.frames) >= least.get(group.kind, len(group.frames) + 1)


def check(groups: Sequence[Group]) -> None:
    """Say what the files leave open, before anything is fitted.

    Raises:
        UserError: an ISO or black level that nobody said, frames nobody can tell the kind of, more than one camera,
            colour filter pattern or size, or nothing to calibrate from.
    """
    frames = [frame for group in groups for frame in group.frames]
    silent = [frame.name for frame in frames if frame.iso is None]
    if silent:
        others = f" and {len(silent) - 1} others" if len(silent) > 1 else ""
        raise UserError(f"{silent[0]}{others}: the file does not say its ISO; give --iso")
    unclear = next((group for group in groups if group.kind == "unclear"), None)
    if unclear is not None:
        raise UserError(f"{unclear.frames[0].name}: {unclear.reason}")
    for what, hint, values in (
        ("camera", "name them all with --camera if they are one", [frame.camera or UNNAMED for frame in frames]),
        ("colour filter pattern", "calibrate them apart", [frame.cfa or "mono" for frame in frames]),
        ("size", "calibrate them apart", ["×".join(map(str, frame.codes.shape)) for frame in frames]),
    ):
        other = next((k for k, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise UserError(
                f"expected frames of one {what}, got {values[0]} ({frames[0].name}) and {values[other]} "
                f"({frames[other].name}); {hint}"
            )
    kept = [group for group in groups if used(group)]
    if not kept:
        raise UserError("expected dark frames, flat-field pairs, bursts or single pictures, got none that can be used")
    dark = {group.frames[0].iso for group in kept if group.kind == "dark"}
    for group in kept:
        first = group.frames[0]
        if first.iso not in dark and first.black is None:
            raise UserError(
                f"{first.name}: ISO {first.iso:g} has no dark frames, and its files do not say the black level; "
                "give --black, or dark frames"
            )


def frame_sets(groups: list[Group]) -> list[FrameSet]:
    """One set of frames for each ISO, in rising ISO.

    Args:
        groups: as `check` has passed them. The list is emptied, so that frames are not held twice for longer than it
            takes to stack those of one ISO.
    """
    isos = sorted({float(group.frames[0].iso or 0) for group in groups if used(group)})
    out = []
    for iso in isos:
        own = [group for group in groups if group.frames[0].iso == iso and used(group)]
        groups[:] = [group for group in groups if group.frames[0].iso != iso]
        out.append(_one_set(iso, own))
        del own
    groups.clear()
    return out


def _one_set(iso: float, groups: list[Group]) -> FrameSet:
    frames = [frame for group in groups for frame in group.frames]
    darks = [frame for group in groups if group.kind == "dark" for frame in group.frames]
    exposures = tuple(frame.exposure for frame in darks if frame.exposure is not None)
    whites = [frame.white for frame in frames if frame.white is not None]
    blacks = [frame.black for frame in frames if frame.black is not None]
    white = min(whites) if whites else None
    stacks: dict[str, list[Codes]] = {"flat": [], "burst": [], "single": []}
    for group in groups:
        if group.kind in stacks:
            stacks[group.kind].append(np.stack([frame.codes for frame in group.frames]))
    return FrameSet(
        iso,
        **({"darks": np.stack([frame.codes for frame in darks])} if darks else {}),
        flats=tuple(stacks["flat"]),
        bursts=tuple(stacks["burst"]),
        singles=tuple(stack[0] for stack in stacks["single"]),
        cfa=frames[0].cfa,
        white=white,
        black=tuple(float(n) for n in np.mean([black.numpy() for black in blacks], axis=0)) if blacks else None,
        exposures=exposures if len(exposures) == len(darks) else (),
        camera=frames[0].camera or UNNAMED,
        bits=None if white is None else int(white).bit_length(),
    )
