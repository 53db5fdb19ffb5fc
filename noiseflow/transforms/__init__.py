"""Invertible layers: each maps noise towards base space and says how much it changes volume."""

from noiseflow.transforms.actnorm import ActNorm
from noiseflow.transforms.base import Chain, Squeeze, Transform, Unsqueeze
from noiseflow.transforms.conv1x1 import Conv1x1, Conv1x1LU
from noiseflow.transforms.coupling import AdditiveCoupling, AffineCoupling
from noiseflow.transforms.diagonal import DiagonalScale
from noiseflow.transforms.multiscale import OnFirst, Split, multi_scale
from noiseflow.transforms.published import BorderCoupling, CameraIsoScale, ConditionalAffine, GlobalGain
from noiseflow.transforms.sensor import Gain, SignalDependentScale

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "BorderCoupling",
    "CameraIsoScale",
    "Chain",
    "ConditionalAffine",
    "Conv1x1",
    "Conv1x1LU",
    "DiagonalScale",
    "Gain",
    "GlobalGain",
    "OnFirst",
    "SignalDependentScale",
    "Split",
    "Squeeze",
    "Transform",
    "Unsqueeze",
    "multi_scale",
]
