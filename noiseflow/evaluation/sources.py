"""What is scored: a noise model, or a folder of noisy images that somebody else's model made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.datasets import FramePair, NoiseDataset
from noiseflow.datasets.decoded import decoded
from noiseflow.errors import UserError
from noiseflow.models import Flow, NoiseModel
from noiseflow.raw.cfa import pack
from noiseflow.raw.decode import IMAGE_SUFFIXES
from noiseflow.shot import Shot

Box = tuple[int, int, int, int]
"""Top, left, height and width of a tile in its frame."""


@dataclass(frozen=True)
class Entry:
    """Something to score.

    Attributes:
        name: how it is called in the results; unique.
        source: a noise model, or the noisy images it made.
        file_hash: SHA-256 of the model's file, or None for one that was fitted on the spot.
    """

    name: str
    source: NoiseModel | SampleFolder
    file_hash: str | None = None

    @property
    def model(self) -> NoiseModel | None:
        """The model, or None where only its images are at hand."""
        return None if isinstance(self.source, SampleFolder) else self.source


class SampleFolder:
    """Noisy images made by somebody else's model, one for each frame of a data set.

    The image of a frame is looked for under the path of its noisy file relative to the data set's folder, then under
    that file's name alone, then as `<clean file>_noisy_0`, with any suffix that is read: a mosaic `(H, W)` for raw, a
    picture `(H, W, 3)` for sRGB. Floats are in linear units, integers are codes, 0 being the lowest value that the
    frame can hold. Values are taken to the frame's codes and clip ends, as those of models are.

    Args:
        root: the folder.
        dataset: the frames.

    Raises:
        UserError: the folder or the image of a frame is missing, or two frames would share one.
    """

    noise_domain = "recorded"

    def __init__(self, root: Path | str, dataset: NoiseDataset) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(
                f"{self.root}: expected a folder of noisy images, got {'a file' if self.root.exists() else 'none'}"
            )
        found = {frame.name: self._find(frame, dataset.root) for frame in dataset.frames}
        owner: dict[Path, str] = {}
        for name, path in found.items():
            if path in owner:
                raise UserError(
                    f"{path}: expected one image a frame, got one for both {owner[path]} and {name}; "
                    f"keep the folders of {dataset.root} inside {self.root}"
                )
            owner[path] = name
        self._found = found

    def _find(self, frame: FramePair, base: Path) -> Path:
        noisy, clean = frame.files[:2]
        inside = noisy.relative_to(base) if noisy.is_relative_to(base) else Path(noisy.name)
        stems = (inside.with_suffix(""), Path(noisy.stem), Path(f"{clean.stem}_noisy_0"))
        suffixes = dict.fromkeys((noisy.suffix, *IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES)))
        for stem in stems:
            for suffix in suffixes:
                path = self.root / stem.with_name(stem.name + suffix)
                if path.is_file():
                    return path
        raise UserError(
            f"{self.root}: expected a noisy image for every scored frame, found none for {frame.name} "
            f"(as {inside.as_posix()} or {noisy.name})"
        )

    def noise(
        self, frame: FramePair, boxes: Sequence[Box], clean: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Recorded noise of tiles of one frame, linear units, float64."""
        image = self._image(frame)
        parts = [image[:, top : top + height, left : left + width] for top, left, height, width in boxes]
        return _stored(torch.stack(parts).to(clean.device), frame).double() - clean.double()

    def _image(self, frame: FramePair) -> Float[Tensor, "c h w"]:
        """The image made for a frame, linear units, float64."""
        path = self._found[frame.name]
        stored = decoded(path)
        values = torch.from_numpy(stored.astype(np.float64))
        if stored.dtype.kind != "f":
            values = values * float(frame.lsb.max()) + float(frame.low.max())
        height, width = frame.size
        expected = (2 * height, 2 * width) if frame.channels == 4 else (height, width, 3)[: 2 + (frame.channels == 3)]
        if tuple(values.shape) != expected:
            raise UserError(
                f"{path}: expected an image of {'×'.join(map(str, expected))}, the size of {frame.name}, "
                f"got {'×'.join(map(str, values.shape))}"
            )
        if not bool(torch.isfinite(values).all()):
            raise UserError(f"{path}: expected finite values, got NaN or infinity")
        if frame.channels == 4:
            return pack(values, str(frame.cfa))
        return values.permute(2, 0, 1) if frame.channels == 3 else values[None]


class Drawn(NamedTuple):
    """Noise that was drawn from a model, linear units, float64.

    Attributes:
        recorded: `(B, C, H, W)`, after rounding and clipping, minus clean.
        raw: `(B, C, H, W)`, as the model gave it; for images that somebody else made the same as `recorded`.
    """

    recorded: Float[Tensor, "b c h w"]
    raw: Float[Tensor, "b c h w"]


def draw(
    entry: Entry, frame: FramePair, boxes: Sequence[Box], shot: Shot, seed: int | Tensor, *, quick: bool = False
) -> Drawn:
    """Noise of tiles of one frame.

    Args:
        entry: where the noise comes from.
        frame: the frame.
        boxes: the tiles, one a row of the shot.
        shot: their clean images and conditions.
        seed: as in `NoiseModel.sample`; without effect on images that are already made.
        quick: draw from flows in float32, for statistics that need many draws.
    """
    clean = shot.clean.double()
    if isinstance(entry.source, SampleFolder):
        noise = entry.source.noise(frame, boxes, clean)
        return Drawn(noise, noise)
    if quick and isinstance(entry.source, Flow):
        raw = entry.source.sample(shot, seed=seed, dtype=torch.float32).double()
    else:
        raw = entry.source.sample(shot, seed=seed).double()
    return Drawn(_stored(clean + raw, frame).double() - clean, raw)


def _stored(image: Tensor, frame: FramePair) -> Tensor:
    """What a frame's file would hold of images, as its reader gives it, float32: equal codes are equal numbers."""
    return frame.grid.snap(image.cpu()).float().to(image.device)
