"""Noise models: classical baselines and flows, and the named architectures by name."""

from collections.abc import Callable

from noiseflow.models.base import FittedModel, NoDensityError, NoiseModel, quantise, synthesize
from noiseflow.models.flow import Flow, MassBound
from noiseflow.models.full_covariance import FullGaussian
from noiseflow.models.gaussian import Gaussian, Isotropic, NoiseLevelFunction
from noiseflow.models.image import ImageFlow, glow_image, nice_image
from noiseflow.models.physics import Physics
from noiseflow.models.published import ReleasedFlow, noise_flow_paper, srgb_flow
from noiseflow.models.zoo import glow, noise_flow

ARCHITECTURES: dict[str, Callable[..., FittedModel]] = {
    "isotropic": Isotropic,
    "gaussian": Gaussian,
    "full": FullGaussian,
    "nlf": NoiseLevelFunction,
    "physics": Physics,
    "noise_flow": noise_flow,
    "glow": glow,
    "noise_flow_paper": noise_flow_paper,
    "srgb_flow": srgb_flow,
}
"""What a model's name on the command line and in its file stands for."""

BASELINES = ("isotropic", "gaussian", "full", "nlf", "physics")
"""Names that `evaluate` accepts in place of a model file."""

__all__ = [
    "ARCHITECTURES",
    "BASELINES",
    "FittedModel",
    "Flow",
    "FullGaussian",
    "Gaussian",
    "ImageFlow",
    "Isotropic",
    "MassBound",
    "NoDensityError",
    "NoiseLevelFunction",
    "NoiseModel",
    "Physics",
    "ReleasedFlow",
    "glow",
    "glow_image",
    "nice_image",
    "noise_flow",
    "noise_flow_paper",
    "quantise",
    "srgb_flow",
    "synthesize",
]
