"""`noiseflow fit`."""

from __future__ import annotations

from noiseflow.options import FitOptions
from noiseflow.progress import open_progress


def run(options: FitOptions) -> int:
    """Fit a model, save everything, and return the exit code: 130 if Ctrl-C ended it early."""
    from noiseflow.training.fit import fit

    with open_progress() as progress:
        finished = fit(options, progress)
    print(f"{options.out}/model.safetensors")
    if not finished:
        print(f"stopped early; the model as it was at the last step is saved in {options.out}")
    return 0 if finished else 130
