"""`denoise fit`: a denoiser trained on noise from one source, in a run folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from noiseflow.datasets import FramePair, NoiseDataset, hold_out
from noiseflow.denoise import NETWORKS, Denoiser
from noiseflow.denoise.score import POLICY, WINDOW, as_rows, score_frames, summary
from noiseflow.denoise.sources import Recorded, Redrawn, Source, chosen_pairs, grids_of
from noiseflow.errors import UserError
from noiseflow.files import file_hash, load, model_path, save, write_atomically
from noiseflow.folders import claim
from noiseflow.models import BASELINES, FittedModel
from noiseflow.options import DenoiseFitOptions, DenoiserOptions
from noiseflow.progress import SILENT, Progress
from noiseflow.sensors import SensorTruth
from noiseflow.training.card import card_of
from noiseflow.training.denoiser import DenoiserTask
from noiseflow.training.fit import (
    BEGUN,
    CHECKPOINT,
    accelerator,
    calibration_patches,
    fit_baseline,
    open_split,
    patch_within,
    selected,
    torch_device,
    write_config,
    write_environment,
)
from noiseflow.training.resume import check_unchanged, checkpoint_of, recorded, with_changes

log = logging.getLogger(__name__)

SCORES = "scores.json"
"""Name of the file of a finished run with the scores of every image."""

FILE = "denoiser.safetensors"
"""Name of the denoiser's file in a run folder."""

SOURCES = ("real", "sensor", *BASELINES)
"""What `--noise` takes beside noise models."""


class Noise(NamedTuple):
    """What `--noise` named.

    Attributes:
        name: as it goes into the denoiser's card: one of `SOURCES`, or the architecture of the model.
        model: the noise model, where it was given as a file.
        digest: SHA-256 of that file.
    """

    name: str
    model: FittedModel | None = None
    digest: str | None = None


def open_noise(options: DenoiserOptions, noise: str) -> Noise:
    """Find what `--noise` names; models are loaded, baselines not yet fitted.

    Raises:
        UserError: it is neither a source nor a readable model.
    """
    if noise in SOURCES:
        return Noise(noise)
    try:
        path = model_path(noise)
    except UserError as error:
        raise UserError(f"--noise: expected {', '.join(SOURCES)} or a noise model; {error}") from error
    model = load(path, black=options.black, white=options.white)
    return Noise(model.architecture[0], model, file_hash(path))


def fit_denoiser(options: DenoiseFitOptions, progress: Progress = SILENT) -> bool:
    """Train a denoiser and write its run folder.

    The folder holds config.yaml, metrics.csv, last.ckpt, denoiser.safetensors, environment.json and, when it is
    finished, scores.json.

    Args:
        options: the denoiser, the noise, the images, and where to.
        progress: what shows how far it has come.

    Returns:
        True if the run was finished, False if Ctrl-C ended it early; the folder is whole either way.

    Raises:
        UserError: bad input, said in a sentence.
    """
    accelerator(options.device)
    noise = open_noise(options, options.noise)
    dataset = open_images(options, noise)
    options = replace(options, domain=dataset.domain)  # type: ignore[arg-type]
    network = build_network(options, dataset.frames[0].channels)
    check_noise(noise, dataset)
    out = claim(options.out, overwrite=options.overwrite)
    for name in (FILE, SCORES, "metrics.csv", CHECKPOINT):
        (out / name).unlink(missing_ok=True)  # with --overwrite: nothing of another run stays
    try:
        write_config(out, options, dataset, {"noise": noise.name, "noise_hash": noise.digest})
        return _complete(network, noise, options, dataset, None, progress)
    except (UserError, OSError):
        if not (out / "metrics.csv").is_file():  # no step was taken: the same command can be given again
            for name in BEGUN:
                (out / name).unlink(missing_ok=True)
        raise


def resume_denoiser(run: str | Path, changes: dict[str, Any], progress: Progress = SILENT) -> bool:
    """Train a run to its end from its last checkpoint; arguments, result and errors as `noiseflow.training.resume`.

    The noise model may have moved (`noise` among the changes), but not changed.
    """
    folder = Path(run)
    options, environment = recorded(folder, DenoiseFitOptions)
    options = with_changes(options, environment, changes, folder, "noise")
    noise = open_noise(options, options.noise)
    if (noise.name, noise.digest) != (environment.get("noise"), environment.get("noise_hash")):
        raise UserError(f"--noise {options.noise}: not the noise that the run began with")
    dataset = open_images(options, noise)
    check_unchanged(dataset, options, environment, changes)
    checkpoint = checkpoint_of(folder / CHECKPOINT)
    done = 0 if checkpoint is None else int(checkpoint["noiseflow_step"])
    if options.steps < done:
        raise UserError(f"--steps: the run has already taken {done} steps, more than {options.steps}")
    log.info("going on after step %d of %d", done, options.steps)
    network = build_network(options, dataset.frames[0].channels)
    check_noise(noise, dataset)
    (folder / SCORES).unlink(missing_ok=True)
    write_config(folder, options, dataset, {"noise": noise.name, "noise_hash": noise.digest})
    return _complete(network, noise, options, dataset, checkpoint, progress)


def open_images(options: DenoiserOptions, noise: Noise) -> NoiseDataset:
    """The images to train on; with their clean pictures for noise models that are conditioned on those."""
    model = noise.model
    domain = None if model is None else {3: "srgb", 4: "raw"}.get(model.channels)
    return open_split(options, options.split, domain=domain, condition="raw" if model is None else model.condition)


