"""What one camera at one ISO makes of light: electrons, read noise, and an offset that a row of pixels shares.

    y = e / white_e + r + o,   e ~ Poisson(max(clean, 0)·white_e)

with white_e the electrons that fill a pixel to white, r the read noise, normal or of Tukey's lambda distribution, and
o ~ N(0, row²) the same for all pixels of a sensor row (Wei, Fu, Yang and Huang 2020, eq. 1 to 8). What a sensor stores
of y has an exact probability (`noiseflow.sensors.pmf`): no density stands in for that of codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from scipy import special

from noiseflow.cells import log_normal_interval
from noiseflow.datasets.base import UNCLIPPED
from noiseflow.models.base import NoDensityError
from noiseflow.sensors.bands import log_of_rate
from noiseflow.sensors.pmf import FloatArray, IntArray, PixelNoise
from noiseflow.sensors.read_noise import ReadNoise, tukey_std
from noiseflow.sensors.rows import shares_rows

_MANY = 64.0
"""Electrons of read noise beyond which a count of electrons is taken as normal. Its skewness is then at most
0.385 / 64 of the noise's, and the divergence, skewness² / 12, below 4e-6 nats."""

_FAR = 1e9  # stands for infinity, DN

_NARROW = 1e-3  # width of the cell that stands for a point of Tukey's density, standard deviations: exact to 4e-8

_SPREAD = 11.0  # half width of a window of electrons, standard deviations: exp(-11²/2) < 1e-26

_CHUNK = 1 << 19  # numbers held at a time


class Grid(NamedTuple):
    """The codes of a stored image: their width and the lowest and highest value, linear units."""

    lsb: float
    low: float
    high: float


@dataclass(frozen=True)
class ManyElectrons:
    """The limit of `PixelNoise` where no single electron shows: normal noise of variance rate·gain² + read².

    Attributes:
        gain: DN per electron.
        read: the read noise, Gaussian.
        max_code: the highest code.
        min_code: the lowest code.
    """

    gain: float
    read: ReadNoise
    max_code: int
    min_code: int = 0

    def log_pmf(self, codes: IntArray, rate: FloatArray, offset: FloatArray | None = None) -> FloatArray:
        """Log probability of codes, nats; see `PixelNoise`."""
        std = np.sqrt(rate * self.gain**2 + self.read.std**2)
        centred = codes - rate * self.gain - (0.0 if offset is None else offset)
        lower = np.where(codes > self.min_code, centred - 0.5, -_FAR) / std
        upper = np.where(codes < self.max_code, centred + 0.5, _FAR) / std
        return log_normal_interval(torch.from_numpy(lower), torch.from_numpy(upper)).numpy()


class Electronics(NamedTuple):
    """What one camera at one ISO makes of light.

    Attributes:
        white_e: electrons that fill a pixel to white.
        read: standard deviation of the read noise of a pixel, linear units.
        tukey_lambda: shape of the read noise, above -0.25: Tukey's lambda distribution; None where it is normal.
        row: standard deviation of the offset that the pixels of a sensor row share, linear units.
    """

    white_e: float
    read: float
    tukey_lambda: float | None = None
    row: float = 0.0

    def __str__(self) -> str:
        tails = "" if self.tukey_lambda is None else f" (Tukey lambda {self.tukey_lambda:.3f})"
        row = f", row noise {self.row * self.white_e:.3g} electrons" if self.row else ""
        return f"{self.white_e:.4g} electrons at white, read noise {self.read * self.white_e:.3g} electrons{tails}{row}"

    def read_noise(self, dn: float = 1.0, *, row: bool = False) -> ReadNoise:
        """The read noise of a pixel in units of dn, with `row` that of its row added."""
        shared = self.row / dn if row else 0.0
        if self.tukey_lambda is None:
            return ReadNoise(math.hypot(self.read / dn, shared))
        return ReadNoise(shared, self.read / dn / tukey_std(self.tukey_lambda), self.tukey_lambda)

    def pixel(self, dn: float, min_code: int, max_code: int, *, row: bool = False) -> PixelNoise:
        """The exact probabilities of codes.

        Args:
            dn: width of a code, linear units.
            min_code: lowest code.
            max_code: highest code.
            row: whether the row noise takes part, as it does for a pixel on its own; without, it is the noise of a
                pixel whose row's offset is known.
        """
        read, gain = self.read_noise(dn, row=row), 1.0 / (self.white_e * dn)
        kind = PixelNoise if self.counts(dn) or self.tukey_lambda is not None else ManyElectrons
        return cast(PixelNoise, kind(gain, read, max_code, min_code))  # the limit has all that a PixelNoise has

    def counts(self, dn: float) -> bool:
        """Whether single electrons show, under read noise and rounding to codes of width dn."""
        return self.white_e * math.hypot(self.read, self.row, dn / math.sqrt(12)) <= _MANY

    def log_mass(self, stored: FloatArray, clean: FloatArray, grid: Grid) -> FloatArray:
        """Log probability of stored values, each on its own, nats, `(n,)`.

        Args:
            stored: `(n,)`, linear units; taken to the nearest code where lsb > 0.
            clean: `(n,)`, linear units.
            grid: the codes; with lsb = 0, the log density inside and the log probability of the tails at the ends.
        """
        rate = np.maximum(clean, 0.0) * self.white_e
        if grid.lsb > 0:
            codes, first, last = codes_of(stored, grid)
            return self.pixel(grid.lsb, first, last, row=True).log_pmf(codes, rate)
        out = self._log_density(stored, rate)
        unit = math.hypot(self.read, self.row)
        threshold = self.pixel(unit, 0, 1, row=True)  # code 0 reaches up to 1/2: an offset puts the end there
        for end, code, there in ((grid.low, 0, stored <= grid.low), (grid.high, 1, stored >= grid.high)):
            n = int(there.sum())
            if n:
                out[there] = threshold.log_pmf(np.full(n, code), rate[there], np.full(n, 0.5 - end / unit))
        return out

    def log_shares(self, stored: FloatArray, clean: FloatArray, grid: Grid) -> FloatArray:
        """What values of whole sensor rows add to the log probability of their row, nats, `(rows, n)`; row > 0.

        Args:
            stored: `(rows, n)`, linear units; taken to the nearest code.
            clean: `(rows, n)`, linear units.
            grid: the codes.

        Raises:
            NoDensityError: lsb = 0.
        """
        if grid.lsb == 0:
            raise NoDensityError("physics with row noise has the probability of codes only: expected lsb > 0, got 0")
        codes, first, last = codes_of(stored, grid)
        pixel = self.pixel(grid.lsb, first, last)
        return shares_rows(pixel, self.row / grid.lsb, codes, np.maximum(clean, 0.0) * self.white_e)

    def _log_density(self, value: FloatArray, rate: FloatArray) -> FloatArray:
        """Log density of values on their own, 1/linear units."""
        read = self.read_noise(row=True)
        if read.tukey_dn == 0:
            return _log_poisson_gaussian(value * self.white_e, read.std * self.white_e, rate) + math.log(self.white_e)
        width = _NARROW * read.std
        cell = self.pixel(width, -1, 1, row=True)  # code 0 is its only closed cell
        # Rounded, so that recorded values, which lie on a lattice, stay few distinct ones: `log_pmf` is fast on those.
        offset = np.round(-value / width, 6)
        return cell.log_pmf(np.zeros(value.shape, dtype=np.int64), rate, offset) - math.log(width)


