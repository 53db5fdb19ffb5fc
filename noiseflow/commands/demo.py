"""`noiseflow demo`: the whole way from nothing to a scored noise model, on virtual phones."""

from __future__ import annotations

from pathlib import Path

from noiseflow.folders import claim
from noiseflow.options import EvaluateOptions, FitOptions
from noiseflow.progress import open_progress

_CAMERAS = ("S6", "N6")
_ISOS = (100, 3200)
_SCENES = 15
_SIZE = (384, 384)
_STEPS = 300


def run(out: str, *, overwrite: bool = False) -> int:
    """Simulate two phones, fit a flow, score it against the baselines; print the table and the page's path."""
    from rich.console import Console

    from noiseflow.commands.evaluate import score
    from noiseflow.report import render_table
    from noiseflow.simulate import simulate
    from noiseflow.training.fit import fit

    root = claim(out, overwrite=overwrite)
    data, model, evaluation = root / "data", root / "noise_flow", root / "evaluation"
    console = Console()
    with open_progress() as progress:
        console.print(f"1/3 {len(_CAMERAS)} virtual phones photograph {_SCENES} scenes: {data}", highlight=False)
        simulate(data, cameras=_CAMERAS, isos=_ISOS, scenes=_SCENES, size=_SIZE, overwrite=overwrite, progress=progress)
        console.print(f"2/3 a flow learns their noise: {model}", highlight=False)
        finished = fit(
            FitOptions(data=str(data), model="noise_flow", out=str(model), steps=_STEPS, overwrite=overwrite), progress
        )
        if not finished:
            console.print(f"stopped early; the model so far is in {model}", highlight=False)
            return 130
        console.print(f"3/3 it is scored on scenes it never saw, beside the baselines: {evaluation}", highlight=False)
        options = EvaluateOptions(data=str(data), out=str(evaluation), overwrite=overwrite)
        names = [str(model), "nlf", "gaussian"]
        command = f"noiseflow evaluate {' '.join(names)} --data {data} --out {evaluation} --overwrite"
        scored = score(names, options, command, progress)
    assert scored is not None  # one process alone has all the results
    results, page = scored
    console.print(render_table(results))
    console.print(f"Report: {Path(page).resolve()}", soft_wrap=True, highlight=False)
    return 0
