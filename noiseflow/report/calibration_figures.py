"""The pictures of a calibration, one function each; `theme` is "light" or "dark"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from noiseflow.calibration.diagnostics import IsoDiagnostics, ReadPlot, Spectrum, TransferCurve
from noiseflow.calibration.profile import Estimate, Profile
from noiseflow.report.figures import DPI, INK, SERIES, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANNELS = ("R", "G on R rows", "G on B rows", "B")
COLOUR_OF = (1, 2, 4, 0)  # in SERIES: the nearest there is to red, two greens and blue
MARKS = ("o", "s", "D", "^")
_SIZE = (3.3, 3.0)
_BINS = 32  # of a spectrum; more would be noise alone
_STEEP = 8.0  # times the median of a spectrum; peaks above it take a logarithmic scale
_LARGEST = 25.0  # per cent; residuals beyond it are drawn at the edge


def transfer_figure(curve: TransferCurve, theme: str) -> Figure:
    """Photon-transfer curve: variance against mean above, deviation from the line below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    shown = (curve.mean > 0) & (curve.variance > 0) & (curve.fitted > 0)
    mean, variance, fitted = curve.mean[shown], curve.variance[shown], curve.fitted[shown]
    deviation, error = 100 * (variance / fitted - 1), 100 * curve.error[shown] / fitted
    largest = float(np.clip(1.3 * np.max(np.abs(deviation) + error, initial=1.0), 1.0, _LARGEST))
    order = np.argsort(mean)
    upper.plot(mean[order], fitted[order], color=INK[theme], lw=0.9, zorder=1)
    many = np.unique(curve.channel).size > 1
    for channel in np.unique(curve.channel[shown]).astype(int):
        of = curve.channel[shown] == channel
        color = SERIES[theme][COLOUR_OF[channel]] if many else SERIES[theme][0]
        style = {"fmt": MARKS[channel], "color": color, "ms": 2.8, "mew": 0, "lw": 0.7, "zorder": 3}
        upper.errorbar(mean[of], variance[of], yerr=curve.error[shown][of], **style)
        lower.errorbar(mean[of], np.clip(deviation[of], -largest, largest), yerr=error[of], **style)
    lower.axhline(0, color=INK[theme], lw=0.6)
    lower.set_ylim(-1.05 * largest, 1.05 * largest)
    upper.set(xscale="log", yscale="log")
    upper.set_ylabel("variance, DN²")
    lower.set_ylabel("deviation, %")
    lower.set_xlabel("mean above black, DN")
    _plain_ticks(upper)
    for axes in (upper, lower):
        dress(axes, theme)
    return figure


def gain_figure(profile: Profile, theme: str) -> Figure:
    """Gain against ISO: segments of one law as lines, and what proportional to the first ISO would be."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    gains = {iso: one.gain_dn_per_e for iso, one in sorted(profile.isos.items()) if one.gain_dn_per_e is not None}
    isos, values = np.array(list(gains)), list(gains.values())
    axes.plot(isos, values[0].value * isos / isos[0], color=INK[theme], lw=0.8, ls=(0, (2, 2)), zorder=1)
    for number, (first, last) in enumerate(profile.gain_segments):
        inside = [iso for iso in gains if first <= iso <= last]
        color = SERIES[theme][number % len(SERIES[theme])]
        points = [gains[iso] for iso in inside]
        axes.errorbar(
            inside, [g.value for g in points], yerr=_bars(points), fmt="o-", color=color, ms=3.4, mew=0, lw=1.2
        )
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(isos, [f"{iso:g}" for iso in isos])
    axes.minorticks_off()
    axes.set_ylabel("gain, DN per electron")
    axes.set_xlabel("ISO")
    _plain_ticks(axes, x=False)
    dress(axes, theme)
    if isos.size > 6:
        axes.tick_params(axis="x", labelrotation=45)
    return figure


def read_figure(plot: ReadPlot, theme: str) -> Figure:
    """Read-noise probability plot: the normal distribution is a straight line, tails bend down."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot(plot.difference, plot.expected, color=SERIES[theme][1], lw=1.3)
    axes.plot(plot.difference, plot.observed, "o", color=INK[theme], ms=2.4, mew=0)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("normal quantile")
    axes.set_xlabel("difference of two dark frames, DN")
    dress(axes, theme)
    return figure


