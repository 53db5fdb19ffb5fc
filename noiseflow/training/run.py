"""What a training run leaves behind while it goes on: metrics.csv, last.ckpt, progress; and how it is stopped."""

from __future__ import annotations

import copy
import csv
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch

from noiseflow.progress import Progress

_COLUMNS = ("step", "mass", "val_mass", "learning_rate")


class MetricsFile(L.Callback):
    """Writes one row a step to `metrics.csv`.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the file and write its header."""
        self._file = self.path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(_COLUMNS)
        self._row: list[object] = []

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the step before, and note the learning rate of this one: the schedule moves before it has ended."""
        self._write()
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note the step that has just been taken; validation may add to it."""
        self._row = [trainer.global_step, f"{float(outputs['loss']):.9g}", "", f"{self._learning_rate:.9g}"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the score on the validation scenes to the step it was taken after."""
        if self._row and "val_mass" in trainer.callback_metrics:
            self._row[2] = f"{float(trainer.callback_metrics['val_mass']):.9g}"

    def _write(self) -> None:
        if self._row:
            self._writer.writerow(self._row)
            self._file.flush()
            self._row = []

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the last step and close the file."""
        if hasattr(self, "_file"):
            self._write()
            self._file.close()


class Checkpoints(L.Callback):
    """Keeps `last.ckpt` up to date, and in memory the weights that were best on the validation scenes.

    Args:
        path: the checkpoint file.
        every: steps between checkpoints.
    """

    def __init__(self, path: Path, every: int = 500) -> None:
        self.path = path
        self.every = every
        self.best: tuple[float, int, dict[str, torch.Tensor]] | None = None

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save every so often."""
        if trainer.global_step % self.every == 0:
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the best weights so far."""
        mass = float(trainer.callback_metrics.get("val_mass", torch.inf))
        if mass < (self.best[0] if self.best else torch.inf):
            state = pl_module.model.state_dict()  # type: ignore[union-attr]
            self.best = (mass, trainer.global_step, copy.deepcopy(state))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of the run, finished or stopped."""
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        temporary = self.path.with_name(self.path.name + ".part")
        trainer.save_checkpoint(temporary)
        temporary.replace(self.path)


class ShowProgress(L.Callback):
    """Feeds a `Progress` with the running mass.

    Args:
        progress: what shows it.
        steps: length of the run.
    """

    def __init__(self, progress: Progress, steps: int) -> None:
        self.progress = progress
        self.steps = steps
        self._mass: float | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin."""
        self.progress.start("training", self.steps)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show a running mean over about the last 50 steps."""
        mass = float(outputs["loss"])
        self._mass = mass if self._mass is None else self._mass + 0.02 * (mass - self._mass)
        figures: dict[str, float | str] = {"mass": f"{self._mass:.4f} nats/value"}
        if "val_mass" in trainer.callback_metrics:
            figures["val"] = f"{float(trainer.callback_metrics['val_mass']):.4f}"
        self.progress.update(1, **figures)


class StopOnInterrupt(L.Callback):
    """The first Ctrl-C ends training after the step in hand, so that everything is saved; a second one kills.

    Attributes:
        stopped: whether the user asked for the end.
    """

    def __init__(self) -> None:
        self.stopped = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.stopped = True
            trainer.should_stop = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        self._previous = signal.signal(signal.SIGINT, stop)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if hasattr(self, "_previous"):
            signal.signal(signal.SIGINT, self._previous)
            del self._previous
