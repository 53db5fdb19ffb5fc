"""Fit the physics model: maximum likelihood of the stored codes, one camera and ISO at a time.

An extra (heavy tails, row noise) costs one value more. It is kept where it raises the log likelihood by more than
log n nats for n values: twice what the Bayesian information criterion asks of a value, since neighbouring values tell
less than n independent ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import optimize
from torch import Tensor

from noiseflow.errors import UserError
from noiseflow.models.electronics import Electronics, Grid, codes_of, to_sensor_rows
from noiseflow.models.physics import Physics
from noiseflow.sensors.pmf import FloatArray
from noiseflow.sensors.rows import log_mass_rows
from noiseflow.shot import Shot
from noiseflow.training.noise_level import fit_noise_level

_STEP = 1e-5  # of the forward differences: the objective has 13 digits and curvatures of order one
_LAMBDAS = (-0.24, 0.0)  # tails heavier than the logistic distribution's; below, a fourth moment is missing
_SIGN = 4.0  # standard errors of the row statistic from which row noise is looked for
_FEW = 20_000  # values on which an extra is tried
_SHIFT = 1e-3  # of the difference that gives the derivative by an offset, standard deviations


def fit_physics(noisy: Float[Tensor, "b c h w"], shot: Shot) -> Physics:
    """Fit electrons at white, read noise, its tails and row noise per camera and ISO.

    The start is the fitted noise level function: white_e = 1/a and read² = b. From there the log probability of the
    codes is maximised in the logarithms of the unknowns, in which it has curvatures of order one. Row noise is looked
    for where residuals of one sensor row go together; a pixel on its own shows it as read noise, so that only how the
    variance divides among the two remains to be found.

    Args:
        noisy: `(B, C, H, W)`, stored values, linear units; 50,000 values per camera and ISO are plenty.
        shot: clean images and conditions; its (camera, ISO) pairs become the model's.

    Raises:
        UserError: the images are pictures of three channels.
    """
    channels = noisy.shape[1]
    if channels == 3:
        raise UserError("physics: expected raw images, got pictures of 3 channels; nlf and the flows take pictures")
    level = fit_noise_level(noisy, shot)
    model = Physics(level.conditions.pairs, channels)
    row_of = level.conditions.locate(shot).lower
    for k, (log_a, log_b) in enumerate(zip(level.log_a[:, 0].tolist(), level.log_b[:, 0].tolist(), strict=True)):
        members = torch.nonzero(row_of == k)[:, 0]
        data = _by_grid(noisy[members], shot.rows(members))
        found = _fit_pixels(data, Electronics(math.exp(-log_a), math.exp(0.5 * log_b)))
        model.set(k, _fit_rows(data, found))
    return model.eval()


class _Values(NamedTuple):
    """Sensor rows of one code grid, `(rows, n)` each, linear units."""

    stored: FloatArray
    clean: FloatArray
    grid: Grid

    @property
    def flat(self) -> tuple[FloatArray, FloatArray, Grid]:
        return self.stored.reshape(-1), self.clean.reshape(-1), self.grid


def _by_grid(noisy: Tensor, shot: Shot) -> list[_Values]:
    """All sensor rows of images of one condition; those of one code grid together, and none with two."""
    grids = torch.stack((shot.lsb, shot.low, shot.high), dim=-1).double().numpy(force=True)  # (B, C, 3)
    groups: dict[tuple[Grid, ...], list[int]] = {}
    for i, grid in enumerate(grids.tolist()):
        groups.setdefault(tuple(Grid(*g) for g in grid), []).append(i)
    stored, clean = (v.double().numpy(force=True) for v in (noisy, shot.clean))
    out = []
    for each, members in groups.items():
        if len(set(each)) == 1:
            row, signal = (to_sensor_rows(v[members]) for v in (stored, clean))
            out.append(_Values(row.reshape(-1, row.shape[-1]), signal.reshape(-1, row.shape[-1]), each[0]))
        else:
            width = stored.shape[-1]
            out += [
                _Values(stored[members, c].reshape(-1, width), clean[members, c].reshape(-1, width), grid)
                for c, grid in enumerate(each)
            ]
    return out


def _count(data: list[_Values]) -> int:
    return sum(values.stored.size for values in data)


def _log_likelihood(data: list[_Values], electronics: Electronics) -> float:
    """Of the values, each on its own."""
    return float(sum(electronics.log_mass(*values.flat).sum() for values in data))


def _fit_pixels(data: list[_Values], start: Electronics) -> Electronics:
    """The electronics without row noise under which the values, each on its own, are most probable."""
    normal, mass = _climb(data, start)
    if not all(normal.counts(values.grid.lsb) for values in data):
        return normal
    few, due = _some_rows(data, _FEW), math.log(_count(data))
    _, few_mass = _climb(few, normal)
    heavy, few_heavy_mass = _climb(few, normal._replace(tukey_lambda=-0.05))
    if (few_heavy_mass - few_mass) * _count(data) / _count(few) < due:
        return normal
    heavy, heavy_mass = _climb(data, heavy)
    return heavy if heavy_mass > mass + due else normal


def _climb(data: list[_Values], start: Electronics) -> tuple[Electronics, float]:
    """Climb from a start: white_e, read and, where the start has one, tukey_lambda; and the log likelihood there."""
    count = _count(data)

    def at(x: FloatArray) -> Electronics:
        shape = None if start.tukey_lambda is None else float(x[2])
        return start._replace(white_e=math.exp(x[0]), read=math.exp(x[1]), tukey_lambda=shape)

    x = [math.log(start.white_e), math.log(start.read)]
    finest = math.log(max([values.grid.lsb for values in data] + [1e-9]) / 20)  # as the noise level function's floor
    bounds = [(x[0] - 3, x[0] + 3), (min(x[1], finest), x[1] + 3)]
    if start.tukey_lambda is not None:
        x.append(start.tukey_lambda)
        bounds.append(_LAMBDAS)

    def loss(x: FloatArray) -> float:
        return -_log_likelihood(data, at(x)) / count

    options = {"eps": _STEP, "ftol": 1e-10, "gtol": 1e-5}
    found = optimize.minimize(loss, np.array(x), method="L-BFGS-B", jac="2-point", bounds=bounds, options=options)  # type: ignore[call-overload]
    return at(found.x), -float(found.fun) * count


def _fit_rows(data: list[_Values], pixels: Electronics) -> Electronics:
    """Divide the read noise of pixels on their own into theirs and that of rows, where there is a sign of it."""
    if any(values.grid.lsb == 0 for values in data) or _row_sign(data, pixels) < _SIGN:
        return pixels
    part = _some_rows(data, _FEW)

    def divided(share: float) -> Electronics:
        return pixels._replace(read=pixels.read * math.sqrt(1 - share**2), row=pixels.read * share)

    found = optimize.minimize_scalar(
        lambda share: -_row_likelihood(part, divided(share)), bounds=(0.01, 0.99), method="bounded",
        options={"xatol": 2e-3},
    )  # fmt: skip
    with_rows = divided(float(found.x))
    if pixels.tukey_lambda is not None:  # the tails are the pixels' alone
        with_rows, _ = _climb(data, with_rows)
    gain = _row_likelihood(part, with_rows) - _log_likelihood(part, pixels)
    return with_rows if gain * _count(data) / _count(part) > math.log(_count(data)) else pixels


def _row_likelihood(data: list[_Values], electronics: Electronics) -> float:
    """Log likelihood of whole sensor rows."""
    total = 0.0
    for stored, clean, grid in data:
        codes, first, last = codes_of(stored, grid)
        rate = np.maximum(clean, 0.0) * electronics.white_e
        pixel = electronics.pixel(grid.lsb, first, last)
        total += float(log_mass_rows(pixel, electronics.row / grid.lsb, codes, rate).sum())
    return total


def _row_sign(data: list[_Values], pixels: Electronics) -> float:
    """How clearly the values of a row go together, in standard errors; positive where they do.

    With s_i the derivative of a value's log probability by an offset, which has mean 0 under clipping too, this is the
    score test of row noise: Σ_rows [(Σ s_i)² − Σ s_i²], of variance 2 Σ_rows [(Σ s_i²)² − Σ s_i⁴] without row noise.
    """
    statistic = variance = 0.0
    for stored, clean, grid in data:
        codes, first, last = codes_of(stored.reshape(-1), grid)
        rate = np.maximum(clean.reshape(-1), 0.0) * pixels.white_e
        pixel, shift = pixels.pixel(grid.lsb, first, last), np.full(codes.size, _SHIFT * pixels.read / grid.lsb)
        score = (pixel.log_pmf(codes, rate, shift) - pixel.log_pmf(codes, rate, -shift)).reshape(stored.shape)
        squares = (score**2).sum(axis=1)
        statistic += float((score.sum(axis=1) ** 2 - squares).sum())
        variance += 2 * float((squares**2 - (score**4).sum(axis=1)).sum())
    return statistic / math.sqrt(variance) if variance > 0 else 0.0


def _some_rows(data: list[_Values], wanted: int) -> list[_Values]:
    """Sensor rows of about that many values, evenly taken."""
    step = max(1, _count(data) // wanted)
    return [_Values(values.stored[::step], values.clean[::step], values.grid) for values in data]
