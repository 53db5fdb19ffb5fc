"""`noiseflow denoise apply`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from noiseflow.denoise import Denoiser, denoise_whole
from noiseflow.errors import UserError
from noiseflow.files import load_denoiser
from noiseflow.folders import claim, images_below
from noiseflow.options import DenoiseApplyOptions
from noiseflow.progress import open_progress
from noiseflow.raw.decode import read_raw
from noiseflow.shot import CFA_PATTERNS
from noiseflow.stored import WRITERS, StoredImage, read_clean, shot_of
from noiseflow.training.fit import torch_device

_NOT_NOISY = re.compile(r"_(GT|METADATA)_(RAW|SRGB)_\d+$")  # what lies beside the noisy frames of a SIDD tree


def run(network_name: str, images: Sequence[str], options: DenoiseApplyOptions) -> int:
    """Write `<stem>_denoised` for every noisy image, in its layout, clipped to what its file can hold."""
    network = load_denoiser(network_name)
    if options.cfa is not None and options.cfa not in CFA_PATTERNS:
        raise UserError(f"--cfa: expected one of {', '.join(CFA_PATTERNS)}, got {options.cfa!r}")
    if options.tile is not None and options.tile < 1:
        raise UserError(f"--tile: expected at least 1, got {options.tile}")
    found = _found(images, Path(options.out))
    camera = _camera(network, options)
    for path, _ in found:  # bad input is said before anything is made
        _tags(path, _read(path, network, camera, options).format, options)
    out = claim(options.out, overwrite=options.overwrite)
    network.to(torch_device(options.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    with open_progress() as progress:
        progress.start("denoising", len(found))
        for path, target in found:
            noisy = _read(path, network, camera, options)
            name, iso = _tags(path, noisy.format, options)
            shot = shot_of(noisy, network, camera=camera, iso=iso)
            clean = denoise_whole(network, shot.clean, shot, tile=options.tile)
            low, high = (end[..., None, None].to(clean.dtype) for end in (shot.low, shot.high))
            clean = torch.minimum(torch.maximum(clean, low), high)[0]
            kind = options.format or noisy.format
            file = out / target.with_name(f"{target.name}_denoised.{kind}")
            file.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[kind](file, clean, noisy, shot.replace(cameras=(name,)), None)
            progress.update()
    print(out)
    return 0


def _read(path: Path, network: Denoiser, camera: str, options: DenoiseApplyOptions) -> StoredImage:
    """One noisy image of the command line."""
    usual = network.card.get("cameras", {}).get(camera, {}).get("cfa")
    return read_clean(path, network, black=options.black, white=options.white, cfa=options.cfa, usual_cfa=usual)


def _found(images: Sequence[str], out: Path) -> list[tuple[Path, Path]]:
    """Every image, those in folders too but for results, with the path of its result, without folder and suffix."""
    found: list[tuple[Path, Path]] = []
    for name in images:
        path = Path(name)
        if not path.is_dir():
            found.append((path, Path(path.stem)))
            continue
        inside = images_below(path, out, "noisy", lambda item: not _NOT_NOISY.search(item.stem))
        found += [(path / item, item.with_suffix("")) for item in inside]
    targets = [target for _, target in found]
    twice = sorted({str(target) for target in targets if targets.count(target) > 1})
    if twice:
        raise UserError(f"two images are called {twice[0]!r}; their results would have one name")
    return found


def _camera(network: Denoiser, options: DenoiseApplyOptions) -> str:
    """The camera whose pattern and code grid the network's card may name."""
    known = list(network.card.get("cameras", {}))
    if options.camera:
        if options.camera not in known:
            raise UserError(
                f"--camera: expected one that the network was trained with ({', '.join(known) or 'none is known'}), "
                f"got {options.camera!r}"
            )
        return options.camera
    return known[0] if len(known) == 1 else "unknown"


def _tags(path: Path, stored: str, options: DenoiseApplyOptions) -> tuple[str, float]:
    """Camera and ISO that a DNG says: from the noisy raw file, else from the command line."""
    if (options.format or stored) != "dng":
        return options.camera or "unknown", options.iso or 100.0
    camera, iso = options.camera, options.iso
    if stored == "dng":
        raw = read_raw(path, options.black, options.white, options.cfa)
        camera, iso = camera or raw.camera or "", iso or raw.iso
    if iso is None:
        raise UserError(f"{path}: the file does not say its ISO, which a DNG needs; pass --iso")
    return camera or "unknown", iso
