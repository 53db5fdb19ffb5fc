"""Fit a model to a data set and write the run folder."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from noiseflow.datasets import (
    Burst,
    BurstDataset,
    FramePair,
    NoiseDataset,
    collate,
    hold_out,
    open_bursts,
    open_dataset,
)
from noiseflow.datasets.mean_truth import with_signal
from noiseflow.errors import UserError
from noiseflow.files import save, write_atomically
from noiseflow.folders import claim
from noiseflow.models import ARCHITECTURES, BASELINES, FittedModel, Flow, Gaussian, Isotropic, NoiseLevelFunction
from noiseflow.options import DataOptions, FitOptions, as_dict, listed
from noiseflow.progress import SILENT, Progress
from noiseflow.shot import Shot
from noiseflow.training.card import card_of, provenance
from noiseflow.training.from_profile import profile_of, take_profile
from noiseflow.training.full_covariance import fit_full_covariance
from noiseflow.training.intensity import fit_intensity
from noiseflow.training.noise_level import fit_noise_level
from noiseflow.training.physics import fit_physics

log = logging.getLogger(__name__)

CHECKPOINT = "last.ckpt"
"""Name of the checkpoint in a run folder."""

BEGUN = ("config.yaml", "environment.json")
"""What a run folder has before the first step."""

DEFAULT_STEPS = {"noise_flow": 1200, "glow": 1500, "noise_flow_paper": 1200, "srgb_flow": 1200}
"""Training steps where none are asked for."""

_MEAN_WEIGHT = {"srgb_flow": 1.0}
"""Weight of the squared bias of a flow's draws where none is given; 0 for the others, whose draws hardly have one."""

PATCH, LEARNING_RATE = 64, 4e-3
"""Side of the patches and peak of the learning rate where none are asked for."""

_INVERSIONS = 2
_VALUES_PER_PAIR = 100_000
_CALIBRATION_PATCH = 16  # many small ones: neighbouring values tell less than distant ones


def fit(options: FitOptions, progress: Progress = SILENT) -> bool:
    """Fit a model and write its run folder: config.yaml, metrics.csv, last.ckpt, model.safetensors, environment.json.

    Args:
        options: what to fit, to what, and where to.
        progress: what shows how far it has come.

    Returns:
        True if the run was finished, False if Ctrl-C ended it early; the folder is whole either way.

    Raises:
        UserError: bad input, said in a sentence.
    """
    if options.model not in ARCHITECTURES:
        raise UserError(f"model: expected one of {', '.join(ARCHITECTURES)}, got {options.model!r}")
    accelerator(options.device)
    if options.condition == "srgb" and options.model in BASELINES:
        raise UserError(
            f"--condition srgb: expected a flow, got {options.model}; the baselines see the clean raw frame"
        )
    if options.noisy_only:
        from noiseflow.training.fit_noisy import noisy_options

        options = noisy_options(options)
    else:
        _check_noisy_options(options)
    dataset = open_chosen(options)
    options = replace(
        options,
        domain=dataset.domain,  # type: ignore[arg-type]
        steps=_steps(options),
        patch=options.patch or PATCH,
        learning_rate=LEARNING_RATE if options.learning_rate is None else options.learning_rate,
        mean_weight=_mean_weight(options),
    )
    model = build(options, dataset)
    if isinstance(dataset, NoiseDataset):
        profile_of(options, dataset)  # bad input is said before anything is made
    out = claim(options.out, overwrite=options.overwrite)
    for name in ("model.safetensors", "denoiser.safetensors", "metrics.csv", CHECKPOINT):
        (out / name).unlink(missing_ok=True)  # with --overwrite: nothing of another run stays
    try:
        write_config(out, options, dataset)
        return complete(model, options, dataset, None, progress)
    except (UserError, OSError):
        if not (out / "metrics.csv").is_file():  # no step was taken: the same command can be given again
            for name in BEGUN:
                (out / name).unlink(missing_ok=True)
        raise


