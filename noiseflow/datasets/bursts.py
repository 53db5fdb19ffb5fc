"""Bursts: several noisy frames of one still scene, and no clean one.

A burst is a row of noisy frames that share scene, camera, ISO, size and code grid. `Burst.read` cuts a rectangle out
of any of them; `BurstPatches` draws random rectangles of random consecutive frames for training. Nothing is read before
it is needed, and everything pickles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.datasets.base import CodeGrid, FramePair, OnGrid, rectangle_of, shot_of_patches
from noiseflow.datasets.decoded import decoded
from noiseflow.datasets.pairs import TableFrame
from noiseflow.datasets.patches import Cut, Patches
from noiseflow.errors import DefectError, UserError
from noiseflow.raw.cfa import pack
from noiseflow.shot import Shot

MAPS = ("offset", "gain", "variance")
"""Per-pixel maps of a sensor, as `Shot` names them."""


@dataclass(frozen=True, eq=False)
class NoisyPair:
    """Two noisy frames of one place, in linear units, and the further ones that were asked for.

    Attributes:
        noisy1: `(C, H, W)` float32, on the code grid.
        noisy2: `(C, H, W)` float32, a later frame.
        camera: name of the camera.
        iso: ISO speed.
        lsb: `(C,)` float64, code width; 0: not quantised.
        low: `(C,)` float64, lowest value that a frame can hold.
        high: `(C,)` float64, highest value that a frame can hold.
        cfa: RGGB, BGGR, GRBG or GBRG, or None where there is no mosaic.
        origin: row and column in the frame, in pixels of these tensors.
        name: name of the burst.
        scene: name of the scene.
        more: `(N − 2, C, H, W)` float32, later frames still.
        offset: `(C, H, W)` float32, what the pixels read in the dark; None where it is not known.
        gain: `(C, H, W)` float32, relative gain of the pixels, likewise.
        variance: `(C, H, W)` float32, read-noise variance of the pixels, likewise.
    """

    noisy1: Float[Tensor, "c h w"]
    noisy2: Float[Tensor, "c h w"]
    camera: str
    iso: float
    lsb: Float[Tensor, "c"]
    low: Float[Tensor, "c"]
    high: Float[Tensor, "c"]
    cfa: str | None
    origin: tuple[int, int]
    name: str
    scene: str
    more: Float[Tensor, "n c h w"] | None = None
    offset: Float[Tensor, "c h w"] | None = None
    gain: Float[Tensor, "c h w"] | None = None
    variance: Float[Tensor, "c h w"] | None = None

    @property
    def frames(self) -> Float[Tensor, "n c h w"]:
        """All frames in the order of time, `(N, C, H, W)`."""
        both = torch.stack((self.noisy1, self.noisy2))
        return both if self.more is None else torch.cat((both, self.more))

    @property
    def is_finite(self) -> bool:
        """False where a pixel of a frame is NaN or infinite; such pairs are to be dropped and counted."""
        return bool(torch.isfinite(self.frames).all())


def collate_frames(pairs: Sequence[NoisyPair]) -> tuple[Float[Tensor, "b n c h w"], Shot]:
    """Patches of one size to a batch: the frames `(B, N, C, H, W)`, and the shot with everything else.

    Nothing clean is known: `shot.clean` is the mean of each row's frames, which shares their noise. Replace it by what
    a denoiser finds.

    Raises:
        UserError: no pairs, frames of different shapes or numbers, values that are not finite, or a map with some only.
    """
    if not pairs:
        raise UserError("expected at least one pair of noisy images, got none")
    shapes = {tuple(pair.frames.shape) for pair in pairs}
    if len(shapes) > 1:
        raise UserError(f"expected frames of one shape in a batch, got {sorted(shapes)}; choose a patch size")
    broken = [pair.name for pair in pairs if not pair.is_finite]
    if broken:
        raise UserError(f"{broken[0]}: expected finite values, got NaN or infinity; drop pairs that hold them")
    maps = {}
    for name in MAPS:
        known = [value for pair in pairs if (value := getattr(pair, name)) is not None]
        if known and len(known) < len(pairs):
            raise UserError(f"expected the map {name} with every pair of a batch or with none, got it with some")
        maps[name] = torch.stack(known) if known else None
    frames = torch.stack([pair.frames for pair in pairs])
    return frames, shot_of_patches(pairs, frames.double().mean(dim=1).float(), **maps)


def collate_pairs(pairs: Sequence[NoisyPair]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"], Shot]:
    """`collate_frames` of the first two frames: noisy1, noisy2 and the shot."""
    frames, shot = collate_frames(pairs)
    return frames[:, 0], frames[:, 1], shot


class Burst(OnGrid):
    """Two or more noisy frames of one scene. Nothing is read before it is needed; safe to pickle.

    Args:
        frames: the frames in the order of time, each paired with itself.
        name: unique in its data set.
        scene: what splits keep together.
        maps: name → file (`MAPS`, NPY, `(H, W)` or, for pictures, `(H, W, 3)`) of the maps that are known. `offset` and
            `variance` are in codes and squared codes where the frames are integers, the offset being the black level
            of each pixel; in linear units where they are floats. `gain` may be in any unit: it is divided by its
            median.

    Attributes:
        frames: the frames, each as a pair with itself.
        files: all files that the burst is made of.
        camera: name of the camera.
        iso: ISO speed, > 0.

    Raises:
        UserError: fewer than two frames.
    """

    def __init__(
        self, frames: Sequence[FramePair], *, name: str, scene: str, maps: Mapping[str, Path] | None = None
    ) -> None:
        if len(frames) < 2:
            raise UserError(f"{name}: expected two or more noisy frames of one scene, got {len(frames)}")
        self.frames, self.name, self.scene = tuple(frames), name, scene
        self.camera, self.iso = frames[0].camera, frames[0].iso
        self._map_files = dict(maps or {})
        files = [path for frame in frames for path in frame.files] + list(self._map_files.values())
        self.files = tuple(dict.fromkeys(files))

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def __repr__(self) -> str:
        return f"Burst({self.name!r}, camera={self.camera!r}, iso={self.iso:g}, frames={len(self)})"

    @property
    def cfa(self) -> str | None:
        """RGGB, BGGR, GRBG or GBRG; None where there is no mosaic."""
        return self.frames[0].cfa

    @property
    def channels(self) -> int:
        """4 packed, 3 sRGB or 1."""
        return self.frames[0].channels

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns in pixels of the tensors: half the mosaic's for packed raw."""
        return self.frames[0].size

    @cached_property
    def grid(self) -> CodeGrid:
        """The code grid, decided from the first frame; the ends of frames that have no codes are the widest of all."""
        grid = self.frames[0].grid
        if bool((grid.lsb > 0).any()):
            return grid
        every = [frame.grid for frame in self.frames]
        low = torch.stack([one.low for one in every]).amin(dim=0)
        high = torch.stack([one.high for one in every]).amax(dim=0)
        return CodeGrid(grid.lsb, low, high)

    def read(
        self,
        indices: Sequence[int] | None = None,
        top: int = 0,
        left: int = 0,
        height: int | None = None,
        width: int | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """A rectangle of some frames, to the frame's end where no size is given.

        Args:
            indices: which frames, from 0; default all.
            top: first row, in pixels of the tensors.
            left: first column.
            height: rows.
            width: columns.

        Returns:
            `(N, C, h, w)` float32, linear units, on the code grid; NaN and infinite values stay.

        Raises:
            UserError: a file is missing or damaged, frames differ in size, or one has over 0.1 % of broken values.
            ValueError: the rectangle leaves the frame, or there is no such frame.
        """
        indices = range(len(self)) if indices is None else indices
        if not all(0 <= i < len(self) for i in indices):
            raise ValueError(f"{self.name}: expected frames from 0 to {len(self) - 1}, got {list(indices)}")
        rectangle = rectangle_of(self, top, left, height, width)
        return torch.stack([self._read_one(i, *rectangle) for i in indices])

    def read_maps(
        self, top: int = 0, left: int = 0, height: int | None = None, width: int | None = None
    ) -> dict[str, Float[Tensor, "c h w"] | None]:
        """A rectangle of every map of `MAPS`, `(C, h, w)` float32, linear units; None for those that are not known."""
        top, left, height, width = rectangle_of(self, top, left, height, width)
        maps: dict[str, Tensor | None] = dict.fromkeys(MAPS)
        for name, values in self._maps.items():
            maps[name] = values[:, top : top + height, left : left + width]
        return maps

    def shot(self, clean: Float[Tensor, "b c h w"], top: int = 0, left: int = 0) -> Shot:
        """The conditions of a rectangle of this burst, every row alike, for clean images that somebody has found."""
        b, _, height, width = clean.shape
        maps = {
            name: None if values is None else values.expand(b, -1, -1, -1)
            for name, values in self.read_maps(top, left, height, width).items()
        }
        lsb, low, high = (values.expand(b, -1) for values in (self.lsb, self.low, self.high))
        origin = torch.tensor([top, left]).expand(b, 2)
        return Shot.of(
            clean, camera=self.camera, iso=self.iso, lsb=lsb, low=low, high=high, cfa=self.cfa, origin=origin, **maps
        )

    def _read_one(self, i: int, top: int, left: int, height: int, width: int) -> Float[Tensor, "c h w"]:
        frame = self.frames[i]
        if frame.size != self.size or frame.channels != self.channels:
            expected, got = ((f.channels, *f.size) for f in (self.frames[0], frame))
            raise DefectError(
                f"{frame.files[0]}: expected the size of {self.frames[0].files[0].name}, "
                f"{'×'.join(map(str, expected))}, got {'×'.join(map(str, got))}",
                "sizes differ",
            )
        values = frame._cut(0, top, left, height, width)
        if not bool(torch.isfinite(values).all()):
            frame._check_broken_part()
        return self.grid.snap(values).float()

    @cached_property
    def _maps(self) -> dict[str, Float[Tensor, "c h w"]]:
        """The known maps of the whole frame, linear units."""
        return {name: self._map(name, path) for name, path in self._map_files.items()}

    def _map(self, name: str, path: Path) -> Float[Tensor, "c h w"]:
        stored = decoded(path)
        frame = self.frames[0]
        assert isinstance(frame, TableFrame)  # only tables name maps
        expected = decoded(frame.files[0]).shape
        if stored.shape != expected:
            shapes = ("×".join(map(str, shape)) for shape in (expected, stored.shape))
            raise DefectError(f"{path}: expected a map of the frames' shape, {next(shapes)}, got {next(shapes)}")
        values = torch.from_numpy(stored.astype(np.float64))
        black, width = frame.scale
        if name == "offset":
            values = (values - black) / width
        elif name == "variance":
            values = values / width**2
        else:
            values = values / values.median()
        valid = torch.isfinite(values) & ((values >= 0) if name == "variance" else (values > 0) | (name == "offset"))
        if not bool(valid.all()):
            bounds = {"offset": "finite values", "gain": "finite values above 0", "variance": "finite values >= 0"}
            raise DefectError(
                f"{path}: expected {bounds[name]}, got others; give such pixels a value and leave them out"
            )
        if frame.cfa is not None:
            values = pack(values, frame.cfa)
        elif values.ndim == 3:
            values = values.permute(2, 0, 1)
        else:
            values = values[None]
        return values.float()


class BurstPatches(Patches[Burst, NoisyPair]):
    """Random patches of random consecutive frames: item g is a pure function of (seed, g), as `Patches` says.

    Every place of the frame and every run of `count` consecutive frames of a burst is equally likely.

    Args:
        bursts: the bursts to cut from.
        patch: rows and columns of a patch, in pixels of the tensors.
        seed: seed of all draws.
        length: number of items.
        count: frames of a patch, 2 or more; those beyond two are `NoisyPair.more`.
        patches_per_burst: patches of a burst in an epoch.
        window: bursts that are shuffled together.
        augment: mirror each patch along each side with probability 1/2.

    Raises:
        UserError: no bursts, a patch that is larger than a frame, or a burst with fewer frames than `count`.
    """

    def __init__(
        self,
        bursts: Sequence[Burst],
        patch: int,
        seed: int,
        length: int,
        count: int = 2,
        patches_per_burst: int = 32,
        window: int = 8,
        augment: bool = True,
    ) -> None:
        if count < 2:
            raise UserError(f"count: expected 2 frames or more, got {count}")
        for burst in bursts:
            if len(burst) < count:
                raise UserError(f"{burst.name}: expected {count} frames or more, got {len(burst)}; ask for fewer")
        super().__init__(bursts, patch, seed, length, patches_per_burst, window, augment)
        self.count = count

    def _read(self, frame: Burst, cut: Cut, draw: int) -> NoisyPair:
        first = draw % (len(frame) - self.count + 1)
        frames = cut.turn(frame.read(range(first, first + self.count), *cut.rectangle))
        maps = frame.read_maps(*cut.rectangle)
        return NoisyPair(
            noisy1=frames[0],
            noisy2=frames[1],
            camera=frame.camera,
            iso=frame.iso,
            lsb=frame.lsb,
            low=frame.low,
            high=frame.high,
            cfa=frame.cfa,
            origin=cut.origin,
            name=frame.name,
            scene=frame.scene,
            more=frames[2:] if self.count > 2 else None,
            **{name: None if values is None else cut.turn(values) for name, values in maps.items()},
        )
