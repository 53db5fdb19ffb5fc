"""Noise standard deviation against clean intensity, per camera and ISO, accumulated batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

ShotKey = tuple[str, float]
"""Camera name and ISO."""

_NORMAL_975 = 1.959963984540054
_MIN_COUNT = 30  # below, the estimated kurtosis says nothing
_MOMENTS = 4
_ROUNDING = 1e-10  # of m2 − m1², relative to m2: below, the noise is constant


@dataclass(frozen=True)
class CurveStatistics:
    """What one camera and ISO showed, bin by bin; NaN where a bin holds too little.

    Attributes:
        intensity: `(K,)`, mean clean value of the bin, linear units; the bin's centre where it is empty.
        count: `(K,)`, number of values, int64.
        mean: `(K,)`, mean noise, linear units.
        std: `(K,)`, standard deviation of the noise about its mean (n − 1), linear units; NaN below 2 values.
        low: `(K,)`, lower end of the 95 % interval of `std`; NaN below 30 values.
        high: `(K,)`, upper end of the 95 % interval of `std`; NaN below 30 values.
    """

    intensity: NDArray[np.float64]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class IntensityCurve:
    r"""Streaming noise level as a function of clean intensity, one curve per camera and ISO.

    Bins have equal widths in √intensity: edges are low + (high − low)(k/K)². Shot noise has a standard
    deviation proportional to √intensity, so this resolves the dark end, where most pixels of a dark picture
    lie, as finely as the noise itself changes. With 40 bins on [0, 1] the first is 0.0006 wide, the last 0.05.
    Values outside [low, high] count in the end bins.

    Sums of the first four powers are kept in float64, so that the interval needs no normal noise: with the
    bin's own kurtosis κ and n values, Var(s²) ≈ s⁴ (κ − 1)/n, hence log s has standard error √((κ − 1)/n)/2
    and the interval is s · exp(± 1.96 of it). It treats values as independent.

    Args:
        bins: number K of bins, >= 1.
        low: lower edge of the first bin, linear units.
        high: upper edge of the last bin, linear units, > low.

    Raises:
        ValueError: no bins, or an empty range.

    Examples:
        >>> curve = IntensityCurve(bins=4)
        >>> clean = torch.full((1, 1, 8, 8), 0.5)
        >>> noise = torch.tensor([-0.1, 0.1]).repeat(32).reshape(1, 1, 8, 8)
        >>> curve.update(noise, clean, [("S6", 800.0)])
        >>> statistics = curve.statistics(("S6", 800.0))
        >>> statistics.count.tolist(), round(float(statistics.std[2]), 4)
        ([0, 0, 64, 0], 0.1008)
    """

    def __init__(self, bins: int = 40, low: float = 0.0, high: float = 1.0) -> None:
        if bins < 1 or not low < high:
            raise ValueError(f"expected at least one bin and low < high, got {bins} bins on [{low}, {high}]")
        self.bins = bins
        self.low = float(low)
        self.high = float(high)
        self._counts: dict[ShotKey, NDArray[np.int64]] = {}
        self._sums: dict[ShotKey, NDArray[np.float64]] = {}  # (1 + 4, K): clean, noise¹ … noise⁴

    @property
    def edges(self) -> NDArray[np.float64]:
        """`(K + 1,)`, edges of the bins, linear units."""
        return self.low + (self.high - self.low) * np.linspace(0.0, 1.0, self.bins + 1) ** 2

    @property
    def keys(self) -> list[ShotKey]:
        """Camera and ISO of every curve, sorted."""
        return sorted(self._counts)

    def update(self, noise: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], keys: Sequence[ShotKey]) -> None:
        """Add a batch.

        Args:
            noise: `(B, C, H, W)`, noisy − clean, linear units.
            clean: `(B, C, H, W)`, linear units.
            keys: camera name and ISO of each row, B of them; for a Shot
                `list(zip(shot.camera_names, shot.iso.tolist(), strict=True))`.

        Raises:
            ValueError: shapes or the number of keys do not agree.
        """
        if noise.shape != clean.shape or noise.shape[:1] != (len(keys),):
            raise ValueError(
                f"expected noise and clean of one shape and a key per row, got {tuple(noise.shape)}, "
                f"{tuple(clean.shape)} and {len(keys)} keys"
            )
        distinct = sorted(set(keys))
        size = len(distinct) * self.bins
        values = noise.detach().to("cpu", torch.float64).numpy()
        signal = clean.detach().to("cpu", torch.float64).numpy()
        unit = np.clip((signal - self.low) / (self.high - self.low), 0.0, 1.0)
        index = np.minimum((np.sqrt(unit) * self.bins).astype(np.int64), self.bins - 1)
        rows = np.array([distinct.index(key) for key in keys], np.int64)
        flat = (index + (rows * self.bins).reshape(-1, *[1] * (index.ndim - 1))).ravel()
        counts = np.bincount(flat, minlength=size).reshape(-1, self.bins)
        weights = [signal.ravel()]
        power = np.ones(values.size)
        for _ in range(_MOMENTS):
            power = power * values.ravel()
            weights.append(power)
        sums = np.stack([np.bincount(flat, w, size).reshape(-1, self.bins) for w in weights], axis=1)
        for i, key in enumerate(distinct):
            self._counts[key] = self._counts.get(key, 0) + counts[i]
            self._sums[key] = self._sums.get(key, 0.0) + sums[i]

    def merge(self, other: IntensityCurve) -> None:
        """Add what another curve with the same bins has accumulated."""
        for key in other.keys:
            self._counts[key] = self._counts.get(key, 0) + other._counts[key]
            self._sums[key] = self._sums.get(key, 0.0) + other._sums[key]

    def statistics(self, key: ShotKey) -> CurveStatistics:
        """The curve of one camera and ISO.

        Args:
            key: camera name and ISO.

        Raises:
            KeyError: no batch had this camera and ISO.
        """
        count = self._counts[key]
        n = count.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            clean, m1, m2, m3, m4 = self._sums[key] / n
            variance = m2 - m1**2
            variance = np.where(variance > _ROUNDING * m2, variance, 0.0)
            fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
            kurtosis = np.where(variance > 0, fourth / variance**2, 1.0)
            std = np.where(count > 1, np.sqrt(variance * n / (n - 1)), np.nan)
            spread = _NORMAL_975 * np.sqrt(np.maximum(kurtosis - 1.0, 0.0) / n) / 2
        spread = np.where(count >= _MIN_COUNT, spread, np.nan)
        centre = (self.edges[1:] + self.edges[:-1]) / 2
        return CurveStatistics(
            intensity=np.where(count > 0, clean, centre),
            count=count.copy(),
            mean=m1,
            std=std,
            low=std * np.exp(-spread),
            high=std * np.exp(spread),
        )
