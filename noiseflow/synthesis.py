"""Noisy and clean pairs from a folder of clean images: resumable, by several processes, the same bytes every time.

`OUT` holds `noisy/`, `clean/`, `pairs.csv` (a data set that `fit` and `evaluate` read, and the manifest: camera, ISO
and seed of every file), `synthesize.json` (the command) and `records/` (a file for every clean image that is done).
Everything about an image is a function of its bytes, of the model and of the command, so it does not matter which
process makes it, or when. A file appears under its name when it is whole, and an image's record after all its files:
a run that was killed goes on with the images that have none.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from noiseflow.adapters.conditions import said
from noiseflow.datasets.pairs import FILE_NAME
from noiseflow.errors import UserError
from noiseflow.evaluation.parallel import Crew
from noiseflow.files import write_atomically
from noiseflow.folders import claim, images_below
from noiseflow.models import FittedModel
from noiseflow.pair_maker import PARTIAL, RECORDS, PairMaker, Recipe, Row
from noiseflow.progress import SILENT, Progress

COMMAND_FILE = "synthesize.json"
"""What was asked for: a folder that holds it can be gone on with."""

COLUMNS = ("noisy", "clean", "camera", "iso", "scene", "lsb", "cfa", "seed", "source")
"""Columns of `pairs.csv`; the last two are for the record."""


def synthesize_folder(
    source: Path,
    out: Path,
    model: FittedModel,
    recipe: Recipe,
    *,
    model_hash: str,
    workers: int = 0,
    device: torch.device | None = None,
    overwrite: bool = False,
    crew: Crew | None = None,
    progress: Progress = SILENT,
) -> int:
    """Make noisy and clean pairs of every image in a folder.

    Pictures given to a model of raw noise are taken back to plausible raw frames first (`unrender`), with the white
    balance of the virtual phones and `PHONE_MATRIX`.

    Args:
        source: folder of clean images, searched through: mosaics (MAT, NPY, PNG, TIFF, camera raw) or pictures.
        out: the folder to write; a new one, or one that the same command has begun.
        model: the noise.
        recipe: what to make.
        model_hash: tells models apart.
        workers: processes that work beside this one; 0: this one works.
        device: where noise is drawn; default the CPU.
        overwrite: begin anew in a folder that is not empty. Files of the same names are replaced.
        crew: processes on one or more machines that share the images and `out`; default this one alone.
        progress: shows the images done.

    Returns:
        The number of pairs in `pairs.csv`, on the first process; 0 on others.

    Raises:
        UserError: bad input, said in a sentence.
    """
    crew = crew or Crew()
    model.conditions.allow_unseen = recipe.allow_unseen
    recipe.check(model)
    items = find_images(source, out)
    command = {"format": 1, "model": model.architecture[0], "model_hash": model_hash} | asdict(recipe)
    command["iso"] = None if recipe.iso is None else said(recipe.iso)
    content = json.dumps(command, indent=2, sort_keys=True).encode() + b"\n"
    crew.after_first(lambda: _begin(out, content, items, overwrite=overwrite), "begun")
    mine = crew.share(len(items))
    folder = out / PARTIAL
    for left in folder.glob("*"):  # what killed processes left behind, each rank its own
        if int(left.name.partition("-")[0]) % crew.size == crew.rank:
            shutil.rmtree(left, ignore_errors=True)
    work = PairMaker([items[i] for i in mine], source, out, model, recipe, device or torch.device("cpu"), crew.rank)
    context = "spawn" if workers and work.device.type == "cuda" else None
    loader = DataLoader(work, batch_size=None, num_workers=workers, multiprocessing_context=context)
    progress.start("synthesizing", len(mine))
    made: list[list[Row]] = []
    try:
        for rows in loader:
            made.append(rows)
            progress.update(1)
        shares = crew.gather(made, "rows")
        if not shares:
            return 0
        table = [row for i in range(len(items)) for row in shares[i % crew.size][i // crew.size]]
        if not table:
            raise UserError(f"{source}: all images are too small: see above")
    except Exception:
        if crew.size == 1 and not (out / RECORDS).exists():  # nothing was made: another command can be given
            shutil.rmtree(folder, ignore_errors=True)
            (out / COMMAND_FILE).unlink(missing_ok=True)
        raise
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomically(out / FILE_NAME, text.getvalue().encode())
    shutil.rmtree(folder, ignore_errors=True)
    return len(table)


def find_images(source: Path, out: Path) -> list[Path]:
    """The clean images of a folder, relative to it and sorted; hidden files, others and those in `out` are left out.

    Raises:
        UserError: no folder, no image, or two whose results would have one name.
    """
    if not source.is_dir():
        raise UserError(f"{source}: expected a folder of clean images, got {'a file' if source.exists() else 'none'}")
    items = images_below(source, out, "clean", lambda item: not any(part.startswith(".") for part in item.parts))
    seen: dict[Path, Path] = {}
    for item in items:
        other = seen.setdefault(item.with_suffix(""), item)
        if other != item:
            raise UserError(f"{source}: the results of {other} and {item} would have one name; rename one")
    return items


def _begin(out: Path, command: bytes, items: Sequence[Path], *, overwrite: bool) -> None:
    """Claim the folder, or see that the same command has begun it."""
    written = out / COMMAND_FILE
    if written.is_file() and not overwrite:
        if written.read_bytes() != command:
            raise UserError(f"{out}: another command or model began this folder ({written}); pass --overwrite")
        wanted = {f"{item.as_posix()}.json" for item in items}
        records = out / RECORDS
        strange = sorted({path.relative_to(records).as_posix() for path in records.rglob("*.json")} - wanted)
        if strange:
            raise UserError(f"{out}: made of {strange[0].removesuffix('.json')}, too, which is gone; pass --overwrite")
        return
    (out / f".part-{COMMAND_FILE}").unlink(missing_ok=True)  # of a run that was killed at once
    claim(out, overwrite=overwrite)
    (out / FILE_NAME).unlink(missing_ok=True)
    shutil.rmtree(out / RECORDS, ignore_errors=True)
    write_atomically(written, command)
