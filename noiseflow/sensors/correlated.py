"""A virtual camera whose noise is correlated between pixels, with the exact density of its images.

It does not count electrons and writes no codes: its output is continuous and not clipped (lsb 0), and Gaussian,

    noise ~ N(0, diag(a·max(clean, 0) + b) + C)

in each packed plane, planes independent. C is the covariance of white noise convolved with the separable kernel
k = [1, 2, 1]/√6 in rows and columns, so that neighbours have a correlation of 2/3, diagonal ones of 4/9, next but one
of 1/6, and pixels further apart of 0. The covariance of a patch is therefore a band matrix; its Cholesky factor L
gives the density, log p = Σ_i −½z_i² − log L_ii − ½ log 2π with L·z = noise, term i being the log density of pixel i
given those before it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg

from noiseflow.errors import UserError
from noiseflow.sensors.read_noise import FloatArray
from noiseflow.sensors.slopes import Slopes

LARGEST_PATCH = 32
"""Side of the largest patch whose density is computed, packed pixels: the cost grows with the cube of the width."""

_KERNEL = np.array([1.0, 2.0, 1.0]) / math.sqrt(6.0)  # of unit power: the noise keeps its variance
_LAGS = np.array([1.0, 2.0 / 3.0, 1.0 / 6.0])  # its autocorrelation


@dataclass(frozen=True)
class CorrelatedSensor(Slopes):
    """A sensor with shot noise, white read noise and noise that neighbours share; Gaussian, continuous, not clipped.

    Attributes:
        name: the camera's name, as in the folders of a data set.
        cfa: colour filter pattern, RGGB, BGGR, GRBG or GBRG.
        slopes: pairs (ISO, a) in rising ISO, as a `VirtualSensor` has them.
        read_e: standard deviation of the white read noise, electrons of 1/a to white, > 0.
        correlated_e: standard deviation of the correlated noise, electrons, >= 0.
        speeds: the ISOs to simulate by default; none: those of `STANDARD_ISOS` that the table of slopes reaches.

    Raises:
        UserError: a value is out of range; the message says which.
    """

    name: str
    cfa: str
    slopes: tuple[tuple[float, float], ...]
    read_e: float = 2.1
    correlated_e: float = 3.0
    speeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._check_slopes()
        if not (0 < self.read_e < math.inf and 0 <= self.correlated_e < math.inf):
            raise UserError(
                f"sensor {self.name!r}: expected read_e > 0 and correlated_e >= 0, "
                f"got read_e {self.read_e} and correlated_e {self.correlated_e}"
            )

    def noise_level(self, iso: float) -> tuple[float, float]:
        """(a, b) of a pixel's variance = a·clean + b, correlated noise included; linear units."""
        a = self.slope(iso)
        return a, a**2 * (self.read_e**2 + self.correlated_e**2)

    def log_shares(self, noise: FloatArray, clean: FloatArray, iso: float) -> FloatArray:
        """Log density of every pixel given those before it, row by row; those of a plane add up to the plane's.

        Args:
            noise: `(…, H, W)`, recorded − clean, linear units.
            clean: `(…, H, W)`, linear units; below 0 counts as 0.
            iso: ISO speed.

        Returns:
            `(…, H, W)`, nats per linear unit.

        Raises:
            ValueError: the patch is larger than `LARGEST_PATCH`.
            UserError: the ISO is outside the table.
        """
        height, width = noise.shape[-2:]
        if max(height, width) > LARGEST_PATCH:
            raise ValueError(
                f"noisy: expected patches of at most {LARGEST_PATCH}×{LARGEST_PATCH} pixels for camera {self.name}, "
                f"whose noise is correlated, got {height}×{width}; cut them"
            )
        if noise.size == 0:
            return np.zeros(noise.shape)
        own = self._own_variance(clean, iso).reshape(-1, height * width)
        shared = (self.slope(iso) * self.correlated_e) ** 2 * _band(height, width)
        out = np.empty(own.shape)
        for plane, (variance, values) in enumerate(zip(own, noise.reshape(out.shape), strict=True)):
            band = shared.copy()
            band[0] += variance
            factor = linalg.cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False)
            z = linalg.blas.dtbsv(len(band) - 1, factor, values, lower=1)
            out[plane] = -0.5 * z**2 - np.log(factor[0]) - 0.5 * math.log(2 * math.pi)
        return out.reshape(noise.shape)

    def noise(self, clean: FloatArray, iso: float, own: FloatArray, shared: FloatArray) -> FloatArray:
        """A draw of the noise from standard normal numbers, linear units.

        Args:
            clean: `(…, H, W)`, packed planes.
            iso: ISO speed.
            own: `(…, H, W)`, for the noise that each pixel has of its own.
            shared: `(…, H + 2, W + 2)`, for the noise that neighbours share, one pixel more on each side.
        """
        correlated = _convolved(shared, 1)
        return np.sqrt(self._own_variance(clean, iso)) * own + self.slope(iso) * self.correlated_e * correlated

    def record(self, clean: FloatArray, iso: float, generator: np.random.Generator) -> FloatArray:
        """Record a mosaic `(H, W)`: clean plus noise, linear units, neither rounded nor clipped."""
        height, width = clean.shape
        own = generator.standard_normal((height, width))
        correlated = _convolved(generator.standard_normal((height + 4, width + 4)), 2)  # the planes are interleaved
        noise = np.sqrt(self._own_variance(clean, iso)) * own + self.slope(iso) * self.correlated_e * correlated
        return np.asarray(clean, np.float64) + noise

    def _own_variance(self, clean: FloatArray, iso: float) -> FloatArray:
        a = self.slope(iso)
        variance: FloatArray = a * np.maximum(np.asarray(clean, np.float64), 0.0) + (a * self.read_e) ** 2
        return variance

    def to_dict(self) -> dict[str, Any]:
        """All attributes, for JSON."""
        return {"kind": "correlated", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CorrelatedSensor:
        """Build a sensor from what `to_dict` gave; attributes that have a default may be missing.

        Raises:
            UserError: a value is missing, unknown or of a wrong kind.
        """
        given = {key: value for key, value in values.items() if key != "kind"}
        unknown = sorted(set(given) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise UserError(f"sensor: expected the fields of a sensor of kind 'correlated', got {', '.join(unknown)}")
        try:
            given["slopes"] = tuple((float(iso), float(a)) for iso, a in values["slopes"])
            given["speeds"] = tuple(int(iso) for iso in values.get("speeds", ()))
            return cls(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"expected the description of a sensor as `simulate` writes it: {error}") from None


def _convolved(white: FloatArray, step: int) -> FloatArray:
    """White noise convolved with the kernel in rows and columns, taps `step` pixels apart; 2·step less on each axis."""
    height, width = (side - 2 * step for side in white.shape[-2:])
    rows = sum(tap * white[..., i * step : i * step + height, :] for i, tap in enumerate(_KERNEL))
    out: FloatArray = np.zeros((*white.shape[:-2], height, width))
    for i, tap in enumerate(_KERNEL):
        out += tap * rows[..., i * step : i * step + width]
    return out


@functools.lru_cache(maxsize=16)
def _band(height: int, width: int) -> FloatArray:
    """Correlation matrix of a plane, row by row, in LAPACK's lower band form: entry [k, j] is that of j + k and j."""
    n = height * width
    column = np.arange(n) % width
    band = np.zeros((2 * width + 3, n))
    for down in range(3):
        for right in range(-2 if down else 0, 3):
            inside = (np.arange(n) // width + down < height) & (column + right >= 0) & (column + right < width)
            if inside.any():
                band[down * width + right, inside] += _LAGS[down] * _LAGS[abs(right)]
    band = band[:n]
    band.setflags(write=False)
    return band
