"""`noiseflow compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from noiseflow.errors import UserError
from noiseflow.report.comparison import change_table, changes, disagreements

_FORMAT = 1


def run(first: str, second: str) -> int:
    """Print what differs between two evaluations: data and protocol first, then each model's figures."""
    results = [_read(first), _read(second)]
    console = Console()

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    say(f"A: {first}")
    say(f"B: {second}")
    differing = disagreements(*results)
    if differing:
        say("warning: data or protocol differ, so the figures below cannot be compared", "bold")
        for path, a, b in differing:
            say(f"  {path}: {_said(a)} in A, {_said(b)} in B")
    else:
        say("same data, split and protocol")
    a, b = ({str(model["name"]): model for model in of["models"]} for of in results)
    for label, only in (("A", [name for name in a if name not in b]), ("B", [name for name in b if name not in a])):
        if only:
            say(f"only in {label}: {', '.join(only)}")
    common = [name for name in a if name in b]
    for name in common:
        console.print(change_table(name, changes(a[name], b[name])))
        files = [model.get("file_hash") for model in (a[name], b[name])]
        if files[0] != files[1]:
            say(f"{name}: another model file, {_said(files[0])} in A, {_said(files[1])} in B")
    if common:
        say(
            "overlap, apart: the 95 % intervals in brackets. Those of the scores are over scenes: on the same scenes, "
            "models whose intervals overlap may still differ."
        )
    else:
        say("no model is in both")
    return 0


def _said(value: object) -> str:
    return "nothing" if value is None else str(value)


def _read(given: str) -> dict[str, Any]:
    """The results at a path: the file itself, or results.json in the folder."""
    path = Path(given)
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{given}: expected a results.json or a folder with one, found none")
    try:
        results = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: expected the JSON that noiseflow evaluate writes ({error})") from error
    models = results.get("models") if isinstance(results, dict) else None
    if (
        not isinstance(results, dict)
        or not isinstance(models, list)
        or not all(isinstance(model, dict) and "name" in model for model in models)
    ):
        raise UserError(f"{file}: expected the results of noiseflow evaluate, with a list of named models")
    if results.get("format") != _FORMAT:
        raise UserError(
            f"{file}: expected format {_FORMAT}, got {results.get('format')}; a newer noiseflow may have written it"
        )
    for part in ("data", "protocol"):
        if not isinstance(results.get(part, {}), dict):
            raise UserError(f"{file}: expected {part!r} to be an object, got {type(results[part]).__name__}")
    return results
