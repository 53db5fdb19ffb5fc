"""Virtual cameras that know the exact probability of every code they write.

A `VirtualSensor` turns light into codes as a real one does: electrons arrive as a Poisson number, read noise
joins before the gain (in electrons) and after it (in DN), a sensor row or column may add an offset of its own, the
converter rounds and clips. Its log probability of a code is a finite sum, so a model's distance from it is the true
Kullback–Leibler divergence in nats, with no data set needed. `SENSORS` holds some; `SensorTruth` offers them as a
noise model.

Codes are counted from black: code 0 is the black level, code `white_dn - black_dn` is the white level.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from noiseflow import randomness
from noiseflow.errors import UserError
from noiseflow.sensors.pmf import FloatArray, IntArray, PixelNoise, ReadNoise
from noiseflow.sensors.slopes import Slopes

PerIso = float | tuple[tuple[float, float], ...]
"""A number for every ISO, or pairs (ISO, number) in rising ISO, linear in log ISO between them."""

_PRNU = 103  # stream of random numbers


@dataclass(frozen=True)
class VirtualSensor(Slopes):
    """A sensor with Poisson electrons, read noise before and after the gain, row or column noise, rounding and clip.

    With rate λ = max(clean, 0)·white_e(ISO) and gain K = (white − black) / white_e(ISO):

        code = clip(round(K·(e + read_pre_e·n₁) + read_post_dn·n₂ + row_noise_dn·n₃), low, white − black)

    with e ~ Poisson(λ), n₁ standard normal or Tukey-lambda, n₂ standard normal, n₃ standard normal and the same for
    all pixels of a sensor row; low is 0, or −black where the pedestal is kept.

    Attributes:
        name: the camera's name, as in the folders of a data set.
        cfa: colour filter pattern, RGGB, BGGR, GRBG or GBRG.
        bits: bits of the converter, 8 to 16.
        black_dn: black level, DN.
        white_dn: white level, DN, at most 2^bits − 1.
        slopes: pairs (ISO, a) in rising ISO; a is the slope of the noise level function
            variance = a·clean + b in linear units, so that white_e = 1/a electrons fill a pixel to white.
            Between the entries log a is linear in log ISO.
        read_pre_e: read noise before the gain, electrons: its standard deviation, or the scale of its Tukey-lambda
            distribution; one number, or pairs (ISO, value).
        read_post_dn: standard deviation of the read noise after the gain, DN; likewise.
        tukey_lambda: shape of the read noise before the gain, above −0.25; None: Gaussian.
        row_noise_dn: standard deviation of the offset that the pixels of a sensor row share, DN.
        column_noise_dn: the same for columns; a sensor has one or the other.
        prnu: standard deviation of the pixels' relative sensitivity, a fixed map. It is part of the ground truth:
            not noise between frames of one camera.
        keep_pedestal: codes below the black level are stored.
        speeds: the ISOs to simulate by default; none: those of `STANDARD_ISOS` that the table of slopes reaches.

    Raises:
        UserError: a value is out of range; the message says which.
    """

    name: str
    cfa: str
    bits: int
    black_dn: int
    white_dn: int
    slopes: tuple[tuple[float, float], ...]
    read_pre_e: PerIso = 2.1
    read_post_dn: PerIso = 0.8
    tukey_lambda: float | None = None
    row_noise_dn: float = 0.0
    column_noise_dn: float = 0.0
    prnu: float = 0.0
    keep_pedestal: bool = False
    speeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        who = f"sensor {self.name!r}"
        self._check_slopes()
        if not 1 <= self.bits <= 16 or not 0 <= self.black_dn < self.white_dn <= 2**self.bits - 1:
            raise UserError(
                f"{who}: expected up to 16 bits and 0 <= black_dn < white_dn <= {2**self.bits - 1}, "
                f"got {self.bits} bits, black_dn {self.black_dn} and white_dn {self.white_dn}"
            )
        isos = [iso for iso, _ in self.slopes]
        for name in ("read_pre_e", "read_post_dn"):
            table = getattr(self, name)
            if isinstance(table, tuple):
                known = [iso for iso, _ in table]
                if not known or sorted(set(known)) != known or known[0] > isos[0] or known[-1] < isos[-1]:
                    raise UserError(
                        f"{who}: expected {name} in rising ISO from {isos[0]:g} to {isos[-1]:g}, got {table}"
                    )
        pre, post = _values(self.read_pre_e), _values(self.read_post_dn)
        if min(pre + post) < 0 or min(pre) + min(post) <= 0:
            raise UserError(
                f"{who}: expected read noise >= 0, one of the two > 0, "
                f"got read_pre_e {self.read_pre_e} and read_post_dn {self.read_post_dn}"
            )
        if self.tukey_lambda is not None and not -0.25 < self.tukey_lambda <= 1:
            raise UserError(f"{who}: expected tukey_lambda above -0.25 and at most 1, got {self.tukey_lambda}")
        if min(self.row_noise_dn, self.column_noise_dn) < 0 or self.row_noise_dn * self.column_noise_dn > 0:
            raise UserError(
                f"{who}: expected row noise or column noise >= 0, as both together have no cheap density, "
                f"got row_noise_dn {self.row_noise_dn} and column_noise_dn {self.column_noise_dn}"
            )
        if not 0 <= self.prnu <= 0.1:
            raise UserError(f"{who}: expected prnu from 0 to 0.1, got {self.prnu}")

    @property
    def max_code(self) -> int:
        """The highest code, white − black."""
        return self.white_dn - self.black_dn

    @property
    def min_code(self) -> int:
        """The lowest code: 0, or −black where the pedestal is kept."""
        return -self.black_dn if self.keep_pedestal else 0

    @property
    def lsb(self) -> float:
        """Width of one code, linear units."""
        return 1.0 / self.max_code

    def gain(self, iso: float) -> float:
        """Conversion gain K at an ISO, DN per electron."""
        return self.max_code / self.white_e(iso)

    def pixel(self, iso: float) -> PixelNoise:
        """What a pixel does with its electrons at an ISO, row and column noise apart."""
        pre = self.gain(iso) * _at_iso(self.read_pre_e, iso)
        post = _at_iso(self.read_post_dn, iso)
        if self.tukey_lambda is None or pre == 0:
            read = ReadNoise(math.hypot(pre, post))
        else:
            read = ReadNoise(post, pre, self.tukey_lambda)
        return PixelNoise(self.gain(iso), read, self.max_code, self.min_code)

    def read_noise_dn(self, iso: float) -> float:
        """Standard deviation of all read noise of a pixel at an ISO, DN, row and column noise apart."""
        return self.pixel(iso).read.std

    @property
    def line_noise_dn(self) -> float:
        """Standard deviation of row or column noise, DN; 0: neither."""
        return self.row_noise_dn + self.column_noise_dn

    def noise_level(self, iso: float) -> tuple[float, float]:
        """(a, b) of variance = a·clean + b before rounding and clip, row or column noise included; linear units."""
        return self.slope(iso), (math.hypot(self.read_noise_dn(iso), self.line_noise_dn) * self.lsb) ** 2

    def sensitivity(self, height: int, width: int) -> FloatArray:
        """Relative sensitivity of the pixels of a mosaic, `(height, width)`: 1 + prnu·n, from the sensor's name."""
        if self.prnu == 0:
            return np.ones((height, width))
        z = randomness.normal(randomness.seed_of(self.name.encode()), (1, 1, height, width), stream=_PRNU)
        return 1.0 + self.prnu * z[0, 0].numpy()

    def log_pmf(self, codes: npt.ArrayLike, clean: npt.ArrayLike, iso: float) -> FloatArray:
        """Exact log probability of codes, element by element.

            P(c) = Σ_e Poisson(e; λ)·[F(c + ½ − K·e) − F(c − ½ − K·e)]

        with F the CDF of the read noise; the lowest cell reaches to −∞ and the highest to +∞. Of a sensor with row or
        column noise it is the probability where that offset is 0.

        Args:
            codes: integers from `min_code` to `max_code`, any shape.
            clean: clean signal, linear units, broadcast against codes; below 0 counts as 0.
            iso: ISO speed, the same for all.

        Returns:
            nats, float64, in the shape of both broadcast.

        Raises:
            ValueError: a code is not an integer in range, or a clean value is not finite.
            UserError: the ISO is outside the table.
        """
        code, signal = np.broadcast_arrays(np.asarray(codes), np.asarray(clean, dtype=np.float64))
        if code.size and (code.dtype.kind not in "iu" or code.min() < self.min_code or code.max() > self.max_code):
            raise ValueError(f"codes: expected integers from {self.min_code} to {self.max_code}, got others")
        if not np.isfinite(signal).all():
            raise ValueError("clean: expected finite values, got NaN or infinity")
        rate = np.maximum(signal, 0.0).reshape(-1) * self.white_e(iso)
        out = self.pixel(iso).log_pmf(code.reshape(-1).astype(np.int64), rate)
        return out.reshape(code.shape)

    def pmf(self, clean: float, iso: float) -> FloatArray:
        """Probability of every code from `min_code` to `max_code` at one clean value."""
        return np.exp(self.log_pmf(np.arange(self.min_code, self.max_code + 1), float(clean), iso))

    def sample_codes(self, clean: npt.ArrayLike, iso: float, seed: int | np.random.Generator) -> IntArray:
        """Record an image: codes from `min_code` to `max_code`, int64, in the shape of clean.

        Args:
            clean: clean signal, linear units, any shape; a mosaic `(…, height, width)` if the sensor has row or column
                noise.
            iso: ISO speed.
            seed: a seed, or the generator to draw from.
        """
        generator = np.random.default_rng(seed)
        pixel = self.pixel(iso)
        electrons = generator.poisson(np.maximum(np.asarray(clean, np.float64), 0.0) * self.white_e(iso))
        z = generator.standard_normal(electrons.shape)
        u = generator.random(electrons.shape) if pixel.read.tukey_dn > 0 else z
        signal = electrons * pixel.gain + pixel.read.quantile(u, z)
        if self.line_noise_dn > 0:
            lines = (*signal.shape[:-1], 1) if self.row_noise_dn > 0 else (*signal.shape[:-2], 1, signal.shape[-1])
            signal += self.line_noise_dn * generator.standard_normal(lines)
        return self.convert(signal)

    def record(self, clean: FloatArray, iso: float, generator: np.random.Generator) -> FloatArray:
        """Record a mosaic `(H, W)`: `sample_codes`, in linear units."""
        return self.sample_codes(clean, iso, generator) / self.max_code

    def convert(self, signal_dn: FloatArray) -> IntArray:
        """The converter: DN above black to codes."""
        return np.clip(np.rint(signal_dn), self.min_code, self.max_code).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """All attributes, for JSON."""
        return {"kind": "pixels", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VirtualSensor:
        """Build a sensor from what `to_dict` gave; attributes that have a default may be missing.

        Raises:
            UserError: a value is missing, unknown or of a wrong kind.
        """
        given = {key: value for key, value in values.items() if key != "kind"}
        unknown = sorted(set(given) - {field.name for field in dataclasses.fields(cls)})
        if unknown or values.get("kind", "pixels") != "pixels":
            got = ", ".join(unknown) or f"kind {values['kind']!r}"
            raise UserError(f"sensor: expected the fields of a virtual sensor of kind 'pixels', got {got}")
        try:
            given["slopes"] = tuple((float(iso), float(a)) for iso, a in values["slopes"])
            given["speeds"] = tuple(int(iso) for iso in values.get("speeds", ()))
            for name in ("read_pre_e", "read_post_dn"):
                if isinstance(given.get(name), Sequence):
                    given[name] = tuple((float(iso), float(value)) for iso, value in given[name])
            return cls(**given)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"expected the description of a sensor as `simulate` writes it: {error}") from None


def _values(table: PerIso) -> list[float]:
    return [value for _, value in table] if isinstance(table, tuple) else [table]


def _at_iso(table: PerIso, iso: float) -> float:
    if not isinstance(table, tuple):
        return table
    known, values = zip(*table, strict=True)
    return float(np.interp(math.log(iso), np.log(known), values))
