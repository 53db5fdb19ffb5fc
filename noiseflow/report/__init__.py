"""Evaluation results on disk: results.json, results.csv and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noiseflow.files import write_atomically
from noiseflow.report.figures import CurveSet, Strip, curve_sets
from noiseflow.report.page import render_page, render_table
from noiseflow.report.results import finite, to_csv, to_json, verdict

__all__ = ["CurveSet", "Strip", "curve_sets", "render_table", "verdict", "write_report"]


def write_report(
    out: Path, results: dict[str, Any], *, curves: Sequence[CurveSet], strips: Sequence[Strip], command: str
) -> Path:
    """Write results.json, results.csv and report.html; every figure of the latter two equals the JSON's.

    Everything is rendered before anything is written, and each file appears whole or not at all.

    Args:
        out: folder; made if absent, files of these names in it are replaced.
        results: in the schema of results.json. What is not finite becomes null with a reason.
        curves: noise level against intensity, one set per camera and ISO.
        strips: pictures, one strip per scene.
        command: the command line that repeats the evaluation.

    Returns:
        The path of report.html.
    """
    plain = finite(results)
    files = {
        "results.json": to_json(plain),
        "results.csv": to_csv(plain),
        "report.html": render_page(plain, curves, strips, command),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_atomically(out / name, text.encode())
    return out / "report.html"
