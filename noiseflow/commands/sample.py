"""`noiseflow sample`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from noiseflow.calibration.lines import line_of
from noiseflow.conditions import UnknownConditionError
from noiseflow.denoise import Denoiser
from noiseflow.errors import UserError
from noiseflow.files import file_hash, load, model_path, write_atomically, write_whole
from noiseflow.folders import claim
from noiseflow.models import FittedModel, synthesize
from noiseflow.options import SampleOptions
from noiseflow.progress import open_progress
from noiseflow.randomness import combine, seed_of
from noiseflow.raw.cfa import pack, unpack
from noiseflow.raw.decode import IMAGE_SUFFIXES, read_image, read_raw
from noiseflow.shot import CFA_PATTERNS, Shot
from noiseflow.training.fit import torch_device


@dataclass(frozen=True)
class _Clean:
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


class Tags(NamedTuple):
    """What a file can say of the noisy image beside its pixels.

    Attributes:
        camera: name of the camera.
        iso: ISO speed.
        noise_profile: slope and intercept of the variance, linear units; None: not said.
    """

    camera: str
    iso: float
    noise_profile: tuple[float, float] | None = None


def run(model_name: str, images: list[str], options: SampleOptions) -> int:
    """Write `<stem>_noisy_<k>` for every clean image, and `<stem>_noisy.json` with what it was made with."""
    file = model_path(model_name)
    model = load(file, black=options.black, white=options.white)
    options = replace(options, camera=_camera(model, options))
    model.conditions.allow_unseen = options.allow_unseen
    if options.count < 1:
        raise UserError(f"--count: expected at least 1, got {options.count}")
    if options.cfa is not None and options.cfa not in CFA_PATTERNS:
        raise UserError(f"--cfa: expected one of {', '.join(CFA_PATTERNS)}, got {options.cfa!r}")
    if not options.iso > 0:
        raise UserError(f"--iso: expected a positive number, got {options.iso:g}")
    try:
        model.conditions.locate(Shot.of(torch.zeros(1, 1, 1, 1), camera=options.camera, iso=options.iso))
    except UnknownConditionError as error:
        raise UserError(str(error)) from error
    if options.raw is not None and model.condition != "srgb":
        raise UserError("--raw: expected a model that is conditioned on pictures; this one takes the raw frame itself")
    stems = [Path(image).stem for image in images]
    twice = {stem for stem in stems if stems.count(stem) > 1}
    if twice:
        raise UserError(f"two clean images are called {sorted(twice)[0]!r}; their results would have one name")
    if model.condition == "srgb":
        from noiseflow.commands import sample_srgb

        return sample_srgb.run(model, file, images, options)
    for image in images[:0:-1]:  # bad input is said before anything is made
        read_clean(Path(image), model, options)
    first = read_clean(Path(images[0]), model, options)
    line = line_of(model, options.camera, options.iso) if model.channels != 3 else None
    tags = Tags(options.camera, options.iso, line)
    device = torch_device(options.device)
    model.to(device)
    digest = file_hash(file)
    out = claim(options.out, overwrite=options.overwrite)
    with open_progress() as progress:
        progress.start("sampling", len(images) * options.count)
        for number, (image, stem) in enumerate(zip(images, stems, strict=True)):
            clean = first if number == 0 else read_clean(Path(image), model, options)
            shot = shot_of(clean, model, options)
            kind = options.format or clean.format
            seeds, names = [], []
            # The seed of an image depends on its content, not on the other images of the command.
            own = seed_of(clean.image.numpy().tobytes())
            for k in range(options.count):
                seeds.append(int(combine(options.seed, own, k)))
                noisy = synthesize(model, shot.to(device), seed=seeds[-1])[0].cpu()
                names.append(f"{stem}_noisy_{k}.{kind}")
                WRITERS[kind](out / names[-1], noisy, clean, shot, tags)
                progress.update(1)
            record = {
                "clean": Path(image).name,
                "files": names,
                "seed": options.seed,
                "noise_seeds": seeds,
                "model": model.architecture[0],
                "model_hash": digest,
                "camera": options.camera,
                "iso": options.iso,
                "cfa": clean.cfa,
                "lsb": shot.lsb[0].tolist(),
                "low": shot.low[0].tolist(),
                "high": shot.high[0].tolist(),
            }
            write_atomically(out / f"{stem}_noisy.json", json.dumps(record, indent=2, sort_keys=True).encode())
    print(out)
    return 0


def _camera(model: FittedModel, options: SampleOptions) -> str:
    """The camera that is meant: the one named, or the only one that the model knows."""
    if options.camera:
        return options.camera
    if len(model.cameras) != 1:
        raise UserError(f"--camera: expected one of those that the model knows: {', '.join(model.cameras)}; got none")
    return model.cameras[0]


def read_clean(path: Path, model: FittedModel | Denoiser, options: SampleOptions) -> _Clean:
    """Read one clean image and bring it to linear units and the model's channels."""
    card = model.card.get("cameras", {}).get(options.camera, {})
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        raw = read_raw(path, options.black, options.white, options.cfa)
        levels, white = raw.levels
        # Codes are whole numbers, so they are counted from a whole one; else rounding would shift all of them.
        raw = replace(raw, black=levels.round())
        zero = levels.round()
        return _Clean(
            _packed(path, raw.mosaic, str(raw.cfa), model), raw.cfa, np.dtype(np.uint16), zero, white - zero,
            raw.lsb, 0.0 - zero * raw.lsb, 1.0, "dng", levels.tolist(),
        )  # fmt: skip
    stored = read_image(path)
    integers = stored.dtype.kind in "ui"
    lsb: Tensor | None = None
    low: Tensor | None = None
    high: float | None = None
    codes: Tensor | None = None
    black = torch.tensor([options.black or 0.0], dtype=torch.float64)
    values = torch.from_numpy(stored.astype(np.float64))
    if integers or options.white is not None:
        level = options.white if options.white is not None else 255.0 if stored.dtype == np.uint8 else None
        if level is None:
            raise UserError(f"{path}: {stored.dtype} values need their levels; pass --white (and --black)")
        if not level > float(black):
            raise UserError(f"--white: expected more than the black level {float(black):g}, got {level:g}")
        codes = level - black
        values = (values - black) / codes
        lsb, low, high = 1 / codes, 0.0 - black / codes, 1.0
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{path}: the image holds NaN or infinite values")
    image, cfa = values.float(), None
    if image.ndim == 2 and model.channels == 4:
        cfa = options.cfa or card.get("cfa")
        if cfa is None:
            raise UserError(f"{path}: the file does not say the mosaic's colour filter pattern; pass --cfa")
        image = _packed(path, image, cfa, model)
    elif image.ndim == 3 and model.channels == 3:
        image = image.permute(2, 0, 1)
    elif image.ndim == 2 and model.channels == 1:
        image = image[None]
    else:
        wanted = {3: "an (H, W, 3) picture", 1: "an (H, W) image"}.get(model.channels, "an (H, W) mosaic")
        raise UserError(f"{path}: expected {wanted} for a {model.packing} model, got shape {tuple(image.shape)}")
    kind = {".tif": "png", ".tiff": "png"}.get(path.suffix.lower(), path.suffix.lower()[1:])
    return _Clean(image, cfa, stored.dtype, black, codes, lsb, low, high, kind)