def complete(
    model: FittedModel,
    options: FitOptions,
    dataset: NoiseDataset | BurstDataset,
    checkpoint: dict[str, Any] | None,
    progress: Progress,
) -> bool:
    """Train a new model from the start or from a checkpoint, and save the model; see `fit`."""
    started = time.monotonic()
    if isinstance(dataset, BurstDataset):
        from noiseflow.training.fit_noisy import train_noisy

        finished = train_noisy(model, dataset, options, checkpoint, progress)
    else:
        finished = _complete(model, options, dataset, checkpoint, progress)
    out = Path(options.out)
    environment = json.loads((out / "environment.json").read_text())
    write_environment(out, environment | {"seconds": round(time.monotonic() - started, 1)})
    return finished


def _complete(
    model: FittedModel,
    options: FitOptions,
    dataset: NoiseDataset,
    checkpoint: dict[str, Any] | None,
    progress: Progress,
) -> bool:
    """The same on pairs of noisy and clean images."""
    train, validation = hold_out(dataset.frames, 0.1, 0) if options.model in DEFAULT_STEPS else (dataset.frames, ())
    if options.model in DEFAULT_STEPS and not validation:
        log.info("no scene can be held out for validation; training on all %d images", len(train))
    for frame in validation:
        frame.size, frame.declared_lsb  # noqa: B018 (a damaged file is said now, not after hours; training's are read next)
    finished, scores = True, dict[str, Any]()
    if checkpoint is None:
        progress.start("fitting the noise level function")
        patches = calibration_patches(train, options.seed)
        if not isinstance(model, Flow):
            model = fit_baseline(options.model, *patches)
        else:
            _start(model, *patches, options, dataset)
    if isinstance(model, Flow):
        finished, scores = _train(model, train, validation, options, checkpoint, progress)
    model.card = card_of(options, dataset, train, validation, scores)
    save(model, Path(options.out) / "model.safetensors")
    return finished


def write_config(
    out: Path, options: DataOptions, dataset: NoiseDataset | BurstDataset, more: dict[str, Any] | None = None
) -> None:
    """Write what repeats the run and where it was made, and more of that, before it begins."""
    write_environment(out, provenance(options) | {"data_hash": dataset.root_hash()} | (more or {}))
    write_atomically(out / "config.yaml", yaml.safe_dump(as_dict(options), sort_keys=True).encode())


def write_environment(out: Path, environment: dict[str, Any]) -> None:
    """Write `environment.json`."""
    write_atomically(out / "environment.json", json.dumps(environment, indent=2).encode() + b"\n")


def open_chosen(options: FitOptions) -> NoiseDataset | BurstDataset:
    """The images, or with --noisy-only the bursts, that options select."""
    if not options.noisy_only:
        return open_split(options, options.split, condition=options.condition)
    cameras, isos = selected(options)
    dataset = open_bursts(options.data, domain=options.domain, black=options.black, white=options.white)
    from noiseflow.training.fit_noisy import fit_for_training

    chosen = dataset.select(split=options.split, cameras=cameras, isos=isos, max_images=options.max_images)
    return fit_for_training(chosen, keep=options.unfit == "keep")


def open_split(options: DataOptions, split: str, *, domain: str | None = None, condition: str = "raw") -> NoiseDataset:
    """The images that data options select; with condition srgb, raw ones with their clean picture."""
    cameras, isos = selected(options)
    dataset = open_dataset(
        options.data,
        domain=options.domain or domain,
        condition=condition,
        black=options.black,
        white=options.white,
    )
    chosen = dataset.select(split=split, cameras=cameras, isos=isos, max_images=options.max_images)
    if chosen.truth == "mean" and chosen.domain == "raw" and options.mean_truth == "invert":
        return invert_mean(chosen, options.seed)
    return chosen


def selected(options: DataOptions) -> tuple[list[str] | None, list[float] | None]:
    """The cameras and ISOs that options name; None for all."""
    isos = listed(options.isos)
    try:
        numbers = None if isos is None else [float(iso) for iso in isos]
    except ValueError:
        raise UserError(f"--isos: expected numbers separated by commas, got {options.isos!r}") from None
    if options.max_images is not None and options.max_images < 1:
        raise UserError(f"--max-images: expected at least 1, got {options.max_images}")
    return listed(options.cameras), numbers


