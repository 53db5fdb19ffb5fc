"""The published noise flows, layer by layer: to train them here, and to hold the weights that their authors released.

*Trained here* they are ordinary flows for latent noise, maximising the probability of the stored codes like every other
flow of this package. Their couplings have no batch norm: with it, the likelihood of a patch depends on the rest of its
batch, and running averages of the last few scenes bias what is sampled. Their 1×1 convolutions start as fixed random
rotations, not as the identity, which is a saddle (`noise_flow`). `noise_flow_paper(norm=True)` has it, for
training as published; `fold_norm` takes it out of a trained flow.

*Released* ones (`released=True`, filled by `noiseflow import`) are densities of recorded noise, noisy − clean after
rounding and clipping, spread evenly over each code. They take images as the package does and convert inside:

- The raw flow saw the planes of the transposed mosaic, clockwise, without a common colour order; the shot's `cfa` tells
  how its packed channels lie (`noiseflow.raw.cfa.to_clockwise_transposed`). Clean is clipped to [0, 1].
- The sRGB flow saw B G R, code k as the interval [k, k + 1)/256. Here code k stands at k/255 in the middle of its
  interval: clean c is seen as (255·c + ½)/256 and noise n as 255·n/256.

Both compute in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.conditions import Conditions, CrossedConditions
from noiseflow.models.base import FittedModel
from noiseflow.models.flow import Flow
from noiseflow.models.zoo import NOISE_FLOW_LAYERS, arguments_of, intensity_of
from noiseflow.noise_level import NoiseLevel
from noiseflow.randomness import SAMPLE, normal
from noiseflow.raw.cfa import from_clockwise_transposed, to_clockwise_transposed
from noiseflow.shot import Shot
from noiseflow.transforms import (
    BorderCoupling,
    CameraIsoScale,
    Chain,
    ConditionalAffine,
    Conv1x1LU,
    GlobalGain,
    Transform,
)

SRGB_FLOW_LAYERS = "cl2|cac|cac|cl2|cac|cac|cl2|cac|cac|cl2|cac|cac"
"""The published order of layers of the sRGB flow (Kousha et al. 2022, section 4)."""


class ReleasedFlow(FittedModel):
    """A released flow for recorded noise, taking shots and noise as the rest of the package does.

    Its `log_mass` is the density times the volume of the codes' cells (the density where lsb = 0): a midpoint rule for
    the mass of the dequantised density, which is no probability of latent noise and not comparable with one.

    Any height and width; the border that the couplings see is that of the image they are given. Sampling or scoring a
    frame of 12 megapixels whole takes about 2 GB.
    """

    noise_domain = "recorded"

    scale = 1.0
    """Released units of noise for one linear unit."""

    def __init__(self, conditions: Conditions, channels: int, transform: Chain) -> None:
        super().__init__(conditions, channels)
        self.transform = transform
        self.double()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters, in which the transform computes."""
        return next(self.parameters()).dtype

    def enter(self, image: Float[Tensor, "b c h w"], shot: Shot) -> Tensor:
        """An image's channels and pixels in the released order."""
        raise NotImplementedError

    def leave(self, image: Tensor, shot: Shot) -> Float[Tensor, "b c h w"]:
        """The inverse of `enter`."""
        raise NotImplementedError

    def clean(self, shot: Shot) -> Float[Tensor, "b c h w"]:
        """The clean image in released units, in our order."""
        raise NotImplementedError

    def to_base(self, noise: Float[Tensor, "b c h w"], shot: Shot) -> tuple[Tensor, Float[Tensor, "b"]]:
        """Noise in linear units to base space, in our order of channels and pixels; and the log-determinant, nats."""
        self.check_channels(noise)
        x = self.enter(noise.to(self.dtype) * self.scale, shot).contiguous(memory_format=torch.channels_last)
        z, log_det = self.transform(x, self._released(shot))
        return self.leave(z, shot), log_det + noise[0].numel() * math.log(self.scale)

    def from_base(self, z: Float[Tensor, "b c h w"], shot: Shot) -> Tensor:
        """Base space to noise in linear units: the inverse of `to_base`."""
        self.check_channels(z)
        entered = self.enter(z.to(self.dtype), shot).contiguous(memory_format=torch.channels_last)
        noise, _ = self.transform.inverse(entered, self._released(shot))
        return self.leave(noise, shot) / self.scale

    def _released(self, shot: Shot) -> Shot:
        clean = self.enter(self.clean(shot).to(self.dtype), shot)
        return Shot(clean=clean, iso=shot.iso, camera=shot.camera, cameras=shot.cameras)

    def log_prob(self, noise: Tensor, shot: Shot) -> Tensor:
        """Log density of recorded noise in linear units, nats, `(B,)`, in the parameters' dtype."""
        z, log_det = self.to_base(noise, shot)
        log_prob: Tensor = log_det - 0.5 * (z.square().sum(dim=(1, 2, 3)) + z[0].numel() * math.log(2 * math.pi))
        return log_prob

    def log_mass(self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0) -> Tensor:
        """Log of the density times the volume of the codes' cells, nats, `(B,)`, float64, whatever the seed."""
        lsb = shot.lsb.double()
        volume = noisy.shape[-2] * noisy.shape[-1] * torch.where(lsb > 0, lsb, 1.0).log().sum(dim=1)
        return self.log_prob(noisy.double() - shot.clean.double(), shot).double() + volume

    @torch.no_grad()
    def sample(self, shot: Shot, *, seed: int | Tensor) -> Tensor:
        """Draw recorded noise before it is rounded and clipped, linear units, in clean's dtype; in float64."""
        self.check_channels(shot.clean)
        flow = self if self.dtype == torch.float64 else copy.deepcopy(self).double()
        shape = tuple(shot.clean.shape)
        z = normal(seed, shape, stream=SAMPLE, origin=shot.origin, device=shot.clean.device)  # type: ignore[arg-type]
        return flow.from_base(z, shot).to(shot.clean.dtype)


