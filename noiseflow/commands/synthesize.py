"""`noiseflow synthesize`."""

from __future__ import annotations

import re
from pathlib import Path

from noiseflow.adapters.conditions import Iso
from noiseflow.errors import UserError
from noiseflow.evaluation.parallel import crew
from noiseflow.files import file_hash, load, model_path
from noiseflow.options import SynthesizeOptions, listed
from noiseflow.pair_maker import Recipe
from noiseflow.progress import open_progress
from noiseflow.shot import CFA_PATTERNS
from noiseflow.synthesis import synthesize_folder
from noiseflow.training.fit import torch_device


def run(source: str, out: str, options: SynthesizeOptions) -> int:
    """Make pairs of every clean image of a folder, and print where they are."""
    file = model_path(options.model)
    size = None if options.size is None else re.fullmatch(r"(\d+)[x×](\d+)", options.size)
    if options.size is not None and size is None:
        raise UserError(f"--size: expected HxW such as 512x512, got {options.size!r}")
    if options.cfa is not None and options.cfa not in CFA_PATTERNS:
        raise UserError(f"--cfa: expected one of {', '.join(CFA_PATTERNS)}, got {options.cfa!r}")
    if options.workers < 0:
        raise UserError(f"--workers: expected 0 or more, got {options.workers}")
    names = listed(options.cameras)
    recipe = Recipe(
        count=options.count,
        cameras=None if names is None else tuple(names),
        iso=_isos(options.isos),
        seed=options.seed,
        srgb=options.srgb,
        size=None if size is None else (int(size[1]), int(size[2])),
        cfa=options.cfa,
        black=options.black,
        white=options.white,
        allow_unseen=options.allow_unseen,
    )
    with crew() as together, open_progress(quiet=together.rank > 0) as progress:
        synthesize_folder(
            Path(source),
            Path(out),
            load(file),
            recipe,
            model_hash=file_hash(file),
            workers=options.workers,
            device=torch_device(options.device),
            overwrite=options.overwrite,
            crew=together,
            progress=progress,
        )
    if together.rank == 0:
        print(out)
    return 0


def _isos(text: str | None) -> Iso:
    """A list such as 100,800, or a range such as 100-3200."""
    if text is None:
        return None
    among = re.fullmatch(r"([\d.]+)-([\d.]+)", text)
    try:
        return (float(among[1]), float(among[2])) if among else [float(iso) for iso in listed(text) or ()]
    except ValueError:
        raise UserError(f"--isos: expected numbers such as 100,800 or a range such as 100-3200, got {text!r}") from None
