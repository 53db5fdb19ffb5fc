"""Row noise: the exact probability of sensor rows whose pixels share one random offset.

    P(c₁ … c_n) = ∫ N(r; 0, τ²) Π_i P(c_i | λ_i, r) dr

The posterior of r is far narrower than its prior, so the integral is taken by a trapezoidal rule with nodes centred
and scaled on the posterior. They lie on a lattice of whole fractions 2^-k of a DN, one for many rows: then codes minus
offset take few distinct values, and the tables of `PixelNoise` serve all rows at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from noiseflow.sensors.pmf import FloatArray, IntArray, PixelNoise

_REACH = 8.0  # half width of the nodes in posterior standard deviations
_FALLEN = 30.0  # nats below the peak where the integrand no longer matters: exp(−30) ~ 1e-13
_CONVERGED = 1e-9  # change of the log mass between a step and the double of it, nats per pixel
_FASTER = 3e-3  # the same where the rule's error is known to fall as the fourth power of the double step's
_FINEST = 2.0**-24  # DN
_CHUNK = 1 << 22  # numbers held at a time


def log_mass_rows(pixel: PixelNoise, row_std_dn: float, codes: IntArray, rate: FloatArray) -> FloatArray:
    """Log probability of each sensor row, nats.

    Args:
        pixel: what every pixel does with its electrons.
        row_std_dn: τ, standard deviation of the offset of a row, DN, > 0.
        codes: `(rows, n)`.
        rate: `(rows, n)`, expected electrons, >= 0.

    Returns:
        `(rows,)`.
    """
    return _integrals(pixel, row_std_dn, codes, rate, shares=False)[0]


def shares_rows(pixel: PixelNoise, row_std_dn: float, codes: IntArray, rate: FloatArray) -> FloatArray:
    """What each pixel contributes to its row's log probability, nats; the shares of a row add up to it.

    A share is the posterior mean of the pixel's own log probability, plus an equal part of what is left: minus the
    Kullback–Leibler divergence of the offset's posterior from its prior.

    Returns:
        `(rows, n)`; arguments as in `log_mass_rows`.
    """
    return _integrals(pixel, row_std_dn, codes, rate, shares=True)[1]


def _integrals(
    pixel: PixelNoise, row_std: float, codes: IntArray, rate: FloatArray, *, shares: bool
) -> tuple[FloatArray, FloatArray]:
    mode, width = _surrogate(pixel, row_std, codes, rate)
    # Where read noise resolves single electrons or codes, the integrand has steps as narrow as itself.
    fine = pixel.read.std < 0.7 * max(1.0, pixel.gain)
    step = width / 1.2
    if fine:
        step = np.minimum(step, pixel.read.std / 8)
    level = np.clip(np.ceil(-np.log2(step)).astype(np.int64), -6, 20)
    mass, parts = np.empty(mode.shape), np.empty(codes.shape if shares else (0, 0))
    for k in np.unique(level):
        h = 2.0**-k
        count = 2 * np.ceil(_REACH * width / h).astype(np.int64) + 1
        if fine:
            count += 2 * math.ceil(2 * max(1.0, pixel.gain) / h)
        for n in np.unique(count[level == k]):
            rows = np.flatnonzero((level == k) & (count == n))
            at_once = max(1, _CHUNK // (int(n) * (codes.shape[1] if shares else 1)))
            for start in range(0, rows.size, at_once):
                part = rows[start : start + at_once]
                scan = _Scan(pixel, row_std, codes[part], rate[part], shares)
                centre = np.rint(mode[part] / h) * h
                mass[part], found = scan.integrate(centre, h, int(n) // 2, 1.0 if fine else _FASTER / _CONVERGED)
                if shares:
                    parts[part] = found
    return mass, parts


class _Nodes(NamedTuple):
    """The integrand at the nodes of some rows."""

    offset: FloatArray  # (rows, nodes), DN
    log_joint: FloatArray  # (rows, nodes), log prior plus log likelihood
    log_pixels: FloatArray  # (rows, nodes, n), or of size 0


class _Scan(NamedTuple):
    """Some rows, to be integrated over a common lattice."""

    pixel: PixelNoise
    row_std: float
    codes: IntArray
    rate: FloatArray
    shares: bool

    def integrate(self, centre: FloatArray, h: float, half: int, slack: float) -> tuple[FloatArray, FloatArray]:
        """Log mass `(rows,)` and, where asked for, shares `(rows, n)`; wider or finer where a try falls short."""
        nodes = self._evaluate(centre[:, None] + h * np.arange(-half, half + 1))
        stretch = max(2, min(half, math.ceil(max(1.0, self.pixel.gain) / h)))
        mass, found = self._summed(nodes, h)
        coarse = special.logsumexp(nodes.log_joint[:, ::2], axis=1) + math.log(2 * h)
        peak = nodes.log_joint.max(axis=1)
        falls = [peak - nodes.log_joint[:, side].max(axis=1) for side in (slice(stretch), slice(-stretch, None))]
        narrow = np.minimum(*falls) < _FALLEN
        rough = ~narrow & (np.abs(mass - coarse) > slack * _CONVERGED * self.codes.shape[1])
        for again, half_again, step in ((narrow, 2 * half, h), (rough, 2 * half, h / 2)):
            if again.any() and step > _FINEST:
                rest = self._replace(codes=self.codes[again], rate=self.rate[again])
                best = nodes.offset[again, nodes.log_joint[again].argmax(axis=1)]
                middle = best if step == h else centre[again]
                mass[again], more = rest.integrate(middle, step, half_again, slack)
                if self.shares:
                    found[again] = more
        return mass, found

    def _evaluate(self, offset: FloatArray) -> _Nodes:
        rows, n = self.codes.shape
        pixels = np.empty((rows, offset.shape[1], n) if self.shares else (0, 0, 0))
        joint = -0.5 * (offset / self.row_std) ** 2 - math.log(self.row_std * math.sqrt(2 * math.pi))
        for node in range(offset.shape[1]):
            logs = self.pixel.log_pmf(
                self.codes.reshape(-1), self.rate.reshape(-1), np.repeat(offset[:, node], n)
            ).reshape(rows, n)
            joint[:, node] += logs.sum(axis=1)
            if self.shares:
                pixels[:, node] = logs
        return _Nodes(offset, joint, pixels)

    def _summed(self, nodes: _Nodes, h: float) -> tuple[FloatArray, FloatArray]:
        mass = special.logsumexp(nodes.log_joint, axis=1) + math.log(h)
        if not self.shares:
            return mass, np.empty((0, 0))
        weights = np.exp(nodes.log_joint + math.log(h) - mass[:, None])
        found = np.einsum("rk,rkn->rn", weights, nodes.log_pixels)
        found += ((mass - found.sum(axis=1)) / self.codes.shape[1])[:, None]
        return mass, found


def _surrogate(pixel: PixelNoise, row_std: float, codes: IntArray, rate: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mode and standard deviation `(rows,)`, DN, of the offset's posterior with Gaussian pixels of the same variance.

    Newton's method; a pixel in an open cell counts as censored.
    """
    variance = pixel.gain**2 * rate + pixel.read.std**2
    std = np.sqrt(variance)
    low, high = codes == pixel.min_code, codes == pixel.max_code
    sign = np.where(low, 1.0, -1.0)
    residual = codes - pixel.gain * rate
    edge = residual + 0.5 * sign
    mode = np.zeros(codes.shape[0])
    for _ in range(12):
        inside = (residual - mode[:, None]) / (variance + 1 / 12)
        b = sign * (edge - mode[:, None]) / std
        mills = np.exp(-0.5 * b**2 - 0.5 * math.log(2 * math.pi) - special.log_ndtr(b))
        slope = np.where(low | high, -sign * mills / std, inside).sum(axis=1) - mode / row_std**2
        information = np.where(low | high, mills * (mills + b) / variance, 1 / (variance + 1 / 12)).sum(axis=1)
        information += 1 / row_std**2
        mode = mode + slope / information
    return mode, 1 / np.sqrt(information)
