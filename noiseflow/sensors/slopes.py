"""What every virtual sensor has: the slope of its noise level function by ISO, and the ISOs that it offers."""

from __future__ import annotations

import math
import re

import numpy as np

from noiseflow.errors import UserError
from noiseflow.shot import CFA_PATTERNS

STANDARD_ISOS = (100, 400, 800, 1600, 3200)
"""The ISO speeds that a simulated data set offers, where the camera's table reaches them."""


class Slopes:
    """Slopes a(ISO) of variance = a·clean + b, linear units: log a is linear in log ISO between the table's entries.

    Attributes:
        name: the camera's name.
        cfa: colour filter pattern.
        slopes: pairs (ISO, a) in rising ISO.
        speeds: the ISOs to simulate by default; none: those of `STANDARD_ISOS` that the table reaches.
    """

    name: str
    cfa: str
    slopes: tuple[tuple[float, float], ...]
    speeds: tuple[int, ...]

    def _check_slopes(self) -> None:
        who = f"sensor {self.name!r}"
        if re.fullmatch(r"[A-Za-z0-9]+", self.name) is None:
            raise UserError(f"{who}: expected a name of letters and digits, as folders of a SIDD tree have")
        if self.cfa not in CFA_PATTERNS:
            raise UserError(f"{who}: expected cfa to be one of {', '.join(CFA_PATTERNS)}, got {self.cfa!r}")
        isos = [iso for iso, _ in self.slopes]
        if not isos or isos[0] <= 0 or sorted(set(isos)) != isos or min(a for _, a in self.slopes) <= 0:
            raise UserError(f"{who}: expected slopes as (ISO, a) > 0 in rising ISO, got {self.slopes}")
        if not all(self.supports(iso) for iso in self.speeds):
            raise UserError(f"{who}: expected speeds from ISO {isos[0]:g} to {isos[-1]:g}, got {self.speeds}")

    @property
    def isos(self) -> tuple[int, ...]:
        """`speeds`, or those of `STANDARD_ISOS` that the table of slopes reaches."""
        return self.speeds or tuple(iso for iso in STANDARD_ISOS if self.supports(iso))

    def supports(self, iso: float) -> bool:
        """Whether the table of slopes reaches this ISO."""
        return self.slopes[0][0] <= iso <= self.slopes[-1][0]

    def slope(self, iso: float) -> float:
        """Slope a of the noise level function at an ISO, linear units.

        Raises:
            UserError: the ISO is outside the table.
        """
        if not self.supports(iso):
            raise UserError(
                f"camera {self.name} is known from ISO {self.slopes[0][0]:g} to {self.slopes[-1][0]:g}, got ISO {iso:g}"
            )
        table = np.log(np.asarray(self.slopes))
        return float(np.exp(np.interp(math.log(iso), table[:, 0], table[:, 1])))

    def white_e(self, iso: float) -> float:
        """Electrons that fill a pixel to white at an ISO."""
        return 1.0 / self.slope(iso)
