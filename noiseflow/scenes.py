"""Procedural scenes: rooms at dusk with a light or two, to be photographed by virtual sensors.

A scene has what noise models are sensitive to in photographs: smooth shading, hard edges, fine texture, deep
shadow and a few highlights near white, with intensities spread over almost three decades in one frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from noiseflow.shot import CFA_PATTERNS

RAW_BALANCE = (0.55, 1.0, 0.65)
"""What a sensor's R, G and B read on neutral grey, relative to G."""

Array = npt.NDArray[np.float64]

_DARKEST = 0.001  # stray light in the lens, relative to white
_LIT_FRACTION = 0.96  # this quantile of the frame is exposed to _LIT_LEVEL; lamps lie above it
_LIT_LEVEL = 0.8


@dataclass(frozen=True)
class _Canvas:
    """A picture in the making; lengths are in units of the frame's shorter side."""

    rng: np.random.Generator
    y: Array  # (H, 1)
    x: Array  # (1, W)
    pixel: float
    textures: tuple[Array, ...]  # (H, W) each, zero mean, unit variance
    albedo: Array  # (H, W, 3)
    light: Array  # (H, W)
    emission: Array  # (H, W, 3)

    @property
    def height(self) -> float:
        return float(self.y[-1, 0])

    @property
    def width(self) -> float:
        return float(self.x[0, -1])

    def coverage(self, distance: Array, softness: float = 0.0) -> Array:
        """How much of each pixel lies inside a shape, from the signed distance to its edge."""
        return np.clip(0.5 - distance / (self.pixel + softness), 0.0, 1.0)

    def texture(self) -> Array:
        """One of the textures, shifted at random."""
        chosen = self.textures[self.rng.integers(len(self.textures))]
        return np.roll(chosen, self.rng.integers(0, chosen.shape), axis=(0, 1))


def scene(seed: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """Make a scene.

    Args:
        seed: which one; equal seeds and sizes give equal bytes.
        height: H, pixels.
        width: W, pixels.

    Returns:
        `(H, W, 3)` linear R, G, B as a sensor with `RAW_BALANCE` reads them, in [0, 1].

    Examples:
        >>> picture = scene(1, 64, 96)
        >>> picture.shape, bool(picture.min() > 0), bool(picture.max() <= 1)
        ((64, 96, 3), True, True)
    """
    rng = np.random.default_rng([seed, 0x5CE7E])
    pixel = 1.0 / min(height, width)
    canvas = _Canvas(
        rng=rng,
        y=(np.arange(height, dtype=np.float64)[:, None] + 0.5) * pixel,
        x=(np.arange(width, dtype=np.float64)[None, :] + 0.5) * pixel,
        pixel=pixel,
        textures=tuple(_texture(rng, height, width, slope) for slope in (0.4, 1.0, 1.7)),
        albedo=np.empty((height, width, 3)),
        light=np.ones((height, width)),
        emission=np.zeros((height, width, 3)),
    )
    horizon = _paint_room(canvas)
    _light_room(canvas)
    for depth in np.sort(rng.uniform(0.0, 1.0, rng.integers(9, 16))):
        _place_object(canvas, horizon, float(depth))
    _hang_lamps(canvas, horizon)
    radiance = canvas.albedo * canvas.light[..., None]
    lit = np.quantile(radiance[..., 1], _LIT_FRACTION)
    exposed = _LIT_LEVEL * radiance / max(float(lit), 1e-9) + canvas.emission
    exposed = ndimage.gaussian_filter(exposed, (0.6, 0.6, 0.0)) + _DARKEST  # the lens
    return np.clip(exposed * RAW_BALANCE, 0.0, 1.0).astype(np.float32)


def mosaic(rgb: npt.NDArray[np.float32], cfa: str) -> npt.NDArray[np.float32]:
    """Sample a picture through a colour filter array.

    Args:
        rgb: `(H, W, 3)`, H and W even.
        cfa: RGGB, BGGR, GRBG or GBRG: the colours of the top left 2×2 pixels, row by row.

    Returns:
        `(H, W)`: at each pixel the channel of its filter.

    Raises:
        ValueError: the pattern is unknown or a side is odd.

    Examples:
        >>> red = np.zeros((2, 2, 3), np.float32)
        >>> red[..., 0] = 1
        >>> mosaic(red, "GRBG").tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    if cfa not in CFA_PATTERNS:
        raise ValueError(f"cfa: expected one of {', '.join(CFA_PATTERNS)}, got {cfa!r}")
    if rgb.shape[0] % 2 or rgb.shape[1] % 2:
        raise ValueError(f"rgb: expected even sides, got {rgb.shape[0]}×{rgb.shape[1]}")
    out = np.empty(rgb.shape[:2], rgb.dtype)
    for place, colour in enumerate(cfa):
        row, column = divmod(place, 2)
        out[row::2, column::2] = rgb[row::2, column::2, "RGB".index(colour)]
    return out


def _texture(rng: np.random.Generator, height: int, width: int, slope: float) -> Array:
    """Band-limited noise with amplitude spectrum 1/f^slope, `(H, W)`, zero mean, unit variance."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    lowest = 3.0 / min(height, width)
    band = (frequency >= lowest) & (frequency <= 0.35)
    gain = np.zeros_like(frequency)
    gain[band] = frequency[band] ** -slope
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * gain, s=(height, width))
    noise -= noise.mean()
    scaled: Array = noise / max(float(noise.std()), 1e-9)
    return scaled


