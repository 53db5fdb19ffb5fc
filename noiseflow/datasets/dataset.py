"""Open a folder of pairs, whatever its layout, and choose from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiseflow.datasets import blocks, pairs, sidd
from noiseflow.datasets.base import FramePair
from noiseflow.datasets.selection import Selection, files_of
from noiseflow.datasets.splits import assign
from noiseflow.errors import UserError

SENSOR_FILE = "sensor.json"
_TRUTHS = ("exact", "mean")


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseDataset(Selection[FramePair]):
    """Frame pairs of one domain.

    Attributes:
        truth: how the clean images were made: "exact", "mean" of recorded frames, or "unknown".
        sensor: content of `sensor.json`, which simulated trees have, or None.
        clean: what was done to the clean images since they were read.
    """

    truth: str
    sensor: dict[str, Any] | None
    clean: str = "as stored"

    def __len__(self) -> int:
        """Number of pairs of frames."""
        return len(self.frames)


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
    sensor = read_sensor(root)
    for frame in half.frames:
        if isinstance(frame, sidd.SiddRawFrame):
            frame.recording = recording_of(sensor, frame.camera)
    split_of, protocol = assign(half.frames, published=sensor is None)
    return NoiseDataset(
        root=root,
        domain=domain,
        truth="mean" if sensor is None else sensor["truth"],
        sensor=sensor,
        frames=tuple(half.frames),
        split_protocol=protocol,
        split_of=split_of,
        everything=files_of(half.frames, root / SENSOR_FILE),
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
    sensor = read_sensor(root)
    split_of, protocol = assign(frames, column=column)
    return NoiseDataset(
        root=root,
        domain="srgb" if frames[0].channels == 3 else "raw",
        truth="unknown" if sensor is None else sensor["truth"],
        sensor=sensor,
        frames=tuple(frames),
        split_protocol=protocol,
        split_of=split_of,
        everything=files_of(frames, root / pairs.FILE_NAME, root / SENSOR_FILE),
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
        everything=files_of(frames, root / blocks.FILE_NAME),
    )


def read_sensor(root: Path) -> dict[str, Any] | None:
    """What `sensor.json` says of a simulated tree; None where there is none."""
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


def recording_of(sensor: Mapping[str, Any] | None, camera: str) -> sidd.Recording:
    """What `sensor.json` says about the values of a camera's frames."""
    sensors = (sensor or {}).get("sensors")
    values = sensors.get(camera) if isinstance(sensors, Mapping) else None
    if not isinstance(values, Mapping):
        return "codes"
    if values.get("kind") == "correlated":
        return "continuous"
    return "pedestal" if values.get("keep_pedestal") is True else "codes"
