"""Frames of one's own camera, whatever file holds them: camera raw, TIFF, NPY, MAT, or bare pixels.

What a file does not say stays None; what cannot be read without being told (the size, type and colour filter pattern
of bare pixels, the pattern of a TIFF) is asked for. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noiseflow.errors import UserError
from noiseflow.raw.decode import decode_raw, read_image
from noiseflow.raw.frame import RawFrame

MONO = "mono"
"""The colour filter pattern of a sensor that has none, as users give it."""

DTYPES = {
    "uint8": "u1",
    "uint16le": "<u2",
    "uint16be": ">u2",
    "int16le": "<i2",
    "int16be": ">i2",
    "uint32le": "<u4",
    "uint32be": ">u4",
    "float32le": "<f4",
    "float32be": ">f4",
}
"""Types of bare pixels."""

_ARRAYS = (".npy", ".mat", ".tif", ".tiff")


def read_frame(
    path: Path | str,
    *,
    size: str | None = None,
    dtype: str | None = None,
    cfa: str | None = None,
    black: float | Sequence[float] | None = None,
    white: float | None = None,
    iso: float | None = None,
    exposure: float | None = None,
    camera: str | None = None,
) -> RawFrame:
    """Read the one frame of a file; see `read_frames`.

    Raises:
        UserError: as `read_frames`, or the file holds several frames.
    """
    frames = read_frames(
        path, size=size, dtype=dtype, cfa=cfa, black=black, white=white, iso=iso, exposure=exposure, camera=camera
    )
    if len(frames) != 1:
        raise UserError(f"{path}: expected one frame, got {len(frames)}")
    return frames[0]


def read_frames(
    path: Path | str,
    *,
    size: str | None = None,
    dtype: str | None = None,
    cfa: str | None = None,
    black: float | Sequence[float] | None = None,
    white: float | None = None,
    iso: float | None = None,
    exposure: float | None = None,
    camera: str | None = None,
) -> tuple[RawFrame, ...]:
    """Read all frames of a file; arguments win over what the file says.

    Camera raw files hold one frame. TIFF files hold one a page, NPY arrays one or, `(N, H, W)`, several, MAT files one,
    and bare pixels as many as the file is long.

    Args:
        path: the file.
        size: height and width of bare pixels, as HxW; that it is given says that the file holds bare pixels.
        dtype: their type, one of `DTYPES`.
        cfa: RGGB, BGGR, GRBG, GBRG, or mono: pattern of the top-left cell. Camera raw files say it themselves.
        black: black level in codes, one or one for each of R, G on R rows, G on B rows, B.
        white: white level in codes.
        iso: ISO speed.
        exposure: seconds.
        camera: model of the camera.

    Raises:
        UserError: the file cannot be read, is no mosaic, or cannot be read without an argument that is missing.
    """
    path = Path(path)
    said: dict[str, Any] = {
        "black": black, "white": white, "iso": iso, "exposure": exposure, "camera": camera,
    }  # fmt: skip
    if not path.is_file():
        raise UserError(f"{path}: expected a file, got {'a folder' if path.is_dir() else 'none'}")
    bare = size is not None or dtype is not None
    if not bare and path.suffix.lower() not in _ARRAYS:
        pattern = None if cfa == MONO else cfa
        return (decode_raw(path, cfa=pattern, **said),)
    stack = _bare(path, size, dtype) if bare else _array(path)
    if cfa is None:
        raise UserError(f"{path}: the file does not say the sensor's colour filter pattern; give --cfa (mono for none)")
    names = [str(path)] if len(stack) == 1 else [f"{path}[{i}]" for i in range(len(stack))]
    pattern = None if cfa == MONO else cfa
    return tuple(RawFrame.of(name, plane, cfa=pattern, **said) for name, plane in zip(names, stack, strict=True))


def _bare(path: Path, size: str | None, dtype: str | None) -> NDArray[Any]:
    """`(N, H, W)` of a file without header."""
    if dtype not in DTYPES:
        got = f", got {dtype!r}" if dtype is not None else ""
        raise UserError(f"--dtype: expected one of {', '.join(DTYPES)} for the pixels of {path}{got}")
    parts = (size or "").lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--size: expected HxW, such as 480x640, for the pixels of {path}, got {size!r}")
    height, width = int(parts[0]), int(parts[1])
    kind = np.dtype(DTYPES[dtype])
    length, frame = path.stat().st_size, height * width * kind.itemsize
    if length == 0 or length % frame:
        raise UserError(
            f"{path}: expected whole frames of {height}×{width} {dtype} pixels, {frame} bytes each, got {length} bytes"
        )
    return np.fromfile(path, kind).reshape(-1, height, width)


def _array(path: Path) -> NDArray[Any]:
    """`(N, H, W)` of a TIFF, NPY or MAT file."""
    suffix = path.suffix.lower()
    if suffix == ".mat":
        return read_image(path)[None]
    values = _pages(path) if suffix in (".tif", ".tiff") else _numbers(path)
    if values.ndim == 3 and values.shape[-1] in (3, 4):
        raise UserError(f"{path}: expected the mosaic of a sensor, got a picture of {values.shape[-1]} channels")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise UserError(f"{path}: expected shape (H, W) or (N, H, W), got {tuple(values.shape)}")
    return values if values.ndim == 3 else values[None]


def _numbers(path: Path) -> NDArray[Any]:
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError) as error:
        raise UserError(f"{path}: expected a readable NPY array, got a damaged one ({error})") from error


def _pages(path: Path) -> NDArray[Any]:
    """All pages of a TIFF, which must be of one size."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            if any(page.aspage().compression != 1 for page in file.pages):
                pages = _compressed(path)
            else:
                pages = [page.asarray() for page in file.pages]
    except Exception as error:  # tifffile raises whatever a damaged byte led to
        raise UserError(f"{path}: expected a readable TIFF, got a damaged one or another format ({error})") from error
    shapes = sorted({page.shape for page in pages})
    if len(shapes) != 1:
        raise UserError(f"{path}: expected pages of one size, got {' and '.join(map(str, shapes))}")
    return pages[0] if len(pages) == 1 else np.stack(pages)


def _compressed(path: Path) -> list[NDArray[Any]]:
    """All pages of a compressed TIFF, for which tifffile would need another package."""
    import cv2

    done, pages = cv2.imdecodemulti(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if not done:
        raise ValueError("its compression is not known")
    return list(pages)
