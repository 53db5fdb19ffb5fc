"""`noiseflow check`."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from noiseflow.datasets.checking import Finding, Part, check
from noiseflow.options import CheckOptions
from noiseflow.progress import open_progress


def run(root: str, options: CheckOptions) -> int:
    """Print what a data set holds and what is wrong with it; 1 if something is damaged."""
    with open_progress() as progress:
        parts, findings = check(root, black=options.black, white=options.white, progress=progress)
    console = Console()
    for part in parts:
        _print_part(console, part)
    damaged = sum(finding.severity == "damaged" for finding in findings)
    if findings:
        console.print(_findings(findings))
    unit = parts[0].unit if parts else "pairs"
    console.print(
        f"{sum(part.pairs for part in parts)} {unit}: {damaged} damaged, {len(findings) - damaged} warnings",
        highlight=False,
    )
    return 1 if damaged else 0


def _print_part(console: Console, part: Part) -> None:
    splits = ", ".join(f"{part.splits[name]} {name}" for name in ("train", "test", "neither") if part.splits.get(name))
    for name, value in {
        "domain": part.domain,
        part.unit: f"{part.pairs} of {part.scenes} scenes",
        "ground truth": part.truth,
        "frame sizes": ", ".join(f"{height}×{width}" for height, width in sorted(part.sizes)) or "none readable",
        "split": f"{splits}; {part.split_protocol}",
    }.items():
        console.print(f"{name}: {value}", soft_wrap=True, highlight=False, markup=False)
    isos = sorted({iso for _, iso in part.conditions})
    table = Table("camera", "levels", "pattern", *(f"ISO {iso:g}" for iso in isos))
    for camera in sorted({camera for camera, _ in part.conditions}):
        counts = [part.conditions.get((camera, iso), 0) for iso in isos]
        words = (", ".join(sorted(of.get(camera, {"unknown"}))) for of in (part.levels, part.patterns))
        table.add_row(camera, *words, *(str(n) if n else "–" for n in counts))
    console.print(table)


def _findings(findings: list[Finding]) -> Table:
    table = Table("", "what", "where", "found", show_lines=True)
    for finding in findings:
        style = "red" if finding.severity == "damaged" else "yellow"
        table.add_row(finding.severity, finding.kind, escape(finding.where), escape(finding.sentence), style=style)
    return table
