"""A picture of what denoisers make of the same noisy images, side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import torch

from noiseflow.datasets import FramePair, collate
from noiseflow.denoise.apply import denoise_whole
from noiseflow.denoise.networks import Denoiser
from noiseflow.denoise.score import psnr
from noiseflow.evaluation.pictures import display, for_pictures

_SIDE = 96
_INCHES = 1.9


def picture_strip(networks: Mapping[str, Denoiser], frames: Sequence[FramePair]) -> bytes:
    """A PNG: a row for each of a few frames, their middle clean, noisy, and as each network leaves it.

    All pictures of a row are shown at the exposure that suits the clean one; the PSNR is that of the part shown.

    Args:
        networks: the denoisers by name, in inference mode.
        frames: frames to choose from, of several cameras and ISOs where there are several.
    """
    from matplotlib.figure import Figure

    chosen = [frames[number] for number in sorted(for_pictures(frames))]
    shape = len(chosen), 2 + len(networks)
    figure = Figure(figsize=(_INCHES * shape[1], (_INCHES + 0.5) * shape[0]), dpi=150, layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    for row, frame in zip(axes, chosen, strict=True):
        height, width = (min(_SIDE, side) for side in frame.size)
        pair = frame.read((frame.size[0] - height) // 2, (frame.size[1] - width) // 2, height, width)
        noisy, shot = collate([pair])
        images = {"clean": shot.clean, "noisy": noisy}
        images |= {name: denoise_whole(network, noisy, shot) for name, network in networks.items()}
        exposure = 0.9 / max(float(torch.quantile(shot.clean.flatten(), 0.99)), 1e-3)
        for place, (name, image) in zip(row, images.items(), strict=True):
            place.imshow(display(image, exposure), interpolation="nearest")
            place.set_axis_off()
            figures = "" if name == "clean" else f"\n{psnr(image[0], shot.clean[0]):.2f} dB"
            title = f"{name}, {frame.camera} ISO {frame.iso:g}" if name == "clean" else name
            place.set_title(title + figures, fontsize=7)
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()
