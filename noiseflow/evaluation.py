"""Score noise models on a data set: one pass over its images, every model on the same tiles.

Images are cut into tiles, so memory does not depend on their size or number. Each model's `mass`, −log probability of
the stored codes per value, is averaged over pixels, with an interval over scenes; where the data carry an exact sensor,
so is `regret`, how far the model's mass lies above the sensor's own.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from noiseflow.datasets import FramePair, NoiseDataset, collate, tiles
from noiseflow.metrics.curves import IntensityCurve
from noiseflow.metrics.intervals import Interval, scene_interval
from noiseflow.models import FittedModel, Flow, NoDensityError, NoiseModel, ReleasedFlow, synthesize
from noiseflow.progress import SILENT, Progress
from noiseflow.randomness import combine, seed_of
from noiseflow.report import CurveSet, Strip, curve_sets
from noiseflow.sensors import SensorTruth
from noiseflow.shot import Shot

log = logging.getLogger(__name__)

TILE = 256
"""Side of the tiles, in packed pixels (raw) or pixels (sRGB)."""

DRAWS = 2
"""Draws per tile for the bound of a flow's mass: the fewest that measure its looseness."""

LOOSE = 0.03
"""Looseness in nats per value above which a mass is called loose."""

_RECORDED = "not comparable: a density of recorded noise, times the width of the codes, is no probability of the codes"

_BATCH = 4
_SAMPLED_TILES = 4
_STRIPS = 3
_STRIP_SIDE = 96


@dataclass(frozen=True)
class Entry:
    """A model to score.

    Attributes:
        name: how it is called in the results; unique.
        model: the model.
        file_hash: SHA-256 of its file, or None for one that was fitted on the spot.
    """

    name: str
    model: NoiseModel
    file_hash: str | None = None


@dataclass
class _Score:
    """Sums over one image's values, in nats."""

    values: int = 0
    log_mass: float = 0.0
    looseness: float = 0.0
    regret: float = 0.0
    dims: int = 0
    log_prob: float = 0.0


@dataclass
class _Tally:
    """What one model has collected: a `_Score` per image, its noise level, and why a score is missing."""

    entry: Entry
    scores: list[_Score] = field(default_factory=list)
    curve: IntensityCurve = field(default_factory=IntensityCurve)
    reason: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Everything that the report is made of: `results` in the schema of results.json, curves and pictures."""

    results: dict[str, Any]
    curves: list[CurveSet]
    strips: list[Strip]


@torch.no_grad()
def evaluate(
    entries: Sequence[Entry],
    dataset: NoiseDataset,
    *,
    split: str,
    seed: int = 0,
    device: torch.device | str = "cpu",
    samples: bool = True,
    workers: int = 0,
    protocol: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score models on every image of a data set.

    Args:
        entries: the models, with distinct names.
        dataset: the images, already narrowed to those to score.
        split: name of the split, to print.
        seed: seed of every draw; each image gets its own from it.
        device: where to compute.
        samples: draw noise from every model for the curves and the pictures.
        workers: processes that read tiles; 0 reads in the main process.
        protocol: further facts to print.
        progress: shows how far it has come.

    Raises:
        ValueError: a model does not know a camera or ISO of the data, or works on other channels.
    """
    truth = SensorTruth.from_dict(dataset.sensor) if dataset.sensor and dataset.truth == "exact" else None
    if dataset.domain != "raw":
        truth = None  # the virtual sensors describe raw codes, not what is rendered from them
    tallies = [_Tally(entry) for entry in entries]
    for tally in tallies:
        if truth is None:
            tally.reason["regret"] = _why_no_regret(dataset)
        if isinstance(tally.entry.model, ReleasedFlow):
            tally.reason |= {"mass": _RECORDED, "regret": _RECORDED}
        if isinstance(tally.entry.model, torch.nn.Module):
            tally.entry.model.to(device)
    real_curve = IntensityCurve()
    strips: list[Strip] = []
    chosen = _for_pictures(dataset.frames) if samples else set()
    progress.start("scoring", len(dataset.frames))
    for tally in tallies:
        tally.scores = [_Score() for _ in dataset.frames]
    batches = _TileBatches(dataset.frames)
    skipped, done = 0, 0
    for batch in DataLoader(batches, batch_size=None, num_workers=workers):
        progress.update(batch.frame - done)
        done = batch.frame
        skipped += batch.skipped
        if not batch.numbers:
            continue
        frame = dataset.frames[batch.frame]
        frame_seed = int(combine(seed, seed_of(frame.name.encode())))
        noisy, shot = batch.noisy.to(device), batch.shot.to(device)
        keys = [(frame.camera, frame.iso)] * len(shot)
        real_curve.update(noisy - shot.clean, shot.clean, keys)
        best = None if truth is None else truth.log_mass(noisy, shot).cpu()
        sampled = _spread(batch.of, _SAMPLED_TILES)
        rows = [row for row, n in enumerate(batch.numbers) if n in sampled]
        for tally in tallies:
            _score(tally, tally.scores[batch.frame], noisy, shot, best, frame_seed)
            if samples and rows:
                part = shot.rows(rows)
                noise = synthesize(tally.entry.model, part, seed=frame_seed) - part.clean
                tally.curve.update(noise, part.clean, keys[: len(rows)])
        if batch.frame in chosen and batch.numbers[0] == 0:
            strips.append(_strip(frame, noisy[:1], shot.rows(0), tallies, frame_seed))
    progress.update(len(dataset.frames) - done)
    if skipped:
        log.warning("%d tiles with NaN were left out", skipped)
    curves = curve_sets(real_curve, {tally.entry.name: tally.curve for tally in tallies} if samples else {})
    results = {
        "format": 1,
        "data": {
            "root_hash": dataset.root_hash(),
            "truth": dataset.truth,
            "domain": dataset.domain,
            "images": len(dataset.frames),
            "scenes": len({frame.scene for frame in dataset.frames}),
            "split": split,
            "split_protocol": dataset.split_protocol,
        },
        "protocol": {
            "seed": seed,
            "tile": TILE,
            "draws": DRAWS,
            "interval": "95 %, over scenes",
            "padding": "tiles whose sides a model's squeeze does not divide: mass pads by reflection and counts the "
            "padded pixels as not observed, nll crops",
            "tiles_left_out": skipped,
            **(protocol or {}),
        },
        "models": [_summary(tally, dataset.frames) for tally in tallies],
    }
    return Evaluation(results, curves, strips)


