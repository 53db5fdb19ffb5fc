"""What frames of one still scene tell of its noise, without a clean image: derivation in docs/noisy-only.md.

With y₁, y₃ two frames and u what a denoiser finds in others, the noises of all three are independent, and given u

    E[½(y₁ − y₃)²]        = recorded variance                    (`difference`)
    E[(y₁ − u)(y₃ − u)]   = squared error of u                   (`error`, less the squared mean of y − u)
    E[½(y₁ + y₃)]         = recorded mean                        (`mean`)

for any distribution of the noise. In bins of u, and of the texture around the pixel, these three give the noise level
function (a, b), and how far the latent signal lies from u in mean and variance (`FoundSignal`). Fixed-pattern noise is
in both frames alike: differences do not see it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy.optimize import least_squares, nnls
from torch import Tensor, nn

from noiseflow.cells import cells, draw_in_cells
from noiseflow.conditions import Conditions
from noiseflow.models.base import quantise
from noiseflow.noise_level import NoiseLevel
from noiseflow.recorded_moments import recorded_moments
from noiseflow.shot import Shot

FloatArray = npt.NDArray[np.float64]

BINS = 64
"""Most bins of u."""

TEXTURE_STEPS = (0.5, 0.75, 0.9, 0.97)
"""Quantiles of the texture within a bin that divide it into groups: denoisers err most in few places."""

GROUPS = len(TEXTURE_STEPS) + 1

_FEWEST = 500  # values in a bin: its moments are then known to a few per cent
_MISFIT = 0.01  # relative error that a bin's recorded variance has beside its sampling error: noise is not Gaussian
_ROUNDS = 20
_REACH = 3.0  # standard deviations beyond a clip end: an all-black mean says no more


class FrameMoments(NamedTuple):
    """Moments in bins of u and, within each, groups of texture; `(bins, groups)` each, linear units.

    Attributes:
        values: how many there are.
        found: mean of u.
        mean: mean of ½(y₁ + y₃).
        error: E[(y₁ − u)(y₃ − u)] less the square of E[½(y₁ + y₃) − u]: how far the recorded mean strays from u.
        difference: E[½(y₁ − y₃)²].
        steps: `(bins, groups − 1)`, bounds between groups of texture.
    """

    values: FloatArray
    found: FloatArray
    mean: FloatArray
    error: FloatArray
    difference: FloatArray
    steps: FloatArray


def texture_of(found: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Variance of an image within 3×3 pixels, squared linear units: where it is large, denoisers err more."""
    mean, square = (nn.functional.avg_pool2d(v, 3, 1, 1, count_include_pad=False) for v in (found, found.square()))
    return (square - mean.square()).clamp_min(0)


def frame_moments(
    found: npt.ArrayLike,
    mean: npt.ArrayLike,
    product: npt.ArrayLike,
    difference: npt.ArrayLike,
    texture: npt.ArrayLike,
) -> FrameMoments:
    """Sort values by u and average them in bins, of which half follow the quantiles of u and half its range.

    Args:
        found: u, any shape, linear units.
        mean: ½(y₁ + y₃).
        product: (y₁ − u)(y₃ − u).
        difference: ½(y₁ − y₃)².
        texture: `texture_of` u.
    """
    u, *others = (np.asarray(v, np.float64).reshape(-1) for v in (found, mean, product, difference, texture))
    order = np.argsort(u, kind="stable")
    u = u[order]
    place = 0.5 * np.arange(u.size) / u.size + 0.5 * (u - u[0]) / max(u[-1] - u[0], 1e-12)
    edges = np.searchsorted(place, np.arange(BINS) / BINS)
    starts = [0]
    for edge in edges[1:]:
        if edge - starts[-1] >= _FEWEST and u.size - edge >= _FEWEST:
            starts.append(int(edge))
    rows = np.diff([*starts, u.size])
    *values, texture = (v[order] for v in others)
    parts = np.split(texture, starts[1:])
    steps = np.stack([np.quantile(part, TEXTURE_STEPS) for part in parts])
    group = np.concatenate([np.searchsorted(step, part) for step, part in zip(steps, parts, strict=True)])
    cell = np.repeat(np.arange(rows.size), rows) * GROUPS + group
    count = np.bincount(cell, minlength=rows.size * GROUPS).astype(np.float64)
    at, m, p, q = (np.bincount(cell, v, count.size) / np.maximum(count, 1.0) for v in (u, *values))
    count, at, m, p, q = (v.reshape(-1, GROUPS) for v in (count, at, m, p, q))
    return FrameMoments(count, at, m, p - (m - at) ** 2, q, steps)


