"""Denoisers: the published networks, as plain modules."""

from collections.abc import Callable

from noiseflow.denoise.apply import denoise
from noiseflow.denoise.networks import Denoiser, DnCNN, UNet

NETWORKS: dict[str, Callable[..., Denoiser]] = {"dncnn": DnCNN, "unet": UNet}
"""What a denoiser's name in its file stands for."""

__all__ = ["NETWORKS", "Denoiser", "DnCNN", "UNet", "denoise"]