def spectra_figure(rows: Spectrum, columns: Spectrum, theme: str) -> Figure:
    """Power spectra of the means of rows and of columns; flat where neighbouring lines are independent."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    highest = 0.0
    for number, (spectrum, style, mark) in enumerate(((rows, "-", "o"), (columns, (0, (6, 2)), "s"))):
        frequency, power = _binned(spectrum)
        axes.plot(frequency, power, mark, ls=style, color=SERIES[theme][number], lw=1.1, ms=2.4, mew=0)
        highest = max(highest, float(power.max() / np.median(power)))
    if highest > _STEEP:
        axes.set_yscale("log")
        _plain_ticks(axes, x=False)
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, 0.5)
    axes.set_ylabel("power, DN² a line")
    axes.set_xlabel("frequency, cycles a line")
    dress(axes, theme)
    return figure


def odd_figure(one: IsoDiagnostics, size: tuple[int, int], theme: str) -> Figure:
    """Where hot and jumping pixels lie in the frame."""
    from matplotlib.figure import Figure

    height, width = size
    figure = Figure(figsize=(3.3, min(max(3.3 * height / width, 1.6), 3.6)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for number, (pixels, mark) in enumerate(((one.hot, "o"), (one.jumping, "x"))):
        if pixels is not None and len(pixels):
            edge = {"mew": 0} if mark == "o" else {"mew": 0.9}
            axes.plot(pixels[:, 1], pixels[:, 0], mark, color=SERIES[theme][1 - number], ms=3.2, ls="", **edge)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.set_ylabel("row")
    axes.set_xlabel("column")
    dress(axes, theme)
    return figure


def drift_figure(means: np.ndarray, read: Estimate | None, theme: str) -> Figure:
    """Level of each colour from dark frame to dark frame, less its mean; the band is a tenth of the read noise.

    Args:
        means: `(N, C)`, DN.
        read: read noise, DN.
        theme: as everywhere.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    number = np.arange(1, len(means) + 1)
    if read is not None:
        axes.axhspan(-0.1 * read.value, 0.1 * read.value, color=INK[theme], alpha=0.1, lw=0)
    axes.axhline(0, color=INK[theme], lw=0.6)
    many = means.shape[1] > 1
    for channel, level in enumerate((means - means.mean(axis=0)).T):
        color = SERIES[theme][COLOUR_OF[channel]] if many else SERIES[theme][0]
        axes.plot(number, level, MARKS[channel] + "-", color=color, ms=3, mew=0, lw=0.9)
    largest = max(
        float(np.abs(means - means.mean(axis=0)).max()), 0.12 * (read.value if read is not None else 0.0), 1e-9
    )
    axes.set_ylim(-1.15 * largest, 1.15 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("dark level − its mean, DN")
    axes.set_xlabel("dark frame, in the order given")
    dress(axes, theme)
    return figure


def _bars(estimates: Sequence[Estimate]) -> np.ndarray:
    """Lengths of error bars, `(2, n)`."""
    return np.array([[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]])


def _binned(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbouring frequencies where there are many."""
    count = spectrum.frequency.size
    starts = np.unique(np.linspace(0, count, min(_BINS, count), endpoint=False).astype(int))
    sizes = np.diff([*starts, count])
    frequency, power = (np.add.reduceat(values, starts) / sizes for values in (spectrum.frequency, spectrum.power))
    return frequency, power


def _plain_ticks(axes: Axes, *, x: bool = True) -> None:
    """Powers of ten as plain numbers; where there are less than two of them, more ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if axis is axes.xaxis and not x:
            continue
        decades = np.log10(ends[1] / ends[0])
        subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
