"""A calibration as one self-contained HTML page; every parameter on it is the profile's own number."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import noiseflow
from noiseflow.calibration.diagnostics import IsoDiagnostics
from noiseflow.calibration.findings import Finding
from noiseflow.calibration.profile import Estimate, IsoProfile, Profile, encoded
from noiseflow.calibration.verdict import Verdict
from noiseflow.progress import SILENT, Progress, track
from noiseflow.report import calibration_figures as figures
from noiseflow.report.calibration_table import PARAMETERS, shown
from noiseflow.report.figures import DASHES, SERIES, drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[str], "Figure"]

_LEGENDS = {
    "transfer": [(name, figures.COLOUR_OF[k], "mark", figures.MARKS[k]) for k, name in enumerate(figures.CHANNELS)],
    "spectra": [("rows", 0, "line", DASHES[0]), ("columns", 1, "line", DASHES[1])],
    "odd": [("hot", 1, "mark", "o"), ("jumping", 0, "mark", "x")],
}


def render_calibration(
    profile: Profile,
    *,
    diagnostics: Sequence[IsoDiagnostics],
    command: str,
    findings: Sequence[Finding] = (),
    verdict: Verdict | None = None,
    size: tuple[int, ...] | None = None,
    used: Sequence[tuple[str, str]] = (),
    progress: Progress = SILENT,
) -> str:
    """The whole page as text: style and pictures inside, nothing from elsewhere.

    Args:
        profile: what was found.
        diagnostics: the numbers behind the pictures, one entry for each ISO.
        command: the command line that repeats the calibration.
        findings: what looks wrong with the frames; the profile's warnings hold them as well.
        verdict: whether the frames were enough; None where there were no frames.
        size: height and width of the frames.
        used: what was calibrated from, and which files that is.
        progress: what shows how far the drawing has come.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("noiseflow", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    said = {f"ISO {f.iso:g}: {f.kind}: {f.message}" for f in findings}
    wanted = _pictures(profile, diagnostics, size)
    total = sum(len(part) for part in wanted.values())
    drawing = iter(track(_flat(wanted), total=total, description="drawing", progress=progress))
    sections = {name: [_panel(*next(drawing)) for _ in part] for name, part in wanted.items()}
    next(drawing, None)
    text = json.dumps(encoded(profile), sort_keys=True)
    return environment.get_template("calibration.html.j2").render(
        profile=profile,
        isos=[f"{iso:g}" for iso in sorted(profile.isos)],
        verdict=verdict,
        findings=findings,
        frames=verdict is not None,
        warnings=[warning for warning in profile.warnings if warning not in said],
        parameters={
            name: PARAMETERS[name] for name in PARAMETERS if any(getattr(i, name) for i in profile.isos.values())
        },
        odd_looked=any(one.hot is not None for one in diagnostics),
        colours=_colours(diagnostics) if profile.cfa else [],
        rows=[_row(iso, one) for iso, one in sorted(profile.isos.items())],
        blacks=max(len(one.black_dn) for one in profile.isos.values()),
        channels=figures.CHANNELS if profile.cfa else ("",),
        pre=_cell(profile.read_noise_pre_e, "read_noise_pre_e"),
        post=_cell(profile.read_noise_post_dn, "read_noise_post_dn"),
        sections=sections,
        legends=_LEGENDS,
        mosaic=profile.cfa is not None,
        used=used,
        command=command,
        colors=SERIES,
        version=noiseflow.__version__,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )


def _pictures(
    profile: Profile, diagnostics: Sequence[IsoDiagnostics], size: tuple[int, ...] | None
) -> dict[str, list[tuple[str, Draw]]]:
    """What to draw: title and figure of each panel, by section."""
    out: dict[str, list[tuple[str, Draw]]] = {
        name: [] for name in ("transfer", "gain", "read", "spectra", "odd", "drift")
    }
    if sum(one.gain_dn_per_e is not None for one in profile.isos.values()) > 1:
        out["gain"].append(("all ISOs", lambda theme: figures.gain_figure(profile, theme)))
    for one in diagnostics:
        _add(out, f"ISO {one.iso:g}", one, profile.isos[one.iso].read_noise_dn, size)
    return out


def _add(
    out: dict[str, list[tuple[str, Draw]]], title: str, one: IsoDiagnostics, read: Estimate | None,
    size: tuple[int, ...] | None,
) -> None:  # fmt: skip
    curve, plot, rows, columns, means = one.transfer, one.read_plot, one.rows, one.columns, one.dark_means
    if curve is not None and one.line is not None:
        out["transfer"].append((title, lambda theme: figures.transfer_figure(curve, theme)))
    if plot is not None:
        out["read"].append((title, lambda theme: figures.read_figure(plot, theme)))
    if rows is not None and columns is not None:
        out["spectra"].append((title, lambda theme: figures.spectra_figure(rows, columns, theme)))
    if one.hot is not None and one.jumping is not None and size is not None and len(one.hot) + len(one.jumping):
        counts = f"{title}: {len(one.hot)} hot, {len(one.jumping)} jumping"
        out["odd"].append((counts, lambda theme: figures.odd_figure(one, (size[0], size[1]), theme)))
    if means is not None and len(means) > 1:
        out["drift"].append((title, lambda theme: figures.drift_figure(means, read, theme)))


def _flat(wanted: dict[str, list[tuple[str, Draw]]]) -> Iterable[tuple[str, Draw]]:
    return [each for part in wanted.values() for each in part]


def _panel(title: str, draw: Draw) -> dict[str, str]:
    images = {theme: base64.b64encode(drawn(draw(theme))).decode("ascii") for theme in ("light", "dark")}
    return {"title": title, **{theme: f"data:image/png;base64,{image}" for theme, image in images.items()}}


def _row(iso: float, one: IsoProfile) -> dict[str, Any]:
    """One ISO of the table: every number with its place in the profile."""
    place = f"isos.{iso:g}"
    return {
        "iso": f"{iso:g}",
        "cells": {name: _cell(getattr(one, name), f"{place}.{name}") for name in PARAMETERS},
        "normal": one.read_noise_dn is not None and one.tukey_lambda is None,
        "blacks": [_cell(black, f"{place}.black_dn.{k}") for k, black in enumerate(one.black_dn)],
        "levels": [
            None if value is None else {"path": f"{place}.{name}", "full": repr(value), "text": f"{value:g}"}
            for name, value in (("white_dn", one.white_dn), ("step_dn", one.step_dn))
        ],
    }


def _colours(diagnostics: Sequence[IsoDiagnostics]) -> list[tuple[str, list[str]]]:
    """Gain of each colour on its own, where there is one; not in the profile, whose gain is that of all."""
    rows = []
    for one in diagnostics:
        if any(one.channel_gains):
            texts = ["–" if gain is None else "{} ({} to {})".format(*shown(gain)) for gain in one.channel_gains]
            rows.append((f"{one.iso:g}", texts))
    return rows


def _cell(estimate: Estimate | None, path: str) -> list[dict[str, str]] | None:
    """Value, low and high: as they are shown, in full, and where they stand in the profile."""
    if estimate is None:
        return None
    ends = zip(("value", "low", "high"), (estimate.value, estimate.low, estimate.high), shown(estimate), strict=True)
    return [{"path": f"{path}.{end}", "full": repr(value), "text": text} for end, value, text in ends]
