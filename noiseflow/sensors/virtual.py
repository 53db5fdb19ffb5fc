"""Virtual cameras that know the exact probability of every code they write.

A `VirtualSensor` turns light into codes as a real one does: electrons arrive as a Poisson number, read noise
joins before the gain (in electrons) and after it (in DN), the converter rounds and clips. Its log probability
of a code is a finite sum, so a model's distance from it is the true Kullback–Leibler divergence in nats, with
no data set needed. `PHONES` holds five of them; `SensorTruth` offers them as a noise model.

Codes are counted from black: code 0 is the black level, code `white_dn - black_dn` is the white level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from noiseflow.errors import UserError
from noiseflow.sensors.pmf import FloatArray, IntArray, PixelNoise, ReadNoise
from noiseflow.shot import CFA_PATTERNS

STANDARD_ISOS = (100, 400, 800, 1600, 3200)
"""The ISO speeds that a simulated data set offers, where the camera's table reaches them."""


@dataclass(frozen=True)
class VirtualSensor:
    """A sensor with Poisson electrons, Gaussian read noise before and after the gain, rounding and clip.

    With rate λ = max(clean, 0)·white_e(ISO) and gain K = (white − black) / white_e(ISO):

        code = clip(round(K·(e + read_pre_e·n₁) + read_post_dn·n₂), 0, white − black),  e ~ Poisson(λ)

    Attributes:
        name: the camera's name, as in the folders of a data set.
        cfa: colour filter pattern, RGGB, BGGR, GRBG or GBRG.
        bits: bits of the converter.
        black_dn: black level, DN.
        white_dn: white level, DN, at most 2^bits − 1.
        slopes: pairs (ISO, a) in rising ISO; a is the slope of the noise level function
            variance = a·clean + b in linear units, so that white_e = 1/a electrons fill a pixel to white.
            Between the entries log a is linear in log ISO.
        read_pre_e: standard deviation of the read noise before the gain, electrons.
        read_post_dn: standard deviation of the read noise after the gain, DN.

    Raises:
        UserError: a value is out of range; the message says which.
    """

    name: str
    cfa: str
    bits: int
    black_dn: int
    white_dn: int
    slopes: tuple[tuple[float, float], ...]
    read_pre_e: float = 2.1
    read_post_dn: float = 0.8

    def __post_init__(self) -> None:
        who = f"sensor {self.name!r}"
        if self.cfa not in CFA_PATTERNS:
            raise UserError(f"{who}: expected cfa to be one of {', '.join(CFA_PATTERNS)}, got {self.cfa!r}")
        if not 0 <= self.black_dn < self.white_dn <= 2**self.bits - 1:
            raise UserError(
                f"{who}: expected 0 <= black_dn < white_dn <= {2**self.bits - 1}, "
                f"got black_dn {self.black_dn} and white_dn {self.white_dn}"
            )
        isos = [iso for iso, _ in self.slopes]
        if not isos or isos[0] <= 0 or sorted(set(isos)) != isos or min(a for _, a in self.slopes) <= 0:
            raise UserError(f"{who}: expected slopes as (ISO, a) > 0 in rising ISO, got {self.slopes}")
        if min(self.read_pre_e, self.read_post_dn) < 0 or self.read_pre_e + self.read_post_dn <= 0:
            raise UserError(
                f"{who}: expected read noise >= 0, one of the two > 0, "
                f"got read_pre_e {self.read_pre_e} and read_post_dn {self.read_post_dn}"
            )

    @property
    def max_code(self) -> int:
        """The highest code, white − black."""
        return self.white_dn - self.black_dn

    @property
    def lsb(self) -> float:
        """Width of one code, linear units."""
        return 1.0 / self.max_code

    @property
    def isos(self) -> tuple[int, ...]:
        """Those of `STANDARD_ISOS` that the table of slopes reaches."""
        return tuple(iso for iso in STANDARD_ISOS if self.supports(iso))

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

    def gain(self, iso: float) -> float:
        """Conversion gain K at an ISO, DN per electron."""
        return self.max_code / self.white_e(iso)

    def read_noise_dn(self, iso: float) -> float:
        """Standard deviation of all read noise at an ISO, DN."""
        return math.hypot(self.gain(iso) * self.read_pre_e, self.read_post_dn)

    def noise_level(self, iso: float) -> tuple[float, float]:
        """(a, b) of variance = a·clean + b before rounding and clip, linear units."""
        return self.slope(iso), (self.read_noise_dn(iso) * self.lsb) ** 2

    def log_pmf(self, codes: npt.ArrayLike, clean: npt.ArrayLike, iso: float) -> FloatArray:
        """Exact log probability of codes, element by element.

            P(c) = Σ_e Poisson(e; λ)·[F(c + ½ − K·e) − F(c − ½ − K·e)]

        with F the CDF of the read noise; the lowest cell reaches to −∞ and the highest to +∞. Both factors
        are log-concave in e, so the sum is taken over a window around the peak of their product, found by
        Newton's method; the electrons that fill the highest cell with certainty enter as a Poisson tail.

        Args:
            codes: integers from 0 to `max_code`, any shape.
            clean: clean signal, linear units, broadcast against codes; below 0 counts as 0.
            iso: ISO speed, the same for all.

        Returns:
            nats, float64, in the shape of both broadcast.

        Raises:
            ValueError: a code is not an integer in range, or a clean value is not finite.
            UserError: the ISO is outside the table.
        """
        code, signal = np.broadcast_arrays(np.asarray(codes), np.asarray(clean, dtype=np.float64))
        if code.size and (code.dtype.kind not in "iu" or code.min() < 0 or code.max() > self.max_code):
            raise ValueError(f"codes: expected integers from 0 to {self.max_code}, got others")
        if not np.isfinite(signal).all():
            raise ValueError("clean: expected finite values, got NaN or infinity")
        rate = np.maximum(signal, 0.0).reshape(-1) * self.white_e(iso)
        pixel = PixelNoise(self.gain(iso), ReadNoise(self.read_noise_dn(iso)), self.max_code)
        out = pixel.log_pmf(code.reshape(-1).astype(np.int64), rate)
        return out.reshape(code.shape)

    def pmf(self, clean: float, iso: float) -> FloatArray:
        """Probability of every code from 0 to `max_code` at one clean value, `(max_code + 1,)`."""
        return np.exp(self.log_pmf(np.arange(self.max_code + 1), float(clean), iso))

    def sample_codes(self, clean: npt.ArrayLike, iso: float, seed: int | np.random.Generator) -> IntArray:
        """Record an image: codes from 0 to `max_code`, int64, in the shape of clean.

        Args:
            clean: clean signal, linear units, any shape.
            iso: ISO speed.
            seed: a seed, or the generator to draw from.
        """
        generator = np.random.default_rng(seed)
        electrons = generator.poisson(np.maximum(np.asarray(clean, np.float64), 0.0) * self.white_e(iso))
        read = self.read_noise_dn(iso) * generator.standard_normal(electrons.shape)
        return self._convert(electrons * self.gain(iso) + read)

    def _convert(self, signal_dn: FloatArray) -> IntArray:
        """The converter: DN above black to codes."""
        return np.clip(np.rint(signal_dn), 0, self.max_code).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """All attributes, for JSON."""
        return {
            "name": self.name,
            "cfa": self.cfa,
            "bits": self.bits,
            "black_dn": self.black_dn,
            "white_dn": self.white_dn,
            "slopes": [list(pair) for pair in self.slopes],
            "read_pre_e": self.read_pre_e,
            "read_post_dn": self.read_post_dn,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VirtualSensor:
        """Build a sensor from what `to_dict` gave.

        Raises:
            UserError: a value is missing, unknown or of a wrong kind.
        """
        try:
            return cls(
                **{
                    **values,
                    "slopes": tuple((float(iso), float(a)) for iso, a in values["slopes"]),
                    "read_pre_e": float(values["read_pre_e"]),
                    "read_post_dn": float(values["read_post_dn"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"expected the description of a sensor as `simulate` writes it: {error}") from None
