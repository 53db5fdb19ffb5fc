"""How close a denoised image is to the clean one: PSNR and SSIM by one policy, so that figures can be compared.

Both images are clipped to [0, 1] first, in linear units: packed planes for raw, k/255 for sRGB. Each figure is taken
per image over all its channels and pixels, and averaged over images.

- PSNR = −10 log₁₀ mean (x − y)², dB; at most 100, which is what equal images get.
- SSIM (Wang, Bovik, Sheikh and Simoncelli 2004): Gaussian window of σ = 1.5 and 11×11 pixels, data range 1, K = 0.01
  and 0.03, every channel by itself, over the pixels whose window lies inside the image.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.datasets import FramePair, collate
from noiseflow.denoise.apply import denoise_whole
from noiseflow.denoise.networks import Denoiser
from noiseflow.errors import UserError
from noiseflow.progress import SILENT, Progress

log = logging.getLogger(__name__)

POLICY = {
    "range": "both images clipped to [0, 1]; linear units on packed planes (raw) or values/255 (sRGB)",
    "psnr": "10 log10(1/MSE) over all channels and pixels of an image, dB, at most 100",
    "ssim": "Gaussian window of sigma 1.5, 11x11, data range 1, mean over channels and windows inside the image",
    "average": "over images",
}
"""How PSNR and SSIM are taken; written beside them wherever they go."""

WINDOW = 11
"""Side of the window of SSIM: images must not be smaller."""

LARGEST_PSNR = 100.0
"""PSNR of equal images, dB: a mean over images with a saturated one among them stays a number."""

_ROWS = 512  # rows of windows at a time, so that memory does not grow with the image


@dataclass(frozen=True)
class ImageScore:
    """Scores of one image.

    Attributes:
        name: name of the frame.
        scene: its scene.
        camera: its camera.
        iso: its ISO speed.
        psnr: of the denoised image, dB.
        ssim: of the denoised image.
        noisy_psnr: of the noisy image, dB.
        noisy_ssim: of the noisy image.
    """

    name: str
    scene: str
    camera: str
    iso: float
    psnr: float
    ssim: float
    noisy_psnr: float
    noisy_ssim: float


def psnr(found: Float[Tensor, "c h w"], clean: Float[Tensor, "c h w"]) -> float:
    """Peak signal-to-noise ratio of one image, dB; 100 at most, where both are the same after clipping.

    Args:
        found: the image to score, linear units.
        clean: the image that it should be.

    Examples:
        >>> round(psnr(torch.full((1, 8, 8), 0.6), torch.full((1, 8, 8), 0.5)), 4)
        20.0
    """
    error = float((found.double().clamp(0, 1) - clean.double().clamp(0, 1)).square().mean())
    return LARGEST_PSNR if error == 0 else min(LARGEST_PSNR, -10 * math.log10(error))


def ssim(found: Float[Tensor, "c h w"], clean: Float[Tensor, "c h w"]) -> float:
    """Structural similarity of one image, at most 1.

    Args:
        found: the image to score, linear units, 11 rows and columns or more.
        clean: the image that it should be.

    Raises:
        ValueError: the image is smaller than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    height, width = clean.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"ssim: expected images of {WINDOW}×{WINDOW} or more, got {height}×{width}")
    total, border, windows = 0.0, WINDOW // 2, height - WINDOW + 1
    for top in range(0, windows, _ROWS):
        rows = slice(top, min(top + _ROWS, windows) + WINDOW - 1)
        first, second = (image[None, :, rows].double().clamp(0, 1) for image in (found, clean))
        both = structural_similarity_index_measure(
            first, second, sigma=1.5, kernel_size=WINDOW, data_range=1.0, return_full_image=True
        )
        # The whole map: which part of it the mean is taken over differs between versions of torchmetrics.
        total += float(both[1][..., border:-border, border:-border].sum())
    return total / (clean.shape[0] * windows * (width - WINDOW + 1))


@torch.no_grad()
def score_frames(network: Denoiser, frames: Sequence[FramePair], *, progress: Progress = SILENT) -> list[ImageScore]:
    """Denoise whole frames and score each of them; frames with NaN are left out, with a line in the log.

    Args:
        network: the denoiser; taken in inference mode.
        frames: what to score.
        progress: shows the frames done.

    Raises:
        UserError: no frame could be scored, or as `FramePair.read`.
    """
    training = network.training
    network.eval()
    scores = []
    progress.start("scoring", len(frames))
    for frame in frames:
        pair = frame.read()
        progress.update()
        if not pair.is_finite:
            log.warning("%s: left out of the scores: it holds NaN or infinite values", frame.name)
            continue
        noisy, shot = collate([pair])
        found = denoise_whole(network, noisy, shot)[0]
        clean = shot.clean[0]
        figures = [metric(image, clean) for image in (found, noisy[0]) for metric in (psnr, ssim)]
        scores.append(ImageScore(frame.name, frame.scene, frame.camera, float(frame.iso), *figures))
    network.train(training)
    if not scores:
        raise UserError("expected an image without NaN to score, found none")
    return scores


def summary(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Means over all images, and over those of each camera and ISO, as plain JSON values."""
    by_shot: dict[tuple[str, float], list[ImageScore]] = {}
    for score in scores:
        by_shot.setdefault((score.camera, score.iso), []).append(score)
    return {
        **_means(scores),
        "images": len(scores),
        "scenes": len({score.scene for score in scores}),
        "by_shot": [
            {"camera": camera, "iso": iso, "images": len(by_shot[camera, iso]), **_means(by_shot[camera, iso])}
            for camera, iso in sorted(by_shot)
        ],
    }


def as_rows(scores: Sequence[ImageScore]) -> list[dict[str, Any]]:
    """The scores as plain JSON values."""
    return [asdict(score) for score in scores]


def _means(scores: Sequence[ImageScore]) -> dict[str, float]:
    return {
        name: fmean(getattr(score, name) for score in scores) for name in ("psnr", "ssim", "noisy_psnr", "noisy_ssim")
    }
