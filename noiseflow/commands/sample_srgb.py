"""`noiseflow sample` with a model of raw noise that is conditioned on clean pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noiseflow.commands import sample
from noiseflow.errors import UserError
from noiseflow.files import file_hash, write_atomically, write_whole
from noiseflow.folders import claim
from noiseflow.models import FittedModel, quantise
from noiseflow.options import SampleOptions
from noiseflow.progress import open_progress
from noiseflow.randomness import combine, seed_of
from noiseflow.raw.cfa import unpack
from noiseflow.raw.decode import read_image
from noiseflow.raw.matfile import write_frame
from noiseflow.shot import Shot
from noiseflow.training.fit import torch_device


def run(model: FittedModel, file: Path, images: list[str], options: SampleOptions) -> int:
    """Write the raw noise of every picture, and the noisy raw frame where the clean one is given with `--raw`.

    `<stem>_noise_<k>` holds the noise alone, an `(H, W)` mosaic in linear units, neither rounded nor clipped;
    `<stem>_noisy_<k>` the noisy frame in the clean one's layout, rounded and clipped as it is stored.
    """
    if options.format not in (None, "npy", "mat") and options.raw is None:
        raise UserError(f"--format: noise alone is written as npy or mat, got {options.format}; --raw gives frames")
    if options.raw is not None and len(images) > 1:
        raise UserError(f"--raw: expected one picture, the one of that raw frame, got {len(images)}")
    cfa = options.cfa or model.card.get("cameras", {}).get(options.camera, {}).get("cfa")
    if cfa is None:
        raise UserError("the model does not say the sensor's colour filter pattern; pass --cfa")
    clean = None if options.raw is None else sample.read_clean(Path(options.raw), model, options)
    if clean is not None and clean.cfa is not None:
        cfa = clean.cfa
    first = _read(Path(images[0]))  # bad input is said before anything is made
    if clean is not None and (first.shape[1], first.shape[2]) != tuple(2 * side for side in clean.image.shape[1:]):
        raise UserError(
            f"{options.raw}: expected the size of {images[0]}, {first.shape[1]}×{first.shape[2]}, got "
            f"{2 * clean.image.shape[1]}×{2 * clean.image.shape[2]}"
        )
    device = torch_device(options.device)
    model.to(device)
    out = claim(options.out, overwrite=options.overwrite)
    digest = file_hash(file)
    kind = options.format if options.format in ("npy", "mat") else "npy"
    with open_progress() as progress:
        progress.start("sampling", len(images) * options.count)
        for number, name in enumerate(images):
            picture, stem = first if number == 0 else _read(Path(name)), Path(name).stem
            if clean is None:
                # the model sees the picture only: the signal that the noise would be added to does not matter
                shape = (1, 4, picture.shape[1] // 2, picture.shape[2] // 2)
                shot = Shot.of(torch.zeros(shape), camera=options.camera, iso=options.iso)
            else:
                shot = sample.shot_of(clean, model, options)
            shot = shot.replace(cfa=cfa, srgb=picture[None])
            seeds, files, own = [], [], seed_of(picture.numpy().tobytes())
            for k in range(options.count):
                seeds.append(int(combine(options.seed, own, k)))
                noise = model.sample(shot.to(device), seed=seeds[-1]).cpu()
                files.append(f"{stem}_noise_{k}.{kind}")
                _write(out / files[-1], unpack(noise[0], cfa).numpy())
                if clean is not None:
                    suffix = options.format or clean.format
                    noisy = quantise(shot.clean.double() + noise.double(), shot)[0]
                    files.append(f"{stem}_noisy_{k}.{suffix}")
                    sample.WRITERS[suffix](
                        out / files[-1], noisy, clean, shot, sample.Tags(options.camera, options.iso)
                    )
                progress.update(1)
            record = {
                "clean": Path(name).name,
                "raw": None if options.raw is None else Path(options.raw).name,
                "files": files,
                "seed": options.seed,
                "noise_seeds": seeds,
                "model": model.architecture[0],
                "model_hash": digest,
                "condition": "srgb",
                "camera": options.camera,
                "iso": options.iso,
                "cfa": cfa,
            }
            if clean is not None:
                record |= {name: getattr(shot, name)[0].tolist() for name in ("lsb", "low", "high")}
            write_atomically(out / f"{stem}_noisy.json", json.dumps(record, indent=2, sort_keys=True).encode())
    print(out)
    return 0


def _read(path: Path) -> Tensor:
    """A clean picture, `(3, H, W)` float32, values k/255."""
    stored = read_image(path)
    if stored.ndim != 3 or stored.dtype != np.uint8 or stored.shape[0] % 2 or stored.shape[1] % 2:
        raise UserError(
            f"{path}: expected an 8-bit sRGB picture (H, W, 3) with even sides, as the model is conditioned on "
            f"pictures, got {stored.dtype} {tuple(stored.shape)}"
        )
    return torch.from_numpy(stored).permute(2, 0, 1).float() / 255


def _write(path: Path, noise: np.ndarray) -> None:
    if path.suffix == ".mat":
        write_whole(path, lambda temporary: write_frame(temporary, noise))
        return
    buffer = io.BytesIO()
    np.save(buffer, noise)
    write_atomically(path, buffer.getvalue())
