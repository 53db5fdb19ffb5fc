"""Patches for training and tiles for evaluation."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from noiseflow.datasets.base import FramePair, Pair
from noiseflow.errors import UserError
from noiseflow.randomness import combine
from noiseflow.raw.cfa import mirror, mirror_packed

_log = logging.getLogger(__name__)

_FRAME_ORDER, _WINDOW_ORDER, _PLACE = 1, 2, 3
"""What a number is drawn for, so that the draws do not depend on each other."""

_ATTEMPTS = 64


class _Source(Protocol):
    """What patches are cut from."""

    name: str
    files: tuple[Path, ...]

    @property
    def cfa(self) -> str | None: ...

    @property
    def size(self) -> tuple[int, int]: ...


class _Patch(Protocol):
    """What is cut."""

    @property
    def is_finite(self) -> bool: ...


SourceT = TypeVar("SourceT", bound=_Source)
PatchT = TypeVar("PatchT", bound=_Patch)


class Cut(NamedTuple):
    """One place to cut, and how to mirror what was cut.

    Attributes:
        rectangle: top, left, height and width of what is to be read; with a cell more along the mirrored sides.
        origin: the place that was drawn.
        cfa: pattern of the frame.
        vertical: whether to turn the rows round.
        horizontal: whether to turn the columns round.
    """

    rectangle: tuple[int, int, int, int]
    origin: tuple[int, int]
    cfa: str | None
    vertical: bool
    horizontal: bool

    def turn(self, image: Tensor) -> Tensor:
        """Mirror the pixels of the rectangle, `(…, C, h, w)`."""
        if self.cfa is not None:
            return mirror_packed(image, self.cfa, vertical=self.vertical, horizontal=self.horizontal)
        return image.flip([axis for axis, turned in ((-2, self.vertical), (-1, self.horizontal)) if turned])


class Patches(Dataset[PatchT], ABC, Generic[SourceT, PatchT]):
    """Random patches: item g is a pure function of (seed, g), in whatever process or order it is asked for.

    Every epoch gives each frame `patches_per_frame` patches. Frames come in a new order each epoch and are
    taken in windows; within a window the patches are shuffled, so that a batch mixes frames while each
    decoded file serves many patches. The place is uniform over the whole frame, ends included.

    Mirrors keep the pattern: packed raw is mirrored as its mosaic is (`cfa.mirror`), which needs one cell more
    than the patch on one side; a patch as large as its frame is not mirrored along that side. The
    origin of a mirrored patch is the place that was drawn.

    Patches with NaN or infinite values are dropped, counted in `dropped` (of this process) and drawn anew.

    Args:
        frames: the frames to cut from.
        patch: rows and columns of a patch, in pixels of the tensors.
        seed: seed of all draws.
        length: number of items.
        patches_per_frame: patches of a frame in an epoch.
        window: frames that are shuffled together.
        augment: mirror each patch along each side with probability 1/2.

    Raises:
        UserError: no frames, or a patch that is larger than a frame.
    """

    def __init__(
        self,
        frames: Sequence[SourceT],
        patch: int,
        seed: int,
        length: int,
        patches_per_frame: int = 32,
        window: int = 8,
        augment: bool = True,
    ) -> None:
        for name, value in (("patch", patch), ("patches_per_frame", patches_per_frame), ("window", window)):
            if value < 1:
                raise UserError(f"{name}: expected 1 or more, got {value}")
        if not frames:
            raise UserError("expected at least one frame to cut patches from, got none")
        self.frames = tuple(frames)
        self.patch = patch
        self.seed = seed
        self.length = length
        self.patches_per_frame = patches_per_frame
        self.window = window
        self.augment = augment
        self.dropped = 0
        self._last: tuple[tuple[int, int], list[int]] = (-1, -1), []
        self._places(self.frames[0])  # the common mistake is found before workers start

    def __len__(self) -> int:
        return self.length

    def frame_of(self, g: int) -> SourceT:
        """The frame that item g is cut from."""
        epoch, place = divmod(g, len(self.frames) * self.patches_per_frame)
        window, place = divmod(place, self.window * self.patches_per_frame)
        return self.frames[self._served(epoch, window)[place]]

    def _served(self, epoch: int, window: int) -> list[int]:
        """Numbers of the frames that a window serves, patch after patch; remembered while it lasts."""
        if self._last[0] != (epoch, window):
            order = self._shuffled(len(self.frames), _FRAME_ORDER, epoch)
            members = order[window * self.window : (window + 1) * self.window]
            shuffled = self._shuffled(len(members) * self.patches_per_frame, _WINDOW_ORDER, epoch, window)
            self._last = (epoch, window), [members[n // self.patches_per_frame] for n in shuffled]
        return self._last[1]

    def __getitem__(self, g: int) -> PatchT:
        if not 0 <= g < self.length:
            raise IndexError(f"expected an item from 0 to {self.length - 1}, got {g}")
        frame = self.frame_of(g)
        for attempt in range(_ATTEMPTS):
            pair = self._cut(frame, g, attempt)
            if pair.is_finite:
                return pair
            self.dropped += 1
            _log.warning("%s: dropped a patch with NaN or infinite values (%d so far)", frame.name, self.dropped)
        raise UserError(
            f"{frame.files[0]}: expected a patch without NaN, found none in {_ATTEMPTS} places; choose a smaller patch"
        )

    @abstractmethod
    def _read(self, frame: SourceT, cut: Cut, draw: int) -> PatchT:
        """The patch at one place; `draw` is a number from 0 to 2⁶³ − 1 for what is left to chance."""

    def _cut(self, frame: SourceT, g: int, attempt: int) -> PatchT:
        rows, columns = self._places(frame)
        # 63 bits modulo a few thousand places: uneven by less than 1e-15
        draws = combine(self.seed, _PLACE, g, attempt, torch.arange(5)) & (2**63 - 1)
        top, left = int(draws[0]) % rows, int(draws[1]) % columns
        vertical, horizontal = (self.augment and bool(draws[n] >> 62) for n in (2, 3))
        if frame.cfa is None:
            cut = Cut((top, left, self.patch, self.patch), (top, left), None, vertical, horizontal)
        else:
            vertical, horizontal = vertical and rows > 1, horizontal and columns > 1
            rectangle = (
                # the extra cell lies behind the patch, or before it at the frame's far end
                min(top, rows - 2) if vertical else top,
                min(left, columns - 2) if horizontal else left,
                self.patch + vertical,
                self.patch + horizontal,
            )
            cut = Cut(rectangle, (top, left), frame.cfa, vertical, horizontal)
        return self._read(frame, cut, int(draws[4]))

    def _places(self, frame: SourceT) -> tuple[int, int]:
        """Number of rows and columns that a patch can begin at."""
        height, width = frame.size
        if self.patch > min(height, width):
            raise UserError(
                f"{frame.name}: expected a patch within the frame's {height}×{width} pixels, got {self.patch}×"
                f"{self.patch}; choose a smaller patch"
            )
        return height - self.patch + 1, width - self.patch + 1

    def _shuffled(self, count: int, *purpose: int) -> list[int]:
        keys = combine(self.seed, *purpose, torch.arange(count))
        return torch.argsort(keys, stable=True).tolist()


class PatchDataset(Patches[FramePair, Pair]):
    """Random patches of noisy–clean pairs, as `Patches` has them."""

    def _read(self, frame: FramePair, cut: Cut, draw: int) -> Pair:
        pair = frame.read(*cut.rectangle)
        srgb = pair.srgb
        if srgb is not None:
            srgb = mirror(srgb, vertical=cut.vertical, horizontal=cut.horizontal)
        return replace(pair, noisy=cut.turn(pair.noisy), clean=cut.turn(pair.clean), srgb=srgb, origin=cut.origin)


def tiles(frame_size: tuple[int, int], tile: int) -> list[tuple[int, int, int, int]]:
    """Cover a frame without overlap; the tiles of the last row and column may be smaller.

    Args:
        frame_size: rows and columns of the frame.
        tile: rows and columns of a tile.

    Returns:
        (top, left, height, width) of each, row by row.

    Raises:
        ValueError: a tile of less than one pixel.

    Examples:
        >>> tiles((3, 4), 2)
        [(0, 0, 2, 2), (0, 2, 2, 2), (2, 0, 1, 2), (2, 2, 1, 2)]
    """
    if tile < 1:
        raise ValueError(f"tile: expected 1 or more, got {tile}")
    height, width = frame_size
    return [
        (top, left, min(tile, height - top), min(tile, width - left))
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]
