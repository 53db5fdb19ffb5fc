"""Readers of noisy–clean image pairs."""

from noiseflow.datasets.base import FramePair, Pair, collate
from noiseflow.datasets.dataset import NoiseDataset, open_dataset
from noiseflow.datasets.patches import PatchDataset, tiles
from noiseflow.datasets.splits import hold_out

__all__ = ["FramePair", "NoiseDataset", "Pair", "PatchDataset", "collate", "hold_out", "open_dataset", "tiles"]
