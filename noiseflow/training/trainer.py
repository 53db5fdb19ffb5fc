"""Lightning's trainer as all training here runs it, with the files and the progress of a run folder."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import lightning as L

from noiseflow.progress import Progress
from noiseflow.training.likelihood import NoiseModelTask
from noiseflow.training.run import Checkpoints, MetricsFile, ShowProgress, StopOnInterrupt, Validation


def run_trainer(
    task: NoiseModelTask,
    data: L.LightningDataModule,
    *,
    out: Path,
    checkpoint: str,
    steps: int,
    accelerator: str,
    progress: Progress,
    scored: Validation | None = None,
    clip: float | None = 1.0,
) -> bool:
    """Train until `steps` have been taken since the very start.

    Args:
        task: what to train, at its start or restored from a checkpoint.
        data: the batches.
        out: the run folder.
        checkpoint: name of the checkpoint in it.
        steps: length of the run, steps of earlier processes among them.
        accelerator: Lightning's name of the device.
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
        Checkpoints(out / checkpoint),
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
            accelerator=accelerator,
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
