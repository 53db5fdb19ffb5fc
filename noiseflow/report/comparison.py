"""Two evaluations side by side: whether they may be compared, and which figures changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noiseflow.report.results import FINE, display, figure, flatten
from noiseflow.report.tables import RECIPES, in_order

if TYPE_CHECKING:
    from rich.table import Table

SCORES = ("mass", "nll", "regret")


@dataclass(frozen=True)
class Change:
    """A figure in two evaluations; what is missing is None.

    Attributes:
        name: what it is: a score, "kld RECIPE" or "structure p".
        first: value, low and high in the first evaluation.
        second: the same in the second one.
    """

    name: str
    first: tuple[float | None, float | None, float | None]
    second: tuple[float | None, float | None, float | None]

    @property
    def difference(self) -> float | None:
        """Second − first."""
        first, second = self.first[0], self.second[0]
        return None if first is None or second is None else second - first

    @property
    def overlap(self) -> bool | None:
        """Whether the intervals share a point; None where one of them is missing."""
        (_, low, high), (_, other_low, other_high) = self.first, self.second
        if low is None or high is None or other_low is None or other_high is None:
            return None
        return low <= other_high and other_low <= high


def disagreements(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs in the data and the protocol: dotted path and both values, None where one lacks it.

    Args:
        first: in the schema of results.json.
        second: likewise.

    Examples:
        >>> disagreements({"data": {"split": "test"}}, {"data": {"split": "all"}, "protocol": {"seed": 0}})
        [('data.split', 'test', 'all'), ('protocol.seed', None, 0)]
    """
    facts = [dict(flatten({part: of.get(part) or {} for part in ("data", "protocol")})) for of in (first, second)]
    paths = list(dict.fromkeys([*facts[0], *facts[1]]))
    pairs = [(path, facts[0].get(path), facts[1].get(path)) for path in paths]
    return [pair for pair in pairs if pair[1] != pair[2]]


def changes(first: dict[str, Any], second: dict[str, Any]) -> list[Change]:
    """Every score, divergence and structure p that one of two entries of a model has.

    Args:
        first: an entry of `models` in results.json.
        second: the entry of the same name in another.
    """
    return [change for change in _all_changes(first, second) if (change.first[0], change.second[0]) != (None, None)]


def _all_changes(first: dict[str, Any], second: dict[str, Any]) -> Iterator[Change]:
    for score in SCORES:
        yield Change(score, _ends(figure(first, score)), _ends(figure(second, score)))
    recipes = [dict(of["kld"]) if isinstance(of.get("kld"), dict) else {} for of in (first, second)]
    for recipe in in_order({*recipes[0], *recipes[1]}, list(RECIPES)):
        yield Change(f"kld {recipe}", _ends(recipes[0].get(recipe)), _ends(recipes[1].get(recipe)))
    p = [_number(figure(of, "structure.family.p")) for of in (first, second)]
    yield Change("structure p", (p[0], None, None), (p[1], None, None))


def change_table(name: str, found: list[Change]) -> Table:
    """One model's figures in both evaluations, as a table of at most 80 columns.

    Args:
        name: the model's.
        found: as `changes` returns them.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(name), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("figure", overflow="fold")
    for heading in ("A", "B", "B − A"):
        table.add_column(heading, justify="right", no_wrap=True)
    words = {True: "\noverlap", False: "\napart", None: ""}
    for change in found:
        places = FINE if change.name.startswith("kld ") else 4
        style = "bold" if change.overlap is False else ""
        said = Text(display(change.difference, places) + words[change.overlap], style=style)
        table.add_row(Text(change.name), *(Text(_shown(ends, places)) for ends in (change.first, change.second)), said)
    return table


def _shown(ends: tuple[float | None, float | None, float | None], places: int) -> str:
    value, low, high = ends
    interval = "" if low is None or high is None else f"\n[{display(low, places)}, {display(high, places)}]"
    return display(value, places) + interval


def _ends(entry: object) -> tuple[float | None, float | None, float | None]:
    of = entry if isinstance(entry, dict) else {}
    value, low, high = (_number(of.get(end)) for end in ("value", "low", "high"))
    return value, low, high


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
