"""What the set of codes in a frame gives away: pictures in raw clothing, and values that were companded.

The values of a sensor with noise fill a smooth histogram: of the codes that its analogue-digital converter can write,
none that lies between well-filled ones is empty. Gaps between codes therefore tell how the values were stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_EIGHT_BITS = 256

_NEIGHBOURS = 33  # levels among which the fullest is looked for
_FULL = 40  # pixels in it from which the neighbourhood is used
_RARE = 0.1
"""Levels with less than this share of the fullest neighbour's pixels do not count: corrected pixels put a few values
between the codes. A level that smooth noise fills with 20 of 40 pixels is dropped with probability 3e-6."""

_GROUP = 16  # levels whose median gap is one figure
_GROUPS = 4  # figures that a rise is seen in
_GROWTH = 2.0  # least ratio of the last gap to the first


def suspicions(planes: Sequence[NDArray[Any]], white: float | None) -> list[str]:
    """What looks wrong with the codes of a frame, in words; empty where nothing does.

    Args:
        planes: `(H, W)` each, the codes of one colour.
        white: white level in codes; None: the highest number of as many bits as the codes have.
    """
    levels = [np.unique(plane, return_counts=True) for plane in planes]
    if any(bool((codes != np.rint(codes)).any()) for codes, _ in levels):
        return []
    out = []
    step, top = step_of(planes), max(int(codes[-1]) for codes, _ in levels)
    span = white if white is not None else 2 ** max(top, 1).bit_length() - 1
    if step > 1 and span / step <= _EIGHT_BITS:
        out.append(f"at most 256 distinct codes, every {step}th: probably an 8-bit picture, not a sensor's")
    gaps = max((_growing_gaps(*each) for each in levels), key=len)
    if gaps:
        out.append(
            f"the codes lie {gaps[0]:g} apart in the dark and {gaps[-1]:g} apart in the light: the values were "
            "companded (compressed with loss) or come from a developed picture; parameters fitted to them are off"
        )
    return out


def step_of(planes: Sequence[NDArray[Any]]) -> int:
    """The distance that all codes are multiples of, counted from the lowest; 1 where they are not whole numbers."""
    codes = np.unique(np.concatenate([np.unique(plane) for plane in planes])).astype(np.float64)
    if bool((codes != np.rint(codes)).any()):
        return 1
    return int(np.gcd.reduce(np.diff(codes).astype(np.int64), initial=0)) or 1


def _growing_gaps(codes: NDArray[Any], counts: NDArray[np.int64]) -> list[float]:
    """Median gaps between neighbouring codes from dark to light, where they grow with the signal; else empty.

    Args:
        codes: the distinct codes, sorted.
        counts: pixels of each.
    """
    codes, counts = codes[1:-1].astype(np.float64), counts[1:-1]  # the ends collect what was clipped
    if codes.size < _GROUPS * _GROUP:
        return []
    fullest = ndimage.maximum_filter1d(counts, _NEIGHBOURS)
    kept = codes[(fullest >= _FULL) & (counts >= _RARE * fullest)]
    steps = np.diff(kept)
    groups = steps[: steps.size // _GROUP * _GROUP].reshape(-1, _GROUP)
    gaps: list[float] = np.median(groups, axis=1).tolist()
    grows = len(gaps) >= _GROUPS and all(a <= b for a, b in itertools.pairwise(gaps))
    return gaps if grows and gaps[-1] >= _GROWTH * gaps[0] else []
