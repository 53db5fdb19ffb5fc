"""How far the mean of a flow's draws is from that of the data: what likelihood alone does not hold down.

A flow whose layers cannot follow how neighbouring pixels vary together still finds weights of high likelihood, and then
draws noise of another mean than the data's: real neighbours are alike, drawn ones are not, and its networks answer to
the two differently. With n the noise of the data and ñ that of the flow, both recorded and in units of the reference's
σ, hats h_k over the clean signal of each channel (linear between knots, summing to 1) and the mean ⟨·⟩ over a batch,

    error = mean over channels of Σ_k ⟨h_k·(ñ − n)⟩² / ⟨h_k⟩

is the squared bias of the draws, in σ², averaged over the intensities of the batch. It is added to the loss with a
weight.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.models import Flow
from noiseflow.shot import Shot

_KNOTS = 6
_RARE = 1e-3
"""Part of a batch's values below which an intensity counts less: its mean is not known well enough to be followed."""


def mean_error(
    flow: Flow, noisy: Float[Tensor, "b c h w"], shot: Shot, z: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """The squared bias of a flow's draws on a batch (see the module), differentiable.

    Args:
        flow: the flow.
        noisy: `(B, C, H, W)`, stored values, linear units; height and width divide by the flow's `size_multiple`.
        shot: clean images and conditions.
        z: `(B, C, H, W)`, standard normal numbers.
    """
    seen = flow.with_context(shot)
    noise, _ = flow.transform.inverse(z.to(flow.dtype).contiguous(memory_format=torch.channels_last), seen)
    clean, std = shot.clean.to(flow.dtype), flow.reference.variance(shot).detach().sqrt().to(flow.dtype)
    low, high = (end[..., None, None].to(flow.dtype) for end in (shot.low, shot.high))
    drawn = torch.maximum(torch.minimum(clean + noise, high), low)
    error = (drawn - noisy.to(flow.dtype)) / std
    squares = error.new_zeros(error.shape[1])
    for knot in torch.linspace(0, 1, _KNOTS).tolist():
        hat = (1 - (clean.clamp(0, 1) - knot).abs() * (_KNOTS - 1)).clamp_min(0)
        squares = squares + (error * hat).mean(dim=(0, 2, 3)).square() / hat.mean(dim=(0, 2, 3)).clamp_min(_RARE)
    return squares.mean()
