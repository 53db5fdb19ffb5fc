"""The tensors of a checkpoint: read without running what is in it, taken one by one, and all accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from noiseflow.errors import UserError


class Variables:
    """Named tensors of a file, of which every one must be taken once by the importer that recognised them.

    Args:
        path: the file, for messages.
        values: the tensors by name.
        inside: prefix of every name, as the file has it; for messages.
    """

    def __init__(self, path: Path, values: dict[str, Tensor], inside: str = "") -> None:
        self.path = path
        self.inside = inside
        self._left = dict(values)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def __iter__(self) -> Any:
        return iter(list(self._left))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not taken yet; UserError where it is missing."""
        if name not in self._left:
            raise UserError(f"{self.path}: the checkpoint lacks {self.inside}{name}")
        return tuple(self._left[name].shape)

    def under(self, prefix: str) -> Variables:
        """The tensors whose names begin with a prefix, which they lose; they are taken from this one."""
        names = [name for name in self._left if name.startswith(prefix)]
        return Variables(self.path, {name[len(prefix) :]: self._left.pop(name) for name in names}, self.inside + prefix)

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor of a known shape, in float64.

        Raises:
            UserError: it is missing, has another shape, or holds values that are not finite.
        """
        if self.shape(name) != shape:
            self.refuse(name, f"should have the shape {shape}, has {self.shape(name)}")
        value = self._left.pop(name)
        if not bool(torch.isfinite(value).all()):
            self.refuse(name, "holds NaN or infinite values")
        return value.double()

    def refuse(self, name: str, why: str) -> NoReturn:
        """Say what is wrong with a tensor."""
        raise UserError(f"{self.path}: {self.inside}{name} {why}")

    def finish(self) -> None:
        """Every tensor must have been taken: what is left belongs to another architecture."""
        for name in self._left:
            self.refuse(name, "is in the checkpoint but not in this model")


def read_variables(path: Path) -> Variables:
    """The tensors of a torch checkpoint (its `state_dict` where it has one), an `.npz`, or a TensorFlow checkpoint.

    Raises:
        UserError: there is no such file, it is damaged, it would run code, or it holds no named tensors.
    """
    if Path(f"{path}.index").is_file() or path.suffix == ".index":
        values = _tensorflow(path.with_suffix("") if path.suffix == ".index" else path)
    elif not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    elif path.suffix == ".npz":
        values = _numpy(path)
    else:
        values = _torch(path)
    if not values:
        raise UserError(f"{path}: the checkpoint holds no tensors")
    return Variables(path, values)


def _torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may fail in any way; none of it was run
        raise UserError(
            f"{path}: not a torch checkpoint of plain tensors: truncated, of another kind, or one that would run code "
            f"({type(error).__name__})"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UserError(f"{path}: expected a dictionary of tensors, got {type(content).__name__}")
    for name, value in state.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
        if not isinstance(name, str) or not plain or value.is_complex():
            raise UserError(f"{path}: expected plain named tensors, got {type(value).__name__} under {name!r}")
    return dict(state)


def _numpy(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return {name: torch.from_numpy(np.asarray(content[name])) for name in content.files}
    except Exception as error:  # as above
        raise UserError(f"{path}: not a readable .npz of plain arrays ({type(error).__name__})") from error


def _tensorflow(prefix: Path) -> dict[str, Tensor]:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            f"{prefix}: reading a TensorFlow checkpoint needs tensorflow; install it with "
            'pip install "camera-noiseflow[tensorflow]", or save its variables as an .npz'
        ) from error
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = [name for name in reader.get_variable_to_shape_map() if name.startswith(("model/", "level0/"))]
        arrays = {name: np.asarray(reader.get_tensor(name)) for name in names}
    except Exception as error:  # as above
        raise UserError(f"{prefix}: not a readable TensorFlow checkpoint ({type(error).__name__})") from error
    optimiser = ("/Adam", "/Adam_1")
    return {name: torch.from_numpy(array) for name, array in arrays.items() if not name.endswith(optimiser)}
