"""What is in a data set, and what is wrong with it: every file is read once, by the readers that training uses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.datasets import burst_folders, pairs, sidd
from noiseflow.datasets.alignment import SWAPPED_RATIO, displacement, fine_energy_ratio
from noiseflow.datasets.base import FramePair, on_lattice
from noiseflow.datasets.burst_checks import check_burst
from noiseflow.datasets.burst_folders import BurstDataset, open_bursts
from noiseflow.datasets.bursts import Burst
from noiseflow.datasets.dataset import NoiseDataset, of_half, of_table
from noiseflow.errors import Defect, DefectError, UserError
from noiseflow.progress import SILENT, Progress
from noiseflow.raw.decode import read_image

WARNINGS: frozenset[Defect] = frozenset(
    ("disagreement", "scene in both splits", "off the lattice", "bit depth", "no noise")
)
"""Findings that leave the data usable; all others are damage."""

_DEEP = 512  # codes from black to white; fewer can come from a sensor of 8 bits
_EIGHT_BITS = 256
_FEWEST_PIXELS = 1000


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: "damaged" if the data cannot be used as they are, else "warning".
        kind: its name.
        where: file or frame, relative to the data set.
        sentence: what was expected and what came.
    """

    severity: Literal["damaged", "warning"]
    kind: Defect
    where: str
    sentence: str


@dataclass
class Part:
    """What one half of a data set holds.

    Attributes:
        domain: "raw" or "srgb".
        truth: how the clean images were made; "none" for bursts.
        pairs: number of pairs, or of bursts.
        scenes: number of scenes.
        splits: number of pairs in each split.
        split_protocol: the rule of the split.
        conditions: pairs of each camera and ISO.
        levels: camera → its levels in words.
        patterns: camera → its colour filter patterns.
        sizes: frame sizes in pixels of the files.
    """

    domain: str
    truth: str
    pairs: int
    scenes: int
    splits: Mapping[str, int]
    split_protocol: str
    conditions: Mapping[tuple[str, float], int]
    levels: dict[str, set[str]] = field(default_factory=dict)
    patterns: dict[str, set[str]] = field(default_factory=dict)
    sizes: set[tuple[int, int]] = field(default_factory=set)

    @property
    def unit(self) -> str:
        """What is counted."""
        return "bursts" if self.truth == "none" else "pairs"


def check(
    root: Path | str, *, black: float | None = None, white: float | None = None, progress: Progress = SILENT
) -> tuple[list[Part], list[Finding]]:
    """Read all of a data set and list what it holds and what is wrong with it.

    Args:
        root: a SIDD tree, or a folder with `pairs.csv` or `bursts.csv`. Of a tree without ground truths, and of a
            table, bursts also pass the guard rails (`burst_checks`).
        black: black level in codes, as `open_dataset` takes it.
        white: white level in codes, likewise.
        progress: shows the pairs read.

    Returns:
        The parts that have pairs, and the findings in the order of the files.

    Raises:
        UserError: the folder is of no such kind, or its table cannot be read.
    """
    root = Path(root)
    if root.name in (pairs.FILE_NAME, burst_folders.FILE_NAME) and root.is_file():
        root = root.parent
    if not root.is_dir():
        raise UserError(f"{root}: expected a folder, got {'a file' if root.exists() else 'none'}")
    bursts: BurstDataset | None = None
    datasets: list[NoiseDataset] = []
    findings: list[Finding] = []
    if (root / pairs.FILE_NAME).is_file():
        datasets, findings = _table(root, black, white)
    elif (root / burst_folders.FILE_NAME).is_file():
        bursts = open_bursts(root, black=black, white=white)
    else:
        datasets, findings = _tree(root, black, white)
        if not datasets:  # no noisy frame has its ground truth
            try:
                bursts = open_bursts(root, black=black, white=white)
                findings = []
            except UserError:
                pass  # neither pairs nor bursts: what the pairs lack has been found
    parts = [_part(dataset) for dataset in datasets]
    part_of_bursts = [] if bursts is None else [_part(bursts)]
    # what the readers would log is a finding here
    readers = logging.getLogger("noiseflow.datasets")
    level = readers.level
    readers.setLevel(logging.ERROR)
    try:
        progress.start("checking", sum(part.pairs for part in parts + part_of_bursts))
        for dataset, part in zip(datasets, parts, strict=True):
            for frame in dataset.frames:
                findings += _frame(frame, part, root)
                progress.update()
            findings += [*_disagreements(dataset), *_leaks(dataset)]
        if bursts is not None:
            for burst in bursts.bursts:
                findings += _burst(burst, part_of_bursts[0], root)
                progress.update()
            findings += _leaks(bursts)
    finally:
        readers.setLevel(level)
    return parts + part_of_bursts, findings


