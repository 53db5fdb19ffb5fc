r"""Histogram divergences as published: each recipe by name, with the floor that it has for a perfect model.

Papers print one number, "KL", for things that differ in edges, smoothing, unit of averaging and in which terms they
sum, and whose values for one pair of distributions differ tenfold. `RECIPES` spells each of them out. All are
KL(data ‖ model) in nats, of noise = noisy − clean; the histogram of h counts is turned into probabilities as
(h + s)/(n + s·bins), with s = 0 or 1 and n the number of values, those outside the edges included; with s = 0 only
bins that both sides occupy are summed (so a "KL" can be negative, and does not see support that one side lacks).

The **floor** is what two draws of one distribution score, on average about (B − 1)/2 · (1/n + 1/m) for B occupied
bins. It is simulated: both histograms of a unit are redrawn from a multinomial with the unit's own n and with the
average of its two histograms (values outside the edges are a category of their own) as probabilities; the figure is
computed from such redraws as it is from the data, `FLOOR_DRAWS` times; their 2.5 and 97.5 % points are the floor.
For the recipes that average patches or blocks, one unit in 64 of each row of a batch is redrawn, at least one, and the
spread of the mean is scaled by √(redrawn/all). Redraws are independent from value to value: spatially correlated noise
scatters more, so its true floor is wider.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from numpy.typing import NDArray
from torch import Tensor

from noiseflow.metrics.accumulate import Accumulator, Divergence, jackknife_interval, scene_index
from noiseflow.metrics.intervals import Interval, scene_interval
from noiseflow.randomness import seed_of

FLOOR_DRAWS = 200
"""Redraws of a floor."""

_SIDE = {"patch": 32, "block": 256}
_REDRAWN = 64  # one patch in so many
_SNAP = 1e-4  # grey levels: float32 pictures give levels that are off by up to 2e-5


@dataclass(frozen=True)
class Recipe:
    """One published histogram divergence.

    Attributes:
        name: how it is called in results.
        edges: of the bins, increasing; as in `numpy.histogram` a bin has its left edge, the last one both.
        unit: of the values that are counted: linear, grey levels (255 × linear; values within 1e-4 of an integer are
            taken as it), or such levels divided by 255.
        per: what is averaged: a 32×32 patch with all its channels, a 256×256 block, an image; or all values pooled.
        domain: what it was published for.
        added: s, how much is added to each count.
        rounded: whether the model's noise is that of stored pictures (rounded and clipped); if not, it is clipped
            to [0, 1] but not rounded.
    """

    name: str
    edges: tuple[float, ...]
    unit: Literal["linear", "levels", "levels/255"]
    per: Literal["patch", "block", "image", "pool"]
    domain: Literal["raw", "srgb"]
    added: int = 0
    rounded: bool = True

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.edges) - 1

    def values(self, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What is counted of noise in linear units, float64: the noise in the recipe's unit."""
        values = noise.double()
        if self.unit == "linear":
            return values
        levels = 255 * values
        nearest = levels.round()
        levels = torch.where((levels - nearest).abs() < _SNAP, nearest, levels)
        return levels if self.unit == "levels" else levels / 255


_TAILED = (-1000.0, *np.linspace(-0.1, 0.1, 65).tolist(), 1000.0)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("noise-flow-train", _TAILED, "linear", "patch", "raw"),
        Recipe("n2nf", _TAILED, "linear", "patch", "raw", added=1),
        Recipe("noise-flow-sample", tuple(np.linspace(0.0, 1.0, 1001).tolist()), "linear", "patch", "raw"),
        Recipe("srgb-flow", tuple(np.arange(-260.0, 261.0, 4.0).tolist()), "levels", "patch", "srgb", added=1),
        Recipe("neca", _TAILED, "levels/255", "image", "srgb"),
        Recipe("naflow", tuple(np.linspace(-1.0, 1.0, 257).tolist()), "linear", "block", "srgb", rounded=False),
        Recipe("c2n", tuple(np.arange(-255.5, 256.0, 1.0).tolist()), "levels", "pool", "srgb"),
    )
}
"""Every histogram recipe by its name; AKLD, which has no histogram, is `noiseflow.metrics.akld`."""


