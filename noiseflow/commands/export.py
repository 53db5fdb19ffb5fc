"""`noiseflow export`: noise level functions as a table, denoisers as ONNX."""

from __future__ import annotations

import logging
from pathlib import Path

from noiseflow.calibration.exchange import write_nlf_table
from noiseflow.calibration.lines import line_of
from noiseflow.errors import UserError
from noiseflow.files import load, load_denoiser
from noiseflow.folders import claim_file
from noiseflow.noise_level import NoiseLevel
from noiseflow.options import ExportOptions

log = logging.getLogger(__name__)

TABLES, NETWORKS = (".csv", ".txt"), (".onnx",)
"""Endings of what is written."""


def run(name: str, options: ExportOptions) -> int:
    """Write a model in the format that the file's name asks for; print the file."""
    out = claim_file(options.out, (*TABLES, *NETWORKS), overwrite=options.overwrite)
    if out.suffix in NETWORKS:
        from noiseflow.denoise.onnx import write_onnx

        write_onnx(load_denoiser(name), out)
    else:
        _write_table(name, out)
    print(out)
    return 0


def _write_table(name: str, out: Path) -> None:
    """The model's noise as variance = a·x + b, for every camera and ISO that it knows."""
    model = load(name)
    if model.channels == 3 or model.condition == "srgb":
        raise UserError(f"{name}: expected a model of raw noise; the noise of pictures is no straight line")
    if not isinstance(getattr(model, "level", None), NoiseLevel):
        log.info("not a straight line in this model: written is the nearest one, of the noise before rounding and clip")
    write_nlf_table(out, {(camera, iso): line_of(model, camera, iso) for camera, iso in model.conditions.pairs})
