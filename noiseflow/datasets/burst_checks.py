"""Guard rails: is a burst what training without clean images takes it for?

Such training needs frames of one still scene in one light whose noise is the sensor's own: independent between frames.
Then frames are exchangeable: y₁ − y₂ is, at every pixel, as likely as y₂ − y₁, whatever the scene, the clipping and
the rounding. Three checks look for what breaks that symmetry, with d = y₁ − y₂, m = (y₁ + y₂)/2, and weights
w = 1/σ²(m) from d² in classes of m:

- *moved camera*: Σ w·d·∂m, along rows and columns, at up to four resolutions; and, for moves of many pixels, where the
  cross-correlation of the two frames peaks (`alignment.displacement`);
- *changed light*: Σ w·d·m;
- *flicker*: Σ w·d·m·cos(2πf·row) and the sine, for all f up to a quarter of a cycle per band of rows.

Each sum is taken in bands of rows (row noise is independent between them), and in bands of columns for the first two
(column noise), the smaller result counting; with band sums z_b, each over the root of its own sum of squares,

    t = Σ v_b·z_b / √(Σ v_b²·z_b²),    P(|t| > τ) ≤ 2·exp(−τ²/2)

for independent symmetric z_b of any distribution and v_b of the size of what a band can tell (Hoeffding 1963, given
|z_b|). A check fires where both t and the size
of the effect pass their thresholds. Two more look at the noise itself:

- *repeated frames*: rows that are equal in every pixel although they are not clipped; or, with three frames or more, a
  pair whose differences are far smaller than others';
- *denoised frames*: photons arrive independently, so whatever the electronics add, the part of the noise that grows
  with the light is white; a filter correlates it between neighbours. Frames that are filtered in time differ less from
  the next frame than from a later one. And noise below a code in bright pixels is no photon noise. (Raw only: the
  noise of developed pictures is always correlated.)

Differences are blind to anything that all frames share; two frames cannot tell filtering in time.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from noiseflow.datasets.alignment import displacement
from noiseflow.datasets.bursts import Burst
from noiseflow.errors import UserError

log = logging.getLogger(__name__)

Kind = Literal["moved camera", "changed light", "flicker", "repeated frames", "denoised frames"]
Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MOST_FRAMES = 8
"""Frames of a longer burst that are looked at: neighbours at the beginning, in the middle and at the end."""

WIDEST = 512
"""Columns that are looked at, in the middle of the frame; all rows are."""

SIGNIFICANT = 3.8
"""|t| above which a sum is not chance: 1.5e-3 by the bound of the module, 1.5e-4 for normal band sums."""

LEAST_MOVE = 0.05
"""Displacement that counts, in pixels of the tensors."""

LEAST_CHANGE = 0.005
"""Relative change of light that counts."""

FLICKER_CHANCE = 1e-6
"""Chance of a wave at one frequency, by the F test for normal bands, below which it is not chance."""

LEAST_FLICKER = 0.005
"""Amplitude of a brightness wave that counts, relative to the light."""

REPEATED_ROWS = 0.01
"""Part of the rows that may be equal in every pixel."""

REPEATED_RATIO = 0.6
"""Variance of a pair's differences, relative to the most different pair's, below which frames share their noise."""

FILTERED_RATIO = 0.85
"""The same for all neighbouring frames at once, below which the burst was filtered in time."""

WHITE = 0.1
"""Correlation between neighbours of the noise that grows with the light, up to which it counts as white."""

LEAST_NOISE = 0.7
"""Standard deviation of the noise in bright pixels, in codes, that photons cannot stay below."""

_FEWEST_ROWS = 32
_CLASSES = 24  # of the mean, for the weights
_LEVELS = 4  # resolutions, each half the one before
_BOX = 15  # pixels over which differences are levelled before their correlation is measured


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that is wrong with a burst.

    Attributes:
        kind: its name.
        frames: numbers of the two frames in which it shows most.
        sentence: the cause, and the evidence in words.
        numbers: the evidence: name → value, with the thresholds.
        picture: a small array that shows it: rows × columns, or a curve.
        shows: what the picture shows.
    """

    kind: Kind
    frames: tuple[int, int]
    sentence: str
    numbers: dict[str, float] = field(default_factory=dict)
    picture: Array | None = None
    shows: str = ""


