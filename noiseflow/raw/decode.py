"""Files to arrays: camera raw files through rawpy, pictures and frames as they were stored.

What a file does not say (black level, white level) is asked for, never guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noiseflow.errors import UserError
from noiseflow.raw.cfa import sites
from noiseflow.raw.frame import RawFrame
from noiseflow.raw.matfile import MatFrame
from noiseflow.shot import CFA_PATTERNS

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".mat", ".npy", ".png", ".tif", ".tiff")
"""What `read_image` reads."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".webp")
"""What `read_photo` reads beside PNG and TIFF: lossy formats, for clean pictures only."""

RAW_SUFFIXES = (".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".pef", ".raf", ".rw2", ".srw")
"""What cameras call their raw files; `read_raw` takes any name."""

_BITS, _MODEL, _EXIF, _ISO = 258, 272, 34665, 34855
_DNG_VERSION, _UNIQUE_MODEL, _BLACK_REPEAT, _BLACK, _WHITE = 50706, 50708, 50713, 50714, 50717
_FRACTIONS = (5, 10)  # TIFF types that are pairs of integers
_CFA_PHOTOMETRIC = 32803
_CONTAINER_BITS = 16
_XTRANS = (6, 6)
_MOST_ISO = 65535.0

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def read_raw(
    path: Path | str,
    black: float | Sequence[float] | None = None,
    white: float | None = None,
    cfa: str | None = None,
) -> RawFrame:
    """Decode a camera raw file (DNG, NEF, CR2, …) that holds a Bayer mosaic and has levels.

    An odd last row or column is dropped. Arguments win over what the file says.

    Args:
        path: the file.
        black: black level in codes, one or four (R, G on R rows, G on B rows, B).
        white: white level in codes.
        cfa: pattern of the top-left visible cell.

    Raises:
        UserError: the file cannot be decoded, is not a Bayer mosaic, or lacks a level that is not given.
    """
    frame = decode_raw(path, black=black, white=white, cfa=cfa)
    if frame.cfa is None:
        raise UserError(f"{path}: expected a Bayer mosaic, got a sensor without colour filters")
    _ = frame.levels
    for warning in frame.warnings:
        _log.warning("%s", warning)
    return frame


def decode_raw(
    path: Path | str,
    *,
    black: float | Sequence[float] | None = None,
    white: float | None = None,
    cfa: str | None = None,
    iso: float | None = None,
    exposure: float | None = None,
    camera: str | None = None,
) -> RawFrame:
    """Decode a camera raw file; what neither it nor the arguments say stays None, and arguments win.

    Args:
        path: the file.
        black: black level in codes, one or one for each of R, G on R rows, G on B rows, B.
        white: white level in codes.
        cfa: pattern of the top-left visible cell.
        iso: ISO speed.
        exposure: seconds.
        camera: model of the camera.

    Raises:
        UserError: the file cannot be decoded, or is neither a Bayer mosaic nor of a mono sensor.
    """
    import rawpy

    path = Path(path)
    if cfa is not None and cfa not in CFA_PATTERNS:
        raise UserError(f"cfa: expected one of {', '.join(CFA_PATTERNS)}, got {cfa!r}")
    if path.is_file() and not _has_header(path):  # libraw would guess a camera from the size of the file
        raise UserError(
            f"{path}: expected a camera raw file, got one without a known header; "
            "headerless pixels need --size, --dtype and --cfa"
        )
    try:
        with rawpy.imread(str(path)) as raw:
            pattern = _pattern(path, raw)
            codes = np.array(raw.raw_image_visible)
            file_black = tuple(float(n) for n in raw.black_level_per_channel)
            file_white = float(raw.white_level)
            colours = np.array(raw.raw_colors_visible[:2, :2])
            other = getattr(raw, "other", None)
    except rawpy.LibRawError as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode() if isinstance(reason, bytes) else reason
        raise UserError(f"{path}: expected a camera raw file, could not decode it: {reason}") from error
    tags = _tiff_tags(path)
    if pattern is None:
        if cfa is not None:
            raise UserError(f"{path}: a sensor without colour filters has no pattern; leave --cfa {cfa} out")
        table = file_black[:1]
    else:
        pattern = cfa or pattern
        # libraw's levels are by its colour index; the sites tell which index each packed channel has
        table = tuple(file_black[colours[site]] for site in sites(pattern))
    levels = tags.black(pattern) or (table if tags.black_known(table) else None)
    return RawFrame.of(
        str(path),
        codes,
        black=black if black is not None else levels,
        white=white if white is not None else file_white if tags.white_known(file_white) else None,
        cfa=pattern,
        iso=iso or _speed(float(getattr(other, "iso_speed", 0.0) or 0.0), tags),
        exposure=exposure or float(getattr(other, "shutter_speed", 0.0) or 0.0) or tags.exposure,
        camera=camera or tags.camera,
    )


def _speed(decoded: float, tags: _Tags) -> float | None:
    """ISO speed; 65535, the most that the oldest tag holds, stands for more where a newer one says so."""
    return decoded if 0 < decoded < _MOST_ISO else tags.iso or decoded or None


_HEADERS = (b"II*\0", b"MM\0*", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"II\x1a\0", b"FUJIFILM", b"FOVb", b"\0MRM")


def _has_header(path: Path) -> bool:
    """Whether a file begins as those of cameras do: TIFF and its relatives, CRW, RAF, X3F, MRW, CR3."""
    with path.open("rb") as file:
        start = file.read(12)
    return start.startswith(_HEADERS) or start[4:8] == b"ftyp"


def _pattern(path: Path, raw: Any) -> str | None:
    """The pattern of the top-left visible cell; None of a sensor without colour filters."""
    import rawpy

    if raw.raw_type != rawpy.RawType.Flat or raw.raw_pattern is None:
        raise UserError(
            f"{path}: expected a Bayer mosaic, got an image that is already demosaiced; take the camera's own raw file"
        )
    if raw.raw_pattern.shape == (1, 1):
        return None
    if raw.raw_pattern.shape == _XTRANS:
        raise UserError(
            f"{path}: expected a 2×2 Bayer mosaic, got an X-Trans pattern of 6×6, which nothing here can pack"
        )
    if raw.raw_pattern.shape != (2, 2):
        rows, columns = raw.raw_pattern.shape
        raise UserError(f"{path}: expected a 2×2 Bayer mosaic, got a pattern of {rows}×{columns}")
    letters = raw.color_desc.decode("ascii", "replace")
    name = "".join(letters[n] for n in np.array(raw.raw_colors_visible[:2, :2]).reshape(-1))
    if name not in CFA_PATTERNS:
        raise UserError(f"{path}: expected one of {', '.join(CFA_PATTERNS)}, got the colour filters {name}")
    return name


@dataclass(frozen=True)
class _Tags:
    """What a DNG itself says; libraw fills gaps with 0 and does not tell."""

    values: dict[int, tuple[Any, ...]]
    iso: float | None = None
    exposure: float | None = None

    @property
    def dng(self) -> bool:
        return _DNG_VERSION in self.values

    @property
    def camera(self) -> str | None:
        name = (self.values.get(_UNIQUE_MODEL) or self.values.get(_MODEL) or ("",))[0]
        return name.strip("\0 ") or None if isinstance(name, str) else None

    def black(self, cfa: str | None) -> tuple[float, ...] | None:
        """Levels per packed channel, with their fractions (libraw's are whole numbers)."""
        levels = self.values.get(_BLACK, ())
        if not self.dng or len(levels) not in (1, 4):
            return None
        if len(levels) == 1:
            return (float(levels[0]),) * (1 if cfa is None else 4)
        if cfa is None or tuple(self.values.get(_BLACK_REPEAT, ())) != (2, 2):
            return None
        return tuple(float(levels[2 * row + column]) for row, column in sites(cfa))

    def black_known(self, table: tuple[float, ...]) -> bool:
        """Whether libraw's black levels come from the file or its camera table, not from nowhere."""
        return _BLACK in self.values if self.dng else any(table)

    def white_known(self, table: float) -> bool:
        """Whether the white level does; a DNG that stores fewer than 16 bits defaults to all of them (spec)."""
        if not self.dng:
            return table > 0
        return _WHITE in self.values or self.values.get(_BITS, (_CONTAINER_BITS,))[0] < _CONTAINER_BITS


def _tiff_tags(path: Path) -> _Tags:
    """Tags of the first directory, overlaid by those of the one that holds the mosaic."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            first = file.pages.first
            values = {tag.code: _values(tag) for tag in first.tags}
            exif = first.tags.get(_EXIF)
            for page in first.pages or ():
                if page.aspage().photometric == _CFA_PHOTOMETRIC:
                    values |= {tag.code: _values(tag) for tag in page.aspage().tags}
    except Exception:  # not a TIFF, or one that only libraw can read: its own tags stay unknown
        return _Tags({})
    said = exif.value if exif is not None and isinstance(exif.value, dict) else {}
    speeds = [
        said.get("ISOSpeedRatings") or values.get(_ISO),
        said.get("ISOSpeed"),
        said.get("RecommendedExposureIndex"),
    ]
    known = [float(np.atleast_1d(speed)[0]) for speed in speeds if speed]
    time = said.get("ExposureTime")
    exposure = time[0] / time[1] if isinstance(time, tuple) and len(time) == 2 and time[1] else None
    return _Tags(
        values, next((n for n in known if n != _MOST_ISO), known[0] if known else None) or None, exposure or None
    )


def _values(tag: Any) -> tuple[Any, ...]:
    """Values of a TIFF tag, fractions divided out."""
    value = tag.value
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    if int(tag.dtype) in _FRACTIONS:
        return tuple(n / d if d else float("nan") for n, d in zip(values[::2], values[1::2], strict=True))
    return values


def read_image(path: Path | str) -> NDArray[Any]:
    """Read a picture or a frame as it was stored: MAT (variable `x`), NPY, PNG, TIFF.

    Returns:
        `(H, W)` or `(H, W, 3)` in the order R G B; the stored type (integers, float32 or float64).

    Raises:
        UserError: another kind of file, a damaged one, or another shape or type; the file is named.
    """
    path = Path(path)
    readers = {".mat": _read_mat, ".npy": _read_npy}
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise UserError(f"{path}: expected one of {', '.join(IMAGE_SUFFIXES)}, got {suffix or 'no suffix'}")
    if not path.is_file():
        raise UserError(f"{path}: expected a file, got none")
    image = readers.get(suffix, _read_picture)(path)
    if image.dtype.kind not in "uif" or image.dtype.itemsize > 8:
        raise UserError(f"{path}: expected integer or floating-point pixels, got {image.dtype}")
    if 0 in image.shape or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        hint = "; save it without transparency" if image.shape[2:] == (4,) else ""
        raise UserError(f"{path}: expected shape (H, W) or (H, W, 3), got {tuple(image.shape)}{hint}")
    # a copy of its own: pictures arrive as reversed views, NPY arrays mapped from the file
    return np.array(image, dtype=image.dtype.newbyteorder("="), order="C")


def read_photo(path: Path | str) -> NDArray[np.uint8]:
    """Read a photograph as it is meant to be looked at: turned as its camera says, 8 bits, without transparency.

    Returns:
        `(H, W, 3)` R G B.

    Raises:
        UserError: no file, or not a picture.
    """
    import cv2

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected a file, got none")
    content = np.fromfile(path, np.uint8)
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except cv2.error as error:
        raise UserError(f"{path}: expected a readable picture, got a damaged one ({error.err})") from error
    if image is None:
        raise UserError(f"{path}: expected a readable picture, got a damaged one or another format")
    return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)


def _read_mat(path: Path) -> NDArray[Any]:
    return MatFrame(path).read()


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        # mapped, so that a header that declares more than the file holds allocates nothing
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise UserError(f"{path}: expected a readable NPY array, got a damaged one ({error})") from error


def _read_picture(path: Path) -> NDArray[Any]:
    import cv2

    content = np.fromfile(path, np.uint8)
    if content[:8].tobytes() == _PNG_START and content[-12:].tobytes() != _PNG_END:
        raise UserError(f"{path}: the PNG ends early; fetch it again")
    try:
        image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
    except cv2.error as error:
        raise UserError(f"{path}: expected a readable picture, got a damaged one ({error.err})") from error
    if image is None:
        raise UserError(f"{path}: expected a readable picture, got a damaged one or another format")
    return image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
