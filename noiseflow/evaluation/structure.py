"""Structure of an entry's noise against the data's, on a few small patches of every image.

A model is asked for 99 further data sets on the same shots, which makes the test exact; of images that somebody else
made there is one set only, and whole images are exchanged instead (`noiseflow.metrics.structure`). Both need a
reference standard deviation that does not favour the data: for a model it comes from further draws of its own, for
images from data and images together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noiseflow.datasets import FramePair
from noiseflow.evaluation.sources import Box, Entry, SampleFolder, draw
from noiseflow.evaluation.tiles import spread
from noiseflow.metrics.curves import IntensityCurve
from noiseflow.metrics.structure import (
    LAG,
    Structure,
    StructureTest,
    autocovariance,
    monte_carlo,
    permutation,
    standard_deviation,
    statistics,
)
from noiseflow.randomness import combine
from noiseflow.report import StructurePicture
from noiseflow.shot import Shot

SETS = 99
"""Data sets that are drawn from a model."""

PATCHES = 64
"""Patches in all, as evenly spread over the images as whole numbers allow; at least one of each image looked at."""

SIDE = 32
"""Side of a patch, in packed pixels (raw) or pixels (sRGB)."""

UNITS = {
    "mean": "standard deviations",
    "std": "relative",
    "tails": "standard deviations",
    "autocorrelation": "correlation",
    "channels": "correlation",
    "spectrum": "dB",
    "rows": "variance over that of white noise",
    "columns": "variance over that of white noise",
}
"""Unit of each family's effect."""

_REFERENCE_DRAWS = 4
_FIRST_SET, _FIRST_REFERENCE = 1000, 2000  # what further draws are for
_ROWS = 128  # patches that a model is asked for at a time


