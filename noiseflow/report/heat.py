"""Heat maps: scores by camera and ISO and by intensity, the ground of each cell louder where a model loses more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from noiseflow.report.notes import STEPS, Cell, Notes, shade
from noiseflow.report.results import display, reason, shot_figure

Place = tuple[Any, ...]
"""What entries of different models are matched by: camera and ISO, or the ends of a tenth."""


def legend() -> list[str]:
    """What each shade means, the quietest first."""
    shown = [f"{step:g}" for step in STEPS]
    between = [f"{low} to {high}" for low, high in pairwise(shown)]
    return [f"below {shown[0]}", *between, f"{shown[-1]} and more"]


def shot_maps(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A map per score and model: a row per ISO, a column per camera. Regret first, where there is one.

    The shade is that of the regret, or of the mass above the lowest of the models at that camera and ISO.
    """
    models = results["models"]
    sheets = []
    for score in ("regret", "mass"):
        cells, notes = _cells(models, "by_shot", score, lambda shot: (str(shot["camera"]), shot["iso"]))
        if not cells:
            continue
        cameras, isos = (sorted({place[axis] for _, place in cells}) for axis in (0, 1))
        maps = []
        for m, model in enumerate(models):
            rows = [{"iso": f"{iso:g}", "cells": [cells.get((m, (camera, iso))) for camera in cameras]} for iso in isos]
            maps.append({"name": model["name"], "rows": rows})
        sheets.append({"score": score, "cameras": cameras, "maps": maps, "notes": notes.lettered})
    return sheets


def tenths(results: dict[str, Any]) -> dict[str, Any]:
    """Where along the intensities a model loses: a row per tenth, a column per model; all shots, then each.

    Shows the regret where any model has one, else the mass.
    """
    models = results["models"]
    entries = [entry for model in models for entry in model.get("by_tenth") or []]
    score = "regret" if any(entry.get("regret") is not None for entry in entries) else "mass"
    pooled = _tenth_table(models, "by_tenth", score, None)
    places = sorted({(str(e["camera"]), e["iso"]) for model in models for e in model.get("by_intensity") or []})
    each = [
        {"title": f"{camera}, ISO {iso:g}", **_tenth_table(models, "by_intensity", score, (camera, iso))}
        for camera, iso in places
    ]
    return {"score": score, "pooled": pooled, "shots": each}


def _tenth_table(models: Sequence[dict[str, Any]], part: str, score: str, shot: Place | None) -> dict[str, Any]:
    def wanted(entry: dict[str, Any]) -> bool:
        return shot is None or (str(entry["camera"]), entry["iso"]) == shot

    cells, notes = _cells(models, part, score, lambda entry: (entry["low"], entry["high"]), wanted)
    counts: dict[Place, int] = {}
    for model in models:
        for entry in model.get(part) or []:
            if wanted(entry):
                place = (entry["low"], entry["high"])
                counts[place] = max(counts.get(place, 0), entry["values"])
    rows = [
        {
            "range": f"{low:g} to {high:g}",
            "count": Cell(display(count), repr(count)),
            # a tenth in which no pixel lies has no score, and that says it all
            "cells": [cells.get((m, (low, high))) if count else None for m in range(len(models))],
        }
        for (low, high), count in sorted(counts.items())
    ]
    return {"rows": rows, "notes": notes.lettered}


def _cells(
    models: Sequence[dict[str, Any]],
    part: str,
    score: str,
    place_of: Callable[[dict[str, Any]], Place],
    wanted: Callable[[dict[str, Any]], bool] = lambda entry: True,
) -> tuple[dict[tuple[int, Place], Cell], Notes]:
    """Shaded cells by model and place, and their footnotes; no cells where no model has the score."""
    found = [
        (m, place_of(entry), f"{part}.{i}.{score}", shot_figure(entry, score), entry.get("values", 1))
        for m, model in enumerate(models)
        for i, entry in enumerate(model.get(part) or [])
        if wanted(entry)
    ]
    notes = Notes()
    lowest: dict[Place, float] = {}
    for _, place, _, value, _ in found:
        if value is not None:
            lowest[place] = 0.0 if score == "regret" else min(lowest.get(place, value), value)
    if not lowest:
        return {}, notes
    alone = score == "mass" and len(models) == 1
    cells = {}
    for m, place, path, value, values in found:
        if value is None and not values:
            continue
        excess = None if value is None or alone else value - lowest[place]
        cells[m, place] = notes.cell(value, reason(models[m], path), shade=shade(excess))
    return cells, notes
