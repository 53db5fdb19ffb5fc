"""What calibration is made from: the frames of one camera at one ISO, in the codes the sensor wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noiseflow.errors import UserError
from noiseflow.raw.cfa import pack
from noiseflow.shot import CFA_PATTERNS

FloatArray = NDArray[np.float64]
Codes = NDArray[Any]
"""Codes as stored, DN, with the pedestal: any integer or float type."""

_SMALLEST = 16  # pixels a side; fewer leave nothing to take row and column means of


def _no_frames() -> Codes:
    return np.zeros((0, 0, 0), np.uint16)


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Frames of one camera at one ISO, as mosaics of codes in DN, the pedestal kept.

    Attributes:
        iso: ISO speed.
        darks: `(N, H, W)`, frames with the lens capped, one exposure time.
        flats: pairs `(2, H, W)` of an evenly lit surface, each pair of one exposure; the more levels the better.
        bursts: `(N, H, W)` each, N >= 2 frames of a scene in which nothing moves.
        singles: `(H, W)` each, pictures of anything.
        cfa: RGGB, BGGR, GRBG or GBRG, of the top-left cell; None of a mono sensor.
        white: code at which the sensor saturates; None where unknown.
        black: black level of each packed channel (R, G, G, B, or one of a mono sensor), or one for all, DN; None where
            unknown.
        exposures: seconds of each dark frame; none where unknown.
        camera: its name.
        bits: bit depth; None where unknown.

    Raises:
        UserError: shapes do not fit together, or a value is out of range.
    """

    iso: float
    darks: Codes = field(default_factory=_no_frames)
    flats: tuple[Codes, ...] = ()
    bursts: tuple[Codes, ...] = ()
    singles: tuple[Codes, ...] = ()
    cfa: str | None = None
    white: float | None = None
    black: tuple[float, ...] | None = None
    exposures: tuple[float, ...] = ()
    camera: str = ""
    bits: int | None = None

    def __post_init__(self) -> None:
        who = f"frames at ISO {self.iso:g}"
        if not 0 < self.iso < float("inf"):
            raise UserError(f"{who}: expected a positive ISO")
        if self.cfa is not None and self.cfa not in CFA_PATTERNS:
            raise UserError(f"{who}: expected a CFA of {', '.join(CFA_PATTERNS)} or none, got {self.cfa!r}")
        if self.black is not None and len(self.black) not in (1, self.channels):
            raise UserError(f"{who}: expected one black level or {self.channels}, got {len(self.black)}")
        if self.exposures and len(self.exposures) != len(self.darks):
            raise UserError(
                f"{who}: expected an exposure for each of {len(self.darks)} darks, got {len(self.exposures)}"
            )
        stacks = [("darks", 1, self.darks)] if len(self.darks) else []
        stacks += [("a flat pair", 2, flat) for flat in self.flats]
        stacks += [("a burst", 2, burst) for burst in self.bursts]
        stacks += [("a single picture", 1, single[None]) for single in self.singles if single.ndim == 2]
        if len(stacks) < bool(len(self.darks)) + len(self.flats) + len(self.bursts) + len(self.singles):
            raise UserError(f"{who}: expected single pictures of shape (H, W)")
        for what, least, stack in stacks:
            if stack.ndim != 3 or len(stack) < least or (what == "a flat pair" and len(stack) != 2):
                raise UserError(f"{who}: expected {what} of shape ({least}, H, W), got {stack.shape}")
            height, width = stack.shape[1:]
            if min(height, width) < _SMALLEST or (self.cfa is not None and (height % 2 or width % 2)):
                raise UserError(
                    f"{who}: expected frames of at least {_SMALLEST} pixels a side, even for a mosaic, "
                    f"got {what} of {height}×{width}"
                )
        sizes = {stack.shape[1:] for _, _, stack in stacks}
        if len(sizes) > 1:
            raise UserError(f"{who}: expected frames of one size, got {sorted(sizes)}")

    @property
    def channels(self) -> int:
        """4 of a Bayer sensor, 1 of a mono sensor."""
        return 1 if self.cfa is None else 4

    @property
    def blacks(self) -> FloatArray | None:
        """The known black level of each channel, DN, `(channels,)`."""
        if self.black is None:
            return None
        return np.broadcast_to(np.array(self.black, np.float64), (self.channels,)).copy()

    def planes(self, mosaic: NDArray[Any]) -> NDArray[Any]:
        """`(…, H, W)` to planes of one colour, `(…, channels, h, w)`: R, G on R rows, G on B rows, B."""
        return mosaic[..., None, :, :] if self.cfa is None else pack(mosaic, self.cfa)
