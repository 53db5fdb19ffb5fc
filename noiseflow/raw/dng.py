"""Write a Bayer mosaic as an uncompressed DNG that raw converters open.

Reference: Adobe, *Digital Negative Specification* 1.4.0.0 (2012); TIFF/EP (ISO 12234-2) for the CFA tags.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from noiseflow.raw.cfa import sites

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SRATIONAL, _DOUBLE = 1, 2, 3, 4, 5, 10, 12
_CFA_PHOTOMETRIC = 32803
_EXIF, _ISO = 34665, 34855
_XYZ_TO_SRGB = (32406, -15372, -4986, -9689, 18758, 415, 557, -2040, 10570)  # / 10⁴, D65 (IEC 61966-2-1)
_D65 = 21
_MOST = 65535  # that ISOSpeedRatings can hold; means "at least" there
_BOTH = 6  # recommended exposure index and ISO speed


def write_dng(
    path: Path | str,
    mosaic_codes: UInt16[np.ndarray, "h w"],
    *,
    cfa: str,
    black: float | Sequence[float],
    white: float,
    iso: float,
    camera: str,
    noise_profile: tuple[float, float] | None = None,
) -> None:
    """Write codes with CFA, levels, ISO and camera; readers give back exactly the same codes.

    The colour matrix is that of sRGB primaries: the file says how bright a pixel was, not what colour the
    camera's filters had.

    Args:
        path: file to write; an existing one is replaced.
        mosaic_codes: `(H, W)` uint16 codes, H and W even (libraw opens none smaller than 22×22).
        cfa: RGGB, BGGR, GRBG or GBRG.
        black: black level in codes, >= 0, one or four (R, G on R rows, G on B rows, B); kept to 1/256.
        white: white level in codes, a whole number > black, <= 65535.
        iso: ISO speed, written as a whole number from 1 to 2³² − 1; beyond 65535, which is all that the oldest tag
            holds, also as Exif 2.3's `ISOSpeed` and `RecommendedExposureIndex`.
        camera: name of the camera.
        noise_profile: slope >= 0 and intercept of the variance, linear units.

    Raises:
        ValueError: an argument outside the ranges above.
    """
    import tifffile

    if mosaic_codes.dtype != np.uint16 or mosaic_codes.ndim != 2 or any(n % 2 for n in mosaic_codes.shape):
        raise ValueError(
            f"mosaic_codes: expected uint16 (H, W) with even sides, got {mosaic_codes.dtype} "
            f"{tuple(mosaic_codes.shape)}"
        )
    levels = tuple(black) if isinstance(black, Sequence) else (black,) * 4
    if len(levels) != 4 or not all(0 <= n < white <= 65535 for n in levels) or white != round(white):
        raise ValueError(f"black, white: expected whole white, 0 <= black < white <= 65535, got {black} and {white}")
    if not 0.5 < iso < 2**32 - 1:
        raise ValueError(f"iso: expected 1 to {2**32 - 1}, got {iso}")
    cell = dict(zip(sites(cfa), levels, strict=True))
    blacks = tuple(n for site in sorted(cell) for n in (round(cell[site] * 256), 256))
    pattern = bytes("RGB".index(letter) for letter in cfa)
    name = camera.encode("ascii", "replace").decode()
    tags: list[tuple[int, int, int, object, bool]] = [
        (271, _ASCII, 0, name, True),  # Make
        (272, _ASCII, 0, name, True),  # Model
        (33421, _SHORT, 2, (2, 2), True),  # CFARepeatPatternDim
        (33422, _BYTE, 4, pattern, True),  # CFAPattern
        (_ISO, _LONG, 1, 0, True),  # becomes the pointer to the Exif directory, which tifffile cannot write
        (50706, _BYTE, 4, bytes((1, 4, 0, 0)), True),  # DNGVersion
        (50707, _BYTE, 4, bytes((1, 1, 0, 0)), True),  # DNGBackwardVersion
        (50708, _ASCII, 0, name, True),  # UniqueCameraModel
        (50713, _SHORT, 2, (2, 2), True),  # BlackLevelRepeatDim
        (50714, _RATIONAL, 4, blacks, True),  # BlackLevel
        (50717, _SHORT, 1, round(white), True),  # WhiteLevel
        (50721, _SRATIONAL, 9, tuple(n for v in _XYZ_TO_SRGB for n in (v, 10000)), True),  # ColorMatrix1
        (50728, _RATIONAL, 3, (1, 1) * 3, True),  # AsShotNeutral
        (50778, _SHORT, 1, _D65, True),  # CalibrationIlluminant1
    ]
    if noise_profile is not None:
        tags.append((51041, _DOUBLE, 6, tuple(float(n) for n in noise_profile) * 3, True))  # NoiseProfile
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder="<") as writer:
        writer.write(
            mosaic_codes,
            photometric=_CFA_PHOTOMETRIC,
            compression=None,
            software="noiseflow",
            metadata=None,
            extratags=tags,
        )
    Path(path).write_bytes(_with_exif(buffer.getvalue(), round(iso)))


def _with_exif(tiff: bytes, iso: int) -> bytes:
    """Append the Exif directory, the one place where every reader looks for the ISO, and point to it."""
    placeholder = struct.pack("<HHII", _ISO, _LONG, 1, 0)
    at = tiff.index(placeholder)
    end = len(tiff) + len(tiff) % 2
    pointer = struct.pack("<HHII", _EXIF, _LONG, 1, end)
    entries = [struct.pack("<HHIHH", _ISO, _SHORT, 1, min(iso, _MOST), 0)]
    if iso > _MOST:
        entries += [
            struct.pack("<HHIHH", 34864, _SHORT, 1, _BOTH, 0),  # SensitivityType: which of the following there are
            struct.pack("<HHII", 34866, _LONG, 1, iso),  # RecommendedExposureIndex
            struct.pack("<HHII", 34867, _LONG, 1, iso),  # ISOSpeed
        ]
    exif = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return (tiff[:at] + pointer + tiff[at + len(pointer) :]).ljust(end, b"\0") + exif
