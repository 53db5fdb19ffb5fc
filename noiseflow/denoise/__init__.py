"""Denoisers: the published networks, as plain modules."""

from collections.abc import Callable

from noiseflow.denoise.apply import denoise, denoise_whole
from noiseflow.denoise.networks import Denoiser, DnCNN, NAFNet, UNet

NETWORKS: dict[str, Callable[..., Denoiser]] = {"dncnn": DnCNN, "unet": UNet, "nafnet-small": NAFNet}
"""What a denoiser's name in its file stands for."""

__all__ = ["NETWORKS", "Denoiser", "DnCNN", "NAFNet", "UNet", "denoise", "denoise_whole"]