def _tree(root: Path, black: float | None, white: float | None) -> tuple[list[NoiseDataset], list[Finding]]:
    instances = sidd.find_instances(root)
    if not instances:
        raise UserError(f"{root}: expected {pairs.FILE_NAME}, {burst_folders.FILE_NAME} or a SIDD tree, found none")
    datasets, findings = [], []
    for domain, half in sidd.scan(root, black=black, white=white).items():
        findings += [_of_error(problem, root) for problem in half.problems]
        for path in half.unused:
            sentence = f"expected a noisy frame for {path.name}, found none; fetch it again"
            findings.append(_finding("missing half", path, sentence, root))
        if half.frames:
            datasets.append(of_half(sidd.tree_root(instances), domain, half))
    return datasets, findings


def _table(root: Path, black: float | None, white: float | None) -> tuple[list[NoiseDataset], list[Finding]]:
    frames, column = pairs.read_table(root / pairs.FILE_NAME, black=black, white=white)
    findings, there = [], []
    for frame in frames:
        missing = [path for path in frame.files if not path.is_file()]
        for path in missing:
            sentence = f"expected a file, as {pairs.FILE_NAME} lists it, found none"
            findings.append(_finding("missing half", path, sentence, root))
        if not missing:
            there.append(frame)
    readable = []
    for frame in there:
        try:
            frame.channels  # noqa: B018 (opens the picture)
            readable.append(frame)
        except UserError as error:
            findings.append(_of_error(error, root))
    return [of_table(root, readable, column)] if readable else [], findings


def _part(dataset: NoiseDataset | BurstDataset) -> Part:
    return Part(
        domain=dataset.domain,
        truth=dataset.truth if isinstance(dataset, NoiseDataset) else "none",
        pairs=len(dataset.frames),
        scenes=len({frame.scene for frame in dataset.frames}),
        splits=Counter(dataset.split_of.get(frame.name, "neither") for frame in dataset.frames),
        split_protocol=dataset.split_protocol,
        conditions=Counter((frame.camera, frame.iso) for frame in dataset.frames),
    )


def _frame(frame: FramePair, part: Part, root: Path) -> Iterator[Finding]:
    """Read a pair whole; note what it is, and yield what is wrong with it."""
    try:
        noisy, clean = frame.stored()
        lsb, cfa = frame.declared_lsb, frame.cfa
    except UserError as error:
        yield from _unreadable(frame, error, root)
        return
    scale = 1 if cfa is None else 2
    part.sizes.add((noisy.shape[1] * scale, noisy.shape[2] * scale))
    part.patterns.setdefault(frame.camera, set()).add(cfa or "–")
    part.levels.setdefault(frame.camera, set()).add(_levels(frame, lsb))
    noisy, clean = torch.nan_to_num(noisy), torch.nan_to_num(clean)
    path = frame.files[0]
    quantised = bool((lsb > 0).all())
    if quantised and not on_lattice(noisy, lsb):
        codes = 1 / float(lsb.max())
        yield _finding("off the lattice", path, f"expected whole codes of 1/{codes:g}, got values between them", root)
    elif quantised and 1 / float(lsb.max()) >= _DEEP and (distinct := _gappy(noisy, lsb)):
        sentence = (
            f"expected {1 / float(lsb.max()):g} codes from black to white, got {distinct} with gaps between them: "
            "probably made from an 8-bit picture"
        )
        yield _finding("bit depth", path, sentence, root)
    if bool((noisy == clean).all()):
        sentence = "expected noise, got a noisy and a clean image that are the same: one file twice, or saturated"
        yield _finding("no noise", path, sentence, root)
    both = noisy.numpy(), clean.numpy()
    ratio = fine_energy_ratio(*both, lsb.numpy())
    if ratio > SWAPPED_RATIO:
        sentence = (
            f"expected the noisy image to be the noisier one, got {ratio:.1f} times its fine energy in the clean one; "
            "the two are swapped"
        )
        yield _finding("swapped", frame.name, sentence, root)
    apart = displacement(*both, cfa)
    if apart is not None:
        sentence = f"expected noisy and clean to coincide, they fit {apart[0]} rows and {apart[1]} columns apart"
        yield _finding("misaligned", frame.name, sentence, root)


