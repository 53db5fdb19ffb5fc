"""The pass over the data: read tiles, let every model score them and draw noise for some, sum up.

Each model's `mass`, −log probability of the stored codes per value, is averaged over pixels, with an interval over
scenes; where the data carry an exact sensor, so is `regret`, how far the model's mass lies above the sensor's own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from noiseflow.datasets import FramePair, NoiseDataset
from noiseflow.evaluation.classifier import ClassifierScores
from noiseflow.evaluation.likelihood import DRAWS, Best, add, add_density, best_of, regions
from noiseflow.evaluation.parallel import Crew
from noiseflow.evaluation.pictures import for_pictures, strip
from noiseflow.evaluation.samples import AKLD_DRAWS, AKLD_SIDE, TILES, SampleScores
from noiseflow.evaluation.sources import Entry, draw
from noiseflow.evaluation.structure import PATCHES, SETS, SIDE, StructureScores, picture
from noiseflow.evaluation.summary import Tally, differences, summary, why_no_regret
from noiseflow.evaluation.tiles import TILE, TileBatches, Tiles, spread
from noiseflow.metrics.curves import IntensityCurve
from noiseflow.models import ReleasedFlow
from noiseflow.progress import SILENT, Progress
from noiseflow.randomness import combine, seed_of
from noiseflow.report import CurveSet, Strip, StructurePicture, curve_sets
from noiseflow.sensors import SensorTruth

log = logging.getLogger(__name__)

_RECORDED = "not comparable: a density of recorded noise, times the width of the codes, is no probability of the codes"


@dataclass(frozen=True)
class Evaluation:
    """Everything that the report is made of: `results` in the schema of results.json, curves and pictures."""

    results: dict[str, Any]
    curves: list[CurveSet]
    strips: list[Strip]
    structure: list[StructurePicture]


@dataclass
class _Work:
    """What one process has collected."""

    tallies: list[Tally]
    data_curve: IntensityCurve
    strips: dict[int, Strip]
    skipped: int = 0

    def merge(self, other: _Work) -> None:
        for mine, theirs in zip(self.tallies, other.tallies, strict=True):
            mine.merge(theirs)
        self.data_curve.merge(other.data_curve)
        self.strips.update(other.strips)
        self.skipped += other.skipped


@torch.no_grad()
def evaluate(
    entries: Sequence[Entry],
    dataset: NoiseDataset,
    *,
    split: str,
    seed: int = 0,
    device: torch.device | str = "cpu",
    samples: bool = True,
    classifier: bool = False,
    workers: int = 0,
    protocol: dict[str, Any] | None = None,
    progress: Progress = SILENT,
    crew: Crew | None = None,
) -> Evaluation | None:
    """Score models on every image of a data set.

    Args:
        entries: the models, or images that they made, with distinct names.
        dataset: the images, already narrowed to those to score.
        split: name of the split, to print.
        seed: seed of every draw; each image gets its own from it.
        device: where to compute.
        samples: draw noise from every model, for the divergences, the curves and the pictures.
        classifier: also train a small network to tell each entry's noise from the data's; takes a minute an entry.
        workers: processes that read tiles; 0 reads in the main process.
        protocol: further facts to print.
        progress: shows how far it has come.
        crew: the processes that score together; default this one alone.

    Returns:
        The evaluation; None on all processes but the first.

    Raises:
        ValueError: a model does not know a camera or ISO of the data, or works on other channels.
    """
    crew = crew or Crew()
    frames = dataset.frames
    truth = SensorTruth.from_dict(dataset.sensor) if dataset.sensor and dataset.truth == "exact" else None
    if dataset.domain != "raw":
        truth = None  # the virtual sensors describe raw codes, not what is rendered from them
    side = min(TILE, TILE if truth is None else truth.largest_patch or TILE)
    work = _Work([Tally(entry) for entry in entries], IntensityCurve(), {})
    for tally in work.tallies:
        if truth is None:
            tally.reason["regret"] = why_no_regret(dataset)
        if samples:
            tally.samples = SampleScores(frames, dataset.domain)
            tally.structure = StructureScores(tally.entry, frames)
            tally.classifier = ClassifierScores(frames) if classifier else None
        if isinstance(tally.entry.model, ReleasedFlow):
            tally.reason |= {"mass": _RECORDED, "regret": _RECORDED}
        if isinstance(tally.entry.model, torch.nn.Module):
            # Few channels: convolutions are several times as fast with the channels of a pixel side by side.
            tally.entry.model.to(device, memory_format=torch.channels_last)
    mine = crew.share(len(frames))
    chosen = for_pictures(frames) if samples else set()
    progress.start("scoring", len(mine))
    done = 0
    for batch in DataLoader(TileBatches(frames, mine, side), batch_size=None, num_workers=workers):
        place = mine.index(batch.frame)
        progress.update(place - done)
        done = place
        work.skipped += batch.skipped
        if batch.numbers:
            _score(work, batch, frames[batch.frame], truth, seed, torch.device(device), samples, batch.frame in chosen)
    progress.update(len(mine) - done)
    parts = crew.gather(work, "scores")
    if not parts:
        return None
    work = parts[0]
    for part in parts[1:]:
        work.merge(part)
    if work.skipped:
        log.warning("%d tiles with NaN were left out", work.skipped)
    curves = {tally.entry.name: tally.samples.curve for tally in work.tallies if tally.samples is not None}
    results = {
        "format": 1,
        "data": {
            "root_hash": dataset.root_hash(),
            "truth": dataset.truth,
            "clean": dataset.clean,
            "domain": dataset.domain,
            "images": len(frames),
            "scenes": len({frame.scene for frame in frames}),
            "split": split,
            "split_protocol": dataset.split_protocol,
        },
        "protocol": {
            "seed": seed,
            "tile": side,
            "draws": DRAWS,
            "interval": "95 %, over scenes",
            "padding": "tiles whose sides a model's squeeze does not divide: mass pads by reflection and counts the "
            "padded pixels as not observed, nll crops",
            "kld": f"noise of up to {TILES} tiles an image, one draw; AKLD: a corner of {AKLD_SIDE}×{AKLD_SIDE}, "
            f"{AKLD_DRAWS} draws; floors are ranges of 95 % between two draws of one distribution",
            "structure": f"{PATCHES} patches of {SIDE}×{SIDE}, {SETS} sets drawn from the model for the same shots; "
            "images made by others: exchanges of whole images",
            "tiles_left_out": work.skipped,
            **(protocol or {}),
        },
        "models": [summary(tally, frames, seed) for tally in work.tallies],
        "differences": differences(work.tallies, frames),
    }
    strips = [work.strips[number] for number in sorted(work.strips)]
    profiles = {tally.entry.name: tally.structure.profiles() for tally in work.tallies if tally.structure is not None}
    drawn = picture({name: found for name, found in profiles.items() if found is not None})
    return Evaluation(results, curve_sets(work.data_curve, curves), strips, [] if drawn is None else [drawn])


def _score(
    work: _Work,
    batch: Tiles,
    frame: FramePair,
    truth: SensorTruth | None,
    seed: int,
    device: torch.device,
    samples: bool,
    pictured: bool,
) -> None:
    """Let every entry score one batch of tiles."""
    frame_seed = int(combine(seed, seed_of(frame.name.encode())))
    noisy, shot = batch.noisy.to(device), batch.shot.to(device)
    data = noisy.double() - shot.clean.double()
    work.data_curve.update(data, shot.clean, [(frame.camera, frame.iso)] * len(shot))
    best: Best | None = None if truth is None else best_of(truth, noisy, shot)
    where = regions(frame, shot, truth)
    wanted = spread(batch.of, TILES)
    rows = [row for row, number in enumerate(batch.numbers) if number in wanted]
    pictures = {"real": noisy[:1]}
    for tally in work.tallies:
        entry = tally.entry
        if entry.model is not None:
            score = tally.scores[batch.frame]
            add(score, entry.model, noisy, shot, best, where, frame_seed)
            why = add_density(score, entry.model, noisy, shot)
            if why is not None:
                tally.reason["nll"] = why
        if tally.samples is None or not rows:
            continue
        part, boxes = shot.rows(rows), [batch.boxes[row] for row in rows]
        drawn = draw(entry, frame, boxes, part, frame_seed)
        tally.samples.add(batch.frame, frame, data[rows], drawn, part)
        if tally.classifier is not None:
            tally.classifier.add(batch.frame, data[rows], drawn.recorded, part.clean)
        if batch.numbers[0] == 0:
            first, box = shot.rows(0), batch.boxes[0]
            tally.samples.add_akld(batch.frame, entry, frame, box, data[:1], first, frame_seed)
            assert tally.structure is not None
            tally.structure.add(batch.frame, frame, box, data[:1], first, frame_seed)
            pictures[entry.name] = drawn.recorded[:1] + first.clean
    if samples and pictured and batch.numbers[0] == 0:
        work.strips[batch.frame] = strip(frame, pictures, shot.rows(0))
