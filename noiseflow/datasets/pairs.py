"""A folder with `pairs.csv`: any noisy and clean pictures, listed one pair a row.

Columns `noisy,clean,camera,iso`, optional `scene,split,black,white,lsb,cfa`; paths are relative to the folder.
Pictures `(H, W, 3)` become 3 channels, `(H, W)` with a `cfa` 4 packed ones, without it 1.

Levels: integers are codes and become (code − black)/(white − black), codes above white count as white; for
8-bit files black is 0 and white 255 unless said otherwise, other integers need at least `white` (black is then
0 unless given). Floating-point values are linear units already: not quantised, unless `lsb`, or `white` and
`black`, say how wide a code is.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.datasets.base import FramePair
from noiseflow.datasets.decoded import decoded
from noiseflow.errors import DefectError, UserError
from noiseflow.raw.cfa import pack
from noiseflow.shot import CFA_PATTERNS

_log = logging.getLogger(__name__)

FILE_NAME = "pairs.csv"
REQUIRED = ("noisy", "clean", "camera", "iso")
OPTIONAL = ("scene", "split", "black", "white", "lsb", "cfa")

RECORDED = ("seed", "source")
"""Columns that `noiseflow synthesize` adds for the record; nothing is read from them."""


@dataclass(frozen=True)
class Levels:
    """Levels in codes as far as they are known, and code width in linear units; None: not said."""

    black: float | None = None
    white: float | None = None
    lsb: float | None = None


@dataclass(frozen=True)
class About:
    """What a row of a table says about the frames that it names."""

    iso: float
    cfa: str | None
    levels: Levels


def read_table(
    path: Path, *, black: float | None = None, white: float | None = None
) -> tuple[tuple[FramePair, ...], dict[str, str] | None]:
    """Read `pairs.csv`; no picture is opened.

    Args:
        path: the file.
        black: black level in codes for integer pictures whose row has none.
        white: white level in codes, likewise.

    Returns:
        The pairs, and frame name → "train" or "test" where the file has the column.

    Raises:
        UserError: the header or a row is not as described above; the row is named.
    """
    header, rows = read_rows(path, REQUIRED, OPTIONAL, "pair")
    frames = ((where, row, _frame(where, path.parent, row, Levels(black, white))) for where, row in rows)
    return listed_once(path, header, frames, "noisy file")


class Row(Protocol):
    """What a row of a table becomes."""

    name: str

    @property
    def cfa(self) -> str | None:
        """The colour filter pattern; None where there is no mosaic."""


Made = TypeVar("Made", bound=Row)


def listed_once(
    path: Path, header: Sequence[str], made: Iterable[tuple[str, dict[str, str], Made]], what: str
) -> tuple[tuple[Made, ...], dict[str, str] | None]:
    """What the rows of a table became, and name → "train" or "test" where it has the column.

    Args:
        path: the table.
        header: its columns.
        made: of every row the words that name it, its values, and what it became.
        what: what has a row of its own.

    Raises:
        UserError: a name comes twice, a split is neither, or only some have a colour filter pattern.
    """
    found: dict[str, Made] = {}
    split: dict[str, str] = {}
    for where, row, one in made:
        if one.name in found:
            raise UserError(f"{where}: expected every {what} once, got {one.name} again")
        found[one.name] = one
        if "split" in header:
            split[one.name] = split_value(where, row)
    if len({one.cfa is None for one in found.values()}) > 1:
        raise UserError(f"{path}: expected a cfa in every row or in none, got it in some; split the table in two")
    return tuple(found.values()), split if "split" in header else None


def read_rows(
    path: Path, required: tuple[str, ...], optional: tuple[str, ...], what: str
) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """The header and the rows of a table, each row with the words that name it in an error.

    Args:
        path: a CSV file in UTF-8.
        required: columns that must be there.
        optional: columns that may be.
        what: what a row stands for.

    Raises:
        UserError: the file cannot be read, lacks a column, or has a row of another length or none at all.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, skipinitialspace=True)
            header = [name.strip().lower() for name in reader.fieldnames or ()]
            _check_header(path, header, required, optional)
            reader.fieldnames = header
            rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV file in UTF-8, could not read it: {error}") from error
    if not rows:
        raise UserError(f"{path}: expected a row for each {what}, got none")
    for where, row in rows:
        if None in row or None in row.values():
            raise UserError(f"{where}: expected {len(header)} values, as the header has, got another number")
    return header, [(where, {name: value.strip() for name, value in row.items()}) for where, row in rows]


