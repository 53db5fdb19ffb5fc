"""Gaussian noise whose three colours vary together, the same at every pixel: the strongest baseline without a signal.

The probability of a pixel's three codes is that of a box under a trivariate normal distribution. Written as an integral
of conditional probabilities over the unit square (Genz 1992) it is smooth, and a few Gauss–Legendre nodes do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.cells import Cells, cells, draw_in_cells, log_normal_mass
from noiseflow.conditions import Conditions
from noiseflow.models.base import FittedModel
from noiseflow.randomness import SAMPLE, normal
from noiseflow.shot import Shot


class Nodes(NamedTuple):
    """Nodes per dimension of the quadrature.

    Attributes:
        closed: of pixels whose three codes lie inside the range.
        open: of pixels with a code at a clip end, whose cell has no other end.
    """

    closed: int
    open: int


SCORING = Nodes(5, 16)
"""For images that are scored: some 1e-5 nats a pixel at most, 1e-4 at the clip ends, far less on average."""


class Moments(NamedTuple):
    """Mean and covariance of every row, Σ = L·diag(std²)·Lᵀ with L unit lower triangular; linear units, float64.

    Attributes:
        mean: `(B, 3)`.
        std: `(B, 3)`, > 0: of R, of G given R, and of B given R and G.
        lower: `(B, 3)`: L₁₀, L₂₀, L₂₁.
    """

    mean: Float[Tensor, "b 3"]
    std: Float[Tensor, "b 3"]
    lower: Float[Tensor, "b 3"]


class FullGaussian(FittedModel):
    """Gaussian noise with a 3×3 covariance per camera and ISO and a mean per camera, whatever the signal; sRGB only.

    Args:
        pairs: the (camera, ISO) pairs.
        channels: 3.

    Attributes:
        log_std: `(K, 3)`, log standard deviations of R, of G given R, and of B given R and G; linear units.
        lower: `(K, 3)`, how much of R's noise G repeats, how much of it B does, and how much B repeats of what is G's
            own.
        offset: `(cameras, 3)`, mean of the noise, linear units.
    """

    def __init__(self, pairs: Iterable[tuple[str, float]], channels: int = 3) -> None:
        conditions = Conditions(pairs)
        if channels != 3:
            raise ValueError(f"full: expected 3 channels, sRGB, got {channels}; gaussian and nlf take any")
        super().__init__(conditions, channels)
        self.log_std = nn.Parameter(torch.full((len(conditions), 3), -5.0))
        self.lower = nn.Parameter(torch.zeros(len(conditions), 3))
        self.offset = nn.Parameter(torch.zeros(len(conditions.cameras), 3))
        self.architecture = ("full", {"pairs": [list(pair) for pair in conditions.pairs], "channels": channels})

    def covariance(self, shot: Shot) -> Float[Tensor, "b 3 3"]:
        """Covariance of the noise of every row, squared linear units, float64."""
        _, std, lower = self._moments(shot)
        factor = torch.diag_embed(torch.ones_like(std))
        factor[:, [1, 2, 2], [0, 0, 1]] = lower
        factor = factor * std[:, None, :]
        return factor @ factor.mT

    def _moments(self, shot: Shot) -> Moments:
        self.check_channels(shot.clean)
        place = self.conditions.locate(shot)
        log_std, lower = place.read(self.log_std.double()), place.read(self.lower.double())
        return Moments(self.offset.double()[place.camera], log_std.exp(), lower)

    def log_prob(self, noise: Tensor, shot: Shot) -> Tensor:
        """Log density of noise, nats, `(B,)`, in noise's dtype."""
        mean, std, lower = (v[..., None, None] for v in self._moments(shot))
        n = noise.double() - mean
        e1 = n[:, 1] - lower[:, 0] * n[:, 0]
        e2 = n[:, 2] - lower[:, 1] * n[:, 0] - lower[:, 2] * e1
        terms = _log_normal(torch.stack((n[:, 0], e1, e2), dim=1), std)
        return terms.sum(dim=(1, 2, 3)).to(noise.dtype)

    def log_mass(self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0) -> Tensor:
        """Log probability of the stored codes, nats, `(B,)`, float64, whatever the seed; by quadrature."""
        return self.log_mass_map(noisy, shot).sum(dim=(1, 2))

    def log_mass_map(self, noisy: Tensor, shot: Shot) -> Tensor:
        """Log probability of the stored codes of every pixel, nats, `(B, H, W)`, float64."""
        return log_box_mass(cells(noisy, shot), self._moments(shot))

    @torch.no_grad()
    def sample(self, shot: Shot, *, seed: int | Tensor) -> Tensor:
        """Draw latent noise, linear units, in clean's dtype."""
        mean, std, lower = (v[..., None, None] for v in self._moments(shot))
        shape = tuple(shot.clean.shape)
        z = normal(seed, shape, stream=SAMPLE, origin=shot.origin, device=shot.clean.device)  # type: ignore[arg-type]
        e = std * z
        green, blue = lower[:, 0] * e[:, 0], lower[:, 1] * e[:, 0] + lower[:, 2] * e[:, 1]
        repeated = torch.stack((torch.zeros_like(green), green, blue), dim=1)
        return (mean + e + repeated).to(shot.clean.dtype)


