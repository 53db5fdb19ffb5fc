"""`noiseflow import`."""

from __future__ import annotations

import logging
from pathlib import Path

from noiseflow.commands import import_parameters
from noiseflow.denoise import Denoiser
from noiseflow.errors import UserError
from noiseflow.files import file_hash, save
from noiseflow.folders import claim_file
from noiseflow.importers import import_checkpoint
from noiseflow.models import FittedModel
from noiseflow.options import ImportOptions

log = logging.getLogger(__name__)


def run(checkpoint: str, options: ImportOptions) -> int:
    """Convert a published checkpoint or noise parameters; print the files written and the licence of weights."""
    source = Path(checkpoint)
    if source.suffix.lower() in import_parameters.SUFFIXES:
        if options.denoiser is not None:
            raise UserError(f"--denoiser: {checkpoint} holds noise parameters and no denoiser")
        out = claim_file(options.out, [import_parameters.ending(source)], overwrite=options.overwrite)
        return import_parameters.run(checkpoint, out)
    for name in filter(None, (options.out, options.denoiser)):
        claim_file(name, [".safetensors"], overwrite=options.overwrite)
    found = import_checkpoint(checkpoint)
    if found.denoiser is None and options.denoiser is not None:
        raise UserError(f"--denoiser: {checkpoint} holds no denoiser")
    if found.model is None and options.denoiser is not None:
        raise UserError(f"--denoiser: {checkpoint} holds a denoiser and nothing else; --out is where it goes")
    written: list[tuple[str, FittedModel | Denoiser]] = []
    if found.model is not None:
        written.append((options.out, found.model))
    if found.denoiser is not None and (found.model is None or options.denoiser is not None):
        written.append((options.denoiser or options.out, found.denoiser))
    elif found.denoiser is not None:
        log.info("the checkpoint also holds a denoiser; --denoiser FILE writes it")
    for name, model in written:
        if Path(checkpoint).is_file():
            model.card["imported"]["checkpoint sha256"] = file_hash(checkpoint)
        save(model, name)
        print(name)
    log.info("these weights are under %s: see their authors' terms", written[0][1].card["imported"]["licence"])
    return 0