def _check_header(path: Path, header: list[str], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    missing = [name for name in required if name not in header]
    if missing or len(set(header)) < len(header):
        raise UserError(
            f"{path}: expected a header with {','.join(required)} (optional: {','.join(optional)}), each once, "
            f"got {','.join(header) or 'nothing'}"
        )
    unknown = [name for name in header if name not in required + optional + RECORDED]
    if unknown:
        _log.warning("%s: columns %s mean nothing here and are not used", path, ", ".join(unknown))


def split_value(where: str, row: Mapping[str, str]) -> str:
    """The split that a row names."""
    split = row["split"].lower()
    if split not in ("train", "test"):
        raise UserError(f"{where}: expected split train or test, got {row['split']!r}")
    return split


def _frame(where: str, folder: Path, row: Mapping[str, str], default: Levels) -> FramePair:
    about = read_about(where, row, ("noisy", "clean", "camera"))
    return TableFrame(
        name=Path(row["noisy"]).as_posix(),
        scene=row.get("scene") or Path(row["clean"]).as_posix(),
        camera=row["camera"],
        iso=about.iso,
        files=(folder / row["noisy"], folder / row["clean"]),
        cfa=about.cfa,
        own=about.levels,
        default=default,
    )


def read_about(where: str, row: Mapping[str, str], filled: tuple[str, ...]) -> About:
    """What a row says about its frames; the columns `filled` must not be empty."""
    for name in filled:
        if not row[name]:
            raise UserError(f"{where}: expected a value for {name}, got none")
    iso = _number(where, row, "iso")
    if iso is None or iso <= 0:
        raise UserError(f"{where}: expected an iso above 0, got {row['iso']!r}")
    cfa = row.get("cfa", "").upper() or None
    if cfa is not None and cfa not in CFA_PATTERNS:
        raise UserError(f"{where}: expected cfa {', '.join(CFA_PATTERNS)} or nothing, got {row['cfa']!r}")
    own = Levels(*(_number(where, row, name) for name in ("black", "white", "lsb")))
    if own.lsb is not None and own.lsb < 0:
        raise UserError(f"{where}: expected an lsb of 0 or above, got {own.lsb}")
    return About(iso, cfa, own)


def _number(where: str, row: Mapping[str, str], name: str) -> float | None:
    text = row.get(name, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: expected a number for {name}, got {text!r}")
    return number


class TableFrame(FramePair):
    """A pair of `pairs.csv`."""

    def __init__(
        self,
        *,
        name: str,
        scene: str,
        camera: str,
        iso: float,
        files: tuple[Path, Path],
        cfa: str | None,
        own: Levels,
        default: Levels,
    ) -> None:
        super().__init__(name=name, scene=scene, camera=camera, iso=iso, files=files)
        self._pattern, self._own, self._default = cfa, own, default

    @property
    def cfa(self) -> str | None:
        """Pattern of the mosaic, or None where there is none."""
        return self._pattern

    @property
    def channels(self) -> int:
        """4 with a CFA, else 3 or 1 as the noisy picture has."""
        if self._pattern is not None:
            return 4
        return 3 if decoded(self.files[0]).ndim == 3 else 1

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns in pixels of the tensors."""
        noisy, clean = (decoded(path).shape for path in self.files)
        if noisy != clean:
            raise DefectError(
                f"{self.files[1]}: expected the shape of {self.files[0].name}, {_shape(noisy)}, got {_shape(clean)}",
                "sizes differ",
            )
        if self._pattern is None:
            return noisy[0], noisy[1]
        if len(noisy) != 2 or noisy[0] % 2 or noisy[1] % 2:
            raise DefectError(
                f"{self.files[0]}: expected a mosaic (H, W) with even sides, got {_shape(noisy)}", "odd sides"
            )
        return noisy[0] // 2, noisy[1] // 2

    def _levels(self, path: Path) -> tuple[float, float]:
        """Black and white level of an integer picture, in codes."""
        black = self._own.black if self._own.black is not None else self._default.black
        white = self._own.white if self._own.white is not None else self._default.white
        dtype = decoded(path).dtype
        if white is None and dtype == np.uint8:
            white = 255.0
        if white is None:
            raise DefectError(
                f"{path}: expected levels for {dtype} values, got none; give --white and --black, or columns "
                "white and black",
                "missing levels",
            )
        if black is None:
            black = 0.0
            if self._pattern is not None and dtype != np.uint8:
                _log.warning("%s: no black level given, taken as 0", path)
        if not black < white:
            raise UserError(f"{path}: expected black below white, got {black:g} and {white:g}")
        return black, white

    @property
    def scale(self) -> tuple[float, float]:
        """Black level, and code units from it to white: linear = (stored − black)/width; 0 and 1 for floats."""
        if decoded(self.files[0]).dtype.kind == "f":
            return 0.0, 1.0
        black, white = self._levels(self.files[0])
        return black, white - black

    def _declared(self) -> tuple[Float[Tensor, "c"], tuple[float, float] | None]:
        path, own = self.files[0], self._own
        dtype = decoded(path).dtype
        ends, lsb = None, own.lsb
        if dtype.kind != "f":
            black, white = self._levels(path)
            lsb = 1 / (white - black) if lsb is None else lsb
            if dtype.kind == "u":
                ends = -black / (white - black), 1.0
        elif lsb is None:
            known = own.white is not None and own.white > (own.black or 0.0)
            lsb = 1 / ((own.white or 0.0) - (own.black or 0.0)) if known else 0.0
        return torch.full((self.channels,), lsb, dtype=torch.float64), ends

    def _cut(self, which: int, top: int, left: int, height: int, width: int) -> Float[Tensor, "c h w"]:
        path = self.files[which]
        image = decoded(path)
        step = 1 if self._pattern is None else 2
        part = image[step * top : step * (top + height), step * left : step * (left + width)]
        values = torch.from_numpy(part.astype(np.float64))
        if image.dtype.kind != "f":
            black, white = self._levels(path)
            values = (values - black) / (white - black)
        if self._pattern is not None:
            return pack(values, self._pattern)
        return values.permute(2, 0, 1) if values.ndim == 3 else values[None]


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in shape)
