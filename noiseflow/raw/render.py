"""From a raw mosaic to a picture and back: one simple documented pipeline, the same for clean and noisy frames.

`render`, step by step; clean and noisy frames go through the very same arithmetic:

1. clip to [0, 1], as a camera does that has taken off the black level, and round to 16 bits;
2. demosaic bilinearly (OpenCV): a missing colour is the mean of its two or four nearest neighbours;
3. white balance: divide each colour by what the sensor reads of it on neutral grey;
4. clip at 1, then the colour matrix from the sensor's colours to linear sRGB;
5. clip to [0, 1], the sRGB tone curve (IEC 61966-2-1), 8 bits.

There is no denoising, sharpening, local tone mapping or compression, so a real camera's picture of the same frame has
noise of another texture. `unrender` takes the same steps backwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from noiseflow.raw.cfa import sites

_BAYER_OF = {"RGGB": "BG", "BGGR": "RG", "GRBG": "GB", "GBRG": "GR"}
"""OpenCV names a pattern by the colours of its second row, second and third column."""

Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]

IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""The matrix of a sensor whose colours are those of sRGB."""

PHONE_MATRIX: Matrix = ((1.6, -0.45, -0.15), (-0.2, 1.5, -0.3), (0.0, -0.55, 1.55))
"""Sensor colours to linear sRGB, of about the strength that phones have in daylight.

Its rows add up to 1, so grey stays grey; nothing beside its diagonal is positive, so the inverse has no negative
entry and takes every picture to sensor values in [0, 1].
"""


def render(
    mosaic: NDArray[np.floating], cfa: str, balance: tuple[float, float, float], matrix: Matrix = IDENTITY
) -> NDArray[np.uint8]:
    """Demosaic bilinearly, balance, apply the colour matrix and the sRGB tone curve, round to 8 bits.

    Args:
        mosaic: `(H, W)`, linear units, H and W even.
        cfa: RGGB, BGGR, GRBG or GBRG.
        balance: what the sensor's R, G and B read on neutral grey, relative to G; each channel is divided by its own.
        matrix: balanced sensor colours to linear sRGB, rows R, G, B.

    Returns:
        `(H, W, 3)`, R G B.
    """
    import cv2

    codes = np.rint(np.clip(mosaic, 0.0, 1.0) * 65535).astype(np.uint16)
    conversion = getattr(cv2, f"COLOR_Bayer{_BAYER_OF[cfa]}2RGB")
    linear = cv2.cvtColor(codes, conversion).astype(np.float64) / 65535
    linear = np.clip(linear / np.asarray(balance), 0.0, 1.0)
    if matrix != IDENTITY:
        linear = np.clip(linear @ np.asarray(matrix).T, 0.0, 1.0)
    picture: NDArray[np.uint8] = np.rint(255 * tone_curve(linear)).astype(np.uint8)
    return picture


def unrender(
    picture: NDArray[Any], cfa: str, balance: tuple[float, float, float], matrix: Matrix = IDENTITY
) -> NDArray[np.float32]:
    """A raw mosaic that `render` would have made such a picture of: a plausible clean frame for a clean photograph.

    The inverse tone curve, the inverse matrix, clip to [0, 1], times the balance, one colour a pixel. It assumes that
    the photograph was made by `render`'s steps and nothing else. A real one was also denoised, sharpened, tone-mapped
    and compressed: its shadows come out too bright or too dark by as much as its own tone curve differs from
    sRGB's, what it clipped stays at its white (`balance`, where only green reaches the raw clip), and its artefacts
    count as signal. Shrinking it first (`shrink`) makes the latter small.

    Args:
        picture: `(H, W, 3)` R G B, sRGB; uint8, or floating-point in [0, 1]; H and W even.
        cfa: pattern of the mosaic to be made.
        balance: as in `render`.
        matrix: as in `render`; one that can be inverted.

    Returns:
        `(H, W)`, linear units.

    Raises:
        ValueError: another shape or type, odd sides, or an unknown pattern.

    Examples:
        >>> grey = np.full((4, 4, 3), 188, np.uint8)
        >>> unrender(grey, "RGGB", (0.5, 1.0, 0.5))[:2, :2].round(3).tolist()
        [[0.25099998712539673, 0.503000020980835], [0.503000020980835, 0.25099998712539673]]
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.shape[0] % 2 or picture.shape[1] % 2:
        raise ValueError(f"picture: expected (H, W, 3) with even H and W, got {tuple(picture.shape)}")
    sensor = linear_light(picture)
    if matrix != IDENTITY:
        sensor = sensor @ np.linalg.inv(np.asarray(matrix)).T
    sensor = np.clip(sensor, 0.0, 1.0) * np.asarray(balance)
    mosaic = np.empty(picture.shape[:2], np.float32)
    for colour, (row, column) in zip((0, 1, 1, 2), sites(cfa), strict=True):
        mosaic[row::2, column::2] = sensor[row::2, column::2, colour]
    return mosaic


def tone_curve(linear: NDArray[np.floating]) -> NDArray[np.float64]:
    """The sRGB tone curve (IEC 61966-2-1) of linear values in [0, 1]."""
    curved: NDArray[np.float64] = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return curved


def linear_light(picture: NDArray[Any]) -> NDArray[np.float64]:
    """The inverse of `tone_curve`.

    Args:
        picture: any shape; uint8, or floating-point in [0, 1].

    Raises:
        ValueError: other integers.
    """
    if picture.dtype == np.uint8:
        by_code: NDArray[np.float64] = linear_light(np.arange(256) / 255)[picture]
        return by_code
    if picture.dtype.kind != "f":
        raise ValueError(f"picture: expected uint8 or floating-point values in [0, 1], got {picture.dtype}")
    value = picture.astype(np.float64)
    linear: NDArray[np.float64] = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear


def shrink(picture: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
    """The middle of a picture, made smaller by the largest whole factor that leaves it at least the given size.

    Averages squares of pixels in linear light, which takes most of a photograph's own noise and compression with it.

    Args:
        picture: `(h, w, 3)`, sRGB; uint8, or floating-point in [0, 1].
        height: rows of the result, at most h.
        width: columns of the result, at most w.

    Returns:
        `(height, width, 3)`, sRGB values in [0, 1], not rounded.

    Raises:
        ValueError: the picture is smaller than that.
    """
    h, w = picture.shape[:2]
    factor = min(h // height, w // width)
    if factor < 1:
        raise ValueError(f"picture: expected at least {height}×{width} pixels, got {h}×{w}")
    top, left = (h - factor * height) // 2, (w - factor * width) // 2
    part = picture[top : top + factor * height, left : left + factor * width]
    blocks = linear_light(part).reshape(height, factor, width, factor, -1)
    return tone_curve(blocks.mean(axis=(1, 3)))