def build_network(options: DenoiserOptions, channels: int) -> Denoiser:
    """The network that options ask for, at the start that `--seed` gives it, whatever the noise.

    Raises:
        UserError: the network does not take these options, or a number is out of range.
    """
    if options.steps < 0 or options.batch < 1 or options.patch < 1 or not options.learning_rate > 0:
        raise UserError("--steps: expected 0 or more; --batch, --patch, --learning-rate: expected positive numbers")
    extra = {name: getattr(options, name) for name in ("width", "depth") if getattr(options, name) is not None}
    taken = {"dncnn": ("width", "depth"), "nafnet-small": ("width",)}.get(options.network, ())
    for name in extra:
        if name not in taken:
            raise UserError(f"--{name}: {options.network} has a fixed one")
    try:
        with torch.random.fork_rng(devices=[]):  # layers draw their start from the global generator
            torch.manual_seed(options.seed)
            return NETWORKS[options.network](channels, **extra)
    except ValueError as error:
        raise UserError(str(error)) from error


def source_of(
    noise: Noise, options: DenoiserOptions, dataset: NoiseDataset, train: Sequence[FramePair], progress: Progress
) -> Source:
    """What makes the noisy images: baselines are fitted to the frames to train on.

    Raises:
        UserError: no camera and ISO that the model knows was asked for, or `physics` for pictures.
    """
    if noise.name == "real" and noise.model is None:
        return Recorded()
    if noise.name == "sensor" and noise.model is None:
        assert dataset.sensor is not None
        pairs = tuple(sorted({(frame.camera, float(frame.iso)) for frame in train}))
        truth = SensorTruth.from_dict(dataset.sensor)
        return Redrawn(truth, pairs, grids_of(train, truth.cameras, dataset.frames[0].channels, truth))
    model = noise.model
    if model is None:
        progress.start(f"fitting {noise.name}")
        model = fit_baseline(noise.name, *calibration_patches(train, options.seed))
    cameras, isos = (options.noise_cameras or options.cameras), (options.noise_isos or options.isos)
    pairs = chosen_pairs(model.conditions.pairs, *selected(replace(options, cameras=cameras, isos=isos)))
    drawn = tuple(dict.fromkeys(camera for camera, _ in pairs))
    return Redrawn(model, pairs, grids_of(train, drawn, model.channels, model))


def scored_frames(
    options: DenoiserOptions, dataset: NoiseDataset, validation: Sequence[FramePair]
) -> tuple[Sequence[FramePair], str]:
    """What a denoiser is scored on, and its name: the test split, else the scenes held out from training."""
    if options.split == "train" and "test" in dataset.split_of.values():
        return open_split(options, "test", domain=dataset.domain).frames, "test"
    return validation, "validation"


def _complete(
    network: Denoiser,
    noise: Noise,
    options: DenoiseFitOptions,
    dataset: NoiseDataset,
    checkpoint: dict[str, Any] | None,
    progress: Progress,
) -> bool:
    """Train a new network from the start or from a checkpoint, save and score it."""
    from noiseflow.training.trainer import train_on_patches

    started, out = time.monotonic(), Path(options.out)
    train, validation = hold_out(dataset.frames, 0.1, 0)
    frames, split = scored_frames(options, dataset, validation)
    _check_sizes(frames)
    source = source_of(noise, options, dataset, train, progress)
    patch = patch_within(options.patch, (*train, *validation), network.size_multiple, f"--network {options.network}")
    task, finished, _ = train_on_patches(
        partial(DenoiserTask, network, source),
        train,
        validation,
        options,
        patch=patch,
        checkpoint=checkpoint,
        progress=progress,
    )
    assert isinstance(task, DenoiserTask)
    network.eval()
    scores: dict[str, Any] = {"steps": task.step}
    rows: list[dict[str, Any]] = []
    if finished and frames:
        network.to(torch_device(options.device))
        found = score_frames(network, frames, progress=progress)
        scores |= {"on": split, "policy": POLICY, **summary(found)}
        rows = as_rows(found)
    network.to("cpu")
    network.card = _card(noise, options, dataset, train, validation, scores)
    save(network, out / FILE)
    environment = json.loads((out / "environment.json").read_text())
    timing = {"seconds": round(time.monotonic() - started, 1)}
    if task.step_seconds:
        timing |= {
            "step_ms": 1000 * task.step_seconds / max(1, task.step - task.first_step),
            "drawing_share": task.drawing_seconds / task.step_seconds,
        }
    write_environment(out, environment | timing)
    if finished:
        write_atomically(out / SCORES, json.dumps({"format": 1, **scores, "by_image": rows}, indent=1).encode())
    return finished


def _card(
    noise: Noise,
    options: DenoiseFitOptions,
    dataset: NoiseDataset,
    train: Sequence[FramePair],
    validation: Sequence[FramePair],
    scores: dict[str, Any],
) -> dict[str, Any]:
    card = card_of(options, dataset, train, validation, scores)
    card["protocol"] |= {"noise": noise.name, "noise_hash": noise.digest}  # no path in a model file
    return card


def check_noise(noise: Noise, dataset: NoiseDataset) -> None:
    """Refuse noise that does not fit the images, before anything is written."""
    channels = dataset.frames[0].channels
    if noise.model is not None and noise.model.channels != channels:
        raise UserError(
            f"--noise: expected a model of {channels} channels, as the images have, got a {noise.model.packing} one"
        )
    if noise.name == "sensor" and noise.model is None and (dataset.sensor is None or dataset.domain != "raw"):
        raise UserError(f"--noise sensor: expected raw images of a simulated tree with sensor.json, got {dataset.root}")


def _check_sizes(frames: Sequence[FramePair]) -> None:
    for frame in frames:
        if min(frame.size) < WINDOW:
            raise UserError(
                f"{frame.name}: expected images of {WINDOW}×{WINDOW} pixels or more to score, got "
                f"{frame.size[0]}×{frame.size[1]}"
            )
