"""The results as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import noiseflow
from noiseflow.report import heat, tables
from noiseflow.report.figures import (
    DASHES,
    SERIES,
    CurveSet,
    Strip,
    StructurePicture,
    draw_autocovariance,
    draw_curves,
    draw_noise,
    draw_picture,
    draw_spectrum,
)
from noiseflow.report.results import display, figure, flatten, reason, to_json, verdict

TRUTHS = {
    "exact": "clean images known exactly",
    "mean": "clean images are means of recorded frames",
    "unknown": "origin of the clean images unknown",
}

_PARTS = {
    "kld": "divergence",
    "structure": "structure",
    "classifier": "classifier",
    "by_intensity": "scores by intensity",
    "near_clip": "pixels near the clip ends",
}


def render_page(
    results: dict[str, Any],
    curves: Sequence[CurveSet],
    strips: Sequence[Strip],
    command: str,
    structure: Sequence[StructurePicture] = (),
) -> str:
    """The whole page as text: style and pictures inside, nothing from elsewhere.

    Args:
        results: as `noiseflow.report.results.finite` and `with_tenths` return them.
        curves: noise level against intensity, one set per camera and ISO.
        strips: pictures, one strip per scene.
        command: the command line that repeats the evaluation.
        structure: autocovariance and power spectrum, pooled or per camera and ISO.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("noiseflow", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    models = results["models"]
    names = [str(model["name"]) for model in models]
    return environment.get_template("report.html.j2").render(
        verdict=verdict(results),
        data=results.get("data", {}),
        truth=TRUTHS.get(str(figure(results, "data.truth")), ""),
        facts={part: _facts(results.get(part, {})) for part in ("data", "protocol")},
        left_out=_left_out(models),
        models=models,
        cited=", ".join(_latex(name) for name in names),
        files=[
            (model["name"], model.get("file_hash"), reason(model, "file_hash"), model.get("noise_domain"))
            for model in models
        ],
        ranking=tables.ranking(results),
        differences=tables.differences(results),
        shots=tables.shots(results),
        divergences=tables.divergences(results),
        tests=tables.structure(results),
        near_clip=tables.near_clip(results),
        worst=tables.worst_images(results),
        maps=heat.shot_maps(results),
        tenths=heat.tenths(results),
        legend=heat.legend(),
        level=tables.LEVEL,
        series=[(n, i % len(SERIES["light"]), DASHES[i % len(DASHES)]) for i, n in enumerate(names)],
        colors=SERIES,
        curves=[_panel(curve, names) for curve in curves],
        structure=[_structure(picture, names) for picture in structure],
        strips=[_strip(strip) for strip in strips],
        command=command,
        version=noiseflow.__version__,
        fingerprint=hashlib.sha256(to_json(results).encode()).hexdigest(),
        display=display,
    )


def _facts(part: dict[str, Any]) -> list[tuple[str, str]]:
    return [(path.replace("_", " "), str(value)) for path, value in flatten(part)]


def _latex(name: str) -> str:
    """A name as LaTeX text."""
    return "".join("\\" + letter if letter in "_%&#$" else letter for letter in name if letter not in "{}\\~^")


def _left_out(models: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Parts that no model has and that somebody gave a reason for."""
    missing = []
    for part, title in _PARTS.items():
        whys = {str((model.get("reason") or {}).get(part, "")) for model in models if not model.get(part)}
        if models and not any(model.get(part) for model in models) and whys != {""}:
            missing.append((title, "; ".join(sorted(whys - {""}))))
    return missing


def _panel(curves: CurveSet, names: list[str]) -> dict[str, str]:
    images = {theme: _embed(draw_curves(curves, names, theme)) for theme in ("light", "dark")}
    return {"title": f"{curves.camera}, ISO {curves.iso:g}", **images}


def _structure(picture: StructurePicture, names: list[str]) -> dict[str, Any]:
    limit = picture.limit
    return {
        "title": picture.title,
        "limit": f"{limit:.2g}",
        "lags": picture.lags,
        "maps": [
            {"name": "real noise" if key == "real" else key, "image": _embed(draw_autocovariance(values, limit))}
            for key, values in picture.autocovariance.items()
        ],
        **{theme: _embed(draw_spectrum(picture, names, theme)) for theme in ("light", "dark")},
    }


def _strip(strip: Strip) -> dict[str, Any]:
    limit = strip.noise_limit
    return {
        "title": strip.title,
        "clean": _embed(draw_picture(strip.clean)),
        "limit": f"{limit:.2g}",
        "size": f"{strip.clean.shape[1]} × {strip.clean.shape[0]}",
        "cells": [
            {
                "name": key,
                "noisy": _embed(draw_picture(picture)),
                "noise": _embed(draw_noise(strip.noise[key], limit)),
            }
            for key, picture in strip.noisy.items()
        ],
    }


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
