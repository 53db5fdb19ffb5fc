"""Write a SIDD tree with virtual phones: procedural scenes, exact ground truth, noise of a known density."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noiseflow.errors import UserError
from noiseflow.files import write_atomically
from noiseflow.folders import claim
from noiseflow.progress import SILENT, Progress
from noiseflow.raw.matfile import write_frame, write_metadata
from noiseflow.raw.render import render
from noiseflow.scenes import RAW_BALANCE, mosaic, scene
from noiseflow.sensors import PHONES, VirtualSensor

log = logging.getLogger(__name__)

MEAN_FRAMES = 150
"""Recorded frames whose mean is the ground truth of kind "mean", as SIDD's is."""

_FIRST_FRAME = 10
_SENSOR_FILE = "sensor.json"


def simulate(
    out: str | Path,
    *,
    cameras: Sequence[str] | None = None,
    isos: Sequence[int] | None = None,
    scenes: int = 10,
    size: tuple[int, int] = (512, 512),
    frames: int = 1,
    srgb: bool = False,
    truth: str = "exact",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Photograph every scene with every camera at every ISO, and write `Data/` and `sensor.json`.

    The noise is drawn from exactly the float32 ground truth that is written. Equal arguments give equal bytes.
    `sensor.json` is written last: a tree without it is not complete.

    Args:
        out: the folder of the tree.
        cameras: names of virtual phones; default all.
        isos: ISO speeds; default all of each phone's. A phone whose table does not reach one is left out there.
        scenes: number of scenes.
        size: height and width of the frames, mosaic pixels, both even.
        frames: noisy frames per instance, numbered from 010, each with its ground truth.
        srgb: write rendered 8-bit PNG twins beside the raw frames.
        truth: "exact", or "mean" of 150 recorded frames.
        seed: seed of scenes and noise.
        overwrite: replace a tree that was simulated into this folder before.
        progress: shows how far it has come.

    Raises:
        UserError: an argument is out of range, a camera is unknown, or the folder is not empty.
    """
    sensors = _sensors(cameras)
    height, width = size
    if height < 2 or width < 2 or height % 2 or width % 2:
        raise UserError(f"--size: expected two even numbers of at least 2, got {height}x{width}")
    if scenes < 1 or frames < 1:
        raise UserError(f"--scenes, --frames: expected at least 1, got {scenes} and {frames}")
    if truth not in ("exact", "mean"):
        raise UserError(f"--truth: expected exact or mean, got {truth!r}")
    shots = _shots(sensors, isos)
    root = claim(out, overwrite=overwrite)
    (root / _SENSOR_FILE).unlink(missing_ok=True)
    if (root / "Data").is_dir():
        shutil.rmtree(root / "Data")
    progress.start("simulating", scenes * len(shots))
    instance = 0
    for number in range(1, scenes + 1):
        rgb = scene(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]), height, width)
        for sensor, iso in shots:
            instance += 1
            rng = np.random.default_rng([seed, number, iso, *sensor.name.encode()])
            name = f"{instance:04d}_{number:03d}_{sensor.name}_{iso:05d}_{_shutter(iso):05d}_5500_N"
            folder = root / "Data" / name
            folder.mkdir(parents=True)
            _write_instance(folder, f"{instance:04d}", mosaic(rgb, sensor.cfa), sensor, iso, frames, srgb, truth, rng)
            progress.update(1)
    description: dict[str, Any] = {
        "format": 1,
        "truth": truth,
        "seed": seed,
        "scenes": scenes,
        "size": [height, width],
        "frames": frames,
        "sensors": {sensor.name: sensor.to_dict() for sensor in sensors},
    }
    if truth == "mean":
        description["mean_frames"] = MEAN_FRAMES
    write_atomically(root / _SENSOR_FILE, json.dumps(description, indent=2, sort_keys=True).encode() + b"\n")


def _sensors(names: Sequence[str] | None) -> list[VirtualSensor]:
    chosen = list(PHONES) if names is None else list(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in PHONES]
    if unknown or not chosen:
        raise UserError(f"--cameras: expected some of {', '.join(PHONES)}, got {', '.join(unknown) or 'none'}")
    return [PHONES[name] for name in chosen]


def _shots(sensors: Sequence[VirtualSensor], isos: Sequence[int] | None) -> list[tuple[VirtualSensor, int]]:
    """Every camera at every ISO that its table reaches."""
    shots = []
    for sensor in sensors:
        for iso in sensor.isos if isos is None else sorted(set(isos)):
            if iso > 0 and sensor.supports(iso):
                shots.append((sensor, iso))
            else:
                log.warning("%s has no ISO %s in its table; left out", sensor.name, iso)
    if not shots:
        raise UserError("--isos: no camera reaches any of them; " + "; ".join(f"{s.name}: {s.isos}" for s in sensors))
    return shots


def _shutter(iso: int) -> int:
    """Reciprocal exposure time of an exposure that keeps ISO · time."""
    return max(1, round(60 * iso / 100))


def _write_instance(
    folder: Path,
    number: str,
    clean: NDArray[np.float32],
    sensor: VirtualSensor,
    iso: int,
    frames: int,
    srgb: bool,
    truth: str,
    rng: np.random.Generator,
) -> None:
    """The noisy frames of one instance with their ground truth and metadata."""
    given = clean
    if truth == "mean":
        total = np.zeros(clean.shape)
        for _ in range(MEAN_FRAMES):
            total += sensor.sample_codes(clean, iso, rng)
        given = (total * (sensor.lsb / MEAN_FRAMES)).astype(np.float32)
    for i in range(_FIRST_FRAME, _FIRST_FRAME + frames):
        noisy = (sensor.sample_codes(clean, iso, rng) * sensor.lsb).astype(np.float32)
        write_frame(folder / f"{number}_NOISY_RAW_{i:03d}.MAT", noisy)
        write_frame(folder / f"{number}_GT_RAW_{i:03d}.MAT", given)
        write_metadata(
            folder / f"{number}_METADATA_RAW_{i:03d}.MAT",
            camera=sensor.name,
            make="noiseflow",
            model=f"virtual {sensor.name}",
            cfa=sensor.cfa,
            black=sensor.black_dn,
            white=sensor.white_dn,
            iso=iso,
            noise_profile=sensor.noise_level(iso),
        )
        if srgb:
            _write_png(folder / f"{number}_NOISY_SRGB_{i:03d}.PNG", render(noisy, sensor.cfa, RAW_BALANCE))
            _write_png(folder / f"{number}_GT_SRGB_{i:03d}.PNG", render(given, sensor.cfa, RAW_BALANCE))


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    import cv2

    done, encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))  # OpenCV writes B G R
    if not done:
        raise UserError(f"{path}: could not encode the picture as PNG")
    path.write_bytes(encoded.tobytes())