def histogram_kl(
    p_counts: Real[Tensor, "... bins"],
    q_counts: Real[Tensor, "... bins"],
    n: float | Real[Tensor, "..."],
    m: float | Real[Tensor, "..."] | None = None,
    *,
    added: int = 0,
) -> Float[Tensor, "..."]:
    r"""KL(p ‖ q) = Σ p ln(p/q) of histograms, in nats, float64.

    p = (h + s)/(n + s·bins) and likewise q with m. With s = 0 only bins with p > 0 and q > 0 are summed.

    Args:
        p_counts: `(..., bins)`, counts h of the data.
        q_counts: `(..., bins)`, counts of the model.
        n: number of values behind each of the first histograms, those outside its edges included.
        m: the same of the second ones; None where it is n.
        added: s, >= 0.

    Returns:
        `(...)`.

    Examples:
        >>> p, q = torch.tensor([2, 2, 0]), torch.tensor([1, 2, 1])
        >>> round(histogram_kl(p, q, 4).item(), 6), round(histogram_kl(p, q, 4, added=1).item(), 6)
        (0.346574, 0.07475)
    """
    bins = p_counts.shape[-1]
    sizes = (torch.as_tensor(size, dtype=torch.float64, device=p_counts.device) for size in (n, n if m is None else m))
    p, q = (
        (counts.double() + added) / (size + added * bins)[..., None]
        for counts, size in zip((p_counts, q_counts), sizes, strict=True)
    )
    both = (p > 0) & (q > 0)
    return torch.where(both, p * torch.where(both, p / q, 1.0).log(), 0.0).sum(-1)


def histogram(values: Float[Tensor, "units n"], edges: Sequence[float]) -> Int[Tensor, "units bins"]:
    """Histograms of many units at once, int64; values outside the edges are dropped.

    Args:
        values: `(U, n)`, the values of each unit.
        edges: increasing; a bin has its left edge, the last one both.
    """
    bounds = torch.tensor(edges, dtype=torch.float64, device=values.device)
    units, width = len(values), len(edges) + 1  # one more on either side, for what lies outside
    bins = torch.bucketize(values.double().contiguous(), bounds, right=True)
    bins[values == edges[-1]] = len(edges) - 1
    bins += width * torch.arange(units, device=values.device)[:, None]
    return torch.bincount(bins.ravel(), minlength=units * width).reshape(units, width)[:, 1:-1]


def redraw(
    p_counts: NDArray[np.int64], q_counts: NDArray[np.int64], n: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Int[Tensor, "draws units bins"], Int[Tensor, "draws units bins"]]:
    """Pairs of histograms that both come from the average of two.

    Args:
        p_counts: `(U, bins)`, counts of the data.
        q_counts: `(U, bins)`, counts of the model.
        n: `(U,)`, number of values of either side, those outside the edges included.
        rng: where the draws come from.

    Returns:
        Two tensors `(FLOOR_DRAWS, U, bins)`: multinomial draws of size n, values outside the edges dropped.
    """
    both = (p_counts + q_counts).astype(np.float64)
    chances = np.concatenate([both, 2 * n[:, None] - both.sum(-1, keepdims=True)], -1)
    chances /= np.maximum(2 * n[:, None], 1)
    drawn = torch.from_numpy(rng.multinomial(n, chances, size=(2, FLOOR_DRAWS, len(n)))[..., :-1])
    return drawn[0], drawn[1]


