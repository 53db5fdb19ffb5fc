"""`fit --noisy-only`: a denoiser and a noise model from bursts of noisy frames."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseflow.datasets import Burst, BurstDataset, BurstPatches, collate_frames
from noiseflow.datasets.burst_checks import Finding, check_burst, refuse_or_warn
from noiseflow.datasets.burst_report import burst_report
from noiseflow.denoise import Denoiser, DnCNN, UNet, denoise
from noiseflow.errors import UserError
from noiseflow.files import load_denoiser, save
from noiseflow.models import FittedModel, Flow
from noiseflow.models.published import fold_norm
from noiseflow.noise_level import NoiseLevel
from noiseflow.options import FitOptions
from noiseflow.progress import Progress
from noiseflow.shot import Shot
from noiseflow.training.batches import BurstDataModule
from noiseflow.training.card import card_of
from noiseflow.training.fit import DEFAULT_STEPS, patch_within
from noiseflow.training.frame_moments import FoundSignal, fit_moments, frame_moments, texture_of, two_frame_moments
from noiseflow.training.noisy_only import JOINT_RATE, JointTask, NoisyOnlyTask, UnbiasedTask
from noiseflow.training.trainer import run_trainer

log = logging.getLogger(__name__)

DENOISER_STEPS = 4000
"""Steps of the denoiser by default, on batches of 12 patches of 32×32."""

EVIDENCE = "bursts.png"
"""Name, in the run folder, of the picture of what the guard rails found; there is none where they found nothing."""

PATCH = 32

_VALUES = 3_000_000  # that the frames of a camera and ISO are compared in
_AT_ONCE = 32
_MARGIN = 8  # part of a patch's side that is left out at either end, as far as the denoiser misses what lies beyond


def noisy_options(options: FitOptions) -> FitOptions:
    """Check and complete the options of `fit --noisy-only`.

    Raises:
        UserError: they do not go together.
    """
    published = options.method == "published"
    flows = ("noise_flow_paper",) if published else tuple(DEFAULT_STEPS)
    if options.model not in flows:
        raise UserError(f"--noisy-only --method {options.method}: expected --model {' or '.join(flows)}, "
                        f"got {options.model}")  # fmt: skip
    if options.condition != "raw" or options.keep != "last":
        raise UserError("--noisy-only: expected --condition raw and --keep last")
    if options.profile is not None:
        raise UserError("--profile: --noisy-only starts the flow from differences between frames, not from a profile")
    if options.denoiser not in ("dncnn", "unet") and not Path(options.denoiser).is_file():
        raise UserError(f"--denoiser: expected dncnn, unet or a denoiser's file, got {options.denoiser!r}")
    steps = options.denoiser_steps
    if steps is None:
        steps = 0 if published else DENOISER_STEPS
    if steps < 0 or options.weight < 0:
        raise UserError("--denoiser-steps, --weight: expected numbers that are not negative")
    rate = JOINT_RATE if published and options.learning_rate is None else options.learning_rate
    return replace(options, denoiser_steps=steps, patch=options.patch or PATCH, learning_rate=rate)


def fit_for_training(dataset: BurstDataset, *, keep: bool = False) -> BurstDataset:
    """The bursts that the guard rails let pass, with the findings of all; every finding is logged.

    Args:
        dataset: the bursts to look at (`noiseflow.datasets.burst_checks`).
        keep: keep those with findings too.

    Raises:
        UserError: none is left.
    """
    good, found, bursts = [], dict[str, Sequence[Finding]](), dataset.bursts
    for burst in bursts:
        found[burst.name] = findings = check_burst(burst)
        refuse_or_warn(findings, burst.name, allow=keep or len(bursts) > 1)
        if not findings or keep:
            good.append(burst)
        else:
            log.warning("%s: left out (--unfit keep trains on it all the same)", burst.name)
    if not good:
        raise UserError(f"expected bursts of still scenes, found something wrong with all {len(bursts)}: see above; "
                        "--unfit keep trains on them all the same")  # fmt: skip
    return replace(dataset, frames=tuple(good), findings=found)


def train_noisy(
    model: FittedModel,
    dataset: BurstDataset,
    options: FitOptions,
    checkpoint: dict[str, Any] | None,
    progress: Progress,
) -> bool:
    """Train a new model and its denoiser, from the start or from a checkpoint, and save both; see `fit`."""
    assert options.steps is not None and options.denoiser_steps is not None and options.patch is not None
    out, bursts = Path(options.out), dataset.bursts
    if any(dataset.findings.values()):
        burst_report(dataset.findings, out / EVIDENCE)
        log.warning("the evidence is drawn in %s", out / EVIDENCE)
    denoiser = _denoiser(options, bursts[0].channels)
    multiple = max(model.size_multiple if isinstance(model, Flow) else 1, denoiser.size_multiple)
    patch = patch_within(options.patch, bursts, multiple, f"--denoiser {options.denoiser}")
    steps = options.denoiser_steps + options.steps
    first_step = 0 if checkpoint is None else int(checkpoint["noiseflow_step"])
    data = BurstDataModule(
        bursts,
        patch=patch,
        batch=options.batch,
        steps=steps,
        seed=options.seed,
        first_step=first_step,
        workers=options.workers,
    )
    common: dict[str, Any] = {
        "denoiser_steps": options.denoiser_steps,
        "steps": options.steps,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "resume_from": checkpoint,
        "source": lambda number: str(data.train_patches.frame_of(number).files[0]),
    }
    for network in (model, denoiser):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task: NoisyOnlyTask
    if options.method == "published":
        task = JointTask(model, denoiser, weight=options.weight, **common)
    else:
        assert isinstance(model, Flow)
        margin = (patch // _MARGIN) // model.size_multiple * model.size_multiple
        calibrate = partial(compare_frames, bursts=bursts, patch=patch, margin=margin, seed=options.seed)
        task = UnbiasedTask(model, denoiser, calibrate=calibrate, margin=margin, **common)
    finished = run_trainer(
        task,
        data,
        out=out,
        steps=steps,
        device=options.device,
        progress=progress,
        clip=None if options.method == "published" else 1.0,
    )
    task.to("cpu")
    if isinstance(task, UnbiasedTask) and task.step <= task.denoiser_steps:
        task.start_flow()  # stopped before it: what is saved is the noise level function
    card = card_of(options, dataset, bursts, (), {"steps": task.step})
    for trained, name in (
        (fold_norm(model) if options.method == "published" else model, "model.safetensors"),
        (denoiser, "denoiser.safetensors"),
    ):
        trained.eval().card = card
        save(trained, out / name)
    return finished


def _denoiser(options: FitOptions, channels: int) -> Denoiser:
    """The denoiser at its start. DnCNN is as published with the published method; else 6 layers of 32 channels."""
    if options.denoiser not in ("dncnn", "unet"):
        denoiser = load_denoiser(options.denoiser)
        if denoiser.channels != channels:
            raise UserError(f"{options.denoiser}: expected a denoiser of {channels} channels, got {denoiser.channels}")
        return denoiser
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        if options.denoiser == "unet":
            return UNet(channels)
        return DnCNN(channels) if options.method == "published" else DnCNN(channels, width=32, depth=6)


@torch.no_grad()
def compare_frames(
    denoiser: Denoiser, table: FoundSignal, *, bursts: Sequence[Burst], patch: int, margin: int, seed: int
) -> NoiseLevel:
    """Compare frames with what a denoiser finds in others, for every camera and ISO.

    Bursts of three frames and more: the first and the last of three consecutive frames are compared with each other
    and with what is found in the one between them. Bursts of two: each frame with what is found in the other one.

    Args:
        denoiser: in inference mode.
        table: filled with where the signal lies.
        bursts: the bursts; their cameras and ISOs are those of the table.
        patch: side of the patches, pixels of the tensors.
        margin: pixels that are left out along their borders.
        seed: seed of their places.

    Returns:
        The noise level function.
    """
    channels = table.knots.shape[1]
    level = NoiseLevel(table.conditions, channels)
    for row, pair in enumerate(table.conditions.pairs):
        chosen = [burst for burst in bursts if (burst.camera, float(burst.iso)) == pair]
        count = min(3, *(len(burst) for burst in chosen))
        inner = (patch - 2 * margin) ** 2
        room = sum((len(burst) - count + 1) * burst.size[0] * burst.size[1] for burst in chosen)
        wanted = -(-min(room, _VALUES // chosen[0].channels) // inner)  # more would only read the same values again
        patches = BurstPatches(chosen, patch, seed + 1, wanted, count=count)
        parts: list[list[Tensor]] = []
        for first in range(0, wanted, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, wanted))
            frames, shot = collate_frames([patches[number] for number in numbers])
            parts.append(_compare(denoiser, frames, shot, margin))
        values = [torch.cat(part) for part in zip(*parts, strict=True)]
        lsb, low, high = (float(v[0]) for v in (chosen[0].lsb, chosen[0].low, chosen[0].high))
        for channel in range(channels):
            some = slice(None) if channels == 1 else slice(channel, channel + 1)
            sort = frame_moments if count > 2 else two_frame_moments
            moments = sort(*(value[:, some].numpy(force=True) for value in values))
            behind = fit_moments(moments, photons=chosen[0].cfa is not None, lsb=lsb, low=low, high=high)
            table.fill(row, channel, moments, behind)
            level.log_a[row, channel], level.log_b[row, channel] = math.log(behind.a), math.log(behind.b)
        log.info("%s ISO %g: noise level function from differences: a = %.4g, b = %.4g", *pair, behind.a, behind.b)
    return level


def _compare(denoiser: Denoiser, frames: Tensor, shot: Shot, margin: int) -> list[Tensor]:
    """The values that `frame_moments`, or of two frames `two_frame_moments`, sorts."""
    device = next(denoiser.parameters()).device
    frames, shot = frames.to(device), shot.to(device)
    if frames.shape[1] == 2:
        both = torch.cat((frames[:, 0], frames[:, 1]))
        found = torch.cat([denoise(denoiser, frames[:, i], shot) for i in (1, 0)])
        difference = 0.5 * (frames[:, 0] - frames[:, 1]).square().repeat(2, 1, 1, 1)
        between = 0.5 * (found + found.roll(len(frames), 0))
        values = [found, both, (both - found).square(), difference, between]
    else:
        u, first, last = denoise(denoiser, frames[:, 1], shot), frames[:, 0], frames[:, 2]
        values = [u, 0.5 * (first + last), (first - u) * (last - u), 0.5 * (first - last).square()]
    end = frames.shape[-1] - margin
    values = [value[..., margin:end, margin:end].double() for value in values]
    return [*values, texture_of(values[0])]
