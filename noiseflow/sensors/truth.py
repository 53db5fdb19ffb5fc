"""Virtual sensors as a noise model: the best score that any model of them can reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

from noiseflow import randomness
from noiseflow.errors import UserError
from noiseflow.models.base import NoDensityError
from noiseflow.sensors.pmf import FloatArray, IntArray
from noiseflow.sensors.virtual import VirtualSensor
from noiseflow.shot import Shot

_ELECTRONS, _READ_NOISE = 101, 102  # streams of random numbers


class SensorTruth:
    """The noise model that a set of virtual sensors really is: the best score that any model can reach.

    Attributes:
        sensors: the sensors by camera name.
        cameras: their names.
        noise_domain: "recorded": samples are rounded and clipped as the sensor does.
        packing: order of the channels of packed raw.
    """

    noise_domain = "recorded"
    packing = "RGGB"

    def __init__(self, sensors: Sequence[VirtualSensor]) -> None:
        self.sensors = {sensor.name: sensor for sensor in sensors}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras that it knows."""
        return tuple(self.sensors)

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> SensorTruth:
        """Build it from a parsed `sensor.json`.

        Raises:
            UserError: the description is not one that `simulate` wrote.
        """
        if description.get("format") != 1 or not isinstance(description.get("sensors"), Mapping):
            raise UserError(
                f"sensor.json: expected format 1 with a table of sensors, got format {description.get('format')!r}"
            )
        return cls([VirtualSensor.from_dict(values) for values in description["sensors"].values()])

    def log_prob(self, noise: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b"]:
        """Not available: what a sensor writes is discrete.

        Raises:
            NoDensityError: always.
        """
        raise NoDensityError("a virtual sensor writes codes and has no density: use log_mass")

    def log_mass(
        self, noisy: Float[Tensor, "b c h w"], shot: Shot, *, seed: int | Int[Tensor, "b"] = 0
    ) -> Float[Tensor, "b"]:
        """Exact log probability of recorded images, summed over C·H·W.

        Args:
            noisy: `(B, C, H, W)`, stored codes times lsb, linear units.
            shot: clean signal and condition of each row.
            seed: unused, nothing is drawn.

        Returns:
            `(B,)`, float64, nats.
        """
        return self.log_mass_map(noisy, shot).sum(dim=(1, 2))

    def log_mass_map(self, noisy: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b h w"]:
        """Exact log probability of every pixel's codes, summed over channels.

        Raises:
            ValueError: a camera is unknown, or noisy is not on the camera's code grid.
            UserError: a camera's table does not reach the ISO.
        """
        if noisy.shape != shot.clean.shape:
            raise ValueError(f"noisy: expected {tuple(shot.clean.shape)}, got {tuple(noisy.shape)}")
        stored = noisy.detach().cpu().double().numpy()
        clean = shot.clean.detach().cpu().double().numpy()
        out = np.empty((len(shot), *stored.shape[-2:]))
        for sensor, iso, rows in self._groups(shot):
            level = stored[rows] * sensor.max_code
            codes = np.rint(level)
            if not (np.abs(level - codes) < 0.01).all():
                raise ValueError(f"noisy: expected multiples of lsb = 1/{sensor.max_code} for camera {sensor.name}")
            out[rows] = sensor.log_pmf(codes.astype(np.int64), clean[rows], iso).sum(axis=1)
        return torch.from_numpy(out).to(noisy.device)

    def sample(self, shot: Shot, *, seed: int | Int[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
        """Recorded noise, code·lsb − clean, in clean's shape, dtype and device.

        A pure function of (seed, channel, row, column) and of the pixel's condition. Rows that share seed and
        origin share their random numbers.

        Raises:
            ValueError: a camera is unknown.
            UserError: a camera's table does not reach the ISO.
        """
        b, c, h, w = shot.clean.shape
        shape = (b, c, h, w)
        u = randomness.uniform(seed, shape, stream=_ELECTRONS, origin=shot.origin).cpu().numpy()
        z = randomness.normal(seed, shape, stream=_READ_NOISE, origin=shot.origin).cpu().numpy()
        clean = shot.clean.detach().cpu().double().numpy()
        noise = np.empty(shape)
        for sensor, iso, rows in self._groups(shot):
            rate = np.maximum(clean[rows], 0.0) * sensor.white_e(iso)
            electrons = _poisson_quantile(u[rows].reshape(-1), rate.reshape(-1)).reshape(rate.shape)
            codes = sensor._convert(sensor.gain(iso) * electrons + sensor.read_noise_dn(iso) * z[rows])
            noise[rows] = codes * sensor.lsb - clean[rows]
        return torch.from_numpy(noise).to(shot.clean)

    def _groups(self, shot: Shot) -> Iterator[tuple[VirtualSensor, float, IntArray]]:
        """The rows of each camera and ISO."""
        rows: dict[tuple[str, float], list[int]] = {}
        for row, (name, iso) in enumerate(zip(shot.camera_names, shot.iso.tolist(), strict=True)):
            rows.setdefault((name, iso), []).append(row)
        for (name, iso), members in rows.items():
            if name not in self.sensors:
                raise ValueError(f"camera: expected one of {', '.join(self.sensors)}, got {name!r}, an unknown one")
            yield self.sensors[name], iso, np.asarray(members, dtype=np.int64)


def _poisson_quantile(u: FloatArray, rate: FloatArray) -> FloatArray:
    """The smallest e with P(E <= e) >= u, E ~ Poisson(rate): a Cornish–Fisher guess, then single steps."""
    z = special.ndtri(u)
    guess = np.maximum(np.floor(rate + np.sqrt(rate) * z + (z * z - 1.0) / 6.0), 0.0)
    walking = np.flatnonzero(special.pdtr(guess, rate) < u)
    while walking.size:
        guess[walking] += 1.0
        walking = walking[special.pdtr(guess[walking], rate[walking]) < u[walking]]
    walking = np.flatnonzero(guess > 0)
    while walking.size:
        walking = walking[special.pdtr(guess[walking] - 1.0, rate[walking]) >= u[walking]]
        guess[walking] -= 1.0
        walking = walking[guess[walking] > 0]
    return guess
