"""Folders of bursts: SIDD trees whose instances hold several noisy frames, and folders with `bursts.csv`.

Columns `frames,camera,iso`, optional `scene,split,black,white,lsb,cfa` as in `pairs.csv`, and `offset,gain,variance`,
files with a per-pixel map each. `frames` is a pattern, relative to the folder, that matches the noisy files of one
burst; their order is that of their names, numbers in them counting as numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from noiseflow.datasets import sidd
from noiseflow.datasets.base import FramePair
from noiseflow.datasets.burst_checks import Finding
from noiseflow.datasets.bursts import MAPS, Burst
from noiseflow.datasets.dataset import SENSOR_FILE, read_sensor, recording_of
from noiseflow.datasets.pairs import OPTIONAL, Levels, TableFrame, listed_once, read_about, read_rows
from noiseflow.datasets.selection import Selection, files_of
from noiseflow.datasets.splits import assign
from noiseflow.errors import UserError
from noiseflow.raw.decode import IMAGE_SUFFIXES

FILE_NAME = "bursts.csv"

_REQUIRED = ("frames", "camera", "iso")


@dataclass(frozen=True, eq=False, kw_only=True)
class BurstDataset(Selection[Burst]):
    """Bursts of one domain; `frames` are the bursts.

    Attributes:
        findings: by name of a burst, what the guard rails found in it; empty where they were not asked.
    """

    findings: Mapping[str, Sequence[Finding]] = field(default_factory=dict)

    @property
    def bursts(self) -> tuple[Burst, ...]:
        """The bursts, as far as they are selected."""
        return self.frames


def open_bursts(
    root: Path | str, *, domain: str | None = None, black: float | None = None, white: float | None = None
) -> BurstDataset:
    """Open a SIDD tree (real or simulated) or a folder with `bursts.csv`; no image is read.

    Ground truths are not needed and not looked at. An instance of a tree with a single noisy frame is no burst and
    left out.

    Args:
        root: the folder.
        domain: "raw" or "srgb"; None: raw where the folder has it.
        black: black level in codes. Wins over SIDD's metadata; a row of `bursts.csv` wins over it.
        white: white level in codes, likewise.

    Raises:
        UserError: the folder is of neither kind, holds no burst, or files are missing; the first is named.
    """
    root = Path(root)
    if domain not in (None, "raw", "srgb"):
        raise UserError(f"domain: expected raw or srgb, got {domain!r}")
    if root.name == FILE_NAME and root.is_file():
        root = root.parent
    if not root.is_dir():
        raise UserError(f"{root}: expected a folder, got {'a file' if root.exists() else 'none'}")
    if (root / FILE_NAME).is_file():
        dataset = _open_table(root, black, white)
        if domain not in (None, dataset.domain):
            raise UserError(
                f"{root}: expected {domain} bursts, got {dataset.domain} ones; a mosaic needs the column cfa"
            )
        return dataset
    instances = sidd.find_instances(root)
    if not instances:
        raise UserError(
            f"{root}: expected {FILE_NAME} or a SIDD tree (folders like Data/0001_001_S6_00100_00060_3200_L) whose "
            "instances hold several noisy frames, found neither"
        )
    return _open_tree(sidd.tree_root(instances), domain, black, white)


def _open_tree(root: Path, domain: str | None, black: float | None, white: float | None) -> BurstDataset:
    halves = sidd.scan(root, black=black, white=white, truth=False)
    if domain is None:
        domain = "raw" if halves["raw"].frames or halves["raw"].problems else "srgb"
    half = halves[domain]
    if half.problems:
        raise half.problems[0]
    sensor = read_sensor(root)
    members: dict[str, list[FramePair]] = {}
    for frame in half.frames:
        if isinstance(frame, sidd.SiddRawFrame):
            frame.recording = recording_of(sensor, frame.camera)
        members.setdefault(frame.name.split("/")[0], []).append(frame)
    bursts = [Burst(some, name=name, scene=some[0].scene) for name, some in members.items() if len(some) > 1]
    if not bursts:
        raise UserError(f"{root}: expected {domain} instances with two or more noisy frames, found none")
    split_of, protocol = assign(bursts, published=sensor is None)
    return BurstDataset(
        root=root,
        domain=domain,
        frames=tuple(bursts),
        split_protocol=protocol,
        split_of=split_of,
        everything=files_of(bursts, root / SENSOR_FILE),
    )


def _open_table(root: Path, black: float | None, white: float | None) -> BurstDataset:
    bursts, column = read_table(root / FILE_NAME, black=black, white=white)
    for burst in bursts:
        for path in burst.files:
            if not path.is_file():
                raise UserError(f"{path}: expected a file, as {FILE_NAME} lists it, found none")
    split_of, protocol = assign(bursts, column=column, table=FILE_NAME)
    return BurstDataset(
        root=root,
        domain="srgb" if bursts[0].channels == 3 else "raw",
        frames=bursts,
        split_protocol=protocol,
        split_of=split_of,
        everything=files_of(bursts, root / FILE_NAME),
    )


def read_table(
    path: Path, *, black: float | None = None, white: float | None = None
) -> tuple[tuple[Burst, ...], dict[str, str] | None]:
    """Read `bursts.csv`; no picture is opened.

    Args:
        path: the file.
        black: black level in codes for integer pictures whose row has none.
        white: white level in codes, likewise.

    Returns:
        The bursts, and burst name → "train" or "test" where the file has the column.

    Raises:
        UserError: the header or a row is not as described above; the row is named.
    """
    header, rows = read_rows(path, _REQUIRED, OPTIONAL + MAPS, "burst")
    bursts = ((where, row, _burst(where, path.parent, row, Levels(black, white))) for where, row in rows)
    return listed_once(path, header, bursts, "burst")


def _burst(where: str, folder: Path, row: Mapping[str, str], default: Levels) -> Burst:
    about = read_about(where, row, _REQUIRED)
    maps = {name: folder / row[name] for name in MAPS if row.get(name)}
    for name, path in maps.items():
        if path.suffix.lower() != ".npy":
            raise UserError(f"{where}: expected an NPY file for {name}, got {row[name]!r}")
    files = [file for file in _matches(folder, row["frames"]) if file not in maps.values()]
    if len(files) < 2:
        raise UserError(
            f"{where}: expected frames to match two or more of {', '.join(IMAGE_SUFFIXES)}, got {row['frames']!r}, "
            f"which matches {len(files)}"
        )
    scene = row.get("scene") or Path(row["frames"]).as_posix()
    frames = [
        TableFrame(
            name=f"{row['frames']}/{file.name}",
            scene=scene,
            camera=row["camera"],
            iso=about.iso,
            files=(file, file),
            cfa=about.cfa,
            own=about.levels,
            default=default,
        )
        for file in files
    ]
    return Burst(frames, name=Path(row["frames"]).as_posix(), scene=scene, maps=maps)


def _matches(folder: Path, pattern: str) -> list[Path]:
    """The picture files that a pattern matches, in the order of their names, numbers as numbers."""
    anchor = Path(pattern).anchor
    found = Path(anchor or folder).glob(pattern.removeprefix(anchor) or "*")
    pictures = (path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(pictures, key=lambda path: _natural(path.as_posix()))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
