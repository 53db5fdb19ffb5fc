"""What frames of one's own camera show: nothing (dark), an even field, a scene more than once, or a scene.

Frames that come without a word are told apart by what noise can and cannot do. Every colour is cut into blocks; a
block has a mean and a noise level, from the differences of neighbouring pixels. A frame shows a scene where

* blocks are rougher than blocks of their brightness are (texture), or
* means of neighbouring blocks jump by more than noise lets them, along rows and along columns, after the smooth
  shading of a lens and what whole rows and columns have in common have been taken off.

A frame without a scene is dark where it lies at the black level; where nobody says the black level, where the colours
are equal although filters never let equally much light through. Frames of one scene are told by the correlation of
their block means, noise taken off, and by how few blocks differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from noiseflow.errors import UserError
from noiseflow.raw.cfa import pack
from noiseflow.raw.frame import RawFrame

FloatArray = NDArray[np.float64]

Kind = Literal["dark", "flat", "saturated", "burst", "single", "unclear"]

_BLOCK, _LEAST = 16, 8  # pixels of one colour; a twelfth of the shorter side where that lies between the two
_ENDS = 0.03  # share of a block's pixels that its mean leaves out at either end: hot pixels
_TRIMMED = 0.95  # share of a block's differences that count: hot pixels are in the rest
_ROUGH = 6.0
"""Standard deviations by which a block's noise level exceeds that of blocks of equal brightness where it has texture.
The level of a block of n pixels scatters by 1/√(2·n·⅔), as the differences of neighbours are correlated."""
_JUMP = 5.0  # standard errors of a second difference of block means
_SHARE = 0.02  # of blocks that may be rough or jump in a frame without a scene: dust, hot pixels
_DEGREES = (6, 4, 2)  # of the polynomial that stands for a lens's shading: the first that the blocks suffice for
_SHADED = 5e-4  # of the signal, by which shading may differ from it
_DRIFT, _DRIFT_DN = 0.25, 2.0
"""How far black levels drift with exposure and warmth, and differ among colours: in standard deviations of a pixel, and
beside that in DN."""
_GREY = 20  # times that drift: frames without a black level that far above the darkest are not surely dark
_ALIKE = 0.05  # relative difference of signal up to which flat fields make a pair
_SAME, _NEARLY = 0.9, 0.6  # correlation of block means, noise taken off, from which frames show one scene
_MOVED = 0.1  # share of the blocks that may have changed where the correlation is between the two: something moved
_FULL = 0.5  # share of pixels at the highest code from which a frame is saturated


@dataclass(frozen=True)
class Group:
    """Frames that are used together.

    Attributes:
        kind: dark frames of one ISO; a pair of flat fields of one level (or one field that has no partner); saturated
            fields; a burst of a still scene; a single picture; or frames that are even, but nobody can tell whether
            they are dark.
        frames: the frames.
        reason: why, in a sentence.
    """

    kind: Kind
    frames: tuple[RawFrame, ...]
    reason: str

    def __str__(self) -> str:
        name = {"burst": "burst of a still scene", "single": "single picture", "saturated": "saturated field"}
        kind = "flat-field pair" if self.kind == "flat" and len(self.frames) == 2 else name.get(self.kind, self.kind)
        iso = self.frames[0].iso
        speed = "ISO not known" if iso is None else f"ISO {iso:g}"
        names = ", ".join(frame.name for frame in self.frames)
        return f"{kind}, {speed}, {len(self.frames)} frame{'s' * (len(self.frames) > 1)}: {self.reason}: {names}"


@dataclass(frozen=True, eq=False)
class _Look:
    """What a frame looks like.

    Attributes:
        frame: the frame.
        blocks: `(C, h, w)`, block means, DN.
        error: `(C, h, w)`, their standard errors.
        level: `(C,)`, mean of each colour.
        noise: standard deviation of a pixel, DN.
        texture: share of the blocks that are rough.
        jumps: share of the blocks whose means jump.
        full: share of the pixels at the highest code.
    """

    frame: RawFrame
    blocks: FloatArray
    error: FloatArray
    level: FloatArray
    noise: float
    texture: float
    jumps: float
    full: float

    @property
    def even(self) -> bool:
        return self.texture <= _SHARE and self.jumps <= _SHARE

    @property
    def mean(self) -> float:
        return float(self.level.mean())

    @property
    def black(self) -> float | None:
        return None if self.frame.black is None else float(self.frame.black.mean())


def classify(frames: Sequence[RawFrame]) -> tuple[Group, ...]:
    """Sort frames into dark frames, flat-field pairs, bursts and single pictures.

    Only frames of one camera, size, colour filter pattern and ISO come into one group; flat fields and bursts are of
    one exposure time too.

    Args:
        frames: of any camera and ISO; none need say anything of itself.

    Returns:
        The groups, by ISO; every frame is in one of them.

    Raises:
        UserError: a frame has fewer than three blocks a side.
    """
    groups: list[Group] = []
    looks = [_look(frame) for frame in frames]
    for bodies in _alike(looks, lambda look: (look.frame.camera, look.frame.codes.shape, look.frame.cfa)):
        for members in _alike(bodies, lambda look: look.frame.iso):
            full = [look for look in members if look.full >= _FULL]
            rest = [look for look in members if look.full < _FULL]
            if full:
                share = min(look.full for look in full)
                groups.append(_group("saturated", full, f"at least {share:.0%} of the pixels are at the highest code"))
            groups += _even([look for look in rest if look.even])
            for taken in _alike([look for look in rest if not look.even], lambda look: look.frame.exposure):
                groups += _scenes(taken)
    return tuple(sorted(groups, key=lambda group: group.frames[0].iso or 0.0))


def _alike(looks: list[_Look], key: Any) -> list[list[_Look]]:
    """The looks in groups of one key, in the order in which they came."""
    found: dict[Any, list[_Look]] = {}
    for look in looks:
        found.setdefault(key(look), []).append(look)
    return list(found.values())


def _group(kind: Kind, looks: Sequence[_Look], reason: str) -> Group:
    return Group(kind, tuple(look.frame for look in looks), reason)


def _even(looks: list[_Look]) -> list[Group]:
    """Dark frames and flat fields of one ISO."""
    dark: list[tuple[_Look, str]] = []
    lit: list[tuple[_Look, str]] = []
    unclear: list[_Look] = []
    for look in looks:
        spread = float(np.ptp(look.level))
        if look.black is not None:
            above = look.mean - look.black
            words = f"even, {above:.1f} DN above the black level, noise {look.noise:.1f} DN"
            (dark if above <= _DRIFT * look.noise + _DRIFT_DN else lit).append((look, words))
        elif look.level.size > 1:
            words = f"even, colours {spread:.1f} DN apart, noise {look.noise:.1f} DN, black level not known"
            (dark if spread <= _DRIFT * look.noise + _DRIFT_DN else lit).append((look, words))
        else:
            unclear.append(look)
    # Grey light looks like darkness where no black level is known; frames of one darkness have about one level.
    bare = [look for look, _ in dark if look.black is None]
    if bare:
        darkest = min(bare, key=lambda look: look.mean)
        most = darkest.mean + _GREY * (_DRIFT * darkest.noise + _DRIFT_DN)
        unclear += [look for look in bare if look.mean > most]
        dark = [(look, words) for look, words in dark if look not in unclear]
    groups = [_group("dark", [look for look, _ in dark], _one_of([words for _, words in dark]))] if dark else []
    zero = np.mean([look.mean for look, _ in dark]) if dark else None
    for taken in _alike([look for look, _ in lit], lambda look: look.frame.exposure):
        groups += _pairs(taken, {id(look): words for look, words in lit}, zero)
    if unclear:
        reason = (
            "even, but without a black level nobody can tell darkness from a flat field: give --black, or say which "
            "with --dark or --flat"
        )
        groups.append(_group("unclear", unclear, reason))
    return groups


def _pairs(looks: list[_Look], words: dict[int, str], zero: Any) -> list[Group]:
    """Flat fields of one exposure time in pairs of one level."""
    waiting, groups = sorted(looks, key=lambda look: look.mean), []
    while waiting:
        first = waiting.pop(0)
        black = first.black if first.black is not None else zero if zero is not None else 0.0
        if waiting and waiting[0].mean - first.mean <= _ALIKE * max(first.mean - black, first.noise):
            apart = (waiting[0].mean - first.mean) / max(first.mean - black, first.noise)
            groups.append(_group("flat", [first, waiting.pop(0)], f"{words[id(first)]}; levels {apart:.1%} apart"))
        else:
            groups.append(_group("flat", [first], f"{words[id(first)]}; no second frame of this level"))
    return groups


def _scenes(looks: list[_Look]) -> list[Group]:
    """Bursts and single pictures of one ISO and exposure time."""
    bursts: list[list[_Look]] = []
    for look in looks:
        home = next((burst for burst in bursts if any(_one_scene(other, look) for other in burst)), None)
        if home is None:
            bursts.append([look])
        else:
            home.append(look)
    groups = []
    for burst in bursts:
        seen = f"a scene ({burst[0].texture:.0%} of the blocks have texture, {burst[0].jumps:.0%} jump)"
        if len(burst) == 1:
            groups.append(_group("single", burst, f"{seen}, seen once"))
            continue
        least = min(_correlation(burst[0], look) for look in burst[1:])
        groups.append(_group("burst", burst, f"{seen}, the same in all frames (correlation at least {least:.3f})"))
    return groups


def _one_scene(one: _Look, other: _Look) -> bool:
    """Whether two frames show the same, but for something that moved in it."""
    correlation = _correlation(one, other)
    changed = float((np.abs(one.blocks - other.blocks) > _JUMP * np.hypot(one.error, other.error)).mean())
    return correlation >= _SAME or (correlation >= _NEARLY and changed <= _MOVED)


def _one_of(words: list[str]) -> str:
    return words[0] if len(set(words)) == 1 else f"{words[0]} (the first)"


def _correlation(one: _Look, other: _Look) -> float:
    """Of block means, all colours together, their noise taken off."""
    a, b = ((look.blocks - look.blocks.mean(axis=(1, 2), keepdims=True)).reshape(-1) for look in (one, other))
    true = [max(float((v**2).mean() - (look.error**2).mean()), 1e-12) for v, look in ((a, one), (b, other))]
    return float((a * b).mean()) / float(np.sqrt(true[0] * true[1]))


def _look(frame: RawFrame) -> _Look:
    """Measure a frame."""
    values = frame.codes.astype(np.float64)
    planes = values[None] if frame.cfa is None else pack(values, frame.cfa)
    if min(planes.shape[1:]) < 3 * _LEAST:
        least = 3 * _LEAST * (1 if frame.cfa is None else 2)
        raise UserError(f"{frame.name}: expected at least {least}×{least} pixels to tell what it shows")
    side = max(_LEAST, min(_BLOCK, *(n // 12 for n in planes.shape[1:])))
    rough = 1 + _ROUGH / (side * math.sqrt(4 / 3))
    top = float(values.max()) if frame.white is None else frame.white
    black = 0.0 if frame.black is None else float(frame.black.mean())
    mean = np.array([_middle(_blocks(plane, side)) for plane in planes])
    spread = np.array([_spread(_blocks(_without_lines(plane), side)) for plane in planes])
    error = np.hypot(spread / side, _SHADED * (mean - black))
    return _Look(
        frame=frame,
        blocks=mean,
        error=error,
        level=np.median(mean, axis=(1, 2)),
        noise=float(np.median(spread)),
        texture=max(float((s > rough * _usual(m, s)).mean()) for m, s in zip(mean, spread, strict=True)),
        jumps=max(_jumps(m, e) for m, e in zip(mean, error, strict=True)),
        full=float((values >= top).mean()) if top > float(values.min()) or frame.white is not None else 0.0,
    )


def _blocks(plane: FloatArray, side: int) -> FloatArray:
    """A plane in square blocks, `(h, w, side²)`, each row by row; what is left over at the edges is dropped."""
    height, width = (n // side for n in plane.shape)
    cut = plane[: height * side, : width * side].reshape(height, side, width, side)
    return cut.swapaxes(1, 2).reshape(height, width, side * side)


def _without_lines(plane: FloatArray) -> FloatArray:
    """A plane without what whole rows and whole columns have in common."""
    plane = plane - np.median(plane, axis=1, keepdims=True)
    out: FloatArray = plane - np.median(plane, axis=0, keepdims=True)
    return out


def _middle(blocks: FloatArray) -> FloatArray:
    """Means of blocks without their highest and lowest pixels, `(h, w)`."""
    ends = int(_ENDS * blocks.shape[2]) + 1
    out: FloatArray = np.sort(blocks, axis=2)[..., ends:-ends].mean(axis=2)
    return out


def _spread(blocks: FloatArray) -> FloatArray:
    """Standard deviation of the noise in each block, `(h, w)`, from differences of neighbours in rows.

    The mean of the smaller 95 % of |d| is 2·(φ(0) − φ(q))/0.95 of a normal distribution's standard deviation, with
    q = Φ⁻¹(0.975). Rounding alone leaves a variance of 1/12.
    """
    side = math.isqrt(blocks.shape[2])
    apart = np.abs(np.diff(blocks.reshape(*blocks.shape[:2], side, side), axis=3)).reshape(*blocks.shape[:2], -1)
    kept = np.sort(apart, axis=2)[..., : max(1, int(_TRIMMED * apart.shape[2]))]
    quantile = 1.959963984540054
    constant = 2 * (1 - np.exp(-(quantile**2) / 2)) / np.sqrt(2 * np.pi) / _TRIMMED
    scale: FloatArray = np.maximum(kept.mean(axis=2) / constant / np.sqrt(2), np.sqrt(1 / 12))
    return scale


def _usual(mean: FloatArray, spread: FloatArray) -> FloatArray:
    """The noise level of blocks of each brightness: the median in tenths of the blocks by brightness."""
    order = np.argsort(mean, axis=None)
    out = np.empty(mean.size)
    for members in np.array_split(order, min(10, max(1, mean.size // 10))):
        # the rough ones may be more than half: texture is judged against the smoother quarter
        out[members] = np.quantile(spread.reshape(-1)[members], 0.25)
    return out.reshape(mean.shape)


def _jumps(mean: FloatArray, error: FloatArray) -> float:
    """Share of the blocks whose mean jumps, along rows or along columns, whichever is less."""
    height, width = mean.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    for degree in _DEGREES:
        powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
        if mean.size >= 4 * len(powers):
            terms = np.stack([x.reshape(-1) ** i * y.reshape(-1) ** j for i, j in powers], axis=1)
            mean = mean - (terms @ np.linalg.lstsq(terms, mean.reshape(-1), rcond=None)[0]).reshape(mean.shape)
            break
    mean = mean - np.median(mean, axis=1, keepdims=True)  # noise of rows and of columns
    mean = mean - np.median(mean, axis=0, keepdims=True)
    shares = []
    for axis in (0, 1):
        bend = np.abs(np.diff(mean, n=2, axis=axis))
        middle = np.take(error, range(1, error.shape[axis] - 1), axis=axis)
        shares.append(float((bend > _JUMP * np.sqrt(6) * middle).mean()))
    return min(shares)
