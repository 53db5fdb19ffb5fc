"""`noiseflow simulate`."""

from __future__ import annotations

import re

from noiseflow.errors import UserError
from noiseflow.options import SimulateOptions, listed
from noiseflow.progress import open_progress


def run(out: str, options: SimulateOptions) -> int:
    """Write a simulated SIDD tree and print where it is."""
    from noiseflow.simulate import simulate

    size = re.fullmatch(r"(\d+)[x×](\d+)", options.size)
    if size is None:
        raise UserError(f"--size: expected HxW such as 512x512, got {options.size!r}")
    isos = listed(options.isos)
    if isos is not None and not all(re.fullmatch(r"\d+", iso) for iso in isos):
        raise UserError(f"--isos: expected whole numbers separated by commas, got {options.isos!r}")
    with open_progress() as progress:
        simulate(
            out,
            cameras=listed(options.cameras),
            sensors=listed(options.sensor) or (),
            isos=None if isos is None else [int(iso) for iso in isos],
            scenes=options.scenes,
            size=(int(size[1]), int(size[2])),
            frames=options.frames,
            srgb=options.srgb,
            truth=options.truth,
            seed=options.seed,
            overwrite=options.overwrite,
            progress=progress,
        )
    print(out)
    return 0