class HistogramKL(Accumulator):
    """One recipe of `RECIPES` over a data set that comes in batches of tiles.

    Patches and blocks are cut from the top left corner of each tile; what is left at its right and bottom is not
    counted. Memory: two histograms an image at most.

    Args:
        recipe: which.
        images: number of images of the data set.

    Examples:
        >>> rng = torch.Generator().manual_seed(1)
        >>> data, model = (0.02 * torch.randn(3, 4, 64, 64, generator=rng).double() for _ in range(2))
        >>> score = HistogramKL(RECIPES["n2nf"], images=3)
        >>> score.update(data, model, image=torch.arange(3))
        >>> result = score.result()
        >>> round(result.value, 4), result.indistinguishable, result.units, result.interval.scenes
        (0.01, True, 12, 3)
    """

    def __init__(self, recipe: Recipe, images: int) -> None:
        super().__init__(images)
        self.recipe = recipe
        self.state["values"] = torch.zeros(images, dtype=torch.int64)
        if recipe.per in _SIDE:
            self.state["totals"] = torch.zeros(images, dtype=torch.float64)
            self.state["units"] = torch.zeros(images, dtype=torch.int64)
            self.state["floor_totals"] = torch.zeros(FLOOR_DRAWS, dtype=torch.float64)
            self.state["floor_units"] = torch.zeros((), dtype=torch.int64)
        else:
            self.state["counts"] = torch.zeros(images, 2, recipe.bins, dtype=torch.int64)

    def update(
        self,
        data: Float[Tensor, "b c h w"],
        model: Float[Tensor, "b c h w"],
        image: int | Int[Tensor, "b"] = 0,
        clean: Float[Tensor, "b c h w"] | None = None,
    ) -> None:
        """Add a batch of tiles.

        Args:
            data: `(B, C, H, W)`, noisy − clean of the data, linear units, computed in float64.
            model: `(B, C, H, W)`, `synthesize(…) − clean`, linear units, computed in float64; where the recipe is not
                `rounded`, the model's latent noise, `sample(…)`, instead.
            image: which image the tiles are of, one number or one a row.
            clean: `(B, C, H, W)`, linear units; for recipes that are not `rounded`.

        Raises:
            ValueError: shapes that differ, an image that does not exist, or `clean` missing where it is needed.
        """
        if data.shape != model.shape:
            raise ValueError(f"model: expected noise of the data's shape {tuple(data.shape)}, got {tuple(model.shape)}")
        index = self.rows(image, len(data))
        data, model = data.to(self.device), model.to(self.device)
        if not self.recipe.rounded:
            if clean is None or clean.shape != data.shape:
                raise ValueError(f"clean: {self.recipe.name} clips the model's pictures, so it needs the clean ones")
            clean = clean.to(self.device).double()
            model = (clean + model.double()).clamp(0.0, 1.0) - clean
        if self.recipe.per in _SIDE:
            self._add_units(data, model, index)
            return
        counts = torch.stack([histogram(self.recipe.values(x).flatten(1), self.recipe.edges) for x in (data, model)], 1)
        self.state["counts"].index_add_(0, index, counts)
        self._count("values", index, data[0].numel())

    def _count(self, name: str, index: Tensor, each: int) -> None:
        self.state[name].index_add_(0, index, torch.full_like(index, each))

    def _add_units(self, data: Tensor, model: Tensor, index: Tensor) -> None:
        side, recipe = _SIDE[self.recipe.per], self.recipe
        down, across = data.shape[-2] // side, data.shape[-1] // side
        units, n = down * across, data.shape[1] * side * side
        if not units or not len(data):
            return
        p, q = (
            histogram(_cut(self.recipe.values(noise), side), recipe.edges).reshape(len(data), units, -1)
            for noise in (data, model)
        )
        self.state["totals"].index_add_(0, index, histogram_kl(p, q, n, added=recipe.added).sum(1))
        self._count("units", index, units)
        self._count("values", index, units * n)
        picked = slice(min(units, _REDRAWN) // 2, None, _REDRAWN)
        for p_row, q_row in zip(p[:, picked].cpu().numpy(), q[:, picked].cpu().numpy(), strict=True):
            # seeded by the counts themselves: the same whatever the batch, the tile's number or the process
            rng = np.random.default_rng(seed_of(p_row.tobytes() + q_row.tobytes()))
            drawn = redraw(p_row, q_row, np.full(len(p_row), n), rng)
            floors = histogram_kl(*drawn, n, added=recipe.added).sum(-1)
            self.state["floor_totals"] += floors.to(self.device)
            self.state["floor_units"] += len(p_row)

    def result(self, scenes: Sequence[Hashable] | None = None) -> Divergence:
        """The divergence, its floor and its interval.

        Args:
            scenes: the scene of each image; None where each is its own.

        Returns:
            `value` is NaN, and the interval says why, where the data hold no whole patch or block, or nothing at all.
        """
        distinct, scene = scene_index(scenes, self.images)
        state = {name: value.cpu().numpy() for name, value in self.state.items()}
        values = int(state["values"].sum())
        if not values:
            what = (
                f"whole {self.recipe.per} of {_SIDE[self.recipe.per]} pixels" if self.recipe.per in _SIDE else "value"
            )
            nothing = Interval(np.nan, None, None, None, 0, f"not computed: the data hold no {what}")
            return Divergence(self.recipe.name, np.nan, (np.nan, np.nan), nothing, 0, 0)
        if self.recipe.per == "pool":
            return self._pooled(state["counts"], state["values"], np.asarray(scene), len(distinct))
        if self.recipe.per == "image":
            seen = state["values"] > 0
            totals, counts = self._per_image(state["counts"], state["values"]), seen.astype(np.int64)
            floors = self._floors(state["counts"][seen], state["values"][seen]).mean(-1)
        else:
            totals, counts = state["totals"], state["units"]
            floors = state["floor_totals"] / state["floor_units"]
            centre = floors.mean()
            floors = centre + (floors - centre) * np.sqrt(state["floor_units"] / counts.sum())
        by_scene = np.bincount(scene, totals, len(distinct)), np.bincount(scene, counts, len(distinct))
        kept = by_scene[1] > 0
        interval = scene_interval(by_scene[0][kept].tolist(), by_scene[1][kept].astype(int).tolist())
        return Divergence(self.recipe.name, interval.value, _range(floors), interval, int(counts.sum()), values)

    def _per_image(self, counts: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.float64]:
        """`(I,)`, the divergence of each image; 0 where nothing was seen of it."""
        p, q = torch.from_numpy(counts).unbind(1)
        return self._kl(p, q, np.maximum(values, 1))

    def _kl(self, p: Tensor, q: Tensor, n: NDArray[np.int64]) -> NDArray[np.float64]:
        kl: NDArray[np.float64] = histogram_kl(p, q, torch.from_numpy(n), added=self.recipe.added).numpy()
        return kl

    def _floors(self, counts: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.float64]:
        """`(FLOOR_DRAWS, U)`, divergences of redraws of U pairs of histograms."""
        rng = np.random.default_rng(seed_of(counts.tobytes()))
        return self._kl(*redraw(counts[:, 0], counts[:, 1], n, rng), n)

    def _pooled(
        self, counts: NDArray[np.int64], values: NDArray[np.int64], scene: NDArray[np.int64], scenes: int
    ) -> Divergence:
        all_counts, n = counts.sum(0, keepdims=True), values.sum(keepdims=True)
        by_scene = np.zeros((scenes, *counts.shape[1:]), np.int64)
        np.add.at(by_scene, scene, counts)
        sizes = np.bincount(scene, values, scenes).astype(np.int64)
        seen = sizes > 0
        left_out = self._per_image(all_counts - by_scene[seen], n - sizes[seen]).tolist()
        value = float(self._per_image(all_counts, n)[0])
        interval = jackknife_interval(value, left_out)
        floors = self._floors(all_counts, n)[:, 0]
        return Divergence(self.recipe.name, value, _range(floors), interval, 1, int(n[0]))


def _cut(noise: Tensor, side: int) -> Tensor:
    """`(B·P, C·side²)`, the whole patches of each row, row by row."""
    b, c, h, w = noise.shape
    cropped = noise[..., : h // side * side, : w // side * side]
    parts = cropped.reshape(b, c, h // side, side, w // side, side).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(b * (h // side) * (w // side), c * side * side)


def _range(floors: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(floors, [0.025, 0.975])
    return float(low), float(high)
