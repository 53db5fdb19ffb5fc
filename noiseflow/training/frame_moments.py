"""What frames of one still scene tell of its noise, without a clean image: derivation in docs/noisy-only.md.

With y₁, y₃ two frames and u what a denoiser finds in others, the noises of all three are independent, and given u

    E[½(y₁ − y₃)²]        = recorded variance                    (`difference`)
    E[(y₁ − u)(y₃ − u)]   = squared error of u                   (`error`, less the squared mean of y − u)
    E[½(y₁ + y₃)]         = recorded mean                        (`mean`)

for any distribution of the noise. In bins of u these three give the noise level function (a, b), and how far the latent
signal lies from u, in mean and in variance (`FoundSignal`). Fixed-pattern noise is in both frames alike: differences do
not see it.
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
from noiseflow.recorded_moments import recorded_moments, signal_from_mean
from noiseflow.shot import Shot

FloatArray = npt.NDArray[np.float64]

BINS = 64
"""Most bins of u."""

_FEWEST = 500  # values in a bin: its moments are then known to a few per cent
_MISFIT = 0.01  # relative error that a bin's recorded variance has beside its sampling error: noise is not Gaussian
_ROUNDS = 8


class FrameMoments(NamedTuple):
    """Moments in bins of u, `(bins,)` each, linear units.

    Attributes:
        values: how many there are.
        found: mean of u.
        mean: mean of ½(y₁ + y₃).
        error: E[(y₁ − u)(y₃ − u)] less the square of E[½(y₁ + y₃) − u]: how far the recorded mean strays from u.
        difference: E[½(y₁ − y₃)²].
    """

    values: FloatArray
    found: FloatArray
    mean: FloatArray
    error: FloatArray
    difference: FloatArray


def frame_moments(
    found: npt.ArrayLike, mean: npt.ArrayLike, product: npt.ArrayLike, difference: npt.ArrayLike
) -> FrameMoments:
    """Sort values by u and average them in bins, of which half follow the quantiles of u and half its range.

    Args:
        found: u, any shape, linear units.
        mean: ½(y₁ + y₃).
        product: (y₁ − u)(y₃ − u).
        difference: ½(y₁ − y₃)².
    """
    u, *others = (np.asarray(v, np.float64).reshape(-1) for v in (found, mean, product, difference))
    order = np.argsort(u, kind="stable")
    u = u[order]
    place = 0.5 * np.arange(u.size) / u.size + 0.5 * (u - u[0]) / max(u[-1] - u[0], 1e-12)
    edges = np.searchsorted(place, np.arange(BINS) / BINS)
    starts = [0]
    for edge in edges[1:]:
        if edge - starts[-1] >= _FEWEST and u.size - edge >= _FEWEST:
            starts.append(int(edge))
    count = np.diff([*starts, u.size]).astype(np.float64)
    at, m, p, q = (np.add.reduceat(v, starts) / count for v in (u, *(v[order] for v in others)))
    return FrameMoments(count, at, m, p - (m - at) ** 2, q)


class SignalBehind(NamedTuple):
    """What `fit_moments` found.

    Attributes:
        a: slope of the noise level function, linear units.
        b: its intercept, squared linear units.
        signal: `(bins,)`, mean of the latent signal where the denoiser finds u.
        error: `(bins,)`, its variance about that: the denoiser's squared error, before clipping.
    """

    a: float
    b: float
    signal: FloatArray
    error: FloatArray


def fit_moments(
    moments: FrameMoments, *, photons: bool = True, lsb: float = 0.0, low: float = 0.0, high: float = 1.0
) -> SignalBehind:
    """The noise level function whose recorded moments are nearest to those of frames, by least squares.

    Within a bin the latent signal is taken as N(signal, error): what is recorded has the moments of Gaussian noise of
    variance a·x + b + error (`noiseflow.recorded_moments`), of which the part that frames share is `error`.

    Args:
        moments: of one camera and ISO.
        photons: whether the slope is photon noise, whose third cumulant is a²x: true of raw images.
        lsb: width of a code, linear units.
        low: lowest value that can be recorded.
        high: highest value that can be recorded.
    """
    ends = {"lsb": lsb, "low": low, "high": high}
    least = (lsb / 20) ** 2 + 1e-14
    scale = moments.difference + 0.01 * np.median(moments.difference) + least
    weight = 1 / (scale * np.sqrt(_MISFIT**2 + 2.5 / moments.values))

    def behind(a: float, b: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        error = np.maximum(moments.error, 0.0)
        for _ in range(_ROUNDS):
            x = signal_from_mean(moments.mean, a, b + error, photons=photons, **ends)
            light = a * np.maximum(x, 0.0)
            noise = light + b
            there = recorded_moments(x, noise + error, a * light if photons else 0.0, **ends)
            error = _latent(moments.error, there.inside, there.bend, noise)
        shared = error * there.inside**2 + 0.5 * (error * there.bend) ** 2
        return x, error, there.variance - shared

    def misfit(logs: FloatArray) -> FloatArray:
        _, _, difference = behind(*np.exp(logs))
        residual: FloatArray = weight * (difference - moments.difference)
        return residual

    line = np.stack([np.maximum(moments.mean, 0.0), np.ones_like(scale)], axis=1)
    (a, b), _ = nnls(line * weight[:, None], moments.difference * weight)
    start = np.log([max(a, least, 1e-3 * b), max(b, least)])
    fitted = least_squares(misfit, start, loss="soft_l1", x_scale=0.1)
    a, b = (float(value) for value in np.exp(fitted.x))
    x, error, _ = behind(a, max(b, least))
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
        shift: `(K, channels, BINS)`, mean of the signal less u.
        error: `(K, channels, BINS)`, variance of the signal about its mean.
    """

    knots: Tensor
    shift: Tensor
    error: Tensor

    def __init__(self, conditions: Conditions, channels: int) -> None:
        super().__init__()
        self.conditions = conditions
        for name in ("knots", "shift", "error"):
            self.register_buffer(name, torch.zeros(len(conditions), channels, BINS, dtype=torch.float64))

    def fill(self, condition: int, channel: int, moments: FrameMoments, behind: SignalBehind) -> None:
        """Enter what was fitted to one camera and ISO."""
        last = BINS - moments.found.size
        for name, values in (
            ("knots", moments.found),
            ("shift", behind.signal - moments.found),
            ("error", behind.error),
        ):
            getattr(self, name)[condition, channel] = torch.from_numpy(np.pad(values, (0, last), mode="edge"))

    def look_up(
        self, found: Float[Tensor, "b c h w"], shot: Shot
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Mean and variance of the latent signal where a denoiser finds u; float64, linear units."""
        rows = self.conditions.locate(shot).lower
        b, c = found.shape[:2]
        knots, shift, error = (t[rows].expand(b, c, BINS).contiguous() for t in (self.knots, self.shift, self.error))
        u = found.double().flatten(2).contiguous()
        right = torch.searchsorted(knots, u).clamp(1, BINS - 1)
        start, end = knots.gather(2, right - 1), knots.gather(2, right)
        weight = ((u - start) / (end - start).clamp_min(1e-12)).clamp(0, 1)
        between = [torch.lerp(t.gather(2, right - 1), t.gather(2, right), weight) for t in (shift, error)]
        return (u + between[0]).reshape(found.shape), between[1].reshape(found.shape)

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
