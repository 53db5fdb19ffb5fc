"""`denoise compare`: the same denoiser trained on several sources of noise, in a folder of run folders."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from noiseflow.datasets import FramePair, NoiseDataset, hold_out
from noiseflow.denoise.comparison import INTERVAL, caption, compare_scores, markdown, reference_of
from noiseflow.denoise.pictures import picture_strip
from noiseflow.errors import UserError
from noiseflow.files import load_denoiser, save, write_atomically
from noiseflow.folders import claim
from noiseflow.models import BASELINES
from noiseflow.options import DenoiseCompareOptions, DenoiseFitOptions, DenoiserOptions, as_dict, listed
from noiseflow.progress import SILENT, Progress
from noiseflow.training.card import card_of
from noiseflow.training.fit import calibration_patches, fit_baseline
from noiseflow.training.fit_denoiser import (
    SCORES,
    SOURCES,
    build_network,
    check_noise,
    fit_denoiser,
    open_images,
    open_noise,
    resume_denoiser,
    scored_frames,
)

log = logging.getLogger(__name__)

CONFIG = "compare.yaml"
"""Name of the file that says what a comparison is of."""

_MAY_CHANGE = ("data", "noise", "seeds", "out", "workers", "device", "overwrite")


def compare_denoisers(options: DenoiseCompareOptions, progress: Progress = SILENT) -> dict[str, Any] | None:
    """Train and score a denoiser for every source and seed, as far as that is not done, and write what comes out.

    The folder holds compare.yaml, `runs/<source>/<seed>`, the baselines that were fitted in `noise/`, results.json,
    table.md and strip.png. The same call goes on where an earlier one was stopped; sources and seeds may be added.

    Args:
        options: the sources, the denoiser, the images, and where to.
        progress: what shows how far each run has come.

    Returns:
        The content of results.json; None if Ctrl-C ended it early.

    Raises:
        UserError: bad input, said in a sentence.
    """
    names = listed(options.noise) or []
    if not names or options.seeds < 1:
        raise UserError("--noise, --seeds: expected at least one source of noise and one seed")
    sources = dict(zip(_labels(names), names, strict=True))
    noises = {label: open_noise(options, name) for label, name in sources.items()}
    dataset = open_images(options, next(iter(noises.values())))
    for noise in noises.values():
        check_noise(noise, dataset)
        if noise.model is not None and noise.model.condition == "srgb":
            raise UserError(f"--noise: {noise.name} is conditioned on pictures; only denoise fit takes such a model")
    options = replace(options, domain=dataset.domain)  # type: ignore[arg-type]
    build_network(options, dataset.frames[0].channels)
    train, validation = hold_out(dataset.frames, 0.1, 0)
    frames, split = scored_frames(options, dataset, validation)
    if not frames:
        raise UserError(f"{options.data}: expected scenes that can be held out from training, found none")
    out = _begin(options, dataset)
    paths = _fit_baselines(sources, options, dataset, train, validation, out / "noise", progress)
    seeds = [options.seed + k for k in range(options.seeds)]
    total, number = len(seeds) * len(paths), 0
    for seed in seeds:
        for label, path in paths.items():
            number += 1
            folder = out / "runs" / label / str(seed)
            digest = open_noise(options, path).digest
            if (folder / SCORES).is_file():
                if json.loads((folder / "environment.json").read_text())["noise_hash"] != digest:
                    raise UserError(f"{folder}: trained on another {label}; choose another --out or pass --overwrite")
                continue
            log.info("%s, seed %d (%d of %d)", label, seed, number, total)
            if not _run(folder, path, seed, options, progress):
                return None
    results = _results(list(paths), seeds, out, options, dataset, split)
    write_atomically(out / "results.json", json.dumps(results, indent=2).encode() + b"\n")
    table = ["# Denoisers by the noise that they were trained on", "", caption(results) + ".", ""]
    write_atomically(out / "table.md", "\n".join([*table, *markdown(results["sources"])]).encode() + b"\n")
    networks = {label: load_denoiser(out / "runs" / label / str(seeds[0])) for label in paths}
    write_atomically(out / "strip.png", picture_strip(networks, frames))
    return results


def _labels(names: Sequence[str]) -> list[str]:
    """A short and unique name of each source, that a folder can have."""
    labels: list[str] = []
    for name in names:
        path = Path(name)
        label = name if name in SOURCES else path.stem if path.suffix in (".safetensors", ".json") else path.name
        if label == "model" and path.resolve().parent.name:
            label = path.resolve().parent.name
        unique, n = label, 2
        while unique in labels or (unique in SOURCES and name not in SOURCES):
            unique, n = f"{label} ({n})", n + 1
        labels.append(unique)
    return labels


def _begin(options: DenoiseCompareOptions, dataset: NoiseDataset) -> Path:
    """The folder: a new one, or one that an earlier call with the same options began."""
    out = Path(options.out)
    config = {name: value for name, value in as_dict(options).items() if name not in _MAY_CHANGE}
    config["data_hash"] = dataset.root_hash()
    if (out / CONFIG).is_file():
        try:
            begun = yaml.safe_load((out / CONFIG).read_text())
            different = sorted(name for name in config if begun.get(name) != config[name])
        except (yaml.YAMLError, AttributeError) as error:
            raise UserError(f"{out / CONFIG}: damaged ({error})") from error
        if not options.overwrite:
            if not different:
                return out
            what = "the data have" if different[0] == "data_hash" else f"--{different[0].replace('_', '-')} has"
            raise UserError(f"{out}: {what} changed since the comparison began; choose another --out or --overwrite")
    claim(out, overwrite=options.overwrite)
    for folder in ("runs", "noise"):
        shutil.rmtree(out / folder, ignore_errors=True)
    write_atomically(out / CONFIG, yaml.safe_dump(config, sort_keys=True).encode())
    return out


def _fit_baselines(
    sources: dict[str, str],
    options: DenoiseCompareOptions,
    dataset: NoiseDataset,
    train: Sequence[FramePair],
    validation: Sequence[FramePair],
    folder: Path,
    progress: Progress,
) -> dict[str, str]:
    """What `denoise fit` is given for every source: baselines are fitted once, for all seeds."""
    paths = dict(sources)
    wanted = [name for name in sources if name in BASELINES]
    missing = [name for name in wanted if not (folder / f"{name}.safetensors").is_file()]
    if missing:
        folder.mkdir(exist_ok=True)
        progress.start("fitting the baselines", len(missing))
        patches = calibration_patches(train, options.seed)
        for name in missing:
            model = fit_baseline(name, *patches)
            model.card = card_of(options, dataset, train, validation, {})
            save(model, folder / f"{name}.safetensors")
            progress.update()
    return paths | {name: str(folder / f"{name}.safetensors") for name in wanted}


def _run(folder: Path, noise: str, seed: int, options: DenoiseCompareOptions, progress: Progress) -> bool:
    """One source and one seed, from the start or from where it was stopped."""
    if (folder / "config.yaml").is_file() and (folder / "environment.json").is_file():
        moved = {"data": options.data, "noise": noise, "workers": options.workers, "device": options.device}
        return resume_denoiser(folder, moved, progress)
    common = {field.name: getattr(options, field.name) for field in fields(DenoiserOptions)}
    return fit_denoiser(
        DenoiseFitOptions(**(common | {"noise": noise, "seed": seed, "out": str(folder), "overwrite": True})), progress
    )


def _results(
    labels: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    options: DenoiseCompareOptions,
    dataset: NoiseDataset,
    split: str,
) -> dict[str, Any]:
    """The content of results.json."""
    scores: dict[str, list[dict[str, Any]]] = {}
    for label in labels:
        scores[label] = []
        for seed in seeds:
            folder = out / "runs" / label / str(seed)
            environment = json.loads((folder / "environment.json").read_text())
            timing = {key: environment.get(key) for key in ("drawing_share", "step_ms")}
            scores[label].append(json.loads((folder / SCORES).read_text()) | timing)
    one = scores[labels[0]][0]
    sources = compare_scores(scores)
    for entry in sources:
        by_seed = scores[entry["name"]]
        entry["by_shot"] = [
            {
                "camera": shot["camera"],
                "iso": shot["iso"],
                "images": shot["images"],
                "psnr": sum(seed["by_shot"][k]["psnr"] for seed in by_seed) / len(by_seed),
                "ssim": sum(seed["by_shot"][k]["ssim"] for seed in by_seed) / len(by_seed),
                "noisy_psnr": shot["noisy_psnr"],
                "noisy_ssim": shot["noisy_ssim"],
            }
            for k, shot in enumerate(one["by_shot"])
        ]
    protocol = ("network", "width", "depth", "steps", "batch", "patch", "learning_rate", "split")
    return {
        "format": 1,
        "data": {
            "root_hash": dataset.root_hash(),
            "truth": dataset.truth,
            "domain": dataset.domain,
            "split": split,
            "split_protocol": dataset.split_protocol,
            **{key: one[key] for key in ("images", "scenes", "noisy_psnr", "noisy_ssim")},
        },
        "protocol": {name: getattr(options, name) for name in protocol}
        | {"seeds": list(seeds), "interval": INTERVAL, "policy": one["policy"]},
        "reference": reference_of(labels),
        "sources": sources,
    }