def check_burst(burst: Burst) -> list[Finding]:
    """Look for what makes a burst unfit for training without clean images.

    At most `MOST_FRAMES` frames are read, and of them the `WIDEST` columns in the middle.

    Raises:
        UserError: as `Burst.read`.
    """
    chosen = _frames_to_read(len(burst))
    rows, columns = burst.size
    width = min(columns, WIDEST)
    frames = burst.read(chosen, 0, (columns - width) // 2, rows, width).double().numpy()
    ends = [values.numpy()[:, None, None] for values in (burst.lsb, burst.low, burst.high)]
    return check_frames(np.nan_to_num(frames), *ends, numbers=chosen)


def check_frames(
    frames: Array,
    lsb: npt.ArrayLike = 0.0,
    low: npt.ArrayLike = -math.inf,
    high: npt.ArrayLike = math.inf,
    *,
    numbers: Sequence[int] | None = None,
) -> list[Finding]:
    """The findings of `check_burst` for frames that are in memory.

    Args:
        frames: `(N, C, H, W)`, two or more, in the order of time.
        lsb: code width, broadcast over `(C, H, W)`; 0: not quantised.
        low: lowest value that a frame can hold, likewise.
        high: highest value, likewise.
        numbers: the numbers of the frames in their burst; default from 0.

    Returns:
        At most one finding of each kind, the one with the strongest evidence. Frames of fewer than 32 rows or columns
        are too small for any but repeated ones.
    """
    numbers = range(len(frames)) if numbers is None else numbers
    shape = frames.shape[1:]
    lsb, low, high = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in (lsb, low, high))
    found = [_repeated_rows(frames, low, high, numbers)]
    if min(shape[1:]) >= _FEWEST_ROWS:
        pairs = _pairs(frames, lsb, low, high, numbers)
        scene = {pair.numbers: [check(pair) for check in (_moved, _light, _flicker)] for pair in pairs}
        if found[0] is None and not any(moved for moved, *_ in scene.values()):
            found[0] = _shared_noise(frames, pairs, lsb, numbers)
        if found[0] is not None:  # what is wrong with those frames has been said
            pairs = [pair for pair in pairs if not set(pair.numbers) & set(found[0].frames)]
        still = [pair for pair in pairs if not any(scene[pair.numbers])]
        looks = [scene[pair.numbers] for pair in pairs]
        half = len(frames) // 2
        if half > 1 and found[0] is None:
            ends = numbers[half - 1], numbers[-half]
            both = _Pair.of(frames[:half], frames[-half:], lsb, low, high, ends)
            looks.append([check(both) for check in (_moved, _light, _flicker)])
        for some in zip(*looks, strict=True):
            found.append(max((f for f in some if f), key=lambda f: f.numbers["t"], default=None))
        if shape[0] != 3 and still:
            found.append(_correlated(still) or _too_quiet(still, lsb))
    kept: dict[Kind, Finding] = {}
    for finding in found:
        if finding is not None:
            kept.setdefault(finding.kind, finding)
    return list(kept.values())


def refuse_or_warn(findings: Sequence[Finding], name: str, *, allow: bool = False) -> None:
    """Stop training on a burst with findings, or say what they are and go on.

    Args:
        findings: what `check_burst` found.
        name: of the burst.
        allow: log a warning for each instead of raising.

    Raises:
        UserError: there are findings, and they are not allowed; names all.
    """
    if not findings:
        return
    if not allow:
        raise UserError(f"{name}: expected frames of one still scene, found {_all(findings)}; leave this burst out")
    for finding in findings:
        log.warning("%s: %s: %s", name, finding.kind, finding.sentence)


