"""The page's tables: what `results.json` says, as rows of cells."""

from __future__ import annotations

from typing import Any

from noiseflow.report.notes import Cell, Notes
from noiseflow.report.results import FINE, LOOSE, comparable, figure, flatten, ranked, reason, set_aside, shot_figure

SCORES = {"mass": "Mass, nats/value", "nll": "NLL, nats/dim", "regret": "Regret, nats/value"}

RECIPES = {
    "conditional": "given camera, ISO and intensity",
    "noise-flow-train": "Noise Flow, training",
    "n2nf": "Noise2NoiseFlow",
    "noise-flow-sample": "Noise Flow, sampling script",
    "srgb-flow": "sRGB flow",
    "neca": "NeCA",
    "naflow": "NAFlow",
    "c2n": "C2N",
    "akld": "DANet, local variances",
}
"""Divergences in the order of the page, with what each is; others follow by name."""

TESTS = {
    "autocovariance": "autocovariance",
    "cross_channel": "covariance of channels",
    "spectrum": "power spectrum",
    "row_variance_ratio": "variance of row means",
    "column_variance_ratio": "variance of column means",
    "tails": "tails",
    "std_by_intensity": "standard deviation by intensity",
}
"""Tests of structure in the order of the page; others follow by name."""

LEVEL = 0.05
"""Structure is seen where the p value of all tests together is at most this."""

WORST = 10
"""How many of a model's worst images are named."""


def ranking(results: dict[str, Any]) -> dict[str, Any]:
    """The models by mass, a row each."""
    notes = Notes()
    rows = []
    for position, model in enumerate(ranked(results)):
        paths = [f"{score}.{end}" for score in ("mass", "nll", "regret") for end in ("value", "low", "high")]
        paths += ["mass.bits", "mass.looseness", "regret.se", "parameters"]
        best = position == 0 and comparable(model)
        values = {path: figure(model, path) for path in paths}
        # what is missing only because its value is, needs no dash and footnote of its own
        cells = {
            path: notes.cell(value, reason(model, path), best=best and path == "mass.value")
            for path, value in values.items()
            if value is not None or _needs_note(path, values)
        }
        loose = (values["mass.looseness"] or 0.0) > LOOSE
        aside = reason(model, "mass") if set_aside(model) else ""
        rows.append({"name": model["name"], "best": best, "cells": cells, "loose": loose, "aside": aside})
    return {"rows": rows, "notes": notes.lettered}


def _needs_note(path: str, values: dict[str, Any]) -> bool:
    score, _, part = path.partition(".")
    return part in ("", "value") or values[f"{score}.value"] is not None


def differences(results: dict[str, Any]) -> dict[str, Any]:
    """Paired differences as they are filed: those with the best model first, then the rest."""
    order = [model["name"] for model in ranked(results)]
    place = {name: position for position, name in enumerate(order)}
    notes = Notes()
    groups: dict[bool, list[tuple[tuple[int, int], dict[str, Any]]]] = {True: [], False: []}
    for i, entry in enumerate(results.get("differences") or []):
        why = reason(results, f"differences.{i}.value")
        ends = notes.pair([entry.get("low"), entry.get("high")], FINE)
        row = {
            "score": entry["score"],
            "first": entry["first"],
            "second": entry["second"],
            "value": notes.cell(entry["value"], why, places=FINE),
            "interval": ends,
            "apart": None if ends is None else entry["low"] > 0 or entry["high"] < 0,
        }
        low, high = sorted(place.get(entry[end], len(order)) for end in ("first", "second"))
        groups[low == 0].append(((low, high), row))
    first, rest = ([row for _, row in sorted(groups[key], key=lambda pair: pair[0])] for key in (True, False))
    return {"rows": first, "rest": rest, "notes": notes.lettered}


