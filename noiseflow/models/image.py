"""Unconditional densities of images: NICE and Glow as they were published, for pictures instead of noise.

These models have no camera, no ISO and no clean image; they are no `NoiseModel`s and know no noise. They are what the
layers of the noise flows were made for, and check them on a task with a known answer.
"""

from __future__ import annotations

import copy
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from noiseflow.randomness import PROPOSAL, SAMPLE, combine, uniform
from noiseflow.shot import Shot
from noiseflow.transforms import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    Conv1x1LU,
    DiagonalScale,
    Squeeze,
    Transform,
    Unsqueeze,
    multi_scale,
)

BASES = ("gaussian", "logistic")
"""Distributions of a base-space value: N(0, 1), and the logistic one with location 0 and scale 1."""


class ImageFlow(nn.Module):
    """A normalizing flow for images: `transform` maps them to independent values of the base distribution.

    Images are continuous, in [0, 1]: code k of a picture with `bins` codes fills [k, k + 1] / bins (`dequantize`).

    Args:
        transform: the layers, from images to base space. They must not read the shot: an image has no condition, and
            they are given a blank one.
        shape: C, H, W of the images.
        base: `"gaussian"` or `"logistic"`.
        bins: number of codes of the stored pictures; 256 for 8 bits.

    Raises:
        ValueError: an unknown base, or sides that the transform does not take.

    Examples:
        >>> model = glow_image((1, 8, 8), bins=17, levels=2, steps=2, hidden=8)
        >>> codes = torch.zeros(5, 1, 8, 8, dtype=torch.int64)
        >>> model.log_prob(dequantize(codes, model.bins, seed=0)).shape, model.sample(3, seed=0).shape
        (torch.Size([5]), torch.Size([3, 1, 8, 8]))
    """

    def __init__(self, transform: Transform, shape: tuple[int, int, int], *, base: str, bins: int) -> None:
        super().__init__()
        if base not in BASES:
            raise ValueError(f"base: expected one of {', '.join(BASES)}, got {base!r}")
        if shape[1] % transform.size_multiple or shape[2] % transform.size_multiple:
            raise ValueError(
                f"shape: expected sides that divide by {transform.size_multiple}, got {shape[1]}×{shape[2]}"
            )
        self.transform = transform
        self.shape = shape
        self.base = base
        self.bins = bins

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters, in which the transform computes."""
        return next(self.parameters()).dtype

    def initialize(self, images: Float[Tensor, "b c h w"]) -> None:
        """Set the data-dependent state (actnorms) from a batch, once, before training."""
        images = images.to(self.dtype)
        self.transform.initialize(images, _blank(images))

    def log_prob(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        """Log density of continuous images in [0, 1], nats, summed over C·H·W.

        Raises:
            ValueError: images of another shape than the model's.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"images: expected (B, {', '.join(map(str, self.shape))}), got {tuple(images.shape)}")
        images = images.to(self.dtype)
        z, log_det = self.transform(images, _blank(images))
        if self.base == "gaussian":
            log_base = -0.5 * (z.square() + math.log(2 * math.pi))
        else:
            log_base = -z - 2 * nn.functional.softplus(-z)
        log_prob: Tensor = log_base.sum(dim=(1, 2, 3)) + log_det
        return log_prob

    def bits_per_dimension(self, codes: Int[Tensor, "b c h w"], *, seed: int = 0, draws: int = 1) -> Float[Tensor, "b"]:
        """Upper bound on −log₂ of the probability of stored codes, per value: bits per dimension.

        bpd = (−E_u log p((k + u)/bins)/(C·H·W) + log bins)/log 2, u uniform: the mean over `draws` dequantisations.

        Args:
            codes: `(B, C, H, W)`, integers in [0, bins).
            seed: of the dequantisation.
            draws: number of dequantisations averaged.
        """
        images = (dequantize(codes, self.bins, seed=combine(seed, k)) for k in range(draws))
        bits = [bits_per_dimension(self.log_prob(x), self.shape, self.bins) for x in images]
        return torch.stack(bits).mean(dim=0)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int, temperature: float = 1.0) -> Float[Tensor, "n c h w"]:
        """Draw continuous images; image i depends on (seed, i) only. Computed in float64, given in the model's dtype.

        Args:
            n: number of images.
            seed: equal seeds, equal images.
            temperature: factor on the base-space values, >= 0; below 1, likelier and less varied images.

        Returns:
            `(n, C, H, W)`; mostly, but not surely, in [0, 1]: `quantize` gives codes.

        Raises:
            ValueError: a negative temperature.
        """
        if not temperature >= 0:
            raise ValueError(f"temperature: expected a number >= 0, got {temperature}")
        model = self if self.dtype == torch.float64 else copy.deepcopy(self).double()
        seeds = combine(seed, torch.arange(n))
        u = uniform(seeds, (n, *self.shape), stream=SAMPLE, device=next(self.parameters()).device)
        z = torch.special.ndtri(u) if self.base == "gaussian" else torch.logit(u)
        images, _ = model.transform.inverse(temperature * z, _blank(z))
        return images.to(self.dtype)

    def extra_repr(self) -> str:
        """Shape, base and bins."""
        return f"shape={self.shape}, base={self.base}, bins={self.bins}"


