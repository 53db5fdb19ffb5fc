"""Fit the physics model: maximum likelihood of the stored codes, one camera and ISO at a time.

Heavy tails cost one value more. They are kept where they raise the log likelihood by more than log n nats for n values:
twice what the Bayesian information criterion asks, since neighbouring values tell less than n independent ones.
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
from noiseflow.models.electronics import Electronics, Grid
from noiseflow.models.physics import Physics
from noiseflow.sensors.pmf import FloatArray
from noiseflow.shot import Shot
from noiseflow.training.noise_level import fit_noise_level

_STEP = 1e-5  # of the forward differences: the objective has 13 digits and curvatures of order one
_LAMBDAS = (-0.24, 0.0)  # tails heavier than the logistic distribution's; below, a fourth moment is missing
_FEW = 20_000  # values on which heavy tails are tried before all are


def fit_physics(noisy: Float[Tensor, "b c h w"], shot: Shot) -> Physics:
    """Fit electrons at white, read noise and its tails per camera and ISO.

    The start is the fitted noise level function: white_e = 1/a and read² = b. From there the log probability of the
    codes is maximised in the logarithms of the unknowns, in which it has curvatures of order one.

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
        model.set(k, _fit(data, Electronics(math.exp(-log_a), math.exp(0.5 * log_b))))
    return model.eval()


class _Values(NamedTuple):
    """Values of one code grid, `(n,)` each, linear units."""

    stored: FloatArray
    clean: FloatArray
    grid: Grid


def _by_grid(noisy: Tensor, shot: Shot) -> list[_Values]:
    """All values of images of one condition, those of one code grid together."""
    grids = torch.stack((shot.lsb, shot.low, shot.high), dim=-1).double()
    distinct, group = torch.unique(grids.reshape(-1, 3), dim=0, return_inverse=True)
    stored, clean = (v.double().flatten(0, 1).numpy(force=True) for v in (noisy, shot.clean))
    return [
        _Values(stored[chosen].reshape(-1), clean[chosen].reshape(-1), Grid(*grid))
        for grid, chosen in ((grid, (group == i).numpy(force=True)) for i, grid in enumerate(distinct.tolist()))
    ]


def _count(data: list[_Values]) -> int:
    return sum(values.stored.size for values in data)


def _some(data: list[_Values]) -> list[_Values]:
    """About `_FEW` of the values, evenly taken."""
    step = max(1, _count(data) // _FEW)
    return [_Values(values.stored[::step], values.clean[::step], values.grid) for values in data]


def _log_likelihood(data: list[_Values], electronics: Electronics) -> float:
    return float(sum(electronics.log_mass(*values).sum() for values in data))


def _fit(data: list[_Values], start: Electronics) -> Electronics:
    """The electronics under which the values are most probable, with heavy tails where those are worth their value."""
    normal, mass = _climb(data, start)
    if not all(normal.counts(values.grid.lsb) for values in data):
        return normal
    few, due = _some(data), math.log(_count(data))
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
        return Electronics(math.exp(x[0]), math.exp(x[1]), shape)

    def loss(x: FloatArray) -> float:
        return -_log_likelihood(data, at(x)) / count

    x = [math.log(start.white_e), math.log(start.read)]
    finest = math.log(max([values.grid.lsb for values in data] + [1e-9]) / 20)  # as the noise level function's floor
    bounds = [(x[0] - 3, x[0] + 3), (min(x[1], finest), x[1] + 3)]
    if start.tukey_lambda is not None:
        x.append(start.tukey_lambda)
        bounds.append(_LAMBDAS)
    options = {"eps": _STEP, "ftol": 1e-10, "gtol": 1e-5}
    found = optimize.minimize(loss, np.array(x), method="L-BFGS-B", jac="2-point", bounds=bounds, options=options)  # type: ignore[call-overload]
    return at(found.x), -float(found.fun) * count
