"""What the released flows share: the phones, the couplings without their batch norm, the 1×1 convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from noiseflow.conditions import Conditions
from noiseflow.importers.variables import Variables
from noiseflow.transforms import BorderCoupling, Conv1x1LU

CAMERAS = ("IP", "GP", "S6", "N6", "G4")
"""The cameras in the order of the released tables: iPhone 7, Pixel, Galaxy S6 Edge, Nexus 6, LG G4."""

ISOS = (100.0, 400.0, 800.0, 1600.0, 3200.0)
"""The ISOs in the order of the released tables."""

PAIRS = tuple(
    (camera, float(iso))
    for camera, isos in (
        ("IP", (100, 400, 800, 1600)),
        ("GP", (100, 800)),
        ("S6", (100, 400, 800, 1600, 3200)),
        ("N6", (100, 800)),
        ("G4", (100, 800)),
    )
    for iso in isos
)
"""The 15 (camera, ISO) pairs that the released flows were trained on."""

_EPSILON = 1e-5
"""What torch's batch norm adds to the variance."""


def table_order(conditions: Conditions) -> tuple[Tensor, Tensor]:
    """For every row of the conditions' tables, the released numbers of its camera and of its ISO."""
    cameras = torch.tensor([CAMERAS.index(camera) for camera, _ in conditions.rows])
    isos = torch.tensor([ISOS.index(iso) for _, iso in conditions.rows])
    return cameras, isos


def batch_norm(variables: Variables, name: str, width: int, epsilon: float = _EPSILON) -> tuple[Tensor, Tensor]:
    """Scale and shift that a torch batch norm is in inference; its counter of batches is taken and left."""
    mean, variance, weight, bias = (
        variables.take(f"{name}.{part}", width) for part in ("running_mean", "running_var", "weight", "bias")
    )
    variables.take(f"{name}.num_batches_tracked")
    scale = weight / torch.sqrt(variance + epsilon)
    return scale, bias - mean * scale


def fill_norm(variables: Variables, name: str, target: torch.nn.BatchNorm2d) -> None:
    """Set a batch norm to one of the checkpoint's, its counter of batches included."""
    with torch.no_grad():
        for part, value in target.state_dict().items():
            value.copy_(variables.take(f"{name}.{part}", *value.shape))


def convolution(target: torch.nn.Conv2d, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor | float) -> None:
    """Set a convolution to conv(x)·scale + shift per output channel."""
    assert target.bias is not None
    with torch.no_grad():
        target.weight.copy_(weight * scale[:, None, None, None])
        target.bias.copy_(bias * scale + shift)


def torch_coupling(variables: Variables, target: BorderCoupling) -> None:
    """Fill a coupling from `_shift_and_log_scale.*` of a torch checkpoint, which names its convolutions twice.

    Batch norms go to those of the coupling, or into the convolutions before them where it has none.
    """
    net = variables.under("_shift_and_log_scale.")
    hidden, seen = target.first.weight.shape[:2]
    out = target.last.weight.shape[0]
    for ours, norm, again, name, shape in (
        (target.first, target.first_norm, "0", "conv2d_1", (seen, 3, 3)),
        (target.middle, target.middle_norm, "3", "conv2d_2", (hidden, 1, 1)),
    ):
        weight, bias = net.take(f"net.{again}.weight", hidden, *shape), net.take(f"net.{again}.bias", hidden)
        for part, value in (("weight", weight), ("bias", bias)):
            if not torch.equal(net.take(f"{name}.{part}", *value.shape), value):
                net.refuse(f"{name}.{part}", f"differs from net.{again}.{part}, which should be the same tensor")
        after = f"net.{int(again) + 1}"
        if norm is None:
            convolution(ours, weight, bias, *batch_norm(net, after, hidden))
        else:
            convolution(ours, weight, bias, torch.ones(hidden), 0.0)
            fill_norm(net, after, norm)
    weight, bias = net.take("conv2d_3.weight", out, hidden + 1, 3, 3), net.take("conv2d_3.bias", out)
    convolution(target.last, weight, bias, (3 * net.take("logs", 1, out, 1, 1).flatten()).exp(), 0.0)
    with torch.no_grad():
        target.scale.copy_(net.take("scale", 1)[0])
    net.finish()


def torch_conv1x1(variables: Variables, target: Conv1x1LU) -> None:
    """Fill a 1×1 convolution from `l`, `u`, `p`, `log_s`, `sign_s`."""
    n = target.log_s.numel()
    lower, upper, permutation = (variables.take(name, n, n) for name in ("l", "u", "p"))
    log_s, sign = (variables.take(name, n) for name in ("log_s", "sign_s"))
    ones = permutation == 1
    if not bool((ones | (permutation == 0)).all() and (ones.sum(0) == 1).all() and (ones.sum(1) == 1).all()):
        variables.refuse("p", "should be a permutation matrix")
    if not bool((sign.abs() == 1).all()):
        variables.refuse("sign_s", "should hold ones and minus ones")
    fill_conv1x1(target, permutation, lower, upper, log_s, sign)


def fill_conv1x1(
    target: Conv1x1LU, permutation: Tensor, lower: Tensor, upper: Tensor, log_s: Tensor, sign: Tensor
) -> None:
    """Set P·L·(U + diag(sign·exp(log_s))); what lies outside the triangles is dropped."""
    with torch.no_grad():
        target.permutation.copy_(permutation)
        target.lower.copy_(lower.tril(-1))
        target.upper.copy_(upper.triu(1))
        target.log_s.copy_(log_s)
        target.sign.copy_(sign)
