"""Trees in SIDD's layout, photographed by virtual sensors from procedural scenes.

Each scene is taken by every camera at every ISO. A `sensor.json` beside `Data` describes the sensors, so that
whoever reads the tree can rebuild them and knows the true probability of every code; it is written last, and a
tree without it is not complete.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from noiseflow.datasets.dataset import SENSOR_FILE
from noiseflow.errors import UserError
from noiseflow.files import write_atomically
from noiseflow.folders import claim
from noiseflow.progress import SILENT, Progress
from noiseflow.raw.matfile import write_frame, write_metadata
from noiseflow.raw.render import render
from noiseflow.scenes import RAW_BALANCE, mosaic, scene
from noiseflow.sensors import PHONES, SENSORS, Sensor, VirtualSensor, sensor_from_dict
from noiseflow.stored import png_bytes

TRUTH_FRAMES = 150
"""Frames that a ground truth of kind "mean" averages, as many as SIDD's."""

FIRST_FRAME = 10
"""Number of the first frame of an instance, as in SIDD."""

SMALLEST_SIDE = 16
"""Mosaic pixels; a scene needs some room."""

Image = npt.NDArray[np.float32]

_NO_LEVELS = (0, 1023)  # for the metadata of continuous frames: `sensor.json` tells the reader that they have no codes
_NOISY, _TRUTH = 0, 1  # what frames are drawn for
_PARTIAL = ".partial"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Instance:
    """One scene, taken by one camera at one ISO."""

    number: int
    scene: int
    sensor: Sensor
    iso: int

    @property
    def folder(self) -> str:
        """SIDD's name; shutter speed, colour temperature and brightness are those of its first instance."""
        return f"{self.number:04d}_{self.scene:03d}_{self.sensor.name}_{self.iso:05d}_00060_3200_L"


