"""Cells: the sets of latent noise values that a sensor would have stored as the code it did store.

A sensor stores `y = clip(round_lsb(clean + n), low, high)`. The values of the latent noise n that give one y form
an interval, the cell `[y - lsb/2, y + lsb/2] - clean`, open to the far side where y is the lowest or the highest
code. With `lsb = 0` a cell inside the range is a single point, and a model's mass of it is its density there.
All of it is float64: masses of cells many standard deviations out, or much narrower than the noise, are exact.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from noiseflow.shot import Shot

_FAR = 1e6
"""Stands for infinity in linear units: finite, so that 0 · ∞ never appears in a gradient."""

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Cells(NamedTuple):
    """One interval of latent noise per pixel, linear units, float64.

    Attributes:
        low: `(B, C, H, W)`, lower ends; -1e6 stands for minus infinity.
        high: `(B, C, H, W)`, upper ends; 1e6 stands for infinity. Equal to `low` where the cell is a point.
    """

    low: Float[Tensor, "b c h w"]
    high: Float[Tensor, "b c h w"]

    @property
    def point(self) -> Bool[Tensor, "b c h w"]:
        """Where a cell is a single value (unquantised and not clipped)."""
        return self.low == self.high

    @property
    def open(self) -> Bool[Tensor, "b c h w"]:
        """Where a cell lacks an end: the lowest or the highest code was stored."""
        return (self.low == -_FAR) | (self.high == _FAR)


def cells(noisy: Float[Tensor, "b c h w"], shot: Shot) -> Cells:
    """The cell of every stored value.

    Args:
        noisy: `(B, C, H, W)`, stored values in linear units; taken to the nearest code where lsb > 0.
        shot: the clean image and the code grid.
    """
    lsb, low, high = (v.double()[..., None, None] for v in (shot.lsb, shot.low, shot.high))
    y = noisy.double()
    width = lsb.clamp_min(torch.finfo(torch.float64).tiny)
    y = torch.where(lsb > 0, torch.round(y / width) * lsb, y)
    clean = shot.clean.double()
    lower = torch.where(y <= low + lsb / 4, -_FAR, y - lsb / 2 - clean)
    upper = torch.where(y >= high - lsb / 4, _FAR, y + lsb / 2 - clean)
    return Cells(lower, upper)


class _LogNormalInterval(torch.autograd.Function):
    """log(Φ(β) - Φ(α)) with the gradient φ/(Φ(β) - Φ(α)) taken in log space."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, beta: Tensor) -> Tensor:
        left, right, _ = _to_left(alpha, beta)
        value = _log_left_interval(left, right)[2]
        ctx.save_for_backward(alpha, beta, value)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        alpha, beta, value = ctx.saved_tensors
        (grad,) = grads
        at_alpha = torch.exp(-0.5 * alpha**2 - _LOG_SQRT_2PI - value)
        at_beta = torch.exp(-0.5 * beta**2 - _LOG_SQRT_2PI - value)
        return -grad * at_alpha, grad * at_beta


