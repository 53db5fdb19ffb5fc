"""The proposal that the likelihood of stored codes is estimated with: a Gaussian truncated to each pixel's cell.

A flow's own noise level function makes q the exact posterior of independent noise. Where a trained flow has learned
that values vary together, a clipped pixel's neighbours tell where in its open cell the noise lies, and the best q of
this form (mean field) satisfies

    s_i² = 1 / (−∂²_i log p),    μ_i = m_i + s_i² · ∂_i log p(m)    at m = E_q n.

`refine` takes a few steps towards it, all pixels at once, from gradients of log p alone. Only q depends on them, so
however rough they are, the bound stays a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from noiseflow.cells import Cells, mean_in_cells

_DAMPING = 0.6
"""Share of the way that a sweep goes after the first. All pixels move at once; with P the precision matrix of the noise
and D its diagonal, that converges where _DAMPING · λ_max(D⁻¹P) < 2: up to 3.3 here, where full steps stop at 2."""

_WINDOW = 7
"""Side of the window, in pixels of equal phase, over which one probe's estimate of the precision is averaged: its
relative error is at most √(2 / 49) = 0.2, and costs 0.2² / 4 = 0.01 nats for a clipped pixel."""

_WORTHWHILE = 1e-4
"""Nats per value: rows that can gain less keep the proposal they have."""

_RANGE = 1e4
"""How much the variance may change, either way."""


class Proposal(NamedTuple):
    """A Gaussian before truncation.

    Attributes:
        mean: μ, `(B, C, H, W)` or broadcast to it, linear units, float64.
        std: s, > 0, likewise.
    """

    mean: Float[Tensor, "#b #c #h #w"]
    std: Float[Tensor, "#b #c #h #w"]

    def where(self, rows: Bool[Tensor, "b"], other: Proposal) -> Proposal:
        """The other proposal in some rows."""
        chosen = rows[:, None, None, None]
        return Proposal(torch.where(chosen, other.mean, self.mean), torch.where(chosen, other.std, self.std))


Slopes = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(noise, numbers of its rows, sweep) → ∂_i log p and one unbiased estimate of (JᵀJ)_ii, J the Jacobian to base
space."""


def refine(
    start: Proposal, cell: Cells, slopes: Slopes, *, sweeps: int, phase: int = 1
) -> tuple[Proposal, Bool[Tensor, "b"]]:
    """Move a proposal towards the mean-field posterior of the noise in its cells.

    −∂²_i log p is taken as the diagonal of JᵀJ, which is positive everywhere (Gauss–Newton); each sweep adds an
    estimate of it, averaged over nearby pixels relative to the start's precision.

    Args:
        start: where to start; its rows that can gain less than 1e-4 nats per value, judged by the first gradient, keep
            it.
        cell: the cells.
        slopes: what is known of log p.
        sweeps: number of gradients to take, at least 1.
        phase: period in pixels of the flow's layout (the product of its squeezes); only pixels of one phase share
            estimates of the precision.

    Returns:
        The refined proposal, and which rows it differs in.
    """
    rows = torch.arange(len(cell.low), device=cell.low.device)
    first = m = mean_in_cells(cell, *start)
    slope, curvature = slopes(m, rows, 0)
    ratio = _smooth(curvature * start.std**2, phase)
    moved = _gain(start, cell, m, slope, ratio) > _WORTHWHILE * first[0].numel()
    rows = rows[moved]
    if not len(rows):
        return start, moved
    whole = Proposal(*(value.expand_as(first) for value in start))
    origin, cell = Proposal(*(value[moved] for value in whole)), Cells(*(end[moved] for end in cell))
    m, slope, ratio = m[moved], slope[moved], ratio[moved]
    std = origin.std * ratio.clamp(1 / _RANGE, _RANGE).rsqrt()
    mean = m + std**2 * slope
    for k in range(1, sweeps):
        m = mean_in_cells(cell, mean, std)
        slope, curvature = slopes(m, rows, k)
        ratio = ratio + (_smooth(curvature * origin.std**2, phase) - ratio) / (k + 1)
        std = origin.std * ratio.clamp(1 / _RANGE, _RANGE).rsqrt()
        mean = mean + _DAMPING * (m + std**2 * slope - mean)
    sound = (torch.isfinite(mean) & torch.isfinite(std)).flatten(1).all(dim=1)
    refined = Proposal(*(value.clone() for value in whole))
    refined.mean[rows[sound]], refined.std[rows[sound]] = mean[sound], std[sound]
    moved[rows[~sound]] = False
    return refined, moved


def _smooth(ratio: Float[Tensor, "b c h w"], phase: int) -> Float[Tensor, "b c h w"]:
    """Mean over a window of pixels of the same phase."""
    same = nn.functional.pixel_unshuffle(ratio, phase)
    same = nn.functional.avg_pool2d(same, _WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False)
    return nn.functional.pixel_shuffle(same, phase)


def _gain(start: Proposal, cell: Cells, m: Tensor, slope: Tensor, ratio: Tensor) -> Float[Tensor, "b"]:
    """Nats per row that one sweep promises, to second order and rather too many; NaN becomes 0.

    A change r of the slope of log q, in units of 1/s, is worth ½·v·r², v = Var_q/s² <= min(1, width²/12s²), and a
    change of the logarithm of the variance a quarter of its square, times v².
    """
    v = ((cell.high - cell.low) / start.std).square().div(12).clamp(max=1.0)
    r = (m - start.mean) / start.std + start.std * slope
    change = ratio.clamp(1 / _RANGE, _RANGE).log()
    return (0.5 * v * r.square() + 0.25 * (v * change).square()).sum(dim=(1, 2, 3)).nan_to_num(nan=0.0)
