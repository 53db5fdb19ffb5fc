"""Were there enough frames? From how well each parameter is known, how many more it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from noiseflow.calibration.frames import FrameSet
from noiseflow.calibration.profile import Estimate, Profile

_MARGIN = 1.3
"""Widths promised are those expected; what comes scatters around that, so somewhat more is asked for."""

_LEAST_PAIRS = 4
_MOST = 1000  # frames; more is no advice


@dataclass(frozen=True)
class Targets:
    """Half widths of the 95 % intervals that are wanted.

    Attributes:
        gain: of the conversion gain, relative.
        read_noise: of the scale of the read noise, relative.
        row_noise: of row and column noise, relative; or of `row_floor`, whichever is larger.
        row_floor: row noise below this share of the read noise is not worth more frames.
        tukey_lambda: of λ.
    """

    gain: float = 0.01
    read_noise: float = 0.03
    row_noise: float = 0.10
    row_floor: float = 0.05
    tukey_lambda: float = 0.02


@dataclass(frozen=True)
class Advice:
    """Frames to shoot at one ISO.

    Attributes:
        iso: ISO speed.
        what: "darks" or "flat pairs".
        more: how many.
        why: what they are for, one sentence.
    """

    iso: float
    what: str
    more: int
    why: str

    @property
    def frames(self) -> str:
        """How many more of what, in words."""
        return f"{self.more} more {self.what if self.more > 1 else self.what.removesuffix('s')}"


@dataclass(frozen=True)
class Verdict:
    """Whether the frames were enough for the targets, and else what to shoot.

    Attributes:
        targets: the half widths that were asked for.
        advice: at most one entry for darks and one for flat pairs of each ISO; none: enough.
    """

    targets: Targets
    advice: tuple[Advice, ...]

    @property
    def enough(self) -> bool:
        """Whether all intervals are as narrow as wanted."""
        return not self.advice

    def __str__(self) -> str:
        if self.enough:
            return "enough frames"
        return "; ".join(f"shoot {a.frames} at ISO {a.iso:g} ({a.why})" for a in self.advice)


def judge(profile: Profile, frames: Sequence[FrameSet], targets: Targets) -> Verdict:
    """Compare the intervals with the targets; half widths fall with the root of the degrees of freedom.

    What no number of frames would identify (clipped darks, read noise far below a code) is not asked for.
    """
    advice = []
    for group in frames:
        found = profile.isos[group.iso]
        darks, pairs = len(group.darks), len(group.flats)
        wanted: list[tuple[int, str]] = []
        if darks < 2:
            wanted.append((max(5 - darks, 0), "read and row noise take at least two, five are usual"))
        elif found.read_noise_dn is not None and any(found.black_dn):  # without, darks are clipped
            for ratio, name in _dark_ratios(found.read_noise_dn, found.row_noise_dn, found.column_noise_dn,
                                            found.tukey_lambda, targets):  # fmt: skip
                wanted.append((_more(darks - 1, ratio), f"for the {name}"))
        advice += _largest(group.iso, "darks", wanted)
        if found.gain_dn_per_e is None:
            wanted = [(max(_LEAST_PAIRS - pairs, 1), "for the conversion gain: at several light levels")]
        else:
            more = _more(max(pairs, 1), _relative(found.gain_dn_per_e) / targets.gain)
            # Whole series, so that the mix of light levels stays.
            series = math.ceil(more / max(pairs, 1)) * max(pairs, 1)
            wanted = [(series, "for the conversion gain: the same light levels again")]
        advice += _largest(group.iso, "flat pairs", wanted)
    return Verdict(targets, tuple(advice))


def _dark_ratios(
    read: Estimate, row: Estimate | None, column: Estimate | None, shape: Estimate | None, targets: Targets
) -> list[tuple[float, str]]:
    """Half widths over what is wanted."""
    out = [(_relative(read) / targets.read_noise, "read noise")]
    for lines, name in ((row, "row noise"), (column, "column noise")):
        if lines is not None:
            floor = targets.row_floor * read.value
            # Below the floor, an upper bound of the floor is all that is wanted.
            if lines.value >= floor:
                out.append(((lines.high - lines.low) / 2 / (targets.row_noise * lines.value), name))
            elif lines.high > 1.5 * floor:
                out.append((lines.high / (1.5 * floor), name))
    if shape is not None:
        out.append(((shape.high - shape.low) / 2 / targets.tukey_lambda, "shape of the read noise"))
    return out


def _relative(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2 / estimate.value


def _more(dof: int, ratio: float) -> int:
    if not math.isfinite(ratio):
        return _MOST
    return 0 if ratio <= 1 else min(math.ceil(dof * (ratio**2 * _MARGIN - 1)), _MOST)


def _largest(iso: float, what: str, wanted: list[tuple[int, str]]) -> list[Advice]:
    more, why = max(wanted, default=(0, ""))
    return [Advice(iso, what, more, why)] if more > 0 else []
