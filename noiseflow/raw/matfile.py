"""SIDD's MAT files: frames in v7.3 (which is HDF5), metadata in v5.

Files come from outside, and HDF5 is generous: a file of 2 kB can declare terabytes, and can point to other
files. What a frame declares is therefore checked before anything is read. MATLAB stores column by column, so
the data set in the file is the transposed frame; everything here takes and returns frames as `(H, W)`.
"""

from __future__ import annotations

import atexit
import io
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from noiseflow.errors import Defect, DefectError, UserError
from noiseflow.raw.cfa import sites
from noiseflow.shot import CFA_PATTERNS

VARIABLE = "x"
"""Name of the one variable of a SIDD frame."""

LARGEST_FRAME = 2**31
"""Bytes; a frame that declares more is refused (SIDD's largest have 64 MB)."""

_DEFLATE_LIMIT = 1100
"""Deflate cannot shrink data more than 1032-fold; a larger declared size is not backed by stored data."""

_OPEN_FILES = 32
_CHUNK_CACHE = 8 << 20

_CFA_TAG, _NOISE_PROFILE_TAG = 33422, 51041
_HEADER = 116  # bytes of free text at the start of every MAT file


class MatFrame:
    """One frame in a MAT v7.3 file, read rectangle by rectangle.

    Holds a path and no handle: handles live in a small pool of the process that opened them, so frames can be
    pickled, sent to workers and kept by the thousand.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns.

        Raises:
            UserError: the file is not what a SIDD frame is.
        """
        width, height = _opened(self.path)[1].shape
        return height, width

    def read(self, top: int = 0, left: int = 0, height: int | None = None, width: int | None = None) -> NDArray[Any]:
        """Rows top … top + height, columns left … left + width; to the end where no size is given.

        Returns:
            `(height, width)`, float32 or float64 as stored.

        Raises:
            UserError: the file is not what a SIDD frame is, or is damaged.
            ValueError: the rectangle leaves the frame.
        """
        rows, columns = self.shape
        height = rows - top if height is None else height
        width = columns - left if width is None else width
        if min(top, left, height, width) < 0 or top + height > rows or left + width > columns:
            raise ValueError(
                f"read: expected a rectangle inside {rows}×{columns}, got row {top}, column {left}, "
                f"size {height}×{width}"
            )
        # the pool may let go of the file meanwhile: this reference keeps it open until the read is done
        opened = _opened(self.path)
        try:
            stored = opened[1][left : left + width, top : top + height]
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{self.path}: the frame's data are damaged ({error}); fetch it again") from error
        return np.ascontiguousarray(stored.T)


class _Source(io.FileIO):
    """The bytes of a file, for HDF5 to read through.

    HDF5 then knows no path: it locks nothing, and others may replace the file while it is in the pool.
    """

    def __del__(self) -> None:
        self.close()


