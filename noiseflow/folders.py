"""Output folders and files: claimed before any work is done; folders are never emptied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from noiseflow.errors import UserError


def claim(out: str | Path, *, overwrite: bool = False) -> Path:
    """Make an output folder, or accept an empty one.

    Args:
        out: the folder; parents are made.
        overwrite: accept a folder that is not empty. Files of the same name are replaced, others stay.

    Raises:
        UserError: the folder is not empty, is a file, or cannot be made.
    """
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: expected a folder to write to, found a file")
    if path.is_dir() and not overwrite and any(path.iterdir()):
        raise UserError(f"{path}: the folder is not empty; choose another or pass --overwrite")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot make the folder ({error.strerror})") from error
    return path


def claim_file(out: str | Path, endings: Sequence[str], *, overwrite: bool = False) -> Path:
    """Accept the path of an output file.

    Args:
        out: the file.
        endings: what its name may end in.
        overwrite: accept a file that exists.

    Raises:
        UserError: it ends in something else, exists, or its folder does not.
    """
    path = Path(out)
    if path.suffix.lower() not in endings:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(endings)}")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: the file exists; choose another name or pass --overwrite")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist")
    return path
