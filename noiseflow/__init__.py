"""Camera noise modelling: learn the noise of a camera, score it, make more of it.

Public names are imported when they are first used, so `import noiseflow` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noiseflow.adapters import NoiseTransform, NoisyPairs, add_noise
    from noiseflow.conditions import Conditions, UnknownConditionError
    from noiseflow.datasets import open_dataset
    from noiseflow.errors import UserError
    from noiseflow.files import load, load_denoiser, save
    from noiseflow.importers import import_checkpoint
    from noiseflow.models import (
        FittedModel,
        Flow,
        FullGaussian,
        Gaussian,
        Isotropic,
        NoDensityError,
        NoiseLevelFunction,
        NoiseModel,
        Physics,
        ReleasedFlow,
        glow,
        noise_flow,
        noise_flow_paper,
        srgb_flow,
        synthesize,
    )
    from noiseflow.sensors import PHONES, SENSORS, CorrelatedSensor, SensorTruth, VirtualSensor
    from noiseflow.shot import Shot

__version__ = "0.1.0"

_HOME = {
    "Conditions": "conditions",
    "CorrelatedSensor": "sensors",
    "FittedModel": "models",
    "Flow": "models",
    "FullGaussian": "models",
    "Gaussian": "models",
    "Isotropic": "models",
    "NoDensityError": "models",
    "NoiseLevelFunction": "models",
    "NoiseModel": "models",
    "NoiseTransform": "adapters",
    "NoisyPairs": "adapters",
    "PHONES": "sensors",
    "Physics": "models",
    "ReleasedFlow": "models",
    "SENSORS": "sensors",
    "SensorTruth": "sensors",
    "Shot": "shot",
    "UnknownConditionError": "conditions",
    "UserError": "errors",
    "VirtualSensor": "sensors",
    "add_noise": "adapters",
    "glow": "models",
    "import_checkpoint": "importers",
    "load": "files",
    "load_denoiser": "files",
    "noise_flow": "models",
    "noise_flow_paper": "models",
    "open_dataset": "datasets",
    "save": "files",
    "srgb_flow": "models",
    "synthesize": "models",
}

__all__ = [
    "PHONES",
    "SENSORS",
    "Conditions",
    "CorrelatedSensor",
    "FittedModel",
    "Flow",
    "FullGaussian",
    "Gaussian",
    "Isotropic",
    "NoDensityError",
    "NoiseLevelFunction",
    "NoiseModel",
    "NoiseTransform",
    "NoisyPairs",
    "Physics",
    "ReleasedFlow",
    "SensorTruth",
    "Shot",
    "UnknownConditionError",
    "UserError",
    "VirtualSensor",
    "add_noise",
    "glow",
    "import_checkpoint",
    "load",
    "load_denoiser",
    "noise_flow",
    "noise_flow_paper",
    "open_dataset",
    "save",
    "srgb_flow",
    "synthesize",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"noiseflow.{_HOME[name]}"), name)
    raise AttributeError(f"module 'noiseflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