class _Batch(NamedTuple):
    """Some tiles of one frame: their numbers among `of` tiles, and how many were skipped for NaN."""

    frame: int
    numbers: list[int]
    of: int
    skipped: int
    noisy: Tensor
    shot: Shot


class _TileBatches(Dataset[_Batch]):
    """All tiles of all frames, a few of one frame and one shape at a time."""

    def __init__(self, frames: Sequence[FramePair]) -> None:
        self.frames = frames
        self.boxes = [tiles(frame.size, TILE) for frame in frames]
        self.batches = [(i, numbers) for i, boxes in enumerate(self.boxes) for numbers in _batches(boxes)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> _Batch:
        i, numbers = self.batches[item]
        pairs = {n: self.frames[i].read(*self.boxes[i][n]) for n in numbers}
        whole = [n for n, pair in pairs.items() if pair.is_finite]
        empty = Shot(torch.zeros(0, self.frames[i].channels, 1, 1), torch.zeros(0), torch.zeros(0).long(), ("",))
        noisy, shot = collate([pairs[n] for n in whole]) if whole else (empty.clean, empty)
        return _Batch(i, whole, len(self.boxes[i]), len(numbers) - len(whole), noisy, shot)


def _score(tally: _Tally, score: _Score, noisy: Tensor, shot: Shot, best: Tensor | None, seed: int) -> None:
    """Add a batch of tiles of one image to its scores."""
    model = tally.entry.model
    if isinstance(model, Flow):
        bound = model.mass_bound(noisy, shot, seed=seed, draws=DRAWS)
        log_mass = bound.log_mass.cpu()
        score.looseness += float(bound.looseness.sum())
    else:
        log_mass = model.log_mass(noisy, shot, seed=seed).cpu()
    score.values += noisy.numel()
    score.log_mass += float(log_mass.sum())
    if best is not None:
        score.regret += float((best - log_mass).sum())
    multiple = model.size_multiple if isinstance(model, Flow) else 1
    height, width = (side // multiple * multiple for side in noisy.shape[-2:])
    if not height or not width:
        return
    srgb = None if shot.srgb is None else shot.srgb[..., : 2 * height, : 2 * width]
    cropped = shot.replace(clean=shot.clean[..., :height, :width], srgb=srgb, offset=None, gain=None, variance=None)
    noise = noisy[..., :height, :width].double() - cropped.clean.double()
    try:
        score.log_prob += float(model.log_prob(noise, cropped).double().sum())
    except NoDensityError as error:
        tally.reason["nll"] = str(error)
        return
    score.dims += noise.numel()


def _summary(tally: _Tally, frames: Sequence[FramePair]) -> dict[str, Any]:
    """One model's entry of results.json."""
    model, scores = tally.entry.model, tally.scores
    reason = dict(tally.reason)
    nll = mass = regret = None
    if "nll" not in reason:
        nll = _figure(_over_scenes(frames, [-s.log_prob for s in scores], [s.dims for s in scores]), reason, "nll")
        nll["unit"] = "nats/dim"
    mass = _figure(_over_scenes(frames, [-s.log_mass for s in scores], [s.values for s in scores]), reason, "mass")
    values = sum(s.values for s in scores)
    mass["unit"] = "nats/value"
    mass["bits"] = mass["value"] / np.log(2)
    mass["looseness"] = sum(s.looseness for s in scores) / values
    if mass["looseness"] > LOOSE:
        reason["mass.looseness"] = f"loose: above {LOOSE} nats/value, the true mass may lie that much lower"
    if "regret" not in reason:
        regret = _figure(_over_scenes(frames, [s.regret for s in scores], [s.values for s in scores]), reason, "regret")
        over_images = scene_interval([s.regret for s in scores], [s.values for s in scores])
        regret["se"] = over_images.se
        if over_images.se is None:
            reason["regret.se"] = "below 3 images"
    by_shot = []
    for camera, iso in sorted({(frame.camera, frame.iso) for frame in frames}):
        part = [s for s, f in zip(scores, frames, strict=True) if (f.camera, f.iso) == (camera, iso)]
        total = sum(s.values for s in part)
        by_shot.append(
            {
                "camera": camera,
                "iso": iso,
                "images": len(part),
                "nll": -sum(s.log_prob for s in part) / sum(s.dims for s in part) if nll is not None else None,
                "mass": -sum(s.log_mass for s in part) / total,
                "regret": sum(s.regret for s in part) / total if regret is not None else None,
            }
        )
    reason["kld"] = reason["structure"] = "not computed by this version"
    return {
        "name": tally.entry.name,
        "file_hash": tally.entry.file_hash,
        "parameters": model.parameter_count() if isinstance(model, FittedModel) else 0,
        "noise_domain": model.noise_domain,
        "nll": nll,
        "mass": mass,
        "regret": regret,
        "kld": {},
        "structure": {},
        "by_shot": by_shot,
        "reason": reason,
    }


def _over_scenes(frames: Sequence[FramePair], totals: Sequence[float], counts: Sequence[int]) -> Interval:
    by_scene: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for frame, total, count in zip(frames, totals, counts, strict=True):
        by_scene[frame.scene][0] += total
        by_scene[frame.scene][1] += count
    return scene_interval([t for t, _ in by_scene.values()], [int(n) for _, n in by_scene.values()])


def _figure(interval: Interval, reason: dict[str, str], name: str) -> dict[str, Any]:
    """value, low and high; why the ends are null goes to `reason`."""
    if interval.low is None:
        reason[f"{name}.low"] = reason[f"{name}.high"] = interval.method
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _why_no_regret(dataset: NoiseDataset) -> str:
    if dataset.domain != "raw" and dataset.sensor:
        return "the virtual sensors' density is one of raw codes, not of rendered pictures"
    if dataset.truth != "exact":
        return f"the ground truth is of kind {dataset.truth!r}; regret needs an exact one"
    return "the data come with no sensor whose density is known"


def _spread(count: int, wanted: int) -> set[int]:
    """At most `wanted` of the numbers below `count`, evenly spread, 0 among them."""
    return {i * count // min(wanted, count) for i in range(min(wanted, count))}


def _batches(boxes: Sequence[tuple[int, int, int, int]]) -> Iterable[list[int]]:
    """Numbers of boxes of one shape, a few at a time."""
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (_, _, height, width) in enumerate(boxes):
        by_shape[height, width].append(number)
    for numbers in by_shape.values():
        for start in range(0, len(numbers), _BATCH):
            yield numbers[start : start + _BATCH]


def _for_pictures(frames: Sequence[FramePair]) -> set[int]:
    """Which frames are shown: one of each of a few (camera, ISO) pairs, of different scenes where there are several."""
    by_pair: dict[tuple[str, float], list[int]] = defaultdict(list)
    for i, frame in enumerate(frames):
        by_pair[frame.camera, frame.iso].append(i)
    keys = sorted(by_pair)
    shown = min(_STRIPS, len(keys))
    picked = [keys[round(k * (len(keys) - 1) / max(shown - 1, 1))] for k in range(shown)]
    return {by_pair[key][k % len(by_pair[key])] for k, key in enumerate(picked)}


def _strip(frame: FramePair, noisy: Tensor, shot: Shot, tallies: Sequence[_Tally], seed: int) -> Strip:
    """A corner of one image: clean, real noisy and each model's noisy, and the noise of one channel."""
    images = {"real": noisy}
    images |= {tally.entry.name: synthesize(tally.entry.model, shot, seed=seed) for tally in tallies}
    side = (slice(0, _STRIP_SIDE), slice(0, _STRIP_SIDE))
    exposure = 0.9 / max(float(torch.quantile(shot.clean[..., :_STRIP_SIDE, :_STRIP_SIDE].flatten(), 0.99)), 1e-3)
    channel = 1 if frame.channels > 1 else 0
    return Strip(
        title=f"{frame.camera}, ISO {frame.iso:g} — {frame.name}",
        clean=_display(shot.clean, exposure)[side],
        noisy={name: _display(image, exposure)[side] for name, image in images.items()},
        noise={name: (image - shot.clean)[0, channel].cpu().numpy()[side] for name, image in images.items()},
    )


def _display(image: Tensor, exposure: float) -> np.ndarray:
    """The first image of a batch as display RGB: raw is exposed and given a gamma of 2.2, sRGB is shown as it is."""
    x = image[0].double().cpu()
    if x.shape[0] == 4:
        x = torch.stack((x[0], 0.5 * (x[1] + x[2]), x[3]))
    elif x.shape[0] == 1:
        x = x.expand(3, -1, -1)
    if image.shape[1] != 3:
        x = (x * exposure).clamp(0, 1) ** (1 / 2.2)
    return x.clamp(0, 1).permute(1, 2, 0).numpy()
