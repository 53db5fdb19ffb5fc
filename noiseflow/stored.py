"""Images as they came from a file: clean ones in, noisy ones of the same layout and levels out."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noiseflow.calibration.exchange import Line
from noiseflow.denoise import Denoiser
from noiseflow.errors import UserError
from noiseflow.files import write_atomically, write_whole
from noiseflow.models import FittedModel
from noiseflow.raw.cfa import pack, unpack
from noiseflow.raw.decode import IMAGE_SUFFIXES, PHOTO_SUFFIXES, read_image, read_photo, read_raw
from noiseflow.shot import Shot


@dataclass(frozen=True)
class StoredImage:
    """One clean image as it came: its pixels in linear units, and how it was stored.

    Attributes:
        image: `(C, H, W)` float32, linear units, packed where it was a mosaic.
        cfa: pattern of the mosaic, or None.
        dtype: how the values were stored.
        black: `(C,)` or `(1,)` float64, the code that 0 stands for.
        codes: white − black in codes, as `black`; None where values came in linear units.
        lsb, low, high: code grid, linear units; None where the file does not say.
        format: the format that keeps its layout.
        levels: black levels that the file says, with their fractions; None where it says none.
    """

    image: Tensor
    cfa: str | None
    dtype: np.dtype[Any]
    black: Tensor
    codes: Tensor | None
    lsb: Tensor | None
    low: Tensor | None
    high: float | None
    format: str
    levels: list[float] | None = None


def read_clean(
    path: Path,
    model: FittedModel | Denoiser,
    *,
    black: float | None = None,
    white: float | None = None,
    cfa: str | None = None,
    usual_cfa: str | None = None,
) -> StoredImage:
    """Read one clean image and bring it to linear units and the model's channels.

    Args:
        path: MAT, NPY, PNG, TIFF, JPEG, WebP or a camera raw file.
        model: says how many channels there must be.
        black: black level in codes, where the file does not say.
        white: white level in codes, likewise.
        cfa: pattern of a mosaic; wins over what a raw file says.
        usual_cfa: pattern of a mosaic where neither the file nor `cfa` says.

    Raises:
        UserError: the file is missing or damaged, does not say its levels or pattern, or does not suit the model.
    """
    suffix = path.suffix.lower()
    if suffix not in (*IMAGE_SUFFIXES, *PHOTO_SUFFIXES):
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        raw = read_raw(path, black, white, cfa)
        levels, level = raw.levels
        # Codes are whole numbers, so they are counted from a whole one; else rounding would shift all of them.
        zero = levels.round()
        raw = replace(raw, black=zero)
        return StoredImage(
            _packed(path, raw.mosaic, str(raw.cfa), model), raw.cfa, np.dtype(np.uint16), zero, level - zero,
            raw.lsb, 0.0 - zero * raw.lsb, 1.0, "dng", levels.tolist(),
        )  # fmt: skip
    stored = read_photo(path) if suffix in PHOTO_SUFFIXES else read_image(path)
    lsb: Tensor | None = None
    low: Tensor | None = None
    high: float | None = None
    codes: Tensor | None = None
    base = torch.tensor([black or 0.0], dtype=torch.float64)
    values = torch.from_numpy(stored.astype(np.float64))
    if stored.dtype.kind in "ui" or white is not None:
        top = white if white is not None else 255.0 if stored.dtype == np.uint8 else None
        if top is None:
            raise UserError(f"{path}: {stored.dtype} values need their levels; pass --white (and --black)")
        if not top > float(base):
            raise UserError(f"--white: expected more than the black level {float(base):g}, got {top:g}")
        codes = top - base
        values = (values - base) / codes
        lsb, low, high = 1 / codes, 0.0 - base / codes, 1.0
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{path}: the image holds NaN or infinite values")
    image, pattern = values.float(), None
    if image.ndim == 2 and model.channels == 4:
        pattern = cfa or usual_cfa
        if pattern is None:
            raise UserError(f"{path}: the file does not say the mosaic's colour filter pattern; pass --cfa")
        image = _packed(path, image, pattern, model)
    elif image.ndim == 3 and model.channels == 3:
        image = image.permute(2, 0, 1)
    elif image.ndim == 2 and model.channels == 1:
        image = image[None]
    else:
        wanted = {3: "an (H, W, 3) picture", 1: "an (H, W) image"}.get(model.channels, "an (H, W) mosaic")
        raise UserError(f"{path}: expected {wanted} for a {model.packing} model, got shape {tuple(image.shape)}")
    kind = suffix[1:] if suffix in (".npy", ".mat") else "png"
    return StoredImage(image, pattern, stored.dtype, base, codes, lsb, low, high, kind)


def _packed(path: Path, mosaic: Tensor, cfa: str, model: FittedModel | Denoiser) -> Tensor:
    if model.channels != 4:
        raise UserError(f"{path}: expected a picture for a {model.packing} model, got a mosaic")
    if mosaic.shape[0] % 2 or mosaic.shape[1] % 2:
        raise UserError(f"{path}: expected a mosaic with even sides, got {mosaic.shape[0]}×{mosaic.shape[1]}")
    return pack(mosaic, cfa)


def shot_of(
    clean: StoredImage,
    model: FittedModel | Denoiser,
    *,
    camera: str,
    iso: float,
    lsb: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Shot:
    """The shot of one image; its code grid as given, else the file's, else that of the model's card.

    Raises:
        UserError: a value is out of range.
    """
    card = model.card.get("cameras", {}).get(camera, {})
    grid = {}
    for name, given, fallback in (("lsb", lsb, 0.0), ("low", low, 0.0), ("high", high, 1.0)):
        stored = getattr(clean, name)
        value = given if given is not None else stored if stored is not None else card.get(name, fallback)
        grid[name] = torch.as_tensor(value, dtype=torch.float32).expand(clean.image.shape[0])[None]
    try:
        return Shot.of(clean.image[None], camera=camera, iso=iso, cfa=clean.cfa, **grid)
    except ValueError as error:
        raise UserError(str(error)) from error


def in_layout(noisy: Tensor, clean: StoredImage) -> NDArray[Any]:
    """`(C, H, W)` back to the layout of the file: mosaic, picture or plane."""
    if clean.cfa is not None:
        return unpack(noisy, clean.cfa).numpy()
    return noisy.permute(1, 2, 0).numpy() if noisy.shape[0] == 3 else noisy[0].numpy()


def in_codes(noisy: Tensor, clean: StoredImage, codes: Tensor) -> NDArray[Any]:
    """What would be stored, not rounded, float64, in the layout of the file."""
    return in_layout(noisy.double() * codes[:, None, None] + clean.black[:, None, None], clean)


def npy_bytes(values: NDArray[Any]) -> bytes:
    """An array as a NPY file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def png_bytes(pixels: NDArray[Any]) -> bytes:
    """Pixels as a PNG file.

    Args:
        pixels: `(H, W)` or `(H, W, 3)` R G B, uint8 or uint16.

    Raises:
        UserError: it could not be encoded.
    """
    import cv2

    stored = pixels[..., ::-1] if pixels.ndim == 3 else pixels  # OpenCV writes B G R
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(stored))
    if not done:
        raise UserError(f"could not encode {pixels.dtype} pixels {tuple(pixels.shape)} as PNG")
    return bytes(encoded.tobytes())


