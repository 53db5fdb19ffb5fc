"""A classifier two-sample score: can a small network tell an entry's noise from the data's, given the clean image?

Half of the scenes train it, the other half is classified. Noise that cannot be told apart gives an accuracy of 0.5 on
average; an accuracy whose interval excludes 0.5 shows a difference, though not which.

Source: Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noiseflow.datasets import FramePair
from noiseflow.evaluation.tiles import spread
from noiseflow.metrics.intervals import scene_interval
from noiseflow.randomness import combine, uniform

PATCHES = 1024
"""Patches of either kind at most, evenly spread over the images."""

SIDE = 32
STEPS = 300
_BATCH = 64
_HIDDEN = 24
_RATE = 2e-3
_STREAM = 301


class ClassifierScores:
    """Patches of the data's noise and of one entry's, kept until all have been seen.

    Args:
        frames: all frames of the data set.
    """

    def __init__(self, frames: Sequence[FramePair]) -> None:
        self._scenes = [frame.scene for frame in frames]
        self._looked_at = set(spread(len(frames), PATCHES))
        self._each = max(1, PATCHES // len(self._looked_at))
        self._kept: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def add(self, number: int, data: Tensor, made: Tensor, clean: Tensor) -> None:
        """Add tiles of frame `number`: the data's noise, the entry's, the clean image, each `(B, C, H, W)`."""
        if number not in self._looked_at or number in self._kept:
            return
        cut = [_patches(x)[: self._each].float().cpu() for x in (data, made, clean)]
        if len(cut[0]):
            self._kept[number] = (cut[0], cut[1], cut[2])

    def merge(self, other: ClassifierScores) -> None:
        """Add what another process has seen of other frames."""
        self._kept.update(other._kept)

    def summary(self, seed: int, reason: dict[str, str]) -> dict[str, Any] | None:
        """Train, classify and count; null with a reason where there are too few scenes."""
        scenes = sorted({self._scenes[number] for number in self._kept})
        if len(scenes) < 4:
            reason["classifier"] = "expected patches of at least 4 scenes, two to train on and two to classify"
            return None
        numbers = sorted(self._kept)
        train = [n for n in numbers if scenes.index(self._scenes[n]) % 2 == 0]
        test = [n for n in numbers if scenes.index(self._scenes[n]) % 2 == 1]
        network = self._train(train, seed)
        right, counts = dict.fromkeys(scenes[1::2], 0.0), dict.fromkeys(scenes[1::2], 0)
        for n in test:
            data, made, clean = self._kept[n]
            with torch.no_grad():
                said = [network(_seen(noise, clean, self._scale(train))) for noise in (data, made)]
            right[self._scenes[n]] += float((said[0] > 0).sum() + (said[1] <= 0).sum())
            counts[self._scenes[n]] += 2 * len(data)
        interval = scene_interval(list(right.values()), list(counts.values()))
        if interval.low is None:
            reason["classifier.low"] = reason["classifier.high"] = interval.method
        return {
            "accuracy": interval.value,
            "low": interval.low,
            "high": interval.high,
            "patches": sum(counts.values()),
            "scenes": len(counts),
        }

    def _scale(self, numbers: Sequence[int]) -> float:
        """Standard deviation of the data's noise, linear units: what the network's input is measured in."""
        squares = sum(float(self._kept[n][0].double().square().sum()) for n in numbers)
        return math.sqrt(squares / sum(self._kept[n][0].numel() for n in numbers)) or 1.0

    def _train(self, numbers: Sequence[int], seed: int) -> nn.Module:
        data, made, clean = (torch.cat([self._kept[n][i] for n in numbers]) for i in range(3))
        scale = self._scale(numbers)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            network = _network(data.shape[1])
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            for step in range(STEPS):
                draw = uniform(combine(seed, step), (1, 1, 1, _BATCH), stream=_STREAM).flatten()
                rows = (draw * len(data)).long()
                seen = torch.cat([_seen(noise[rows], clean[rows], scale) for noise in (data, made)])
                wanted = torch.cat([torch.ones(_BATCH), torch.zeros(_BATCH)])
                loss = nn.functional.binary_cross_entropy_with_logits(network(seen), wanted)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        return network.eval()


class _MeanAndSpread(nn.Module):
    """Mean and mean square of every map: what of a texture does not depend on where it is."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x.mean(dim=(2, 3)), x.square().mean(dim=(2, 3))), dim=1)


def _network(channels: int) -> nn.Module:
    """Two 3×3 convolutions, then averages over the patch; the log odds that the noise is the data's, `(B,)`."""
    return nn.Sequential(
        nn.Conv2d(2 * channels, _HIDDEN, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(_HIDDEN, _HIDDEN, 3, padding=1),
        nn.LeakyReLU(0.1),
        _MeanAndSpread(),
        nn.Linear(2 * _HIDDEN, 1),
        nn.Flatten(0),
    )


def _seen(noise: Tensor, clean: Tensor, scale: float) -> Tensor:
    seen = torch.cat((noise / scale, clean.clamp_min(0).sqrt()), dim=1)
    return seen.contiguous(memory_format=torch.channels_last)


def _patches(image: Tensor) -> Tensor:
    """`(B, C, H, W)` → `(P, C, 32, 32)`, whole patches only."""
    height, width = (side // SIDE * SIDE for side in image.shape[-2:])
    if not height or not width:
        return image.new_zeros(0, image.shape[1], SIDE, SIDE)
    blocks = image[..., :height, :width].unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE)
    return blocks.permute(0, 2, 3, 1, 4, 5).reshape(-1, image.shape[1], SIDE, SIDE)
