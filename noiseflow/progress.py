"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing when quiet.

The library prints nothing by itself. Long functions take a `Progress` whose default shows nothing; commands
hand them one from `open_progress`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO, TypeVar

if TYPE_CHECKING:
    import rich.progress

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows how far a task has come; this one shows nothing and is the default everywhere.

    A context: leaving it ends the task. `start` may be called again for the next task.

    Examples:
        >>> with Progress() as progress:
        ...     progress.start("scoring", total=2)
        ...     progress.update(2, mass=1.25)
    """

    def start(self, description: str, total: int | None = None) -> None:
        """End the task so far, if any, and begin another.

        Args:
            description: what is being done, in a word or three.
            total: number of steps, or None where it is not known.
        """

    def update(self, advance: int = 1, **figures: float | str) -> None:
        """Count steps and show figures beside them.

        Args:
            advance: steps done since the last call; 0 shows figures only.
            figures: name and value of each figure; replaces those shown before.
        """

    def close(self, *, stopped: bool = False) -> None:
        """End the task.

        Args:
            stopped: the work was cut off by an error or by the user.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(stopped=kind is not None)


SILENT = Progress()


class LineProgress(Progress):
    """Plain lines, at most one every five seconds and a last one when the task ends.

    Args:
        stream: where the lines go.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._description: str | None = None

    def start(self, description: str, total: int | None = None) -> None:
        """See `Progress.start`."""
        self.close()
        self._description = description
        self._total = total
        self._done = 0
        self._figures: dict[str, float | str] = {}
        self._began = self._last = self._clock()

    def update(self, advance: int = 1, **figures: float | str) -> None:
        """See `Progress.update`."""
        if self._description is None:
            return
        self._done += advance
        self._figures = figures or self._figures
        now = self._clock()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self._write(self._remaining(now - self._began))

    def close(self, *, stopped: bool = False) -> None:
        """See `Progress.close`."""
        if self._description is None:
            return
        spent = _duration(self._clock() - self._began)
        self._write(f"stopped after {spent}" if stopped else f"done in {spent}")
        self._description = None

    def _remaining(self, spent: float) -> str:
        if self._total is None or self._done == 0:
            return f"{_duration(spent)} so far"
        return f"{_duration(spent * max(self._total - self._done, 0) / self._done)} left"

    def _write(self, state: str) -> None:
        of = "" if self._total is None else f"/{self._total}"
        parts = [f"{self._done}{of}", state, *([_figures(self._figures)] if self._figures else [])]
        print(f"{self._description}: {', '.join(parts)}", file=self._stream, flush=True)


class BarProgress(Progress):
    """A rich progress bar that redraws itself on a terminal.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar: rich.progress.Progress = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(file=stream),
        )
        self._task: rich.progress.TaskID | None = None

    def start(self, description: str, total: int | None = None) -> None:
        """See `Progress.start`."""
        self._end_task()
        self._task = self._bar.add_task(description, total=total, figures="")
        self._bar.start()

    def update(self, advance: int = 1, **figures: float | str) -> None:
        """See `Progress.update`."""
        if self._task is None:
            return
        if figures:
            self._bar.update(self._task, advance=advance, figures=_figures(figures))
        else:
            self._bar.update(self._task, advance=advance)

    def close(self, *, stopped: bool = False) -> None:
        """See `Progress.close`."""
        self._end_task()
        self._bar.stop()

    def _end_task(self) -> None:
        if self._task is not None:
            self._bar.stop_task(self._task)
            self._task = None


def open_progress(*, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """The progress display that suits where the output goes.

    Args:
        quiet: show nothing.
        stream: where to show it; standard error by default.

    Returns:
        A bar if the stream is a terminal, plain lines if not, a display that shows nothing if quiet.
    """
    if quiet:
        return SILENT
    stream = sys.stderr if stream is None else stream
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


def track(
    iterable: Iterable[Item], *, total: int | None = None, description: str, progress: Progress = SILENT
) -> Iterator[Item]:
    """Yield the items of an iterable as one task, each counted when the next is asked for.

    Args:
        iterable: what to go through.
        total: number of items, or None where it is not known.
        description: what is being done.
        progress: where it is shown; nowhere by default.

    Examples:
        >>> list(track("ab", description="spelling"))
        ['a', 'b']
    """
    progress.start(description, total)
    for item in iterable:
        yield item
        progress.update()


def _figures(figures: dict[str, float | str]) -> str:
    return ", ".join(f"{k} {v if isinstance(v, str) else format(v, '.4g')}" for k, v in figures.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