class _ReleasedRaw(ReleasedFlow):
    """Clockwise planes of the transposed mosaic, clean in [0, 1]."""

    def __init__(self, conditions: Conditions, transform: Chain) -> None:
        super().__init__(conditions, 4, transform)
        self.packing = "clockwise, transposed"

    def enter(self, image: Tensor, shot: Shot) -> Tensor:
        return to_clockwise_transposed(image, shot.patterns)

    def leave(self, image: Tensor, shot: Shot) -> Tensor:
        return from_clockwise_transposed(image, shot.patterns)

    def clean(self, shot: Shot) -> Tensor:
        return shot.clean.clamp(0, 1)


class _ReleasedSrgb(ReleasedFlow):
    """B G R, code k in the middle of [k, k + 1)/256."""

    scale = 255 / 256

    def enter(self, image: Tensor, shot: Shot) -> Tensor:
        return image.flip(1)

    def leave(self, image: Tensor, shot: Shot) -> Tensor:
        return image.flip(1)

    def clean(self, shot: Shot) -> Tensor:
        return ((255 * shot.clean.to(self.dtype) + 0.5) / 256).clamp(0, 1)


def noise_flow_paper(
    pairs: Iterable[tuple[str, float]],
    channels: int = 4,
    *,
    hidden: int = 4,
    condition: str = "raw",
    released: bool = False,
    norm: bool = False,
) -> FittedModel:
    """Noise Flow as published: signal-dependent scale over cameras and ISOs, one gain, couplings that see a border.

    Args:
        pairs: the (camera, ISO) pairs.
        channels: 4 for packed raw, 3 for sRGB; 4 for the released one.
        hidden: channels of the couplings' hidden layers.
        condition: what tells how bright a pixel is: "raw", the clean image, or "srgb", a clean picture of it.
        released: hold released weights, for recorded noise (see the module).
        norm: batch norm in the couplings' networks, as published (see `BorderCoupling`).

    Source: Abdelhamed, Brubaker and Brown 2019; with the layers of Maleky, Kousha, Brown and Brubaker 2022.
    """
    conditions = CrossedConditions(pairs) if released else Conditions(pairs)
    stack: list[Transform] = []
    for i, name in enumerate(NOISE_FLOW_LAYERS.split("|")):
        if name == "sdn":
            stack.append(CameraIsoScale(conditions))
        elif name == "gain":
            stack.append(GlobalGain())
        else:
            rotation = torch.Generator().manual_seed(i)
            stack += [Conv1x1LU(channels, rotation), BorderCoupling(channels, hidden, norm=norm)]
    model: FittedModel
    if released:
        if channels != 4 or condition != "raw":
            raise ValueError(
                f"released: expected 4 channels and condition raw, got {channels} channels and condition {condition}"
            )
        model = _ReleasedRaw(conditions, Chain(stack))
    else:
        shared = channels if channels == 3 else 1
        intensity = intensity_of(conditions, channels, condition)
        model = Flow(Chain(stack), NoiseLevel(conditions, shared), channels, intensity)
    arguments = arguments_of(conditions, channels, hidden=hidden, condition=condition, released=released, norm=norm)
    model.architecture = ("noise_flow_paper", arguments)
    return model


