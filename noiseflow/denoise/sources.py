"""Where the noisy images that a denoiser is trained on come from.

A source takes a batch of recorded noisy images, their shot, and a seed for each row, and gives the batch to train on.
What it draws is a function of a row's seed alone, so training can be repeated, whatever the batch or the worker.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from noiseflow.datasets import FramePair
from noiseflow.errors import UserError
from noiseflow.models import FittedModel, Flow, NoiseModel, quantise
from noiseflow.randomness import combine
from noiseflow.sensors import SensorTruth
from noiseflow.shot import Shot

log = logging.getLogger(__name__)

_PAIR, _NOISE = 1, 2


class Source(Protocol):
    """Makes the batches that a denoiser is trained on."""

    def __call__(
        self, noisy: Float[Tensor, "b c h w"], shot: Shot, seeds: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b c h w"], Shot]:
        """The noisy images to train on, and the shot that they were taken with; clean images stay.

        Args:
            noisy: the recorded noisy images, linear units.
            shot: their clean images and conditions.
            seeds: `(B,)` integers, one a row, for whatever is drawn.
        """
        ...

    def to(self, device: torch.device) -> None:
        """Move to where the batches are."""


class Grid(NamedTuple):
    """Code grid of a camera, `(C,)` each, linear units: code width (0: not rounded), lowest and highest value."""

    lsb: Float[Tensor, "c"]
    low: Float[Tensor, "c"]
    high: Float[Tensor, "c"]


class Recorded:
    """The noise that was recorded: the finite set of noisy images that there is."""

    def __call__(self, noisy: Tensor, shot: Shot, seeds: Tensor) -> tuple[Tensor, Shot]:
        """The batch as it is."""
        return noisy, shot

    def to(self, device: torch.device) -> None:
        """Nothing to move."""


class Redrawn:
    """Noise drawn anew for every patch: a random camera and ISO, the model's noise, then rounded and clipped.

    Flows draw in float32: the last bits of training's noise matter to nobody.

    Args:
        model: draws the noise.
        pairs: the (camera, ISO) to choose from, all with equal probability.
        grids: code grid of each of their cameras.

    Raises:
        ValueError: no pairs, or a camera without a grid.
    """

    def __init__(
        self, model: NoiseModel | SensorTruth, pairs: Sequence[tuple[str, float]], grids: Mapping[str, Grid]
    ) -> None:
        if not pairs:
            raise ValueError("pairs: expected at least one camera and ISO to draw noise for, got none")
        missing = sorted({camera for camera, _ in pairs} - set(grids))
        if missing:
            raise ValueError(f"grids: expected the code grid of every camera, got none of {missing[0]!r}")
        if isinstance(model, nn.Module):
            model = copy.deepcopy(model).eval().requires_grad_(False)
            # Few channels: convolutions are several times as fast with the channels of a pixel side by side.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.pairs = tuple(pairs)
        self.cameras = tuple(dict.fromkeys(camera for camera, _ in pairs))
        self._camera = torch.tensor([self.cameras.index(camera) for camera, _ in pairs])
        self._iso = torch.tensor([float(iso) for _, iso in pairs], dtype=torch.float64)
        self._grids = [torch.stack([grids[camera][k].double() for camera in self.cameras]) for k in range(3)]

    @torch.no_grad()
    def __call__(self, noisy: Tensor, shot: Shot, seeds: Tensor) -> tuple[Tensor, Shot]:
        """Noise for the clean images; the recorded noise is not looked at."""
        shot = self.conditions(shot, seeds)
        seeds = combine(seeds, _NOISE)
        if isinstance(self.model, Flow):
            noise = self.model.sample(shot, seed=seeds, dtype=torch.float32)
        else:
            noise = self.model.sample(shot, seed=seeds)
        return quantise(shot.clean.double() + noise.double(), shot), shot

    def conditions(self, shot: Shot, seeds: Tensor) -> Shot:
        """The shot with a camera, an ISO and a code grid drawn for every row."""
        row = (combine(seeds, _PAIR) & (2**63 - 1)).cpu() % len(self.pairs)
        camera = self._camera[row]
        lsb, low, high = (grid[camera] for grid in self._grids)
        return shot.replace(
            camera=camera.to(shot.clean.device), cameras=self.cameras, iso=self._iso[row], lsb=lsb, low=low, high=high
        )

    def to(self, device: torch.device) -> None:
        """Move the model."""
        if isinstance(self.model, nn.Module):
            self.model.to(device)


def chosen_pairs(
    known: Sequence[tuple[str, float]], cameras: Sequence[str] | None, isos: Sequence[float] | None
) -> tuple[tuple[str, float], ...]:
    """The (camera, ISO) that a model knows and that were asked for.

    Raises:
        UserError: none is left.
    """
    chosen = tuple(
        (camera, iso)
        for camera, iso in known
        if (cameras is None or camera in cameras) and (isos is None or iso in isos)
    )
    if not chosen:
        listed = ", ".join(f"{camera} {iso:g}" for camera, iso in known)
        raise UserError(
            f"--noise-cameras, --noise-isos: expected cameras and ISOs that the noise model knows ({listed}), got none"
        )
    return chosen


def grids_of(
    frames: Sequence[FramePair], cameras: Sequence[str], channels: int, model: NoiseModel | SensorTruth
) -> dict[str, Grid]:
    """Code grid of cameras: that of their images in the data, else the one that the model's card names.

    A camera that neither knows has continuous values from 0 to 1, which is said in the log.
    """
    first: dict[str, FramePair] = {}
    for frame in frames:
        first.setdefault(frame.camera, frame)
    card = model.card.get("cameras", {}) if isinstance(model, FittedModel) else {}
    grids = {}
    for camera in cameras:
        if camera in first:
            grids[camera] = Grid(first[camera].lsb, first[camera].low, first[camera].high)
            continue
        if camera not in card:
            log.warning("%s: neither data nor model say its code grid; its noisy images are not rounded", camera)
        values = {"lsb": 0.0, "low": 0.0, "high": 1.0} | card.get(camera, {})
        grids[camera] = Grid(
            *(torch.as_tensor(values[k], dtype=torch.float64).expand(channels) for k in ("lsb", "low", "high"))
        )
    return grids
