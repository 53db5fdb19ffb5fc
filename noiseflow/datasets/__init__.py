"""Readers of noisy–clean image pairs, and of bursts of noisy images."""

from noiseflow.datasets.base import FramePair, Pair, collate
from noiseflow.datasets.burst_folders import BurstDataset, open_bursts
from noiseflow.datasets.bursts import Burst, BurstPatches, NoisyPair, collate_frames, collate_pairs
from noiseflow.datasets.dataset import NoiseDataset, open_dataset
from noiseflow.datasets.patches import PatchDataset, tiles
from noiseflow.datasets.splits import hold_out

__all__ = [
    "Burst",
    "BurstDataset",
    "BurstPatches",
    "FramePair",
    "NoiseDataset",
    "NoisyPair",
    "Pair",
    "PatchDataset",
    "collate",
    "collate_frames",
    "collate_pairs",
    "hold_out",
    "open_bursts",
    "open_dataset",
    "tiles",
]
