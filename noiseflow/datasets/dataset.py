"""Open a folder of pairs, whatever its layout, and choose from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from noiseflow.datasets import blocks, pairs, sidd
from noiseflow.datasets.base import FramePair
from noiseflow.datasets.splits import assign
from noiseflow.errors import UserError

SENSOR_FILE = "sensor.json"
_TRUTHS = ("exact", "mean")
_SPLITS = ("train", "test", "all")
_HASHED_END = 64 << 10


@dataclass(frozen=True, eq=False)
class NoiseDataset:
    """Frame pairs of one domain.

    Attributes:
        root: the folder.
        domain: "raw" or "srgb".
        truth: how the clean images were made: "exact", "mean" of recorded frames, or "unknown".
        sensor: content of `sensor.json`, which simulated trees have, or None.
        frames: the pairs, as far as they are selected.
        split_protocol: which rule divides train from test.
        split_of: frame name → "train" or "test", over all frames of the folder.
        everything: all files of the folder's data set, selected or not.
        clean: what was done to the clean images since they were read.
    """

    root: Path
    domain: str
    truth: str
    sensor: dict[str, Any] | None
    frames: tuple[FramePair, ...]
    split_protocol: str
    split_of: Mapping[str, str]
    everything: tuple[Path, ...]
    clean: str = "as stored"

    @property
    def conditions(self) -> tuple[tuple[str, float], ...]:
        """The (camera, ISO) that occur, sorted."""
        return tuple(sorted({(frame.camera, frame.iso) for frame in self.frames}))

    def select(
        self,
        split: str = "all",
        cameras: Sequence[str] | None = None,
        isos: Sequence[float] | None = None,
        max_images: int | None = None,
    ) -> NoiseDataset:
        """Part of the data set. Splits are those of the whole folder, whatever else is selected.

        Args:
            split: "train", "test" or "all".
            cameras: names; None for all.
            isos: ISO speeds; None for all.
            max_images: at most that many frames, taken in turn from each camera and ISO.

        Raises:
            UserError: nothing is left, or a name that does not occur.
        """
        if split not in _SPLITS:
            raise UserError(f"split: expected {', '.join(_SPLITS)}, got {split!r}")
        if max_images is not None and max_images < 1:
            raise UserError(f"max images: expected 1 or more, got {max_images}")
        _check_known("cameras", cameras, {frame.camera for frame in self.frames}, self.root)
        _check_known("ISOs", isos, {frame.iso for frame in self.frames}, self.root)
        chosen = [
            frame
            for frame in self.frames
            if (cameras is None or frame.camera in cameras) and (isos is None or frame.iso in isos)
        ]
        if not chosen:
            raise UserError(
                f"{self.root}: expected images of cameras {_list(cameras)} at ISOs {_list(isos)}, found none; "
                f"there are {_list(f'{camera} {iso:g}' for camera, iso in self.conditions)}"
            )
        if split != "all":
            chosen = [frame for frame in chosen if self.split_of.get(frame.name) == split]
        if not chosen:
            raise UserError(
                f"{self.root}: expected images in the {split} split, found none among the chosen cameras and "
                f"ISOs (rule: {self.split_protocol}); give --split all to use every image"
            )
        return replace(self, frames=_in_turn(chosen, max_images))

    def root_hash(self) -> str:
        """SHA-256 over name, size, and first and last 64 KiB of every file of the folder's data set.

        Selections of one folder have one hash.
        """
        digest = hashlib.sha256()
        named = {Path(os.path.relpath(path, self.root)).as_posix(): path for path in self.everything}
        for name, path in sorted(named.items()):
            size = path.stat().st_size
            digest.update(f"{name}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(_HASHED_END))
                file.seek(max(0, size - _HASHED_END))
                digest.update(file.read(_HASHED_END))
        return digest.hexdigest()


def open_dataset(
    root: Path | str,
    *,
    domain: str | None = None,
    condition: str = "raw",
    black: float | None = None,
    white: float | None = None,
) -> NoiseDataset:
    """Open a SIDD tree (real or simulated), a folder with `pairs.csv` or SIDD's block files; no image is read.

    Args:
        root: the folder.
        domain: "raw" or "srgb"; None: raw where the folder has it.
        condition: "srgb" gives every raw pair the clean picture of the same place, from the tree's sRGB half.
        black: black level in codes. Wins over SIDD's metadata; a row of `pairs.csv` wins over it.
        white: white level in codes, likewise.

    Raises:
        UserError: the folder is of no such kind, or files are missing; the first is named.
    """
    root = Path(root)
    if domain not in (None, "raw", "srgb"):
        raise UserError(f"domain: expected raw or srgb, got {domain!r}")
    if condition == "srgb" and domain == "srgb":
        raise UserError("condition srgb: expected domain raw, got srgb; pictures have themselves as their condition")
    if root.name == pairs.FILE_NAME and root.is_file():
        root = root.parent
    if not root.is_dir():
        raise UserError(f"{root}: expected a folder, got {'a file' if root.exists() else 'none'}")
    if (root / pairs.FILE_NAME).is_file():
        if condition == "srgb":
            raise UserError(f"{root}: expected a SIDD tree with both halves for condition srgb, got {pairs.FILE_NAME}")
        return _open_table(root, domain, black, white)
    if blocks.find(root):
        return _open_blocks(root, domain, condition == "srgb", black, white)
    instances = sidd.find_instances(root)
    if not instances:
        raise UserError(
            f"{root}: expected {pairs.FILE_NAME}, a SIDD tree (folders like Data/0001_001_S6_00100_00060_3200_L) or "
            "SIDD's block files (ValidationNoisyBlocksRaw.mat), found none of them"
        )
    domain = "raw" if condition == "srgb" else domain
    return _open_sidd(sidd.tree_root(instances), domain, condition == "srgb", black, white)


def _open_sidd(
    root: Path, domain: str | None, pictures: bool, black: float | None, white: float | None
) -> NoiseDataset:
    halves = sidd.scan(root, black=black, white=white, pictures=pictures)
    if domain is None:
        domain = "raw" if halves["raw"].frames or halves["raw"].problems else "srgb"
    half = halves[domain]
    if half.problems:
        more = f" (and {len(half.problems) - 1} more)" if len(half.problems) > 1 else ""
        raise UserError(f"{half.problems[0]}{more}")
    if not half.frames:
        pattern = "NNNN_NOISY_RAW_XXX.MAT" if domain == "raw" else "NNNN_NOISY_SRGB_XXX.PNG"
        raise UserError(f"{root}: expected {domain} frames ({pattern}), found none; choose the other domain")
    return of_half(root, domain, half)


def of_half(root: Path, domain: str, half: sidd.Half) -> NoiseDataset:
    """The pairs of one half of a SIDD tree, whatever else it lacks."""
    sensor = _sensor(root)
    for frame in half.frames:
        if isinstance(frame, sidd.SiddRawFrame):
            frame.recording = _recording(sensor, frame.camera)
    split_of, protocol = assign(half.frames, published=sensor is None)
    return NoiseDataset(
        root=root,
        domain=domain,
        truth="mean" if sensor is None else sensor["truth"],
        sensor=sensor,
        frames=tuple(half.frames),
        split_protocol=protocol,
        split_of=split_of,
        everything=_files(half.frames, root / SENSOR_FILE),
    )


def _open_table(root: Path, domain: str | None, black: float | None, white: float | None) -> NoiseDataset:
    frames, column = pairs.read_table(root / pairs.FILE_NAME, black=black, white=white)
    for frame in frames:
        for path in frame.files:
            if not path.is_file():
                raise UserError(f"{path}: expected a file, as {pairs.FILE_NAME} lists it, found none")
    dataset = of_table(root, frames, column)
    if domain not in (None, dataset.domain):
        raise UserError(f"{root}: expected {domain} pairs, got {dataset.domain} ones; a mosaic needs the column cfa")
    return dataset


def of_table(root: Path, frames: Sequence[FramePair], column: Mapping[str, str] | None) -> NoiseDataset:
    """The pairs of a `pairs.csv`; its first noisy picture is opened."""
    sensor = _sensor(root)
    split_of, protocol = assign(frames, column=column)
    return NoiseDataset(
        root=root,
        domain="srgb" if frames[0].channels == 3 else "raw",
        truth="unknown" if sensor is None else sensor["truth"],
        sensor=sensor,
        frames=tuple(frames),
        split_protocol=protocol,
        split_of=split_of,
        everything=_files(frames, root / pairs.FILE_NAME, root / SENSOR_FILE),
    )


def _open_blocks(
    root: Path, domain: str | None, pictures: bool, black: float | None, white: float | None
) -> NoiseDataset:
    found, frames = blocks.scan(root, domain="raw" if pictures else domain, pictures=pictures, black=black, white=white)
    return NoiseDataset(
        root=root,
        domain=found,
        truth="mean",
        sensor=None,
        frames=frames,
        split_protocol="SIDD's validation and benchmark blocks: test images, all of them",
        split_of={frame.name: "test" for frame in frames},
        everything=_files(frames, root / blocks.FILE_NAME),
    )


def _sensor(root: Path) -> dict[str, Any] | None:
    path = root / SENSOR_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected JSON, could not read it: {error}") from error
    if not isinstance(content, dict) or content.get("truth") not in _TRUTHS:
        raise UserError(f"{path}: expected an object whose 'truth' is {' or '.join(_TRUTHS)}, got another")
    return content


def _recording(sensor: Mapping[str, Any] | None, camera: str) -> sidd.Recording:
    """What `sensor.json` says about the values of a camera's frames."""
    sensors = (sensor or {}).get("sensors")
    values = sensors.get(camera) if isinstance(sensors, Mapping) else None
    if not isinstance(values, Mapping):
        return "codes"
    if values.get("kind") == "correlated":
        return "continuous"
    return "pedestal" if values.get("keep_pedestal") is True else "codes"


def _files(frames: Sequence[FramePair], *others: Path) -> tuple[Path, ...]:
    files = {path for frame in frames for path in frame.files} | {path for path in others if path.is_file()}
    return tuple(sorted(files))


def _check_known(what: str, wanted: Sequence[Any] | None, known: set[Any], root: Path) -> None:
    unknown = [value for value in wanted or () if value not in known]
    if unknown:
        raise UserError(f"{root}: expected {what} among {_list(sorted(known))}, got {_list(unknown)}")


def _list(values: Any) -> str:
    if values is None:
        return "all"
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _in_turn(frames: Sequence[FramePair], count: int | None) -> tuple[FramePair, ...]:
    """At most `count` frames, one of each condition in turn, in the order given."""
    if count is None or count >= len(frames):
        return tuple(frames)
    seen: dict[tuple[str, float], int] = {}
    turns = []
    for index, frame in enumerate(frames):
        condition = (frame.camera, frame.iso)
        seen[condition] = seen.get(condition, 0) + 1
        turns.append((seen[condition], index))
    return tuple(frames[index] for index in sorted(index for _, index in sorted(turns)[:count]))
