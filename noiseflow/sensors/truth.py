"""Virtual sensors as a noise model: the best score that any model of them can reach."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

from noiseflow import randomness
from noiseflow.errors import UserError
from noiseflow.models.base import NoDensityError
from noiseflow.sensors.pmf import FloatArray, IntArray
from noiseflow.sensors.rows import log_mass_rows, shares_rows
from noiseflow.sensors.virtual import VirtualSensor
from noiseflow.shot import Shot

Array = TypeVar("Array", FloatArray, IntArray)

_ELECTRONS, _READ_NOISE, _TUKEY, _LINES = 101, 102, 104, 105  # streams of random numbers


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

        Raises:
            ValueError: a camera is unknown, or noisy is not on the camera's code grid.
            UserError: a camera's table does not reach the ISO.
        """
        return torch.from_numpy(self._scores(noisy, shot, None)).to(noisy.device)

    def log_mass_map(self, noisy: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b h w"]:
        """What each position contributes to `log_mass`, summed over the channels; `(B, H, W)`, float64, nats.

        Where the pixels of a row or column share an offset, a position has its pixels' shares of the line's log
        probability (`shares_rows`). Arguments and errors are those of `log_mass`.
        """
        shares = np.empty(tuple(shot.clean.shape))
        self._scores(noisy, shot, shares)
        return torch.from_numpy(shares.sum(axis=1)).to(noisy.device)

    def _scores(self, noisy: Tensor, shot: Shot, shares: FloatArray | None) -> FloatArray:
        """Log probability of each row of the batch; where `shares` is given, that of each pixel is written there."""
        if noisy.shape != shot.clean.shape:
            raise ValueError(f"noisy: expected {tuple(shot.clean.shape)}, got {tuple(noisy.shape)}")
        stored = noisy.detach().cpu().double().numpy()
        clean = shot.clean.detach().cpu().double().numpy()
        out = np.empty(len(shot))
        for sensor, iso, rows in self._groups(shot):
            level = stored[rows] * sensor.max_code
            codes = np.rint(level)
            if not (np.abs(level - codes) < 0.01).all():
                raise ValueError(f"noisy: expected multiples of lsb = 1/{sensor.max_code} for camera {sensor.name}")
            codes = codes.astype(np.int64)
            if sensor.line_noise_dn == 0:
                logs = sensor.log_pmf(codes, clean[rows], iso)
                out[rows] = [row.sum() for row in logs]
                if shares is not None:
                    shares[rows] = logs
                continue
            if codes.size and not sensor.min_code <= codes.min() <= codes.max() <= sensor.max_code:
                raise ValueError(f"noisy: expected codes from {sensor.min_code} to {sensor.max_code}, got others")
            line_codes = _lines(codes, sensor)
            line_rate = _lines(np.maximum(clean[rows], 0.0) * sensor.white_e(iso), sensor)
            known = (sensor.pixel(iso), sensor.line_noise_dn, line_codes, line_rate)
            if shares is None:
                out[rows] = log_mass_rows(*known).reshape(len(rows), -1).sum(axis=1)
            else:
                shares[rows] = _unlines(shares_rows(*known), codes.shape, sensor)
                out[rows] = [row.sum() for row in shares[rows]]
        return out

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
            part = shot.rows(rows.tolist())
            part_seed = seed if isinstance(seed, int) else torch.as_tensor(seed).expand(b)[torch.from_numpy(rows)]
            pixel, other = sensor.pixel(iso), z[rows]
            if pixel.read.tukey_dn > 0:
                other = randomness.uniform(part_seed, (len(rows), c, h, w), stream=_TUKEY, origin=part.origin).numpy()
            signal = sensor.gain(iso) * electrons + pixel.read.quantile(other, z[rows])
            if sensor.line_noise_dn > 0:
                signal += sensor.line_noise_dn * _line_normals(part_seed, part, sensor)
            noise[rows] = sensor.convert(signal) * sensor.lsb - clean[rows]
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


def _line_axes(sensor: VirtualSensor) -> tuple[int, ...]:
    """Order of the axes (image, mosaic row of the 2×2 cell, place in it, row, column) that puts sensor lines first.

    Channels are R, G on the R rows, G on the B rows, B, whatever the pattern: the first two share a sensor row, and so
    do the last two; the first and the third share a column, and so do the second and the fourth.
    """
    return (0, 1, 3, 2, 4) if sensor.row_noise_dn > 0 else (0, 2, 4, 1, 3)


def _cells_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    b, c, h, w = shape
    if c not in (1, 4):
        raise ValueError(f"noisy: expected packed raw with 4 channels or a mosaic with 1, got {c} channels")
    return (b, 2, 2, h, w) if c == 4 else (b, 1, 1, h, w)


def _lines(images: Array, sensor: VirtualSensor) -> Array:
    """`(B, C, H, W)` to sensor lines `(lines, n)`, those of an image together."""
    axes = _line_axes(sensor)
    split = images.reshape(_cells_of(images.shape)).transpose(axes)
    return split.reshape(math.prod(split.shape[:3]), math.prod(split.shape[3:]))


def _unlines(lines: FloatArray, shape: tuple[int, ...], sensor: VirtualSensor) -> FloatArray:
    """The inverse of `_lines`."""
    axes, cells = _line_axes(sensor), _cells_of(shape)
    return lines.reshape([cells[axis] for axis in axes]).transpose(np.argsort(axes)).reshape(shape)


def _line_normals(seed: int | Tensor, shot: Shot, sensor: VirtualSensor) -> FloatArray:
    """A standard normal number for each sensor line, in a shape that broadcasts over clean: a function of the line."""
    b, c, h, w = shot.clean.shape
    in_cell = 2 if c == 4 else 1
    assert shot.origin is not None  # Shot fills it in
    origin = torch.zeros_like(shot.origin)
    if sensor.row_noise_dn > 0:
        origin[:, 0] = shot.origin[:, 0]
        z = randomness.normal(seed, (b, in_cell, h, 1), stream=_LINES, origin=origin).numpy()
        return z.repeat(in_cell, axis=1)
    origin[:, 1] = shot.origin[:, 1]
    z = randomness.normal(seed, (b, in_cell, 1, w), stream=_LINES, origin=origin).numpy()
    return np.tile(z, (1, in_cell, 1, 1))


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
