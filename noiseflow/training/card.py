"""What a run says of itself: the card in its model file, and where and with what it was made."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from noiseflow.datasets import Burst, BurstDataset, FramePair, NoiseDataset
from noiseflow.options import DataOptions, DenoiserOptions, FitOptions, as_dict


def card_of(
    options: FitOptions | DenoiserOptions,
    dataset: NoiseDataset | BurstDataset,
    train: Sequence[FramePair] | Sequence[Burst],
    validation: Sequence[FramePair],
    scores: dict[str, Any],
) -> dict[str, Any]:
    """What the model file says of its training. No time, path or host: equal models are equal bytes."""
    chosen = as_dict(options)
    elsewhere = ("data", "out", "overwrite", "device", "workers", "profile")
    protocol = {k: v for k, v in chosen.items() if k not in elsewhere}
    if chosen.get("profile"):
        protocol["profile"] = Path(chosen["profile"]).name
    cameras: dict[str, Any] = {}
    for frame in train:
        cameras.setdefault(
            frame.camera,
            {"lsb": frame.lsb.tolist(), "low": frame.low.tolist(), "high": frame.high.tolist(), "cfa": frame.cfa},
        )
    return {
        "data": {
            "root_hash": dataset.root_hash(),
            "domain": dataset.domain,
            "truth": dataset.truth if isinstance(dataset, NoiseDataset) else "none",
            "clean": dataset.clean if isinstance(dataset, NoiseDataset) else "none",
            "split": options.split,
            "split_protocol": dataset.split_protocol,
            "images": len(train),
            "scenes": len({frame.scene for frame in train}),
            "validation_scenes": sorted({frame.scene for frame in validation}),
        },
        "protocol": protocol,
        "cameras": cameras,
        "scores": scores,
    }


def provenance(options: DataOptions) -> dict[str, Any]:
    """Where, when and with what the run was made: everything that must not go into the model file."""
    import noiseflow

    return {
        "noiseflow": noiseflow.__version__,
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "data": str(Path(options.data).resolve()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
