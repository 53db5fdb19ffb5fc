"""Fit the physics model: maximum likelihood of the stored codes, one camera and ISO at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import optimize
from torch import Tensor

from noiseflow.errors import UserError
from noiseflow.models.physics import Electronics, Grid, Physics
from noiseflow.sensors.pmf import FloatArray
from noiseflow.shot import Shot
from noiseflow.training.noise_level import fit_noise_level

_STEP = 1e-5  # of the forward differences; f has 13 digits and a curvature of order one


def fit_physics(noisy: Float[Tensor, "b c h w"], shot: Shot) -> Physics:
    """Fit electrons at white and read noise per camera and ISO.

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
        rows = torch.nonzero(row_of == k)[:, 0]
        data = _by_grid(noisy[rows], shot.rows(rows))
        model.set(k, _climb(data, Electronics(math.exp(-log_a), math.exp(0.5 * log_b))))
    return model.eval()


class _Values(NamedTuple):
    """Values of one code grid, linear units."""

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


def _log_likelihood(data: list[_Values], electronics: Electronics) -> float:
    return float(sum(electronics.log_mass(*values).sum() for values in data))


def _climb(data: list[_Values], start: Electronics) -> Electronics:
    """The electronics of highest likelihood."""
    count = sum(values.stored.size for values in data)

    def loss(x: FloatArray) -> float:
        return -_log_likelihood(data, Electronics(*np.exp(x).tolist())) / count

    x = np.log(np.array(start))
    lsb = max(values.grid.lsb for values in data)
    bounds = [(x[0] - 3, x[0] + 3), (min(x[1], math.log(max(lsb, 1e-12) / 20)), x[1] + 3)]
    found = optimize.minimize(
        loss, x, method="L-BFGS-B", jac="2-point", bounds=bounds, options={"eps": _STEP, "ftol": 1e-10, "gtol": 1e-5}
    )
    return Electronics(*np.exp(found.x).tolist())
