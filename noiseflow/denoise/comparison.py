"""What the noise that denoisers were trained on is worth: their scores over several seeds, and the differences.

Every seed trains one denoiser for each source, from the same initial weights, on the same crops, for as long, and
scores it on the same images; so sources are compared within seeds. Intervals are 95 % t intervals over seeds: they
speak of repeating the training on these data, not of other data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noiseflow.metrics.intervals import scene_interval

if TYPE_CHECKING:
    from rich.table import Table

REFERENCES = ("sensor", "real")
"""What PGap is measured against: the first of these that was trained on."""

INTERVAL = "95 % t interval over seeds"


def reference_of(names: Sequence[str]) -> str | None:
    """The source that PGap is measured against; None where there is none."""
    return next((name for name in REFERENCES if name in names), None)


def compare_scores(scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Means over seeds, differences to the first source, and PGap, each with its interval.

    With PSNR P_k(s) of source s at seed k, averaged over images: difference = mean_k P_k(s) − P_k(first), and
    PGap = mean_k P_k(reference) − P_k(s) (Yue et al. 2020, DANet), positive where the source is worse than the
    reference.

    Args:
        scores: for every source, the scores of its seeds in one order: `psnr` (dB), `ssim`, and if known
            `drawing_share` and `step_ms`.

    Returns:
        An entry a source; an interval is null below 3 seeds.

    Raises:
        ValueError: the sources have different numbers of seeds.

    Examples:
        >>> seeds = {"a": [30.0, 31.0, 32.0], "real": [30.5, 31.5, 32.5]}
        >>> found = compare_scores({name: [{"psnr": p, "ssim": 0.9} for p in values] for name, values in seeds.items()})
        >>> found[0]["gap"]["value"], found[1]["difference"]["value"]
        (0.5, 0.5)
    """
    if len({len(seeds) for seeds in scores.values()}) != 1:
        raise ValueError(f"expected as many seeds for every source, got {[len(seeds) for seeds in scores.values()]}")
    psnr = {name: [float(seed["psnr"]) for seed in seeds] for name, seeds in scores.items()}
    first, reference = next(iter(scores)), reference_of(list(scores))
    entries = []
    for name, seeds in scores.items():
        entry: dict[str, Any] = {
            "name": name,
            "psnr": _interval(psnr[name]),
            "ssim": _interval([float(seed["ssim"]) for seed in seeds]),
            "difference": None if name == first else _difference(psnr[name], psnr[first]),
            "gap": None if reference in (None, name) else _difference(psnr[reference], psnr[name]),
        }
        for figure in ("drawing_share", "step_ms"):
            known = [float(seed[figure]) for seed in seeds if seed.get(figure) is not None]
            entry[figure] = sum(known) / len(known) if known else None
        entries.append(entry)
    return entries


def _interval(values: Sequence[float]) -> dict[str, Any]:
    interval = scene_interval(list(values), [1] * len(values))
    return {"value": interval.value, "low": interval.low, "high": interval.high, "by_seed": list(values)}


def _difference(values: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    return _interval([a - b for a, b in zip(values, others, strict=True)])


HEADINGS = ("noise", "PSNR, dB", "SSIM", "− {first}, dB", "PGap, dB", "drawing noise")


def rows_of(sources: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The entries of `compare_scores` as text, a row a source under `HEADINGS`."""
    return [
        (
            source["name"],
            spread(source["psnr"], 2),
            spread(source["ssim"], 4),
            spread(source["difference"], 2),
            spread(source["gap"], 2),
            "–" if source["drawing_share"] is None else f"{100 * source['drawing_share']:.1f} %",
        )
        for source in sources
    ]


def markdown(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """The entries of `compare_scores` as the lines of a Markdown table."""
    headings = [heading.format(first=sources[0]["name"]) for heading in HEADINGS]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows_of(sources)]


def terminal_table(results: Mapping[str, Any]) -> Table:
    """The content of `results.json` for a terminal."""
    from rich.table import Table

    table = Table(title=caption(results), title_justify="left")
    table.add_column("noise", overflow="fold")
    for heading in ("PSNR, dB", "SSIM", "− first, dB", "PGap, dB", "drawing"):
        table.add_column(heading, justify="right", no_wrap=True)
    for source, row in zip(results["sources"], rows_of(results["sources"]), strict=True):
        table.add_row(*row[:2], f"{source['ssim']['value']:.4f}", *row[3:])  # without SSIM's interval: 80 columns
    return table


def caption(results: Mapping[str, Any]) -> str:
    """What the figures are of, in a line."""
    protocol, data = results["protocol"], results["data"]
    reference = results["reference"]
    gap = "no PGap without sensor or real" if reference is None else f"PGap: {reference} − source"
    return (
        f"{protocol['network']}, {protocol['steps']} steps, seeds {', '.join(map(str, protocol['seeds']))}; "
        f"{data['images']} images of {data['scenes']} scenes, {data['split']} split; ± is the half width of the "
        f"{INTERVAL}; {gap}; noisy images: PSNR {data['noisy_psnr']:.2f} dB, SSIM {data['noisy_ssim']:.4f}"
    )


def spread(interval: Mapping[str, Any] | None, digits: int) -> str:
    """A value and the half width of its interval, where there are both."""
    if interval is None:
        return "–"
    half = "" if interval["high"] is None else f" ± {interval['high'] - interval['value']:.{digits}f}"
    return f"{interval['value']:.{digits}f}{half}"
