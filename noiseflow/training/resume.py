"""Go on with a run that was stopped, as if it never had been."""

from __future__ import annotations

import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from noiseflow.datasets import BurstDataset, NoiseDataset
from noiseflow.errors import UserError
from noiseflow.options import DataOptions, FitOptions
from noiseflow.progress import SILENT, Progress
from noiseflow.training.fit import CHECKPOINT, build, complete, open_chosen, write_config

log = logging.getLogger(__name__)

OptionsT = TypeVar("OptionsT", bound=DataOptions)

_MAY_CHANGE = {"data", "steps", "workers", "device", "overwrite"}


def resume(run: str | Path, changes: dict[str, Any], progress: Progress = SILENT) -> bool:
    """Train a run to its end from its last checkpoint, or from the start where it has none.

    On a CPU with the same number of threads the model file equals that of an uninterrupted run, byte for byte.

    Args:
        run: the run folder.
        changes: options given anew: `steps` may grow, `data` may have moved (or, said so, changed), `workers` and
            `device` may differ.
        progress: what shows how far it has come.

    Returns:
        True if the run is finished, False if Ctrl-C ended it again.

    Raises:
        UserError: the folder is no run folder, or what it was made from has changed.
    """
    folder = Path(run)
    options, environment = recorded(folder, FitOptions)
    options = with_changes(options, environment, changes, folder)
    dataset = open_chosen(options)
    check_unchanged(dataset, options, environment, changes)
    checkpoint = checkpoint_of(folder / CHECKPOINT)
    done = 0 if checkpoint is None else int(checkpoint["noiseflow_step"])
    assert options.steps is not None
    steps = options.steps + (options.denoiser_steps or 0)
    if steps < done:
        raise UserError(f"--steps: the run has already taken {done} steps, more than {steps}")
    log.info("going on after step %d of %d", done, steps)
    write_config(folder, options, dataset)
    return complete(build(options, dataset), options, dataset, checkpoint, progress)


def recorded(folder: Path, kind: type[OptionsT]) -> tuple[OptionsT, dict[str, Any]]:
    """The options and the environment that a run folder holds."""
    if not (folder / "config.yaml").is_file() or not (folder / "environment.json").is_file():
        raise UserError(f"{folder}: expected a run folder with config.yaml and environment.json, found none")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        environment = json.loads((folder / "environment.json").read_text())
        options = kind(**config)
        environment["data"], environment["data_hash"], environment["threads"]
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: config.yaml or environment.json is damaged ({error})") from error
    return options, environment


def with_changes(
    options: OptionsT, environment: dict[str, Any], changes: dict[str, Any], folder: Path, *also: str
) -> OptionsT:
    """The options of a resumed run: those that it began with, and of the new ones those that may change.

    Args:
        options: what the run began with.
        environment: what it was made in.
        changes: options given anew.
        folder: the run folder.
        also: names of further options that may change.

    Raises:
        UserError: an option was given that must not change.
    """
    may_change = _MAY_CHANGE | set(also)
    forbidden = sorted(name for name in changes if name not in may_change and changes[name] != getattr(options, name))
    if forbidden:
        flag = "--" + forbidden[0].replace("_", "-")
        raise UserError(f"{flag}: a resumed run keeps what it began with ({getattr(options, forbidden[0])!r})")
    allowed: dict[str, Any] = {name: value for name, value in changes.items() if name in may_change}
    allowed |= {"out": str(folder), "overwrite": True}
    return replace(options, **({"data": environment["data"]} | allowed))


def check_unchanged(
    dataset: NoiseDataset | BurstDataset, options: DataOptions, environment: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Refuse data that have changed since the run began, unless they were named anew; warn of what differs.

    Raises:
        UserError: the data have changed.
    """
    if dataset.root_hash() != environment["data_hash"]:
        if "data" not in changes:
            raise UserError(
                f"{options.data}: the data have changed since the run began; to go on with them all the same, "
                f"say so with --data {options.data}"
            )
        log.warning("the data differ from those that the run began with")
    if environment["threads"] != torch.get_num_threads():
        log.warning("the run began with %s threads; with another number results differ in the last bits",
                    environment["threads"])  # fmt: skip


def checkpoint_of(path: Path) -> dict[str, Any] | None:
    """The last checkpoint, or None where the run was stopped before its first one.

    Raises:
        UserError: it is damaged, or the metrics.csv beside it lacks steps that it has taken.
    """
    if not path.is_file():
        return None
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["noiseflow_step"]
    except (OSError, RuntimeError, KeyError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a readable checkpoint of noiseflow ({type(error).__name__})") from error
    _check_metrics(path.with_name("metrics.csv"), int(checkpoint["noiseflow_step"]))
    return checkpoint


def _check_metrics(path: Path, steps: int) -> None:
    """See that the rows of a run's steps are there, in order."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    rows = [str(step).encode() for step in range(1, steps + 1)]
    if [line.partition(b",")[0] for line in lines[: steps + 1]] != [b"step", *rows]:
        raise UserError(f"{path}: expected the rows of steps 1 to {steps}, found the file missing or damaged; put back "
                        "its copy, or begin a new run")  # fmt: skip