def _to_left(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror intervals that lie to the right of zero, where Φ is next to 1 and its differences are lost."""
    mirrored = alpha + beta > 0
    return torch.where(mirrored, -beta, alpha), torch.where(mirrored, -alpha, beta), mirrored


def _log_left_interval(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Φ(right), log Φ(left)/Φ(right) and log(Φ(right) - Φ(left)) of intervals that lie to the left of zero."""
    log_right: Tensor = torch.special.log_ndtr(right)
    gap = torch.special.log_ndtr(left) - log_right
    direct = log_right + torch.log(-torch.expm1(gap))
    # Narrower than 1e-4 the difference of logarithms loses digits; the midpoint rule is then exact to width^2/24.
    width, middle = right - left, 0.5 * (left + right)
    midpoint = torch.log(width) - 0.5 * middle**2 - _LOG_SQRT_2PI + torch.log1p(width**2 * (middle**2 - 1) / 24)
    return log_right, gap, torch.where(width * (1 + middle.abs()) < 1e-4, midpoint, direct)


def log_normal_interval(alpha: Float[Tensor, "*shape"], beta: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log of the standard normal probability of [α, β], float64, α < β; differentiable, stable in both tails."""
    value: Tensor = _LogNormalInterval.apply(alpha, beta)  # type: ignore[no-untyped-call]
    return value


def log_normal_mass(
    cell: Cells, mean: Float[Tensor, "#b #c #h #w"], std: Float[Tensor, "#b #c #h #w"]
) -> Float[Tensor, "b c h w"]:
    """log mass of every cell under independent Gaussian noise, nats; log density where the cell is a point.

    Args:
        cell: the cells.
        mean: mean of the noise, linear units, float64, broadcast over the cells.
        std: standard deviation of the noise, > 0, linear units, float64.
    """
    alpha, beta = (cell.low - mean) / std, (cell.high - mean) / std
    point = cell.point
    if not bool(point.any()):
        return log_normal_interval(alpha, beta)
    density = -0.5 * alpha**2 - _LOG_SQRT_2PI - torch.log(std)
    return torch.where(point, density, log_normal_interval(alpha, torch.where(point, alpha + 1.0, beta)))


def draw_in_cells(
    cell: Cells,
    mean: Float[Tensor, "#b #c #h #w"],
    std: Float[Tensor, "#b #c #h #w"],
    uniforms: Float[Tensor, "b c h w"],
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Draw from a Gaussian truncated to each cell, by inverting its CDF in log space.

    Args:
        cell: the cells.
        mean: mean before truncation, linear units, float64.
        std: standard deviation before truncation, > 0, float64.
        uniforms: numbers in (0, 1), float64, one per pixel.

    Returns:
        The draws, and the log density of the truncated Gaussian at each (0 where the cell is a point).
    """
    point = cell.point
    alpha = (cell.low - mean) / std
    beta = torch.where(point, alpha + 1.0, (cell.high - mean) / std)
    left, right, mirrored = _to_left(alpha, beta)
    log_right, gap, log_mass = _log_left_interval(left, right)
    log_p = log_right + torch.log1p((1 - uniforms) * torch.expm1(gap))  # log of Φ(left) + u (Φ(right) - Φ(left))
    z = _inverse_log_ndtr(log_p)
    # Cells far narrower than the noise: inverting the CDF loses digits there, and q is flat.
    narrow = (right - left) * (1 + left.abs()) < 1e-4
    z = torch.where(narrow, left + uniforms * (right - left), z)
    z = torch.minimum(torch.maximum(z, left), right)
    log_q = -0.5 * z**2 - _LOG_SQRT_2PI - torch.log(std) - log_mass
    z = torch.where(mirrored, -z, z)
    value = mean + std * z
    return torch.where(point, cell.low, value), torch.where(point, 0.0, log_q)


def mean_in_cells(
    cell: Cells, mean: Float[Tensor, "#b #c #h #w"], std: Float[Tensor, "#b #c #h #w"]
) -> Float[Tensor, "b c h w"]:
    """Mean of a Gaussian truncated to each cell, μ + σ·(φ(α) − φ(β)) / (Φ(β) − Φ(α)); the point itself for a point.

    Args:
        cell: the cells.
        mean: μ, mean before truncation, linear units, float64.
        std: σ, standard deviation before truncation, > 0, float64.

    Returns:
        The means, linear units, float64, inside their cells.
    """
    point = cell.point
    alpha = (cell.low - mean) / std
    beta = torch.where(point, alpha + 1.0, (cell.high - mean) / std)
    left, right, mirrored = _to_left(alpha, beta)
    log_mass = _log_left_interval(left, right)[2]
    width, middle = right - left, 0.5 * (left + right)
    # The right end is the one nearer to zero: φ there is the larger one, and taken out of the difference.
    z = torch.exp(-0.5 * right**2 - _LOG_SQRT_2PI - log_mass) * torch.expm1(width * middle)
    # Narrower than 1e-3 the difference loses digits; the first term of the series is then exact to width^3/60.
    narrow = width * (1 + middle.abs()) < 1e-3
    z = torch.where(narrow, middle - middle * width**2 / 12, z)
    z = torch.minimum(torch.maximum(z, left), right)
    value = mean + std * torch.where(mirrored, -z, z)
    return torch.where(point, cell.low, torch.minimum(torch.maximum(value, cell.low), cell.high))


def _inverse_log_ndtr(log_p: Tensor) -> Tensor:
    """z with log Φ(z) = log_p, float64, also where Φ(z) underflows."""
    z: Tensor = torch.special.ndtri(torch.exp(log_p))
    far = log_p < -600.0
    if bool(far.any()):
        target = log_p[far]
        guess = -torch.sqrt(-2 * target - torch.log(-4 * math.pi * target))  # leading terms of Φ's tail
        for _ in range(4):  # Newton; d log Φ / dz = exp(log φ - log Φ)
            log_cdf = torch.special.log_ndtr(guess)
            slope = torch.exp(-0.5 * guess**2 - _LOG_SQRT_2PI - log_cdf)
            guess = guess - (log_cdf - target) / slope
        z[far] = guess
    return z
