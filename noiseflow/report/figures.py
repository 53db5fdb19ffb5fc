"""The report's pictures, as PNG bytes: noise level curves, structure, and noisy pictures with the noise alone."""

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
    from PIL.Image import Image

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

DPI = 200
_LOG_RANGE = 4.0  # spectra that span more are drawn on a logarithmic scale
_COLORS = 64  # of a drawn figure
_LEAST_LIMIT = 0.01  # of the variance; below it, estimation error would be shown in full colour
_POSITIVE, _NEGATIVE, _LAG_ZERO = (224, 96, 16), (24, 120, 208), (128, 134, 142)  # told apart on either ground
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


@dataclass(frozen=True)
class StructurePicture:
    """How noise hangs together from pixel to pixel, of the data and of models.

    Noise is divided by its standard deviation at each pixel's intensity first, so that signal dependence is no
    structure. White noise has autocovariance 0 at every lag but 0, and a spectrum of 1.

    Attributes:
        title: camera and ISO, or "all cameras and ISOs".
        autocovariance: `(2L+1, 2L+1)` at lags −L … L, row lag first, lag 0 in the middle (whose value is not
            looked at), in units of the variance; the first key is "real", the others are models' names.
        frequency: `(K,)`, radial frequency in cycles per pixel, rising, ≤ √½.
        spectrum: radially averaged power `(K,)` under the same keys, 1 = white. NaN where a ring is empty.
    """

    title: str
    autocovariance: dict[str, NDArray[np.floating]]
    frequency: NDArray[np.floating]
    spectrum: dict[str, NDArray[np.floating]]

    def __post_init__(self) -> None:
        shapes = {values.shape for values in self.autocovariance.values()}
        square = len(shapes) == 1 and all(len(s) == 2 and s[0] == s[1] and s[0] % 2 == 1 for s in shapes)
        if "real" not in self.autocovariance or not square:
            raise ValueError(f"autocovariance: expected equal odd squares, 'real' among them; got {sorted(shapes)}")
        if "real" not in self.spectrum or any(s.shape != self.frequency.shape for s in self.spectrum.values()):
            raise ValueError(f"spectrum: expected {self.frequency.shape} values each, 'real' among them")

    @property
    def lags(self) -> int:
        """L, the largest lag."""
        return len(self.autocovariance["real"]) // 2

    @property
    def limit(self) -> float:
        """The autocovariance that gets the full colour: the largest of all maps, lag 0 aside, and ≥ 0.01."""
        off = [np.delete(np.abs(values).ravel(), values.size // 2) for values in self.autocovariance.values()]
        return max([_LEAST_LIMIT, *(float(np.max(np.nan_to_num(values), initial=0.0)) for values in off)])


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
    return drawn(curves_figure(curves, names, theme))


def draw_spectrum(picture: StructurePicture, names: list[str], theme: str) -> bytes:
    """Draw `spectrum_figure` as a PNG with a transparent background."""
    return drawn(spectrum_figure(picture, names, theme))


def draw_autocovariance(values: NDArray[np.floating], limit: float) -> bytes:
    """Write an autocovariance map as a PNG, one lag a pixel, for a light and a dark ground alike.

    Positive is orange, negative blue, opaque at ± limit and transparent at 0 and where NaN; lag 0 is grey.

    Args:
        values: `(2L+1, 2L+1)`, units of the variance.
        limit: what gets the full colour, > 0.
    """
    share = np.clip(np.nan_to_num(values) / limit, -1.0, 1.0)
    rgba = np.empty((*values.shape, 4))
    rgba[..., :3] = np.where(share[..., None] >= 0, _POSITIVE, _NEGATIVE)
    rgba[..., 3] = 255 * np.abs(share)
    rgba[values.shape[0] // 2, values.shape[1] // 2] = (*_LAG_ZERO, 255)
    return _png(rgba / 255)


def curves_figure(curves: CurveSet, names: list[str], theme: str) -> Figure:
    """One camera and ISO: noise level above, deviation of the models from the data below.

    Args:
        curves: what to draw.
        names: models in the order of the legend, which fixes colour and dashes.
        theme: "light" or "dark".
    """
    from matplotlib.figure import Figure

    ink = INK[theme]
    figure = Figure(figsize=(3.3, 3.1), dpi=DPI, layout="constrained")
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
        dress(axes, theme)
        _square_root_axis(axes)
    return figure


def spectrum_figure(picture: StructurePicture, names: list[str], theme: str) -> Figure:
    """Radial power spectrum of the real noise (points) and of the models (lines).

    Args:
        picture: what to draw.
        names: models in the order of the legend, which fixes colour and dashes.
        theme: "light" or "dark".
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(3.3, 2.1), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.axhline(1, color=INK[theme], lw=0.6)
    axes.plot(picture.frequency, picture.spectrum["real"], "o", color=INK[theme], ms=2.4, mew=0, zorder=3)
    for i, name in enumerate(names):
        if name in picture.spectrum:
            color = SERIES[theme][i % len(SERIES[theme])]
            axes.plot(picture.frequency, picture.spectrum[name], color=color, ls=_line_style(i), lw=1.3)
    drawn = np.concatenate([np.ravel(power) for power in picture.spectrum.values()])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size and drawn.min() > 0 and drawn.max() > _LOG_RANGE * drawn.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif drawn.size:
        axes.set_ylim(min(0.8, 0.95 * drawn.min()), max(1.2, 1.05 * drawn.max()))
    axes.set_xlim(0, float(np.max(picture.frequency, initial=0.5)))
    axes.set_ylabel("power, 1 = white")
    axes.set_xlabel("frequency, cycles per pixel")
    dress(axes, theme)
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
    return _png(np.clip(0.5 + noise / (2 * limit), 0.0, 1.0))


def drawn(figure: Figure) -> bytes:
    """A figure as a PNG of few colours: a third of the bytes, and no difference that the eye finds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png", transparent=True)
    drawn = Image.open(png).convert("RGBA")
    return _saved(drawn.quantize(_COLORS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))


def _png(picture: NDArray[np.floating]) -> bytes:
    """Values in [0, 1] as a PNG: `(H, W)` grey, `(H, W, 3)` RGB, `(H, W, 4)` RGBA."""
    from PIL import Image

    return _saved(Image.fromarray(np.round(picture * 255).astype(np.uint8)))


def _saved(image: Image) -> bytes:
    png = io.BytesIO()
    image.save(png, format="png", optimize=True)
    return png.getvalue()


def _line_style(i: int) -> str | tuple[float, tuple[float, ...]]:
    dashes = DASHES[i % len(DASHES)]
    return (0.0, tuple(float(length) for length in dashes.split())) if dashes else "-"


def _square_root_axis(axes: Axes) -> None:
    """Intensity from 0 to 1, where shot noise is a straight line."""
    axes.set_xscale("function", functions=(lambda v: np.sqrt(np.maximum(v, 0.0)), lambda v: np.maximum(v, 0.0) ** 2))
    axes.set_xlim(0, 1)
    ticks = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def dress(axes: Axes, theme: str) -> None:
    """Quiet frame, the theme's ink."""
    ink = INK[theme]
    axes.grid(color=GRID[theme], lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=ink, labelsize=7, length=2.5, width=0.6)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=ink, fontsize=7.5)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=ink, linewidth=0.6)