def fold_norm(model: FittedModel) -> FittedModel:
    """A copy of a flow whose couplings have absorbed their batch norms: the same in inference, and in training mode.

    Args:
        model: what `noise_flow_paper` built.
    """
    folded = copy.deepcopy(model)
    for layer in folded.modules():
        if isinstance(layer, BorderCoupling):
            layer.fold()
    name, arguments = model.architecture
    folded.architecture = (name, arguments | {"norm": False})
    return folded.eval()


def srgb_flow(
    pairs: Iterable[tuple[str, float]],
    channels: int = 3,
    *,
    hidden: int = 4,
    condition: str = "raw",
    released: bool = False,
) -> FittedModel:
    """The sRGB flow as published: an affine layer per camera and ISO before every two steps that see the clean picture.

    The published network over camera and ISO that modulates the couplings' log-scale is a number per known pair here:
    that is all it can say of them. Trained here, the first affine layer starts from the noise at middle grey.

    Args:
        pairs: the (camera, ISO) pairs.
        channels: 3 for sRGB, 4 for packed raw; 3 for the released one.
        hidden: channels of the couplings' hidden layers.
        condition: what tells how bright a pixel is; see `noise_flow_paper`.
        released: hold released weights, for recorded noise (see the module).

    Source: Kousha, Maleky, Brown and Brubaker 2022.
    """
    conditions = Conditions(pairs)
    stack: list[Transform] = []
    for i, name in enumerate(SRGB_FLOW_LAYERS.split("|")):
        if name == "cl2":
            stack.append(ConditionalAffine(conditions, channels, first=not stack))
        else:
            stack.append(Conv1x1LU(channels, torch.Generator().manual_seed(i)))
            stack.append(BorderCoupling(channels, hidden, clean=channels, conditions=conditions))
    model: FittedModel
    if released:
        if channels != 3 or condition != "raw":
            raise ValueError(
                f"released: expected 3 channels and condition raw, got {channels} channels and condition {condition}"
            )
        model = _ReleasedSrgb(conditions, 3, Chain(stack))
    else:
        shared = channels if channels == 3 else 1
        intensity = intensity_of(conditions, channels, condition)
        model = Flow(Chain(stack), NoiseLevel(conditions, shared), channels, intensity)
    arguments = arguments_of(conditions, channels, hidden=hidden, condition=condition, released=released)
    model.architecture = ("srgb_flow", arguments)
    return model
