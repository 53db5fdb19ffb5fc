import io
import subprocess
import sys

import pytest

from noiseflow.progress import SILENT, BarProgress, LineProgress, open_progress, track


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def test_lines_come_at_most_every_five_seconds_and_at_the_end(clock):
    stream = io.StringIO()
    with LineProgress(stream, clock) as progress:
        progress.start("scoring nlf", total=40)
        for _ in range(40):
            clock.now += 0.5
            progress.update(1, mass=1.23456)
    assert stream.getvalue().splitlines() == [
        "scoring nlf: 10/40, 15 s left, mass 1.235",
        "scoring nlf: 20/40, 10 s left, mass 1.235",
        "scoring nlf: 30/40, 5 s left, mass 1.235",
        "scoring nlf: 40/40, 0 s left, mass 1.235",
        "scoring nlf: 40/40, done in 20 s, mass 1.235",
    ]


def test_a_cut_off_task_says_where_it_stopped(clock):
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), LineProgress(stream, clock) as progress:
        progress.start("training", total=100)
        progress.update(30)
        clock.now = 3725.0
        raise KeyboardInterrupt
    assert stream.getvalue() == "training: 30/100, stopped after 1 h 02 min\n"


def test_the_next_task_ends_the_one_before_and_totals_may_be_unknown(clock):
    stream = io.StringIO()
    with LineProgress(stream, clock) as progress:
        progress.start("reading")
        clock.now = 65.0
        progress.update(2)
        progress.start("scoring", total=1)
        progress.update()
    lines = ["reading: 2, 1 min 05 s so far", "reading: 2, done in 1 min 05 s", "scoring: 1/1, done in 0 s"]
    assert stream.getvalue().splitlines() == lines


def test_track_yields_every_item_and_counts_it(clock):
    stream = io.StringIO()
    with LineProgress(stream, clock) as progress:
        assert list(track("abc", total=3, description="spelling", progress=progress)) == ["a", "b", "c"]
    assert stream.getvalue() == "spelling: 3/3, done in 0 s\n"


def test_a_terminal_gets_a_bar_with_the_names_as_they_are():
    stream = Terminal()
    with open_progress(stream=stream) as progress:
        assert isinstance(progress, BarProgress)
        progress.start("fit [red]x[/]", total=2)
        progress.update(2, mass=1.5, state="[bold]")
    text = stream.getvalue()
    assert "fit [red]x[/]" in text and "2/2" in text and "mass 1.5, state [bold]" in text


def test_quiet_and_default_show_nothing(capsys):
    assert open_progress(quiet=True, stream=Terminal()) is SILENT
    with SILENT as progress:
        assert list(track(range(3), total=3, description="counting", progress=progress)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_plain_lines_do_not_need_rich():
    code = "import sys, noiseflow.progress; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
