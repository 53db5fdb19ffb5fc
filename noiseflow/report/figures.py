"""The report's pictures, as PNG bytes: noise level curves, and noisy pictures with the noise alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from noiseflow.metrics.curves import IntensityCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = {"light": "#1f2328", "dark": "#d9dde3"}
GRID = {"light": "#e4e6ea", "dark": "#33383f"}
SERIES = {
    "light": ("#0067a8", "#c8500a", "#00805c", "#a8478a", "#8a6d00", "#5f6672"),
    "dark": ("#5cb3ee", "#f59353", "#3fc79c", "#dd8fc4", "#d9bd4a", "#a9b0bc"),
}
DASHES = ("", "6 2", "2 2", "6 2 2 2", "4 2", "9 3")
"""Lengths of strokes and gaps in points, as SVG's stroke-dasharray: told apart without colour too."""

NOISE_SPAN = 3.0
"""Noise is shown from −3 to +3 standard deviations of the real noise."""

_NO_METADATA: dict[str, str] = {"Software": ""}  # no version in the bytes
_LARGEST_DEVIATION = 10.0  # per cent; beyond it a model's line leaves the lower panel


@dataclass(frozen=True)
class CurveSet:
    """Noise level against intensity of one camera and ISO: data and models. NaN where a bin is empty.

    Attributes:
        camera: the camera's name.
        iso: ISO.
        intensity: `(K,)`, clean value, linear units.
        data_std: `(K,)`, standard deviation of the real noise, linear units.
        data_low: `(K,)`, lower end of its 95 % interval.
        data_high: `(K,)`, upper end of its 95 % interval.
        models: standard deviation `(K,)` of each model's noise, by the model's name.
    """

    camera: str
    iso: float
    intensity: NDArray[np.float64]
    data_std: NDArray[np.float64]
    data_low: NDArray[np.float64]
    data_high: NDArray[np.float64]
    models: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Strip:
    """Pictures of one scene side by side.

    Attributes:
        title: scene, camera and ISO.
        clean: `(H, W, 3)`, display RGB in [0, 1].
        noisy: display RGB `(H, W, 3)` in [0, 1]; the first key is "real", the others are models' names.
        noise: one channel's noise `(H, W)`, linear units, under the same keys.
    """

    title: str
    clean: NDArray[np.floating]
    noisy: dict[str, NDArray[np.floating]]
    noise: dict[str, NDArray[np.floating]]

    @property
    def noise_limit(self) -> float:
        """The noise that is shown white, in linear units; its negative is black and 0 is mid-grey."""
        return NOISE_SPAN * float(np.std(self.noise["real"])) or 1.0


def curve_sets(data: IntensityCurve, models: Mapping[str, IntensityCurve]) -> list[CurveSet]:
    """Put the accumulated noise levels of the data and of models side by side.

    Args:
        data: of the real noise.
        models: of each model's noise by name, with the same bins; a camera and ISO a model did not see is
            NaN.

    Returns:
        One set per camera and ISO of the data, sorted.
    """
    sets = []
    for key in data.keys:
        real = data.statistics(key)
        lines = {
            name: curve.statistics(key).std if key in curve.keys else np.full(data.bins, np.nan)
            for name, curve in models.items()
        }
        sets.append(CurveSet(*key, real.intensity, real.std, real.low, real.high, lines))
    return sets


def draw_curves(curves: CurveSet, names: list[str], theme: str) -> bytes:
    """Draw `curves_figure` as a PNG with a transparent background."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = curves_figure(curves, names, theme)
    FigureCanvasAgg(drawn)
    png = io.BytesIO()
    drawn.savefig(png, format="png", transparent=True, metadata=_NO_METADATA)
    return png.getvalue()


def curves_figure(curves: CurveSet, names: list[str], theme: str) -> Figure:
    """One camera and ISO: noise level above, deviation of the models from the data below.

    Args:
        curves: what to draw.
        names: models in the order of the legend, which fixes colour and dashes.
        theme: "light" or "dark".
    """
    from matplotlib.figure import Figure

    ink = INK[theme]
    figure = Figure(figsize=(3.3, 3.1), dpi=200, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    seen = np.isfinite(curves.data_std) & (curves.data_std > 0)
    x, std = curves.intensity[seen], curves.data_std[seen]
    ends = [np.where(np.isfinite(end[seen]), end[seen], std) for end in (curves.data_low, curves.data_high)]
    bars = 1e3 * np.abs(np.stack(ends) - std)
    upper.errorbar(x, 1e3 * std, yerr=bars, fmt="o", color=ink, ms=2.4, lw=0.8, zorder=3, mew=0)
    lower.fill_between(x, *(100 * (end / std - 1) for end in ends), color=ink, alpha=0.16, lw=0)
    largest = 2.0
    for i, name in enumerate(names):
        if name not in curves.models:
            continue
        line, known = curves.models[name], seen & np.isfinite(curves.models[name])
        color, dashes = SERIES[theme][i % len(SERIES[theme])], _line_style(i)
        upper.plot(curves.intensity[known], 1e3 * line[known], color=color, ls=dashes, lw=1.3)
        deviation = 100 * (line[known] / curves.data_std[known] - 1)
        lower.plot(curves.intensity[known], deviation, color=color, ls=dashes, lw=1.3)
        largest = max(largest, 1.15 * float(np.max(np.abs(deviation), initial=0.0)))
    largest = min(largest, _LARGEST_DEVIATION)
    lower.set_ylim(-largest, largest)
    lower.axhline(0, color=ink, lw=0.6)
    upper.set_ylim(bottom=0)
    upper.set_ylabel("noise std, 10⁻³ linear units")
    lower.set_ylabel("deviation, %")
    lower.set_xlabel("clean intensity, linear units (√ scale)")
    for axes in (upper, lower):
        _dress(axes, theme)
    return figure


def draw_picture(picture: NDArray[np.floating]) -> bytes:
    """Write display RGB `(H, W, 3)` in [0, 1] as a PNG, one image pixel a pixel."""
    return _png(np.clip(picture, 0.0, 1.0))


def draw_noise(noise: NDArray[np.floating], limit: float) -> bytes:
    """Write noise `(H, W)` as a grey PNG: −limit is black, 0 is mid-grey, limit is white.

    Args:
        noise: one channel, linear units.
        limit: the largest noise that is told apart, linear units, > 0.
    """
    grey = np.clip(0.5 + noise / (2 * limit), 0.0, 1.0)
    return _png(np.repeat(grey[..., None], 3, axis=-1))


def _png(rgb: NDArray[np.floating]) -> bytes:
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, np.round(rgb * 255).astype(np.uint8), format="png", metadata=_NO_METADATA)
    return png.getvalue()


def _line_style(i: int) -> str | tuple[float, tuple[float, ...]]:
    dashes = DASHES[i % len(DASHES)]
    return (0.0, tuple(float(length) for length in dashes.split())) if dashes else "-"


def _dress(axes: Axes, theme: str) -> None:
    """Square-root intensity axis, quiet frame, the theme's ink."""
    ink = INK[theme]
    axes.set_xscale("function", functions=(lambda v: np.sqrt(np.maximum(v, 0.0)), lambda v: np.maximum(v, 0.0) ** 2))
    axes.set_xlim(0, 1)
    ticks = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(color=GRID[theme], lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=ink, labelsize=7, length=2.5, width=0.6)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=ink, fontsize=7.5)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=ink, linewidth=0.6)