def _packed(path: Path, mosaic: Tensor, cfa: str, model: FittedModel | Denoiser) -> Tensor:
    if model.channels != 4:
        raise UserError(f"{path}: expected a picture for a {model.packing} model, got a mosaic")
    if mosaic.shape[0] % 2 or mosaic.shape[1] % 2:
        raise UserError(f"{path}: expected a mosaic with even sides, got {mosaic.shape[0]}×{mosaic.shape[1]}")
    return pack(mosaic, cfa)


def shot_of(clean: _Clean, model: FittedModel | Denoiser, options: SampleOptions) -> Shot:
    """The shot, its code grid from the command line, else the file, else the model's card."""
    card = model.card.get("cameras", {}).get(options.camera, {})
    grid = {}
    for name, fallback in (("lsb", 0.0), ("low", 0.0), ("high", 1.0)):
        given, stored = getattr(options, name), getattr(clean, name)
        value = given if given is not None else stored if stored is not None else card.get(name, fallback)
        grid[name] = torch.as_tensor(value, dtype=torch.float32).expand(clean.image.shape[0])[None]
    try:
        return Shot.of(clean.image[None], camera=options.camera, iso=options.iso, cfa=clean.cfa, **grid)
    except ValueError as error:
        raise UserError(str(error)) from error