def _colour(rng: np.random.Generator, low: float, high: float) -> Array:
    """A surface colour, `(3,)`: albedo log-uniform between low and high, saturation mostly small."""
    level = np.exp(rng.uniform(np.log(low), np.log(high)))
    hue = np.cos(2 * np.pi * (rng.random() + np.arange(3) / 3))
    colour: Array = np.clip(level * (1 + rng.beta(1.2, 2.0) * 0.9 * hue), 0.01, 0.95)
    return colour


def _blend(image: Array, cover: Array, paint: Array) -> None:
    """Paint over an image in place where `cover` says, `(H, W)` in [0, 1]."""
    weight = cover if image.ndim == 2 else cover[..., None]
    image += weight * (paint - image)


def _paint_room(canvas: _Canvas) -> float:
    """Wall and floor with their patterns; returns the height of the line between them."""
    rng = canvas.rng
    horizon = canvas.height * rng.uniform(0.5, 0.78)
    wall = _colour(rng, 0.15, 0.6) * (1 + 0.07 * canvas.texture()[..., None])
    if rng.random() < 0.5:  # wallpaper or panelling
        period, slant = rng.uniform(0.05, 0.2), rng.choice([0.0, 0.0, 1.0])
        phase = (canvas.x + slant * canvas.y) / period
        wall = wall * np.where(phase % 1.0 < rng.uniform(0.3, 0.7), 1.0, rng.uniform(0.6, 0.85))[..., None]
    canvas.albedo[:] = wall
    depth = np.maximum(canvas.y - horizon, canvas.pixel) + 0.12
    boards = np.floor((canvas.x - canvas.width * rng.uniform(0.2, 0.8)) / depth * rng.uniform(0.8, 2.0))
    shades = rng.uniform(0.7, 1.0, 64)[boards.astype(int) % 64]
    floor = _colour(rng, 0.06, 0.4) * (shades * (1 + 0.12 * canvas.texture()))[..., None]
    _blend(canvas.albedo, canvas.coverage(horizon - canvas.y) + 0 * canvas.x, floor)
    skirting = canvas.coverage(np.abs(canvas.y - horizon) - 0.012) + 0 * canvas.x
    _blend(canvas.albedo, skirting, np.broadcast_to(_colour(rng, 0.05, 0.7), canvas.albedo.shape))
    return horizon


def _light_room(canvas: _Canvas) -> None:
    """A little light from everywhere, the pool of a lamp, and a patch of sun with a sharp edge."""
    rng = canvas.rng
    light = np.full(canvas.light.shape, np.exp(rng.uniform(np.log(0.003), np.log(0.012))))
    light = light * (1.0 + 0.8 * (canvas.x / canvas.width - 0.5) * rng.choice([-1, 1]))
    y0, x0 = rng.uniform(0.0, 0.8) * canvas.height, rng.uniform(0.0, 1.0) * canvas.width
    reach = rng.uniform(0.12, 0.26)
    squared = ((canvas.y - y0) ** 2 + (canvas.x - x0) ** 2 * rng.uniform(0.6, 1.5)) / reach**2
    light = light + rng.uniform(0.15, 0.6) / (1.0 + squared) ** 1.8
    y0, x0 = rng.uniform(0.3, 0.9) * canvas.height, rng.uniform(0.15, 0.85) * canvas.width
    half_h, half_w = rng.uniform(0.12, 0.2), rng.uniform(0.12, 0.22)
    patch = _rectangle(canvas, y0, x0, half_h, half_w, rng.uniform(-0.6, 0.6))
    light = light + rng.uniform(1.0, 1.6) * canvas.coverage(patch, softness=0.015)
    canvas.light[:] = light


