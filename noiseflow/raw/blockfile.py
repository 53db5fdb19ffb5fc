"""SIDD's block files: one MAT file, v5 or v7.3, with all blocks of all images in one array.

As with frames (`raw.matfile`), what a file declares is checked before anything is read.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from noiseflow.errors import UserError

LARGEST = 2**31
"""Bytes; a file that declares more is refused (SIDD's largest array has 671 MB as doubles)."""

_DEFLATE_LIMIT = 1100  # deflate cannot shrink data more than 1032-fold
_BYTES = {"single": 4, "double": 8, "uint8": 1}
_KINDS = {"float32": "single", "float64": "double"}


def block_shape(path: Path) -> tuple[int, ...]:
    """Shape of the array, without reading it: (images, blocks, rows, columns) or (…, 3).

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    return _declared(*_version_of(path))[1]


def block_array(path: Path) -> NDArray[Any]:
    """All blocks, read once by every process that asks and kept, read-only; the file's own type.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    return _read(*_version_of(path))


def _version_of(path: Path) -> tuple[Path, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: expected a readable MAT file, got {error.strerror}") from error
    return path, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=16)
def _declared(path: Path, _changed: int, stored: int) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the array."""
    try:
        if h5py.is_hdf5(path):
            name, shape, kind, size, limit = _declared_in_hdf5(path)
        else:
            arrays = scipy.io.whosmat(str(path), appendmat=False)
            name = _chosen(path, [name for name, _, _ in arrays])
            shape, kind = next((shape, kind) for other, shape, kind in arrays if other == name)
            size = _BYTES.get(kind, 8) * int(np.prod(shape, dtype=object))
            limit = stored * _DEFLATE_LIMIT
    except UserError:
        raise
    except Exception as error:  # scipy and h5py raise whatever the broken bytes lead them to
        raise UserError(f"{path}: expected a MAT file, could not read it ({error}); fetch it again") from error
    if len(shape) not in (4, 5) or 0 in shape or (len(shape) == 5 and shape[4] != 3):
        raise _refusal(path, "an array images×blocks×rows×columns or …×3", f"shape {tuple(shape)}")
    wanted = ("single", "double") if len(shape) == 4 else ("uint8",)
    if kind not in wanted:
        raise _refusal(path, f"{' or '.join(wanted)} values for shape {tuple(shape)}", kind)
    if size > LARGEST:
        raise _refusal(path, f"at most {LARGEST >> 20} MiB", f"a declared {size >> 20} MiB")
    if size > limit:
        raise UserError(f"{path}: expected data for the declared shape {tuple(shape)}; the file is cut off or damaged")
    return name, tuple(int(n) for n in shape)


def _declared_in_hdf5(path: Path) -> tuple[str, tuple[int, ...], str, int, int]:
    with h5py.File(path, "r") as file:
        name = _chosen(path, [str(key) for key in file if not str(key).startswith("#")])
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise _refusal(path, f"{name!r} in the file itself", "a link to somewhere else")
        data = file[name]
        if not isinstance(data, h5py.Dataset) or data.external is not None or data.is_virtual:
            raise _refusal(path, f"{name!r} to be an array in the file itself", "something else")
        kind = _KINDS.get(data.dtype.name, data.dtype.name)
        size = data.dtype.itemsize * int(np.prod(data.shape, dtype=object))
        limit = data.id.get_storage_size() * (_DEFLATE_LIMIT if data.chunks else 1)
        return name, data.shape[::-1], kind, size, limit  # MATLAB stores column by column


@functools.lru_cache(maxsize=3)
def _read(path: Path, changed: int, stored: int) -> NDArray[Any]:
    name, shape = _declared(path, changed, stored)
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                array = np.ascontiguousarray(file[name][()].T)
        else:
            array = np.ascontiguousarray(scipy.io.loadmat(str(path), variable_names=[name], appendmat=False)[name])
    except Exception as error:  # as above
        raise UserError(f"{path}: the data are damaged ({error}); fetch it again") from error
    if array.shape != shape:
        raise UserError(f"{path}: expected shape {shape}, as the file declares, got {array.shape}; fetch it again")
    array.flags.writeable = False
    return array


def _chosen(path: Path, names: list[str]) -> str:
    """The variable called as the file is, or the only one."""
    if path.stem in names:
        return path.stem
    if len(names) != 1:
        raise _refusal(path, f"one variable, or one called {path.stem}", ", ".join(names) or "none")
    return names[0]


def _refusal(path: Path, expected: str, got: str) -> UserError:
    return UserError(f"{path}: expected {expected}, got {got}; is this a file of SIDD's blocks?")