def _layout(noisy: Tensor, clean: _Clean) -> np.ndarray:
    """`(C, H, W)` back to the layout of the file: mosaic, picture or plane."""
    if clean.cfa is not None:
        return unpack(noisy, clean.cfa).numpy()
    return noisy.permute(1, 2, 0).numpy() if noisy.shape[0] == 3 else noisy[0].numpy()


def _in_codes(noisy: Tensor, clean: _Clean, codes: Tensor) -> np.ndarray:
    """What would be stored, not rounded, float64, in the layout of the file."""
    values = noisy.double() * codes[:, None, None] + clean.black[:, None, None]
    return _layout(values, clean)


def _codes(noisy: Tensor, clean: _Clean, shot: Shot) -> tuple[np.ndarray, int]:
    """Stored codes, and the code of 1.0: the file's own grid, else that of lsb, else 16 bits."""
    lsb = float(shot.lsb.max())
    codes = clean.codes
    if codes is None:
        codes = torch.tensor([1 / lsb if lsb > 0 else 65535.0], dtype=torch.float64)
    return np.clip(np.rint(_in_codes(noisy, clean, codes)), 0, 65535), round(float((codes + clean.black).max()))


def _write_npy(path: Path, noisy: Tensor, clean: _Clean, shot: Shot, tags: Tags) -> None:
    if clean.codes is None:
        values = _layout(noisy, clean).astype(clean.dtype if clean.dtype.kind == "f" else np.float32)
    else:
        values = _in_codes(noisy, clean, clean.codes)
        values = (np.rint(values) if clean.dtype.kind in "ui" else values).astype(clean.dtype)
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_atomically(path, buffer.getvalue())


def _write_mat(path: Path, noisy: Tensor, clean: _Clean, shot: Shot, tags: Tags) -> None:
    from noiseflow.raw.matfile import write_frame

    values = _layout(noisy, clean)
    if values.ndim != 2:
        raise UserError("--format mat: expected a mosaic, got a picture; use npy or png")
    write_whole(path, lambda temporary: write_frame(temporary, values))


def _write_png(path: Path, noisy: Tensor, clean: _Clean, shot: Shot, tags: Tags) -> None:
    import cv2

    values, white = _codes(noisy, clean, shot)
    pixels = values.astype(np.uint8 if white <= 255 else np.uint16)
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]  # OpenCV writes B G R
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise UserError(f"{path}: could not encode the picture as PNG")
    write_atomically(path, encoded.tobytes())


def _write_dng(path: Path, noisy: Tensor, clean: _Clean, shot: Shot, tags: Tags) -> None:
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
            iso=tags.iso,
            camera=tags.camera,
            noise_profile=tags.noise_profile,
        ),
    )


WRITERS: dict[str, Callable[[Path, Tensor, _Clean, Shot, Tags], None]] = {
    "npy": _write_npy,
    "mat": _write_mat,
    "png": _write_png,
    "dng": _write_dng,
}
"""What writes a noisy image, by format."""