class _Pool:
    """Files that this process has open, the least recently used forgotten first.

    HDF5 handles must not be shared over fork: a child leaves its parent's alone (never closes them) and
    opens its own.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.files: OrderedDict[tuple[str, int, int], tuple[Any, Any]] = OrderedDict()
        self.inherited: list[OrderedDict[tuple[str, int, int], tuple[Any, Any]]] = []

    def get(self, path: Path) -> tuple[Any, Any]:
        if self.process != os.getpid():
            self.inherited.append(self.files)
            self.files, self.process = OrderedDict(), os.getpid()
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path}: expected a readable MAT file, got {error.strerror}") from error
        key = (str(path), status.st_mtime_ns, status.st_size)
        opened = self.files.pop(key, None) or _open(path)
        self.files[key] = opened
        while len(self.files) > _OPEN_FILES:
            self.files.popitem(last=False)
        return opened

    def close(self) -> None:
        """Close everything, even what a traceback still holds."""
        for files in (self.files, *self.inherited):
            for file, _ in files.values():
                file.close()
            files.clear()


_pool = _Pool()
# files read through Python objects must be closed before the interpreter is gone: HDF5's own end comes later
atexit.register(_pool.close)


def _opened(path: Path) -> tuple[Any, Any]:
    return _pool.get(path)


def _open(path: Path) -> tuple[Any, Any]:
    """Open a v7.3 file and check everything it declares about the frame, before reading any of it."""
    if not h5py.is_hdf5(path):
        raise UserError(
            f"{path}: expected a MAT v7.3 (HDF5) file, got something else; is the copy complete? MATLAB writes such "
            "files with save -v7.3"
        )
    try:
        file = h5py.File(_Source(path), "r", rdcc_nbytes=_CHUNK_CACHE)
    except OSError as error:
        raise UserError(f"{path}: damaged HDF5 file ({error}); fetch it again") from error
    try:
        return file, _checked(path, file)
    except UserError:
        file.close()
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        file.close()
        raise UserError(f"{path}: damaged HDF5 file ({error}); fetch it again") from error


def _checked(path: Path, file: Any) -> Any:
    def refuse(expected: str, got: str, kind: Defect = "damaged file") -> UserError:
        return DefectError(f"{path}: expected {expected}, got {got}; is this a SIDD frame?", kind)

    link = file.get(VARIABLE, getlink=True)
    if link is None:
        names = ", ".join(sorted(str(name) for name in file)) or "nothing"
        raise refuse(f"a variable {VARIABLE!r}", names, "wrong name")
    if not isinstance(link, h5py.HardLink):
        raise refuse(f"{VARIABLE!r} in the file itself", "a link to somewhere else")
    data = file[VARIABLE]
    if not isinstance(data, h5py.Dataset):
        raise refuse(f"{VARIABLE!r} to be an array", type(data).__name__.lower())
    if data.external is not None or data.is_virtual:
        raise refuse(f"{VARIABLE!r} in the file itself", "data stored in other files")
    if data.dtype not in (np.dtype("f4"), np.dtype("f8")):
        raise refuse("single or double values", str(data.dtype))
    if data.shape is None or data.ndim != 2 or 0 in data.shape:
        raise refuse("a two-dimensional frame", f"shape {data.shape}")
    size = data.dtype.itemsize * int(data.shape[0]) * int(data.shape[1])
    chunk = data.dtype.itemsize * int(np.prod(data.chunks, dtype=object)) if data.chunks else 0
    if max(size, chunk) > LARGEST_FRAME:
        raise refuse(f"a frame of at most {LARGEST_FRAME >> 20} MiB", f"a declared {max(size, chunk) >> 20} MiB")
    stored = data.id.get_storage_size()
    if size > stored * (_DEFLATE_LIMIT if data.chunks else 1):
        raise refuse(f"data for the declared shape {data.shape[::-1]}", f"{stored} stored bytes")
    return data


def write_frame(path: Path | str, frame: NDArray[Any]) -> None:
    """Write a frame as SIDD's are: MAT v7.3, variable `x`, single, compressed; equal frames, equal bytes.

    Args:
        path: file to write; an existing one is replaced.
        frame: `(H, W)`, written as float32.

    Raises:
        ValueError: the frame is not two-dimensional.
    """
    path = Path(path)
    if frame.ndim != 2 or 0 in frame.shape:
        raise ValueError(f"frame: expected (H, W), got {tuple(frame.shape)}")
    stored = np.ascontiguousarray(frame.T, dtype=np.float32)
    chunks = (min(128, stored.shape[0]), min(128, stored.shape[1]))
    # made in memory: HDF5 that cannot write a file out, on a full disk, takes the whole process down
    content = io.BytesIO()
    with h5py.File(content, "w", userblock_size=512, libver=("earliest", "v110")) as file:
        data = file.create_dataset(VARIABLE, data=stored, chunks=chunks, compression="gzip", compression_opts=3)
        data.attrs.create("MATLAB_class", np.bytes_(b"single"))
    # text, subsystem offset (none), version 2.0, byte order: what MATLAB looks at before it calls HDF5
    text = b"MATLAB 7.3 MAT-file, Platform: any, HDF5 schema 1.00 .".ljust(_HEADER)
    content.seek(0)
    content.write(text + bytes(8) + b"\x00\x02IM")
    path.write_bytes(content.getbuffer())


@dataclass(frozen=True)
class Metadata:
    """What a SIDD metadata file says; None where it says nothing.

    Attributes:
        cfa: RGGB, BGGR, GRBG or GBRG (tag 33422).
        black: black level of the packed channels R, G on R rows, G on B rows, B, in codes.
        white: white level, in codes.
        iso: ISO speed.
        make: maker of the camera.
        model: the maker's name for the camera.
        noise_profile: slope and intercept, one pair or one per colour, in linear units (tag 51041).
    """

    cfa: str | None = None
    black: tuple[float, float, float, float] | None = None
    white: float | None = None
    iso: float | None = None
    make: str | None = None
    model: str | None = None
    noise_profile: tuple[float, ...] | None = None


def read_metadata(path: Path | str) -> Metadata:
    """Read a SIDD metadata file (MAT v5, struct `metadata`: MATLAB's `imfinfo` of the camera's DNG).

    Tags may stand in the struct itself or in one of its sub-images; the one that names the CFA comes first.

    Raises:
        UserError: the file cannot be read, or holds something that contradicts itself.
    """
    path = Path(path)
    try:
        loaded = scipy.io.loadmat(str(path), variable_names=["metadata"], simplify_cells=True, appendmat=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected a SIDD metadata file, got none; fetch it again") from error
    except Exception as error:  # scipy raises whatever the broken bytes lead it to
        raise UserError(f"{path}: expected a MAT v5 file with SIDD metadata, could not read it: {error}") from error
    if not isinstance(loaded.get("metadata"), dict):
        raise UserError(f"{path}: expected a struct 'metadata', got none; is this a SIDD metadata file?")
    structs = list(_structs(loaded["metadata"]))
    # stable sort: the sub-image with the CFA is the raw one; others may be thumbnails with levels of their own
    structs.sort(key=lambda struct: _tag(struct, _CFA_TAG) is None)

    cfa = _cfa(path, _first(structs, _CFA_TAG))
    white = _numbers(path, "WhiteLevel", _first(structs, "WhiteLevel"))
    iso = _numbers(path, "ISOSpeedRatings", _first(structs, "ISOSpeedRatings"))
    profile = _numbers(path, "noise profile", _first(structs, _NOISE_PROFILE_TAG))
    if len(set(white)) > 1:
        raise UserError(f"{path}: expected one white level, got {white}; give it with --white")
    return Metadata(
        cfa=cfa,
        black=_black(path, cfa, _numbers(path, "BlackLevel", _first(structs, "BlackLevel"))),
        white=white[0] if white else None,
        iso=iso[0] if iso and iso[0] > 0 else None,
        make=_text(_first(structs, "Make")),
        model=_text(_first(structs, "Model")),
        noise_profile=profile or None,
    )


def _structs(struct: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """The struct and every struct inside it, outermost first."""
    yield struct
    if depth > 4:
        return
    for name, value in struct.items():
        items = value if isinstance(value, list | tuple | np.ndarray) else [value]
        if name == "UnknownTags" or (isinstance(items, np.ndarray) and items.dtype != object):
            continue
        for item in items:
            if isinstance(item, dict):
                yield from _structs(item, depth + 1)


def _tag(struct: dict[str, Any], number: int) -> Any:
    """Value of a TIFF tag that MATLAB knows no name for, or None."""
    tags = struct.get("UnknownTags")
    for tag in tags if isinstance(tags, list | np.ndarray) else [tags]:
        if isinstance(tag, dict) and np.array_equal(tag.get("ID", ()), number):
            return tag.get("Value")
    return None


def _first(structs: list[dict[str, Any]], key: str | int) -> Any:
    for struct in structs:
        value: Any = struct.get(key) if isinstance(key, str) else _tag(struct, key)
        if value is not None and np.size(value):
            return value
    return None


def _numbers(path: Path, name: str, value: object) -> tuple[float, ...]:
    if value is None:
        return ()
    try:
        numbers = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: expected numbers in {name}, got {value!r}") from error
    if not np.isfinite(numbers).all():
        raise UserError(f"{path}: expected finite numbers in {name}, got {numbers.tolist()}")
    return tuple(numbers.tolist())


def _cfa(path: Path, value: object) -> str | None:
    numbers = _numbers(path, "the CFA pattern", value)
    if not numbers:
        return None
    name = "".join("RGB"[int(n)] if n in (0, 1, 2) else "?" for n in numbers)
    if name not in CFA_PATTERNS:
        raise UserError(f"{path}: expected a Bayer pattern in tag {_CFA_TAG}, got {numbers}")
    return name


def _black(path: Path, cfa: str | None, levels: tuple[float, ...]) -> tuple[float, float, float, float] | None:
    """Levels of the cell's four pixels, row by row, in the order of the packed channels."""
    if not levels:
        return None
    if len(set(levels)) == 1:
        return (levels[0],) * 4
    if len(levels) != 4 or cfa is None:
        raise UserError(
            f"{path}: expected one black level, or four with a CFA pattern, got {levels}; give it with --black"
        )
    first, second, third, fourth = (levels[2 * row + column] for row, column in sites(cfa))
    return first, second, third, fourth


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def write_metadata(
    path: Path | str,
    *,
    camera: str,
    make: str,
    model: str,
    cfa: str,
    black: float,
    white: float,
    iso: float,
    noise_profile: tuple[float, float],
) -> None:
    """Write a metadata file that reads as SIDD's do; equal arguments, equal bytes.

    Args:
        path: file to write; an existing one is replaced.
        camera: the data set's name for the camera, e.g. S6.
        make: maker of the camera.
        model: the maker's name for the camera.
        cfa: RGGB, BGGR, GRBG or GBRG.
        black: black level in codes.
        white: white level in codes.
        iso: ISO speed.
        noise_profile: slope and intercept of the variance, linear units.

    Raises:
        ValueError: an unknown CFA pattern.
    """
    sites(cfa)  # validates the name
    tags = [
        (33421, np.array([2, 2], np.uint8)),
        (_CFA_TAG, np.array(["RGB".index(letter) for letter in cfa], np.uint8)),
        (_NOISE_PROFILE_TAG, np.array([*noise_profile] * 3, np.float64)),
    ]
    unknown = np.empty((len(tags), 1), dtype=[("ID", object), ("Offset", object), ("Value", object)])
    for row, (number, value) in enumerate(tags):
        unknown[row, 0] = (np.uint16(number), np.uint8(0), value)
    metadata = {
        "Format": "tif",
        "ColorType": "CFA",
        "PhotometricInterpretation": "CFA",
        "SamplesPerPixel": np.uint8(1),
        "Make": make,
        "Model": model,
        "UniqueCameraModel": camera,
        "ISOSpeedRatings": float(iso),
        "CFAPlaneColor": np.array([0, 1, 2], np.uint8),
        "CFALayout": np.uint8(1),
        "BlackLevelRepeatDim": np.array([2, 2], np.uint8),
        "BlackLevel": np.full(4, float(black)),
        "WhiteLevel": float(white),
        "UnknownTags": unknown,
    }
    scipy.io.savemat(str(path), {"metadata": metadata}, oned_as="row", appendmat=False)
    # scipy writes the time and the platform into the text; equal metadata shall be equal bytes
    with Path(path).open("r+b") as raw:
        raw.write(b"MATLAB 5.0 MAT-file, Platform: any".ljust(_HEADER))
