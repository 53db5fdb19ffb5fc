"""PSNR and SSIM against independent numpy versions; means per image, per camera and ISO."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from noiseflow.denoise.score import ImageScore, psnr, ssim, summary


def images(shape, seed=0):
    rng = np.random.default_rng(seed)
    clean = rng.uniform(-0.1, 1.1, shape)
    return clean + 0.1 * rng.standard_normal(shape), clean


def ssim_by_hand(x, y):
    """Wang et al. 2004, equation 13 with their constants, every channel and every window inside the image."""
    x, y = np.clip(x, 0, 1), np.clip(y, 0, 1)
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights /= weights.sum()

    def mean(image):
        for axis in (1, 2):
            image = ndimage.correlate1d(image, weights, axis=axis)
        return image[:, 5:-5, 5:-5]

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


@pytest.mark.parametrize("shape", [(4, 11, 11), (3, 40, 27), (1, 1100, 16)])  # the last one in three strips
def test_against_numpy(shape):
    found, clean = images(shape)
    error = np.mean((np.clip(found, 0, 1) - np.clip(clean, 0, 1)) ** 2)
    assert psnr(torch.from_numpy(found), torch.from_numpy(clean)) == pytest.approx(10 * np.log10(1 / error), abs=1e-10)
    assert ssim(torch.from_numpy(found), torch.from_numpy(clean)) == pytest.approx(ssim_by_hand(found, clean), abs=1e-9)


def test_what_is_clipped_away_does_not_count():
    clean = torch.tensor([0.0, 0.5, 1.0]).repeat(1, 12, 4)
    assert psnr(torch.where(clean == 0.5, clean, 3 * clean - 1), clean) == 100
    assert ssim(torch.where(clean == 0.5, clean, 3 * clean - 1), clean) == pytest.approx(1.0)


def test_images_smaller_than_the_window():
    with pytest.raises(ValueError, match="11×11 or more, got 10×20"):
        ssim(torch.rand(1, 10, 20), torch.rand(1, 10, 20))


def test_means_are_over_images():
    def score(camera, iso, value):
        return ImageScore("n", f"scene {value}", camera, iso, value, value / 100, value - 10, value / 200)

    found = summary([score("a", 100.0, 30.0), score("a", 100.0, 34.0), score("b", 200.0, 20.0)])
    assert (found["psnr"], found["noisy_psnr"], found["images"], found["scenes"]) == (28.0, 18.0, 3, 3)
    assert [(s["camera"], s["iso"], s["images"], s["psnr"], s["ssim"]) for s in found["by_shot"]] == [
        ("a", 100.0, 2, 32.0, 0.32),
        ("b", 200.0, 1, 20.0, 0.2),
    ]
