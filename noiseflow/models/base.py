"""What a noise model is, and the one place where noise is added to a clean image."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from noiseflow.conditions import Conditions
from noiseflow.shot import Shot

PACKINGS = {1: "mono", 3: "RGB", 4: "RGGB"}
"""Names of the channel orders, by number of channels."""


class NoDensityError(NotImplementedError):
    """The model can be sampled but has no density to score."""


@runtime_checkable
class NoiseModel(Protocol):
    """p(noise | clean, camera, ISO): flows, classical models, virtual sensors and recorded frames alike.

    Attributes:
        cameras: names of the cameras that the model knows.
        noise_domain: "latent" if the model emits noise before rounding and clipping, "recorded" if after.
        packing: order of the channels: "RGGB" (packed raw), "RGB" or "mono"; a released model names its own, and takes
            and gives noise in this package's order all the same.
    """

    cameras: tuple[str, ...]
    noise_domain: str
    packing: str

    def log_prob(self, noise: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b"]:
        """Log density of noise in linear units, nats, summed over C·H·W; NoDensityError if there is none."""
        ...

    def log_mass(
        self, noisy: Float[Tensor, "b c h w"], shot: Shot, *, seed: int | Int[Tensor, "b"] = 0
    ) -> Float[Tensor, "b"]:
        """Log probability of the stored codes, nats, float64, summed over C·H·W (`noiseflow.cells`)."""
        ...

    def sample(self, shot: Shot, *, seed: int | Int[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
        """Draw noise in linear units: a pure function of (seed, channel, row, column) of the frame."""
        ...


class FittedModel(nn.Module):
    """Base of the models that are fitted to data and kept in a file: their conditions, their card, a numpy door.

    Args:
        conditions: the (camera, ISO) pairs that the model knows.
        channels: 4 for packed raw, 3 for sRGB, 1 for mono.

    Attributes:
        card: what is known about the model's training (data, protocol, scores); plain JSON values.
        architecture: name and arguments of the function that builds the model again; set by that function.
    """

    noise_domain = "latent"
    condition = "raw"
    """What tells the model how bright a pixel is: "raw", the clean image itself, or "srgb", `shot.srgb`."""

    def __init__(self, conditions: Conditions, channels: int) -> None:
        super().__init__()
        self.conditions = conditions
        self.cameras = conditions.cameras
        self.channels = channels
        self.packing = PACKINGS.get(channels, f"{channels} channels")
        self.card: dict[str, Any] = {}
        self.architecture: tuple[str, dict[str, Any]] = ("", {})

    def log_prob(self, noise: Tensor, shot: Shot) -> Tensor:
        """Log density of noise; see `NoiseModel`."""
        raise NotImplementedError

    def log_mass(self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0) -> Tensor:
        """Log probability of the stored codes; see `NoiseModel`."""
        raise NotImplementedError

    def sample(self, shot: Shot, *, seed: int | Tensor) -> Tensor:
        """Draw noise; see `NoiseModel`."""
        raise NotImplementedError

    def parameter_count(self) -> int:
        """Number of trainable values."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def check_channels(self, image: Tensor) -> None:
        """Raise a sentence where an image has another number of channels than the model."""
        if image.ndim != 4 or image.shape[1] != self.channels:
            raise ValueError(
                f"expected (B, {self.channels}, H, W) for a {self.packing} model, got {tuple(image.shape)}"
            )

    def sample_numpy(
        self,
        clean: np.ndarray,
        *,
        camera: str,
        iso: float,
        seed: int = 0,
        cfa: str = "RGGB",
        srgb: np.ndarray | None = None,
    ) -> np.ndarray:
        """Noise for one clean image, without tensors.

        Args:
            clean: linear units. `(H, W)` mosaic or `(4, H, W)` packed for raw models, `(H, W, 3)` R G B for sRGB
                models, `(H, W)` for mono ones.
            camera: name of the camera.
            iso: ISO speed.
            seed: equal seeds, equal noise.
            cfa: the mosaic's colour filter pattern.
            srgb: `(H, W, 3)` uint8 at mosaic resolution, the clean picture that models with condition "srgb" see; the
                values of `clean` do not matter to them.

        Returns:
            Noise in linear units, clean's shape, float32. Add it to clean, then round and clip (`synthesize`).

        Examples:
            >>> from noiseflow.models import Gaussian
            >>> model = Gaussian([("S6", 800)], channels=3)
            >>> model.sample_numpy(np.zeros((8, 8, 3)), camera="S6", iso=800).shape
            (8, 8, 3)
        """
        from noiseflow.arrays import like_array, to_planes

        image = to_planes(clean, self.channels, cfa)
        shot = Shot.of(image[None], camera=camera, iso=iso, cfa=cfa if self.channels == 4 else None)
        if srgb is not None:
            picture = torch.as_tensor(np.ascontiguousarray(srgb)).permute(2, 0, 1)[None].float() / 255
            shot = shot.replace(srgb=picture)
        return like_array(self.sample(shot, seed=seed)[0], clean, cfa)


def quantise(image: Float[Tensor, "b c h w"], shot: Shot) -> Float[Tensor, "b c h w"]:
    """What the sensor stores of an image: rounded to the codes where lsb > 0, clipped to [low, high].

    Args:
        image: `(B, C, H, W)`, linear units.
        shot: gives `lsb`, `low` and `high`.

    Returns:
        The stored image, linear units, in clean's dtype.
    """
    lsb, low, high = (v.double()[..., None, None] for v in (shot.lsb, shot.low, shot.high))
    y = image.double()
    codes = torch.round(y / lsb.clamp_min(torch.finfo(torch.float64).tiny)) * lsb
    y = torch.where(lsb > 0, codes, y)
    return torch.minimum(torch.maximum(y, low), high).to(shot.clean.dtype)


@torch.no_grad()
def synthesize(model: NoiseModel, shot: Shot, *, seed: int | Int[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
    """Add a model's noise to the clean images: the noisy images as the sensor would store them.

    Args:
        model: any noise model that knows the shot's cameras and ISOs.
        shot: clean images and conditions.
        seed: an integer, the same for every row, or `(B,)` integers.

    Returns:
        Noisy images, linear units, rounded to `lsb` and clipped to [low, high].
    """
    return quantise(shot.clean.double() + model.sample(shot, seed=seed).double(), shot)