class StructureScores:
    """Sums of structure of the data and of one entry's noise.

    Args:
        entry: the entry.
        frames: all frames of the data set.
    """

    def __init__(self, entry: Entry, frames: Sequence[FramePair]) -> None:
        self.entry = entry
        self._looked_at = spread(len(frames), PATCHES)
        self._each = -(-PATCHES // len(self._looked_at))
        channels = frames[0].channels
        # Of a model: row 0 is the data, the others are its sets. Of images: the data's, a row each, then theirs.
        self._images = len(frames) if isinstance(entry.source, SampleFolder) else 0
        self.sums = Structure(2 * self._images or SETS + 1, channels)

    def add(self, number: int, frame: FramePair, box: Box, data: Tensor, shot: Shot, seed: int) -> None:
        """Add patches of one tile of frame `number`.

        Args:
            number: number of the frame.
            frame: the frame.
            box: the tile.
            data: `(1, C, H, W)`, noise of the data, linear units, float64.
            shot: its clean image and condition, one row.
            seed: of the frame's draws.
        """
        if number not in self._looked_at:
            return
        places = _places(box[2:], self._each)
        if not places:
            return
        if isinstance(self.entry.source, SampleFolder):
            made = self.entry.source.noise(frame, [box], shot.clean)
            std = _reference([data, made], shot)
            for noise, row in ((data, number), (made, self._images + number)):
                self.sums.update(_cut(noise, places), _cut(std, places), _cut(shot.clean, places), row)
            return
        draws = [
            draw(self.entry, frame, [box], shot, int(combine(seed, _FIRST_REFERENCE + k)), quick=True).recorded
            for k in range(_REFERENCE_DRAWS)
        ]
        std = _reference(draws, shot)
        self.sums.update(_cut(data, places), _cut(std, places), _cut(shot.clean, places), 0)
        patches = Shot.join(*(shot.crop(top, left, SIDE, SIDE) for top, left in places))
        boxes = [(box[0] + top, box[1] + left, SIDE, SIDE) for top, left in places]
        stds, at_once = _cut(std, places), max(1, _ROWS // len(places))
        for start in range(1, SETS + 1, at_once):
            sets = torch.arange(start, min(start + at_once, SETS + 1))
            rows = torch.arange(len(places)).repeat(len(sets))
            of_set = sets.repeat_interleave(len(places))
            keys = combine(seed, _FIRST_SET + of_set)
            part = patches.rows(rows)
            noise = draw(self.entry, frame, [boxes[row] for row in rows.tolist()], part, keys, quick=True).recorded
            self.sums.update(noise, stds[rows.to(stds.device)], part.clean, of_set.to(noise.device))

    def merge(self, other: StructureScores) -> None:
        """Add what another process has seen of other frames."""
        self.sums.merge(other.sums)

    def test(self, seed: int) -> StructureTest | None:
        """The test's outcome; None where no image had room for a patch."""
        state = self.sums.state
        if not bool((state["count"] > 0).any()):
            return None
        if not self._images:
            return monte_carlo(statistics(state))
        seen = (state["count"][: self._images] > 0).nonzero().flatten()
        ours, theirs = ({name: value[seen + offset] for name, value in state.items()} for offset in (0, self._images))
        return permutation(ours, theirs, seed)

    def summary(self, seed: int, reason: dict[str, str]) -> dict[str, Any]:
        """The entry's `structure` in results.json; why it is missing goes to `reason`."""
        test = self.test(seed)
        if test is None:
            reason["structure"] = f"no image has room for a patch of {SIDE}×{SIDE}"
            return {}
        families = {
            name: {"effect": effect, "unit": UNITS[name], "p": test.p_each[name]}
            for name, effect in test.effects.items()
        }
        return {"family": {"p": test.p, "sets": test.draws}, **families}

    def profiles(self) -> tuple[Profile, Profile] | None:
        """How the data's noise and the entry's hang together; None where no image had room for a patch."""
        state = self.sums.state
        first = slice(0, self._images or 1)
        data, made = (
            {name: value[part].sum(0) for name, value in state.items()} for part in (first, slice(first.stop, None))
        )
        if not bool(data["count"] > 0):
            return None
        return _profile(data), _profile(made)


class Profile(NamedTuple):
    """Second moments of standardised noise, mean over the channels.

    Attributes:
        autocovariance: `(17, 17)`, over the variance; lag 0 in the middle.
        spectrum: `(8,)`, power over that of white noise in rings of radial frequency.
    """

    autocovariance: NDArray[np.float64]
    spectrum: NDArray[np.float64]


def picture(profiles: Mapping[str, tuple[Profile, Profile]]) -> StructurePicture | None:
    """The report's picture of all entries; the data's profile is the first entry's, standardised by its reference."""
    if not profiles:
        return None
    shown = {"real": next(iter(profiles.values()))[0], **{name: made for name, (_, made) in profiles.items()}}
    rings = len(shown["real"].spectrum)
    return StructurePicture(
        "all cameras and ISOs",
        {name: profile.autocovariance for name, profile in shown.items()},
        (np.arange(rings) + 0.5) / (rings * math.sqrt(2)),
        {name: profile.spectrum for name, profile in shown.items()},
    )


def _profile(state: Mapping[str, Tensor]) -> Profile:
    channels = state["sum"].shape[-1]
    own = [pair for pair, (c, d) in enumerate(combinations_with_replacement(range(channels), 2)) if c == d]
    covariance = autocovariance(state)[own]
    variance = covariance[:, LAG, LAG].clamp_min(torch.finfo(torch.float64).tiny)
    power = state["power"] / state["frequencies"] / variance[:, None]
    return Profile((covariance / variance[:, None, None]).mean(0).cpu().numpy(), power.mean(0).cpu().numpy())


def _places(size: tuple[int, int], wanted: int) -> list[tuple[int, int]]:
    """Top and left of at most `wanted` patches, evenly spread over the grid of those that fit."""
    grid = [(i, j) for i in range(0, size[0] - SIDE + 1, SIDE) for j in range(0, size[1] - SIDE + 1, SIDE)]
    return [grid[k] for k in spread(len(grid), wanted)] if grid else []


def _cut(image: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
    """Patches of one image `(1, C, H, W)` as rows."""
    return torch.cat([image[..., top : top + SIDE, left : left + SIDE] for top, left in places])


def _reference(noises: Sequence[Tensor], shot: Shot) -> Tensor:
    """Standard deviation of noise at every pixel, from some draws for one tile."""
    curve, key = IntensityCurve(), ("", 0.0)
    for noise in noises:
        curve.update(noise, shot.clean, [key])
    try:
        return standard_deviation(curve.statistics(key), shot.clean)
    except ValueError:  # all of the tile is clipped: noise without variance, which every reference fits
        return torch.ones_like(shot.clean, dtype=torch.float64)
