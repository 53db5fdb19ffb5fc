"""Dark frames of one camera to black level, read noise, and the noise of rows and columns."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from noiseflow.calibration.differences import (
    Differences,
    Read,
    ReadFit,
    fit_read,
    largest_difference,
    noise_masses,
)
from noiseflow.calibration.frames import Codes, FloatArray, FrameSet
from noiseflow.calibration.profile import Estimate
from noiseflow.calibration.stacks import Lines, Stack, stack_statistics
from noiseflow.errors import UserError

FINEST = 0.4
"""Read noise below this many codes is not told from rounding: what is seen then hangs on the shape that is assumed."""

CLIPPED = 1e-3
"""Share of dark pixels at the lowest code from which the tails are lost."""

_PILED = 0.8  # the lowest code is a clip where it holds this many times what the next one does
_BANDS = 32
_LEAST_BANDS = 6
_SHAPE_KNOWN = 0.15  # standard error of λ above which it says nothing


@dataclass(frozen=True, eq=False)
class Darks:
    """What the dark frames of one ISO say, DN.

    Attributes:
        stack: variances; of a single frame, of its neighbouring pixels of one colour taken as two frames.
        step: distance of neighbouring codes.
        clipped: share of pixels at the lowest code, 0 where it is no clip.
        differences: how often pairs of frames differ by how much, in codes.
        line_squares: `(bands,)`, what each band adds to the error of the shared variance, codes².
    """

    stack: Stack
    step: float
    clipped: float
    differences: Differences
    line_squares: FloatArray


@dataclass(frozen=True)
class DarkFit:
    """What was found, each with its interval, DN; None: not identified.

    Attributes:
        read: scale of the read noise.
        shape: λ; None where the noise is normal.
        std: standard deviation of the read noise.
        row, column: standard deviation of what rows and columns share.
        black: of each channel.
        noise: variance of a dark pixel with its rounding, row and column offsets apart, DN².
        noise_se: standard error of it.
        warnings: sentences.
        freedom: degrees of freedom of the error of `std`, whose interval is Student's.
    """

    read: Estimate | None
    shape: Estimate | None
    std: Estimate | None
    row: Estimate | None
    column: Estimate | None
    black: tuple[Estimate | None, ...]
    noise: float
    noise_se: float
    warnings: tuple[str, ...]
    freedom: float = math.inf


def code_step(stacks: Sequence[Codes]) -> float:
    """Greatest number that divides the distances of all codes.

    Raises:
        UserError: the codes are not whole numbers.

    Examples:
        >>> code_step([np.array([[[64, 68], [76, 64]]])])
        4.0
    """
    found = 0
    for stack in stacks:
        codes = np.unique(stack)
        if codes.dtype.kind == "f":
            if (codes != np.rint(codes)).any():
                raise UserError("frames: expected whole codes as the sensor wrote them, got fractions")
            codes = codes.astype(np.int64)
        found = int(np.gcd.reduce(np.diff(codes.astype(np.int64)), initial=found))
    return float(max(found, 1))


def dark_statistics(frames: FrameSet, step: float) -> Darks:
    """Sufficient statistics of the dark frames of one ISO.

    Args:
        frames: one dark frame at least.
        step: distance of neighbouring codes, DN.
    """
    darks = frames.darks
    if len(darks) == 1:
        darks = _halves(darks[0], frames.cfa is not None)
        frames = FrameSet(frames.iso, darks=darks, cfa=frames.cfa)
    stack = stack_statistics(darks, frames)
    lowest = darks.min()
    at_lowest, at_next = (float((darks == lowest + k * step).mean()) for k in (0, 1))
    clipped = at_lowest if at_lowest > _PILED * at_next else 0.0
    rest = stack.noise / step**2
    shared = max(stack.rows.variance - stack.noise / stack.rows.length, 0.0)
    shared += max(stack.columns.variance - stack.noise / stack.columns.length, 0.0)
    shared += float(stack.frame_means.mean(axis=1).var(ddof=1))
    shared /= step**2
    bands = _band_edges(darks.shape[1], 2 if frames.cfa is not None else 1)
    sizes = largest_difference(math.sqrt(rest + shared))
    differences = Differences(
        counts=_band_counts(np.rint((darks.astype(np.float64) - lowest) / step).astype(np.int32), bands, sizes),
        pairs_per_dof=len(darks) / 2,
        fractions=stack.frame_means.mean(axis=0) / step,
        pattern=math.sqrt(max(stack.spatial, 0.0)) / step,
        shared=math.sqrt(shared),
    )
    rows = np.add.reduceat(stack.rows.by_line, bands[:-1]) / step**2
    share = np.diff(bands) / darks.shape[1] * stack.rows.variance / step**2
    return Darks(stack, step, clipped, differences, rows / stack.rows.dof - share)


def _halves(dark: Codes, mosaic: bool) -> Codes:
    """Two frames from one: neighbouring pixels of one colour."""
    if not mosaic:
        width = dark.shape[1] // 2 * 2
        return np.stack([dark[:, 0:width:2], dark[:, 1:width:2]])
    width = dark.shape[1] // 4 * 4
    four = dark[:, :width].reshape(len(dark), width // 4, 2, 2)
    return np.stack([four[:, :, k].reshape(len(dark), width // 2) for k in range(2)])


def _band_edges(height: int, cell: int) -> list[int]:
    bands = max(min(_BANDS, height // (2 * cell)), 1)
    return [round(edge / cell) * cell for edge in np.linspace(0, height, bands + 1)]


def _band_counts(codes: Codes, bands: list[int], sizes: int) -> FloatArray:
    count = len(bands) - 1
    offset = np.repeat(np.arange(count) * (sizes + 1), np.diff(bands)).astype(np.int32)[:, None]
    total = np.zeros(count * (sizes + 1))
    for one, other in itertools.combinations(codes, 2):
        size = np.minimum(np.abs(one - other), sizes) + offset
        total += np.bincount(size.ravel(), minlength=total.size)
    return total.reshape(count, sizes + 1)


def fit_darks(darks: Sequence[Darks], counts: Sequence[int]) -> list[DarkFit]:
    """Fit all ISOs of a camera; one kind of read noise, normal or Tukey-lambda, serves them all.

    Tukey-lambda is taken where it raises the log likelihood by more than its parameters cost (Schwarz's criterion),
    and by two standard errors of that gain over bands of rows (Vuong 1989), which large row noise makes uncertain.

    Args:
        darks: statistics of each ISO.
        counts: how many dark frames there were at each.
    """
    usable = [k for k, dark in enumerate(darks) if dark.clipped < CLIPPED and _read_std(dark) > FINEST / 2]
    normal: dict[int, ReadFit] = {}
    heavy: dict[int, ReadFit] = {}
    gain = variance = 0.0
    for k in usable:
        data, squares = darks[k].differences, darks[k].line_squares
        std = _read_std(darks[k])
        normal[k] = fit_read(data, squares, Read(std))
        heavy[k] = fit_read(data, squares, Read(std / Read(1.0, 0.0).std, 0.0))
        by_band = heavy[k].log_likelihood - normal[k].log_likelihood
        gain += float(by_band.sum()) - 0.5 * math.log(data.counts.sum() / data.pairs_per_dof)
        variance += float(by_band.var()) * by_band.size
    chosen = heavy if gain > 2 * math.sqrt(variance) else normal
    return [_report(dark, chosen.get(k), counts[k]) for k, dark in enumerate(darks)]


def _read_std(dark: Darks) -> float:
    """Standard deviation of read noise by moments, codes."""
    return math.sqrt(max(dark.stack.noise / dark.step**2 - 1 / 12, 0.01))


def _report(dark: Darks, fit: ReadFit | None, frames: int) -> DarkFit:
    stack, step = dark.stack, dark.step
    channels = stack.frame_means.shape[1]
    noise_se = stack.noise * math.sqrt(2 / ((frames - 1 or 1) * stack.rows.length * stack.columns.length))
    nothing = DarkFit(None, None, None, None, None, (None,) * channels, stack.noise, noise_se, ())
    if dark.clipped >= CLIPPED:
        why = (
            f"{100 * dark.clipped:.1f} % of the dark pixels sit at the lowest code: black level, read noise, its tails "
            "and row noise are cut off and not identifiable from darks; flats at a known black level give read noise"
        )
        return dataclasses.replace(nothing, warnings=(why,))
    if fit is None or fit.read.std < FINEST:
        why = (
            f"read noise is far below one code (less than {FINEST} × {step:g} DN): "
            "not identifiable from darks, as rounding hides it"
        )
        black = _blacks(dark, Read(_read_std(dark)), frames)
        return dataclasses.replace(nothing, black=black, warnings=(why,))
    if fit.bands < _LEAST_BANDS:
        why = f"frames of so few rows ({stack.columns.length}) give no interval of the read noise"
        return dataclasses.replace(nothing, black=_blacks(dark, fit.read, frames), warnings=(why,))
    warnings = []
    response = _response(dark, fit.read)
    row: Estimate | None
    row, column = (_line_noise(lines, stack.noise, response) for lines in (stack.rows, stack.columns))
    if frames == 1:
        row = None
        warnings.append(
            "one dark frame: its read noise includes what differs between pixels for good, and row noise is not "
            "identifiable; shoot at least two"
        )
    reach = float(stats.t.ppf(0.975, fit.dof))
    se = np.sqrt(np.diag(fit.covariance))
    read = _log_interval(fit.read.scale * step, reach * float(se[0]))
    shape = None
    std = read
    if fit.read.shape is not None:
        if se[1] <= _SHAPE_KNOWN:
            half = reach * float(se[1])
            shape = Estimate(fit.read.shape, fit.read.shape - half, fit.read.shape + half)
        d = 1e-4
        slope = math.log(Read(1.0, fit.read.shape + d).std / Read(1.0, fit.read.shape - d).std) / (2 * d)
        both = np.array([1.0, slope])
        std = _log_interval(fit.read.std * step, reach * math.sqrt(both @ fit.covariance @ both))
        if shape is None:
            warnings.append("the shape λ of the read noise is not identifiable; its scale is its standard deviation")
            read = std
    relative = math.log(std.high / std.low) / 2 / reach
    return DarkFit(
        read, shape, std, row, column, _blacks(dark, fit.read, frames), stack.noise,
        max(noise_se, 2 * relative * (std.value**2)), tuple(warnings), fit.dof,
    )  # fmt: skip


def _log_interval(value: float, half: float) -> Estimate:
    return Estimate(value, value * math.exp(-half), value * math.exp(half))


def _line_noise(lines: Lines, noise: float, response: float) -> Estimate:
    """Standard deviation of the shared offset: mean squares of line means follow χ², less what pixels leave in them."""
    left = noise / lines.length

    def root(variance: float) -> float:
        return math.sqrt(max(variance - left, 0.0)) / response

    sums = lines.variance * lines.dof
    low, high = (root(sums / float(stats.chi2.ppf(level, lines.dof))) for level in (0.975, 0.025))
    return Estimate(root(lines.variance), low, high)


def _response(dark: Darks, read: Read) -> float:
    """How much the mean code moves when an offset moves, averaged over phases: 1 but for read noise below a code."""
    cosine, _ = _ripple(dark, read)
    return float(1 - 2 * cosine.mean())


def _blacks(dark: Darks, read: Read, frames: int) -> tuple[Estimate, ...]:
    """Mean codes, less the bias of rounding; the interval holds what rows, columns, pixels and frames leave in them."""
    stack = dark.stack
    count, channels = stack.frame_means.shape
    height, width = stack.columns.length, stack.rows.length
    side = 2 if channels == 4 else 1
    size = height * width / channels
    row, column = (max(lines.variance - stack.noise / lines.length, 0.0) for lines in (stack.rows, stack.columns))
    of_frame = row * side / height + column * side / width + stack.noise / size
    fixed = max(stack.spatial, 0.0) / size
    _, sine = _ripple(dark, read)
    out = []
    for mean, bias, by_frame in zip(stack.frame_means.mean(axis=0), sine, stack.frame_means.T, strict=True):
        half = 1.96 * math.sqrt(of_frame / count + fixed)
        moves = float(by_frame.var(ddof=1))
        if frames > 1 and moves / of_frame > stats.f.ppf(0.999, count - 1, 1000):
            half = float(stats.t.ppf(0.975, count - 1)) * math.sqrt(moves / count + fixed)
        value = float(mean + bias * dark.step)
        out.append(Estimate(value, value - half, value + half))
    return tuple(out)


def _ripple(dark: Darks, read: Read) -> tuple[FloatArray, FloatArray]:
    """First harmonic of rounding at each channel's black level, `(C,)`: cos(2πφ)·ψ and sin(2πφ)·ψ/π.

    E[round(φ + n)] = φ − Σ_k (−1)^(k+1)·sin(2πkφ)·ψ(2πk)/(πk), with ψ the characteristic function of the noise and
    of what differs between pixels; of read noise above 0.4 codes the second harmonic is below 1e-5.
    """
    shared = math.hypot(dark.differences.shared, dark.differences.pattern)
    half = math.ceil(10 * math.hypot(read.std, shared)) + 2
    mass = noise_masses(read, shared, half, 16)
    x = (np.arange(mass.size) + 0.5) / 16 - half - 1.5
    psi = float(mass @ np.cos(2 * math.pi * x))
    angle = 2 * math.pi * dark.differences.fractions
    return np.cos(angle) * psi, np.sin(angle) * psi / math.pi
