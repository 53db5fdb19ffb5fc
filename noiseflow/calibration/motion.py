"""Whether the frames of a burst show one scene at one place."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from noiseflow.calibration.frames import Codes, FrameSet

_SHIFT = 0.05  # pixels of one colour that harm a calibration
_SURE = 4.5  # standard errors


def burst_shift(burst: Codes, frames: FrameSet) -> tuple[float, float]:
    """How far frames of a burst are shifted against its first, pixels of one colour, and the standard error.

    Returns:
        The largest shift that is sure and above a twentieth of a pixel; (0, 0) where there is none.
    """
    found = [_shift(burst[0], other, frames) for other in burst[1:]]
    return max((pair for pair in found if pair[0] > _SHIFT), default=(0.0, 0.0))


def _shift(first: Codes, other: Codes, frames: FrameSet) -> tuple[float, float]:
    """Length of the shift between two frames, pixels of one colour, as far as it is sure, and its standard error.

    Least squares of the difference on the gradients of the smoothed mean; smoothing keeps the noise, which is in both,
    from looking like a gradient.
    """
    a, b = (frames.planes(frame.astype(np.float32)).mean(axis=0) for frame in (first, other))
    scene = ndimage.gaussian_filter((a + b) / 2, 2.0)
    difference = ndimage.gaussian_filter(b - a, 2.0)
    down, across = np.gradient(scene)
    edge = (slice(2, -2), slice(2, -2))
    design = np.stack([down[edge].ravel(), across[edge].ravel(), (scene[edge] - scene[edge].mean()).ravel(),
                       np.ones(scene[edge].size)])  # fmt: skip
    target = difference[edge].ravel()
    size = np.maximum(np.sqrt(np.square(design).mean(axis=1)), 1e-12)
    design = design / size[:, None]
    inverse = np.linalg.pinv(design @ design.T, rcond=1e-10)
    solution = inverse @ (design @ target)
    left = target - solution @ design
    # Smoothing with σ = 2 makes 4πσ² neighbours go together.
    errors = np.sqrt(np.square(left).mean() * 16 * math.pi * np.diag(inverse))
    shift, error = (values[:2] / size[:2] for values in (solution, errors))
    # A scene of stripes says nothing about shifts along them.
    sure = np.abs(shift) > _SURE * error
    return float(np.hypot(*(shift * sure))), float(np.hypot(*(error * sure)))
