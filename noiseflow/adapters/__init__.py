"""Noise models in other people's training loops: a torch module, a data set of pairs, a numpy function, deepinv.

All of them draw through `noiseflow.synthesize`, so the noise is that of `noiseflow sample` and `noiseflow synthesize`.
"""

from noiseflow.adapters.conditions import ConditionDraw
from noiseflow.adapters.dataset import NoisyPairs
from noiseflow.adapters.transform import NoiseTransform, add_noise

__all__ = ["ConditionDraw", "NoiseTransform", "NoisyPairs", "add_noise"]
