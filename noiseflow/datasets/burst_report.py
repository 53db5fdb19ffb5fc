"""The evidence of the guard rails as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from noiseflow.datasets.burst_checks import Finding
from noiseflow.files import write_whole

_WIDE = 62  # characters beside a picture


def burst_report(findings: Mapping[str, Sequence[Finding]], path: Path) -> None:
    """Draw every finding with its sentence beside it, to a PNG file; bursts without findings are counted.

    Args:
        findings: name of the burst → what `check_burst` found.
        path: where to; its folder must exist.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    listed = [(name, finding) for name, found in findings.items() for finding in found]
    figure = Figure(figsize=(10, 1 + 2.6 * max(1, len(listed))), layout="constrained")
    FigureCanvasAgg(figure)
    clean = sum(not found for found in findings.values())
    figure.suptitle(f"{len(findings)} bursts checked, {clean} without findings", fontsize=12)
    grid = figure.subplots(max(1, len(listed)), 2, squeeze=False, width_ratios=(1, 1.25))
    for axes in grid.flat:
        axes.axis("off")
    for (name, finding), (picture, words) in zip(listed, grid, strict=False):
        lines = [finding.kind, f"burst {name}", "", finding.sentence, "", f"left: {finding.shows}"]
        wrapped = "\n".join(textwrap.fill(line, _WIDE) for line in lines)
        words.text(0, 1, wrapped, va="top", fontsize=9, transform=words.transAxes, parse_math=False)
        if finding.picture is None:
            continue
        picture.axis("on")
        if finding.picture.ndim == 1:
            picture.plot(finding.picture, drawstyle="steps-mid", linewidth=1)
            picture.axhline(0, color="0.7", linewidth=0.8)
        else:
            reach = float(np.quantile(np.abs(finding.picture), 0.99)) or 1.0
            image = picture.imshow(finding.picture, cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest")
            figure.colorbar(image, ax=picture, shrink=0.8)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))
