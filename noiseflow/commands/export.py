"""`noiseflow export`: noise level functions as a table, denoisers as ONNX."""

from __future__ import annotations

import logging
from pathlib import Path

from noiseflow.calibration.exchange import write_nlf_table
from noiseflow.calibration.lines import is_line, line_of
from noiseflow.errors import UserError
from noiseflow.files import load, load_denoiser
from noiseflow.folders import claim_file
from noiseflow.options import ExportOptions

log = logging.getLogger(__name__)

TABLES, NETWORKS = (".csv", ".txt"), (".onnx",)
"""Endings of what is written."""


def run(name: str, options: ExportOptions) -> int:
    """Write a model in the format that the file's name asks for; print the file."""
    out = claim_file(options.out, (*TABLES, *NETWORKS), overwrite=options.overwrite)
    network = out.suffix.lower() in NETWORKS
    wanted, other = ("denoiser", "model") if network else ("model", "denoiser")
    if (Path(name) / f"{other}.safetensors").is_file() and not (Path(name) / f"{wanted}.safetensors").is_file():
        raise UserError(
            f"{name}: holds a noise model and no denoiser, and {out.suffix} is for denoisers"
            if network
            else f"{name}: holds a denoiser and no noise model, and {out.suffix} is for noise models"
        )
    if network:
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
    if not is_line(model):
        log.info("not a straight line in this model: written is the nearest one, of the noise before rounding and clip")
    write_nlf_table(out, {(camera, iso): line_of(model, camera, iso) for camera, iso in model.conditions.pairs})
