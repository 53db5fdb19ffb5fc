"""Denoisers as ONNX files, which run without this package and without torch."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from noiseflow.denoise.networks import Denoiser
from noiseflow.errors import UserError
from noiseflow.files import described, write_whole

_LARGEST_SIDE = 1 << 16


def write_onnx(network: Denoiser, path: Path) -> None:
    """Write a denoiser's network for images of any number and size.

    Its input `noisy` and its output `clean`, not clipped, are `(B, C, H, W)` float32 in the units and the order of
    channels that the file's metadata say (key `noiseflow`: the header of a model file); H and W divide by its
    `size_multiple`, and `reach` says how far a pixel sees, for those who cut images into tiles.

    Args:
        network: the denoiser, in inference mode, on the CPU.
        path: where to; written whole or not at all.

    Raises:
        UserError: the packages `onnx` and `onnxscript` are not installed.
    """
    try:
        import onnx  # type: ignore[import-untyped, unused-ignore]  # noqa: F401
        import onnxscript  # type: ignore[import-untyped, unused-ignore]  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{path}: writing it needs onnx and onnxscript: pip install 'camera-noiseflow[onnx]'"
        ) from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it says what else could be installed
    multiple = network.size_multiple
    height, width = (multiple * torch.export.Dim(name, min=1, max=_LARGEST_SIDE // multiple) for name in ("h", "w"))
    program = torch.onnx.export(
        network.float().eval(),
        (torch.zeros(2, network.channels, 32 * multiple, 48 * multiple),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch"), 2: height, 3: width},),
        input_names=["noisy"],
        output_names=["clean"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(
        {"noiseflow": described(network), "size_multiple": str(multiple), "reach": str(network.reach)}
    )
    write_whole(path, lambda temporary: program.save(temporary, external_data=False))
