"""The exact probability of a code: Poisson electrons, a gain, read noise, rounding and clip.

    P(c) = Σ_e Poisson(e; λ)·[F(c + ½ − r − K·e) − F(c − ½ − r − K·e)]

with λ the expected electrons, K the gain in DN per electron, F the CDF of the read noise in DN and r an offset in DN,
such as that of a sensor row. The lowest cell reaches to −∞ and the highest to +∞. Virtual sensors and the `physics`
model share it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from noiseflow.sensors.bands import Bands, bands
from noiseflow.sensors.heavy_tails import heavy_log_pmf
from noiseflow.sensors.read_noise import FloatArray, IntArray, ReadNoise

__all__ = ["FloatArray", "IntArray", "PixelNoise", "ReadNoise"]

_CHUNK = 1 << 19  # numbers held at a time


@dataclass(frozen=True)
class PixelNoise:
    """What turns the expected electrons of a pixel into a code.

    Attributes:
        gain: K, DN per electron.
        read: the read noise, DN.
        max_code: the highest code.
        min_code: the lowest code; below 0 where codes under the black level are stored.
    """

    gain: float
    read: ReadNoise
    max_code: int
    min_code: int = 0

    def log_pmf(self, codes: IntArray, rate: FloatArray, offset: FloatArray | None = None) -> FloatArray:
        """Exact log probability of codes, nats.

        With Gaussian read noise both factors of the sum are log-concave in e, and it is taken over a window around
        the peak of their product; with Tukey tails, over the window that holds all but 10⁻¹⁰ of it.

        Args:
            codes: `(n,)`, `min_code` to `max_code`.
            rate: `(n,)`, expected electrons, >= 0.
            offset: `(n,)`, DN, added to every pixel before rounding; none if not given. Fast where codes − offset
                takes few distinct values.
        """
        if offset is None and self.read.tukey_dn == 0:
            return _windowed(_all_bands(self), codes - self.min_code, rate)
        lower, upper, index = self._distinct_cells(codes, np.zeros(codes.shape) if offset is None else offset)
        if self.read.tukey_dn > 0:
            return heavy_log_pmf(self.gain, self.read, lower, upper, index, rate)
        out = np.empty(codes.shape)
        order = np.argsort(index, kind="stable")
        step = max(1, _CHUNK // bands(self.gain, self.read.gaussian_dn, lower[:1], upper[:1]).band.shape[1])
        for start in range(0, lower.size, step):
            part = order[slice(*np.searchsorted(index[order], (start, start + step)))]
            table = bands(self.gain, self.read.gaussian_dn, lower[start : start + step], upper[start : start + step])
            out[part] = _windowed(table, index[part] - start, rate[part])
        return out

    def edges(self, codes: IntArray) -> tuple[FloatArray, FloatArray]:
        """Lower and upper end of the codes' cells, DN; infinite at the ends of the range."""
        return (
            np.where(codes > self.min_code, codes - 0.5, -np.inf),
            np.where(codes < self.max_code, codes + 0.5, np.inf),
        )

    def _distinct_cells(self, codes: IntArray, offset: FloatArray) -> tuple[FloatArray, FloatArray, IntArray]:
        """The distinct cells (lower and upper ends, DN, shifted by the offset), and which of them each pixel has."""
        kind = (codes == self.max_code).astype(np.int64) - (codes == self.min_code)
        position = codes - offset
        index = np.empty(codes.shape, np.int64)
        lower, upper, count = [], [], 0
        for open_end in (-1, 0, 1):
            members = kind == open_end
            distinct, inverse = np.unique(position[members], return_inverse=True)
            lower.append(np.full(distinct.shape, -np.inf) if open_end < 0 else distinct - 0.5)
            upper.append(np.full(distinct.shape, np.inf) if open_end > 0 else distinct + 0.5)
            index[members] = count + inverse
            count += distinct.size
        return np.concatenate(lower), np.concatenate(upper), index


@functools.lru_cache(maxsize=16)
def _all_bands(pixel: PixelNoise) -> Bands:
    """The table of all codes of a sensor."""
    return bands(pixel.gain, pixel.read.gaussian_dn, *pixel.edges(np.arange(pixel.min_code, pixel.max_code + 1)))


def _windowed(table: Bands, index: IntArray, rate: FloatArray) -> FloatArray:
    """Log probabilities, a bounded number of pixels at a time."""
    out = np.empty(index.shape)
    step = max(1, _CHUNK // table.window)
    for start in range(0, index.size, step):
        part = slice(start, start + step)
        out[part] = table.log_pmf(index[part], rate[part])
    return out