def _all(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{finding.kind} ({finding.sentence})" for finding in findings)


def _frames_to_read(count: int) -> list[int]:
    """At most `MOST_FRAMES`, as runs of neighbours from the beginning to the end."""
    if count <= MOST_FRAMES:
        return list(range(count))
    runs = MOST_FRAMES // 2
    firsts = [round(k * (count - 2) / (runs - 1)) for k in range(runs)]
    return sorted({i for first in firsts for i in (first, first + 1)})


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two frames: their difference, their mean, the weight of every pixel, and where none is clipped; `(C, H, W)`."""

    numbers: tuple[int, int]
    difference: Array
    mean: Array
    weight: Array
    inside: Mask

    @classmethod
    def of(cls, some: Array, others: Array, lsb: Array, low: Array, high: Array, numbers: tuple[int, int]) -> _Pair:
        """From two sets of as many frames, each averaged."""
        one, other = some.mean(axis=0), others.mean(axis=0)
        difference, mean = one - other, 0.5 * (one + other)
        inside = np.all((some > low) & (some < high) & (others > low) & (others < high), axis=0)
        return cls(numbers, difference, mean, _weight(np.square(difference), mean, inside, lsb), inside)


def _pairs(frames: Array, lsb: Array, low: Array, high: Array, numbers: Sequence[int]) -> list[_Pair]:
    """Neighbours, and the first frame with the last."""
    indices = list(itertools.pairwise(range(len(frames))))
    if len(frames) > 2:
        indices.append((0, len(frames) - 1))
    return [
        _Pair.of(frames[i : i + 1], frames[j : j + 1], lsb, low, high, (numbers[i], numbers[j])) for i, j in indices
    ]


def _weight(squares: Array, mean: Array, inside: Mask, lsb: Array) -> Array:
    """1/variance from squares of differences in classes of the mean; 0 for pixels that are clipped in a frame."""
    order = np.argsort(mean, axis=None, kind="stable")
    order = order[inside.reshape(-1)[order]]
    weight = np.zeros(mean.size)
    floor = max(float(np.square(lsb).max()) / 3, 1e-20)
    for part in np.array_split(order, _CLASSES):
        if part.size:
            weight[part] = 1 / max(float(squares.reshape(-1)[part].mean()), floor)
    return weight.reshape(mean.shape)


def _sums(terms: Array, axis: int) -> Array:
    """Sums over at most 64 bands of rows (axis 1) or columns (axis 2) of two lines or more."""
    length = terms.shape[axis]
    size = max(2, math.ceil(length / 64))
    sums: Array = np.add.reduceat(terms.sum(axis=(0, 3 - axis)), np.arange(0, length - size + 1, size))
    return sums


def _bands(weight: Array, difference: Array, pattern: Array, axis: int) -> Array:
    """Σ w·d·p over bands, each over the root of its sum of squares and times √(Σ w·p²), at most twice the median.

    The latter is what a band can tell; the limit keeps a lamp from outshining the rest of the frame.
    """
    terms = weight * difference * pattern
    root = np.sqrt(_sums(np.square(terms), axis))
    power = np.sqrt(_sums(weight * np.square(pattern), axis))
    bands: Array = _sums(terms, axis) / np.where(root > 0, root, 1.0) * np.minimum(power, 2 * np.median(power))
    return bands


def _t(bands: Array) -> float:
    root = math.sqrt(float(np.square(bands).sum()))
    return float(bands.sum()) / root if root else 0.0


def _least_t(weight: Array, difference: Array, pattern: Array) -> float:
    """The smaller |t| of bands of rows and bands of columns."""
    return min(abs(_t(_bands(weight, difference, pattern, axis))) for axis in (1, 2))


def _moved(pair: _Pair) -> Finding | None:
    best: tuple[float, float, float, int] = 0.0, 0.0, 0.0, 0
    difference, mean, weight = pair.difference, pair.mean, pair.weight
    for level in range(_LEVELS):
        if level:
            difference, mean, weight = _halved(difference), _halved(mean), _halved(weight)
        if min(mean.shape[1:]) < _FEWEST_ROWS:
            break
        moves, ts = [], []
        for axis in (1, 2):
            slope = _smooth_slope(mean, axis)
            terms = weight * difference * slope
            # of the squared slopes, as much is noise as the difference shows
            power = weight * _slope(mean, axis) * slope
            noise = 0.25 * weight * _slope(difference, axis) * _smooth_slope(difference, axis)
            moves.append(
                2**level * float(terms.sum()) / max(float((power - noise).sum()), 0.02 * float(power.sum()), 1e-20)
            )
            ts.append(_least_t(weight, difference, slope))
        if max(ts) > best[0]:
            best = max(ts), moves[0], moves[1], level
    t, down, right, level = best
    distance = math.hypot(down, right)
    whole = displacement(pair.mean + pair.difference / 2, pair.mean - pair.difference / 2, None)
    i, j = pair.numbers
    if whole is not None:
        down, right = (float(n) for n in whole)
        distance = math.hypot(down, right)
        why = f"frames {i} and {j} fit {distance:.2g} pixels apart ({down:+g} rows, {right:+g} columns)"
    elif t >= SIGNIFICANT and distance >= LEAST_MOVE:
        why = f"frames {i} and {j} are about {distance:.2g} pixels apart ({down:+.2g} rows, {right:+.2g} columns; "
        why += f"t {t:.1f}, limits {LEAST_MOVE:g} and {SIGNIFICANT:g})"
    else:
        return None
    return Finding(
        "moved camera",
        pair.numbers,
        why,
        {"pixels": distance, "rows": down, "columns": right, "t": t, "resolution": 0.5**level},
        _thumbnail(pair.difference),
        "difference of the two frames: edges show where the scene moved",
    )


def _slope(image: Array, axis: int) -> Array:
    """Central difference along rows (1) or columns (2)."""
    slope: Array = ndimage.convolve1d(image, (0.5, 0.0, -0.5), axis)
    return slope


def _smooth_slope(image: Array, axis: int) -> Array:
    """The same after a Gaussian of one pixel."""
    return _slope(ndimage.gaussian_filter(image, (0, 1, 1)), axis)


def _halved(image: Array) -> Array:
    """Means of 2×2 pixels."""
    c, h, w = image.shape
    halved: Array = image[:, : h // 2 * 2, : w // 2 * 2].reshape(c, h // 2, 2, w // 2, 2).mean(axis=(2, 4))
    return halved


def _light(pair: _Pair) -> Finding | None:
    change, t = _change(pair)
    if t < SIGNIFICANT or abs(change) < LEAST_CHANGE:
        return None
    i, j = pair.numbers
    return Finding(
        "changed light",
        pair.numbers,
        f"frame {j} is {abs(change):.2%} {'darker' if change > 0 else 'brighter'} than frame {i} (t {t:.1f}, limits "
        f"{LEAST_CHANGE:.1%} and {SIGNIFICANT:g})",
        {"change": -change, "t": t},
        _curve(pair),
        "relative difference of the two frames along the rows",
    )


def _change(pair: _Pair) -> tuple[float, float]:
    """Relative change of light from the second frame to the first, and its |t|."""
    terms = pair.weight * pair.difference * pair.mean
    # of the squared means, the noise of a mean of two frames is a quarter of the difference's square
    power = float((pair.weight * (np.square(pair.mean) - 0.25 * np.square(pair.difference))).sum())
    return float(terms.sum()) / max(power, 1e-12), _least_t(pair.weight, pair.difference, pair.mean)


def _curve(pair: _Pair) -> Array:
    """Relative change of light in bands of rows."""
    above = _sums(pair.weight * pair.difference * pair.mean, 1)
    curve: Array = above / np.maximum(_sums(pair.weight * np.square(pair.mean), 1), 1e-12)
    return curve


def _flicker(pair: _Pair) -> Finding | None:
    power = _sums(pair.weight * np.square(pair.mean), 1)
    if not np.median(power) > 0:  # most of the frame is clipped
        return None
    root = np.sqrt(np.minimum(power, 4 * np.median(power)))
    curve = _curve(pair)
    bands = len(curve)
    left = float(np.square(root * (curve - np.average(curve, weights=np.square(root)))).sum())
    f, half_cycles, amplitude = 0.0, 1, 0.0
    for number in range(1, bands // 2):
        angle = math.pi * number * np.arange(bands) / bands
        waves = np.stack([np.ones(bands), np.cos(angle), np.sin(angle)], axis=1) * root[:, None]
        fit, *_ = np.linalg.lstsq(waves, curve * root, rcond=1e-6)
        residual = float(np.square(waves @ fit - curve * root).sum())
        ratio = (left - residual) / 2 / max(residual / (bands - 3), 1e-20)
        # half a wave and an offset nearly cancel: what counts is how far the fitted wave swings
        if ratio > f:
            swing = np.ptp(fit[1] * np.cos(angle) + fit[2] * np.sin(angle)) / 2
            f, half_cycles, amplitude = ratio, number, float(swing)
    limit = float(stats.f.isf(FLICKER_CHANCE, 2, bands - 3))
    if f < limit or amplitude < LEAST_FLICKER:
        return None
    i, j = pair.numbers
    return Finding(
        "flicker",
        pair.numbers,
        f"the brightness between frames {i} and {j} changes in bands along the rows: {half_cycles / 2:g} waves a frame "
        f"of amplitude {amplitude:.1%} (F {f:.0f}, limits {LEAST_FLICKER:.1%} and {limit:.0f})",
        {"waves": half_cycles / 2, "amplitude": amplitude, "t": math.sqrt(2 * f)},
        curve,
        "relative difference of the two frames along the rows",
    )


def _repeated_rows(frames: Array, low: Array, high: Array, numbers: Sequence[int]) -> Finding | None:
    """Two neighbours, or the first and the last, with rows that are equal in all pixels of all channels."""
    worst: tuple[float, tuple[int, int], Array] | None = None
    for i, j in itertools.combinations(range(len(frames)), 2):
        equal = frames[i] == frames[j]
        open_ = (np.minimum(frames[i], frames[j]) > low) & (np.maximum(frames[i], frames[j]) < high)
        telling = open_.sum(axis=(0, 2)) >= min(_FEWEST_ROWS, frames[i][:, 0].size)
        rows = equal.all(axis=(0, 2)) & telling
        if not telling.any():
            continue
        part = float(rows.sum() / telling.sum())
        if part > REPEATED_ROWS and (worst is None or part > worst[0]):
            worst = part, (numbers[i], numbers[j]), rows.astype(np.float64)
    if worst is None:
        return None
    part, (i, j), rows_equal = worst
    return Finding(
        "repeated frames",
        (i, j),
        f"{part:.0%} of the rows of frames {i} and {j} are equal in every pixel (limit {REPEATED_ROWS:.0%}): they were "
        "recorded once",
        {"equal rows": part},
        rows_equal,
        "rows that are equal in both frames",
    )


def _shared_noise(frames: Array, pairs: Sequence[_Pair], lsb: Array, numbers: Sequence[int]) -> Finding | None:
    """With three frames or more: pairs whose differences are too small beside other pairs'."""
    if len(frames) < 3 or len(pairs) < 3:
        return None
    mean = frames.mean(axis=0)
    smooth = ndimage.uniform_filter(mean, (0, 5, 5))
    steep = np.hypot(_slope(smooth, 1), _slope(smooth, 2))
    flat = steep <= np.median(steep, axis=(1, 2), keepdims=True)
    inside = flat & np.all([pair.inside for pair in pairs], axis=0)
    weight = _weight(np.mean([np.square(pair.difference) for pair in pairs], axis=0), mean, inside, lsb)
    variances = []
    for pair in pairs:
        fine = pair.difference - ndimage.uniform_filter(pair.difference, (0, 5, 5))
        variances.append(float((weight * np.square(fine)).sum()))
    if not max(variances) > 0:  # all is clipped
        return None
    ratios = np.array(variances) / max(variances)
    neighbours = [k for k, pair in enumerate(pairs) if pair.numbers != (numbers[0], numbers[-1])]
    if ratios[neighbours].max() < FILTERED_RATIO:
        k = neighbours[0]
        kind: Kind = "denoised frames"
        why = (
            f"all neighbouring frames differ less, by {ratios[neighbours].max():.2f} at most of the variance, than the "
        )
        why += f"first and the last (limit {FILTERED_RATIO:g}): the burst was filtered in time"
    elif ratios.min() < REPEATED_RATIO:
        k = int(ratios.argmin())
        kind = "repeated frames"
        why = (
            f"frames {pairs[k].numbers[0]} and {pairs[k].numbers[1]} differ by only {ratios[k]:.2f} of the variance of "
        )
        why += f"other frames (limit {REPEATED_RATIO:g}): one was made from the other"
    else:
        return None
    return Finding(
        kind, pairs[k].numbers, why, {"ratio": float(ratios[k])}, ratios, "variance of each pair's difference"
    )


def _correlated(pairs: Sequence[_Pair]) -> Finding | None:
    """The correlation between neighbours of the noise that grows with the light."""
    moments = [_lag_moments(pair) for pair in pairs]
    total = np.sum([m for m, _ in moments], axis=0)  # (2 classes, 3: square, across, down)
    counts = np.sum([n for _, n in moments], axis=0)
    if counts.min() < 1000:
        return None
    dark, bright = total / counts
    shot = bright - dark if bright[0] > 1.5 * dark[0] else bright
    across, down = shot[1:] / shot[0]
    if max(across, down) < WHITE:
        return None
    return Finding(
        "denoised frames",
        pairs[0].numbers,
        f"the noise that grows with the light has a correlation of {across:.2f} with the next pixel and {down:.2f} "
        f"with the one below (limit {WHITE:g}), and photons arrive independently: the frames were filtered, or the "
        "scene itself changes in places",
        {"across": float(across), "down": float(down)},
        _autocorrelation(pairs),
        "correlation of the noise of bright pixels with that of their neighbours",
    )


def _levelled(pair: _Pair) -> Array:
    """The difference without what rows, columns and larger areas share."""
    d = pair.difference - pair.difference.mean(axis=2, keepdims=True)
    d = d - d.mean(axis=1, keepdims=True)
    levelled: Array = d - ndimage.uniform_filter(d, (0, _BOX, _BOX))
    return levelled


def _classes(pair: _Pair) -> tuple[Mask, Mask]:
    """The flatter halves of the darkest and of the brightest third of the unclipped pixels."""
    inside = pair.inside
    if not inside.any():
        return inside, inside
    smooth = ndimage.uniform_filter(pair.mean, (0, 5, 5))
    steep = np.hypot(_slope(smooth, 1), _slope(smooth, 2))
    lower, upper = np.quantile(smooth[inside], (1 / 3, 2 / 3))
    dark, bright = inside & (smooth <= lower), inside & (smooth >= upper)
    return dark & (steep <= np.median(steep[dark])), bright & (steep <= np.median(steep[bright]))


def _lag_moments(pair: _Pair) -> tuple[Array, Array]:
    """Sums of d², d·d' across and d·d' down, and their numbers, of dark and bright pixels: (2, 3) each."""
    d = _levelled(pair)
    sums, counts = np.zeros((2, 3)), np.zeros((2, 3))
    for k, chosen in enumerate(_classes(pair)):
        both = [chosen, chosen[:, :, 1:] & chosen[:, :, :-1], chosen[:, 1:] & chosen[:, :-1]]
        products = [d * d, d[:, :, 1:] * d[:, :, :-1], d[:, 1:] * d[:, :-1]]
        for n, (mask, product) in enumerate(zip(both, products, strict=True)):
            sums[k, n], counts[k, n] = product[mask].sum(), mask.sum()
    return sums, counts


def _autocorrelation(pairs: Sequence[_Pair], reach: int = 3) -> Array:
    """Correlation of the bright pixels' noise with neighbours up to `reach` away, `(2·reach + 1,)²`."""
    result = np.zeros((2 * reach + 1, 2 * reach + 1))
    masked = [_levelled(pair) * _classes(pair)[1] for pair in pairs]
    for down, across in itertools.product(range(-reach, reach + 1), repeat=2):
        result[down + reach, across + reach] = sum(
            float((np.roll(d, (down, across), axis=(1, 2)) * d).sum()) for d in masked
        )
    result /= max(float(result[reach, reach]), 1e-20)
    return result


def _too_quiet(pairs: Sequence[_Pair], lsb: Array) -> Finding | None:
    """Noise of bright pixels that is smaller than a code."""
    width = float(lsb.max())
    sums, counts = (np.sum(part, axis=0)[1, 0] for part in zip(*map(_lag_moments, pairs), strict=True))
    if width == 0 or counts < 1000:
        return None
    std = math.sqrt(0.5 * float(sums / counts)) / width
    if std >= LEAST_NOISE:
        return None
    return Finding(
        "denoised frames",
        pairs[0].numbers,
        f"the noise of the brightest third of the pixels is {std:.2f} codes (limit {LEAST_NOISE:g}), less than photons "
        "make: the frames were filtered or averaged",
        {"codes": std},
        _thumbnail(pairs[0].difference),
        "difference of the two frames",
    )


def _thumbnail(image: Array, side: int = 128) -> Array:
    """The first plane, in means of square blocks, at most `side` pixels on a side."""
    block = max(1, math.ceil(max(image.shape[1:]) / side))
    h, w = (n // block * block for n in image.shape[1:])
    small: Array = image[0, :h, :w].reshape(h // block, block, w // block, block).mean(axis=(1, 3))
    return small