def shots(results: dict[str, Any]) -> dict[str, Any]:
    """Scores by camera and ISO in full: a row per shot, a column per score and model."""
    models = results["models"]
    by_place: dict[tuple[str, float], dict[int, tuple[int, dict[str, Any]]]] = {}
    for m, model in enumerate(models):
        for i, shot in enumerate(model.get("by_shot") or []):
            by_place.setdefault((str(shot["camera"]), shot["iso"]), {})[m] = (i, shot)
    found = [shot for here in by_place.values() for _, shot in here.values()]
    scores = [score for score in SCORES if any(shot_figure(shot, score) is not None for shot in found)]
    notes = Notes()
    rows = []
    for (camera, iso), here in sorted(by_place.items()):
        cells = []
        for score in scores:
            values = {m: shot_figure(shot, score) for m, (_, shot) in here.items()}
            lowest = min((v for m, v in values.items() if v is not None and comparable(models[m])), default=None)
            for m, model in enumerate(models):
                path = f"by_shot.{here[m][0]}.{score}" if m in here else f"by_shot.{score}"
                value = values.get(m)
                best = score == "mass" and value is not None and value == lowest and len(models) > 1
                best = best and comparable(model)
                cells.append(notes.cell(value, reason(model, path), best=best))
        images = max(int(shot.get("images") or 0) for _, shot in here.values())
        rows.append({"camera": camera, "iso": f"{iso:g}", "images": images, "cells": cells})
    return {"rows": rows, "scores": [SCORES[score] for score in scores], "notes": notes.lettered}


def divergences(results: dict[str, Any]) -> dict[str, Any]:
    """KL divergences: a row per recipe, a column per model, each with its interval and its floor.

    The floor stands beside the recipe where all models share it, as they do on the same data.
    """
    notes = Notes()
    models = results["models"]
    found = {recipe for model in models for recipe in model.get("kld") or {}}
    rows = []
    for recipe in in_order(found, list(RECIPES)):
        cells = []
        for model in models:
            entry = figure(model, "kld") or {}
            entry = entry.get(recipe) or {}  # names of recipes may hold dots
            cells.append(
                {
                    "value": notes.cell(entry.get("value"), reason(model, f"kld.{recipe}"), places=FINE),
                    "interval": notes.pair([entry.get("low"), entry.get("high")], FINE),
                    "floor": notes.pair(entry.get("floor"), FINE),
                    "alike": bool(entry.get("indistinguishable")),
                }
            )
        floors = {cell["floor"] for cell in cells if cell["floor"] is not None}
        shared = floors.pop() if len(floors) == 1 else None
        if shared is not None:
            cells = [{**cell, "floor": None} for cell in cells]
        rows.append({"recipe": recipe, "about": RECIPES.get(recipe, ""), "floor": shared, "cells": cells})
    return {"rows": rows, "notes": notes.lettered}


def structure(results: dict[str, Any]) -> dict[str, Any]:
    """What the tests of structure say: all of them together first, then each, then the classifier.

    Figures that are no test (no `effect` and no `p`) follow under their dotted path.
    """
    notes = Notes()
    models = results["models"]
    found = [model.get("structure") or {} for model in models]
    family = None
    if any("family" in of for of in found):
        family = []
        for model, of in zip(models, found, strict=True):
            p, sets = (figure(of, f"family.{part}") for part in ("p", "sets"))
            cell = notes.cell(p, reason(model, "structure.family"))
            seen = None if p is None else p <= LEVEL
            family.append({"p": cell, "seen": seen, "sets": None if sets is None else notes.cell(sets, "")})
    tests = {name for of in found for name, test in of.items() if _is_test(name, test)}
    rows: list[dict[str, Any]] = []
    for name in in_order(tests, list(TESTS)):
        cells, units = [], []
        for model, of in zip(models, found, strict=True):
            test = of.get(name) or {}
            p = test.get("p")
            effect = notes.cell(test.get("effect"), reason(model, f"structure.{name}.effect"))
            cells.append({"value": effect, "p": None if p is None else notes.cell(p, "")})
            units.append(test.get("unit") or "")
        rows.append({"name": TESTS.get(name, name.replace("_", " ")), "unit": max(units), "cells": cells})
    flat = [dict(flatten({k: v for k, v in of.items() if k != "family" and not _is_test(k, v)})) for of in found]
    for path in sorted({path for figures in flat for path in figures}):
        cells = [
            {"value": notes.cell(figures.get(path), reason(model, f"structure.{path}")), "p": None}
            for model, figures in zip(models, flat, strict=True)
        ]
        rows.append({"name": path.replace(".", ", ").replace("_", " "), "unit": "", "cells": cells})
    classifier = None
    if any(model.get("classifier") for model in models):
        classifier = []
        for model in models:
            of = model.get("classifier") or {}
            cell = notes.cell(of.get("accuracy"), reason(model, "classifier"))
            classifier.append({"value": cell, "interval": notes.pair([of.get("low"), of.get("high")])})
    return {"family": family, "rows": rows, "classifier": classifier, "notes": notes.lettered}


