"""Scores that see a data set in pieces: their whole state is a few tensors of sums, so that parts add up."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Int
from scipy.special import stdtrit
from torch import Tensor

from noiseflow.metrics.intervals import MIN_SCENES, Interval


class Accumulator:
    """State of a score: tensors of sums with one row an image, or none.

    Attributes:
        images: number of images; every update says which of them it is a part of.
        state: what has been summed. Two states of disjoint pieces of the data add up to that of both.
    """

    def __init__(self, images: int) -> None:
        if images < 1:
            raise ValueError(f"images: expected at least 1, got {images}")
        self.images = images
        self.state: dict[str, Tensor] = {}

    def merge(self, other: Self) -> None:
        """Add what another accumulator of the same kind, over the same images, has seen."""
        for name, value in other.state.items():
            self.state[name] += value.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the state is: what comes from elsewhere is moved there."""
        return next(iter(self.state.values())).device

    def rows(self, image: int | Int[Tensor, "b"], batch: int) -> Int[Tensor, "b"]:
        """The image of each row of a batch, as indices.

        Raises:
            ValueError: an image that does not exist, or another number of them than rows.
        """
        index = torch.as_tensor(image, dtype=torch.int64, device=self.device)
        if index.ndim > 1 or (index.ndim == 1 and len(index) != batch):
            raise ValueError(f"image: expected an integer or {batch} of them, got shape {tuple(index.shape)}")
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.images:
            raise ValueError(f"image: expected 0 to {self.images - 1}, got {index.tolist()}")
        return index.expand(batch)


@dataclass(frozen=True)
class Divergence:
    """A divergence of the model from the data, with what a perfect model would score.

    Attributes:
        recipe: how it was computed.
        value: the divergence, in nats; NaN where nothing could be averaged.
        floor: 2.5 and 97.5 % points of the same figure between two draws of one distribution, of the same sizes.
        interval: `value` with its interval over scenes.
        units: how many patches, blocks or images were averaged; 1 where all values are pooled.
        values: number of values (pixels times channels) that were counted.
    """

    recipe: str
    value: float
    floor: tuple[float, float]
    interval: Interval
    units: int
    values: int

    @property
    def indistinguishable(self) -> bool:
        """Whether this figure is no larger than those between two draws of one distribution."""
        return self.value <= self.floor[1]


def scene_index(scenes: Sequence[Hashable] | None, images: int) -> tuple[list[Hashable], list[int]]:
    """The distinct scenes, in order of appearance, and the number of each image's.

    Args:
        scenes: one name an image; None where every image is a scene of its own.
        images: number of images.

    Raises:
        ValueError: another number of scenes than images.
    """
    if scenes is None:
        scenes = range(images)
    if len(scenes) != images:
        raise ValueError(f"scenes: expected one for each of {images} images, got {len(scenes)}")
    distinct = list(dict.fromkeys(scenes))
    number = {scene: i for i, scene in enumerate(distinct)}
    return distinct, [number[scene] for scene in scenes]


def jackknife_interval(value: float, left_out: Sequence[float], level: float = 0.95) -> Interval:
    r"""A figure of pooled data with an interval from leaving out one scene at a time.

    With θ₍ₛ₎ the figure without scene s and S scenes, se² = (S − 1)/S · Σ_s (θ₍ₛ₎ − mean θ₍.₎)², and the interval
    is value ± t · se with S − 1 degrees of freedom.

    Args:
        value: the figure of all scenes.
        left_out: S figures, each without one scene.
        level: coverage, in (0, 1).

    Returns:
        `value` and its interval; no interval below 3 scenes.

    References:
        Efron and Stein, The jackknife estimate of variance, Annals of Statistics 9 (1981), 586.

    Examples:
        >>> interval = jackknife_interval(2.0, [2.5, 2.0, 1.5])  # of the mean of 1, 2 and 3
        >>> round(interval.se, 6), interval.method
        (0.57735, 't interval, delete-one-scene jackknife over 3 scenes')
    """
    scenes = len(left_out)
    if scenes < MIN_SCENES:
        plural = "scene" if scenes == 1 else "scenes"
        return Interval(value, None, None, None, scenes, f"no interval: {scenes} {plural}, 3 needed")
    spread = np.asarray(left_out, np.float64)
    se = float(np.sqrt((scenes - 1) / scenes * np.sum((spread - spread.mean()) ** 2)))
    margin = float(stdtrit(scenes - 1, 0.5 + level / 2)) * se
    method = f"t interval, delete-one-scene jackknife over {scenes} scenes"
    return Interval(value, value - margin, value + margin, se, scenes, method)
