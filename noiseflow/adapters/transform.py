"""A noise model as a torch module and as a numpy function: clean images in, noisy ones out."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from noiseflow.adapters.conditions import ConditionDraw, Iso, code_grid
from noiseflow.arrays import like_array, to_planes
from noiseflow.models import Flow, NoiseModel, quantise, synthesize
from noiseflow.randomness import combine
from noiseflow.shot import CFA_PATTERNS, Shot

_COUNTED, _INDEXED = 1, 2  # so that a count and an index of the same value draw different noise


class NoiseTransform(nn.Module):
    """Adds a model's noise to clean images, each with a camera and an ISO drawn for it.

    What is drawn for an image is a pure function of the seed and of a number. With `index` the number is yours, and
    noise, camera and ISO are the same in whatever worker, process or batch the image is asked for. Without, images are
    counted: (rank, seed of the loader's worker, images so far); the count is in the `state_dict`, so a resumed training
    goes on with fresh noise. Counting in the main process, on the batches of a loader, gives the same stream for any
    number of workers; inside workers noise is fresh, too, but each counts for itself: for the same stream give an index
    there (`NoisyPairs` does).

    Args:
        model: any noise model; a copy of its own, frozen, so that no optimiser of the network around it moves it.
        iso: a number; a tuple (low, high), a range; a list to choose from; None for all ISOs that the model knows
            (`ConditionDraw`).
        cameras: names; None for all that the model knows.
        seed: equal seeds, equal draws.
        cfa: pattern of the mosaics that the images are, for models of packed raw.
        stored: round and clip as the camera stores its images (the model's card says how; else clip to [0, 1]). False
            leaves clean + noise as it is.
        quick: draw from flows in float32: ten times as fast on a CPU, and equal up to rounding only.

    Attributes:
        last: the `Shot` of the last call in this process: clean images, and the camera and ISO that were drawn.
        count: images that were counted so far.

    Raises:
        ValueError: a camera or an ISO that the model does not know.

    Examples:
        >>> from noiseflow.models import NoiseLevelFunction
        >>> model = NoiseLevelFunction([("S6", 100), ("S6", 800), ("G4", 400)])
        >>> noise = NoiseTransform(model, iso=(100, 3200), seed=1)
        >>> clean = torch.full((3, 4, 16, 16), 0.25)
        >>> noise(clean).shape
        torch.Size([3, 4, 16, 16])
        >>> noise.last.camera_names, noise.last.iso.tolist()
        (('S6', 'G4', 'G4'), [100.0, 400.0, 400.0])
        >>> noisy, shot = noise(clean[0], index=7, return_shot=True)
        >>> bool((noisy == noise(clean[0], index=7)).all())
        True
        >>> noise(np.full((32, 48), 0.25)).shape  # a mosaic
        (32, 48)
    """

    count: Tensor

    def __init__(
        self,
        model: NoiseModel,
        *,
        iso: Iso = None,
        cameras: Sequence[str] | None = None,
        seed: int = 0,
        cfa: str = "RGGB",
        stored: bool = True,
        quick: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(model, (str, Path)):
            raise ValueError(f"model: expected a noise model, got {str(model)!r}; noiseflow.load reads it")
        if cfa not in CFA_PATTERNS:
            raise ValueError(f"cfa: expected one of {', '.join(CFA_PATTERNS)}, got {cfa!r}")
        self.draw = ConditionDraw(model, cameras, iso)
        model = copy.deepcopy(model)
        if isinstance(model, nn.Module):
            model.eval().requires_grad_(False)
        self._held = (model,)  # not a part of this module: casting or saving the network around must not reach it
        self.seed, self.cfa, self.stored, self.quick = seed, cfa, stored, quick
        self.last: Shot | None = None
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def model(self) -> NoiseModel:
        """What draws the noise."""
        return self._held[0]

    def extra_repr(self) -> str:
        """What is drawn, for `repr`."""
        return f"{type(self.model).__name__}, seed={self.seed}, {self.draw.choices}"

    @overload
    def forward(self, clean: Tensor, *, index: int | Int[Tensor, "b"] | None = None) -> Tensor: ...

    @overload
    def forward(self, clean: NDArray[Any], *, index: int | None = None) -> NDArray[Any]: ...

    @overload
    def forward(
        self, clean: Any, *, index: int | Int[Tensor, "b"] | None = None, return_shot: bool
    ) -> tuple[Any, Shot]: ...

    @torch.no_grad()
    def forward(self, clean: Any, *, index: int | Int[Tensor, "b"] | None = None, return_shot: bool = False) -> Any:
        """Draw a condition and noise for every image.

        Args:
            clean: linear units. A batch `(B, C, H, W)` or one image `(C, H, W)`, floating-point; or one numpy image:
                `(H, W)` mosaic or `(4, H, W)` for raw models, `(H, W, 3)` for sRGB ones, `(H, W)` for mono ones.
            index: number of the image, or `(B,)` of them; None: count.
            return_shot: also return the `Shot`: the clean images with camera, ISO and code grid.

        Returns:
            Noisy images in the shape, dtype and device of clean (numpy: float32), and the shot if asked for.

        Raises:
            ValueError: another shape or type.
        """
        array = None if isinstance(clean, Tensor) else np.asarray(clean)
        images = clean if array is None else to_planes(array, channels_of(self.model), self.cfa)
        single = images.ndim == 3
        images = images[None] if single else images
        channels = getattr(self.model, "channels", None)
        if images.ndim != 4 or not len(images) or channels not in (None, images.shape[1]):
            shape = f"({channels or 'C'}, H, W)"
            raise ValueError(
                f"clean: expected images {shape} or one or more of them in a batch, got {tuple(clean.shape)}"
            )
        if isinstance(self.model, nn.Module):
            self.model.to(images.device)
        keys = self.keys(len(images), index)
        shot = shot_of(self.model, images, *self.draw(keys), cfa=self.cfa, stored=self.stored)
        noisy = noisy_images(self.model, shot, keys, stored=self.stored, quick=self.quick)
        self.last = shot
        noisy = noisy[0] if single else noisy
        result = noisy if array is None else like_array(noisy, array, self.cfa)
        return (result, shot) if return_shot else result

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"last": None}  # other processes need not carry a batch

    def keys(self, rows: int, index: int | Int[Tensor, "b"] | None) -> Int[Tensor, "b"]:
        """The seed of each image; counts them where no index is given."""
        if index is not None:
            numbers = torch.as_tensor(index).cpu()
            if numbers.is_floating_point() or numbers.shape not in ((), (1,), (rows,)):
                raise ValueError(f"index: expected a whole number for each of {rows} images, got {index}")
            return combine(self.seed, _INDEXED, numbers.to(torch.int64)).expand(rows)
        worker = get_worker_info()
        place = 0 if worker is None else worker.seed  # the loader's, new in every epoch
        first = int(self.count)
        self.count += rows
        return combine(self.seed, _COUNTED, int(os.environ.get("RANK", "0")), place, torch.arange(first, first + rows))


def add_noise(
    clean: NDArray[Any],
    model: NoiseModel,
    *,
    camera: str,
    iso: float,
    seed: int = 0,
    cfa: str = "RGGB",
    stored: bool = True,
) -> NDArray[np.float32]:
    """A noisy image of a clean one: numpy in, numpy out.

    Args:
        clean: linear units; `(H, W)` mosaic or `(4, H, W)` for raw models, `(H, W, 3)` for sRGB ones, `(H, W)` for
            mono ones.
        model: any noise model.
        camera: name of the camera.
        iso: ISO speed.
        seed: equal seeds, equal noise.
        cfa: pattern of a mosaic.
        stored: round and clip as the camera stores its images; False leaves clean + noise as it is.

    Returns:
        Linear units, clean's shape, float32.

    Raises:
        ValueError: another shape, or a camera or an ISO that the model does not know.

    Examples:
        >>> from noiseflow.models import Gaussian
        >>> model = Gaussian([("S6", 800)])
        >>> noisy = add_noise(np.full((16, 24), 0.5), model, camera="S6", iso=800)
        >>> noisy.shape, noisy.dtype
        ((16, 24), dtype('float32'))
    """
    planes = to_planes(np.asarray(clean), channels_of(model), cfa)
    shot = shot_of(model, planes[None], [camera], torch.tensor([iso]), cfa=cfa, stored=stored)
    noisy = noisy_images(model, shot, seed, stored=stored)
    result: NDArray[np.float32] = like_array(noisy[0], np.asarray(clean), cfa)
    return result


def shot_of(
    model: NoiseModel, clean: Tensor, cameras: Sequence[str], isos: Tensor, *, cfa: str | None, stored: bool
) -> Shot:
    """The shot of clean images under given conditions, with the code grid of each one's camera."""
    channels = clean.shape[1] if clean.ndim == 4 else 0
    grid: dict[str, Tensor] = {}
    if stored and channels and set(cameras) <= set(model.cameras):
        by_row = [code_grid(model, camera, channels) for camera in cameras]
        grid = {name: torch.stack([row[name] for row in by_row]) for name in ("lsb", "low", "high")}
    pattern = cfa if channels == 4 else None
    return Shot.of(clean, camera=cameras, iso=isos, cfa=pattern, **grid)


def noisy_images(
    model: NoiseModel, shot: Shot, seed: int | Int[Tensor, "b"], *, stored: bool, quick: bool = False
) -> Tensor:
    """The noisy images of a shot, rounded and clipped or as they are, in clean's dtype."""
    if quick and isinstance(model, Flow):
        with torch.no_grad():
            noisy = shot.clean.double() + model.sample(shot, seed=seed, dtype=torch.float32).double()
        return quantise(noisy, shot) if stored else noisy.to(shot.clean.dtype)
    if stored:
        return synthesize(model, shot, seed=seed)
    with torch.no_grad():
        return (shot.clean.double() + model.sample(shot, seed=seed).double()).to(shot.clean.dtype)


def channels_of(model: NoiseModel) -> int:
    """Number of channels that a model takes; packed raw where it does not say."""
    return int(getattr(model, "channels", 4))