def _codes(noisy: Tensor, clean: StoredImage, shot: Shot) -> tuple[NDArray[Any], int]:
    """Stored codes, and the code of 1.0: the file's own grid, else that of lsb, else 16 bits."""
    lsb = float(shot.lsb.max())
    codes = clean.codes
    if codes is None:
        codes = torch.tensor([1 / lsb if lsb > 0 else 65535.0], dtype=torch.float64)
    return np.clip(np.rint(in_codes(noisy, clean, codes)), 0, 65535), round(float((codes + clean.black).max()))


def _write_npy(path: Path, noisy: Tensor, clean: StoredImage, shot: Shot, line: Line | None) -> None:
    if clean.codes is None:
        values = in_layout(noisy, clean).astype(clean.dtype if clean.dtype.kind == "f" else np.float32)
    else:
        values = in_codes(noisy, clean, clean.codes)
        values = (np.rint(values) if clean.dtype.kind in "ui" else values).astype(clean.dtype)
    write_atomically(path, npy_bytes(values))


def _write_mat(path: Path, noisy: Tensor, clean: StoredImage, shot: Shot, line: Line | None) -> None:
    from noiseflow.raw.matfile import write_frame

    values = in_layout(noisy, clean)
    if values.ndim != 2:
        raise UserError("--format mat: expected a mosaic, got a picture; use npy or png")
    write_whole(path, lambda temporary: write_frame(temporary, values))


def _write_png(path: Path, noisy: Tensor, clean: StoredImage, shot: Shot, line: Line | None) -> None:
    values, white = _codes(noisy, clean, shot)
    write_atomically(path, png_bytes(values.astype(np.uint8 if white <= 255 else np.uint16)))


def _write_dng(path: Path, noisy: Tensor, clean: StoredImage, shot: Shot, line: Line | None) -> None:
    from noiseflow.raw.dng import write_dng

    if clean.cfa is None:
        raise UserError("--format dng: expected a mosaic, got a picture; use npy or png")
    cfa, (values, white) = clean.cfa, _codes(noisy, clean, shot)
    if white > 65535:
        raise UserError("--format dng: the codes do not fit into 16 bits")
    write_whole(
        path,
        lambda temporary: write_dng(
            temporary,
            values.astype(np.uint16),
            cfa=cfa,
            black=clean.levels or clean.black.expand(4).tolist(),
            white=white,
            iso=float(shot.iso[0]),
            camera=shot.camera_names[0],
            noise_profile=line,
        ),
    )


WRITERS: dict[str, Callable[[Path, Tensor, StoredImage, Shot, Line | None], None]] = {
    "npy": _write_npy,
    "mat": _write_mat,
    "png": _write_png,
    "dng": _write_dng,
}
"""What writes a noisy image, by format; the line is the noise level of its shot, for files that can say it."""
