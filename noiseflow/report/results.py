"""Evaluation results in memory: made fit for JSON, ranked, summed up in a sentence, laid out as rows."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DASH = "–"
FINE = 5
"""Decimals of divergences and of small differences: floors and leads lie near 1e-4."""
LISTS = ("by_shot", "by_intensity", "by_tenth", "images")
"""Fields of a model that are tables of their own: rows of results.csv, not columns."""

_SMALL_LEAD = 0.001  # nats per value; smaller leads take `FINE` decimals

LOOSE = 0.03
"""Looseness of a bound on the mass, nats per value, above which it is called loose."""


def display(value: object, places: int = 4) -> str:
    """The one way a figure is shown: floats with 4 decimals, integers in groups of three, null as a dash.

    Args:
        value: the figure.
        places: decimals, 4 or `FINE`.

    Examples:
        >>> display(-1.23456), display(12), display(None)
        ('−1.2346', '12', '–')
    """
    if value is None:
        return DASH
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    text = f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.{places}f}"
    return text.replace("-", "−")


def with_tenths(results: dict[str, Any]) -> dict[str, Any]:
    """A copy in which every model that has `by_intensity` also has `by_tenth`: the same, pooled over shots.

    mass(tenth) = Σ values · mass / Σ values over the cameras and ISOs that have one, and so for regret. A list
    that is there already stays.

    Args:
        results: as `finite` returns them.

    Examples:
        >>> tenth = {"low": 0.0, "high": 0.1}
        >>> shots = [{**tenth, "values": 3, "mass": 1.0}, {**tenth, "values": 1, "mass": 2.0}]
        >>> with_tenths({"models": [{"by_intensity": shots}]})["models"][0]["by_tenth"]
        [{'low': 0.0, 'high': 0.1, 'values': 4, 'mass': 1.25, 'regret': None}]
    """
    models = []
    for model in results["models"]:
        entries = model.get("by_intensity")
        if entries and "by_tenth" not in model:
            model = {
                **model,
                "by_tenth": [_pooled(entries, *t) for t in sorted({(e["low"], e["high"]) for e in entries})],
            }
        models.append(model)
    return {**results, "models": models}


def _pooled(entries: list[dict[str, Any]], low: float, high: float) -> dict[str, Any]:
    here = [entry for entry in entries if (entry["low"], entry["high"]) == (low, high)]
    pooled: dict[str, Any] = {"low": low, "high": high, "values": sum(entry["values"] for entry in here)}
    for score in ("mass", "regret"):
        part = [(e["values"], e[score]) for e in here if e["values"] and e.get(score) is not None]
        total = sum(values for values, _ in part)
        pooled[score] = sum(values * mean for values, mean in part) / total if total else None
    return pooled


def finite(results: dict[str, Any]) -> dict[str, Any]:
    """A copy that JSON can hold: numpy and torch scalars as numbers, what is not finite as null with a reason.

    The reason is filed in the model's `reason` under the dotted path of the field ("nll.value"), elsewhere in
    a `reason` at the top. Reasons that are already there stay.

    Args:
        results: in the schema of results.json.
    """
    models = []
    for model in results.get("models", []):
        reasons: dict[str, str] = {}
        plain = {k: _plain(v, k, reasons) for k, v in model.items() if k != "reason"}
        models.append({**plain, "reason": {**reasons, **model.get("reason", {})}})
    reasons = {}
    rest = {k: _plain(v, k, reasons) for k, v in results.items() if k not in ("models", "reason")}
    reasons.update(results.get("reason", {}))
    return copy.deepcopy({**rest, "models": models, **({"reason": reasons} if reasons else {})})


def _plain(value: Any, path: str, reasons: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{path}.{k}", reasons) for k, v in value.items()}
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v, f"{path}.{i}", reasons) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        reasons[path] = f"not finite: {value}"
        return None
    return value


def figure(holder: dict[str, Any], path: str) -> Any:
    """The value at a dotted path, None where it or anything above it is null or absent.

    Examples:
        >>> figure({"nll": {"value": 1.5}}, "nll.value"), figure({"nll": None}, "nll.value")
        (1.5, None)
    """
    value: Any = holder
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def shot_figure(shot: dict[str, Any], field: str) -> float | None:
    """A score of one camera and ISO, whether it is filed as a number or with its interval."""
    score = shot.get(field)
    value: float | None = score.get("value") if isinstance(score, dict) else score
    return value


def reason(model: dict[str, Any], path: str) -> str:
    """Why a field of a model is null: the reason filed for it, for its score, or for what it is part of.

    Examples:
        >>> reason({"reason": {"mass": "no density"}}, "mass.low")
        'no density'
        >>> reason({"reason": {"by_shot": "one image", "mass": "no density"}}, "by_shot.0.mass")
        'no density'
    """
    filed: dict[str, str] = model.get("reason") or {}
    keys = path.split(".")
    for candidate in (*(".".join(keys[:n]) for n in range(len(keys), 1, -1)), keys[-1], keys[0]):
        if candidate in filed:
            return str(filed[candidate])
    return "not computed"


def comparable(model: dict[str, Any]) -> bool:
    """Whether a model has a mass, and one that can be ranked: its `reason` says where it cannot."""
    return figure(model, "mass.value") is not None and "mass" not in (model.get("reason") or {})


def set_aside(model: dict[str, Any]) -> bool:
    """Whether a model has a mass that cannot be ranked."""
    return figure(model, "mass.value") is not None and not comparable(model)


def ranked(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The models by mass, lowest first; those without one that can be compared last, by nll."""

    def key(model: dict[str, Any]) -> tuple[float, float]:
        values = (figure(model, "mass.value") if comparable(model) else None, figure(model, "nll.value"))
        mass, nll = (math.inf if value is None else float(value) for value in values)
        return mass, nll

    return sorted(results["models"], key=key)


