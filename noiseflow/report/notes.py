"""Figures as the page shows them: rounded, with the full value behind, or a dash with the footnote that says why."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from noiseflow.report.results import display

STEPS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Where the heat maps change their shade, in nats per value: fixed, so that reports can be laid side by side."""


@dataclass(frozen=True)
class Cell:
    """A figure on the page.

    Attributes:
        text: as shown.
        full: every digit; empty where there is no figure.
        note: letter of the footnote that says why there is none.
        why: that footnote.
        best: the lowest of its row or column.
        shade: 0 … len(STEPS), how loud its ground is; None is no ground.
    """

    text: str
    full: str = ""
    note: str = ""
    why: str = ""
    best: bool = False
    shade: int | None = None


@dataclass
class Notes:
    """Footnotes of one table: equal reasons share a letter."""

    texts: list[str] = field(default_factory=list)

    def cell(
        self, value: object, why: str, *, best: bool = False, shade: int | None = None, places: int | None = None
    ) -> Cell:
        """The cell of a value; a null gets a dash and the footnote with its reason."""
        if value is not None:
            shown = display(value) if places is None else display(value, places)
            return Cell(shown, repr(value), best=best, shade=shade)
        if why not in self.texts:
            self.texts.append(why)
        return Cell(display(None), note=_letter(self.texts.index(why)), why=why)

    def pair(self, ends: Sequence[object] | None, places: int | None = None) -> tuple[Cell, Cell] | None:
        """Both ends of an interval; None where one is missing."""
        if not isinstance(ends, list | tuple) or len(ends) != 2 or None in ends:
            return None
        return self.cell(ends[0], "", places=places), self.cell(ends[1], "", places=places)

    @property
    def lettered(self) -> list[tuple[str, str]]:
        """Letter and text of each footnote."""
        return [(_letter(i), text) for i, text in enumerate(self.texts)]


def shade(excess: float | None) -> int | None:
    """The shade of a regret or of a mass above the lowest one, nats per value: how many of `STEPS` it reaches.

    Examples:
        >>> shade(-0.0002), shade(0.001), shade(5.0), shade(None)
        (0, 1, 6, None)
    """
    return None if excess is None else bisect_right(STEPS, excess)


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else str(i + 1)
