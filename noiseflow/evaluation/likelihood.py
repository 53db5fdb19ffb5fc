"""Scores by likelihood: mass, nll and regret, summed image by image and by what a pixel's surroundings are.

A model's mass of an image is one number; to see where it loses, it is shared out over pixels (`log_mass_map`): by
tenths of the clean intensity, and by whether a clip end is within reach of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from noiseflow.datasets import FramePair
from noiseflow.datasets.mean_truth import SignalPair
from noiseflow.models import Flow, NoDensityError, NoiseModel
from noiseflow.sensors import SensorTruth
from noiseflow.shot import Shot

DRAWS = 2
"""Draws per tile for the bound of a flow's mass: the fewest that measure its looseness."""

TENTHS = 10

_NEAR = 3.0  # standard deviations from a clip end


@dataclass
class Score:
    """Sums over one image's values, in nats.

    Attributes:
        values: number of values scored by mass.
        log_mass: their log mass.
        looseness: of the bound on it.
        regret: log mass of the true sensor minus the model's.
        dims: number of values scored by density.
        log_prob: their log density.
        by_tenth: `(3, 10)`: values, log mass and regret by tenth of the clean intensity.
        by_clip: `(2, 2)`: values and log mass, away from and near the clip ends.
    """

    values: int = 0
    log_mass: float = 0.0
    looseness: float = 0.0
    regret: float = 0.0
    dims: int = 0
    log_prob: float = 0.0
    by_tenth: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, TENTHS)))
    by_clip: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))


@dataclass(frozen=True)
class Best:
    """What the true sensor scores on some tiles.

    Attributes:
        log_mass: `(B,)`, nats.
        share: `(B, H, W)`, shares that add up to it.
    """

    log_mass: Float[Tensor, "b"]
    share: Float[Tensor, "b h w"]


def best_of(truth: SensorTruth, noisy: Tensor, shot: Shot) -> Best:
    """The true sensor's score."""
    share = truth.log_mass_map(noisy, shot).cpu()
    return Best(share.sum(dim=(1, 2)), share)


@dataclass(frozen=True)
class Regions:
    """Where the pixels of some tiles belong.

    Attributes:
        tenth: `(B, H, W)`, tenth of [0, 1] of the clean intensity, mean over the channels; 0 to 9.
        near: `(B, H, W)`, 1 where a channel lies within 3 σ of a clip end, else 0; None where σ is not known.
    """

    tenth: Int[Tensor, "b h w"]
    near: Int[Tensor, "b h w"] | None


def regions(frame: FramePair, shot: Shot, truth: SensorTruth | None) -> Regions:
    """The regions of some tiles of a frame; σ is the true sensor's, or that with which the mean was inverted."""
    clean = shot.clean.double().cpu()
    tenth = (clean.mean(dim=1) * TENTHS).long().clamp(0, TENTHS - 1)
    level = (frame.a, frame.b) if isinstance(frame, SignalPair) else None
    if truth is not None:
        level = truth.sensors[frame.camera].noise_level(frame.iso)
    if level is None:
        return Regions(tenth, None)
    low, high = (end.double().cpu()[..., None, None] for end in (shot.low, shot.high))
    reach = _NEAR * (level[0] * clean.clamp_min(0) + level[1]).sqrt()
    near = (clean - reach < low) | (clean + reach > high)
    return Regions(tenth, near.any(dim=1).long())


def add(
    score: Score, model: NoiseModel, noisy: Tensor, shot: Shot, best: Best | None, where: Regions, seed: int
) -> None:
    """Add some tiles of one image to a model's score of it by mass."""
    share: Tensor | None
    if isinstance(model, Flow):
        bound = model.mass_bound(noisy, shot, seed=seed, draws=DRAWS)
        log_mass, share = bound.log_mass.cpu(), bound.share.cpu()
        score.looseness += float(bound.looseness.sum())
    else:
        share_of = getattr(model, "log_mass_map", None)
        share = None if share_of is None else share_of(noisy, shot).cpu()
        log_mass = model.log_mass(noisy, shot, seed=seed).cpu() if share is None else share.sum(dim=(1, 2))
    score.values += noisy.numel()
    score.log_mass += float(log_mass.sum())
    if best is not None:
        score.regret += float((best.log_mass - log_mass).sum())
    if share is None:
        return
    values = torch.full_like(share, noisy.shape[1])
    lost = torch.zeros_like(share) if best is None else best.share - share
    score.by_tenth += _sums(where.tenth, (values, share, lost), TENTHS)
    if where.near is not None:
        score.by_clip += _sums(where.near, (values, share), 2)


def add_density(score: Score, model: NoiseModel, noisy: Tensor, shot: Shot) -> str | None:
    """Add some tiles of one image to a model's score of it by density; why there is none, if so.

    Tiles are cropped to what a flow's squeezes divide.
    """
    multiple = model.size_multiple if isinstance(model, Flow) else 1
    height, width = (side // multiple * multiple for side in noisy.shape[-2:])
    if not height or not width:
        return None
    cropped = shot.crop(0, 0, height, width)
    noise = noisy[..., :height, :width].double() - cropped.clean.double()
    try:
        score.log_prob += float(model.log_prob(noise, cropped).double().sum())
    except NoDensityError as error:
        return str(error)
    score.dims += noise.numel()
    return None


def _sums(index: Tensor, maps: Sequence[Tensor], bins: int) -> NDArray[np.float64]:
    """`(maps, bins)`, the sum of every map in every bin."""
    flat = index.numpy().ravel()
    return np.stack([np.bincount(flat, values.numpy().ravel(), bins) for values in maps])