@dataclass(frozen=True)
class Difference:
    """A difference of two models' scores, paired by scene; the ends are None where there is no interval."""

    value: float
    low: float | None
    high: float | None


def difference(results: dict[str, Any], first: str, second: str, score: str = "mass") -> Difference | None:
    """`first` − `second` as results.json files it, in whichever order; None where it does not.

    Args:
        results: in the schema of results.json.
        first: a model's name.
        second: another's.
        score: which score.

    Examples:
        >>> filed = {"score": "mass", "first": "a", "second": "b", "value": -2.0, "low": -3.0, "high": -1.0}
        >>> difference({"differences": [filed]}, "b", "a")
        Difference(value=2.0, low=1.0, high=3.0)
    """
    for entry in results.get("differences") or []:
        names = (entry["first"], entry["second"])
        if entry["score"] != score or entry["value"] is None or names not in ((first, second), (second, first)):
            continue
        low, high = entry.get("low"), entry.get("high")
        if names == (first, second):
            return Difference(entry["value"], low, high)
        return Difference(-entry["value"], None if high is None else -high, None if low is None else -low)
    return None


def verdict(results: dict[str, Any]) -> str:
    """One sentence: which model has the lowest mass, by how much, and whether scenes alone may explain it.

    The paired difference decides where there is one, else the two models' own intervals, which are wider.
    """
    models = [model for model in ranked(results) if comparable(model)]
    kind = " that can be compared" if any(map(set_aside, results["models"])) else ""
    if not models:
        return f"No model has a mass{kind}, so none is ranked first."
    best = models[0]
    said = f"{best['name']} has the lowest mass, {display(float(best['mass']['value']))} nats/value"
    if len(models) == 1:
        others = len(results["models"]) - 1
        return f"{said}; " + ("no other model was scored." if not others else f"no other model has one{kind}.")
    second = models[1]
    lead = float(second["mass"]["value"]) - float(best["mass"]["value"])
    if lead == 0:
        return f"{best['name']} and {second['name']} have the same mass, {said.rsplit(', ', 1)[1]}."
    paired = difference(results, second["name"], best["name"])
    shown = lead if paired is None else paired.value
    said += f", {display(shown, _places(shown))} nats/value below {second['name']}; "
    said += _told_apart(best, second) if paired is None or paired.low is None else _paired(paired)
    looseness = figure(second, "mass.looseness")
    if looseness is not None and looseness >= lead:
        said += f", and the lead is within the looseness of {second['name']}'s bound"
    return said + "."


