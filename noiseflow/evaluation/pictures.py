"""Pictures for the report: a corner of a few images, clean, real noisy and as every entry makes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from noiseflow.datasets import FramePair
from noiseflow.report import Strip
from noiseflow.shot import Shot

_STRIPS = 3
_SIDE = 96


def for_pictures(frames: Sequence[FramePair]) -> set[int]:
    """Which frames are shown: one of each of a few (camera, ISO) pairs, of different scenes where there are several."""
    by_pair: dict[tuple[str, float], list[int]] = defaultdict(list)
    for i, frame in enumerate(frames):
        by_pair[frame.camera, frame.iso].append(i)
    keys = sorted(by_pair)
    shown = min(_STRIPS, len(keys))
    picked = [keys[round(k * (len(keys) - 1) / max(shown - 1, 1))] for k in range(shown)]
    return {by_pair[key][k % len(by_pair[key])] for k, key in enumerate(picked)}


def strip(frame: FramePair, noisy: dict[str, Tensor], shot: Shot) -> Strip:
    """The corner of one tile, and the noise of one channel.

    Args:
        frame: the frame.
        noisy: `(1, C, H, W)` by name, "real" first.
        shot: the tile's clean image, one row.
    """
    side = (slice(0, _SIDE), slice(0, _SIDE))
    exposure = 0.9 / max(float(torch.quantile(shot.clean[..., :_SIDE, :_SIDE].flatten(), 0.99)), 1e-3)
    channel = 1 if frame.channels > 1 else 0
    return Strip(
        title=f"{frame.camera}, ISO {frame.iso:g} — {frame.name}",
        clean=display(shot.clean, exposure)[side],
        noisy={name: display(image, exposure)[side] for name, image in noisy.items()},
        noise={name: (image - shot.clean)[0, channel].cpu().numpy()[side] for name, image in noisy.items()},
    )


def display(image: Tensor, exposure: float) -> np.ndarray:
    """The first image of a batch as display RGB: raw is exposed and given a gamma of 2.2, sRGB is shown as it is."""
    x = image[0].double().cpu()
    if x.shape[0] == 4:
        x = torch.stack((x[0], 0.5 * (x[1] + x[2]), x[3]))
    elif x.shape[0] == 1:
        x = x.expand(3, -1, -1)
    if image.shape[1] != 3:
        x = (x * exposure).clamp(0, 1) ** (1 / 2.2)
    return x.clamp(0, 1).permute(1, 2, 0).numpy()