def _burst(burst: Burst, part: Part, root: Path) -> Iterator[Finding]:
    """Read all frames of a burst; note what it is, and yield what is wrong with it."""
    frame = burst.frames[0]
    try:
        for i in range(len(burst)):
            burst.read((i,))
        burst.read_maps()
        lsb, cfa = frame.declared_lsb, burst.cfa
    except UserError as error:
        yield _of_error(error, root)
        return
    scale = 1 if cfa is None else 2
    part.sizes.add((burst.size[0] * scale, burst.size[1] * scale))
    part.patterns.setdefault(burst.camera, set()).add(cfa or "–")
    part.levels.setdefault(burst.camera, set()).add(_levels(frame, lsb))
    if bool((lsb > 0).all()) and not bool((burst.lsb > 0).all()):
        sentence = f"expected whole codes of 1/{1 / float(lsb.max()):g}, got values between them"
        yield _finding("off the lattice", frame.files[0], sentence, root)
    for found in check_burst(burst):
        yield _finding(found.kind, burst.name, found.sentence, root)


def _unreadable(frame: FramePair, error: UserError, root: Path) -> Iterator[Finding]:
    """The error that reading met, and the same of the other file where that is damaged too."""
    found = [_of_error(error, root)]
    for path in frame.files[:2]:
        try:
            read_image(path)
        except UserError as other:
            found.append(_of_error(other, root))
    yield from {(finding.kind, finding.where): finding for finding in reversed(found)}.values()


def _levels(frame: FramePair, lsb: Float[Tensor, "c"]) -> str:
    if isinstance(frame, sidd.SiddRawFrame) and frame.recording != "continuous":
        blacks, white = frame.levels
        return f"{'/'.join(f'{n:g}' for n in dict.fromkeys(blacks))} to {white:g}"
    return f"{1 / float(lsb.max()):g} codes" if bool((lsb > 0).all()) else "continuous"


def _gappy(noisy: Float[Tensor, "c h w"], lsb: Float[Tensor, "c"]) -> int:
    """Number of distinct codes if they are at most 256 and most pixels have no neighbouring code, else 0.

    A dark frame has few codes too, but they are next to each other: noise sees to that.
    """
    codes, counts = np.unique(torch.round(noisy / lsb[:, None, None]).numpy(), return_counts=True)
    if not 16 <= codes.size <= _EIGHT_BITS or counts.sum() < _FEWEST_PIXELS:
        return 0
    gaps = np.diff(codes)
    nearest = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    alone = counts[nearest >= 2].sum()
    return int(codes.size) if alone > counts.sum() / 2 else 0


def _disagreements(dataset: NoiseDataset) -> Iterator[Finding]:
    """Metadata against the folder's name, and against the other frames of the camera."""
    seen: dict[str, dict[str, Counter[str]]] = {}
    said: list[tuple[sidd.SiddRawFrame, dict[str, str]]] = []
    for frame in dataset.frames:
        if not isinstance(frame, sidd.SiddRawFrame):
            continue
        try:
            about = frame.metadata
        except UserError:
            continue  # reported as damaged
        if about.iso is not None and about.iso != frame.iso:
            sentence = f"expected ISO {frame.iso:g} as in the folder's name, got {about.iso:g}"
            yield _finding("disagreement", frame.files[2], sentence, dataset.root)
        values = {"the pattern": about.cfa, "the maker": about.make, "the model": about.model}
        known = {name: value for name, value in values.items() if value is not None}
        said.append((frame, known))
        for name, value in known.items():
            seen.setdefault(frame.camera, {}).setdefault(name, Counter())[value] += 1
    for frame, known in said:
        for name, value in known.items():
            usual = seen[frame.camera][name].most_common(1)[0][0]
            if value != usual:
                sentence = f"expected {name} {usual!r} as most frames of camera {frame.camera} have, got {value!r}"
                yield _finding("disagreement", frame.files[2], sentence, dataset.root)


def _leaks(dataset: NoiseDataset | BurstDataset) -> Iterator[Finding]:
    splits: dict[str, set[str]] = {}
    for frame in dataset.frames:
        if frame.name in dataset.split_of:
            splits.setdefault(frame.scene, set()).add(dataset.split_of[frame.name])
    for scene, found in sorted(splits.items()):
        if len(found) > 1:
            sentence = f"expected every scene in one split, got scene {scene!r} in train and in test"
            yield _finding("scene in both splits", scene, f"{sentence} ({dataset.split_protocol})", dataset.root)


def _of_error(error: UserError, root: Path) -> Finding:
    """A finding from what a reader raised: `file: sentence`."""
    kind: Defect = error.kind if isinstance(error, DefectError) else "damaged file"
    where, _, sentence = " ".join(str(error).split()).partition(": ")
    return _finding(kind, Path(where), sentence, root)


def _finding(kind: Defect, where: Path | str, sentence: str, root: Path) -> Finding:
    if isinstance(where, Path):
        where = where.relative_to(root).as_posix() if where.is_relative_to(root) else str(where)
    return Finding("warning" if kind in WARNINGS else "damaged", kind, where, sentence)
