"""Which published model a checkpoint holds, told by the names of its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from noiseflow.denoise import Denoiser
from noiseflow.errors import UserError
from noiseflow.importers import denoisers, noise_flow, srgb_flow, tensorflow
from noiseflow.importers.variables import read_variables
from noiseflow.models import FittedModel


class Imported(NamedTuple):
    """What a checkpoint held.

    Attributes:
        model: the noise model, or None.
        denoiser: the denoiser, or None.
    """

    model: FittedModel | None
    denoiser: Denoiser | None


def import_checkpoint(path: str | Path, *, norm: bool = False) -> Imported:
    """Read a published checkpoint: raw Noise Flow (torch or TensorFlow), sRGB flow, DnCNN or U-Net.

    Args:
        path: a `.pth` file, an `.npz` of TensorFlow variables, or the prefix of a TensorFlow checkpoint.
        norm: keep the batch norms of Noise2NoiseFlow's raw flow, to train it on; default: fold them, which is the same
            in inference.

    Raises:
        UserError: it is none of them, is damaged, lacks a tensor (named), has one too many, or would run code.
    """
    path = Path(path)
    found = _convert(path, norm)
    for model in found:
        for name, value in () if model is None else model.state_dict().items():
            if not bool(torch.isfinite(value).all()):
                raise UserError(f"{path}: the checkpoint's values make {name} infinite or NaN")
    return found


def _convert(path: Path, norm: bool) -> Imported:
    variables = read_variables(path)
    names = list(variables)
    if norm and not any(name.startswith(noise_flow.PREFIX) for name in names):
        raise UserError(f"{path}: expected the checkpoint of a raw Noise2NoiseFlow, whose batch norms can be kept")
    if any(name.startswith(noise_flow.PREFIX) for name in names):
        model = noise_flow.convert(variables, norm=norm)
        network = variables.under(denoisers.PREFIX)
        denoiser = denoisers.convert(network) if list(network) else None
        variables.finish()
        return Imported(model, denoiser)
    if any(name.startswith(tensorflow.MARK) for name in names):
        return Imported(tensorflow.convert(variables), None)
    if srgb_flow.MARK in variables:
        return Imported(srgb_flow.convert(variables), None)
    if denoisers.DNCNN in variables or denoisers.UNET in variables:
        return Imported(None, denoisers.convert(variables))
    raise UserError(
        f"{path}: expected a published Noise Flow, sRGB flow, DnCNN or U-Net, got tensors of another model "
        f"(the first is {names[0]})"
    )