def _rectangle(canvas: _Canvas, y0: float, x0: float, half_h: float, half_w: float, turn: float) -> Array:
    """Signed distance to a turned rectangle, `(H, W)`."""
    dy, dx = canvas.y - y0, canvas.x - x0
    along = np.abs(dx * np.cos(turn) + dy * np.sin(turn)) - half_w
    across = np.abs(dy * np.cos(turn) - dx * np.sin(turn)) - half_h
    distance: Array = np.maximum(along, across)
    return distance


def _polygon(canvas: _Canvas, y0: float, x0: float, size: float) -> Array:
    """Signed distance to a convex polygon of 3 to 7 sides, `(H, W)`."""
    sides = int(canvas.rng.integers(3, 8))
    angles = 2 * np.pi * (np.arange(sides) + canvas.rng.uniform(-0.25, 0.25, sides)) / sides - np.pi / 2
    reach = size * canvas.rng.uniform(0.6, 1.0, sides)
    dy, dx = canvas.y - y0, canvas.x - x0
    planes = [dx * np.cos(a) + dy * np.sin(a) - r for a, r in zip(angles, reach, strict=True)]
    return np.asarray(np.maximum.reduce(planes))


def _place_object(canvas: _Canvas, horizon: float, depth: float) -> None:
    """One object with its shadow; depth 0 is at the wall, 1 is nearest."""
    rng = canvas.rng
    size = rng.uniform(0.05, 0.13) * (0.7 + depth)
    x0 = rng.uniform(0.0, 1.0) * canvas.width
    on_wall = depth < 0.35 and rng.random() < 0.7
    foot = horizon + (canvas.height - horizon) * depth
    y0 = rng.uniform(0.12, 0.8) * horizon if on_wall else foot - size
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    distance, paint, shading = shape(canvas, y0, x0, size)
    drop = np.roll(distance, [max(1, round(0.25 * size / canvas.pixel))] * 2, axis=(0, 1))
    _blend(canvas.light, 0.8 * canvas.coverage(drop, softness=0.25 * size), 0.1 * canvas.light)
    cover = canvas.coverage(distance)
    roughness = rng.uniform(0.0, 0.22) * canvas.texture()
    _blend(canvas.albedo, cover, paint * np.clip(1.0 + roughness, 0.2, 1.8)[..., None])
    _blend(canvas.light, cover, canvas.light * shading)


def _ball(canvas: _Canvas, y0: float, x0: float, size: float) -> tuple[Array, Array, Array]:
    dy, dx = (canvas.y - y0) / size, (canvas.x - x0) / size
    radius = np.hypot(dy, dx)
    normal_z = np.sqrt(np.clip(1.0 - radius**2, 0.0, 1.0))
    turn = canvas.rng.uniform(-2.6, -0.5)
    facing = 0.45 * normal_z + 0.75 * (dx * np.cos(turn) + dy * np.sin(turn)) * (radius < 1)
    shading = 0.12 + 1.5 * np.clip(facing, 0.0, 1.0) + 2.5 * np.clip(facing, 0.0, 1.0) ** 24
    return (radius - 1.0) * size, _plain(canvas), shading


def _box(canvas: _Canvas, y0: float, x0: float, size: float) -> tuple[Array, Array, Array]:
    half_w = size * canvas.rng.uniform(0.4, 1.1)
    distance = _rectangle(canvas, y0, x0, size, half_w, canvas.rng.normal(0.0, 0.05))
    edge = x0 + half_w * canvas.rng.uniform(-0.5, 0.5)
    shading = np.where(canvas.x < edge, canvas.rng.uniform(0.9, 1.5), canvas.rng.uniform(0.15, 0.5))
    return distance, _plain(canvas), shading + 0 * canvas.y


