"""Ground truths that are a mean of recorded frames, taken back to the signal behind the mean."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.clipped_mean import signal_of_mean
from noiseflow.datasets.base import FramePair
from noiseflow.datasets.dataset import NoiseDataset
from noiseflow.noise_level import NoiseLevel


class SignalPair(FramePair):
    """A pair whose clean image, a mean of recorded frames, is replaced by the signal with that mean.

    Args:
        pair: the pair as it is stored.
        a: slope of the noise level function of its camera and ISO.
        b: its intercept.
    """

    def __init__(self, pair: FramePair, a: float, b: float) -> None:
        super().__init__(name=pair.name, scene=pair.scene, camera=pair.camera, iso=pair.iso, files=pair.files)
        self.pair, self.a, self.b = pair, a, b

    @property
    def cfa(self) -> str | None:
        """The stored pair's."""
        return self.pair.cfa

    @property
    def channels(self) -> int:
        """The stored pair's."""
        return self.pair.channels

    @property
    def size(self) -> tuple[int, int]:
        """The stored pair's."""
        return self.pair.size

    def _declared(self) -> tuple[Float[Tensor, "c"], tuple[float, float] | None]:
        return self.pair._declared()

    def _cut(self, which: int, top: int, left: int, height: int, width: int) -> Float[Tensor, "c h w"]:
        stored = self.pair._cut(which, top, left, height, width)
        if which == 0:
            return stored
        low, high = float(self.low.max()), float(self.high.min())
        return torch.from_numpy(signal_of_mean(stored.numpy(), self.a, self.b, low, high))

    def _cut_picture(self, top: int, left: int, height: int, width: int) -> Float[Tensor, "3 h2 w2"] | None:
        return self.pair._cut_picture(top, left, height, width)


def with_signal(dataset: NoiseDataset, level: NoiseLevel) -> NoiseDataset:
    """The data set with the clean images of all its frames taken back from the mean to the signal.

    Args:
        dataset: raw pairs; frames that were taken back before start again from what is stored.
        level: the noise level function of every camera and ISO that occurs, shared by the channels.
    """
    frames = []
    for frame in dataset.frames:
        stored = frame.pair if isinstance(frame, SignalPair) else frame
        k = level.conditions.pairs.index((frame.camera, frame.iso))
        a, b = (float(log[k, 0].detach().exp()) for log in (level.log_a, level.log_b))
        frames.append(SignalPair(stored, a, b))
    return replace(
        dataset,
        frames=tuple(frames),
        clean="mean of frames, taken back to the signal by the fitted noise level",
    )