def _paired(lead: Difference) -> str:
    """What a paired interval of the lead allows to claim."""
    assert lead.low is not None and lead.high is not None
    places = _places(lead.value)
    ends = f"{display(float(lead.low), places)} to {display(float(lead.high), places)}"
    said = f"paired by scene, the 95\u00a0% interval of this lead is {ends}, "
    return said + ("and leaves out 0" if lead.low > 0 else "which holds 0, so the choice of scenes may explain it")


def _places(lead: float) -> int:
    return 4 if abs(lead) >= _SMALL_LEAD else FINE


def _told_apart(best: dict[str, Any], second: dict[str, Any]) -> str:
    """What the two models' own intervals allow to claim."""
    ends = [figure(model, f"mass.{end}") for model in (best, second) for end in ("low", "high")]
    if None in ends:
        return "without intervals, whether scenes alone explain this lead is open"
    return f"their 95\u00a0% intervals {'overlap' if ends[1] >= ends[2] else 'do not overlap'}"


def to_json(results: dict[str, Any]) -> str:
    """The text of results.json: sorted keys, every digit, no NaN.

    Args:
        results: as `finite` returns them.
    """
    return json.dumps(results, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(results: dict[str, Any]) -> str:
    """The text of results.csv, every digit.

    A row per model, per model and shot, per model and tenth of the intensities (pooled and per shot), per model
    and image, and per paired difference. Columns are the dotted paths of results.json ("mass.low"); a row's
    scores stand in the same columns as its model's. Null and absent are empty.

    Args:
        results: as `finite` returns them.
    """
    rows: list[dict[str, Any]] = []
    for model in results["models"]:
        whole = {k: v for k, v in model.items() if k not in (*LISTS, "reason")}
        notes = "; ".join(f"{field}: {why}" for field, why in sorted(model["reason"].items()))
        rows.append({"row": "model", **dict(flatten(whole)), "reason": notes})
        for part, kind in (("by_shot", "shot"), ("by_tenth", "tenth"), ("by_intensity", "intensity")):
            rows += [{"row": kind, "name": model["name"], **_scores(entry)} for entry in model.get(part) or []]
        for image in model.get("images") or []:
            scores = _scores({k: v for k, v in image.items() if k != "name"})
            rows.append({"row": "image", "name": model["name"], "image": image["name"], **scores})
    for entry in results.get("differences") or []:
        place = {"row": "difference", "name": entry["first"], "minus": entry["second"]}
        ends = {f"{entry['score']}.{end}": entry.get(end) for end in ("value", "low", "high")}
        rows.append({**place, **{k: v for k, v in ends.items() if v is not None}})
    first = ["row", "name", "camera", "iso", "images"]
    columns = dict.fromkeys(first + sorted({key for row in rows for key in row if key not in first}))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _scores(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of one of a model's lists as columns: scores under "mass.value", the rest under its own name."""
    scored = {k: {"value": v} if k in ("mass", "nll", "regret") and not isinstance(v, dict) else v
              for k, v in entry.items()}  # fmt: skip
    return dict(flatten(scored))


def flatten(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything in nested dicts and lists that is not null.

    Examples:
        >>> list(flatten({"kld": {"h": {"value": 0.1, "floor": [0, 1]}}, "nll": None}))
        [('kld.h.value', 0.1), ('kld.h.floor.0', 0), ('kld.h.floor.1', 1)]
    """
    for key, value in tree.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            yield from flatten(value, here)
        elif value is not None:
            yield here, value
