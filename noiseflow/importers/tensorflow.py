"""The raw Noise Flow of 2019: the variables of its TensorFlow checkpoint, by their names.

Its batch norm has no affine part; its 1×1 convolutions act on row vectors, y = x·A with A = P·L·(U + diag(s)), and
keep the strict triangles as vectors in TensorFlow Probability's spiral order; its kernels are (H, W, in, out).
"""

from __future__ import annotations

import torch
from torch import Tensor

from noiseflow.importers.folding import CAMERAS, ISOS, PAIRS, convolution, fill_conv1x1
from noiseflow.importers.noise_flow import fill_camera_iso
from noiseflow.importers.variables import Variables
from noiseflow.models.published import ReleasedFlow, noise_flow_paper
from noiseflow.transforms import BorderCoupling, CameraIsoScale, Conv1x1LU, GlobalGain

MARK = "model/sdn_gain/"

CARD = {
    "model": "Noise Flow, the model of 2019",
    "source": "Abdelhamed, Brubaker and Brown, Noise Flow, ICCV 2019; weights released by its authors",
    "licence": "CC BY-NC-SA 4.0",
    "packing": "planes of the transposed mosaic, clockwise; converted from and to packed R G G B by the shot's cfa",
}

_EPSILON = 1e-4
_STEPS = (1, 2, 3, 4, 6, 7, 8, 9)
"""Numbers of the bijectors that are a 1×1 convolution and a coupling; 0 is the signal-dependent layer, 5 the gain."""


def convert(variables: Variables) -> ReleasedFlow:
    """Build the flow from the 2019 model's variables."""
    model = noise_flow_paper(PAIRS, released=True)
    assert isinstance(model, ReleasedFlow)
    for number in (0, 5):  # scales of couplings that these two do not have
        variables.take(f"level0/bijector{number}/rescaling_scale0")
    sensor = variables.under(MARK)
    step = -1
    for layer in model.transform:
        if isinstance(layer, CameraIsoScale):
            beta = torch.cat((sensor.take("beta1", 1), sensor.take("beta2", 1)))
            camera, gain = sensor.take("cam_params", 3, len(CAMERAS)), sensor.take("gain_params", len(ISOS))
            fill_camera_iso(layer, camera, gain, beta)
        elif isinstance(layer, GlobalGain):
            gain = sensor.take("gain_val", 1)[0]
            if not float(gain) > 0:
                sensor.refuse("gain_val", f"should be positive, is {float(gain):g}")
            with torch.no_grad():
                layer.log_gain.copy_(gain.log())
        elif isinstance(layer, Conv1x1LU):
            step += 1
            _conv1x1(variables, layer, _STEPS[step])
        elif isinstance(layer, BorderCoupling):
            _coupling(variables, layer, step)
    sensor.finish()
    variables.finish()
    model.card = {"imported": dict(CARD)}
    return model.eval()


def _conv1x1(variables: Variables, layer: Conv1x1LU, number: int) -> None:
    part = variables.under(f"level0/bijector{number}/Conv2d_1x1_{number}/")
    suffix = f"matpar_lu_conv2d_1x1_{number}_0"
    permutation = part.take(f"P_{suffix}", 4, 4)
    lower = _strict_lower(part.take(f"L_vec_{suffix}", 6)) + torch.eye(4, dtype=torch.float64)
    upper = _strict_upper(part.take(f"U_vec_{suffix}", 6))
    diagonal = part.take(f"sign_S_{suffix}", 4) * part.take(f"log_S_{suffix}", 4).exp()
    part.finish()
    weight = (permutation @ lower @ (upper + torch.diag(diagonal))).T  # columns: z = Aᵀ·x
    permutation, lower, upper = torch.linalg.lu(weight)
    fill_conv1x1(layer, permutation, lower, upper, upper.diagonal().abs().log(), upper.diagonal().sign())


def _strict_lower(vector: Tensor) -> Tensor:
    """Six numbers below the diagonal of 4×4, in the spiral order of TensorFlow Probability's `fill_triangular`."""
    out = vector.new_zeros(4, 4)
    out[1:, :3] = torch.cat((vector[3:], vector.flip(0))).reshape(3, 3).tril()
    return out


def _strict_upper(vector: Tensor) -> Tensor:
    """The same above the diagonal, where the spiral runs the other way."""
    out = vector.new_zeros(4, 4)
    out[:3, 1:] = torch.cat((vector, vector[3:].flip(0))).reshape(3, 3).triu()
    return out


def _coupling(variables: Variables, layer: BorderCoupling, step: int) -> None:
    net = variables.under(f"model/real_nvp_conv_template{f'_{step}' if step else ''}/")
    for target, name, shape in ((layer.first, "1", (3, 3, 2, 4)), (layer.middle, "2", (1, 1, 4, 4))):
        weight, bias = net.take(f"l_{name}/W", *shape), net.take(f"l_{name}/b", 1, 1, 1, 4).flatten()
        mean, variance = net.take(f"bn_nvp_conv_{name}/mean", 4), net.take(f"bn_nvp_conv_{name}/var", 4)
        scale = (variance + _EPSILON).rsqrt()
        convolution(target, weight.permute(3, 2, 0, 1), bias, scale, -mean * scale)
    weight, bias = net.take("l_last/W", 3, 3, 5, 4), net.take("l_last/b", 1, 1, 1, 4).flatten()
    modulation = (3 * net.take("l_last/logs", 1, 4).flatten()).exp()
    convolution(layer.last, weight.permute(3, 2, 0, 1), bias, modulation, 0.0)
    net.finish()
    with torch.no_grad():
        layer.scale.copy_(variables.take(f"level0/bijector{_STEPS[step]}/rescaling_scale0"))
