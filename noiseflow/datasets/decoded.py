"""A small store of decoded files, so that many patches can be cut from one decode."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from noiseflow.errors import UserError
from noiseflow.raw.decode import read_image

BUDGET = 1 << 30
"""Bytes of decoded images that a process keeps; the least recently used go first."""

_store: OrderedDict[tuple[str, int, int], NDArray[Any]] = OrderedDict()


def decoded(path: Path) -> NDArray[Any]:
    """The image of a file, as `read_image` gives it, read-only; decoded anew when the file has changed.

    Raises:
        UserError: as `read_image`.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: expected a readable file, got {error.strerror}") from error
    key = (str(path), status.st_mtime_ns, status.st_size)
    image = _store.pop(key, None)
    if image is None:
        image = read_image(path)
        image.flags.writeable = False
        held = sum(other.nbytes for other in _store.values())
        while _store and held + image.nbytes > BUDGET:
            held -= _store.popitem(last=False)[1].nbytes
    _store[key] = image
    return image


def forget() -> None:
    """Drop all decoded images: for passes that look at each file once."""
    _store.clear()
