"""`noiseflow import` of noise parameters: ELD's files to profiles, tables and tags to noise level functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from noiseflow.calibration.eld import read_eld
from noiseflow.calibration.exchange import Line, read_nlf_table, read_noise_profile
from noiseflow.calibration.profile import write_profile
from noiseflow.errors import UserError
from noiseflow.files import file_hash, save
from noiseflow.models import NoiseLevelFunction
from noiseflow.raw.read import read_frame

SUFFIXES = (".npy", ".txt", ".csv", ".dng")
"""Of the files that hold parameters and no weights."""


def run(source: str, out: Path) -> int:
    """Convert noise parameters; print the file written."""
    path = Path(source)
    if path.suffix.lower() == ".npy":
        write_profile(read_eld(path), out)
        print(out)
        return 0
    table = _of_a_dng(path) if path.suffix.lower() == ".dng" else read_nlf_table(path)
    model = nlf_of(table)
    model.card = {"imported": {"from": path.name, "sha256": file_hash(path)}}
    save(model, out)
    print(out)
    return 0


def nlf_of(table: Mapping[tuple[str, float], Line]) -> NoiseLevelFunction:
    """Noise level functions of raw images as a model.

    Args:
        table: (camera, ISO) → slope and intercept, linear units. Intercepts below 0 count as the least positive number
            that the model holds; `lsb` floors them anyway.

    Raises:
        UserError: the table is empty.
    """
    if not table:
        raise UserError("expected at least one noise level function, got none")
    model = NoiseLevelFunction(table)
    least = float(torch.finfo(torch.float32).tiny)
    with torch.no_grad():
        for row, pair in enumerate(model.conditions.pairs):
            model.level.log_a[row] = math.log(max(table[pair].slope, least))
            model.level.log_b[row] = math.log(max(table[pair].intercept, least))
    return model.eval()


def _of_a_dng(path: Path) -> dict[tuple[str, float], Line]:
    """The NoiseProfile of a DNG, its colours' mean, for the camera and ISO that it names."""
    frame, lines = read_frame(path), read_noise_profile(path)
    if lines is None:
        raise UserError(f"{path}: expected a DNG with a NoiseProfile tag, got one without")
    if frame.camera is None or frame.iso is None:
        raise UserError(f"{path}: expected a DNG that names its camera and ISO, got one that does not")
    mean = Line(*(sum(values) / len(lines) for values in zip(*lines, strict=True)))
    return {(frame.camera, frame.iso): mean}


def ending(path: Path) -> str:
    """The suffix of what parameters are converted to."""
    return ".json" if path.suffix.lower() == ".npy" else ".safetensors"