def dequantize(codes: Int[Tensor, "b c h w"], bins: int, *, seed: int | Tensor) -> Float[Tensor, "b c h w"]:
    """Codes → continuous images in [0, 1]: (k + u)/bins with u uniform in (0, 1), float64.

    Args:
        codes: integers in [0, bins).
        bins: number of codes.
        seed: an integer; every row of the batch draws its own numbers.

    Raises:
        ValueError: a code outside [0, bins).
    """
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < bins):
        raise ValueError(f"codes: expected integers from 0 to {bins - 1}, got {int(codes.min())} to {int(codes.max())}")
    seeds = combine(seed, torch.arange(len(codes)))
    b, c, h, w = codes.shape
    return (codes + uniform(seeds, (b, c, h, w), stream=PROPOSAL, device=codes.device)) / bins


def quantize(images: Float[Tensor, "b c h w"], bins: int) -> Int[Tensor, "b c h w"]:
    """Continuous images → codes: floor(bins · x), clipped to [0, bins)."""
    return (images * bins).floor().clamp(0, bins - 1).to(torch.int64)


def bits_per_dimension(log_prob: Float[Tensor, "b"], shape: tuple[int, int, int], bins: int) -> Float[Tensor, "b"]:
    """(−log p/(C·H·W) + log bins)/log 2 of densities in nats, of images in [0, 1].

    Examples:
        >>> bits_per_dimension(torch.zeros(1), (1, 8, 8), 256)  # the uniform density needs all 8 bits
        tensor([8.])
    """
    return (math.log(bins) - log_prob / math.prod(shape)) / math.log(2)


def nice_image(
    shape: tuple[int, int, int], *, bins: int = 256, couplings: int = 4, hidden: int = 128, base: str = "logistic"
) -> ImageFlow:
    """NICE: additive couplings between even and odd rows, fully connected, then a scale for every dimension.

    Two squeezes make one pixel with C·H·W channels of the image, so that 1×1 couplings are fully connected and the
    scale has an entry a dimension. An actnorm there, initialised on data, does the rescaling of the data that the
    paper does beforehand.

    Args:
        shape: C, H, W of the images; square, even.
        bins: number of codes of the stored pictures.
        couplings: number of couplings, in alternating directions; at least 3 let every dimension reach every other.
        hidden: width of the couplings' two hidden layers.
        base: `"logistic"` or `"gaussian"`.

    Raises:
        ValueError: sides that are odd or differ.

    Source: Dinh, Krueger and Bengio 2014.
    """
    side = shape[1]
    if side != shape[2] or side % 2:
        raise ValueError(f"shape: expected square images with an even side, got {shape[1]}×{shape[2]}")
    dimensions = math.prod(shape)
    layers: list[Transform] = [Squeeze(2), Squeeze(side // 2), ActNorm(dimensions)]
    layers += [AdditiveCoupling(dimensions, hidden, swap=i % 2 == 1, kernel=1) for i in range(couplings)]
    layers += [DiagonalScale(dimensions), Unsqueeze(side // 2), Unsqueeze(2)]
    return ImageFlow(Chain(layers), shape, base=base, bins=bins)


def glow_image(
    shape: tuple[int, int, int],
    *,
    bins: int = 256,
    levels: int = 2,
    steps: int = 8,
    hidden: int = 64,
    base: str = "gaussian",
    seed: int = 0,
) -> ImageFlow:
    """Glow: at every level squeeze, steps of actnorm, 1×1 convolution and coupling, and a split.

    Args:
        shape: C, H, W of the images; H and W must divide by 2^levels.
        bins: number of codes of the stored pictures.
        levels: number of resolutions.
        steps: flow steps a level.
        hidden: channels of the couplings' hidden layers.
        base: `"gaussian"` or `"logistic"`.
        seed: of the random rotations that the 1×1 convolutions start from; the couplings' networks draw theirs from
            torch's global generator, as layers of torch do.

    Source: Kingma and Dhariwal 2018.
    """
    generator = torch.Generator().manual_seed(seed)

    def level(channels: int) -> list[Transform]:
        return [
            layer
            for i in range(steps)
            for layer in (
                ActNorm(channels),
                Conv1x1LU(channels, generator),
                AffineCoupling(channels, hidden, swap=i % 2 == 1),
            )
        ]

    return ImageFlow(multi_scale(shape[0], levels, level), shape, base=base, bins=bins)


def _blank(images: Tensor) -> Shot:
    """A shot that says nothing: what transforms that ignore theirs are given."""
    return Shot.of(images.new_zeros(images.shape), camera="none", iso=1.0)
