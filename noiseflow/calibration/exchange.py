"""Noise parameters in other people's formats: the NoiseProfile tag of DNG, SIDD's table, photon-transfer points.

A noise level function is variance = a·x + b with x and the variance in linear units (0 = black, 1 = white).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from noiseflow.errors import UserError
from noiseflow.files import write_atomically

_NOISE_PROFILE = 51041
_HEADER = ("cam_iso", "beta1", "beta2")
_LARGEST = 1 << 24  # bytes


class Line(NamedTuple):
    """A noise level function, linear units.

    Attributes:
        slope: a, at least 0.
        intercept: b.
    """

    slope: float
    intercept: float


class TransferPoint(NamedTuple):
    """One point of a photon-transfer measurement.

    Attributes:
        iso: ISO speed.
        mean: mean of the codes, DN, black level included.
        sigma: temporal standard deviation of a pixel, DN.
        exposure: seconds; None where the table does not say.
    """

    iso: float
    mean: float
    sigma: float
    exposure: float | None = None


def read_noise_profile(path: Path | str) -> tuple[Line, ...] | None:
    """The NoiseProfile of a DNG: (S, O) of each colour in the order R, G, B, or one for all; None where it has none.

    The variance of a value x between black (0) and white (1) is S·x + O (Digital Negative Specification 1.4.0.0).

    Raises:
        UserError: the file is no TIFF, or its tag is malformed.
    """
    import tifffile

    path = Path(path)
    try:
        with tifffile.TiffFile(path) as file:
            first = file.pages.first
            pages = [first, *(page.aspage() for page in first.pages or ())]
            found = [page.tags[_NOISE_PROFILE].value for page in pages if _NOISE_PROFILE in page.tags]
    except Exception as error:  # tifffile raises whatever a damaged byte led to
        raise UserError(f"{path}: expected a DNG, could not read its tags ({error})") from error
    if not found:
        return None
    values = [float(n) for n in found[0]] if isinstance(found[0], (tuple, list)) else []
    if len(values) < 2 or len(values) % 2 or not all(map(math.isfinite, values)) or min(values[::2]) < 0:
        raise UserError(f"{path}: expected pairs of numbers in the NoiseProfile tag, got {values[:8]}")
    return tuple(Line(*pair) for pair in zip(values[::2], values[1::2], strict=True))


def read_nlf_table(path: Path | str) -> dict[tuple[str, float], Line]:
    """Read noise level functions in the layout of SIDD's table: `cam_iso,beta1,beta2`, then `S6_00100,a,b`.

    Raises:
        UserError: the file is missing or not such a table; names the line.
    """
    path = Path(path)
    rows = _rows(path, ",")
    if not rows or tuple(rows[0][1]) != _HEADER:
        raise UserError(
            f"{path}: expected the header {','.join(_HEADER)}, got {','.join(rows[0][1]) if rows else ''!r}"
        )
    out: dict[tuple[str, float], Line] = {}
    for number, row in rows[1:]:
        camera, _, iso = row[0].rpartition("_")
        values = _numbers(path, number, [iso, *row[1:]])
        if not camera or len(values) != 3 or not values[0] > 0 or values[1] < 0:
            raise UserError(f"{path}, line {number}: expected CAMERA_ISO,a,b with a >= 0, got {','.join(row)!r}")
        if (camera, values[0]) in out:
            raise UserError(f"{path}, line {number}: {row[0]} is there twice")
        out[camera, values[0]] = Line(values[1], values[2])
    return out


def write_nlf_table(path: Path | str, table: Mapping[tuple[str, float], Line]) -> None:
    """Write noise level functions as `read_nlf_table` reads them, to the last bit.

    Args:
        path: the file.
        table: (camera, ISO) → noise level function.

    Raises:
        UserError: a camera's name holds a comma or a line break, which the layout has no way to say.
    """
    lines = [",".join(_HEADER)]
    for (camera, iso), line in sorted(table.items()):
        if "," in camera or camera.splitlines() != [camera]:
            raise UserError(f"{path}: expected names of cameras without commas and line breaks, got {camera!r}")
        speed = f"{int(iso):05d}" if iso == int(iso) else repr(iso)
        lines.append(f"{camera}_{speed},{line.slope!r},{line.intercept!r}")
    write_atomically(Path(path), "\n".join([*lines, ""]).encode())


def read_photon_transfer(path: Path | str) -> tuple[TransferPoint, ...]:
    """Read photon-transfer points: a CSV with commas or semicolons.

    A header names the columns: iso, mean, sigma and optionally exposure, in any order. Without one, rows of four are
    ISO, exposure, mean, sigma, and rows of three ISO, mean, sigma.

    Raises:
        UserError: the file is missing, or a line is not such a point; names the line.
    """
    path = Path(path)
    rows = _rows(path, None)
    if not rows:
        raise UserError(f"{path}: expected photon-transfer points, got an empty file")
    columns = [cell.strip().lower() for cell in rows[0][1]]
    if {"iso", "mean", "sigma"} <= set(columns):
        rows = rows[1:]
    else:
        columns = {4: ["iso", "exposure", "mean", "sigma"], 3: ["iso", "mean", "sigma"]}.get(len(columns), [])
    out = []
    for number, row in rows:
        if len(row) != len(columns):
            raise UserError(
                f"{path}, line {number}: expected ISO, exposure, mean and sigma, or a header that names iso, mean and "
                f"sigma, got {','.join(row)!r}"
            )
        said = dict(zip(columns, row, strict=True))
        names = [name for name in ("iso", "mean", "sigma", "exposure") if said.get(name, "").strip()]
        values = dict(zip(names, _numbers(path, number, [said[name] for name in names]), strict=True))
        if not (values.get("iso", 0) > 0 and "mean" in values and values.get("sigma", -1) >= 0):
            raise UserError(f"{path}, line {number}: expected ISO > 0, mean and sigma >= 0, got {','.join(row)!r}")
        out.append(TransferPoint(values["iso"], values["mean"], values["sigma"], values.get("exposure")))
    return tuple(out)


def _rows(path: Path, delimiter: str | None) -> list[tuple[int, list[str]]]:
    """The lines of a table that are not empty, with their numbers."""
    if not path.is_file():
        raise UserError(f"{path}: expected a file, got none")
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path}: expected a table of at most 16 MB, got {path.stat().st_size} bytes")
    try:
        text = path.read_text(encoding="utf-8-sig")
        used = delimiter or (";" if ";" in text else ",")
        reader = csv.reader(text.splitlines(), delimiter=used)
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a table in text, could not read it ({error})") from error


def _numbers(path: Path, line: int, cells: list[str]) -> list[float]:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise UserError(f"{path}, line {line}: expected finite numbers, got {','.join(cells)!r}")
    return values