def invert_mean(dataset: NoiseDataset, seed: int) -> NoiseDataset:
    """Take ground truths that are a mean of recorded frames back to the signal (`noiseflow.clipped_mean`).

    The noise level function that this needs is fitted to the same images, and once more to what it made of them.

    Args:
        dataset: raw pairs.
        seed: seed of the places that the fit looks at.
    """
    for _ in range(_INVERSIONS):
        dataset = with_signal(dataset, fit_noise_level(*calibration_patches(dataset.frames, seed)))
    return dataset


def calibration_patches(frames: Sequence[FramePair], seed: int) -> tuple[Tensor, Shot]:
    """About 100,000 values of every (camera, ISO) pair in small patches, spread evenly over its frames.

    Args:
        frames: the frames to read.
        seed: seed of the positions.

    Returns:
        Noisy patches `(B, C, h, w)` and their shot.
    """
    side = min(_CALIBRATION_PATCH, *(min(frame.size) for frame in frames))
    by_pair: dict[tuple[str, float], list[FramePair]] = {}
    for frame in frames:
        by_pair.setdefault((frame.camera, frame.iso), []).append(frame)
    pairs = []
    for key in sorted(by_pair):
        wanted = max(1, -(-_VALUES_PER_PAIR // (side * side * frames[0].channels)))
        for i, frame in enumerate(by_pair[key]):
            share = -(-(wanted - i) // len(by_pair[key]))  # as even as whole numbers allow
            rng = np.random.default_rng([seed, i, *frame.name.encode()])
            room = -(-frame.size[0] * frame.size[1] // (side * side))  # more would only read the same values again
            for _ in range(min(max(share, 0), room)):
                top, left = (int(rng.integers(0, size - side + 1)) for size in frame.size)
                pair = frame.read(top, left, side, side)
                if pair.is_finite:
                    pairs.append(pair)
    return collate(pairs)


def fit_baseline(name: str, noisy: Tensor, shot: Shot) -> FittedModel:
    """Fit a baseline to patches.

    Args:
        name: the baseline.
        noisy: `(B, C, H, W)`, stored values, linear units.
        shot: clean images and conditions.

    Raises:
        UserError: `physics` was asked for with pictures.
        ValueError: `isotropic` or `full` was asked for without.
    """
    if name == "physics":
        return fit_physics(noisy, shot)
    if name == "full":
        return fit_full_covariance(noisy, shot)
    kind = {"gaussian": Gaussian, "isotropic": Isotropic, "nlf": NoiseLevelFunction}[name]
    model = kind(zip(shot.camera_names, shot.iso.tolist(), strict=True), noisy.shape[1])
    model.level.copy_from(fit_noise_level(noisy, shot, slope=kind.slope, shared=kind.shared))
    return model.eval()


def _start(flow: Flow, noisy: Tensor, shot: Shot, options: FitOptions, dataset: NoiseDataset) -> None:
    """Make a flow equal to the noise level function of a profile or its data, given what it sees of the intensity."""
    intensity = None
    if flow.intensity is not None:
        fit_intensity(flow.intensity, shot)
        intensity = flow.intensity.curve(shot)
    level = fit_noise_level(noisy, shot, intensity=intensity)
    take_profile(level, profile_of(options, dataset))
    flow.start_from(level)


def _check_noisy_options(options: FitOptions) -> None:
    """Refuse options that without --noisy-only do nothing."""
    names = ("method", "denoiser", "denoiser_steps", "weight", "unfit")
    given = [name for name in names if getattr(options, name) != FitOptions.__dataclass_fields__[name].default]
    if given:
        raise UserError(f"--{given[0].replace('_', '-')}: only --noisy-only takes it")


def _steps(options: FitOptions) -> int:
    steps = DEFAULT_STEPS.get(options.model, 0) if options.steps is None else options.steps
    if steps < 0 or options.batch < 1 or (options.patch is not None and options.patch < 1):
        raise UserError(
            "--steps: expected 0 or more, --batch and --patch: expected 1 or more, "
            f"got {steps}, {options.batch} and {options.patch}"
        )
    return steps


def _mean_weight(options: FitOptions) -> float:
    if options.mean_weight is None:
        return 0.0 if options.noisy_only else _MEAN_WEIGHT.get(options.model, 0.0)
    if not 0 <= options.mean_weight < math.inf:
        raise UserError(f"--mean-weight: expected a number of 0 or above, got {options.mean_weight:g}")
    if options.mean_weight and options.noisy_only:
        raise UserError("--mean-weight: needs clean images, which --noisy-only does without")
    return options.mean_weight


def build(options: FitOptions, dataset: NoiseDataset | BurstDataset) -> FittedModel:
    """The model that options ask for, at its start.

    Raises:
        UserError: the architecture does not take these options.
    """
    extra = {name: getattr(options, name) for name in ("hidden", "layers") if getattr(options, name) is not None}
    if options.model not in BASELINES:
        extra["condition"] = options.condition
    if options.noisy_only and options.method == "published":
        extra |= {"released": True, "norm": True}
    if options.model != "noise_flow" and "layers" in extra:
        raise UserError("--layers: only noise_flow takes an order of layers")
    if options.model in BASELINES and options.mean_weight:
        raise UserError(f"--mean-weight: {options.model} is no flow; its noise has the mean that it was fitted")
    if options.model in BASELINES and "hidden" in extra:
        raise UserError(f"--hidden: {options.model} has no hidden layers")
    try:
        with torch.random.fork_rng(devices=[]):  # layers draw their start from the global generator
            torch.manual_seed(options.seed)
            return ARCHITECTURES[options.model](dataset.conditions, dataset.frames[0].channels, **extra)
    except ValueError as error:
        raise UserError(str(error)) from error


def _train(
    model: Flow,
    train: Sequence[FramePair],
    validation: Sequence[FramePair],
    options: FitOptions,
    checkpoint: dict[str, Any] | None,
    progress: Progress,
) -> tuple[bool, dict[str, Any]]:
    """Run Lightning on the model, in place; whether it was finished, and the scores for the card."""
    from noiseflow.training.likelihood import NoiseModelTask
    from noiseflow.training.trainer import train_on_patches

    assert options.patch is not None
    task, finished, scored = train_on_patches(
        partial(NoiseModelTask, model, mean_weight=options.mean_weight or 0.0),
        train,
        validation,
        options,
        patch=patch_within(options.patch, train, model.size_multiple, f"--model {options.model}"),
        checkpoint=checkpoint,
        progress=progress,
    )
    scores: dict[str, Any] = {"steps": task.step}
    if scored is not None and scored.latest is not None and scored.best is not None:
        if options.keep == "best":
            mass, step, state = scored.best
            model.load_state_dict(state)
            scores = {"steps": step, "val_mass": mass}
        else:
            scores |= {"validated_at": scored.latest[0], "val_mass": scored.latest[1]}
    model.eval()
    return finished, scores


def patch_within(patch: int, frames: Sequence[FramePair | Burst], multiple: int, network: str) -> int:
    """The side of patches that fits every frame and divides by a multiple; says so where it is not what was asked for.

    Args:
        patch: the side asked for.
        frames: what patches are cut from.
        multiple: what the side must divide by.
        network: what needs that, for the message.

    Raises:
        UserError: no patch fits.
    """
    smallest = min(frames, key=lambda frame: min(frame.size))
    room = min(smallest.size)
    if room < multiple:
        raise UserError(f"{network}: expected frames of {multiple} pixels or more, got {room} ({smallest.name})")
    if patch < multiple:
        raise UserError(f"{network}: expected --patch and frames of {multiple} pixels or more, got --patch {patch}")
    side = min(patch, room) // multiple * multiple
    if side < patch:
        log.info("patches of %d×%d, %s", side, side,
                 f"the size of {smallest.name}" if room < patch else f"a multiple of {multiple}")  # fmt: skip
    return side


def accelerator(device: str) -> str:
    """Lightning's name of a device option."""
    if device not in ("auto", "cpu", "cuda", "gpu"):
        raise UserError(f"--device: expected auto, cpu or cuda, got {device!r}")
    if device in ("cuda", "gpu") and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available here")
    return "gpu" if device == "cuda" else device


def torch_device(device: str) -> torch.device:
    """The device that a device option means here."""
    return torch.device("cuda" if accelerator(device) != "cpu" and torch.cuda.is_available() else "cpu")
