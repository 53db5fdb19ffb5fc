"""What was found in a folder of images, and choosing from it by split, camera and ISO."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from noiseflow.datasets.base import Recorded
from noiseflow.errors import UserError

_SPLITS = ("train", "test", "all")
_HASHED_END = 64 << 10


class _OfFiles(Protocol):
    """What is made of files."""

    files: tuple[Path, ...]


ItemT = TypeVar("ItemT", bound=Recorded)


@dataclass(frozen=True, eq=False, kw_only=True)
class Selection(Generic[ItemT]):
    """Pairs or bursts of one domain, found in one folder.

    Attributes:
        root: the folder.
        domain: "raw" or "srgb".
        frames: the pairs or bursts, as far as they are selected.
        split_protocol: which rule divides train from test.
        split_of: name → "train" or "test", over all that the folder has.
        everything: all files of the folder's data set, selected or not.
    """

    root: Path
    domain: str
    frames: tuple[ItemT, ...]
    split_protocol: str
    split_of: Mapping[str, str]
    everything: tuple[Path, ...]

    @property
    def conditions(self) -> tuple[tuple[str, float], ...]:
        """The (camera, ISO) that occur, sorted."""
        return tuple(sorted({(frame.camera, frame.iso) for frame in self.frames}))

    def select(
        self,
        split: str = "all",
        cameras: Sequence[str] | None = None,
        isos: Sequence[float] | None = None,
        max_images: int | None = None,
    ) -> Self:
        """Part of the data set. Splits are those of the whole folder, whatever else is selected.

        Args:
            split: "train", "test" or "all".
            cameras: names; None for all.
            isos: ISO speeds; None for all.
            max_images: at most that many frames, taken in turn from each camera and ISO.

        Raises:
            UserError: nothing is left, or a name that does not occur.
        """
        if split not in _SPLITS:
            raise UserError(f"split: expected {', '.join(_SPLITS)}, got {split!r}")
        if max_images is not None and max_images < 1:
            raise UserError(f"max images: expected 1 or more, got {max_images}")
        _check_known("cameras", cameras, {frame.camera for frame in self.frames}, self.root)
        _check_known("ISOs", isos, {frame.iso for frame in self.frames}, self.root)
        chosen = [
            frame
            for frame in self.frames
            if (cameras is None or frame.camera in cameras) and (isos is None or frame.iso in isos)
        ]
        if not chosen:
            raise UserError(
                f"{self.root}: expected images of cameras {_list(cameras)} at ISOs {_list(isos)}, found none; "
                f"there are {_list(f'{camera} {iso:g}' for camera, iso in self.conditions)}"
            )
        if split != "all":
            chosen = [frame for frame in chosen if self.split_of.get(frame.name) == split]
        if not chosen:
            raise UserError(
                f"{self.root}: expected images in the {split} split, found none among the chosen cameras and "
                f"ISOs (rule: {self.split_protocol}); give --split all to use every image"
            )
        return replace(self, frames=_in_turn(chosen, max_images))

    def root_hash(self) -> str:
        """SHA-256 over name, size, and first and last 64 KiB of every file of the folder's data set.

        Selections of one folder have one hash.
        """
        digest = hashlib.sha256()
        named = {Path(os.path.relpath(path, self.root)).as_posix(): path for path in self.everything}
        for name, path in sorted(named.items()):
            size = path.stat().st_size
            digest.update(f"{name}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(_HASHED_END))
                file.seek(max(0, size - _HASHED_END))
                digest.update(file.read(_HASHED_END))
        return digest.hexdigest()


def files_of(items: Sequence[_OfFiles], *others: Path) -> tuple[Path, ...]:
    """All files of pairs or bursts, and those of the others that are there; sorted."""
    files = {path for item in items for path in item.files} | {path for path in others if path.is_file()}
    return tuple(sorted(files))


def _check_known(what: str, wanted: Sequence[Any] | None, known: set[Any], root: Path) -> None:
    unknown = [value for value in wanted or () if value not in known]
    if unknown:
        raise UserError(f"{root}: expected {what} among {_list(sorted(known))}, got {_list(unknown)}")


def _list(values: Any) -> str:
    if values is None:
        return "all"
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _in_turn(frames: Sequence[ItemT], count: int | None) -> tuple[ItemT, ...]:
    """At most `count` frames, one of each condition in turn, in the order given."""
    if count is None or count >= len(frames):
        return tuple(frames)
    seen: dict[tuple[str, float], int] = {}
    turns = []
    for index, frame in enumerate(frames):
        condition = (frame.camera, frame.iso)
        seen[condition] = seen.get(condition, 0) + 1
        turns.append((seen[condition], index))
    return tuple(frames[index] for index in sorted(index for _, index in sorted(turns)[:count]))
