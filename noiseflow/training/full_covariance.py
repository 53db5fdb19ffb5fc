"""Fit the Gaussian whose colours vary together: moments first, then maximum likelihood of the stored codes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.cells import cells
from noiseflow.conditions import Place
from noiseflow.models.full_covariance import FullGaussian, Moments, Nodes, log_box_mass
from noiseflow.shot import Shot
from noiseflow.training.noise_level import minimise

_NODES = Nodes(2, 6)
"""While fitting: cells inside the range are narrow, and two nodes are exact to width⁴ there."""


def fit_full_covariance(noisy: Float[Tensor, "b 3 h w"], shot: Shot, *, iterations: int = 30) -> FullGaussian:
    """Fit a mean per camera and a 3×3 covariance per camera and ISO.

    Args:
        noisy: `(B, 3, H, W)`, stored values, linear units; 50,000 values per camera and ISO are plenty.
        shot: clean images and conditions; its (camera, ISO) pairs become the model's.
        iterations: limit on the quasi-Newton iterations.

    Raises:
        ValueError: the maximisation did not give finite values.
    """
    model = FullGaussian(zip(shot.camera_names, shot.iso.tolist(), strict=True), noisy.shape[1]).double()
    place = model.conditions.locate(shot)
    _start_from_moments(model, noisy, shot, place)
    cell = cells(noisy, shot)
    # Every pair counts alike, however many patches it has, so that one optimiser serves them all.
    share = 1.0 / torch.bincount(place.lower, minlength=len(model.conditions))[place.lower] / noisy[0].numel()
    # The offset is sought in units of the noise, so that all unknowns have curvatures of order one.
    start, unit = model.offset.detach().clone(), model.log_std.detach().exp().amin(dim=0)
    step = torch.zeros_like(start, requires_grad=True)

    def loss() -> Tensor:
        mean = (start + unit * step)[place.camera]
        moments = Moments(mean, model.log_std.exp()[place.lower], model.lower[place.lower])
        return -(log_box_mass(cell, moments, _NODES).sum(dim=(1, 2)) * share).sum()

    minimise(loss, [model.log_std, model.lower, step], iterations)
    with torch.no_grad():
        model.offset.copy_(start + unit * step)
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise ValueError("the covariance did not converge: are noisy and clean images of one scene?")
    return model.float().eval()


@torch.no_grad()
def _start_from_moments(model: FullGaussian, noisy: Tensor, shot: Shot, place: Place) -> None:
    """Mean and covariance of the recorded noise, less the variance of rounding."""
    noise = noisy.double() - shot.clean.double()
    for k in range(len(model.conditions)):
        rows = place.lower == k
        n = noise[rows].movedim(1, 0).flatten(1)
        rounding = torch.diag(shot.lsb[rows].double().mean(dim=0) ** 2 / 12)
        least = rounding + 1e-12 * torch.eye(3, dtype=torch.float64, device=n.device)
        eigenvalues, vectors = torch.linalg.eigh(torch.cov(n) - rounding)
        covariance = vectors @ torch.diag(eigenvalues.clamp_min(float(least.diagonal().mean()))) @ vectors.T
        factor = torch.linalg.cholesky(covariance)
        std = factor.diagonal()
        model.log_std[k] = std.log()
        model.lower[k] = (factor / std)[[1, 2, 2], [0, 0, 1]]
    for i in range(len(model.conditions.cameras)):
        model.offset[i] = noise[place.camera == i].mean(dim=(0, 2, 3))
