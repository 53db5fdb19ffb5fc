"""What a training run leaves behind while it goes on: metrics.csv, last.ckpt, progress; and how it is stopped."""

from __future__ import annotations

import copy
import errno
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch

from noiseflow.files import named, write_atomically, write_whole
from noiseflow.progress import Progress
from noiseflow.training.task import Task


class Validation(L.Callback):
    """Scores the validation scenes every so many steps, counted from the very start of a resumed run.

    Args:
        every: steps between scores; the last step is scored too.
        steps: length of the run.

    Attributes:
        last: the score after the step just taken, the task's `validated`; None where there was none.
        latest: step and value of the latest score.
        best: value, step and weights of the best score so far.
    """

    def __init__(self, every: int, steps: int) -> None:
        self.every = every
        self.steps = steps
        self.last: float | None = None
        self.latest: tuple[int, float] | None = None
        self.best: tuple[float, int, dict[str, torch.Tensor]] | None = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Score, if this step is one to be scored."""
        assert isinstance(pl_module, Task)
        self.last = None
        if pl_module.step % self.every and pl_module.step != self.steps:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        pl_module.model.eval()
        scores = [
            pl_module.validation_score(pl_module.transfer_batch_to_device(batch, pl_module.device, 0), i)
            for i, batch in enumerate(data.val_dataloader())
        ]
        pl_module.model.train()
        self.last = float(torch.stack(scores).mean())
        self.latest = pl_module.step, self.last
        if self.best is None or self.last < self.best[0]:
            self.best = self.last, pl_module.step, copy.deepcopy(pl_module.model.state_dict())

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the scores so far."""
        checkpoint["noiseflow_validation"] = {"latest": self.latest, "best": self.best}

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        kept = checkpoint["noiseflow_validation"]
        self.latest, self.best = kept["latest"], kept["best"]


class MetricsFile(L.Callback):
    """Writes one row a step to `metrics.csv`; a resumed run goes on where its checkpoint was.

    Args:
        path: the file.
        validation: whose scores go into the rows; None without validation scenes.
    """

    def __init__(self, path: Path, validation: Validation | None) -> None:
        self.path = path
        self.validation = validation

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the header, or drop the rows of steps that are taken again."""
        assert isinstance(pl_module, Task)
        kept = [",".join(("step", *pl_module.figures, pl_module.validated, "learning_rate"))]
        if pl_module.first_step:
            kept = self.path.read_text().splitlines()[: pl_module.first_step + 1]
        write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
        self._file = self.path.open("ab", buffering=0)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rate of the step: the schedule moves before it has ended."""
        self._learning_rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)  # of what is trained now

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the step that has just been taken."""
        assert isinstance(pl_module, Task)
        validated = self.validation.last if self.validation else None
        values = (
            str(pl_module.step),
            *(f"{float(outputs[name]):.9g}" if name in outputs else "" for name in pl_module.figures),
            "" if validated is None else f"{validated:.9g}",
            f"{self._learning_rate:.9g}",
        )
        self._write((",".join(values) + "\n").encode())

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have the rows on the disk before the checkpoint that they belong to."""
        os.fsync(self._file.fileno())

    def _write(self, row: bytes) -> None:
        """Write a row whole or not at all."""
        end = self._file.tell()
        with named(self.path):
            if self._file.write(row) < len(row):  # the disk is full
                self._file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the file."""
        if hasattr(self, "_file"):
            self._file.close()


class Checkpoints(L.Callback):
    """Keeps `last.ckpt` up to date: every so many steps and at the end, each time whole or not at all.

    Args:
        path: the checkpoint file.
        every: steps between checkpoints.
    """

    def __init__(self, path: Path, every: int = 100) -> None:
        self.path = path
        self.every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every so often."""
        assert isinstance(pl_module, Task)
        if pl_module.step % self.every == 0:
            self._save(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of the run, finished or stopped."""
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        write_whole(self.path, trainer.save_checkpoint)


class ShowProgress(L.Callback):
    """Feeds a `Progress` with running means of the task's figures.

    Args:
        progress: what shows it.
        steps: steps that this process has to take.
        validation: whose latest score is shown; None without validation scenes.
    """

    def __init__(self, progress: Progress, steps: int, validation: Validation | None) -> None:
        self.progress = progress
        self.validation = validation
        self.steps = steps
        self._means: dict[str, float] = {}

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
        """Show running means over about the last 50 steps."""
        assert isinstance(pl_module, Task)
        for name in pl_module.figures:
            if name in outputs:
                value = float(outputs[name])
                mean = self._means.get(name, value)
                self._means[name] = mean + 0.02 * (value - mean)
        figures: dict[str, float | str] = {
            name: f"{mean:.3g}" if name == "mse" else f"{mean:.4f} nats/value" for name, mean in self._means.items()
        }
        if self.validation is not None and self.validation.latest is not None:
            figures["val"] = f"{self.validation.latest[1]:.4g}"
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
