"""`noiseflow sample`."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import torch

from noiseflow.calibration.exchange import Line
from noiseflow.calibration.lines import line_of
from noiseflow.conditions import UnknownConditionError
from noiseflow.errors import UserError
from noiseflow.files import file_hash, load, model_path, write_atomically
from noiseflow.folders import claim
from noiseflow.models import FittedModel, synthesize
from noiseflow.options import SampleOptions
from noiseflow.progress import open_progress
from noiseflow.randomness import combine, seed_of
from noiseflow.shot import CFA_PATTERNS, Shot
from noiseflow.stored import WRITERS, StoredImage, read_clean, shot_of
from noiseflow.training.fit import torch_device

log = logging.getLogger(__name__)

_SPAN = 0.05  # relative difference of white − black from which a raw file is not taken for the profile's camera's


def run(model_name: str, images: list[str], options: SampleOptions) -> int:
    """Write `<stem>_noisy_<k>` for every clean image, and `<stem>_noisy.json` with what it was made with."""
    file = model_path(model_name)
    model = load(file, black=options.black, white=options.white)
    options = replace(options, camera=_camera(model, options))
    model.conditions.allow_unseen = options.allow_unseen
    if options.count < 1:
        raise UserError(f"--count: expected at least 1, got {options.count}")
    if options.cfa is not None and options.cfa not in CFA_PATTERNS:
        raise UserError(f"--cfa: expected one of {', '.join(CFA_PATTERNS)}, got {options.cfa!r}")
    if not options.iso > 0:
        raise UserError(f"--iso: expected a positive number, got {options.iso:g}")
    try:
        model.conditions.locate(Shot.of(torch.zeros(1, 1, 1, 1), camera=options.camera, iso=options.iso))
    except UnknownConditionError as error:
        raise UserError(str(error)) from error
    if options.raw is not None and model.condition != "srgb":
        raise UserError("--raw: expected a model that is conditioned on pictures; this one takes the raw frame itself")
    stems = [Path(image).stem for image in images]
    twice = {stem for stem in stems if stems.count(stem) > 1}
    if twice:
        raise UserError(f"two clean images are called {sorted(twice)[0]!r}; their results would have one name")
    if model.condition == "srgb":
        from noiseflow.commands import sample_srgb

        return sample_srgb.run(model, file, images, options)
    for image in images[:0:-1]:  # bad input is said before anything is made
        read(image, model, options)
    first = read(images[0], model, options)
    line: Line | None = None
    device = torch_device(options.device)
    model.to(device)
    digest = file_hash(file)
    out = claim(options.out, overwrite=options.overwrite)
    with open_progress() as progress:
        progress.start("sampling", len(images) * options.count)
        for number, (image, stem) in enumerate(zip(images, stems, strict=True)):
            clean = first if number == 0 else read(image, model, options)
            shot = shot_for(clean, model, options)
            kind = options.format or clean.format
            if kind == "dng" and line is None and model.channels != 3:
                line = line_of(model, options.camera, options.iso)
            seeds, names = [], []
            # The seed of an image depends on its content, not on the other images of the command.
            own = seed_of(clean.image.numpy().tobytes())
            for k in range(options.count):
                seeds.append(int(combine(options.seed, own, k)))
                noisy = synthesize(model, shot.to(device), seed=seeds[-1])[0].cpu()
                names.append(f"{stem}_noisy_{k}.{kind}")
                WRITERS[kind](out / names[-1], noisy, clean, shot, line)
                progress.update(1)
            record = {
                "clean": Path(image).name,
                "files": names,
                "seed": options.seed,
                "noise_seeds": seeds,
                "model": model.architecture[0],
                "model_hash": digest,
                "camera": options.camera,
                "iso": options.iso,
                "cfa": clean.cfa,
                "lsb": shot.lsb[0].tolist(),
                "low": shot.low[0].tolist(),
                "high": shot.high[0].tolist(),
            }
            write_atomically(out / f"{stem}_noisy.json", json.dumps(record, indent=2, sort_keys=True).encode())
    print(out)
    return 0


def _camera(model: FittedModel, options: SampleOptions) -> str:
    """The camera that is meant: the one named, or the only one that the model knows."""
    if options.camera:
        return options.camera
    if len(model.cameras) != 1:
        raise UserError(f"--camera: expected one of those that the model knows: {', '.join(model.cameras)}; got none")
    return model.cameras[0]


def read(image: str, model: FittedModel, options: SampleOptions) -> StoredImage:
    """One clean image of the command line."""
    usual = model.card.get("cameras", {}).get(options.camera, {}).get("cfa")
    levels = {"black": options.black, "white": options.white}
    clean = read_clean(Path(image), model, **levels, cfa=options.cfa, usual_cfa=usual)
    if "profile" in model.card and clean.levels is not None and clean.codes is not None:
        _compare_levels(image, float(clean.codes.mean()), model, options)
    return clean


def _compare_levels(image: str, span: float, model: FittedModel, options: SampleOptions) -> None:
    """Say where a profile's codes are not those of a raw file: its noise is in parts of white."""
    known = 1 / float(model.card["cameras"][options.camera]["lsb"])
    if abs(span / known - 1) > _SPAN:
        log.warning(
            "%s: %.0f codes from black to white, in the profile %.0f: the noise is that of the profile's camera, "
            "relative to white", image, span, known,
        )  # fmt: skip


def shot_for(clean: StoredImage, model: FittedModel, options: SampleOptions) -> Shot:
    """Its shot, under the condition of the command line."""
    grid = {"lsb": options.lsb, "low": options.low, "high": options.high}
    return shot_of(clean, model, camera=options.camera, iso=options.iso, **grid)
