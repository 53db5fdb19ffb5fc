"""The sRGB flow as released: a torch checkpoint whose flow is under `model.*`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noiseflow.importers.folding import CAMERAS, ISOS, PAIRS, batch_norm, table_order, torch_conv1x1, torch_coupling
from noiseflow.importers.variables import Variables
from noiseflow.models.published import ReleasedFlow, srgb_flow
from noiseflow.transforms import BorderCoupling, ConditionalAffine, Conv1x1LU

PREFIX = "model."
MARK = "model.2.log_scale"

CARD = {
    "model": "sRGB flow",
    "source": "Kousha, Maleky, Brown and Brubaker, Modeling sRGB Camera Noise with Normalizing Flows, CVPR 2022; "
    "weights released by its authors",
    "licence": "CC BY-NC 4.0",
    "packing": "B G R; converted from and to R G B",
    "known bias": "its noise does not average to zero: with the weights of epoch 30, blue is about 17 levels of 255 "
    "too dark on a uniform grey of 100 at S6, ISO 800",
}

_FIRST = 2
"""Released number of our first layer; before it come dequantisation and the extraction of the noise."""

_BLOCK_EPSILON = 1e-3


def convert(variables: Variables) -> ReleasedFlow:
    """Build the flow from the tensors under `model.`."""
    model = srgb_flow(PAIRS, released=True)
    assert isinstance(model, ReleasedFlow)
    for constant in (f"{PREFIX}0.ldj_per_dim", "data_pre_processing.0.ldj_per_dim", "base_dist.buffer"):
        variables.take(constant, *variables.shape(constant))
    for i, layer in enumerate(model.transform):
        part = variables.under(f"{PREFIX}{i + _FIRST}.")
        if isinstance(layer, ConditionalAffine):
            cameras, isos = table_order(layer.conditions)
            rows = isos * len(CAMERAS) + cameras
            with torch.no_grad():
                layer.log_scale.copy_(part.take("log_scale", len(ISOS) * len(CAMERAS), 3)[rows])
                layer.shift.copy_(part.take("bias", len(ISOS) * len(CAMERAS), 3)[rows])
        elif isinstance(layer, Conv1x1LU):
            torch_conv1x1(part, layer)
        elif isinstance(layer, BorderCoupling):
            torch_coupling(part, layer)
            assert layer.conditions is not None and layer.strength is not None
            cameras, isos = table_order(layer.conditions)
            with torch.no_grad():
                layer.strength.copy_(_encoder(part.under("_encoder."), cameras, isos))
        part.finish()
    variables.finish()
    grid = {"lsb": [1 / 255] * 3, "low": [0.0] * 3, "high": [1.0] * 3, "cfa": None}
    model.card = {"imported": dict(CARD), "cameras": {camera: dict(grid) for camera in CAMERAS}}
    return model.eval()


def _encoder(part: Variables, cameras: Tensor, isos: Tensor) -> Tensor:
    """What the network over the one-hot ISO and camera says of every row, `(rows, 1)`."""
    n = len(ISOS) + len(CAMERAS)
    seen = torch.cat((nn.functional.one_hot(isos, len(ISOS)), nn.functional.one_hot(cameras, len(CAMERAS))), dim=1)
    h = seen.double() @ part.take("initial_layer.weight", 5, n).T + part.take("initial_layer.bias", 5)
    for i in range(3):
        block, start = part.under(f"blocks.{i}."), h
        for k in range(2):
            scale, shift = batch_norm(block, f"batch_norm_layers.{k}", 5, _BLOCK_EPSILON)
            h = torch.relu(h * scale + shift)
            weight, bias = block.take(f"linear_layers.{k}.weight", 5, 5), block.take(f"linear_layers.{k}.bias", 5)
            h = h @ weight.T + bias
        h = h + start
        block.finish()
    out = h @ part.take("final_layer.weight", 1, 5).T + part.take("final_layer.bias", 1)
    part.finish()
    return out