def log_box_mass(cell: Cells, moments: Moments, nodes: Nodes = SCORING) -> Float[Tensor, "b h w"]:
    """Log probability of the three cells of every pixel under a trivariate normal distribution, nats, float64.

    Args:
        cell: the cells, `(B, 3, H, W)`.
        moments: mean and covariance of every row.
        nodes: nodes per dimension of the quadrature.

    Source: Genz 1992, Numerical Computation of Multivariate Normal Probabilities, section 3.
    """
    clipped = cell.open.any(dim=1)
    mass = torch.zeros(clipped.shape, dtype=torch.float64, device=clipped.device)
    for pixels, points in ((~clipped, _closed_points(nodes.closed)), (clipped, _open_points(nodes.open))):
        row, down, across = pixels.nonzero(as_tuple=True)
        if len(row):
            boxes = Cells(*(end[row, :, down, across] for end in cell))
            found = _integral(boxes, Moments(*(value[row] for value in moments)), points)
            mass = mass.masked_scatter(pixels, found)
    return mass


def _integral(box: Cells, moments: Moments, points: list[tuple[float, float]]) -> Float[Tensor, "n"]:
    """Log mass of n boxes `(n, 3)`; points are places in (0, 1) with the logarithms of their weights."""
    (m0, m1, m2), (s0, s1, s2), (l10, l20, l21) = (value.unbind(dim=1) for value in moments)
    red, green, blue = (Cells(box.low[:, c], box.high[:, c]) for c in range(3))
    mass = torch.full_like(box.low[:, 0], -torch.inf)
    for u0, log_weight0 in points:
        n0, term0 = _node(red, m0, s0, u0)
        mean1 = m1 + l10 * (n0 - m0)
        for u1, log_weight1 in points:
            n1, term1 = _node(green, mean1, s1, u1)
            mean2 = m2 + l20 * (n0 - m0) + l21 * (n1 - mean1)
            term2 = log_normal_mass(blue, mean2, s2)
            mass = torch.logaddexp(mass, log_weight0 + log_weight1 + term0 + term1 + term2)
    return mass


def _closed_points(nodes: int) -> list[tuple[float, float]]:
    """Gauss–Legendre on (0, 1)."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return [(0.5 * (x + 1), math.log(0.5 * w)) for x, w in zip(places.tolist(), weights.tolist(), strict=True)]


def _open_points(nodes: int) -> list[tuple[float, float]]:
    """The same after u = t³(10 − 15t + 6t²), which gathers places at both ends: quantiles of a tail run away there."""
    return [(t**3 * (10 - 15 * t + 6 * t**2), w + math.log(30 * (t - t**2) ** 2)) for t, w in _closed_points(nodes)]


def _log_normal(x: Tensor, std: Tensor) -> Tensor:
    """Log density of a normal distribution around 0."""
    return -0.5 * (x / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


def _node(cell: Cells, mean: Tensor, std: Tensor, u: float) -> tuple[Tensor, Tensor]:
    """A value in each cell at the quantile u of its truncated normal, and log p − log q there.

    That is the log probability of the cell. Gradients take the value as fixed and go through p alone, which gives the
    derivative of the quadrature without that of a quantile.
    """
    with torch.no_grad():
        n, log_q = draw_in_cells(cell, mean, std, torch.full_like(cell.low, u))
    return n, _log_normal(n - mean, std) - log_q
