"""Scores of noise that was drawn: divergences by recipe and the noise level by intensity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from noiseflow.datasets import FramePair
from noiseflow.evaluation.sources import Box, Drawn, Entry, SampleFolder, draw
from noiseflow.metrics.accumulate import Divergence
from noiseflow.metrics.akld import AKLD
from noiseflow.metrics.conditional import ConditionalKL
from noiseflow.metrics.curves import IntensityCurve
from noiseflow.metrics.divergence import RECIPES, HistogramKL
from noiseflow.randomness import combine
from noiseflow.shot import Shot

TILES = 4
"""Tiles of an image, evenly spread, that noise is drawn for."""

AKLD_DRAWS = 50
"""Draws of the model for each image in AKLD, as published."""

AKLD_SIDE = 64
"""Side of the corner of an image that AKLD looks at, in packed pixels (raw) or pixels (sRGB)."""


class SampleScores:
    """What the noise of one entry has shown so far.

    Pooled scores keep one histogram per scene, camera and ISO; the others one number an image.

    Args:
        frames: all frames of the data set.
        domain: "raw" or "srgb"; the recipes are those published for it.
    """

    def __init__(self, frames: Sequence[FramePair], domain: str) -> None:
        keys = [(frame.scene, frame.camera, frame.iso) for frame in frames]
        self._groups = list(dict.fromkeys(keys))
        self._group = [self._groups.index(key) for key in keys]
        self._scenes = [frame.scene for frame in frames]
        self.curve = IntensityCurve()
        self.conditional = ConditionalKL(len(self._groups))
        self.recipes = {
            name: HistogramKL(recipe, len(self._groups if recipe.per == "pool" else frames))
            for name, recipe in RECIPES.items()
            if recipe.domain == domain
        }
        self.akld = AKLD(len(frames))

    def add(self, number: int, frame: FramePair, data: Tensor, drawn: Drawn, shot: Shot) -> None:
        """Add tiles of frame `number`: the data's noise, and the entry's for the same shot."""
        group = self._group[number]
        self.curve.update(drawn.recorded, shot.clean, [(frame.camera, frame.iso)] * len(shot))
        self.conditional.update(data, drawn.recorded, shot.clean, group)
        for score in self.recipes.values():
            model = drawn.recorded if score.recipe.rounded else drawn.raw
            score.update(data, model, group if score.recipe.per == "pool" else number, shot.clean)

    def add_akld(
        self, number: int, entry: Entry, frame: FramePair, box: Box, data: Tensor, shot: Shot, seed: int
    ) -> None:
        """Add the corner of one tile of frame `number`, for which the model is asked again and again."""
        top, left, height, width = box
        height, width = min(height, AKLD_SIDE), min(width, AKLD_SIDE)
        corner = shot.crop(0, 0, height, width)

        def draws() -> Iterator[Tensor]:
            for k in range(AKLD_DRAWS):
                key = int(combine(seed, k + 1))
                yield draw(entry, frame, [(top, left, height, width)], corner, key, quick=True).recorded

        if not isinstance(entry.source, SampleFolder) and min(height, width) >= 4:  # its blur needs 4 pixels a side
            self.akld.update(data[..., :height, :width], draws(), number)

    def merge(self, other: SampleScores) -> None:
        """Add what another process has seen of other frames."""
        self.curve.merge(other.curve)
        self.conditional.merge(other.conditional)
        self.akld.merge(other.akld)
        for name, score in self.recipes.items():
            score.merge(other.recipes[name])

    def summary(self, entry: Entry, reason: dict[str, str]) -> dict[str, Any]:
        """The entry's `kld` in results.json; why something is missing goes to `reason`."""
        scenes = [scene for scene, _, _ in self._groups]
        conditions = [(camera, iso) for _, camera, iso in self._groups]
        results = [self.conditional.result(conditions, scenes).overall]
        for score in self.recipes.values():
            results.append(score.result(scenes if score.recipe.per == "pool" else self._scenes))
        if not isinstance(entry.source, SampleFolder):
            results.append(self.akld.result(self._scenes))
        else:
            reason["kld.akld"] = f"AKLD needs {AKLD_DRAWS} draws of the model for each image"
        return {result.recipe: _figure(result, reason) for result in results}


def _figure(result: Divergence, reason: dict[str, str]) -> dict[str, Any]:
    interval = result.interval
    if interval.low is None:
        where = f"kld.{result.recipe}"
        reason[f"{where}.low"] = reason[f"{where}.high"] = interval.method
        if not result.values:
            reason[where] = interval.method
    return {
        "value": result.value if result.values else None,
        "low": interval.low,
        "high": interval.high,
        "floor": list(result.floor) if result.values else None,
        "indistinguishable": result.indistinguishable if result.values else None,
        "units": result.units,
        "values": result.values,
    }
