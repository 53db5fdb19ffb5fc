"""Images cut into tiles, a few at a time: memory depends on neither their size nor their number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from noiseflow.datasets import FramePair, collate, tiles
from noiseflow.datasets.decoded import forget
from noiseflow.evaluation.sources import Box
from noiseflow.shot import Shot

TILE = 256
"""Side of the tiles, in packed pixels (raw) or pixels (sRGB)."""

_BATCH = 2


class Tiles(NamedTuple):
    """Some tiles of one frame, all of one shape.

    Attributes:
        frame: index of the frame.
        numbers: their numbers among the frame's tiles.
        of: number of tiles of the frame.
        boxes: where they lie in the frame.
        skipped: how many tiles were left out of this batch because they hold NaN.
        noisy: `(B, C, H, W)`, linear units.
        shot: clean images and conditions.
    """

    frame: int
    numbers: list[int]
    of: int
    boxes: list[Box]
    skipped: int
    noisy: Tensor
    shot: Shot


class TileBatches(Dataset[Tiles]):
    """All tiles of some frames, a few of one frame and one shape at a time.

    Args:
        frames: all frames.
        chosen: indices of those to cut.
        side: side of the tiles.
    """

    def __init__(self, frames: Sequence[FramePair], chosen: Sequence[int], side: int = TILE) -> None:
        self.frames = frames
        self.boxes = {i: tiles(frames[i].size, side) for i in chosen}
        self.batches = [(i, numbers) for i in chosen for numbers in _batches(self.boxes[i])]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> Tiles:
        i, numbers = self.batches[item]
        if item and self.batches[item - 1][0] != i:
            forget()  # batches come in order, so that no frame before this one is read again
        pairs = {n: self.frames[i].read(*self.boxes[i][n]) for n in numbers}
        whole = [n for n, pair in pairs.items() if pair.is_finite]
        empty = Shot(torch.zeros(0, self.frames[i].channels, 1, 1), torch.zeros(0), torch.zeros(0).long(), ("",))
        noisy, shot = collate([pairs[n] for n in whole]) if whole else (empty.clean, empty)
        boxes = [self.boxes[i][n] for n in whole]
        return Tiles(i, whole, len(self.boxes[i]), boxes, len(numbers) - len(whole), noisy, shot)


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers below `count`, evenly spread, 0 among them.

    Examples:
        >>> spread(10, 4), spread(2, 4)
        ([0, 2, 5, 7], [0, 1])
    """
    few = min(wanted, count)
    return [i * count // few for i in range(few)]


def _batches(boxes: Sequence[Box]) -> Iterable[list[int]]:
    """Numbers of boxes of one shape, a few at a time."""
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (_, _, height, width) in enumerate(boxes):
        by_shape[height, width].append(number)
    for numbers in by_shape.values():
        for start in range(0, len(numbers), _BATCH):
            yield numbers[start : start + _BATCH]
