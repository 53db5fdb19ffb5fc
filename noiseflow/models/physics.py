"""The physics of a sensor as a noise model: electrons and read noise.

    y = e / white_e + r,   e ~ Poisson(max(clean, 0)·white_e),   noise = y − clean

with white_e the electrons that fill a pixel to white and r the read noise, normal.
What the sensor stores of y has an exact probability (`noiseflow.sensors.pmf`): no density is put in the place of codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow import randomness
from noiseflow.cells import log_normal_interval
from noiseflow.conditions import Conditions
from noiseflow.models.base import FittedModel, NoDensityError
from noiseflow.noise_level import NoiseLevel
from noiseflow.sensors.pmf import FloatArray, IntArray, PixelNoise
from noiseflow.shot import Shot

_MANY = 64.0
"""Electrons of read noise beyond which a count of electrons is taken as normal. Its skewness is then at most
0.385 / 64 of the noise's, and the divergence, skewness² / 12, below 4e-6 nats."""

_FAR = 1e9  # stands for infinity, DN

_ELECTRONS, _READ = 201, 202  # streams of random numbers


class Grid(NamedTuple):
    """The codes of a stored image: their width and the lowest and highest value, linear units."""

    lsb: float
    low: float
    high: float


@dataclass(frozen=True)
class ManyElectrons:
    """The limit of `PixelNoise` where no single electron shows: normal noise of variance rate·gain² + read_noise².

    Attributes:
        gain: DN per electron.
        read_noise: standard deviation of the read noise, DN.
        max_code: the highest code; the lowest is 0.
    """

    gain: float
    read_noise: float
    max_code: int

    def log_pmf(self, codes: IntArray, rate: FloatArray) -> FloatArray:
        """Log probability of codes, nats; see `PixelNoise`."""
        std = np.sqrt(rate * self.gain**2 + self.read_noise**2)
        centred = codes - rate * self.gain
        lower = np.where(codes > 0, centred - 0.5, -_FAR) / std
        upper = np.where(codes < self.max_code, centred + 0.5, _FAR) / std
        return log_normal_interval(torch.from_numpy(lower), torch.from_numpy(upper)).numpy()


class Electronics(NamedTuple):
    """What one camera at one ISO makes of light.

    Attributes:
        white_e: electrons that fill a pixel to white.
        read: standard deviation of the read noise of a pixel, linear units.
    """

    white_e: float
    read: float

    def __str__(self) -> str:
        return f"{self.white_e:.4g} electrons at white, read noise {self.read * self.white_e:.3g} electrons"

    def pixel(self, grid: Grid) -> PixelNoise | ManyElectrons:
        """The exact probabilities of the codes of a grid."""
        spread = self.white_e * math.hypot(self.read, grid.lsb / math.sqrt(12.0))  # electrons, rounding included
        kind = ManyElectrons if spread > _MANY else PixelNoise
        return kind(1.0 / (self.white_e * grid.lsb), self.read / grid.lsb, round(grid.high / grid.lsb))

    def log_mass(self, stored: FloatArray, clean: FloatArray, grid: Grid) -> FloatArray:
        """Log probability of stored values, nats, `(n,)`.

        Args:
            stored: `(n,)`, linear units; taken to the nearest code.
            clean: `(n,)`, linear units.
            grid: the codes.
        """
        pixel = self.pixel(grid)
        codes = np.clip(np.rint(stored / grid.lsb), 0, pixel.max_code).astype(np.int64)
        return pixel.log_pmf(codes, np.maximum(clean, 0.0) * self.white_e)


