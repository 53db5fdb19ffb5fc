"""Virtual cameras that know the exact probability of every code they write.

A `VirtualSensor` turns light into codes as a real one does: electrons arrive as a Poisson number, read noise
joins before the gain (in electrons) and after it (in DN), the converter rounds and clips. Its log probability
of a code is a finite sum, so a model's distance from it is the true Kullback–Leibler divergence in nats, with
no data set needed. `PHONES` holds five of them; `SensorTruth` offers them as a noise model.

Codes are counted from black: code 0 is the black level, code `white_dn - black_dn` is the white level.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

from noiseflow import randomness
from noiseflow.errors import UserError
from noiseflow.models.base import NoDensityError
from noiseflow.shot import CFA_PATTERNS, Shot

STANDARD_ISOS = (100, 400, 800, 1600, 3200)
"""The ISO speeds that a simulated data set offers, where the camera's table reaches them."""

_SPREAD = 11.0  # half width of a window of electrons in read-noise standard deviations: exp(-11²/2) < 1e-26
_SLACK = 8.0  # how far, in the same unit, the tabulated band reaches beyond a window centred on its code
_CERTAIN = 9.0  # where the normal CDF is 1 to double precision, standard deviations
_NEVER = -1e30  # stands for log 0: finite, so that differences of two of them are not NaN
_DARK_LOG_RATE = -1e5  # stands for the log of a rate of 0: every electron costs more than any read noise
_CHUNK = 1 << 19  # numbers held at a time by `log_pmf`
_ELECTRONS, _READ_NOISE = 101, 102  # streams of random numbers

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


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
        table = _cell_table(self, float(iso))
        rate = np.maximum(signal, 0.0).reshape(-1) * self.white_e(iso)
        flat = code.reshape(-1).astype(np.int64)
        out = np.empty(flat.shape)
        step = max(1, _CHUNK // table.window)
        for start in range(0, flat.size, step):
            part = slice(start, start + step)
            out[part] = table.log_pmf(flat[part], rate[part])
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


class _CellTable(NamedTuple):
    """The table log([F(upper) − F(lower)] / e!) of one sensor and ISO, for each code over a band of electrons."""

    gain: float  # DN per electron
    read_noise: float  # DN
    max_code: int
    half_window: float  # electrons
    window: int  # electrons in a window
    certain: int  # from this number of electrons on, the highest cell is certain
    first: IntArray  # (codes,), lowest electron of each band
    band: FloatArray  # (codes, width)

    def log_pmf(self, codes: IntArray, rate: FloatArray) -> FloatArray:
        """Log probabilities of `(n,)` codes at `(n,)` rates, n·window numbers in memory."""
        log_rate = np.full(rate.shape, _DARK_LOG_RATE)
        np.log(rate, out=log_rate, where=rate > 0)
        start = self._window_start(codes, log_rate)
        in_band = start - self.first[codes]
        tabulated = (in_band >= 0) & (in_band + self.window <= self.band.shape[1])
        windows = np.lib.stride_tricks.sliding_window_view(self.band.reshape(-1), self.window)
        terms = windows[np.where(tabulated, codes * self.band.shape[1] + in_band, 0)]
        if not tabulated.all():
            rest = ~tabulated
            electrons = start[rest, None] + np.arange(self.window)
            terms[rest] = self.cell(codes[rest, None], electrons)
        terms += np.arange(self.window) * log_rate[:, None]
        peak = terms.max(axis=1)
        terms -= peak[:, None]
        total: FloatArray = np.log(np.exp(terms, out=terms).sum(axis=1)) + peak + start * log_rate - rate
        top = codes == self.max_code
        if top.any():
            total[top] = np.logaddexp(total[top], _log_poisson_tail(self.certain, rate[top], log_rate[top]))
        return total

    def cell(self, codes: IntArray, electrons: IntArray) -> FloatArray:
        """Logarithm of [F(upper) − F(lower)] / e!, `_NEVER` where the Poisson tail takes over."""
        signal = self.gain * electrons
        lower = np.where(codes > 0, codes - 0.5 - signal, -np.inf) / self.read_noise
        upper = np.where(codes < self.max_code, codes + 0.5 - signal, np.inf) / self.read_noise
        # The normal CDF is used on its left side, where its logarithm is accurate.
        flip = lower + upper > 0
        lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
        log_upper = special.log_ndtr(upper)
        with np.errstate(divide="ignore"):
            mass: FloatArray = log_upper + np.log(-np.expm1(special.log_ndtr(lower) - log_upper))
        mass = np.maximum(mass - special.gammaln(electrons + 1.0), _NEVER)
        mass[np.broadcast_to((codes == self.max_code) & (electrons >= self.certain), mass.shape)] = _NEVER
        return mass

    def _window_start(self, codes: IntArray, log_rate: FloatArray) -> IntArray:
        """First electron of a window around the peak of Poisson(e; λ)·cell(e).

        With the cell as a Gaussian around c/K with variance s² and log Γ' ≈ log(e + ½), the peak solves
        u + s²·log u = c/K + ½ + s²·log λ for u = e + ½. In v = log u the left side is convex and rising, and
        Newton's method descends to the root from any point right of it.
        """
        variance = (self.read_noise / self.gain) ** 2
        centre = _code_edge(codes, self.max_code) / self.gain
        target = centre + 0.5 + variance * log_rate
        v = np.minimum(np.log(np.maximum(target, 1.0)), target / variance)
        for _ in range(6):
            u = np.exp(v)
            v -= (u + variance * v - target) / (u + variance)
        peak = np.exp(v) - 0.5
        peak = np.where(codes == self.max_code, np.minimum(peak, self.certain), peak)
        start: IntArray = np.maximum(np.floor(peak - self.half_window), 0.0).astype(np.int64)
        return start


def _code_edge(codes: IntArray, max_code: int) -> FloatArray:
    """Middle of a cell, DN; for the two open cells the edge that they have."""
    return np.clip(codes, 0.5, max_code - 0.5)


@functools.lru_cache(maxsize=16)
def _cell_table(sensor: VirtualSensor, iso: float) -> _CellTable:
    gain, read_noise = sensor.gain(iso), sensor.read_noise_dn(iso)
    spread = read_noise / gain
    half_window = _SPREAD * spread + 1.0 / gain + 2.0
    reach = half_window + _SLACK * spread
    codes = np.arange(sensor.max_code + 1)
    centre = _code_edge(codes, sensor.max_code) / gain
    table = _CellTable(
        gain=gain,
        read_noise=read_noise,
        max_code=sensor.max_code,
        half_window=half_window,
        window=2 * math.ceil(half_window) + 1,
        certain=math.ceil(centre[-1] + _CERTAIN * spread),
        first=np.maximum(np.floor(centre - reach), 0.0).astype(np.int64),
        band=np.empty((0, 0)),
    )
    electrons = table.first[:, None] + np.arange(2 * math.ceil(reach) + 1)
    return table._replace(band=table.cell(codes[:, None], electrons))


def _log_poisson_tail(first: int, rate: FloatArray, log_rate: FloatArray) -> FloatArray:
    """Logarithm of P(e >= first), e ~ Poisson(rate), also where the probability itself underflows."""
    tail = special.gammainc(first, rate)
    with np.errstate(divide="ignore"):
        out: FloatArray = np.log(tail)
    deep = tail < 1e-280
    if deep.any():
        # P = Poisson(first)·(1 + λ/(first + 1) + λ²/((first + 1)(first + 2)) + …); so deep in the tail λ is
        # far below `first`, and the terms fall fast.
        ratio = rate[deep]
        term, total = np.ones_like(ratio), np.ones_like(ratio)
        for k in range(1, 400):
            term = term * (ratio / (first + k))
            total += term
        out[deep] = first * log_rate[deep] - ratio - special.gammaln(first + 1.0) + np.log(total)
    return out


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


# Slopes: the noise level functions published with SIDD (Abdelhamed, Lin and Brown 2018) as used by Noise Flow
# (Abdelhamed, Brubaker and Brown 2019), column beta1 of the table "cam_iso_nlf". Its intercepts are rounding
# placeholders in most rows, hence the read noise of `VirtualSensor`. IP's published slope does not move with
# ISO, which no sensor does: it gets 7.0e-4 · ISO/100.
PHONES: dict[str, VirtualSensor] = {
    sensor.name: sensor
    for sensor in (
        VirtualSensor("IP", "RGGB", 12, 528, 4095, ((100, 7.0e-4), (1600, 1.12e-2))),
        VirtualSensor(
            "GP",
            "BGGR",
            10,
            64,
            1023,
            ((100, 0.000228), (400, 0.000886), (800, 0.001764), (1600, 0.003519), (3200, 0.007029)),
        ),
        VirtualSensor(
            "S6",
            "GRBG",
            10,
            0,
            1023,
            ((100, 0.000479), (400, 0.001774), (800, 0.003696), (1600, 0.008211), (3200, 0.019930)),
        ),
        VirtualSensor(
            "N6",
            "GBRG",
            10,
            42,
            1023,
            ((100, 0.000473), (400, 0.001760), (800, 0.003476), (1600, 0.006909), (3200, 0.013773)),
        ),
        VirtualSensor("G4", "BGGR", 10, 64, 1023, ((100, 0.000739), (400, 0.001860), (800, 0.003356))),
    )
}
"""Five virtual phones, named after SIDD's."""


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
            logs = sensor.log_pmf(codes.astype(np.int64), clean[rows], iso)
            out[rows] = [row.sum() for row in logs]
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
