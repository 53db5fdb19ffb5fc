"""Learning a noise model and a denoiser together from two noisy frames of one scene, without a clean image.

With n₁ and n₂ the frames, D the denoiser and c the clipping to [0, 1], the loss of Noise2NoiseFlow is

    nll  = ½ [−log p(n₁ − c(D(n₂)) | c(D(n₂))) − log p(n₂ − c(D(n₁)) | c(D(n₁)))] / (C·H·W)
    mse  = ½ [mean (D(n₁) − n₂)² + mean (D(n₂) − n₁)²]
    loss = nll + weight · mse

Each frame's noise is told from what is found in the *other* frame: a denoiser that leaves its image as it is would
otherwise leave no noise to score. Gradients of the nll reach the denoiser.

Source: Maleky, Kousha, Brown and Brubaker 2022, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from noiseflow.denoise import Denoiser, denoise
from noiseflow.models.base import FittedModel
from noiseflow.shot import Shot

PUBLISHED_WEIGHT = 262144.0
"""Weight of the squared error in the published training, 2¹⁸."""


class JointLoss(NamedTuple):
    """The loss and its parts, each a mean over the batch.

    Attributes:
        total: nll + weight · mse.
        nll: −log density of the noise, nats per value.
        mse: squared error between what is found in one frame and the other frame, squared linear units.
    """

    total: Float[Tensor, ""]
    nll: Float[Tensor, ""]
    mse: Float[Tensor, ""]


def joint_loss(
    flow: FittedModel,
    denoiser: Denoiser,
    noisy1: Float[Tensor, "b c h w"],
    noisy2: Float[Tensor, "b c h w"],
    shot: Shot,
    weight: float = PUBLISHED_WEIGHT,
) -> JointLoss:
    """The loss of Noise2NoiseFlow on pairs of frames (see the module).

    A pure function of its arguments but for the running averages of batch norms in training mode: the flow and the
    denoiser each see the first frames and the second ones as two batches.

    Args:
        flow: the density of recorded noise.
        denoiser: the denoiser; any packing.
        noisy1: `(B, C, H, W)`, the first frames, linear units.
        noisy2: `(B, C, H, W)`, the second frames.
        shot: the conditions of every row; its clean images do not matter.
        weight: of the squared error.

    Returns:
        The loss with its parts, differentiable.
    """
    clean1, clean2 = denoise(denoiser, noisy1, shot), denoise(denoiser, noisy2, shot)
    squares = (clean1 - noisy2).square().mean() + (clean2 - noisy1).square().mean()
    nats = _nll(flow, noisy1, clean2, shot) + _nll(flow, noisy2, clean1, shot)
    nll, mse = 0.5 * nats, 0.5 * squares
    return JointLoss(nll + weight * mse, nll, mse)


def _nll(flow: FittedModel, noisy: Tensor, found: Tensor, shot: Shot) -> Float[Tensor, ""]:
    """−log density of noisy − clean given clean, the found image clipped to [0, 1]; nats per value."""
    clean = found.clamp(0, 1)
    given = Shot(clean=clean, iso=shot.iso, camera=shot.camera, cameras=shot.cameras, lsb=shot.lsb, cfa=shot.cfa)
    log_prob = flow.log_prob(noisy.to(clean.dtype) - clean, given)
    return -log_prob.mean() / noisy[0].numel()
