"""The raw Noise Flow as released with Noise2NoiseFlow: a torch checkpoint with `noise_flow.*` and `denoiser.*`."""

from __future__ import annotations

import torch

from noiseflow.importers.folding import CAMERAS, ISOS, PAIRS, torch_conv1x1, torch_coupling
from noiseflow.importers.variables import Variables
from noiseflow.models.published import ReleasedFlow, noise_flow_paper
from noiseflow.transforms import BorderCoupling, CameraIsoScale, Conv1x1LU, GlobalGain

PREFIX = "noise_flow."

CARD = {
    "model": "Noise Flow, the raw flow of Noise2NoiseFlow",
    "source": "Maleky, Kousha, Brown and Brubaker, Noise2NoiseFlow, CVPR 2022; weights released by its authors",
    "licence": "CC BY-NC 4.0",
    "packing": "planes of the transposed mosaic, clockwise; converted from and to packed R G G B by the shot's cfa",
}


def convert(variables: Variables, *, norm: bool = False) -> ReleasedFlow:
    """Build the flow from the tensors under `noise_flow.`, with its batch norms or with those folded."""
    model = noise_flow_paper(PAIRS, released=True, norm=norm)
    assert isinstance(model, ReleasedFlow)
    for i, layer in enumerate(model.transform):
        part = variables.under(f"{PREFIX}model.{i}.")
        if isinstance(layer, CameraIsoScale):
            scale = part.under("_scale.")
            fill_camera_iso(
                layer,
                scale.take("cam_params", 3, len(CAMERAS)),
                scale.take("gain_params", len(ISOS)),
                torch.stack((scale.take("beta1"), scale.take("beta2"))),
            )
            scale.finish()
        elif isinstance(layer, GlobalGain):
            gain = part.take("scale")
            if not float(gain) > 0:
                part.refuse("scale", f"should be positive, is {float(gain):g}")
            with torch.no_grad():
                layer.log_gain.copy_(gain.log())
        elif isinstance(layer, Conv1x1LU):
            torch_conv1x1(part, layer)
        elif isinstance(layer, BorderCoupling):
            torch_coupling(part, layer)
        part.finish()
    model.card = {"imported": dict(CARD)}
    return model.eval()


def fill_camera_iso(layer: CameraIsoScale, camera: torch.Tensor, gain: torch.Tensor, beta: torch.Tensor) -> None:
    """Set the signal-dependent layer from tables in the released order of cameras and ISOs."""
    with torch.no_grad():
        layer.camera.copy_(camera[:, [CAMERAS.index(name) for name in layer.conditions.cameras]])
        layer.gain.copy_(gain)  # both orders rise
        layer.beta.copy_(beta)
