"""`noiseflow fit`."""

from __future__ import annotations

from typing import Any

from noiseflow.options import FitOptions
from noiseflow.progress import open_progress


def run(options: FitOptions) -> int:
    """Fit a model, save everything, and return the exit code: 130 if Ctrl-C ended it early."""
    from noiseflow.training.fit import fit

    with open_progress() as progress:
        return _close(fit(options, progress), options.out)


def resume(folder: str, changes: dict[str, Any]) -> int:
    """Go on with a run; `changes` are the options given beside `--resume`."""
    from noiseflow.training.resume import resume

    with open_progress() as progress:
        return _close(resume(folder, changes, progress), folder)


def _close(finished: bool, out: str) -> int:
    print(f"{out}/model.safetensors")
    if not finished:
        print(f"stopped early; the model as it was at the last step is saved, and noiseflow fit --resume {out} goes on")
    return 0 if finished else 130
