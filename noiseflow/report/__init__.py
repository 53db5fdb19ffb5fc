"""Evaluation results on disk: results.json, results.csv and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noiseflow.files import write_atomically
from noiseflow.report.figures import CurveSet, Strip, StructurePicture, curve_sets
from noiseflow.report.page import render_page
from noiseflow.report.results import finite, to_csv, to_json, verdict, with_tenths
from noiseflow.report.terminal import render_table

__all__ = ["CurveSet", "Strip", "StructurePicture", "curve_sets", "render_table", "verdict", "write_report"]


def write_report(
    out: Path,
    results: dict[str, Any],
    *,
    curves: Sequence[CurveSet],
    strips: Sequence[Strip],
    command: str,
    structure: Sequence[StructurePicture] = (),
) -> Path:
    """Write results.json, results.csv and report.html; every figure of the latter two equals the JSON's.

    Everything is rendered before anything is written, and each file appears whole or not at all.

    Args:
        out: folder; made if absent, files of these names in it are replaced.
        results: in the schema of results.json. What is not finite becomes null with a reason,
            and `by_intensity` is also pooled over cameras and ISOs, as `by_tenth`.
        curves: noise level against intensity, one set per camera and ISO.
        strips: pictures, one strip per scene.
        command: the command line that repeats the evaluation.
        structure: autocovariance and power spectrum of the noise, pooled or one per camera and ISO.

    Returns:
        The path of report.html.
    """
    plain = with_tenths(finite(results))
    files = {
        "results.json": to_json(plain),
        "results.csv": to_csv(plain),
        "report.html": render_page(plain, curves, strips, command, structure),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_atomically(out / name, text.encode())
    return out / "report.html"