def two_frame_moments(
    found: npt.ArrayLike,
    recorded: npt.ArrayLike,
    square: npt.ArrayLike,
    difference: npt.ArrayLike,
    between: npt.ArrayLike,
    texture: npt.ArrayLike,
) -> FrameMoments:
    """The same where there are but two frames, each compared with what is found in the other.

    The difference of the two shares the noise of u. It does not share that of the mean of what is found in both, as
    far as noise is symmetric: sorted by that, it gives the recorded variance, which is then taken off the square.

    Args:
        found: u, of the other frame.
        recorded: y.
        square: (y − u)².
        difference: ½(y₁ − y₂)².
        between: mean of what is found in both.
        texture: `texture_of` u.
    """
    by, q, u, e = (np.asarray(v, np.float64).reshape(-1) for v in (between, difference, found, square))
    order = np.argsort(by, kind="stable")
    ends = np.unique(np.linspace(0, by.size, 2 * BINS + 1).astype(np.int64))
    count = np.diff(ends)
    at, variance = (np.add.reduceat(v[order], ends[:-1]) / count for v in (by, q))
    expected = np.interp(u, at, variance)
    return frame_moments(u, recorded, e - expected, expected, texture)


class SignalBehind(NamedTuple):
    """What `fit_moments` found.

    Attributes:
        a: slope of the noise level function, linear units.
        b: its intercept, squared linear units.
        signal: `(bins, groups)`, mean of the latent signal where the denoiser finds u.
        error: `(bins, groups)`, its variance about that: the denoiser's squared error, before clipping.
    """

    a: float
    b: float
    signal: FloatArray
    error: FloatArray


