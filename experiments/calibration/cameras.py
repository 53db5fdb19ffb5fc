"""Cameras drawn at random, the frames they take, and eight ways to spoil those."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from noiseflow.calibration import FrameSet
from noiseflow.sensors.read_noise import ReadNoise
from noiseflow.sensors.virtual import VirtualSensor
from noiseflow.shot import CFA_PATTERNS

ISOS = (100.0, 800.0)
LEVELS = (0.04, 0.1, 0.25, 0.5, 0.75)
COLOURS = np.array([[0.7, 1.0], [1.0, 0.8]])  # light of the 2×2 cell, where a lamp is not white

FAULTS = ("denoised", "clipped black", "light leak", "flicker", "moved", "mixed ISO", "lens shading", "black drift")


@dataclass(frozen=True)
class Camera:
    """A virtual sensor with what `VirtualSensor` has not: row and column noise that grow with the gain, and odd pixels.

    Attributes:
        sensor: gain, read noise, converter.
        row, column: standard deviation of what rows and columns share, of that of the read noise.
        pattern: standard deviation of pixels' own offsets, likewise.
        hot: share of hot pixels.
    """

    sensor: VirtualSensor
    row: float
    column: float
    pattern: float = 0.0
    hot: float = 0.0

    def read(self, iso: float) -> ReadNoise:
        return self.sensor.pixel(iso).read

    def row_dn(self, iso: float) -> float:
        return self.row * self.read(iso).std

    def column_dn(self, iso: float) -> float:
        return self.column * self.read(iso).std

    def scale(self, iso: float) -> float:
        """Standard deviation of the read noise, or the scale of its Tukey-lambda distribution, DN."""
        read = self.read(iso)
        return read.gaussian_dn if self.sensor.tukey_lambda is None else read.tukey_dn

    def expose(
        self, iso: float, light: np.ndarray, rng: np.random.Generator, offset: float | np.ndarray = 0.0
    ) -> np.ndarray:
        """Codes with the pedestal, uint16, of light `(N, H, W)`, 1 at white; offset is added in DN."""
        pixel = self.sensor.pixel(iso)
        count, height, width = light.shape
        sensitivity = self.sensor.sensitivity(height, width)
        own = np.random.default_rng(int.from_bytes(self.sensor.name.encode()[-6:], "big"))
        fixed = self.pattern * pixel.read.std * own.standard_normal((height, width))
        fixed += 40 * pixel.read.std * (own.random((height, width)) < self.hot)
        signal = rng.poisson(light * sensitivity * self.sensor.white_e(iso)) * pixel.gain
        z = rng.standard_normal(light.shape)
        u = rng.random(light.shape) if pixel.read.tukey_dn > 0 else z
        signal = signal + pixel.read.quantile(u, z) + fixed + offset
        signal += self.row_dn(iso) * rng.standard_normal((count, height, 1))
        signal += self.column_dn(iso) * rng.standard_normal((count, 1, width))
        codes = np.clip(np.rint(signal) + self.sensor.black_dn, 0, self.sensor.white_dn)
        return codes.astype(np.uint16)


def camera(seed: int, *, least: float = 0.5, tails: bool | None = None) -> Camera:
    """A camera drawn at random: 12 or 14 bits, normal or heavy-tailed read noise of at least `least` codes.

    Args:
        seed: draws it.
        least: read noise at ISO 100, codes: between this and four times this (its scale, with heavy tails).
        tails: heavy tails or not; drawn if not given.
    """
    rng = np.random.default_rng([seed, 1])
    bits = int(rng.choice([12, 14]))
    black, white = (512, 4095) if bits == 12 else (1024, 16383)
    gain = float(np.exp(rng.uniform(math.log(0.3), math.log(1.5)))) * (1 if bits == 12 else 2)
    drawn = bool(rng.random() < 0.5)
    heavy = drawn if tails is None else tails
    at_base = least * float(np.exp(rng.uniform(0, math.log(4))))
    share = 1.0 if heavy else float(rng.uniform(0.3, 0.8))  # of the read noise at ISO 100 that is before the gain
    slopes = tuple((iso, gain * iso / 100 / (white - black)) for iso in (100.0, 200.0, 400.0, 800.0, 1600.0))
    sensor = VirtualSensor(
        f"virtual{seed:06d}", str(rng.choice(CFA_PATTERNS)), bits, black, white, slopes,
        read_pre_e=share * at_base / gain, read_post_dn=at_base * math.sqrt(1 - share**2),
        tukey_lambda=float(rng.uniform(-0.2, 0.05)) if heavy else None,
        keep_pedestal=True, prnu=float(rng.uniform(0.003, 0.01)),
    )  # fmt: skip
    row, column = np.exp(rng.uniform(math.log(0.05), math.log(0.4), 2))
    return Camera(sensor, float(row), float(column))


def flat_light(size: int, levels: tuple[float, ...] = LEVELS, shading: float = 0.0) -> list[np.ndarray]:
    """Light of flats, `(1, size, size)` each; shading is the loss in the corners."""
    y, x = np.indices((size, size)) / (size - 1) - 0.5
    fall = 1 - shading * 2 * (x**2 + y**2)
    colours = np.tile(COLOURS, (size // 2, size // 2))
    return [(level * colours * fall)[None] for level in levels]


def shoot(
    cam: Camera, iso: float, size: int, rng: np.random.Generator, *, darks: int = 5, pairs: int = 5,
    shading: float = 0.0,
) -> FrameSet:  # fmt: skip
    """Dark frames and flat pairs."""
    black = np.zeros((darks, size, size))
    levels = tuple(LEVELS[k % len(LEVELS)] for k in range(pairs))
    return FrameSet(
        iso,
        darks=cam.expose(iso, black, rng),
        flats=tuple(cam.expose(iso, np.repeat(f, 2, axis=0), rng) for f in flat_light(size, levels, shading)),
        cfa=cam.sensor.cfa, white=float(cam.sensor.white_dn), camera=cam.sensor.name, bits=cam.sensor.bits,
    )  # fmt: skip


def scene(size: int, shifts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light `(N, size, size)` of a scene of waves and edges, moved by shifts `(N, 2)` pixels."""
    y, x = np.indices((size, size)).astype(float)
    waves = rng.uniform(-1, 1, (12, 2)) * 2 * math.pi / rng.uniform(12, 80, (12, 1))
    phases, heights = rng.uniform(0, 2 * math.pi, 12), rng.uniform(0.3, 1.0, 12)
    out = []
    for dy, dx in shifts:
        ripple = sum(
            h * np.cos(w[0] * (y + dy) + w[1] * (x + dx) + p) for w, p, h in zip(waves, phases, heights, strict=True)
        )
        out.append(0.3 + 0.2 * np.tanh(ripple))
    return np.array(out) * np.tile(COLOURS, (size // 2, size // 2))


def spoiled(fault: str | None, seed: int, size: int) -> list[FrameSet]:
    """Frames at two ISOs with a fault in one of them, or in none; what is harmless is there in all.

    Harmless: up to 8 % shading, still bursts, pixels' own offsets, hot pixels, a black level that trembles by 2 % of
    the read noise.
    """
    rng = np.random.default_rng([seed, 2])
    cam = camera(seed)
    cam = dataclasses.replace(cam, pattern=float(rng.uniform(0, 0.3)), hot=float(rng.uniform(0, 3e-4)))
    bad = ISOS[int(rng.integers(2))]
    return [_one(cam, iso, fault if iso == bad else None, size, rng) for iso in ISOS]


def _one(cam: Camera, iso: float, fault: str | None, size: int, rng: np.random.Generator) -> FrameSet:
    sigma = cam.read(iso).std
    tremble = 0.02 * sigma * rng.standard_normal((5, 1, 1))
    black = np.zeros((5, size, size))
    if fault == "black drift":
        tremble = tremble + rng.uniform(0.4, 2) * sigma * np.linspace(0, 1, 5)[:, None, None]
    if fault == "light leak":
        peak = rng.uniform(0.8, 4) * sigma / (cam.sensor.gain(iso) * cam.sensor.white_e(iso))
        y, x = np.indices((size, size)) / size
        cy, cx = rng.uniform(0, 1, 2)
        black = black + peak * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * rng.uniform(0.15, 0.5) ** 2))
    darks = cam.expose(iso, black, rng, tremble)
    other = iso * float(rng.choice([0.5, 2])) if iso > 100 else iso * 2
    mixed = int(rng.integers(2)) if fault == "mixed ISO" else -1
    which = int(rng.integers(5))
    if mixed == 0:
        darks[which] = cam.expose(other, black[:1], rng)[0]
    shading = float(rng.uniform(0.3, 0.7)) if fault == "lens shading" else float(rng.uniform(0, 0.08))
    flats = []
    for k, light in enumerate(flat_light(size, shading=shading)):
        both = np.repeat(light, 2, axis=0)
        if fault == "flicker" and k >= which:
            if which % 2:
                both[1] *= 1 + rng.choice([-1, 1]) * rng.uniform(0.01, 0.04)
            else:
                rows = np.arange(size)[:, None] / size * rng.uniform(2, 6) * 2 * math.pi
                both *= 1 + rng.uniform(0.005, 0.02) * np.sin(rows + rng.uniform(0, 2 * math.pi, (2, 1, 1)))
        at = other if mixed == 1 and k == which else iso
        flats.append(cam.expose(at, both * iso / at if at > iso else both, rng))
    shifts = np.zeros((3, 2))
    if fault == "moved":
        angle = rng.uniform(0, 2 * math.pi)
        shifts = np.arange(3)[:, None] * rng.uniform(0.4, 3) * np.array([[math.sin(angle), math.cos(angle)]])
    burst = cam.expose(iso, scene(size, shifts, rng), rng)
    if fault == "denoised":
        strength = float(rng.uniform(0.15, 0.5))
        darks, burst, *flats = (_filtered(stack, strength) for stack in (darks, burst, *flats))
    if fault == "clipped black":
        level = cam.sensor.black_dn
        darks, burst, *flats = (np.maximum(stack, level) - level for stack in (darks, burst, *flats))
    white = cam.sensor.white_dn - (cam.sensor.black_dn if fault == "clipped black" else 0)
    return FrameSet(iso, darks=darks, flats=tuple(flats), bursts=(burst,), cfa=cam.sensor.cfa, white=float(white),
                    camera=cam.sensor.name, bits=cam.sensor.bits)  # fmt: skip


def _filtered(stack: np.ndarray, strength: float) -> np.ndarray:
    """A filter on each colour: towards the mean of 3×3 pixels."""
    out = stack.astype(float)
    for row in range(2):
        for column in range(2):
            plane = out[:, row::2, column::2]
            plane += strength * (ndimage.uniform_filter(plane, (0, 3, 3)) - plane)
    return np.rint(out).astype(np.uint16)
