"""The divergences as `torchmetrics.Metric`s: for training loops and for data that are spread over processes.

Their states are the sums of the accumulators and are reduced by addition, so images may be split among processes,
even within. Every process numbers the images alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from noiseflow.metrics.accumulate import Accumulator, Divergence
from noiseflow.metrics.akld import AKLD
from noiseflow.metrics.conditional import ConditionalKL
from noiseflow.metrics.divergence import RECIPES, HistogramKL


class _Sums(Metric):
    """A metric whose states are those of an accumulator."""

    full_state_update = False
    higher_is_better = False

    def __init__(self, images: int, scenes: Sequence[Hashable] | None, accumulator: Accumulator) -> None:
        super().__init__()
        self.images = images
        self.scenes = scenes
        self._names = list(accumulator.state)
        for name, value in accumulator.state.items():
            self.add_state(name, value, dist_reduce_fx="sum")

    def _onto(self, accumulator: Accumulator) -> None:
        """Let an accumulator add to this metric's own tensors."""
        accumulator.state = {name: getattr(self, name) for name in self._names}


def _figures(result: Divergence) -> dict[str, Tensor]:
    low, high = (torch.nan if end is None else end for end in (result.interval.low, result.interval.high))
    figures = {"value": result.value, "low": low, "high": high, "floor_low": result.floor[0],
               "floor_high": result.floor[1]}  # fmt: skip
    return {name: torch.tensor(figure, dtype=torch.float64) for name, figure in figures.items()}


class HistogramKLMetric(_Sums):
    """`HistogramKL` of the recipe of a name; `compute` gives value, low, high, floor_low and floor_high.

    Args:
        recipe: a name in `noiseflow.metrics.divergence.RECIPES`.
        images: number of images of the data set.
        scenes: the scene of each image; None where each is its own.

    Raises:
        ValueError: no recipe has this name.

    Examples:
        >>> metric = HistogramKLMetric("n2nf", images=2)
        >>> noise = 0.02 * torch.randn(2, 2, 4, 32, 32, generator=torch.Generator().manual_seed(0)).double()
        >>> metric.update(noise[0], noise[1], torch.arange(2))
        >>> sorted(metric.compute())
        ['floor_high', 'floor_low', 'high', 'low', 'value']
    """

    def __init__(self, recipe: str, images: int, scenes: Sequence[Hashable] | None = None) -> None:
        if recipe not in RECIPES:
            raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}")
        super().__init__(images, scenes, HistogramKL(RECIPES[recipe], images))
        self.recipe = recipe

    def _accumulator(self) -> HistogramKL:
        accumulator = HistogramKL(RECIPES[self.recipe], self.images)
        self._onto(accumulator)
        return accumulator

    def update(
        self,
        data: Float[Tensor, "b c h w"],
        model: Float[Tensor, "b c h w"],
        image: int | Int[Tensor, "b"] = 0,
        clean: Float[Tensor, "b c h w"] | None = None,
    ) -> None:
        """Add a batch; arguments as in `HistogramKL.update`."""
        self._accumulator().update(data, model, image, clean)

    def compute(self) -> dict[str, Tensor]:
        """Figures of `HistogramKL.result`; NaN for what it does not have."""
        return _figures(self._accumulator().result(self.scenes))


class AKLDMetric(_Sums):
    """`AKLD`; `compute` gives value, low, high, floor_low and floor_high.

    Args:
        images: number of images of the data set.
        scenes: the scene of each image; None where each is its own.
    """

    def __init__(self, images: int, scenes: Sequence[Hashable] | None = None) -> None:
        super().__init__(images, scenes, AKLD(images))

    def _accumulator(self) -> AKLD:
        accumulator = AKLD(self.images)
        self._onto(accumulator)
        return accumulator

    def update(
        self,
        data: Float[Tensor, "b c h w"],
        draws: Iterable[Float[Tensor, "b c h w"]],
        image: int | Int[Tensor, "b"] = 0,
    ) -> None:
        """Add a batch; arguments as in `AKLD.update`."""
        self._accumulator().update(data, draws, image)

    def compute(self) -> dict[str, Tensor]:
        """Figures of `AKLD.result`; NaN for what it does not have."""
        return _figures(self._accumulator().result(self.scenes))


class ConditionalKLMetric(_Sums):
    """`ConditionalKL`; `compute` gives value, low, high, floor_low and floor_high.

    Args:
        conditions: camera and ISO of each image of the data set.
        scenes: the scene of each image; None where each is its own.
    """

    def __init__(self, conditions: Sequence[Hashable], scenes: Sequence[Hashable] | None = None) -> None:
        super().__init__(len(conditions), scenes, ConditionalKL(len(conditions)))
        self.conditions = conditions

    def _accumulator(self) -> ConditionalKL:
        accumulator = ConditionalKL(self.images)
        self._onto(accumulator)
        return accumulator

    def update(
        self,
        data: Float[Tensor, "b c h w"],
        model: Float[Tensor, "b c h w"],
        clean: Float[Tensor, "b c h w"],
        image: int | Int[Tensor, "b"] = 0,
    ) -> None:
        """Add a batch; arguments as in `ConditionalKL.update`."""
        self._accumulator().update(data, model, clean, image)

    def compute(self) -> dict[str, Tensor]:
        """Figures of `ConditionalKL.result`, all conditions together; NaN for what it does not have."""
        return _figures(self._accumulator().result(self.conditions, self.scenes).overall)
