"""`noiseflow evaluate`."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from noiseflow.conditions import UnknownConditionError
from noiseflow.datasets import NoiseDataset
from noiseflow.errors import UserError
from noiseflow.evaluation import Entry, SampleFolder, evaluate
from noiseflow.evaluation.parallel import Crew, crew
from noiseflow.files import file_hash, load, model_path
from noiseflow.folders import claim
from noiseflow.models import BASELINES, FittedModel
from noiseflow.options import EvaluateOptions, listed
from noiseflow.progress import SILENT, Progress, open_progress
from noiseflow.report import render_table, write_report
from noiseflow.training.fit import calibration_patches, fit_baseline, open_split, torch_device

log = logging.getLogger(__name__)


def run(models: list[str], options: EvaluateOptions, command: str) -> int:
    """Score the models, write the report, print the table and the page's path."""
    from rich.console import Console

    with crew() as together:
        with open_progress() if together.rank == 0 else SILENT as progress:
            scored = score(models, options, command, progress, together)
        if scored is None:
            return 0
    results, page = scored
    console = Console()
    console.print(render_table(results))
    console.print(str(page), soft_wrap=True, highlight=False)
    return 0


def score(
    models: list[str], options: EvaluateOptions, command: str, progress: Progress, together: Crew | None = None
) -> tuple[dict[str, Any], Path] | None:
    """Score models given as files, run folders or baselines' names.

    Args:
        models: what the command line names.
        options: which data, and where to write.
        command: the command line, for the page.
        progress: shows how far it has come.
        together: the processes that score together; default this one alone.

    Returns:
        The results and the path of the page; None on all processes but the first.
    """
    together = together or Crew()
    folders = listed(options.samples) or []
    files = [None if name in BASELINES else model_path(name) for name in models]
    loaded = [None if path is None else load(path, black=options.black, white=options.white) for path in files]
    first = next((model for model in loaded if model is not None), None)
    pictured = any(model is not None and model.condition == "srgb" for model in loaded)
    domain = None if first is None else _domain(first)
    dataset = open_split(options, options.split, domain=domain, condition="srgb" if pictured else "raw")
    for name, model in zip(models, loaded, strict=True):
        channels = dataset.frames[0].channels
        if model is not None and model.channels != channels:
            raise UserError(f"{name}: a {model.packing} model, but the images have {channels} channels")
    device = torch_device(options.device)
    protocol: dict[str, Any] = {}
    baselines: dict[str, FittedModel] = {}
    if any(path is None for path in files):
        source = next((Path(name) for name, path in zip(models, files, strict=True) if path is not None), None)
        fitting = _baseline_images(options, dataset, source)
        protocol["baselines_fitted_on"] = (
            f"{len(fitting.frames)} images of {len({f.scene for f in fitting.frames})} scenes, "
            f"data {fitting.root_hash()[:16]}, {fitting.split_protocol}"
        )
        progress.start("fitting the baselines")
        noisy, shot = calibration_patches(fitting.frames, options.seed)
        baselines = {name: fit_baseline(name, noisy, shot) for name in dict.fromkeys(models) if name in BASELINES}
    entries: list[Entry] = []
    for name, path, model in zip(models, files, loaded, strict=True):
        chosen = baselines[name] if model is None else model
        chosen.conditions.allow_unseen = options.allow_unseen
        digest = None if path is None else file_hash(path)
        entries.append(Entry(_label(name, path, [e.name for e in entries]), chosen, digest))
    _check_conditions(entries, dataset)
    for folder in folders:
        label = _label(Path(folder).name, None, [e.name for e in entries])
        entries.append(Entry(label, SampleFolder(folder, dataset)))
    out = Path(options.out)
    if together.rank == 0:
        out = claim(options.out, overwrite=options.overwrite)
    evaluation = evaluate(
        entries,
        dataset,
        split=options.split,
        seed=options.seed,
        device=device,
        samples=not options.no_samples,
        classifier=options.classifier and not options.no_samples,
        protocol=protocol,
        workers=options.workers,
        progress=progress,
        crew=together,
    )
    if evaluation is None:
        return None
    page = write_report(
        out,
        evaluation.results,
        curves=evaluation.curves,
        strips=evaluation.strips,
        command=command,
        structure=evaluation.structure,
    )
    return evaluation.results, page


def _domain(model: FittedModel) -> str | None:
    """The half of a SIDD tree that a model works on."""
    return {3: "srgb", 4: "raw"}.get(model.channels)


def _label(name: str, path: Path | None, taken: list[str]) -> str:
    """A short and unique name: the baseline's, or the run folder's or file's."""
    label = name
    if path is not None:
        label = path.parent.resolve().name if path.name == "model.safetensors" else path.stem
    unique, n = label, 2
    while unique in taken:
        unique, n = f"{label} ({n})", n + 1
    return unique


def _check_conditions(entries: list[Entry], dataset: NoiseDataset) -> None:
    """Every model must know every camera and ISO of the data, before any work is done."""
    from noiseflow.shot import Shot

    for entry in entries:
        assert isinstance(entry.source, FittedModel)
        for camera, iso in dataset.conditions:
            try:
                entry.source.conditions.locate(Shot.of(torch.zeros(1, 1, 1, 1), camera=camera, iso=iso))
            except UnknownConditionError as error:
                raise UserError(f"{entry.name}: {error}; --cameras and --isos narrow the data") from error


def _baseline_images(options: EvaluateOptions, scored: NoiseDataset, source: Path | None) -> NoiseDataset:
    """The images that baselines are fitted on, never those that are scored."""
    changes: dict[str, Any] = {"domain": scored.domain, "max_images": None}
    if options.baseline_data is not None:
        changes |= {"data": options.baseline_data}
        split = options.baseline_split or "train"
    else:
        recorded = _training_data(source)
        if recorded is None:
            raise UserError(
                "the baselines need data to be fitted on: pass --baseline-data ROOT "
                "(the first model's run folder would name its training data, but there is none)"
            )
        split = options.baseline_split or recorded.pop("split")
        changes |= recorded
    dataset = open_split(replace(options, **changes), split)
    scored_files = {file.resolve() for frame in scored.frames for file in frame.files}
    kept = tuple(f for f in dataset.frames if not any(file.resolve() in scored_files for file in f.files))
    missing = set(scored.conditions) - {(f.camera, f.iso) for f in kept}
    if missing:
        camera, iso = sorted(missing)[0]
        raise UserError(
            f"the baselines cannot be fitted for camera {camera!r} at ISO {iso:g}: no image of {dataset.root} ({split} "
            "split) shows it that is not scored itself; pass other --baseline-data, or score another --split"
        )
    return replace(dataset, frames=kept)


def _training_data(source: Path | None) -> dict[str, Any] | None:
    """Path, split and levels of the data that a run was trained on, from its folder."""
    if source is None:
        return None
    folder = source if source.is_dir() else source.parent
    config, environment = folder / "config.yaml", folder / "environment.json"
    if not config.is_file():
        return None
    try:
        chosen = yaml.safe_load(config.read_text())
        recorded = {key: chosen.get(key) for key in ("data", "split", "black", "white")}
        if environment.is_file():
            recorded["data"] = json.loads(environment.read_text())["data"]
    except (OSError, ValueError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: the run folder's config.yaml or environment.json is damaged ({error})") from error
    return recorded
