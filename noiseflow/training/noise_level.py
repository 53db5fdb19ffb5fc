"""Fit a noise level function: moments first, then maximum likelihood of the stored codes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from noiseflow.cells import cells, log_normal_mass
from noiseflow.conditions import Conditions
from noiseflow.noise_level import NoiseLevel, light
from noiseflow.shot import Shot

log = logging.getLogger(__name__)

_BINS = 24


def fit_noise_level(
    noisy: Float[Tensor, "b c h w"],
    shot: Shot,
    *,
    slope: bool = True,
    shared: bool = False,
    intensity: Float[Tensor, "b c h w"] | None = None,
    iterations: int = 60,
) -> NoiseLevel:
    """Fit (a, b) per camera and ISO, shared by the channels of raw images; per channel and with an offset in sRGB.

    The start is a straight line through the variances of the recorded noise in bins of the clean signal; rounding and
    clipping bias it. Maximising the probability of the codes (`noiseflow.cells`) removes that bias.

    Args:
        noisy: `(B, C, H, W)`, stored values, linear units; 50,000 values per camera and ISO are plenty.
        shot: clean images and conditions; its (camera, ISO) pairs become the table's.
        slope: False fits homoscedastic noise, a = 0.
        shared: whether the channels of sRGB share their values and their offset, too.
        intensity: `(B, C, H, W)`, what the variance is a function of; default the clean signal. Models that do not see
            clean raw give their estimate of it. The noise itself is noisy − clean all the same.
        iterations: limit on the quasi-Newton iterations.

    Returns:
        The fitted table, float32.

    Raises:
        ValueError: the maximisation did not give finite values.
    """
    channels = noisy.shape[1]
    conditions = Conditions(zip(shot.camera_names, shot.iso.tolist(), strict=True))
    level = NoiseLevel(conditions, 3 if channels == 3 and not shared else 1, slope=slope)
    intensity = shot.clean if intensity is None else intensity.detach().to(shot.clean.dtype)
    _start_from_moments(level, noisy, shot, intensity)
    level = level.double()
    # The offset is sought in units of the noise, so that all unknowns have curvatures of order one.
    unit = (0.5 * level.log_b.detach()).exp().amax(dim=0)
    offset = torch.zeros_like(level.offset, requires_grad=channels == 3)
    seen, cell = shot.replace(clean=intensity).to(dtype=torch.float64), cells(noisy, shot)
    place = conditions.locate(seen)
    # Every pair counts alike, however many patches it has, so that one optimiser serves them all.
    share = 1.0 / torch.bincount(place.lower, minlength=len(conditions))[place.lower] / noisy[0].numel()

    def loss() -> Tensor:
        mass = log_normal_mass(cell, (unit * offset)[place.camera][..., None, None], level.variance(seen).sqrt())
        return -(mass.sum(dim=(1, 2, 3)) * share).sum()

    minimise(loss, [p for p in (level.log_a, level.log_b, offset) if p.requires_grad], iterations)
    with torch.no_grad():
        level.offset.copy_(unit * offset)
    if not all(bool(torch.isfinite(p).all()) for p in (level.log_b, level.offset)):
        raise ValueError("the noise level function did not converge: are noisy and clean images of one scene?")
    return level.float()


def minimise(loss: Callable[[], Tensor], parameters: Sequence[Tensor], iterations: int) -> None:
    """Move parameters, in place, to the minimum of a smooth loss whose curvatures are of order one (L-BFGS).

    Args:
        loss: gives the loss at the parameters' present values, with its graph.
        parameters: leaves that the loss depends on.
        iterations: limit on the iterations.
    """
    optimizer = torch.optim.LBFGS(
        list(parameters),
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]


@torch.no_grad()
def _start_from_moments(level: NoiseLevel, noisy: Tensor, shot: Shot, intensity: Tensor) -> None:
    """Weighted least squares of the noise variance against the light, with a, b >= 0."""
    place = level.conditions.locate(shot)
    lit = light(shot.replace(clean=intensity))
    for k in range(len(level.conditions)):
        rows = place.lower == k
        noise = (noisy[rows].double() - shot.clean[rows].double()).movedim(1, 0)
        signal = lit[rows].double().movedim(1, 0)
        for c in range(level.channels):
            n, x = (v.reshape(-1) if level.channels == 1 else v[c].reshape(-1) for v in (noise, signal))
            a, b = _line(x.numpy(force=True), n.numpy(force=True), level.slope)
            least = (float(shot.lsb[rows].mean()) / 20) ** 2 + 1e-14
            level.log_b[k, c] = float(np.log(max(b, least)))
            if level.slope:
                level.log_a[k, c] = float(np.log(max(a, least, 1e-3 * b)))


def _line(clean: np.ndarray, noise: np.ndarray, slope: bool) -> tuple[float, float]:
    """(a, b) of variance = a·clean + b from bins of equal count; each bin weighs 1/variance²."""
    if not slope:
        return 0.0, float(noise.var())
    order = np.argsort(clean, kind="stable")
    parts = np.array_split(order, min(_BINS, max(1, clean.size // 50)))
    x = np.array([max(clean[p].mean(), 0.0) for p in parts])
    v = np.array([noise[p].var() for p in parts])
    weight = 1.0 / np.maximum(v, 1e-6 * v.max() + 1e-20)
    (a, b), _ = nnls(np.stack([x, np.ones_like(x)], axis=1) * weight[:, None], v * weight)
    return float(a), float(b)