def _facet(canvas: _Canvas, y0: float, x0: float, size: float) -> tuple[Array, Array, Array]:
    fall = canvas.rng.uniform(-0.8, 0.8) * (canvas.x - x0) / size - 0.5 * (canvas.y - y0) / size
    return _polygon(canvas, y0, x0, size), _plain(canvas), np.clip(0.9 + fall, 0.1, 1.8)


def _stripes(canvas: _Canvas, y0: float, x0: float, size: float) -> tuple[Array, Array, Array]:
    """A striped cloth or a page of print."""
    rng = canvas.rng
    turn = rng.normal(0.0, 0.35)
    distance = _rectangle(canvas, y0, x0, size, size * rng.uniform(0.6, 1.4), turn)
    period = size / rng.uniform(2.0, 6.0)
    phase = ((canvas.y - y0) * np.cos(turn) - (canvas.x - x0) * np.sin(turn)) / period
    first, second = _colour(rng, 0.3, 0.9), _colour(rng, 0.03, 0.3)
    return distance, np.where((phase % 1.0 < 0.5)[..., None], first, second), np.ones_like(distance)


def _chart(canvas: _Canvas, y0: float, x0: float, size: float) -> tuple[Array, Array, Array]:
    """A colour chart of 6×4 patches on a dark card."""
    patches = np.stack([_colour(canvas.rng, 0.03, 0.9) for _ in range(24)])
    distance = _rectangle(canvas, y0, x0, size * 0.75, size * 1.1, 0.0)
    row = (canvas.y - (y0 - 0.7 * size)) / (1.4 * size) * 4
    column = (canvas.x - (x0 - 1.05 * size)) / (2.1 * size) * 6
    index = np.clip(np.floor(row), 0, 3) * 6 + np.clip(np.floor(column), 0, 5)
    inside = (np.abs(row % 1.0 - 0.5) < 0.4) & (np.abs(column % 1.0 - 0.5) < 0.4)
    inside = inside & (row > 0) & (row < 4) & (column > 0) & (column < 6)
    paint = np.where(inside[..., None], patches[index.astype(int)], 0.03)
    return distance, paint, np.ones_like(distance)


_SHAPES: tuple[Callable[[_Canvas, float, float, float], tuple[Array, Array, Array]], ...] = (
    _ball,
    _box,
    _facet,
    _stripes,
    _chart,
)


def _plain(canvas: _Canvas) -> Array:
    """One colour all over."""
    return np.broadcast_to(_colour(canvas.rng, 0.03, 0.85), canvas.albedo.shape)


def _hang_lamps(canvas: _Canvas, horizon: float) -> None:
    """A window or lamps: the highlights, with the glow around them."""
    rng = canvas.rng
    warm = np.array([1.15, 1.0, rng.uniform(0.6, 1.0)])
    if rng.random() < 0.5:
        half_h, half_w = rng.uniform(0.1, 0.15), rng.uniform(0.11, 0.17)
        y0, x0 = horizon * rng.uniform(0.3, 0.5), canvas.width * rng.uniform(0.15, 0.85)
        pane = _rectangle(canvas, y0, x0, half_h, half_w, 0.0)
        bars = np.minimum(np.abs(canvas.x - x0) + 0 * canvas.y, np.abs(canvas.y - y0) + 0 * canvas.x) - 0.008
        sky = rng.uniform(1.0, 1.5) + 0.5 * (y0 - canvas.y) / half_h * rng.uniform(0.0, 0.6)
        shapes = [(np.maximum(pane, -bars), sky * (1 + 0.08 * canvas.texture()))]
    else:
        shapes = []
        for _ in range(int(rng.integers(1, 4))):
            radius = rng.uniform(0.06, 0.11)
            y0, x0 = horizon * rng.uniform(0.1, 0.7), canvas.width * rng.uniform(0.08, 0.92)
            distance = np.hypot(canvas.y - y0, canvas.x - x0) - radius
            shapes.append((distance, rng.uniform(1.2, 1.7) * (1.0 - 0.25 * (distance / radius + 1.0) ** 2)))
    for distance, level in shapes:
        cover = canvas.coverage(distance)
        _blend(canvas.albedo, cover, np.zeros_like(canvas.albedo))
        glow = 0.05 * np.exp(-np.maximum(distance, 0.0) / 0.04) * (1.0 - cover)
        canvas.emission[:] += (cover * level + glow)[..., None] * warm
