"""From a raw mosaic to a picture: one simple documented pipeline, the same for clean and noisy frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BAYER_OF = {"RGGB": "BG", "BGGR": "RG", "GRBG": "GB", "GBRG": "GR"}
"""OpenCV names a pattern by the colours of its second row, second and third column."""


def render(mosaic: NDArray[np.floating], cfa: str, balance: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Demosaic bilinearly, balance, clip, apply the sRGB tone curve and round to 8 bits.

    Args:
        mosaic: `(H, W)`, linear units, H and W even.
        cfa: RGGB, BGGR, GRBG or GBRG.
        balance: what the sensor's R, G and B read on neutral grey, relative to G; each channel is divided by its own.

    Returns:
        `(H, W, 3)`, R G B.
    """
    import cv2

    codes = np.rint(np.clip(mosaic, 0.0, 1.0) * 65535).astype(np.uint16)
    conversion = getattr(cv2, f"COLOR_Bayer{_BAYER_OF[cfa]}2RGB")
    linear = cv2.cvtColor(codes, conversion).astype(np.float64) / 65535
    linear = np.clip(linear / np.asarray(balance), 0.0, 1.0)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    picture: NDArray[np.uint8] = np.rint(255 * curved).astype(np.uint8)
    return picture
