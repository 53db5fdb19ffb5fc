"""One file per model: safetensors with all metadata in a single header key, and nothing that runs on loading."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from noiseflow.denoise import NETWORKS, Denoiser
from noiseflow.errors import UserError
from noiseflow.models import ARCHITECTURES, FittedModel

FORMAT = 1
"""Version of the file format that this package writes; it reads this one and older ones."""

_KEY = "noiseflow"


def save(model: FittedModel | Denoiser, path: str | Path) -> None:
    """Write a noise model or a denoiser to a `.safetensors` file, atomically.

    A failed write leaves no file and harms no old one. The header holds no time, path or host, so equal models are
    equal bytes.

    Args:
        model: a model that one of the named architectures returned, or a denoiser.
        path: where to; its folder must exist.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    write_atomically(Path(path), to_bytes(tensors, metadata={_KEY: described(model)}))


def described(model: FittedModel | Denoiser) -> str:
    """What a file says about the model in it: JSON with sorted keys."""
    name, arguments = model.architecture
    header = {
        "format": FORMAT,
        "architecture": name,
        "arguments": arguments,
        "units": "linear: 0 = black level, 1 = white level",
        "packing": model.packing,
        "card": model.card,
    }
    if isinstance(model, FittedModel):
        isos = [iso for _, iso in model.conditions.pairs]
        header["cameras"] = list(model.cameras)
        header["iso_range"] = [min(isos), max(isos)]
        header["noise_domain"] = model.noise_domain
    return json.dumps(header, sort_keys=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    write_whole(path, write)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written under another name first, so that no half file ever stands under the right one.

    Args:
        path: where the file belongs.
        write: writes it to the path that it is given.

    Raises:
        OSError: it could not be written; names `path`.
    """
    temporary = path.with_name(f".part-{path.name}")
    try:
        with named(path):
            write(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name a file in the errors of writing it: a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_header(path: str | Path) -> dict[str, Any]:
    """The metadata of a model file, without its weights.

    Raises:
        UserError: the file is missing, is no model of this package, or is of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error})") from error
    try:
        header = json.loads(metadata[_KEY])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: a .safetensors file, but not one that noiseflow wrote") from error
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise UserError(f"{path}: the model's metadata are damaged")
    if header["format"] > FORMAT:
        raise UserError(
            f"{path}: model format {header['format']} is newer than this noiseflow reads ({FORMAT}); please upgrade"
        )
    known = (*ARCHITECTURES, *NETWORKS)
    if header.get("architecture") not in known:
        raise UserError(f"{path}: unknown architecture {header.get('architecture')!r}; known: {', '.join(known)}")
    return header


def load(path: str | Path, *, black: float | None = None, white: float | None = None) -> FittedModel:
    """Read a noise model that `save` wrote, or the physics model of a noise profile; never unpickles.

    Args:
        path: a `.safetensors` file, a run folder that holds `model.safetensors`, a profile (`.json`), or the name of a
            profile that comes with the package (`noiseflow.calibration.physics.BUILT_IN`).
        black: black level in codes, for a profile that does not say it.
        white: white level in codes, for a profile that does not say it.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        UserError: the file is not a noise model of this package, is damaged, or is of a newer format.
    """
    path = model_path(path)
    if path.suffix.lower() == ".json":
        from noiseflow.calibration.physics import physics_of
        from noiseflow.calibration.profile import read_profile

        return physics_of(read_profile(path), black=black, white=white)
    header = read_header(path)
    if header["architecture"] not in ARCHITECTURES:
        raise UserError(f"{path}: expected a noise model, found a denoiser ({header['architecture']})")
    return _filled(path, header, ARCHITECTURES[header["architecture"]])


def load_denoiser(path: str | Path) -> Denoiser:
    """Read a denoiser that `save` wrote; never unpickles.

    Args:
        path: a `.safetensors` file, or a run folder that holds `denoiser.safetensors`.

    Returns:
        The network, in evaluation mode, on the CPU.

    Raises:
        UserError: the file is not a denoiser of this package, is damaged, or is of a newer format.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "denoiser.safetensors"
    header = read_header(path)
    if header["architecture"] not in NETWORKS:
        raise UserError(f"{path}: expected a denoiser, found a noise model ({header['architecture']})")
    return _filled(path, header, NETWORKS[header["architecture"]])


_Model = TypeVar("_Model", FittedModel, Denoiser)


def _filled(path: Path, header: dict[str, Any], build: Callable[..., _Model]) -> _Model:
    """The model that a header describes, with the file's weights."""
    try:
        model = build(**header["arguments"])
        tensors = {}
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                tensors[key] = file.get_tensor(key)
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError, KeyError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: the file does not hold the model that its metadata describe ({first})") from error
    bad = [
        key for key, value in tensors.items() if key.split(".")[-1] != "log_a" and not bool(torch.isfinite(value).all())
    ]
    if bad:
        raise UserError(f"{path}: the model's weights are not finite ({bad[0]})")
    model.card = header.get("card", {})
    return model.eval()


def model_path(path: str | Path) -> Path:
    """The model file that a path means: itself, `model.safetensors` in a run folder, or a built-in profile's file.

    Raises:
        UserError: a folder without a model, or a bare name that is neither a file's nor a built-in profile's.
    """
    path = Path(path)
    if not path.exists() and path.name == str(path) and not path.suffix:
        from noiseflow.calibration.physics import BUILT_IN

        if path.name in BUILT_IN:
            return BUILT_IN[path.name]
        raise UserError(f"{path}: no such model file or folder; built-in profiles: {', '.join(BUILT_IN)}")
    if path.is_dir():
        inside = path / "model.safetensors"
        if not inside.is_file():
            raise UserError(f"{path}: the folder holds no model.safetensors; is it a run folder that has finished?")
        return inside
    return path


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
