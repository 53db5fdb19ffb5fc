"""What every data set yields: pairs of a noisy and a clean image, cut from frames that are opened lazily."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.errors import DefectError, UserError
from noiseflow.shot import Shot

if TYPE_CHECKING:
    from noiseflow.datasets.bursts import NoisyPair

_log = logging.getLogger(__name__)

UNCLIPPED = 1e6
"""Clip level, in linear units, of an image that was not clipped: out of reach, yet finite."""

LARGEST_BROKEN_PART = 1e-3
"""A frame with a larger part of NaN or infinite values is an error."""

_LATTICE_TOLERANCE = 0.01
_FEWEST_CODES = 64
_CLIP_SLACK = 1e-6


class Recorded(Protocol):
    """What data sets are divided by: a pair of frames, or a burst."""

    name: str
    scene: str
    camera: str
    iso: float


@dataclass(frozen=True, eq=False)
class Pair:
    """A noisy and a clean image of one place in one frame, in linear units.

    Attributes:
        noisy: `(C, H, W)` float32; where lsb > 0, the float32 nearest to a whole multiple of it.
        clean: `(C, H, W)` float32; neither clipped nor rounded here.
        camera: name of the camera.
        iso: ISO speed.
        lsb: `(C,)` float64 (exact; `Shot` holds it in clean's dtype), code width; 0: not quantised.
        low: `(C,)` float64, lowest value that the noisy image can hold.
        high: `(C,)` float64, highest value that the noisy image can hold.
        cfa: RGGB, BGGR, GRBG or GBRG, or None where there is no mosaic.
        origin: row and column in the frame, in pixels of these tensors.
        name: name of the frame, e.g. `0001_001_S6_00100_00060_3200_L/010`.
        scene: name of the scene.
        srgb: `(3, 2H, 2W)` float32, the clean picture of the same place at mosaic resolution, values k/255; None where
            the data were not opened for it.
    """

    noisy: Float[Tensor, "c h w"]
    clean: Float[Tensor, "c h w"]
    camera: str
    iso: float
    lsb: Float[Tensor, "c"]
    low: Float[Tensor, "c"]
    high: Float[Tensor, "c"]
    cfa: str | None
    origin: tuple[int, int]
    name: str
    scene: str
    srgb: Float[Tensor, "3 h2 w2"] | None = None

    @property
    def is_finite(self) -> bool:
        """False where a pixel of either image is NaN or infinite; such pairs are to be dropped and counted."""
        return bool(torch.isfinite(self.noisy).all() and torch.isfinite(self.clean).all())


def collate(pairs: Sequence[Pair]) -> tuple[Float[Tensor, "b c h w"], Shot]:
    """Pairs of one size to a batch: the noisy images, and the shot with everything else.

    Raises:
        UserError: no pairs, images of different shapes, or values that are not finite.
    """
    if not pairs:
        raise UserError("expected at least one pair of images, got none")
    shapes = {tuple(pair.noisy.shape) for pair in pairs}
    if len(shapes) > 1:
        raise UserError(f"expected images of one shape in a batch, got {sorted(shapes)}; choose a patch size")
    broken = [pair.name for pair in pairs if not pair.is_finite]
    if broken:
        raise UserError(f"{broken[0]}: expected finite values, got NaN or infinity; drop pairs that hold them")
    pictures = [pair.srgb for pair in pairs if pair.srgb is not None]
    if pictures and len(pictures) < len(pairs):
        raise UserError("expected a clean picture with every pair of a batch or with none, got it with some")
    clean = torch.stack([pair.clean for pair in pairs])
    shot = shot_of_patches(pairs, clean, srgb=torch.stack(pictures) if pictures else None)
    return torch.stack([pair.noisy for pair in pairs]), shot


def shot_of_patches(
    patches: Sequence[Pair] | Sequence[NoisyPair], clean: Float[Tensor, "b c h w"], **more: Tensor | None
) -> Shot:
    """The shot of a batch of patches.

    Args:
        patches: one a row.
        clean: their clean images.
        more: pictures and maps of the shot.
    """
    return Shot.of(
        clean,
        camera=[patch.camera for patch in patches],
        iso=torch.tensor([patch.iso for patch in patches]),
        lsb=torch.stack([patch.lsb for patch in patches]),
        low=torch.stack([patch.low for patch in patches]),
        high=torch.stack([patch.high for patch in patches]),
        cfa=tuple(patch.cfa for patch in patches),
        origin=torch.tensor([patch.origin for patch in patches], dtype=torch.int64),
        **more,
    )


@dataclass(frozen=True)
class CodeGrid:
    """Where the values of a noisy frame can lie.

    Attributes:
        lsb: `(C,)` float64, code width in linear units; 0: not quantised.
        low: `(C,)` float64, lowest value.
        high: `(C,)` float64, highest value.
    """

    lsb: Float[Tensor, "c"]
    low: Float[Tensor, "c"]
    high: Float[Tensor, "c"]

    def snap(self, noisy: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        """Values put exactly on the grid and inside its ends; float64 in, float64 out; NaN stays."""
        lsb = self.lsb[:, None, None]
        on_grid = torch.where(lsb > 0, torch.round(noisy / lsb) * lsb, noisy)
        return torch.clamp(on_grid, self.low[:, None, None], self.high[:, None, None])


class Sized(Protocol):
    """What has a name and a size in pixels."""

    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""


def rectangle_of(frame: Sized, top: int, left: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
    """Top, left, height and width of a rectangle of a frame, to its end where no size is given.

    Raises:
        ValueError: the rectangle leaves the frame.
    """
    rows, columns = frame.size
    height = rows - top if height is None else height
    width = columns - left if width is None else width
    if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
        raise ValueError(
            f"{frame.name}: expected a rectangle inside {rows}×{columns}, got row {top}, column {left}, "
            f"size {height}×{width}"
        )
    return top, left, height, width


class OnGrid(ABC):
    """What has a code grid: the parts of it by name."""

    @property
    @abstractmethod
    def grid(self) -> CodeGrid:
        """Decided once, for all that is read from it."""

    @property
    def lsb(self) -> Float[Tensor, "c"]:
        """Code width in linear units, `(C,)` float64; 0 where values lie on no grid."""
        return self.grid.lsb

    @property
    def low(self) -> Float[Tensor, "c"]:
        """Lowest value that a noisy frame can hold, `(C,)` float64."""
        return self.grid.low

    @property
    def high(self) -> Float[Tensor, "c"]:
        """Highest value that a noisy frame can hold, `(C,)` float64."""
        return self.grid.high


class FramePair(OnGrid):
    """One noisy frame with its clean one. Nothing is read before it is needed; safe to pickle.

    An implementer gives the names, `cfa`, `channels`, `size`, `_declared` and `_cut`; reading, the code grid
    and the handling of broken values are the same for all formats.

    Attributes:
        name: unique in its data set.
        scene: what splits keep together.
        camera: name of the camera.
        iso: ISO speed, > 0.
        files: the noisy file, the clean file and any other that the pair is made of.
    """

    def __init__(self, *, name: str, scene: str, camera: str, iso: float, files: tuple[Path, ...]) -> None:
        self.name, self.scene, self.camera, self.iso, self.files = name, scene, camera, iso, files

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, camera={self.camera!r}, iso={self.iso:g})"

    @property
    @abstractmethod
    def cfa(self) -> str | None:
        """RGGB, BGGR, GRBG or GBRG; None where there is no mosaic."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """4 packed, 3 sRGB or 1."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Rows and columns in pixels of the tensors: half the mosaic's for packed raw."""

    @abstractmethod
    def _declared(self) -> tuple[Float[Tensor, "c"], tuple[float, float] | None]:
        """The code width `(C,)` that the files promise (0: none), and their clip range if they state one."""

    @abstractmethod
    def _cut(self, which: int, top: int, left: int, height: int, width: int) -> Float[Tensor, "c h w"]:
        """A rectangle of `files[which]` (0 noisy, 1 clean) in linear units, `(C, height, width)` float64."""

    def _cut_picture(self, top: int, left: int, height: int, width: int) -> Float[Tensor, "3 h2 w2"] | None:
        """The clean sRGB picture of a rectangle, at mosaic resolution; None where the frame has none."""
        return None

    @cached_property
    def grid(self) -> CodeGrid:
        """The grid of this frame, decided once from a strip across its middle, so that all patches agree.

        The declared code width holds if every value of the strip is within 0.01 codes of a code; a strip
        that is nearly all clipped decides nothing, and then the whole frame is looked at. Values beyond the
        clip range [0, 1] show that the frame was not clipped there.
        """
        declared, ends = self._declared()
        height, width = self.size
        rows = min(height, 64)
        noisy = self._cut(0, (height - rows) // 2, 0, rows, width)
        if not _decides(noisy) or not on_lattice(noisy, declared) or bool((declared == 0).any()):
            noisy = self._cut(0, 0, 0, height, width)
        lsb = declared
        if bool((declared > 0).any()) and not on_lattice(noisy, declared):
            _log.warning(
                "%s: values are no whole codes of 1/%g; treated as not quantised, mass falls back to densities",
                self.files[0],
                1 / float(declared.max()),
            )
            lsb = torch.zeros_like(declared)
        if ends is None:
            values = noisy[torch.isfinite(noisy)]
            below = bool((values < -_CLIP_SLACK).any())
            above = bool((values > 1 + _CLIP_SLACK).any())
            ends = (-UNCLIPPED if below else 0.0, UNCLIPPED if above else 1.0)
        return CodeGrid(lsb, torch.full_like(lsb, ends[0]), torch.full_like(lsb, ends[1]))

    def read(self, top: int = 0, left: int = 0, height: int | None = None, width: int | None = None) -> Pair:
        """A rectangle of the frame, to its end where no size is given.

        A pair with NaN or infinite values is returned as it is, with `is_finite` false, for the caller to
        drop; a frame with more than 0.1 % of them is an error.

        Args:
            top: first row, in pixels of the tensors.
            left: first column.
            height: rows.
            width: columns.

        Raises:
            UserError: a file is missing, damaged or does not say what is needed.
            ValueError: the rectangle leaves the frame.
        """
        top, left, height, width = rectangle_of(self, top, left, height, width)
        noisy = self.grid.snap(self._cut(0, top, left, height, width))
        clean = self._cut(1, top, left, height, width)
        pair = Pair(
            noisy=noisy.to(torch.float32),
            clean=clean.to(torch.float32),
            camera=self.camera,
            iso=self.iso,
            lsb=self.lsb,
            low=self.low,
            high=self.high,
            cfa=self.cfa,
            origin=(top, left),
            name=self.name,
            scene=self.scene,
            srgb=self._cut_picture(top, left, height, width),
        )
        if not pair.is_finite:
            self._check_broken_part()
        return pair

    def stored(self) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "c h w"]]:
        """The whole noisy and the whole clean image as the files have them, float64: not put on the grid.

        Raises:
            UserError: as `read`.
        """
        height, width = self.size
        noisy, clean = (self._cut(which, 0, 0, height, width) for which in (0, 1))
        if not bool(torch.isfinite(noisy).all() and torch.isfinite(clean).all()):
            self._check_broken_part()
        return noisy, clean

    @cached_property
    def declared_lsb(self) -> Float[Tensor, "c"]:
        """Code width `(C,)` that the files promise, whether or not the values keep to it; 0: none."""
        return self._declared()[0]

    @cached_property
    def _broken_part(self) -> tuple[float, float]:
        height, width = self.size
        noisy, clean = (1 - torch.isfinite(self._cut(which, 0, 0, height, width)).double().mean() for which in (0, 1))
        return float(noisy), float(clean)

    def _check_broken_part(self) -> None:
        for path, part in zip(self.files[:2], self._broken_part, strict=True):
            if part > LARGEST_BROKEN_PART:
                raise DefectError(
                    f"{path}: expected finite values, got NaN or infinity in {100 * part:.3g} % of them (at most "
                    f"{100 * LARGEST_BROKEN_PART:g} % are tolerated); fetch the file again or leave it out",
                    "broken values",
                )


def _decides(noisy: Float[Tensor, "c h w"]) -> bool:
    """Whether enough values lie inside the clip range to tell codes from continuous values."""
    return int(((noisy > 0) & (noisy < 1)).sum()) >= _FEWEST_CODES


def on_lattice(noisy: Float[Tensor, "c h w"], lsb: Float[Tensor, "c"]) -> bool:
    """Whether all finite values are whole multiples of their channel's lsb, to a hundredth of it."""
    codes = noisy / torch.where(lsb > 0, lsb, torch.ones_like(lsb))[:, None, None]
    codes = codes[torch.isfinite(codes)]
    return bool(((codes - torch.round(codes)).abs() < _LATTICE_TOLERANCE).all())
