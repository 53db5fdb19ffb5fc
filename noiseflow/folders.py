"""Output folders and files: claimed before any work is done; folders are never emptied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from noiseflow.errors import UserError
from noiseflow.raw.decode import IMAGE_SUFFIXES, PHOTO_SUFFIXES, RAW_SUFFIXES


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
        UserError: it ends in something else, exists, is a folder, or its folder does not exist.
    """
    path = Path(out)
    if path.suffix.lower() not in endings:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(endings)}")
    if path.is_dir():
        raise UserError(f"{path}: expected a file to write to, found a folder")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: the file exists; choose another name or pass --overwrite")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist")
    return path


def images_below(folder: Path, out: Path, kind: str, wanted: Callable[[Path], bool]) -> list[Path]:
    """The images of a folder, subfolders and all, relative to it and sorted; those in the output folder are left out.

    Args:
        folder: where to look.
        out: the output folder.
        kind: which images they are, for messages.
        wanted: whether to take an image, by its path below the folder.

    Raises:
        UserError: no image, or the output folder holds the folder.
    """
    inside = out.resolve()
    if folder.resolve().is_relative_to(inside):
        raise UserError(f"{out}: expected an output folder that does not hold the {kind} images")
    known = (*IMAGE_SUFFIXES, *PHOTO_SUFFIXES, *RAW_SUFFIXES)
    items = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in known
        and wanted(path.relative_to(folder))
        and not path.resolve().is_relative_to(inside)
        and path.is_file()
    )
    if not items:
        raise UserError(f"{folder}: expected {kind} images ({', '.join(known)}), found none")
    return items
