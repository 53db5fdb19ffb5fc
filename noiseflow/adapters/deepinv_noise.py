"""A noise model as deepinv's `NoiseModel`: what `deepinv.physics` operators take as `noise_model`.

deepinv (https://deepinv.github.io) need not be installed. Where it is, `DeepinvNoise` is one of its noise models; where
not, a plain torch module with the same interface: `forward(x, seed=None, **kwargs)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.adapters.conditions import Iso
from noiseflow.adapters.transform import NoiseTransform
from noiseflow.models import NoiseModel
from noiseflow.randomness import combine

try:
    from deepinv.physics import NoiseModel as _Base
except ImportError:
    _Base = nn.Module


class DeepinvNoise(_Base):  # type: ignore[misc]
    """A measurement's noise, drawn from a model of this package.

    Args:
        model: any noise model.
        iso: as in `NoiseTransform`.
        cameras: names; None for all that the model knows.
        seed: seed of the calls that give none of their own.
        stored: round and clip as the camera stores its images.

    Attributes:
        noise_model: the `NoiseTransform` that draws; its `last` says which camera and ISO.

    Examples:
        In `deepinv.physics.Denoising(noise_model=DeepinvNoise(model))`, or alone:

        >>> from noiseflow.models import NoiseLevelFunction
        >>> noise = DeepinvNoise(NoiseLevelFunction([("S6", 800)], channels=3))
        >>> x = torch.full((2, 3, 16, 16), 0.5)
        >>> y = noise(x, seed=3)
        >>> y.shape, bool((y == noise(x, seed=3)).all()), bool((y == noise(x)).all())
        (torch.Size([2, 3, 16, 16]), True, False)
    """

    def __init__(
        self,
        model: NoiseModel,
        *,
        iso: Iso = None,
        cameras: Sequence[str] | None = None,
        seed: int = 0,
        stored: bool = True,
    ) -> None:
        super().__init__()
        self.noise_model = NoiseTransform(model, iso=iso, cameras=cameras, seed=seed, stored=stored)

    def forward(self, x: Float[Tensor, "b c h w"], seed: int | None = None, **kwargs: Any) -> Float[Tensor, "b c h w"]:
        """The noisy measurement.

        Args:
            x: a batch or one image, linear units, or sRGB for models of pictures.
            seed: what is drawn is a function of it, of the seed of construction and of the row; None: count, as
                `NoiseTransform` does.
            kwargs: parameters of other parts of the physics; without effect.
        """
        index = None if seed is None else combine(seed, torch.arange(len(x) if x.ndim == 4 else 1))
        noisy: Tensor = self.noise_model(x, index=index)
        return noisy