def fit_moments(
    moments: FrameMoments, *, photons: bool = True, lsb: float = 0.0, low: float = 0.0, high: float = 1.0
) -> SignalBehind:
    """The noise level function whose recorded moments are nearest to those of frames, by least squares.

    Within a bin and group the latent signal is taken as N(signal, error): what is recorded has the moments of noise of
    variance a·x + b + error (`noiseflow.recorded_moments`), of which the part that frames share is `error`. (a, b) are
    fitted to the group of least texture, where the denoiser's error is small and its distribution matters least.

    Args:
        moments: of one camera and ISO.
        photons: whether the slope is photon noise, with cumulants a²x and a³x: true of raw images.
        lsb: width of a code, linear units.
        low: lowest value that can be recorded.
        high: highest value that can be recorded.
    """
    ends = {"lsb": lsb, "low": low, "high": high}
    least = (lsb / 20) ** 2 + 1e-14

    def behind(a: float, b: float, flat: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
        mean, shared = (v[:, :1] if flat else v for v in (moments.mean, moments.error))
        x, error = mean, np.maximum(shared, 0.0)
        for _ in range(_ROUNDS):
            light = a * np.maximum(x, 0.0)
            third, fourth = (a * light, a * a * light) if photons else (0.0, 0.0)
            there = recorded_moments(x, light + b + error, third, fourth, **ends)
            error = _latent(shared, there.inside, there.bend, light + b)
            # Newton's steps come from one side: m(x) is convex at the low end, concave at the high one, and x between.
            reach = _REACH * np.sqrt(light + b)
            x = np.clip(x + (mean - there.mean) / np.maximum(there.inside, 0.05), low - reach, high + reach)
        return x, error, there.variance - error * there.inside**2 - 0.5 * (error * there.bend) ** 2

    values, mean, difference = (v[:, 0] for v in (moments.values, moments.mean, moments.difference))
    scale = difference + 0.01 * np.median(difference) + least
    weight = 1 / (scale * np.sqrt(_MISFIT**2 + 2.5 / np.maximum(values, 1.0)))

    def misfit(logs: FloatArray) -> FloatArray:
        a, b = np.exp(logs)
        _, _, predicted = behind(a, b, flat=True)
        residual: FloatArray = weight * (predicted[:, 0] - difference)
        return residual

    line = np.stack([np.maximum(mean, 0.0), np.ones_like(scale)], axis=1)
    (a, b), _ = nnls(line * weight[:, None], difference * weight)
    start = np.log([max(a, least, 1e-3 * b), max(b, least)])
    fitted = least_squares(misfit, start, loss="soft_l1", x_scale=0.1)
    a, b = (float(value) for value in np.exp(fitted.x))
    x, error, _ = behind(a, max(b, least), flat=False)
    return SignalBehind(a, max(b, least), x, error)


def _latent(recorded: FloatArray, inside: FloatArray, bend: FloatArray, noise: FloatArray) -> FloatArray:
    """The variance r of a signal whose recorded mean m(x) has variance r·m'² + ½ r²·m''²; at most four times noise."""
    least = np.maximum(inside, 0.05) ** 2
    share = np.maximum(recorded, 0.0)
    result: FloatArray = np.minimum(2 * share / (least + np.sqrt(least**2 + 2 * share * bend**2)), 4 * noise)
    return result


class FoundSignal(nn.Module):
    """Where the latent signal lies given what a denoiser finds: a table per camera and ISO, linear between bins.

    Args:
        conditions: the (camera, ISO) pairs, K of them.
        channels: 1 where all channels share their values, else the number of channels.

    Attributes:
        knots: `(K, channels, BINS)`, values of u, rising; the last one repeated where bins are fewer.
        shift: `(K, channels, BINS, GROUPS)`, mean of the signal less u, by group of texture.
        error: `(K, channels, BINS, GROUPS)`, variance of the signal about its mean.
        steps: `(K, channels, BINS, GROUPS − 1)`, bounds between those groups.
    """

    knots: Tensor
    shift: Tensor
    error: Tensor
    steps: Tensor

    def __init__(self, conditions: Conditions, channels: int) -> None:
        super().__init__()
        self.conditions = conditions
        sizes = {"knots": (), "shift": (GROUPS,), "error": (GROUPS,), "steps": (GROUPS - 1,)}
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(len(conditions), channels, BINS, *size, dtype=torch.float64))

    def fill(self, condition: int, channel: int, moments: FrameMoments, behind: SignalBehind) -> None:
        """Enter what was fitted to one camera and ISO."""
        used = torch.arange(BINS).clamp_max(len(moments.found) - 1)
        for name, values in (
            ("knots", np.average(moments.found, axis=1, weights=moments.values)),
            ("shift", behind.signal - moments.found),
            ("error", behind.error),
            ("steps", moments.steps),
        ):
            getattr(self, name)[condition, channel] = torch.from_numpy(values)[used]

    def look_up(
        self, found: Float[Tensor, "b c h w"], shot: Shot
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Mean and variance of the latent signal where a denoiser finds u; float64, linear units."""
        rows, channels = self.conditions.locate(shot).lower, self.knots.shape[1]
        knots = self.knots[rows].expand(-1, found.shape[1], -1).contiguous()
        u, texture = (v.double().flatten(2).contiguous() for v in (found, texture_of(found)))
        right = torch.searchsorted(knots, u).clamp(1, BINS - 1)
        start, end = knots.gather(2, right - 1), knots.gather(2, right)
        weight = ((u - start) / (end - start).clamp_min(1e-12)).clamp(0, 1)
        row = rows[:, None, None]
        channel = torch.arange(found.shape[1], device=found.device)[None, :, None] % channels

        def at(place: Tensor) -> tuple[Tensor, Tensor]:
            group = (texture[..., None] > self.steps[row, channel, place]).sum(dim=-1)
            return self.shift[row, channel, place, group], self.error[row, channel, place, group]

        shift, error = (torch.lerp(*values, weight) for values in zip(at(right - 1), at(right), strict=True))
        return (u + shift).reshape(found.shape), error.reshape(found.shape)

    @torch.no_grad()
    def bring_back(
        self,
        noisy: Float[Tensor, "b c h w"],
        found: Float[Tensor, "b c h w"],
        shot: Shot,
        level: NoiseLevel,
        uniforms: Float[Tensor, "b c h w"],
        normals: Float[Tensor, "b c h w"],
    ) -> tuple[Float[Tensor, "b c h w"], Shot]:
        """A noisy image whose noise about the found signal is that of the sensor, without the denoiser's error.

        The latent value behind each code is drawn given N(x, σ² + r), the residual n̂ of variance σ² + r is brought
        back to σ² by n̂·σ²/(σ² + r) + √(σ²r/(σ² + r))·ε, and what a sensor stores of x plus that is returned: rounding
        and clipping are undone and done again, so they count once.

        Args:
            noisy: stored values that the denoiser has not seen, linear units.
            found: u, what it finds in other frames.
            shot: conditions; its clean image does not matter.
            level: the noise level function, for σ².
            uniforms: in (0, 1), float64, one per pixel, for the latent values.
            normals: standard normal, float64, one per pixel, for ε.

        Returns:
            Stored values, and the shot with x as its clean image.
        """
        x, error = self.look_up(found, shot)
        given = shot.replace(clean=x.to(noisy.dtype))
        variance = level.variance(given).double()
        total = variance + error
        residual, _ = draw_in_cells(cells(noisy, given), torch.zeros_like(total), total.sqrt(), uniforms)
        latent = residual * variance / total + (variance * error / total).sqrt() * normals
        return quantise(given.clean.double() + latent, given), given
