"""`noiseflow info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from noiseflow.errors import UserError


def run(target: str) -> int:
    """Describe a model file, a run folder, a noise profile, a data set or an image."""
    from rich.console import Console

    from noiseflow.calibration.physics import BUILT_IN

    path = BUILT_IN.get(target, Path(target))
    if not path.exists():
        raise UserError(f"{target}: no such file or folder")
    if path.suffix.lower() == ".json":
        facts = _profile(path)
    elif path.suffix == ".safetensors" or (path / "model.safetensors").is_file():
        facts = _model(path)
    elif (path / "denoiser.safetensors").is_file():
        path /= "denoiser.safetensors"
        facts = _model(path)
    elif path.is_dir():
        facts = _dataset(path)
    else:
        facts = _image(path)
    console = Console()
    for name, value in facts.items():
        console.print(f"{name}: {value}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _model(path: Path) -> dict[str, Any]:
    from noiseflow.denoise import NETWORKS
    from noiseflow.files import file_hash, load, load_denoiser, model_path, read_header
    from noiseflow.models import Flow, Physics, ReleasedFlow

    file = model_path(path)
    header = read_header(file)
    if header["architecture"] in NETWORKS:
        network = load_denoiser(file)
        facts = {"denoiser": header["architecture"], "parameters": network.parameter_count()}
    else:
        model = load(file)
        known: dict[str, list[str]] = {}
        for camera, iso in model.conditions.pairs:
            known.setdefault(camera, []).append(f"{iso:g}")
        facts = {
            "model": header["architecture"],
            "parameters": model.parameter_count(),
            "noise domain": header["noise_domain"],
            "conditioned on": "clean sRGB pictures" if model.condition == "srgb" else "clean images",
            "knows": "; ".join(f"{camera} at ISO {', '.join(isos)}" for camera, isos in known.items()),
        }
        if isinstance(model, Physics):
            facts["noise"] = "; ".join(
                f"{camera} ISO {iso:g}: {electronics}"
                for (camera, iso), electronics in zip(model.conditions.pairs, model.table, strict=True)
            )
        if isinstance(model, Flow | ReleasedFlow):
            facts["layers"] = f"{model.transform!r}"
    layers = facts.pop("layers", None)
    card = header["card"]
    facts |= {"file": file, "sha256": file_hash(file), "format": header["format"], "packing": header["packing"]}
    facts |= {
        f"training {key}": json.dumps(card[key], sort_keys=True)
        for key in ("data", "protocol", "scores")
        if key in card
    }
    facts |= {f"imported {key}": value for key, value in card.get("imported", {}).items()}
    return facts if layers is None else facts | {"layers": layers}


def _profile(path: Path) -> dict[str, Any]:
    from noiseflow.calibration.profile import read_profile

    profile = read_profile(path)
    facts: dict[str, Any] = {
        "noise profile": path,
        "camera": profile.camera,
        "pattern": profile.cfa or "none",
        "bits": profile.bits or "not known",
    }
    for iso, one in sorted(profile.isos.items()):
        known = [f"{key} {_in_words(value)}" for key, value in vars(one).items() if value not in (None, ())]
        facts[f"ISO {iso:g}"] = "; ".join(known) or "nothing known"
    facts |= {f"warning {n}": warning for n, warning in enumerate(profile.warnings, 1)}
    return facts | {"source": profile.source or "not said"}


def _in_words(value: Any) -> str:
    """A figure of a profile: a number, an estimate with its interval, or several."""
    if isinstance(value, tuple):
        return ", ".join("not known" if one is None else _in_words(one) for one in value)
    if isinstance(value, float):
        return f"{value:.5g}"
    interval = f" ({value.low:.5g} to {value.high:.5g})" if value.low < value.high else ""
    return f"{value.value:.5g}{interval}"


def _dataset(path: Path) -> dict[str, Any]:
    from noiseflow.datasets import BurstDataset, NoiseDataset, burst_folders, open_bursts, open_dataset

    bursts = (path / burst_folders.FILE_NAME).is_file()
    dataset: BurstDataset | NoiseDataset = open_bursts(path) if bursts else open_dataset(path)
    splits = list(dataset.split_of.values())
    return {
        "data set": path,
        "domain": dataset.domain,
        "ground truth": "none" if isinstance(dataset, BurstDataset) else dataset.truth,
        "bursts" if bursts else "images": len(dataset.frames),
        "scenes": len({frame.scene for frame in dataset.frames}),
        "cameras and ISOs": "; ".join(f"{camera} ISO {iso:g}" for camera, iso in dataset.conditions),
        "frame sizes": ", ".join(sorted({f"{h}×{w}" for h, w in (frame.size for frame in dataset.frames)})),
        "split": f"{splits.count('train')} train, {splits.count('test')} test; {dataset.split_protocol}",
    }


def _image(path: Path) -> dict[str, Any]:
    from noiseflow.calibration.exchange import read_noise_profile
    from noiseflow.raw.decode import IMAGE_SUFFIXES, read_image, read_raw

    if path.suffix.lower() in IMAGE_SUFFIXES:
        image = read_image(path)
        return {
            "image": path,
            "shape": "×".join(map(str, image.shape)),
            "type": image.dtype,
            "range": f"{image.min()} to {image.max()}",
        }
    raw = read_raw(path)
    lines = read_noise_profile(path) if path.suffix.lower() == ".dng" else None
    noise = (
        "not said" if lines is None else "; ".join(f"variance = {a:.4g}·x + {b:.4g}" for a, b in dict.fromkeys(lines))
    )
    return {
        "raw file": path,
        "camera": raw.camera or "not said",
        "ISO": raw.iso or "not said",
        "pattern": raw.cfa,
        "black": ", ".join(f"{level:g}" for level in raw.levels[0].tolist()),
        "white": raw.white,
        "shape": "×".join(map(str, raw.codes.shape)),
        "noise profile": noise,
    }