def _is_test(name: str, test: Any) -> bool:
    return name != "family" and isinstance(test, dict) and ("effect" in test or "p" in test)


def near_clip(results: dict[str, Any]) -> dict[str, Any]:
    """Mass of pixels near a clip end and of all others, a row per model."""
    notes = Notes()
    models = ranked(results)
    if not any(model.get("near_clip") for model in models):
        return {"rows": [], "notes": []}
    rows = []
    for model in models:
        cells = [
            {"value": notes.cell(figure(model, f"near_clip.{part}.mass"), reason(model, f"near_clip.{part}.mass")),
             "count": _known(notes, figure(model, f"near_clip.{part}.values"))}
            for part in ("near", "inside")
        ]  # fmt: skip
        rows.append({"name": model["name"], "cells": cells})
    return {"rows": rows, "notes": notes.lettered}


def _known(notes: Notes, value: object) -> Cell | None:
    return None if value is None else notes.cell(value, "")


def worst_images(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Each model's worst images, the best model first.

    By regret where the model has one; else by the mass above the lowest that another model gives the same image;
    else, where there is no other model, by mass.
    """
    models = [model for model in ranked(results) if model.get("images")]
    masses: dict[tuple[str, str, float], dict[str, float]] = {}
    for model in models:
        for image in model["images"]:
            if image.get("mass") is not None:
                masses.setdefault(_key(image), {})[model["name"]] = image["mass"]
    tables = []
    for model in models:
        notes = Notes()
        ordered = []
        regrets = any(image.get("regret") is not None for image in model["images"])
        for i, image in enumerate(model["images"]):
            others = {name: mass for name, mass in masses.get(_key(image), {}).items() if name != model["name"]}
            rival = min(others, key=lambda name: others[name], default=None)
            if regrets:
                badness = image.get("regret")
            else:
                badness = image.get("mass") and image["mass"] - (others[rival] if rival else 0.0)
            if badness is not None:
                ordered.append((-badness, i, image, rival, None if rival is None else others[rival]))
        rows = [
            {
                "name": image["name"],
                "where": f"{image['camera']}, ISO {image['iso']:g}, scene {image['scene']}",
                "mass": notes.cell(image.get("mass"), reason(model, f"images.{i}.mass")),
                "rival": rival,
                "other": None if lowest is None else notes.cell(lowest, ""),
                "regret": notes.cell(image.get("regret"), reason(model, f"images.{i}.regret")) if regrets else None,
            }
            for _, i, image, rival, lowest in sorted(ordered, key=lambda entry: entry[:2])[:WORST]
        ]
        by = "regret" if regrets else ("mass above the other models" if len(models) > 1 else "mass")
        if rows:
            tables.append({"model": model["name"], "by": by, "regrets": regrets, "rows": rows, "notes": notes.lettered})
    return tables


def _key(image: dict[str, Any]) -> tuple[str, str, float]:
    return str(image["name"]), str(image["camera"]), image["iso"]


def in_order(found: set[str], known: list[str]) -> list[str]:
    """Names that are known in their order, then the others by name.

    Examples:
        >>> in_order({"b", "a", "z"}, ["z", "y"])
        ['z', 'a', 'b']
    """
    return [name for name in known if name in found] + sorted(found - set(known))
