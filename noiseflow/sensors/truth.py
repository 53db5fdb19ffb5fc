"""Virtual sensors as a noise model: the best score that any model of them can reach."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from noiseflow import randomness
from noiseflow.errors import UserError
from noiseflow.models.base import NoDensityError
from noiseflow.sensors.correlated import LARGEST_PATCH, CorrelatedSensor
from noiseflow.sensors.pmf import FloatArray, IntArray
from noiseflow.sensors.poisson import poisson_quantile
from noiseflow.sensors.rows import log_mass_rows, shares_rows
from noiseflow.sensors.virtual import VirtualSensor
from noiseflow.shot import Shot

Array = TypeVar("Array", FloatArray, IntArray)

Sensor = VirtualSensor | CorrelatedSensor

_ELECTRONS, _READ_NOISE, _TUKEY, _LINES, _SHARED = 101, 102, 104, 105, 106  # streams of random numbers


def sensor_from_dict(values: Mapping[str, Any]) -> Sensor:
    """Build a sensor of the kind that `values["kind"]` names from what its `to_dict` gave.

    Raises:
        UserError: the kind is unknown, or a value is missing, unknown or of a wrong kind.
    """
    if values.get("kind") == "correlated":
        return CorrelatedSensor.from_dict(values)
    return VirtualSensor.from_dict(values)


class SensorTruth:
    """The noise model that a set of virtual sensors really is: the best score that any model can reach.

    Attributes:
        sensors: the sensors by camera name.
        cameras: their names.
        noise_domain: "recorded": samples are rounded and clipped as the sensor does, or not at all where it does not.
        packing: order of the channels of packed raw.
    """

    noise_domain = "recorded"
    packing = "RGGB"

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self.sensors = {sensor.name: sensor for sensor in sensors}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras that it knows."""
        return tuple(self.sensors)

    @property
    def largest_patch(self) -> int | None:
        """Side of the largest patch that it scores, pixels of the tensors: of sensors with correlated noise."""
        correlated = any(isinstance(sensor, CorrelatedSensor) for sensor in self.sensors.values())
        return LARGEST_PATCH if correlated else None

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
        return cls([sensor_from_dict(values) for values in description["sensors"].values()])

    def log_prob(self, noise: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b"]:
        """Log density `(B,)` of noise, float64, nats, summed over C·H·W; of sensors with continuous output only.

        Raises:
            NoDensityError: one of the sensors writes codes.
            ValueError: a camera is unknown, or the patch is too large.
            UserError: a camera's table does not reach the ISO.
        """
        if any(isinstance(sensor, VirtualSensor) for sensor in self.sensors.values()):
            raise NoDensityError("a virtual sensor writes codes and has no density: use log_mass")
        if noise.shape != shot.clean.shape:
            raise ValueError(f"noise: expected {tuple(shot.clean.shape)}, got {tuple(noise.shape)}")
        values, clean = _numpy(noise), _numpy(shot.clean)
        out = np.empty(len(shot))
        for sensor, iso, rows in self._groups(shot):
            assert isinstance(sensor, CorrelatedSensor)
            out[rows] = sensor.log_shares(values[rows], clean[rows], iso).reshape(len(rows), -1).sum(axis=1)
        return torch.from_numpy(out).to(noise.device)

    def log_mass(
        self, noisy: Float[Tensor, "b c h w"], shot: Shot, *, seed: int | Int[Tensor, "b"] = 0
    ) -> Float[Tensor, "b"]:
        """Exact log probability of recorded images, summed over C·H·W; log density where output is continuous.

        Args:
            noisy: `(B, C, H, W)`, stored codes times lsb, linear units.
            shot: clean signal and condition of each row.
            seed: unused, nothing is drawn.

        Returns:
            `(B,)`, float64, nats.

        Raises:
            ValueError: a camera is unknown, noisy is not on the camera's code grid, or the patch exceeds
                `largest_patch`.
            UserError: a camera's table does not reach the ISO.
        """
        return torch.from_numpy(self._scores(noisy, shot, None)).to(noisy.device)

    def log_mass_map(self, noisy: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b h w"]:
        """What each position contributes to `log_mass`, summed over the channels; `(B, H, W)`, float64, nats.

        Where the pixels of a row or column share an offset, a position has its pixels' shares of the line's log
        probability (`shares_rows`); where noise is correlated, the log density of its pixels given those before them in
        their planes, row by row. Arguments and errors are those of `log_mass`.
        """
        shares = np.empty(tuple(shot.clean.shape))
        self._scores(noisy, shot, shares)
        return torch.from_numpy(shares.sum(axis=1)).to(noisy.device)

    def _scores(self, noisy: Tensor, shot: Shot, shares: FloatArray | None) -> FloatArray:
        """Log probability of each row of the batch; where `shares` is given, that of each pixel is written there."""
        if noisy.shape != shot.clean.shape:
            raise ValueError(f"noisy: expected {tuple(shot.clean.shape)}, got {tuple(noisy.shape)}")
        stored, clean = _numpy(noisy), _numpy(shot.clean)
        out = np.empty(len(shot))
        for sensor, iso, rows in self._groups(shot):
            if isinstance(sensor, VirtualSensor) and sensor.line_noise_dn > 0 and shares is None:
                out[rows] = _log_mass_lines(sensor, iso, stored[rows], clean[rows])
                continue
            if isinstance(sensor, CorrelatedSensor):
                logs = sensor.log_shares(stored[rows] - clean[rows], clean[rows], iso)
            elif sensor.line_noise_dn > 0:
                logs = _shares_lines(sensor, iso, stored[rows], clean[rows])
            else:
                logs = sensor.log_pmf(_codes(sensor, stored[rows]), clean[rows], iso)
            out[rows] = [row.sum() for row in logs]
            if shares is not None:
                shares[rows] = logs
        return out

    def sample(self, shot: Shot, *, seed: int | Int[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
        """Recorded noise, recorded image − clean, in clean's shape, dtype and device.

        A pure function of (seed, channel, row, column) and of the pixel's condition. Rows that share seed and
        origin share their random numbers.

        Raises:
            ValueError: a camera is unknown.
            UserError: a camera's table does not reach the ISO.
        """
        noise = np.empty(tuple(shot.clean.shape))
        for sensor, iso, rows in self._groups(shot):
            part = shot.rows(rows.tolist())
            part_seed = seed if isinstance(seed, int) else torch.as_tensor(seed).expand(len(shot))[rows.tolist()]
            if isinstance(sensor, CorrelatedSensor):
                noise[rows] = _sample_correlated(sensor, iso, part, part_seed)
            else:
                noise[rows] = _sample_codes(sensor, iso, part, part_seed)
        return torch.from_numpy(noise).to(shot.clean)

    def _groups(self, shot: Shot) -> Iterator[tuple[Sensor, float, IntArray]]:
        """The rows of each camera and ISO."""
        rows: dict[tuple[str, float], list[int]] = {}
        for row, (name, iso) in enumerate(zip(shot.camera_names, shot.iso.tolist(), strict=True)):
            rows.setdefault((name, iso), []).append(row)
        for (name, iso), members in rows.items():
            if name not in self.sensors:
                raise ValueError(f"camera: expected one of {', '.join(self.sensors)}, got {name!r}, an unknown one")
            yield self.sensors[name], iso, np.asarray(members, dtype=np.int64)


def _numpy(images: Tensor) -> FloatArray:
    array: FloatArray = images.detach().cpu().double().numpy()
    return array


def _codes(sensor: VirtualSensor, stored: FloatArray) -> IntArray:
    level = stored * sensor.max_code
    codes = np.rint(level)
    if not (np.abs(level - codes) < 0.01).all():
        raise ValueError(f"noisy: expected multiples of lsb = 1/{sensor.max_code} for camera {sensor.name}")
    if codes.size and not sensor.min_code <= codes.min() <= codes.max() <= sensor.max_code:
        raise ValueError(f"noisy: expected codes from {sensor.min_code} to {sensor.max_code}, got others")
    whole: IntArray = codes.astype(np.int64)
    return whole


def _by_line(sensor: VirtualSensor, iso: float, stored: FloatArray, clean: FloatArray) -> tuple[IntArray, FloatArray]:
    """Codes and expected electrons `(lines, n)` of every sensor line."""
    rate = np.maximum(clean, 0.0) * sensor.white_e(iso)
    return _lines(_codes(sensor, stored), sensor), _lines(rate, sensor)


def _log_mass_lines(sensor: VirtualSensor, iso: float, stored: FloatArray, clean: FloatArray) -> FloatArray:
    """Log probability `(B,)` of images of a sensor with row or column noise."""
    lines = log_mass_rows(sensor.pixel(iso), sensor.line_noise_dn, *_by_line(sensor, iso, stored, clean))
    out: FloatArray = lines.reshape(len(stored), -1).sum(axis=1)
    return out


def _shares_lines(sensor: VirtualSensor, iso: float, stored: FloatArray, clean: FloatArray) -> FloatArray:
    """The pixels' shares of it, `(B, C, H, W)`."""
    shares = shares_rows(sensor.pixel(iso), sensor.line_noise_dn, *_by_line(sensor, iso, stored, clean))
    return _unlines(shares, stored.shape, sensor)


def _sample_codes(sensor: VirtualSensor, iso: float, shot: Shot, seed: int | Tensor) -> FloatArray:
    """Noise of a sensor that counts electrons and writes codes."""
    b, c, h, w = shot.clean.shape

    def uniform(stream: int) -> FloatArray:
        return randomness.uniform(seed, (b, c, h, w), stream=stream, origin=shot.origin).numpy(force=True)

    z = randomness.normal(seed, (b, c, h, w), stream=_READ_NOISE, origin=shot.origin).numpy(force=True)
    clean, pixel = _numpy(shot.clean), sensor.pixel(iso)
    rate = np.maximum(clean, 0.0) * sensor.white_e(iso)
    electrons = poisson_quantile(uniform(_ELECTRONS).reshape(-1), rate.reshape(-1)).reshape(rate.shape)
    signal = sensor.gain(iso) * electrons + pixel.read.quantile(uniform(_TUKEY) if pixel.read.tukey_dn > 0 else z, z)
    if sensor.line_noise_dn > 0:
        signal += sensor.line_noise_dn * _line_normals(seed, shot, sensor)
    noise: FloatArray = sensor.convert(signal) * sensor.lsb - clean
    return noise


def _sample_correlated(sensor: CorrelatedSensor, iso: float, shot: Shot, seed: int | Tensor) -> FloatArray:
    """Noise of a sensor whose neighbours share some: the shared normal numbers reach one pixel beyond the tile."""
    b, c, h, w = shot.clean.shape
    assert shot.origin is not None  # Shot fills it in
    own = randomness.normal(seed, (b, c, h, w), stream=_READ_NOISE, origin=shot.origin)
    shared = randomness.normal(seed, (b, c, h + 2, w + 2), stream=_SHARED, origin=shot.origin - 1)
    return sensor.noise(_numpy(shot.clean), iso, own.numpy(force=True), shared.numpy(force=True))


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