def _log_poisson_gaussian(value: FloatArray, std: float, rate: FloatArray) -> FloatArray:
    """log Σ_e Poisson(e; rate)·N(value; e, std²), all in electrons, `(n,)`.

    Both factors are log-concave in e, the second with curvature 1/std²: a window of some std around the peak of their
    product holds all that matters. With log Γ' ≈ log(e + ½) the peak solves u + std²·log u = value + ½ + std²·log rate
    for u = e + ½; Newton's method in log u descends to it from the right.
    """
    out = np.empty(value.shape)
    offsets = np.arange(2 * math.ceil(_SPREAD * std + 2.0) + 1)
    step = max(1, _CHUNK // offsets.size)
    for start in range(0, value.size, step):
        y, expected = value[start : start + step], rate[start : start + step]
        log_rate = log_of_rate(expected)
        target = y + 0.5 + std**2 * log_rate
        v = np.minimum(np.log(np.maximum(target, 1.0)), target / std**2)
        for _ in range(8):
            u = np.exp(v)
            v -= (u + std**2 * v - target) / (u + std**2)
        first = np.maximum(np.floor(np.exp(v) - 0.5) - offsets.size // 2, 0.0)
        electrons = first[:, None] + offsets
        terms = electrons * log_rate[:, None] - special.gammaln(electrons + 1.0)
        terms -= 0.5 * ((y[:, None] - electrons) / std) ** 2
        peak = terms.max(axis=1)
        total = np.log(np.exp(terms - peak[:, None]).sum(axis=1)) + peak - expected
        out[start : start + step] = total - math.log(std * math.sqrt(2 * math.pi))
    return out


def codes_of(stored: FloatArray, grid: Grid) -> tuple[IntArray, int, int]:
    """The codes of stored values, the lowest and the highest code there is.

    Where nothing was clipped there is no such code: the next one beyond the values stands for it, and none has it.
    """
    codes = np.rint(stored / grid.lsb)
    clipped = [end if abs(end) < UNCLIPPED else None for end in (grid.low, grid.high)]
    first = codes.min(initial=0.0) - 1 if clipped[0] is None else round(clipped[0] / grid.lsb)
    last = codes.max(initial=0.0) + 1 if clipped[1] is None else round(clipped[1] / grid.lsb)
    return np.clip(codes, first, last).astype(np.int64), int(first), int(last)


def to_sensor_rows(planes: FloatArray) -> FloatArray:
    """Put the pixels of a sensor row together: `(..., 4, H, W)` to `(..., 2, H, 2W)`, and mono stays as it is.

    Packed channels are R and the G beside it, then the other G and the B beside it, whatever the sensor's pattern.
    """
    *batch, channels, height, width = planes.shape
    beside = 2 if channels == 4 else 1
    split = planes.reshape(*batch, channels // beside, beside, height, width)
    return np.moveaxis(split, -3, -2).reshape(*batch, channels // beside, height, beside * width)


def from_sensor_rows(rows: FloatArray) -> FloatArray:
    """What `to_sensor_rows` was given."""
    *batch, kinds, height, length = rows.shape
    split = rows.reshape(*batch, kinds, height, kinds, length // kinds)
    return np.moveaxis(split, -2, -3).reshape(*batch, kinds * kinds, height, length // kinds)
