"""Images of people without tensors: numpy arrays to `(C, H, W)` planes and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from noiseflow.raw.cfa import pack, unpack

_EXPECTED = {1: "(H, W)", 3: "(H, W, 3)", 4: "(H, W) or (4, H, W)"}


def to_planes(array: ArrayLike, channels: int, cfa: str) -> Float[Tensor, "c h w"]:
    """An image as planes, float32.

    Args:
        array: `(H, W)` mosaic or `(4, H, W)` packed for 4 channels, `(H, W, 3)` R G B for 3, `(H, W)` for 1; linear
            units, floating-point.
        channels: 1, 3 or 4.
        cfa: pattern of a mosaic.

    Raises:
        ValueError: another shape, or integers.
    """
    array = np.asarray(array)
    if array.dtype.kind != "f":
        raise ValueError(
            f"clean: expected floating-point values in linear units (0 black, 1 white), got {array.dtype}; "
            "scale codes first: (codes - black) / (white - black), or k / 255 for 8-bit pictures"
        )
    image = torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32))
    if channels == 4 and image.ndim == 2:
        return pack(image, cfa)
    if channels == 4 and image.ndim == 3 and image.shape[0] == 4:
        return image
    if channels == 3 and image.ndim == 3 and image.shape[2] == 3:
        return image.permute(2, 0, 1)
    if channels == 1 and image.ndim == 2:
        return image[None]
    expected = _EXPECTED.get(channels, "a model of 1, 3 or 4 channels")
    raise ValueError(f"clean: expected {expected} for {channels} channels, got {tuple(image.shape)}")


def like_array(planes: Float[Tensor, "c h w"], array: NDArray[Any], cfa: str) -> NDArray[Any]:
    """Planes in the layout that an array came in: the inverse of `to_planes`.

    Args:
        planes: `(C, H, W)`.
        array: the image that `to_planes` was given.
        cfa: pattern of a mosaic.
    """
    if planes.shape[0] == 4 and array.ndim == 2:
        return unpack(planes, cfa).numpy()
    if planes.shape[0] == 3:
        return planes.permute(1, 2, 0).numpy()
    return planes[0].numpy() if planes.shape[0] == 1 else planes.numpy()
