"""The pairs of one clean image: read, given noise, encoded and put in their places."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from noiseflow.adapters.conditions import ConditionDraw, Iso, code_grid, pattern_of
from noiseflow.conditions import UnknownConditionError
from noiseflow.errors import UserError
from noiseflow.models import FittedModel, synthesize
from noiseflow.randomness import combine, seed_of
from noiseflow.raw.cfa import pack, unpack
from noiseflow.raw.decode import IMAGE_SUFFIXES, PHOTO_SUFFIXES, read_image, read_photo
from noiseflow.raw.render import PHONE_MATRIX, render, shrink, unrender
from noiseflow.scenes import RAW_BALANCE
from noiseflow.shot import Shot
from noiseflow.stored import npy_bytes, png_bytes, read_clean

log = logging.getLogger(__name__)

RECORDS = "records"
"""Folder of the images that are done."""

PARTIAL = ".partial"
"""Folder of files that are being written: a folder a process, named by its rank and its id."""

_PICTURES = (".png", ".tif", ".tiff")

Row = dict[str, str]
"""A row of `pairs.csv`."""


class TooSmallError(UserError):
    """An image is smaller than the pairs that are to be made of it."""


@dataclass(frozen=True)
class Recipe:
    """Everything but model and images that decides the bytes.

    Attributes:
        count: noisy images per clean one.
        cameras: names; None for all that the model knows.
        iso: as in `ConditionDraw`.
        seed: equal seeds, equal bytes.
        srgb: with a model of raw noise: render clean and noisy frames alike, and keep the pictures.
        size: H, W of the results in mosaic pixels or pixels; None: the images' own, without an odd last line.
        cfa: pattern of mosaics whose file does not say, and of those that are made of pictures.
        black: black level in codes, where the files do not say.
        white: white level in codes, likewise.
        allow_unseen: interpolate ISOs between those that the model knows.
    """

    count: int = 1
    cameras: tuple[str, ...] | None = None
    iso: Iso = None
    seed: int = 0
    srgb: bool = False
    size: tuple[int, int] | None = None
    cfa: str | None = None
    black: float | None = None
    white: float | None = None
    allow_unseen: bool = False

    def check(self, model: FittedModel) -> ConditionDraw:
        """What draws the conditions.

        Raises:
            UserError: a value is out of range, or not for this model.
        """
        if self.count < 1:
            raise UserError(f"--count: expected at least 1, got {self.count}")
        if self.size is not None and (min(self.size) < 2 or self.size[0] % 2 or self.size[1] % 2):
            raise UserError(f"--size: expected even sides, got {self.size[0]}x{self.size[1]}")
        if self.srgb and model.channels != 4:
            raise UserError(f"--srgb: expected a model of raw noise, got a {model.packing} one")
        try:
            return ConditionDraw(model, self.cameras, self.iso)
        except ValueError as error:
            raise UserError(f"--{str(error).replace('iso:', 'isos:', 1)}") from error


@dataclass(frozen=True)
class _Clean:
    """A clean image as noise is added to it.

    Attributes:
        planes: `(C, H, W)`, linear units.
        cfa: pattern of the mosaic, or None.
        grid: code width and clip range where the file says them.
        picture: `(H, W, 3)` uint8, where the image was a picture.
    """

    planes: Tensor
    cfa: str | None
    grid: dict[str, float | Tensor]
    picture: NDArray[np.uint8] | None = None


class PairMaker(Dataset[list[Row]]):
    """Item i makes the pairs of image i, unless they are there, and gives their rows of `pairs.csv`.

    An image that is too small has none, which is said in the log.

    Args:
        items: the clean images, relative to `source`.
        source: their folder.
        out: where the pairs go.
        model: the noise.
        recipe: what to make.
        device: where noise is drawn.
        rank: number of this process among those that work on one folder.
    """

    def __init__(
        self,
        items: Sequence[Path],
        source: Path,
        out: Path,
        model: FittedModel,
        recipe: Recipe,
        device: torch.device,
        rank: int,
    ) -> None:
        self.items, self.source, self.out, self.model, self.recipe = list(items), source, out, model, recipe
        self.device, self.rank = device, rank
        self.draw = recipe.check(model)
        patterns = {pattern_of(model, camera) for camera in self.draw.choices}
        self.pattern = recipe.cfa or (patterns.pop() if len(patterns) == 1 else None)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> list[Row]:
        item = self.items[index]
        path, record = self.source / item, self.out / RECORDS / f"{item.as_posix()}.json"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: expected a readable file, got {error.strerror}") from error
        own = seed_of(content)
        if record.is_file():
            done = json.loads(record.read_text(encoding="utf-8"))
            names = {row[kind] for row in done["rows"] for kind in ("noisy", "clean")}
            if done["content"] == own and all((self.out / name).is_file() for name in names):
                return list(done["rows"])
        try:
            files, rows = self._make(item, path, own)
        except TooSmallError as error:
            log.warning("left out: %s", error)
            return []
        except UnknownConditionError as error:
            raise UserError(str(error)) from error
        files[record.relative_to(self.out)] = json.dumps({"content": own, "rows": rows}, indent=1).encode() + b"\n"
        self._publish(files)
        return rows

    def _make(self, item: Path, path: Path, own: int) -> tuple[dict[Path, bytes], list[Row]]:
        """The files of one image by name, and their rows."""
        stem = item.with_suffix("").as_posix()
        self.model.to(self.device)
        files: dict[Path, bytes] = {}
        rows: list[Row] = []
        keys = combine(self.recipe.seed, own, torch.arange(self.recipe.count))
        cameras, isos = self.draw(keys)
        cleans: dict[str | None, _Clean] = {}
        for k, (camera, iso, key) in enumerate(zip(cameras, isos.tolist(), keys.tolist(), strict=True)):
            wanted = self.pattern or pattern_of(self.model, camera)
            if wanted not in cleans:
                cleans[wanted] = self._read(path, wanted)
            clean = cleans[wanted]
            shot = self._shot(clean, camera, iso)
            noisy = synthesize(self.model, shot.to(self.device), seed=key)[0].cpu()
            several = clean.cfa is not None and self.pattern is None and clean.picture is not None
            clean_name = f"clean/{stem}_{clean.cfa}" if several else f"clean/{stem}"
            suffix, ground = self._encode(clean.planes, clean)
            files[Path(clean_name + suffix)] = ground
            noisy_name = f"noisy/{stem}_{k}{suffix}"
            files[Path(noisy_name)] = self._encode(noisy, clean)[1]
            raw = clean.cfa is not None and not self.recipe.srgb
            rows.append({
                "noisy": noisy_name,
                "clean": clean_name + suffix,
                "camera": camera,
                "iso": f"{iso:.10g}",
                "scene": stem,
                "lsb": "" if suffix == ".png" else _width(shot.lsb[0]),
                "cfa": str(clean.cfa) if raw else "",
                "seed": str(key),
                "source": item.as_posix(),
            })  # fmt: skip
        return files, rows

    def _read(self, path: Path, wanted: str | None) -> _Clean:
        """A clean image in the model's channels, cut to size."""
        suffix, channels = path.suffix.lower(), self.model.channels
        stored = read_photo(path) if suffix in PHOTO_SUFFIXES else None
        if suffix in IMAGE_SUFFIXES:
            stored = self._picture(path, read_image(path))
        if stored is not None and channels in (3, 4):
            picture = self._sized(path, stored)
            codes = np.rint(255 * picture).astype(np.uint8) if picture.dtype.kind == "f" else picture
            if channels == 3:
                planes = torch.from_numpy(codes).permute(2, 0, 1).float() / 255
                return _Clean(planes, None, {"lsb": 1 / 255, "low": 0.0, "high": 1.0}, codes)
            cfa = wanted or "RGGB"
            mosaic = unrender(picture, cfa, RAW_BALANCE, PHONE_MATRIX)
            return _Clean(torch.from_numpy(pack(mosaic, cfa)), cfa, {}, codes)
        if self.model.condition == "srgb":
            raise UserError(f"{path}: expected an 8-bit picture (H, W, 3), which the model is conditioned on")
        usual = self.pattern  # not that of one camera: the mosaic has one pattern, whatever camera is drawn
        levels = {"black": self.recipe.black, "white": self.recipe.white}
        clean = read_clean(path, self.model, **levels, cfa=self.recipe.cfa, usual_cfa=usual)
        grid = {name: getattr(clean, name) for name in ("lsb", "low", "high") if getattr(clean, name) is not None}
        planes = clean.image
        if self.recipe.size is not None:
            step = 2 if channels == 4 else 1
            height, width = (side // step for side in self.recipe.size)
            h, w = planes.shape[1:]
            if h < height or w < width:
                raise TooSmallError(
                    f"{path}: expected at least {_said(self.recipe.size)}, got {_said((h * step, w * step))}"
                )
            top, left = (h - height) // 2, (w - width) // 2
            planes = planes[:, top : top + height, left : left + width].clone()
        return _Clean(planes, clean.cfa, grid)

    def _picture(self, path: Path, image: NDArray[Any]) -> NDArray[np.uint8] | None:
        """A stored image as 8-bit R G B, if it is a picture and no mosaic.

        A grey PNG or TIFF of 8 bits is a picture, unless `cfa` says that it is a mosaic.
        """
        photograph = path.suffix.lower() in _PICTURES
        if photograph and image.dtype == np.uint16 and image.ndim == 3 and self.recipe.white is None:
            image = np.rint(image / 257).astype(np.uint8)
        if photograph and image.ndim == 2 and self.recipe.cfa is None and self.model.channels != 1:
            image = np.repeat(image[..., None], 3, axis=2)
        return image if image.ndim == 3 and image.dtype == np.uint8 else None

    def _sized(self, path: Path, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture shrunk and cut to the size asked for, or to even sides."""
        if min(picture.shape[:2]) < 2:
            raise TooSmallError(f"{path}: expected at least 2×2, got {_said(picture.shape[:2])}")
        if self.recipe.size is None:
            return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        height, width = self.recipe.size
        if picture.shape[0] < height or picture.shape[1] < width:
            raise TooSmallError(f"{path}: expected at least {_said((height, width))}, got {_said(picture.shape[:2])}")
        return shrink(picture, height, width)

    def _shot(self, clean: _Clean, camera: str, iso: float) -> Shot:
        grid: dict[str, Tensor] = code_grid(self.model, camera, len(clean.planes))
        grid |= {
            name: torch.as_tensor(value, dtype=torch.float64).expand(len(clean.planes))
            for name, value in clean.grid.items()
        }
        by_row = {name: value[None] for name, value in grid.items()}
        shot = Shot.of(clean.planes[None], camera=camera, iso=iso, cfa=clean.cfa, **by_row)
        if self.model.condition == "srgb" and clean.picture is not None:
            picture = torch.from_numpy(np.ascontiguousarray(clean.picture)).permute(2, 0, 1)[None].float() / 255
            shot = shot.replace(srgb=picture)
        return shot

    def _encode(self, planes: Tensor, clean: _Clean) -> tuple[str, bytes]:
        """Suffix and content of the file of a clean or noisy image."""
        if clean.cfa is not None:
            mosaic = unpack(planes, clean.cfa).numpy()
            if self.recipe.srgb:
                return ".png", png_bytes(render(mosaic, clean.cfa, RAW_BALANCE, PHONE_MATRIX))
            return ".npy", npy_bytes(mosaic)
        values = planes.permute(1, 2, 0).numpy() if len(planes) == 3 else planes[0].numpy()
        if clean.picture is not None:
            return ".png", png_bytes(np.rint(values.astype(np.float64) * 255).astype(np.uint8))
        return ".npy", npy_bytes(values)

    def _publish(self, files: dict[Path, bytes]) -> None:
        """Write files elsewhere, then move them to their places one after the other, in the order given."""
        own = self.out / PARTIAL / f"{self.rank}-{os.getpid()}"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        for number, content in enumerate(files.values()):
            with (own / str(number)).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for number, name in enumerate(files):
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (own / str(number)).replace(self.out / name)
        shutil.rmtree(own, ignore_errors=True)


def _width(lsb: Tensor) -> str:
    """One code width for all channels, or 0 where they differ."""
    return repr(float(lsb[0])) if bool((lsb == lsb[0]).all()) else "0"


def _said(size: Sequence[int]) -> str:
    return f"{size[0]}×{size[1]}"