class Physics(FittedModel):
    """Poisson–Gaussian noise with exact code probabilities, one set of values per camera and ISO; for raw images.

    Args:
        pairs: the (camera, ISO) pairs, K of them.
        channels: 4 for packed raw, 1 for mono.

    Attributes:
        log_white_e: `(K,)`, log of the electrons that fill a pixel to white.
        log_read: `(K,)`, log of the standard deviation of the read noise, linear units.

    Raises:
        ValueError: channels = 3; developed pictures have no electrons to count.
    """

    log_white_e: Tensor
    log_read: Tensor

    def __init__(self, pairs: Iterable[tuple[str, float]], channels: int = 4) -> None:
        if channels not in (1, 4):
            raise ValueError(
                f"physics: expected raw images, of 4 channels or 1, got {channels}; nlf and the flows take pictures"
            )
        conditions = Conditions(pairs)
        super().__init__(conditions, channels)
        k = len(conditions)
        self.register_buffer("log_white_e", torch.full((k,), 6.0, dtype=torch.float64))
        self.register_buffer("log_read", torch.full((k,), -6.0, dtype=torch.float64))
        self.architecture = ("physics", {"pairs": [list(pair) for pair in conditions.pairs], "channels": channels})

    def set(self, row: int, electronics: Electronics) -> None:
        """Put the values of one (camera, ISO) pair into the table."""
        self.log_white_e[row] = math.log(electronics.white_e)
        self.log_read[row] = math.log(electronics.read)

    @property
    def table(self) -> list[Electronics]:
        """The values of every (camera, ISO) pair, in the order of `conditions.pairs`."""
        values = zip(self.log_white_e.exp().tolist(), self.log_read.exp().tolist(), strict=True)
        return [Electronics(*each) for each in values]

    def electronics(self, shot: Shot) -> list[Electronics]:
        """The values that hold for each row of a batch."""
        place = self.conditions.locate(shot)
        white, read = (place.read(v[:, None]).double()[:, 0].exp() for v in (self.log_white_e, self.log_read))
        return [Electronics(*values) for values in zip(white.tolist(), read.tolist(), strict=True)]

    def noise_level(self) -> NoiseLevel:
        """The noise level function, variance = a·clean + b before rounding and clip, that these values amount to."""
        level = NoiseLevel(self.conditions)
        with torch.no_grad():
            level.log_a[:, 0] = -self.log_white_e
            level.log_b[:, 0] = 2 * self.log_read
        return level.freeze()

    def parameter_count(self) -> int:
        """Number of fitted values."""
        return 2 * len(self.conditions)

    def log_prob(self, noise: Tensor, shot: Shot) -> Tensor:
        """Not available: see `log_mass`.

        Raises:
            NoDensityError: always.
        """
        raise NoDensityError("physics gives probabilities of codes: use log_mass")

    @torch.no_grad()
    def log_mass(self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0) -> Tensor:
        """Log probability of the stored codes, nats, `(B,)`, float64: exact, whatever the seed."""
        return self._pixels(noisy, shot).sum(dim=(1, 2, 3))

    @torch.no_grad()
    def log_mass_map(self, noisy: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b h w"]:
        """Where the log probability comes from: the share of every packed position, nats; they add up to `log_mass`."""
        return self._pixels(noisy, shot).sum(dim=1)

    def _pixels(self, noisy: Tensor, shot: Shot) -> Tensor:
        """Log probability of every stored value, nats, `(B, C, H, W)`, float64."""
        self.check_channels(noisy)
        stored, clean = (v.double().numpy(force=True) for v in (noisy, shot.clean))
        out = np.empty(stored.shape)
        for electronics, grid, planes in self._groups(shot):
            part = electronics.log_mass(stored[planes].reshape(-1), clean[planes].reshape(-1), grid)
            out[planes] = part.reshape(-1, *out.shape[2:])
        return torch.from_numpy(out).to(noisy.device)

    def _groups(self, shot: Shot) -> Iterator[tuple[Electronics, Grid, tuple[list[int], list[int]]]]:
        """The planes (rows, channels) of a batch that have their electronics and their grid in common."""
        groups: dict[tuple[Electronics, Grid], tuple[list[int], list[int]]] = {}
        grids = torch.stack((shot.lsb, shot.low, shot.high), dim=-1).double().tolist()
        for row, electronics in enumerate(self.electronics(shot)):
            for channel in range(self.channels):
                rows, channels = groups.setdefault((electronics, Grid(*grids[row][channel])), ([], []))
                rows.append(row)
                channels.append(channel)
        for (electronics, grid), planes in groups.items():
            yield electronics, grid, planes

    @torch.no_grad()
    def sample(self, shot: Shot, *, seed: int | Tensor) -> Tensor:
        """Draw latent noise, linear units, in clean's dtype."""
        from noiseflow.sensors.truth import _poisson_quantile

        self.check_channels(shot.clean)
        b, c, h, w = shot.clean.shape
        u = randomness.uniform(seed, (b, c, h, w), stream=_ELECTRONS, origin=shot.origin).numpy()
        z = randomness.normal(seed, (b, c, h, w), stream=_READ, origin=shot.origin).numpy()
        clean = shot.clean.double().numpy(force=True)
        noise = np.empty(clean.shape)
        for row, (white_e, read) in enumerate(self.electronics(shot)):
            rate = np.maximum(clean[row], 0.0) * white_e
            electrons = _poisson_quantile(u[row].reshape(-1), rate.reshape(-1)).reshape(rate.shape)
            noise[row] = electrons / white_e + read * z[row] - clean[row]
        return torch.from_numpy(noise).to(shot.clean)