def simulate(
    out: str | Path,
    *,
    cameras: Sequence[str] | None = None,
    sensors: Sequence[str | Sensor] = (),
    isos: Sequence[int] | None = None,
    scenes: int = 10,
    size: tuple[int, int] = (512, 512),
    frames: int = 1,
    srgb: bool = False,
    truth: Literal["exact", "mean"] = "exact",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> int:
    """Write a simulated tree; equal arguments give equal bytes.

    Every file of an instance depends on the seed, the scene, the camera and the ISO only (its number apart), so
    a camera's frames do not change when other cameras are added.

    Args:
        out: the folder to write.
        cameras: names of virtual phones; default all, or none where `sensors` are given.
        sensors: further virtual sensors: themselves, their names in `SENSORS`, or JSON files that describe one.
        isos: ISO speeds; default all the standard ones that a phone's table has. A camera that does not reach a
            given ISO goes without it, with a warning.
        scenes: number of scenes.
        size: H, W of the frames in mosaic pixels, both even.
        frames: independent noisy frames per instance, numbered from 010; each has its ground truth and its
            metadata beside it.
        srgb: also render every frame as an 8-bit PNG.
        truth: "exact": the ground truth is the very signal that the noise is drawn for; "mean": the mean of
            `TRUTH_FRAMES` further recorded frames.
        seed: a non-negative integer.
        overwrite: replace a simulated tree that is there already; anything else in the folder stays.
        progress: shows the instances done.

    Returns:
        The number of instances.

    Raises:
        UserError: a value is out of range, no camera reaches any of the ISOs, or the folder is not free.
    """
    _check(scenes, size, frames, truth, seed)
    instances = list(_plan(_sensors(cameras, sensors), isos, scenes))
    root = claim(out, overwrite=overwrite)
    _check_replaceable(root)
    partial = root / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    try:
        progress.start("simulating", total=len(instances))
        picture, taken = np.empty(0, np.float32), 0
        for instance in instances:
            if instance.scene != taken:
                picture, taken = scene(_scene_seed(seed, instance.scene), *size), instance.scene
            clean = mosaic(picture, instance.sensor.cfa)
            if isinstance(instance.sensor, VirtualSensor):
                clean = (clean * instance.sensor.sensitivity(*size)).astype(np.float32)
            _write_instance(partial, instance, clean, frames=frames, srgb=srgb, truth=truth, seed=seed)
            progress.update()
        (root / SENSOR_FILE).unlink(missing_ok=True)
        shutil.rmtree(root / "Data", ignore_errors=True)
        partial.rename(root / "Data")
        description = {
            "format": 1,
            "truth": truth,
            "seed": seed,
            "scenes": scenes,
            "size": list(size),
            "frames": frames,
            "sensors": {instance.sensor.name: instance.sensor.to_dict() for instance in instances},
        }
        write_atomically(root / SENSOR_FILE, json.dumps(description, indent=2, sort_keys=True).encode() + b"\n")
    except OSError as error:
        raise UserError(f"{root}: cannot write the tree ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(instances)


def _check(scenes: int, size: tuple[int, int], frames: int, truth: str, seed: int) -> None:
    height, width = size
    if height % 2 or width % 2 or min(size) < SMALLEST_SIDE:
        raise UserError(f"size: expected even sides of at least {SMALLEST_SIDE} pixels, got {height}x{width}")
    for name, value in (("scenes", scenes), ("frames", frames)):
        if not 1 <= value <= 990:
            raise UserError(f"{name}: expected a number from 1 to 990, got {value}")
    if truth not in ("exact", "mean"):
        raise UserError(f"truth: expected exact or mean, got {truth!r}")
    if seed < 0:
        raise UserError(f"seed: expected an integer >= 0, got {seed}")


def _sensors(cameras: Sequence[str] | None, further: Sequence[str | Sensor]) -> list[Sensor]:
    """The phones, all of them unless something was chosen, and the further sensors."""
    names = list(cameras if cameras is not None else () if further else PHONES)
    unknown = [name for name in names if name not in PHONES]
    if unknown or not (names or further):
        raise UserError(f"cameras: expected some of {', '.join(PHONES)}, got {', '.join(unknown) or 'none'}")
    chosen: list[Sensor] = [PHONES[name] for name in names]
    chosen += [_named(sensor) if isinstance(sensor, str) else sensor for sensor in further]
    by_name: dict[str, Sensor] = {}
    for sensor in chosen:
        if by_name.setdefault(sensor.name, sensor) != sensor:
            raise UserError(f"sensors: expected one sensor of each name, got two different ones called {sensor.name!r}")
    return list(by_name.values())


def _named(name: str) -> Sensor:
    """One of `SENSORS`, or what a JSON file describes."""
    if name in SENSORS:
        return SENSORS[name]
    path = Path(name)
    if not path.is_file():
        raise UserError(f"sensor: expected {', '.join(SENSORS)} or a JSON file that describes one, got {name!r}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected JSON that describes a sensor ({error})") from None
    if not isinstance(description, dict):
        raise UserError(f"{path}: expected a JSON object that describes a sensor, got {type(description).__name__}")
    try:
        return sensor_from_dict(description)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _plan(sensors: list[Sensor], isos: Sequence[int] | None, scenes: int) -> Iterator[_Instance]:
    """Every scene by every camera at every ISO that it has, numbered from 1."""
    speeds: list[tuple[Sensor, int]] = []
    for sensor in sensors:
        for iso in sensor.isos if isos is None else dict.fromkeys(isos):
            if sensor.supports(iso):
                speeds.append((sensor, iso))
            else:
                low, high = sensor.slopes[0][0], sensor.slopes[-1][0]
                _log.warning("camera %s goes without ISO %d: it has %g to %g", sensor.name, iso, low, high)
    if not speeds:
        known = "; ".join(f"{s.name}: {s.slopes[0][0]:g} to {s.slopes[-1][0]:g}" for s in sensors)
        raise UserError(f"isos: expected some that a camera reaches ({known}), got {', '.join(map(str, isos or ()))}")
    number = 0
    for number_of_scene in range(1, scenes + 1):
        for sensor, iso in speeds:
            number += 1
            yield _Instance(number, number_of_scene, sensor, iso)


def _check_replaceable(root: Path) -> None:
    """Refuse to replace frames that no simulation wrote."""
    if (root / "Data").exists() and not (root / SENSOR_FILE).is_file():
        raise UserError(f"{root}: Data there is not a simulated tree (no {SENSOR_FILE}); choose another folder")


def _scene_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _write_instance(
    partial: Path,
    instance: _Instance,
    clean: Image,
    *,
    frames: int,
    srgb: bool,
    truth: str,
    seed: int,
) -> None:
    sensor, iso = instance.sensor, instance.iso
    folder = partial / instance.folder
    folder.mkdir(parents=True)

    def path(kind: str, frame: int, suffix: str = "MAT") -> Path:
        half = "SRGB" if suffix == "PNG" else "RAW"
        return folder / f"{instance.number:04d}_{kind}_{half}_{FIRST_FRAME + frame:03d}.{suffix}"

    def record(purpose: int, frame: int) -> npt.NDArray[np.float64]:
        key = [seed, instance.scene, zlib.crc32(sensor.name.encode()), iso, purpose, frame]
        return sensor.record(clean.astype(np.float64), iso, np.random.default_rng(key))

    ground = clean
    if truth == "mean":
        total = np.zeros(clean.shape)
        for frame in range(TRUTH_FRAMES):
            total += record(_TRUTH, frame)
        ground = (total / TRUTH_FRAMES).astype(np.float32)
    for frame in range(frames):
        noisy = record(_NOISY, frame).astype(np.float32)
        write_frame(path("NOISY", frame), noisy)
        if srgb:
            _write_picture(path("NOISY", frame, "PNG"), noisy, sensor.cfa)
    write_frame(path("GT", 0), ground)
    black, white = (sensor.black_dn, sensor.white_dn) if isinstance(sensor, VirtualSensor) else _NO_LEVELS
    write_metadata(
        path("METADATA", 0),
        camera=sensor.name,
        make="noiseflow",
        model=f"virtual {sensor.name}",
        cfa=sensor.cfa,
        black=black,
        white=white,
        iso=iso,
        noise_profile=sensor.noise_level(iso),
    )
    if srgb:
        _write_picture(path("GT", 0, "PNG"), ground, sensor.cfa)
    for frame in range(1, frames):
        shutil.copyfile(path("GT", 0), path("GT", frame))
        shutil.copyfile(path("METADATA", 0), path("METADATA", frame))
        if srgb:
            shutil.copyfile(path("GT", 0, "PNG"), path("GT", frame, "PNG"))


def _write_picture(path: Path, frame: Image, cfa: str) -> None:
    """Render a frame, neutral grey as grey, and write it as PNG."""
    path.write_bytes(png_bytes(render(frame, cfa, RAW_BALANCE)))
