"""One frame as the sensor wrote it, with what is known of how it was taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from noiseflow.errors import UserError
from noiseflow.raw.cfa import crop, sites
from noiseflow.raw.codes import suspicions
from noiseflow.shot import CFA_PATTERNS

_EXACT = 1 << 24  # whole numbers up to here are float32 numbers


@dataclass(frozen=True, eq=False)
class RawFrame:
    """One frame of a sensor: its codes, and what its file or its user says of it; None: nobody said.

    Attributes:
        name: the file, with the number of the frame where it holds several.
        codes: `(H, W)` uint16 or float32, the values that were stored: pedestal kept, nothing clipped. H and W are
            even where there is a colour filter pattern.
        black: `(4,)` float64, black level of R, G on R rows, G on B rows, B, in codes; `(1,)` of a mono sensor.
        white: white level in codes.
        cfa: RGGB, BGGR, GRBG or GBRG, of the top-left cell; None of a mono sensor.
        iso: ISO speed.
        exposure: seconds.
        camera: model of the camera.
        warnings: sentences on what looks wrong with the values.
    """

    name: str
    codes: NDArray[np.uint16] | NDArray[np.float32]
    black: Float[Tensor, " c"] | None = None
    white: float | None = None
    cfa: str | None = None
    iso: float | None = None
    exposure: float | None = None
    camera: str | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        values: NDArray[Any],
        *,
        black: float | Sequence[float] | None = None,
        white: float | None = None,
        cfa: str | None = None,
        iso: float | None = None,
        exposure: float | None = None,
        camera: str | None = None,
    ) -> RawFrame:
        """A frame of stored values, looked over; an odd last row or column of a mosaic is dropped.

        Args:
            name: the file, for messages.
            values: `(H, W)`, integers or floats.
            black: black level in codes, one or one for each of R, G on R rows, G on B rows, B.
            white: white level in codes.
            cfa: pattern of the top-left cell; None of a mono sensor.
            iso: ISO speed.
            exposure: seconds.
            camera: model of the camera.

        Raises:
            UserError: an argument out of its range, or values that are not finite or too large.
        """
        if cfa is not None and cfa not in CFA_PATTERNS:
            raise UserError(f"cfa: expected one of {', '.join(CFA_PATTERNS)}, got {cfa!r}")
        for label, value in (("iso", iso), ("exposure", exposure)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name}: expected {label} above 0, got {value:g}")
        codes = _stored(name, values)
        if cfa is not None:
            codes = crop(codes, 0, 0, codes.shape[0] // 2 * 2, codes.shape[1] // 2 * 2)
        if 0 in codes.shape:
            raise UserError(f"{name}: expected an image, got {' × '.join(map(str, values.shape))} values")
        levels = None if black is None else _levels(black, 1 if cfa is None else 4)
        planes = [codes] if cfa is None else [codes[row::2, column::2] for row, column in sites(cfa)]
        warnings = tuple(f"{name}: {reason}" for reason in suspicions(planes, white))
        return cls(name, codes, levels, white, cfa, iso, exposure, camera, warnings)

    @property
    def levels(self) -> tuple[Float[Tensor, " c"], float]:
        """Black level per channel and white level, in codes.

        Raises:
            UserError: one of them is not known, or not 0 <= black < white.
        """
        if self.black is None or self.white is None:
            missing = [name for name, level in (("--black", self.black), ("--white", self.white)) if level is None]
            raise UserError(
                f"{self.name}: expected a file that says its levels, it does not; give {' and '.join(missing)}"
            )
        if not all(0 <= n < self.white for n in self.black.tolist()):
            raise UserError(
                f"{self.name}: expected 0 <= black < white, got black {tuple(self.black.tolist())} "
                f"and white {self.white:g}"
            )
        return self.black, self.white

    @property
    def lsb(self) -> Float[Tensor, " c"]:
        """Width of one code in linear units, 1/(white − black), per channel, float64; raises as `levels`."""
        black, white = self.levels
        return 1 / (white - black)

    @property
    def mosaic(self) -> Float[Tensor, "h w"]:
        """The frame in linear units, float32, not clipped at black; raises as `levels`."""
        black, white = self.levels
        out = np.empty(self.codes.shape, np.float32)
        step = 1 if self.cfa is None else 2
        for (row, column), n in zip(((0, 0),) if self.cfa is None else sites(self.cfa), black.tolist(), strict=True):
            out[row::step, column::step] = (self.codes[row::step, column::step].astype(np.float64) - n) / (white - n)
        return torch.from_numpy(out)


def _stored(name: str, values: NDArray[Any]) -> NDArray[np.uint16] | NDArray[np.float32]:
    """Values as uint16 where they are whole numbers that fit, else as float32."""
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise UserError(f"{name}: expected (H, W) numbers, got {values.dtype} {tuple(values.shape)}")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if values.dtype.kind in "ui":
        if low >= 0 and high <= 65535:
            return values.astype(np.uint16)
        if low < -_EXACT or high > _EXACT:
            raise UserError(f"{name}: expected codes of at most 24 bits, got {low} to {high}")
    elif not np.isfinite(values).all():
        raise UserError(f"{name}: the image holds NaN or infinite values")
    return values.astype(np.float32)


def _levels(black: float | Sequence[float], channels: int) -> Tensor:
    """One black level per channel."""
    levels = [float(n) for n in black] if isinstance(black, Sequence) else [float(black)] * channels
    if len(levels) not in (1, channels):
        raise UserError(f"black: expected one level or {'four' if channels == 4 else 'one'}, got {len(levels)}")
    return torch.tensor(levels * (channels if len(levels) == 1 else 1), dtype=torch.float64)
