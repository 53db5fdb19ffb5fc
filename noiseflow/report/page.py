"""The results as one self-contained HTML page, and as a table for the terminal."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from noiseflow.report.figures import (
    DASHES,
    SERIES,
    CurveSet,
    Strip,
    draw_curves,
    draw_noise,
    draw_picture,
)
from noiseflow.report.results import (
    LOOSE,
    comparable,
    display,
    figure,
    flatten,
    ranked,
    reason,
    set_aside,
    shot_figure,
    verdict,
)

if TYPE_CHECKING:
    from rich.table import Table

SCORES = {"mass": "Mass, nats/value", "nll": "NLL, nats/dim", "regret": "Regret, nats/value"}
TRUTHS = {
    "exact": "clean images known exactly",
    "mean": "clean images are means of recorded frames",
    "unknown": "origin of the clean images unknown",
}


@dataclass(frozen=True)
class Cell:
    """A figure on the page: as shown, in full, and the footnote that says why it is missing."""

    text: str
    full: str = ""
    note: str = ""
    why: str = ""
    best: bool = False


@dataclass
class Notes:
    """Footnotes of one table: equal reasons share a letter."""

    texts: list[str] = field(default_factory=list)

    def cell(self, value: object, why: str, *, best: bool = False) -> Cell:
        """The cell of a value; a null gets a dash and the footnote with its reason."""
        if value is not None:
            return Cell(display(value), repr(value), best=best)
        if why not in self.texts:
            self.texts.append(why)
        return Cell(display(None), note=_letter(self.texts.index(why)), why=why)

    @property
    def lettered(self) -> list[tuple[str, str]]:
        """Letter and text of each footnote."""
        return [(_letter(i), text) for i, text in enumerate(self.texts)]


def render_page(results: dict[str, Any], curves: Sequence[CurveSet], strips: Sequence[Strip], command: str) -> str:
    """The whole page as text: style and pictures inside, nothing from elsewhere.

    Args:
        results: as `noiseflow.report.results.finite` returns them.
        curves: noise level against intensity, one set per camera and ISO.
        strips: pictures, one strip per scene.
        command: the command line that repeats the evaluation.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("noiseflow", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    names = [str(model["name"]) for model in results["models"]]
    return environment.get_template("report.html.j2").render(
        verdict=verdict(results),
        data=results.get("data", {}),
        truth=TRUTHS.get(str(figure(results, "data.truth")), ""),
        facts={part: _facts(results.get(part, {})) for part in ("data", "protocol")},
        models=results["models"],
        files=[
            (model["name"], model.get("file_hash"), reason(model, "file_hash"), model.get("noise_domain"))
            for model in results["models"]
        ],
        ranking=_ranking(results),
        shots=_shots(results),
        others=_others(results),
        series=[(n, i % len(SERIES["light"]), DASHES[i % len(DASHES)]) for i, n in enumerate(names)],
        colors=SERIES,
        curves=[_panel(curve, names) for curve in curves],
        strips=[_strip(strip) for strip in strips],
        command=command,
        display=display,
    )


def render_table(results: dict[str, Any]) -> Table:
    """The ranked models as a table for the terminal, with the same figures as the page.

    Args:
        results: in the schema of results.json.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    data = results.get("data", {})
    counts = ", ".join(
        f"{display(data[k])} {k[:-1] if data[k] == 1 else k}" for k in ("images", "scenes") if data.get(k) is not None
    )
    caption = (
        f"{data.get('split', 'unknown')} split, {counts}; lower is better; ± 95 % interval over scenes\n"
        "mass, regret, looseness: nats/value; nll: nats/dim"
    )
    if any(map(set_aside, results["models"])):
        caption += "\n* not comparable with the others; results.json says why"
    table = Table(title="Models by mass", caption=Text(caption), box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("model", overflow="fold")
    for heading in ("mass", "± 95 %", "regret ± se", "nll", "looseness"):  # 80 columns hold no more
        table.add_column(heading, justify="right", no_wrap=True)
    for position, model in enumerate(ranked(results)):
        mass, high = figure(model, "mass.value"), figure(model, "mass.high")
        best = position == 0 and comparable(model)
        regret = display(figure(model, "regret.value"))
        regret += "" if figure(model, "regret.se") is None else f" ± {display(figure(model, 'regret.se'))}"
        table.add_row(
            Text(str(model["name"])),
            Text(display(mass) + ("*" if set_aside(model) else ""), style="bold" if best else ""),
            display(None if high is None or mass is None else high - mass),
            regret,
            *(display(figure(model, path)) for path in ("nll.value", "mass.looseness")),
        )
    return table


def _ranking(results: dict[str, Any]) -> dict[str, Any]:
    notes = Notes()
    models = ranked(results)
    rows = []
    for position, model in enumerate(models):
        paths = [f"{score}.{end}" for score in ("mass", "nll", "regret") for end in ("value", "low", "high")]
        paths += ["mass.bits", "mass.looseness", "regret.se", "parameters"]
        best = position == 0 and comparable(model)
        values = {path: figure(model, path) for path in paths}
        # what is missing only because its value is, needs no dash and footnote of its own
        rows.append(
            {
                "name": model["name"],
                "best": best,
                "cells": {
                    path: notes.cell(value, reason(model, path), best=best and path == "mass.value")
                    for path, value in values.items()
                    if value is not None or _needs_note(path, values)
                },
                "loose": (values["mass.looseness"] or 0.0) > LOOSE,
                "aside": reason(model, "mass") if set_aside(model) else "",
            }
        )
    return {"rows": rows, "notes": notes.lettered}


def _needs_note(path: str, values: dict[str, Any]) -> bool:
    score, _, part = path.partition(".")
    return part in ("", "value") or values[f"{score}.value"] is not None


def _shots(results: dict[str, Any]) -> dict[str, Any]:
    """Scores by camera and ISO: a row per shot, a column per score and model."""
    models = results["models"]
    by_place: dict[tuple[str, float], dict[int, tuple[int, dict[str, Any]]]] = {}
    for m, model in enumerate(models):
        for i, shot in enumerate(model.get("by_shot", [])):
            by_place.setdefault((str(shot["camera"]), shot["iso"]), {})[m] = (i, shot)
    found = [shot for shots in by_place.values() for _, shot in shots.values()]
    scores = [score for score in SCORES if any(shot_figure(shot, score) is not None for shot in found)]
    notes = Notes()
    rows = []
    for (camera, iso), shots in sorted(by_place.items()):
        cells = []
        for score in scores:
            values = {m: shot_figure(shot, score) for m, (_, shot) in shots.items()}
            lowest = min((v for m, v in values.items() if v is not None and comparable(models[m])), default=None)
            for m, model in enumerate(models):
                path = f"by_shot.{shots[m][0]}.{score}" if m in shots else f"by_shot.{score}"
                value = values.get(m)
                best = score == "mass" and value is not None and value == lowest and len(models) > 1
                best = best and comparable(model)
                cells.append(notes.cell(value, reason(model, path), best=best))
        images = max(int(shot.get("images") or 0) for _, shot in shots.values())
        rows.append({"camera": camera, "iso": f"{iso:g}", "images": images, "cells": cells})
    return {"rows": rows, "scores": [SCORES[score] for score in scores], "notes": notes.lettered}


def _others(results: dict[str, Any]) -> dict[str, Any]:
    """Divergences by recipe and structure figures: a row per figure, a column per model."""
    notes = Notes()
    models = results["models"]
    recipes = sorted({recipe for model in models for recipe in model.get("kld") or {}})
    flat = [dict(flatten(model.get("structure") or {})) for model in models]
    rows = []
    for recipe in recipes:
        cells = []
        for model in models:
            entry = (model.get("kld") or {}).get(recipe) or {}
            ends = {"low": [entry.get("low"), entry.get("high")], "floor": entry.get("floor") or [None]}
            pairs = {k: [notes.cell(v, "") for v in pair] for k, pair in ends.items() if None not in pair}
            cells.append({"value": notes.cell(entry.get("value"), reason(model, f"kld.{recipe}")), **pairs})
        rows.append((f"KL divergence, {recipe}, nats", cells))
    for path in sorted({path for figures in flat for path in figures}):
        whys = [reason(model, f"structure.{path}") for model in models]
        cells = [{"value": notes.cell(figures.get(path), why)} for figures, why in zip(flat, whys, strict=True)]
        rows.append((path.replace(".", ", ").replace("_", " "), cells))
    return {"rows": rows, "notes": notes.lettered}


def _facts(part: dict[str, Any]) -> list[tuple[str, str]]:
    return [(path.replace("_", " "), str(value)) for path, value in flatten(part)]


def _panel(curves: CurveSet, names: list[str]) -> dict[str, str]:
    images = {theme: _embed(draw_curves(curves, names, theme)) for theme in ("light", "dark")}
    return {"title": f"{curves.camera}, ISO {curves.iso:g}", **images}


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


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else str(i + 1)
