"""Clean images as a data set of pairs, with fresh noise in every epoch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from noiseflow.adapters.transform import NoiseTransform, channels_of
from noiseflow.arrays import to_planes
from noiseflow.datasets.base import Pair


class Images(Protocol):
    """Clean images by number: a list, or a torch data set that yields nothing else."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """A tensor `(C, H, W)`, or an array as `NoiseTransform` takes it; linear units."""
        ...


class NoisyPairs(Dataset[Pair]):
    """Clean images and noisy ones made of them, each a `Pair`: what the package's own data sets yield.

    Pair i of an epoch is a pure function of (seed, epoch, i): the same for any number of workers, in any order.
    `noiseflow.datasets.collate` makes batches of them.

    Args:
        clean: the clean images, `(C, H, W)` tensors or numpy arrays, linear units.
        transform: what adds the noise; its seed and conditions.

    Examples:
        >>> from noiseflow.datasets import collate
        >>> from noiseflow.models import NoiseLevelFunction
        >>> model = NoiseLevelFunction([("S6", 100), ("S6", 800)])
        >>> pairs = NoisyPairs([torch.rand(4, 8, 8) for _ in range(6)], NoiseTransform(model, iso=(100, 3200)))
        >>> loader = torch.utils.data.DataLoader(pairs, batch_size=3, collate_fn=collate)
        >>> for epoch in range(2):
        ...     pairs.set_epoch(epoch)
        ...     for noisy, shot in loader:
        ...         assert noisy.shape == shot.clean.shape == (3, 4, 8, 8)
    """

    def __init__(self, clean: Images, transform: NoiseTransform) -> None:
        self.clean, self.transform = clean, transform
        # in shared memory, so that workers that outlive an epoch see the next one
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.clean)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes: every one has noise and conditions of its own."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Pair:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        image = self.clean[index]
        if isinstance(image, Tensor):
            image = image.detach()  # workers cannot hand over a part of a graph
        elif isinstance(image, (tuple, list)):
            raise ValueError(f"clean: expected a data set of images, got a {type(image).__name__}; wrap it so that it "
                             "yields nothing else")  # fmt: skip
        else:
            image = to_planes(np.asarray(image), channels_of(self.transform.model), self.transform.cfa)
        number = int(self._epoch) * len(self) + index
        noisy, shot = self.transform(image, index=number, return_shot=True)
        return Pair(
            noisy=noisy,
            clean=image,
            camera=shot.camera_names[0],
            iso=float(shot.iso[0]),
            lsb=shot.lsb[0].double(),
            low=shot.low[0].double(),
            high=shot.high[0].double(),
            cfa=shot.patterns[0] if shot.cfa is not None else None,
            origin=(0, 0),
            name=str(index),
            scene=str(index),
        )
