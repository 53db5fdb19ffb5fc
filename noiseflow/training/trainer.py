"""Lightning's trainer as all training here runs it, with the files and the progress of a run folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch

from noiseflow.datasets import FramePair
from noiseflow.options import DenoiseFitOptions, FitOptions
from noiseflow.progress import Progress
from noiseflow.training.batches import PatchDataModule
from noiseflow.training.fit import CHECKPOINT, accelerator
from noiseflow.training.run import Checkpoints, MetricsFile, ShowProgress, StopOnInterrupt, Validation
from noiseflow.training.task import Task


class Trained(NamedTuple):
    """What came of a training.

    Attributes:
        task: what was trained.
        finished: False if Ctrl-C ended it early.
        scored: what scored the validation scenes; None where there are none.
    """

    task: Task
    finished: bool
    scored: Validation | None


def train_on_patches(
    make_task: Callable[..., Task],
    train: Sequence[FramePair],
    validation: Sequence[FramePair],
    options: FitOptions | DenoiseFitOptions,
    *,
    patch: int,
    checkpoint: dict[str, Any] | None,
    progress: Progress,
) -> Trained:
    """Train a network on patches of pairs of images, in the run folder that options name.

    Args:
        make_task: makes the task, given what all tasks take.
        train: frames to train on.
        validation: frames of the held-out scenes; may be empty.
        options: length, batch, learning rate, seed, workers, device and folder of the run, all of them decided.
        patch: side of the patches, in pixels of the tensors.
        checkpoint: the loaded checkpoint to go on from; None: from the start.
        progress: what shows how far it has come.
    """
    assert options.steps is not None
    data = PatchDataModule(
        train,
        validation,
        patch=patch,
        batch=options.batch,
        steps=options.steps,
        seed=options.seed,
        first_step=0 if checkpoint is None else int(checkpoint["noiseflow_step"]),
        workers=options.workers,
    )
    task = make_task(
        steps=options.steps,
        learning_rate=options.learning_rate,
        seed=options.seed,
        resume_from=checkpoint,
        source=lambda number: str(data.train_patches.frame_of(number).files[0]),
    )
    task.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task.model.train()
    scored = Validation(max(50, options.steps // 10), options.steps) if validation else None
    if scored is not None and checkpoint is not None:
        scored.restore(checkpoint)
    finished = run_trainer(
        task,
        data,
        out=Path(options.out),
        steps=options.steps,
        device=options.device,
        progress=progress,
        scored=scored,
    )
    return Trained(task, finished, scored)


def run_trainer(
    task: Task,
    data: L.LightningDataModule,
    *,
    out: Path,
    steps: int,
    device: str,
    progress: Progress,
    scored: Validation | None = None,
    clip: float | None = 1.0,
) -> bool:
    """Train until `steps` have been taken since the very start.

    Args:
        task: what to train, at its start or restored from a checkpoint.
        data: the batches.
        out: the run folder.
        steps: length of the run, steps of earlier processes among them.
        device: the device option.
        progress: what shows how far it has come.
        scored: scores validation scenes; None without.
        clip: largest norm of a gradient; None: any.

    Returns:
        False if Ctrl-C ended it early.
    """
    interrupt = StopOnInterrupt()
    # In this order: a step is validated, then written down, then kept.
    callbacks: list[L.Callback] = [] if scored is None else [scored]
    callbacks += [
        MetricsFile(out / "metrics.csv", scored),
        Checkpoints(out / CHECKPOINT),
        ShowProgress(progress, steps - task.first_step, scored),
        interrupt,
    ]
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
        trainer = L.Trainer(
            max_steps=steps - task.first_step,
            accelerator=accelerator(device),
            devices=1,
            gradient_clip_val=clip,
            limit_val_batches=0,  # the Validation callback counts steps from the very start
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
        trainer.fit(task, datamodule=data)
    return not interrupt.stopped
