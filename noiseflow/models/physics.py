"""The physics of a sensor as a noise model: counted electrons, read noise and row noise, one set per camera and ISO.

noise = y − clean,   y = e / white_e + r + o      (`noiseflow.models.electronics`)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from noiseflow import randomness
from noiseflow.conditions import Conditions
from noiseflow.models.base import FittedModel, NoDensityError
from noiseflow.models.electronics import Electronics, Grid, from_sensor_rows, to_sensor_rows
from noiseflow.noise_level import NoiseLevel
from noiseflow.sensors.poisson import poisson_quantile
from noiseflow.shot import Shot

_ELECTRONS, _READ, _ROW = 201, 202, 203  # streams of random numbers


class Physics(FittedModel):
    """Counted electrons, read noise and row noise with exact code probabilities; for raw images.

    Args:
        pairs: the (camera, ISO) pairs, K of them.
        channels: 4 for packed raw, 1 for mono.

    Attributes:
        log_white_e: `(K,)`, log of the electrons that fill a pixel to white.
        log_read: `(K,)`, log of the standard deviation of the read noise, linear units.
        heavy: `(K,)`, whether the read noise is of Tukey's lambda distribution.
        tukey_lambda: `(K,)`, its shape; 0 where it is normal.
        row: `(K,)`, standard deviation of the row noise, linear units; 0 where there is none.

    Raises:
        ValueError: channels = 3; developed pictures have no electrons to count.
    """

    log_white_e: Tensor
    log_read: Tensor
    heavy: Tensor
    tukey_lambda: Tensor
    row: Tensor

    def __init__(self, pairs: Iterable[tuple[str, float]], channels: int = 4) -> None:
        if channels not in (1, 4):
            raise ValueError(
                f"physics: expected raw images, of 4 channels or 1, got {channels}; nlf and the flows take pictures"
            )
        conditions = Conditions(pairs)
        super().__init__(conditions, channels)
        k = len(conditions)
        for name, start in (("log_white_e", 6.0), ("log_read", -6.0), ("tukey_lambda", 0.0), ("row", 0.0)):
            self.register_buffer(name, torch.full((k,), start, dtype=torch.float64))
        self.register_buffer("heavy", torch.zeros(k, dtype=torch.bool))
        self.architecture = ("physics", {"pairs": [list(pair) for pair in conditions.pairs], "channels": channels})

    def set(self, row: int, electronics: Electronics) -> None:
        """Put the values of one (camera, ISO) pair into the table."""
        self.log_white_e[row] = math.log(electronics.white_e)
        self.log_read[row] = math.log(electronics.read)
        self.heavy[row] = electronics.tukey_lambda is not None
        self.tukey_lambda[row] = electronics.tukey_lambda or 0.0
        self.row[row] = electronics.row

    @property
    def table(self) -> list[Electronics]:
        """The values of every (camera, ISO) pair, in the order of `conditions.pairs`."""
        return _electronics(self.log_white_e, self.log_read, self.tukey_lambda, self.row, self.heavy)

    def electronics(self, shot: Shot) -> list[Electronics]:
        """The values that hold for each row of a batch; between two ISOs they are interpolated."""
        place = self.conditions.locate(shot)
        values = torch.stack((self.log_white_e, self.log_read, self.tukey_lambda, self.row), dim=1)
        heavy = self.heavy[place.lower] | self.heavy[place.upper]
        white, read, tukey, shared = place.read(values).T
        return _electronics(white, read, tukey, shared, heavy)

    def noise_level(self) -> NoiseLevel:
        """The noise level function, variance = a·clean + b before rounding and clip, that these values amount to."""
        level = NoiseLevel(self.conditions).freeze()
        level.log_a[:, 0] = -self.log_white_e
        level.log_b[:, 0] = torch.log(torch.exp(2 * self.log_read) + self.row**2)
        return level

    def parameter_count(self) -> int:
        """Number of fitted values."""
        return 2 * len(self.conditions) + int(self.heavy.sum()) + int((self.row > 0).sum())

    @torch.no_grad()
    def log_prob(self, noise: Tensor, shot: Shot) -> Tensor:
        """Log density of noise before rounding and clip, nats, `(B,)`, in noise's dtype.

        Raises:
            NoDensityError: a row of the batch has row noise, which makes all pixels of a sensor row one density.
        """
        self.check_channels(noise)
        out = torch.empty(noise.shape, dtype=torch.float64)
        clean = shot.clean.double()
        endless = Grid(0.0, -math.inf, math.inf)
        for i, electronics in enumerate(self.electronics(shot)):
            if electronics.row:
                raise NoDensityError("physics with row noise has the probability of codes only: use log_mass")
            value, signal = ((v.reshape(-1).numpy(force=True)) for v in (clean[i] + noise[i].double(), clean[i]))
            out[i] = torch.from_numpy(electronics.log_mass(value, signal, endless)).reshape(out[i].shape)
        return out.sum(dim=(1, 2, 3)).to(noise)

    @torch.no_grad()
    def log_mass(self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0) -> Tensor:
        """Log probability of the stored codes, nats, `(B,)`, float64: exact, whatever the seed.

        Pixels of a sensor row are taken together as far as the images hold them.

        Raises:
            NoDensityError: there is row noise and lsb = 0.
            ValueError: there is row noise, and pixels of one sensor row have different code grids.
        """
        return self._shares(noisy, shot).sum(dim=(1, 2, 3))

    @torch.no_grad()
    def log_mass_map(self, noisy: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b h w"]:
        """Where the log probability comes from: the share of every packed position, nats; they add up to `log_mass`."""
        return self._shares(noisy, shot).sum(dim=1)

    def _shares(self, noisy: Tensor, shot: Shot) -> Tensor:
        """What every stored value adds to the log probability, nats, `(B, C, H, W)`, float64."""
        self.check_channels(noisy)
        stored, clean = (v.double().numpy(force=True) for v in (noisy, shot.clean))
        out = np.empty(stored.shape)
        by_image: dict[tuple[Electronics, Grid], list[int]] = {}
        for (electronics, grid), planes in self._groups(shot).items():
            if electronics.row:
                by_image[electronics, grid] = sorted(set(planes[0]))
                continue
            part = electronics.log_mass(stored[planes].reshape(-1), clean[planes].reshape(-1), grid)
            out[planes] = part.reshape(-1, *out.shape[2:])
        for (electronics, grid), images in by_image.items():
            if not bool((shot.lsb[images] == shot.lsb[images, :1]).all()):
                raise ValueError(
                    "physics: expected one code grid in all channels where there is row noise, got several"
                )
            row, signal = (to_sensor_rows(v[images]) for v in (stored, clean))
            length = row.shape[-1]
            part = electronics.log_shares(row.reshape(-1, length), signal.reshape(-1, length), grid)
            out[images] = from_sensor_rows(part.reshape(row.shape))
        return torch.from_numpy(out).to(noisy.device)

    def _groups(self, shot: Shot) -> dict[tuple[Electronics, Grid], tuple[list[int], list[int]]]:
        """The planes (rows, channels) of a batch that have their electronics and their grid in common."""
        groups: dict[tuple[Electronics, Grid], tuple[list[int], list[int]]] = {}
        grids = torch.stack((shot.lsb, shot.low, shot.high), dim=-1).double().tolist()
        for row, electronics in enumerate(self.electronics(shot)):
            for channel in range(self.channels):
                rows, channels = groups.setdefault((electronics, Grid(*grids[row][channel])), ([], []))
                rows.append(row)
                channels.append(channel)
        return groups

    @torch.no_grad()
    def sample(self, shot: Shot, *, seed: int | Tensor) -> Tensor:
        """Draw latent noise, linear units, in clean's dtype."""
        self.check_channels(shot.clean)
        b, c, h, w = shot.clean.shape
        u, v = (
            randomness.uniform(seed, (b, c, h, w), stream=stream, origin=shot.origin).numpy()
            for stream in (_ELECTRONS, _READ)
        )
        # A sensor row's offset is the number at column 0 of its frame, on the channel that counts packed rows' halves.
        assert shot.origin is not None
        kinds = 2 if c == 4 else 1
        edge = torch.stack((shot.origin[:, 0], torch.zeros_like(shot.origin[:, 1])), dim=1)
        offset = randomness.normal(seed, (b, kinds, h, 1), stream=_ROW, origin=edge).numpy()
        offset = np.repeat(offset, c // kinds, axis=1)  # (B, C, H, 1)
        clean = shot.clean.double().numpy(force=True)
        noise = np.empty(clean.shape)
        for i, electronics in enumerate(self.electronics(shot)):
            rate = np.maximum(clean[i], 0.0) * electronics.white_e
            electrons = poisson_quantile(u[i].reshape(-1), rate.reshape(-1)).reshape(rate.shape)
            noise[i] = electrons / electronics.white_e - clean[i]
            noise[i] += electronics.read_noise().quantile(v[i], special.ndtri(v[i])) + electronics.row * offset[i]
        return torch.from_numpy(noise).to(shot.clean)


def _electronics(log_white_e: Tensor, log_read: Tensor, tukey: Tensor, row: Tensor, heavy: Tensor) -> list[Electronics]:
    """Table columns as one `Electronics` a row."""
    columns = (log_white_e.exp(), log_read.exp(), tukey, row, heavy)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Electronics(white, read, shape if tails else None, shared) for white, read, shape, shared, tails in rows]
