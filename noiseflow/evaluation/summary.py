"""From what was summed image by image to the entries of results.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from noiseflow.datasets import FramePair, NoiseDataset
from noiseflow.evaluation.classifier import ClassifierScores
from noiseflow.evaluation.likelihood import TENTHS, Score
from noiseflow.evaluation.samples import SampleScores
from noiseflow.evaluation.sources import Entry
from noiseflow.evaluation.structure import StructureScores
from noiseflow.metrics.intervals import Interval, paired_difference, scene_interval
from noiseflow.models import FittedModel
from noiseflow.report.results import LOOSE


@dataclass
class Tally:
    """What one entry has collected.

    Attributes:
        entry: the entry.
        scores: a `Score` per image, by the image's number.
        samples: scores of its noise; None where none was drawn.
        structure: sums of structure of its noise; None where none was drawn.
        classifier: patches for the classifier; None where it was not asked for.
        reason: why a score is missing.
    """

    entry: Entry
    scores: dict[int, Score] = field(default_factory=lambda: defaultdict(Score))
    samples: SampleScores | None = None
    structure: StructureScores | None = None
    classifier: ClassifierScores | None = None
    reason: dict[str, str] = field(default_factory=dict)

    def merge(self, other: Tally) -> None:
        """Add what another process has collected of other images."""
        self.scores.update(other.scores)
        self.reason.update(other.reason)
        if self.samples is not None and other.samples is not None:
            self.samples.merge(other.samples)
        if self.structure is not None and other.structure is not None:
            self.structure.merge(other.structure)
        if self.classifier is not None and other.classifier is not None:
            self.classifier.merge(other.classifier)


def summary(tally: Tally, frames: Sequence[FramePair], seed: int) -> dict[str, Any]:
    """One entry of results.json."""
    model, reason = tally.entry.model, dict(tally.reason)
    scores = [tally.scores[i] for i in range(len(frames))]
    nll = mass = regret = near_clip = None
    by_intensity: list[dict[str, Any]] = []
    if model is None:
        for name in ("nll", "mass", "regret"):
            reason[name] = "only images of this model are at hand, no density"
    else:
        if "nll" not in reason:
            nll = _figure(_over_scenes(frames, [-s.log_prob for s in scores], [s.dims for s in scores]), reason, "nll")
            nll["unit"] = "nats/dim"
        mass = _mass(scores, frames, reason)
        if "regret" not in reason:
            regret = _regret(scores, frames, reason)
        by_intensity = _by_intensity(scores, frames, regret is not None)
        near_clip = _near_clip(scores)
    if not by_intensity:
        reason["by_intensity"] = "the model does not share its mass out over pixels"
    if near_clip is None:
        reason["near_clip"] = "the noise level that tells how near is near is not known, or no mass is shared out"
    kld, structure = {}, {}
    if tally.samples is not None:
        kld = tally.samples.summary(tally.entry, reason)
    if tally.structure is not None:
        structure = tally.structure.summary(seed, reason)
    classifier = None
    if tally.classifier is not None:
        classifier = tally.classifier.summary(seed, reason)
    else:
        reason["classifier"] = "not asked for"
    if tally.samples is None:
        reason["kld"] = reason["structure"] = "no noise was drawn"
    return {
        "name": tally.entry.name,
        "file_hash": tally.entry.file_hash,
        "parameters": model.parameter_count() if isinstance(model, FittedModel) else None if model is None else 0,
        "noise_domain": tally.entry.source.noise_domain,
        "nll": nll,
        "mass": mass,
        "regret": regret,
        "kld": kld,
        "structure": structure,
        "classifier": classifier,
        "by_shot": _by_shot(scores, frames, nll is not None, mass is not None, regret is not None),
        "by_intensity": by_intensity,
        "near_clip": near_clip,
        "images": _images(scores, frames, regret is not None) if mass is not None else [],
        "reason": reason,
    }


def differences(tallies: Sequence[Tally], frames: Sequence[FramePair]) -> list[dict[str, Any]]:
    """Mass of every model minus that of every later one, paired by scene."""
    found = []
    for first, second in combinations([tally for tally in tallies if tally.entry.model is not None], 2):
        numbers = range(len(frames))
        scenes, totals = _by_scene(
            frames, *([-tally.scores[i].log_mass for i in numbers] for tally in (first, second)),
            [first.scores[i].values for i in numbers],
        )  # fmt: skip
        interval = paired_difference(totals[0], totals[1], [int(n) for n in totals[2]])
        found.append(
            {
                "score": "mass",
                "first": first.entry.name,
                "second": second.entry.name,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "scenes": len(scenes),
                "unit": "nats/value",
            }
        )
    return found


def why_no_regret(dataset: NoiseDataset) -> str:
    """The sentence for results without regret."""
    if dataset.domain != "raw" and dataset.sensor:
        return "the virtual sensors' density is one of raw codes, not of rendered pictures"
    if dataset.truth != "exact":
        return f"the ground truth is of kind {dataset.truth!r}; regret needs an exact one"
    return "the data come with no sensor whose density is known"


def _mass(scores: Sequence[Score], frames: Sequence[FramePair], reason: dict[str, str]) -> dict[str, Any]:
    mass = _figure(_over_scenes(frames, [-s.log_mass for s in scores], [s.values for s in scores]), reason, "mass")
    mass["unit"] = "nats/value"
    mass["bits"] = mass["value"] / np.log(2)
    mass["looseness"] = sum(s.looseness for s in scores) / sum(s.values for s in scores)
    if mass["looseness"] > LOOSE:
        reason["mass.looseness"] = f"loose: above {LOOSE} nats/value, the true mass may lie that much lower"
    return mass


def _regret(scores: Sequence[Score], frames: Sequence[FramePair], reason: dict[str, str]) -> dict[str, Any]:
    regret = _figure(_over_scenes(frames, [s.regret for s in scores], [s.values for s in scores]), reason, "regret")
    over_images = scene_interval([s.regret for s in scores], [s.values for s in scores])
    regret["se"] = over_images.se
    if over_images.se is None:
        reason["regret.se"] = "below 3 images"
    return regret


def _by_shot(
    scores: Sequence[Score], frames: Sequence[FramePair], nll: bool, mass: bool, regret: bool
) -> list[dict[str, Any]]:
    rows = []
    for (camera, iso), members in _conditions(frames).items():
        part = [scores[i] for i in members]
        total = sum(s.values for s in part)
        rows.append(
            {
                "camera": camera,
                "iso": iso,
                "images": len(part),
                "nll": -sum(s.log_prob for s in part) / sum(s.dims for s in part) if nll else None,
                "mass": -sum(s.log_mass for s in part) / total if mass else None,
                "regret": sum(s.regret for s in part) / total if regret else None,
            }
        )
    return rows


def _by_intensity(scores: Sequence[Score], frames: Sequence[FramePair], regret: bool) -> list[dict[str, Any]]:
    """A row per camera, ISO and tenth of the clean intensity that occurs."""
    rows = []
    for (camera, iso), members in _conditions(frames).items():
        values, log_mass, lost = np.sum([scores[i].by_tenth for i in members], axis=0)
        for tenth in np.flatnonzero(values):
            rows.append(
                {
                    "camera": camera,
                    "iso": iso,
                    "low": float(tenth) / TENTHS,
                    "high": float(tenth + 1) / TENTHS,
                    "values": int(values[tenth]),
                    "mass": float(-log_mass[tenth] / values[tenth]),
                    "regret": float(lost[tenth] / values[tenth]) if regret else None,
                }
            )
    return rows


def _near_clip(scores: Sequence[Score]) -> dict[str, Any] | None:
    values, log_mass = np.sum([score.by_clip for score in scores], axis=0)
    if not values.any():
        return None
    return {
        name: {"values": int(values[i]), "mass": float(-log_mass[i] / values[i]) if values[i] else None}
        for i, name in enumerate(("inside", "near"))
    }


def _images(scores: Sequence[Score], frames: Sequence[FramePair], regret: bool) -> list[dict[str, Any]]:
    return [
        {
            "name": frame.name,
            "camera": frame.camera,
            "iso": frame.iso,
            "scene": frame.scene,
            "values": score.values,
            "mass": -score.log_mass / score.values if score.values else None,
            "regret": score.regret / score.values if regret and score.values else None,
        }
        for frame, score in zip(frames, scores, strict=True)
    ]


def _conditions(frames: Sequence[FramePair]) -> dict[tuple[str, float], list[int]]:
    """Numbers of the frames of every camera and ISO, sorted."""
    found: dict[tuple[str, float], list[int]] = defaultdict(list)
    for i, frame in enumerate(frames):
        found[frame.camera, frame.iso].append(i)
    return dict(sorted(found.items()))


def _by_scene(frames: Sequence[FramePair], *columns: Sequence[float]) -> tuple[list[str], list[list[float]]]:
    """The scenes, and each column summed over them."""
    scenes = list(dict.fromkeys(frame.scene for frame in frames))
    number = {scene: i for i, scene in enumerate(scenes)}
    totals = [[0.0] * len(scenes) for _ in columns]
    for sums, column in zip(totals, columns, strict=True):
        for frame, value in zip(frames, column, strict=True):
            sums[number[frame.scene]] += value
    return scenes, totals


def _over_scenes(frames: Sequence[FramePair], totals: Sequence[float], counts: Sequence[int]) -> Interval:
    _, (sums, sizes) = _by_scene(frames, totals, counts)
    return scene_interval(sums, [int(n) for n in sizes])


def _figure(interval: Interval, reason: dict[str, str], name: str) -> dict[str, Any]:
    """value, low and high; why the ends are null goes to `reason`."""
    if interval.low is None:
        reason[f"{name}.low"] = reason[f"{name}.high"] = interval.method
    return {"value": interval.value, "low": interval.low, "high": interval.high}
