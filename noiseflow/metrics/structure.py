r"""Structure of the noise: what histograms cannot see, measured by streaming sums and tested exactly.

Noise is first divided by a reference standard deviation that the caller gives, per pixel, so that bright and dark
pixels count alike. Eight families of statistics, each a vector:

| family | entries | effect: distance of two sets |
|---|---|---|
| `mean` | mean of each channel, in standard deviations | greatest difference |
| `std` | log of the standard deviation in 16 bins of √intensity | greatest difference, a relative error |
| `tails` | 0.1, 1, 5, 95, 99 and 99.9 % points over the overall standard deviation | greatest difference |
| `autocorrelation` | each channel with itself, lags to ±8 rows and columns | greatest difference |
| `channels` | correlation of channels with one another, same lags | greatest difference |
| `spectrum` | power over variance in 8 rings of radial frequency, each channel, dB | root mean square over rings |
| `rows` | variance of row means times width over variance, minus 1: 0 for white noise | greatest difference |
| `columns` | the same of columns | greatest difference |

**Tests.** `monte_carlo`: is the data set one more draw of the model? Row 0 holds its statistics, rows 1 … M those of M
sets drawn from the model for the same shots. Entries are centred and scaled over all M + 1 rows, data included, a
family's value is its largest entry, and the family-wise value is the largest of these after each has been centred and
scaled over the M + 1 rows too. All rows are treated alike, so under the null every order of them is equally likely and

p = (1 + #{m : T_m ≥ T_0}) / (M + 1)

is exact: P(p ≤ j/(M + 1)) ≤ j/(M + 1), whatever the dependence within an image. It needs a reference standard
deviation that treats rows alike too: one that depends on the clean images and the model alone (further draws of the
model through `standard_deviation` are that), never one of the data's noise. For a model that was fitted to the same
data it is not exact. `permutation`: the same for samples of unknown making, from exchanging whole images.

Tiles are taken as they come: lags do not cross their borders. Every sum is additive, so sets may come in pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from noiseflow.metrics.accumulate import Accumulator
from noiseflow.metrics.curves import CurveStatistics

LAG = 8
"""Largest lag, in pixels."""

_RINGS, _INTENSITIES = 8, 16
_WIDTH, _REACH = 0.05, 8.0  # bins of standardised noise, for quantiles
_QUANTILES = (0.001, 0.01, 0.05, 0.95, 0.99, 0.999)
_THIN = 0.01  # intensity bins with a smaller share of the values are left out
_MIN_COUNT = 30
_ROUNDING = 1e-9


@dataclass(frozen=True)
class StructureTest:
    """Outcome of a test of structure.

    Attributes:
        p: family-wise p-value: of the most extreme family, with all families accounted for.
        p_each: p-value of each family on its own.
        effects: how far the data lie from the model, in each family's unit; see `effects`.
        draws: M, how many sets or exchanges the p-values come from; none is below 1/(M + 1).
    """

    p: float
    p_each: dict[str, float]
    effects: dict[str, float]
    draws: int


class Structure(Accumulator):
    """Streaming sums of the structure of noise, one row an image, or a set.

    Args:
        images: number of rows; give the same row to all that shall be one set (`statistics` also adds rows up).
        channels: C.

    Examples:
        >>> rng = torch.Generator().manual_seed(0)
        >>> noise = torch.randn(100, 8, 1, 16, 16, generator=rng)  # a data set and 99 of a model, 8 patches each
        >>> noise[0] += 0.7 * torch.randn(8, 1, 16, 1, generator=rng)  # the data set has row noise
        >>> sets = Structure(images=100, channels=1)
        >>> flat = torch.full((800, 1, 16, 16), 0.5)
        >>> sets.update(noise.flatten(0, 1), torch.ones_like(flat), flat, torch.arange(100).repeat_interleave(8))
        >>> test = monte_carlo(statistics(sets.state))
        >>> test.p, test.p_each["rows"], test.p_each["columns"] > 0.05, round(test.effects["rows"], 1)
        (0.01, 0.01, True, 5.2)
    """

    def __init__(self, images: int, channels: int) -> None:
        super().__init__(images)
        self.channels = channels
        pairs = channels * (channels + 1) // 2
        shapes = {
            "count": (),  # values of one channel
            "sum": (channels,),
            "products": (pairs, 2 * LAG + 1, 2 * LAG + 1),  # of c and c' >= c, at lags −8 … 8
            "terms": (2 * LAG + 1, 2 * LAG + 1),
            "power": (channels, _RINGS),
            "frequencies": (_RINGS,),
            "rows": (channels,),  # Σ (sum of a row)²/width
            "row_count": (),
            "columns": (channels,),
            "column_count": (),
            "histogram": (round(2 * _REACH / _WIDTH) + 2,),
            "squares": (_INTENSITIES,),
            "level_count": (_INTENSITIES,),
        }
        for name, shape in shapes.items():
            self.state[name] = torch.zeros(images, *shape, dtype=torch.float64)

    def update(
        self,
        noise: Float[Tensor, "b c h w"],
        std: Float[Tensor, "b c h w"],
        clean: Float[Tensor, "b c h w"],
        image: int | Int[Tensor, "b"] = 0,
    ) -> None:
        """Add a batch of tiles.

        Args:
            noise: `(B, C, H, W)`, noisy − clean, linear units.
            std: `(B, C, H, W)`, reference standard deviation of the noise, linear units, > 0.
            clean: `(B, C, H, W)`, linear units.
            image: which image (or set) the tiles are of, one number or one a row.

        Raises:
            ValueError: shapes that differ, other channels, a reference that is not positive, or an unknown image.
        """
        if not noise.shape == std.shape == clean.shape or noise.shape[1] != self.channels:
            raise ValueError(
                f"expected noise, std and clean of one shape with {self.channels} channels, got {tuple(noise.shape)}, "
                f"{tuple(std.shape)} and {tuple(clean.shape)}"
            )
        if not bool((std > 0).all()):
            raise ValueError("std: expected positive reference standard deviations, got one that is not")
        index = self.rows(image, len(noise))
        noise, std, clean = (x.to(self.device) for x in (noise, std, clean))
        u = noise.double() / std.double()
        h, w = u.shape[-2:]
        self._add("count", index, torch.full_like(index, h * w))
        self._add("sum", index, u.sum((-2, -1)))
        self._add("rows", index, u.sum(-1).square().sum(-1) / w)
        self._add("row_count", index, torch.full_like(index, h))
        self._add("columns", index, u.sum(-2).square().sum(-1) / h)
        self._add("column_count", index, torch.full_like(index, w))
        self._add_products(u, index)
        self._add_power(u, index)
        bins = torch.floor(u / _WIDTH).add_(1 + _REACH / _WIDTH).clamp_(0, self.state["histogram"].shape[1] - 1)
        self._add_binned("histogram", index, bins.long(), None)
        level = (clean.double().clamp(0.0, 1.0).sqrt() * _INTENSITIES).long().clamp_max_(_INTENSITIES - 1)
        self._add_binned("squares", index, level, u.square())
        self._add_binned("level_count", index, level, None)

    def _add(self, name: str, index: Tensor, value: Tensor) -> None:
        self.state[name].index_add_(0, index, value.double())

    def _add_binned(self, name: str, index: Tensor, bins: Tensor, weights: Tensor | None) -> None:
        """Counts of bins `(B, C, H, W)`, or sums of weights in them, row by row."""
        width = self.state[name].shape[1]
        flat = bins.flatten(1) + width * torch.arange(len(bins), device=bins.device)[:, None]
        sums = torch.bincount(flat.ravel(), None if weights is None else weights.flatten(), minlength=len(bins) * width)
        self._add(name, index, sums.reshape(-1, width))

    def _add_products(self, u: Tensor, index: Tensor) -> None:
        """Sums of products at every lag, through the cross spectra of zero-padded tiles."""
        h, w = u.shape[-2:]
        size = (h + LAG, w + LAG)
        which, row = torch.unique(index, return_inverse=True)
        spectrum = torch.fft.rfft2(u, s=size)
        lags = torch.arange(-LAG, LAG + 1, device=u.device)
        for k, (a, b) in enumerate(_pairs(self.channels)):
            cross = spectrum[:, a].conj() * spectrum[:, b]
            total = torch.zeros(len(which), *cross.shape[1:], dtype=cross.dtype, device=u.device)
            maps = torch.fft.irfft2(total.index_add_(0, row, cross), s=size)
            self.state["products"][which, k] += maps[:, lags % size[0]][:, :, lags % size[1]]
        terms = (h - lags.abs()).clamp_min(0)[:, None] * (w - lags.abs()).clamp_min(0)
        self._add("terms", index, terms.expand(len(index), -1, -1))

    def _add_power(self, u: Tensor, index: Tensor) -> None:
        """Σ |DFT|²/(H·W) in rings of radial frequency from 0 to √½ cycles a pixel, without frequency 0."""
        h, w = u.shape[-2:]
        spectrum = torch.fft.rfft2(u)
        power = (spectrum.real.square() + spectrum.imag.square()) / (h * w)
        fy, fx = torch.fft.fftfreq(h, device=u.device), torch.fft.rfftfreq(w, device=u.device)
        radius = torch.sqrt(2 * (fy.double()[:, None] ** 2 + fx.double() ** 2))
        ring = (radius * _RINGS).long().clamp_max_(_RINGS - 1)
        twice = torch.full((w // 2 + 1,), 2.0, dtype=torch.float64, device=u.device)  # the half that rfft leaves out
        twice[0] = 1.0
        if w % 2 == 0:
            twice[-1] = 1.0
        weight = torch.nn.functional.one_hot(ring, _RINGS).double() * twice[:, None]
        weight[0, 0] = 0.0
        self._add("power", index, power.flatten(2) @ weight.flatten(0, 1))
        self._add("frequencies", index, weight.sum((0, 1)).expand(len(index), -1))


def _pairs(channels: int) -> list[tuple[int, int]]:
    return list(combinations_with_replacement(range(channels), 2))


def standard_deviation(statistics: CurveStatistics, clean: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """A reference standard deviation for every pixel, from a noise level curve.

    Linear in intensity between the bins that hold at least 30 values, constant beyond them.

    Args:
        statistics: of further draws of the model, or of data and samples together (`IntensityCurve.statistics`).
        clean: `(B, C, H, W)`, linear units.

    Returns:
        Linear units, float64.

    Raises:
        ValueError: no bin holds 30 values that differ.
    """
    known = (statistics.count >= _MIN_COUNT) & (np.nan_to_num(statistics.std) > 0)
    if not known.any():
        raise ValueError("the curve: expected a bin with at least 30 values that differ, got none")
    values = np.interp(clean.double().cpu().numpy(), statistics.intensity[known], statistics.std[known])
    return torch.from_numpy(values).to(clean.device)


def autocovariance(
    state: Mapping[str, Float[Tensor, "*rows ..."]],
) -> Float[Tensor, "*rows pairs lag lag"]:
    """Covariance of standardised noise at every lag, about each channel's mean.

    Args:
        state: sums of a `Structure`, any leading dimensions.

    Returns:
        `(..., P, 17, 17)`: pairs of channels (0, 0), (0, 1), … (C − 1, C − 1); entry (8 + i, 8 + j) is that of channel
        c at (y, x) and channel c' at (y + i, x + j).
    """
    mean = state["sum"] / state["count"][..., None]
    first, second = zip(*_pairs(mean.shape[-1]), strict=True)
    products: Tensor = state["products"] / state["terms"][..., None, :, :].clamp_min(1.0)
    return products - (mean[..., list(first)] * mean[..., list(second)])[..., None, None]


def statistics(state: Mapping[str, Float[Tensor, "*rows ..."]]) -> dict[str, Float[Tensor, "*rows entries"]]:
    """Every family's entries from sums.

    Args:
        state: sums of a `Structure`, of one row (or set) for each leading index; add rows up before for larger sets.

    Returns:
        family → `(..., J)`, as in the table of the module; `channels` only where there are several.
    """
    channels = state["sum"].shape[-1]
    pairs = _pairs(channels)
    own = [pairs.index((c, c)) for c in range(channels)]
    covariance = autocovariance(state)
    variance = covariance[..., own, LAG, LAG].clamp_min(torch.finfo(torch.float64).tiny)
    count = state["count"][..., None]
    mean = state["sum"] / count
    first, second = (variance[..., [pair[i] for pair in pairs]] for i in (0, 1))
    correlation = (covariance / (first * second).sqrt()[..., None, None]).flatten(-2)
    half = (2 * LAG + 1) ** 2 // 2  # before lag 0: the other half mirrors it
    level = state["squares"] / state["level_count"].clamp_min(1.0)
    thin = state["level_count"] < _THIN * channels * count
    density = state["power"] / state["frequencies"][..., None, :].clamp_min(1.0) / variance[..., None]
    families = {
        "mean": mean,
        "std": torch.where(thin | (level <= 0), 0.0, 0.5 * level.clamp_min(1e-300).log()),
        "tails": _quantiles(state["histogram"]) / variance.mean(-1, keepdim=True).sqrt(),
        "autocorrelation": correlation[..., own, :half].flatten(-2),
        "spectrum": torch.where(density > 0, 10 * density.clamp_min(1e-300).log10(), 0.0).flatten(-2),
        "rows": (state["rows"] - count * mean**2) / (state["row_count"][..., None] * variance) - 1,
        "columns": (state["columns"] - count * mean**2) / (state["column_count"][..., None] * variance) - 1,
    }
    if channels > 1:
        others = [k for k in range(len(pairs)) if k not in own]
        families["channels"] = correlation[..., others, :].flatten(-2)
    return families


def _quantiles(counts: Tensor) -> Tensor:
    """`(..., 6)`, from counts in bins, linear within a bin; the open end bins count as bins of the common width."""
    low = -_REACH - _WIDTH
    total = counts.cumsum(-1)
    wanted = torch.tensor(_QUANTILES, dtype=torch.float64, device=counts.device) * total[..., -1:]
    k = torch.searchsorted(total, wanted).clamp_max(counts.shape[-1] - 1)
    inside = counts.gather(-1, k)
    before = total.gather(-1, k) - inside
    return low + _WIDTH * (k + (wanted - before) / inside.clamp_min(1.0))


def effects(
    data: Mapping[str, Float[Tensor, "entries"]], model: Mapping[str, Float[Tensor, "entries"]]
) -> dict[str, float]:
    """How far two sets lie apart in every family, in its own unit.

    Args:
        data: `statistics` of one set.
        model: `statistics` of the other.

    Returns:
        The greatest difference of an entry; of `spectrum` the root mean square, in dB. Not corrected for the scatter of
        the data: compare with that of another draw of the model.
    """
    apart = {name: (data[name] - model[name]).abs() for name in data}
    return {name: float(d.square().mean().sqrt() if name == "spectrum" else d.max()) for name, d in apart.items()}


def monte_carlo(rows: Mapping[str, Float[Tensor, "sets entries"]]) -> StructureTest:
    """Test whether the first of M + 1 sets is a draw like the others.

    Args:
        rows: `statistics` of M + 1 sets: the data first, then M >= 19 draws of the model for the same shots.

    Raises:
        ValueError: fewer than 20 sets, whose p-values could not reach 0.05.
    """
    sets = min(len(values) for values in rows.values())
    if sets < 20:
        raise ValueError(f"rows: expected the data and at least 19 draws of the model, got {sets} sets")
    centred = {name: values - values.mean(0) for name, values in rows.items()}
    p, p_each = _ranks(centred, rows)
    drawn = {name: values[1:].mean(0) for name, values in rows.items()}
    return StructureTest(p, p_each, effects({name: values[0] for name, values in rows.items()}, drawn), sets - 1)


def permutation(
    data: Mapping[str, Float[Tensor, "images ..."]],
    sample: Mapping[str, Float[Tensor, "images ..."]],
    seed: int,
    draws: int = 999,
) -> StructureTest:
    """Test samples whose making is unknown: whole images are exchanged between data and samples.

    Row i of both is of the same clean image. Under the null (given the clean images, data and sample are alike) each
    pair may be swapped, independently of the others; the statistic is the difference between the two sets.

    Args:
        data: sums of a `Structure`, a row an image.
        sample: the same of the samples, standardised by the same reference, which treats both alike.
        seed: of the exchanges.
        draws: how many of them.

    Raises:
        ValueError: another number of images in the two.

    Examples:
        >>> rng = torch.Generator().manual_seed(0)
        >>> noise, flat = torch.randn(2, 12, 1, 16, 16, generator=rng), torch.full((12, 1, 16, 16), 0.5)
        >>> data, sample = Structure(12, 1), Structure(12, 1)
        >>> data.update(noise[0], torch.ones_like(flat), flat, torch.arange(12))
        >>> sample.update(0.8 * noise[1], torch.ones_like(flat), flat, torch.arange(12))
        >>> test = permutation(data.state, sample.state, seed=0)
        >>> test.p < 0.01, round(test.effects["std"], 1)
        (True, 0.2)
    """
    images = len(data["count"])
    if len(sample["count"]) != images:
        raise ValueError(f"sample: expected the data's {images} images, got {len(sample['count'])}")
    swaps = np.random.default_rng(seed).integers(0, 2, (draws + 1, images))
    swaps[0] = 0
    swapped = torch.from_numpy(swaps).double().to(data["count"].device)
    first, second = {}, {}
    for name, values in data.items():
        a, b = values.reshape(images, -1), sample[name].reshape(images, -1)
        shape = (draws + 1, *values.shape[1:])
        first[name] = ((1 - swapped) @ a + swapped @ b).reshape(shape)
        second[name] = (swapped @ a + (1 - swapped) @ b).reshape(shape)
    ours, theirs = statistics(first), statistics(second)
    p, p_each = _ranks({name: ours[name] - theirs[name] for name in ours}, ours)
    apart = effects({name: v[0] for name, v in ours.items()}, {name: v[0] for name, v in theirs.items()})
    return StructureTest(p, p_each, apart, draws)


def _ranks(deviations: Mapping[str, Tensor], sizes: Mapping[str, Tensor]) -> tuple[float, dict[str, float]]:
    """p-values of row 0: the family-wise one and each family's.

    Args:
        deviations: family → `(K, J)`, about 0; scaled by their root mean square over all K rows.
        sizes: family → `(K, J)`, entries themselves, which say what is but rounding.
    """
    extremes = []
    for name, deviation in deviations.items():
        scale = deviation.square().mean(0).sqrt()
        constant = scale <= _ROUNDING * sizes[name].abs().amax(0)
        z = torch.where(constant, 0.0, deviation / torch.where(constant, 1.0, scale))
        extremes.append(z.abs().amax(1))
    extreme = torch.stack(extremes, 1)  # (K, families)
    spread = extreme.std(0)
    standard = (extreme - extreme.mean(0)) / torch.where(spread > _ROUNDING, spread, 1.0)
    everything = torch.cat([extreme, standard.amax(1, keepdim=True)], 1)
    # ties, and what rounding makes of them, count against
    reached = everything >= everything[0] - _ROUNDING * everything[0].abs()
    p = reached.double().mean(0).tolist()
    return p[-1], dict(zip(deviations, p[:-1], strict=True))
