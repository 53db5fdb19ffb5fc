r"""Conditional KL: how far the model's noise is from the data's at equal camera, ISO and intensity.

The divergences that papers print pool what differs (bright and dark, one ISO and another), so a model can be right on
average and wrong everywhere, or they look at patches too small to tell. Here noise is counted per image and bin of
clean intensity, pooled over the images of one camera and ISO, and

    conditional KL = Σ_k n_k/N · [ Σ_j p_kj ln(p_kj/q_kj) − (B_k − 1)/2 · (1/n_k + 1/m_k) ]

over camera × ISO × intensity cells k, in nats per value; the term that is taken off is the average of two draws of one
distribution, so a perfect model scores about 0, and may score a little less.

One pass, no noise level known beforehand: intensity bins are those of `IntensityCurve`, 40 of equal width in
√intensity. Noise is counted in fixed bins of equal width in asinh(noise / 1e-4), which are linear where noise is below
1e-4 and keep a tenth of their distance to 0 as width above, so that they suit any noise level. At the end, adjacent
ones are merged, in each cell, until each holds a 32nd of the data's and the model's noise together, and 64 values at
least. Merging can hide a difference but not invent one. p = (h + ½)/(n + B/2), likewise q.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from noiseflow.metrics.accumulate import Accumulator, Divergence, jackknife_interval, scene_index
from noiseflow.metrics.divergence import redraw
from noiseflow.metrics.intervals import Interval
from noiseflow.randomness import seed_of

INTENSITIES = 40
"""Bins of clean intensity, of equal width in its square root."""

_LINEAR, _STEP, _HALF = 1e-4, 0.1, 100  # ±100 steps of 0.1 in asinh reach ±1.1 in linear units
_NOISES = 2 * _HALF
_MERGED, _LEAST = 32, 64


@dataclass(frozen=True)
class ConditionalResult:
    """The conditional KL of a data set and of each of its conditions.

    Attributes:
        overall: value, floor and interval over all cells; `units` is the number of cells.
        by_condition: the value of each condition, its cells weighted by their shares.
    """

    overall: Divergence
    by_condition: dict[Hashable, float]


class ConditionalKL(Accumulator):
    """Conditional KL over a data set that comes in batches of tiles; 128 kB an image.

    Args:
        images: number of images of the data set.

    Examples:
        >>> rng = torch.Generator().manual_seed(0)
        >>> clean = torch.rand(4, 1, 64, 64, generator=rng)
        >>> data, perfect, flat = (torch.randn(4, 1, 64, 64, generator=rng) for _ in range(3))
        >>> std = (0.012 * clean + 2e-5).sqrt()
        >>> for name, model in (("perfect", perfect * std), ("flat", 0.08 * flat)):
        ...     score = ConditionalKL(images=4)
        ...     score.update(data * std, model, clean, image=torch.arange(4))
        ...     result = score.result([("S6", 800.0)] * 4).overall
        ...     print(name, round(result.value, 2), result.indistinguishable)
        perfect 0.0 True
        flat 0.09 False
    """

    def __init__(self, images: int) -> None:
        super().__init__(images)
        self.state["counts"] = torch.zeros(images, 2, INTENSITIES, _NOISES, dtype=torch.int64)

    def update(
        self,
        data: Float[Tensor, "b c h w"],
        model: Float[Tensor, "b c h w"],
        clean: Float[Tensor, "b c h w"],
        image: int | Int[Tensor, "b"] = 0,
    ) -> None:
        """Add a batch of tiles.

        Args:
            data: `(B, C, H, W)`, noisy − clean of the data, linear units.
            model: `(B, C, H, W)`, `synthesize(…) − clean`, linear units.
            clean: `(B, C, H, W)`, linear units; values outside [0, 1] count in the end bins.
            image: which image the tiles are of, one number or one a row.

        Raises:
            ValueError: shapes that differ, or an image that does not exist.
        """
        if not data.shape == model.shape == clean.shape:
            raise ValueError(
                f"expected data, model and clean of one shape, got {tuple(data.shape)}, {tuple(model.shape)} and "
                f"{tuple(clean.shape)}"
            )
        index = self.rows(image, len(data))
        data, model, clean = (x.to(self.device) for x in (data, model, clean))
        which, row = torch.unique(index, return_inverse=True)
        level = (clean.double().clamp(0.0, 1.0).sqrt() * INTENSITIES).long().clamp_max_(INTENSITIES - 1)
        for side, noise in enumerate((data, model)):
            bins = torch.asinh(noise.double() / _LINEAR).div_(_STEP).floor_().long().add_(_HALF).clamp_(0, _NOISES - 1)
            bins += _NOISES * (level + INTENSITIES * row[:, None, None, None])
            counts = torch.bincount(bins.ravel(), minlength=len(which) * INTENSITIES * _NOISES)
            self.state["counts"][which, side] += counts.reshape(-1, INTENSITIES, _NOISES)

    def result(self, conditions: Sequence[Hashable], scenes: Sequence[Hashable] | None = None) -> ConditionalResult:
        """The divergence, its floor, its interval, and each condition's value.

        The floor is as in `noiseflow.metrics.divergence`: merged histograms of every cell, both redrawn from their
        average, 2.5 and 97.5 % points; the interval leaves out one scene at a time, with the bins as they are.

        Args:
            conditions: camera and ISO of each image.
            scenes: the scene of each image; None where each is its own.

        Raises:
            ValueError: another number of conditions or scenes than images.
        """
        names, condition = scene_index(conditions, self.images)
        distinct, scene = scene_index(scenes, self.images)
        counts = self.state["counts"].cpu().numpy()
        cells = np.zeros((len(names), *counts.shape[1:]), np.int64)
        np.add.at(cells, condition, counts)
        if not cells.any():
            nothing = Interval(np.nan, None, None, None, 0, "not computed: the data hold no value")
            return ConditionalResult(Divergence("conditional", np.nan, (np.nan, np.nan), nothing, 0, 0), {})
        labels = _merged_bins(cells.sum(1))  # (conditions, intensities, noises)
        whole = _relabel(cells, labels)  # (conditions, 2, intensities, merged)
        occupied = (whole.sum(1) > 0).astype(np.float64)
        parts = np.zeros((len(distinct), *whole.shape), np.int64)
        for i in range(self.images):
            k = condition[i]
            parts[scene[i], k] += _relabel(counts[i : i + 1], labels[k : k + 1])[0]
        value = _conditional(whole, occupied)
        seen = [part for part in parts if part.any()]
        left_out = [_conditional(whole - part, occupied) for part in seen] if len(seen) > 1 else [value]
        interval = jackknife_interval(value, left_out)
        p, q = whole.swapaxes(0, 1).reshape(2, -1, whole.shape[-1])
        drawn = redraw(p, q, p.sum(-1), np.random.default_rng(seed_of(whole.tobytes())))
        shape = (len(names), *whole.shape[2:])
        floors = [_conditional(np.stack([a.reshape(shape), b.reshape(shape)], 1), occupied)
                  for a, b in zip(*(side.numpy() for side in drawn), strict=True)]  # fmt: skip
        low, high = np.quantile(floors, [0.025, 0.975])
        n = int(p.sum())
        used = int((p.sum(-1) > 0).sum())
        return ConditionalResult(
            Divergence("conditional", value, (float(low), float(high)), interval, used, n),
            {name: _conditional(whole[k : k + 1], occupied[k : k + 1]) for k, name in enumerate(names)
             if whole[k].any()},
        )  # fmt: skip


def _merged_bins(both: NDArray[np.int64]) -> NDArray[np.int64]:
    """`(..., noises)`, the merged bin of each noise bin, from the counts of data and model together."""
    total = both.sum(-1, keepdims=True)
    share = np.maximum(total / _MERGED, _LEAST)
    middle = both.cumsum(-1) - both / 2
    last = np.maximum(np.floor(total / share).astype(np.int64) - 1, 0)
    labels: NDArray[np.int64] = np.minimum((middle / share).astype(np.int64), last)
    return labels


def _relabel(counts: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts `(K, 2, intensities, noises)` summed into merged bins by labels `(K, intensities, noises)`."""
    k, sides, intensities, noises = counts.shape
    cells = k * sides * intensities
    index = np.broadcast_to(labels[:, None], counts.shape).reshape(cells, noises) + _MERGED * np.arange(cells)[:, None]
    out = np.zeros(cells * _MERGED, np.int64)
    np.add.at(out, index.ravel(), counts.ravel())
    return out.reshape(k, sides, intensities, _MERGED)


def _conditional(counts: NDArray[np.int64], occupied: NDArray[np.float64]) -> float:
    """The formula of the module, counts `(K, 2, intensities, merged)`, occupied `(K, intensities, merged)` 0 or 1."""
    bins = occupied.sum(-1)
    n, m = counts.sum(-1).swapaxes(0, 1).astype(np.float64)
    p, q = ((counts[:, i] + 0.5) / (size + bins / 2 + (bins == 0))[..., None] for i, size in enumerate((n, m)))
    kl = (occupied * p * np.log(p / q)).sum(-1)
    bias = (bins - 1) / 2 * (1 / np.maximum(n, 1) + 1 / np.maximum(m, 1))
    return float(np.where(n > 0, n * (kl - bias), 0.0).sum() / n.sum())
