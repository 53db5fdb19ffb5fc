"""SIDD's validation and benchmark data: MAT files with 32 blocks of 256×256 pixels of each of 40 images.

`ValidationNoisyBlocksRaw.mat` with `ValidationGtBlocksRaw.mat`, and `…Srgb.mat` likewise; `Benchmark…` where somebody
has the ground truth. The files say neither camera nor ISO nor levels; a `blocks.csv` beside them does, a row an image:

    image,camera,iso,cfa,black,white
    1,S6,800,GRBG,0,1023

`cfa`, `black` and `white` are needed for raw blocks. The scene of a block is its image; all are test data.
"""

from __future__ import annotations

import csv
import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.datasets.base import FramePair
from noiseflow.errors import UserError
from noiseflow.raw.blockfile import block_array, block_shape
from noiseflow.raw.cfa import pack
from noiseflow.shot import CFA_PATTERNS

_log = logging.getLogger(__name__)

FILE_NAME = "blocks.csv"
COLUMNS = ("image", "camera", "iso", "cfa", "black", "white")
_FILE = re.compile(r"(Validation|Benchmark)(Noisy|Gt)Blocks(Raw|Srgb)\.mat", re.IGNORECASE)


@dataclass(frozen=True)
class Image:
    """What `blocks.csv` says of one image; None where it says nothing."""

    camera: str
    iso: float
    cfa: str | None = None
    black: float | None = None
    white: float | None = None


def find(root: Path) -> dict[tuple[str, str, str], Path]:
    """Block files of a folder by (validation or benchmark, noisy or gt, raw or srgb)."""
    matches = ((path, _FILE.fullmatch(path.name)) for path in sorted(root.iterdir()))
    return {(m[1].lower(), m[2].lower(), m[3].lower()): path for path, m in matches if m}


def scan(
    root: Path,
    *,
    domain: str | None = None,
    pictures: bool = False,
    black: float | None = None,
    white: float | None = None,
) -> tuple[str, tuple[FramePair, ...]]:
    """List the blocks of a folder; only the files' headers are read.

    Args:
        root: the folder.
        domain: "raw" or "srgb"; None: raw where the folder has it.
        pictures: give every raw block its clean picture.
        black: black level in codes, in place of what `blocks.csv` says.
        white: white level in codes, likewise.

    Returns:
        The domain and the pairs.

    Raises:
        UserError: a file or a row is missing or not as described above.
    """
    files = find(root)
    if domain is None:
        domain = "raw" if any(half == "raw" for _, _, half in files) else "srgb"
    frames: list[FramePair] = []
    lonely = []
    for which in ("validation", "benchmark"):
        noisy, clean = files.get((which, "noisy", domain)), files.get((which, "gt", domain))
        if noisy is None or clean is None:
            lonely += [path for path in (noisy, clean) if path is not None]
            continue
        picture = files.get((which, "gt", "srgb")) if pictures else None
        if pictures and picture is None:
            raise UserError(
                f"{root}: expected {which.capitalize()}GtBlocksSrgb.mat with the clean pictures of the raw blocks, "
                "found none"
            )
        frames += _blocks(root, which, domain, (noisy, clean), picture, black, white)
    if not frames:
        found = ", ".join(path.name for path in lonely or files.values())
        raise UserError(
            f"{root}: expected {domain} blocks in pairs such as ValidationNoisyBlocks{domain.capitalize()}.mat and "
            f"ValidationGtBlocks{domain.capitalize()}.mat, found {found}; without ground truth nothing can be scored"
        )
    for path in lonely:
        _log.warning("%s: has no counterpart and is not used", path)
    return domain, tuple(frames)


def _blocks(
    root: Path,
    which: str,
    domain: str,
    files: tuple[Path, Path],
    picture: Path | None,
    black: float | None,
    white: float | None,
) -> list[FramePair]:
    shape = block_shape(files[0])
    for path, expected in ((files[1], shape), (picture, (*shape, 3))):
        if path is not None and block_shape(path) != expected:
            raise UserError(f"{path}: expected shape {expected} as {files[0].name} has, got {block_shape(path)}")
    if len(shape) != (4 if domain == "raw" else 5):
        raise UserError(f"{files[0]}: expected {domain} blocks, got an array of shape {shape}")
    if domain == "raw" and (shape[2] % 2 or shape[3] % 2):
        raise UserError(f"{files[0]}: expected mosaics with even sides, got {shape[2]}×{shape[3]}")
    images = read_images(root / FILE_NAME, shape[0])
    if domain == "raw":
        images = {n: _with_levels(root / FILE_NAME, n, image, black, white) for n, image in images.items()}
    return [
        BlockFrame(f"{which}/{i + 1:02d}_{j + 1:02d}", f"{which} {i + 1:02d}", images[i + 1], (i, j), files, picture)
        for i in range(shape[0])
        for j in range(shape[1])
    ]


def read_images(path: Path, count: int) -> dict[int, Image]:
    """Read `blocks.csv`: what each of the images 1 … count is.

    Raises:
        UserError: it is missing, or a row is missing or wrong.
    """
    need = f"a row for each of the images 1 to {count} with {','.join(COLUMNS)} (the last three for raw blocks)"
    if not path.is_file():
        raise UserError(f"{path}: expected this file, for the block files do not say camera, ISO and levels: {need}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            missing = [name for name in COLUMNS[:3] if name not in reader.fieldnames]
            if missing:
                raise UserError(f"{path}: expected the columns {','.join(COLUMNS)}, got none called {missing[0]}")
            rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV file in UTF-8, could not read it: {error}") from error
    images = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        try:
            number, iso = int(row["image"]), float(row["iso"])
            black, white = (float(row[name]) if row.get(name) else None for name in ("black", "white"))
        except ValueError as error:
            raise UserError(f"{where}: expected numbers for image, iso, black and white ({error})") from error
        cfa = row.get("cfa", "").upper() or None
        if not row["camera"] or not iso > 0 or number in images or (cfa is not None and cfa not in CFA_PATTERNS):
            raise UserError(
                f"{where}: expected an image named once, a camera, an iso above 0 and a cfa among "
                f"{', '.join(CFA_PATTERNS)}, got {','.join(row.values())}"
            )
        images[number] = Image(row["camera"], iso, cfa, black, white)
    absent = [n for n in range(1, count + 1) if n not in images]
    if absent:
        raise UserError(f"{path}: expected {need}; image {absent[0]} has none")
    return images


def _with_levels(path: Path, number: int, image: Image, black: float | None, white: float | None) -> Image:
    """The image with the levels that hold, all of them known."""
    black = image.black if black is None else black
    white = image.white if white is None else white
    if image.cfa is None or black is None or white is None or not black < white:
        raise UserError(
            f"{path}, image {number}: expected cfa, black and white (black below white) for raw blocks, got "
            f"{image.cfa}, {black} and {white}; --black and --white give levels for all"
        )
    return Image(image.camera, image.iso, image.cfa, black, white)


class BlockFrame(FramePair):
    """One block with its ground truth: raw in linear units, clipped to [0, 1], or an 8-bit picture."""

    def __init__(
        self,
        name: str,
        scene: str,
        image: Image,
        place: tuple[int, int],
        files: tuple[Path, Path],
        picture: Path | None = None,
    ) -> None:
        used = files if picture is None else (*files, picture)
        super().__init__(name=name, scene=scene, camera=image.camera, iso=image.iso, files=used)
        self._image, self._place, self._picture = image, place, picture

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return block_shape(self.files[0])

    @property
    def cfa(self) -> str | None:
        """Pattern of the block's top-left cell; None for pictures."""
        return self._image.cfa if self.channels == 4 else None

    @property
    def channels(self) -> int:
        """4 for raw blocks, 3 for pictures."""
        return 4 if len(self._shape) == 4 else 3

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns in pixels of the tensors."""
        rows, columns = self._shape[2:4]
        return (rows // 2, columns // 2) if self.channels == 4 else (rows, columns)

    def _declared(self) -> tuple[Float[Tensor, "c"], tuple[float, float] | None]:
        if self.channels == 3:
            return torch.full((3,), 1 / 255, dtype=torch.float64), (0.0, 1.0)
        assert self._image.white is not None
        assert self._image.black is not None
        return torch.full((4,), 1 / (self._image.white - self._image.black), dtype=torch.float64), None

    def _cut(self, which: int, top: int, left: int, height: int, width: int) -> Float[Tensor, "c h w"]:
        block = block_array(self.files[which])[self._place]
        if self.channels == 3:
            return _picture(block, top, left, height, width)
        part = block[2 * top : 2 * (top + height), 2 * left : 2 * (left + width)]
        return pack(torch.from_numpy(part.astype(np.float64)), str(self.cfa))

    def _cut_picture(self, top: int, left: int, height: int, width: int) -> Float[Tensor, "3 h2 w2"] | None:
        if self._picture is None:
            return None
        block = block_array(self._picture)[self._place]
        return _picture(block, 2 * top, 2 * left, 2 * height, 2 * width).float()


def _picture(block: np.ndarray, top: int, left: int, height: int, width: int) -> Float[Tensor, "3 h w"]:
    part = block[top : top + height, left : left + width].astype(np.float64)
    return torch.from_numpy(part.transpose(2, 0, 1)) / 255
