"""Flows: a chain of transforms from noise to independent standard normals.

The likelihood of stored codes under a flow has no closed form. It is bounded from below by drawing the latent noise n
from a proposal q, a Gaussian truncated to each pixel's cell:

    log mass  >=  E_q[ log p(n | shot) - log q(n) ].

In training the Gaussian before truncation is the flow's *reference*: the noise level function that it was started
from, kept as a frozen table. A flow that still equals its reference makes q the exact posterior, and the bound exact
for every draw. When a flow is scored, q is first refined to what the flow has learned since
(`noiseflow.models.proposal`). Half the variance of log p - log q, per value, measures how loose the bound is (the
second-order term of Jensen's gap).

A flow with an `SrgbIntensity` is conditioned on a picture: the clean raw signal then only tells noise from signal, and
everything that depends on brightness, the proposal included, sees the intensity estimated from the picture instead.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.cells import Cells, cells, draw_in_cells
from noiseflow.intensity import SrgbIntensity
from noiseflow.models.base import FittedModel
from noiseflow.models.proposal import Proposal, Slopes, refine
from noiseflow.noise_level import NoiseLevel
from noiseflow.randomness import PROPOSAL, SAMPLE, combine, normal, uniform
from noiseflow.shot import Shot
from noiseflow.transforms import Chain
from noiseflow.transforms.base import at_resolution

SWEEPS = 2
"""Sweeps that refine the proposal when a flow is scored: a third is worth about a hundredth of the first."""

_TRIALS, _PROBE = (-1, -3), -2
"""Streams beside those of the reported draws, 0, 1, …."""

_TIGHT = 1e-5
"""Looseness in nats per value below which there is nothing to refine."""

_PIXELS = 1 << 16
"""Pixels whose gradients are taken at a time: a tile of 256×256."""


class MassBound(NamedTuple):
    """A lower bound on the log mass and its looseness.

    Attributes:
        log_mass: `(B,)`, nats, float64, the mean over the draws.
        looseness: `(B,)`, nats, half the unbiased variance over the draws; NaN for a single draw.
        share: `(B, H, W)`, nats, shares of the pixels that add up to `log_mass`: each has its own term of the base
            density and of the proposal, and of a layer's log-determinant what `Transform.forward_map` gives it.
    """

    log_mass: Float[Tensor, "b"]
    looseness: Float[Tensor, "b"]
    share: Float[Tensor, "b h w"]


class Flow(FittedModel):
    """A normalizing flow for noise: `transform` maps it to N(0, 1), given the shot.

    Args:
        transform: the layers, from noise to base space; base space has the shape of the noise.
        reference: the noise level function that proposals start from; frozen here. Its conditions are the flow's.
        channels: 4 for packed raw, 3 for sRGB, 1 for mono.
        intensity: estimates the intensity of packed raw from `shot.srgb`; None: the model sees the clean signal.
    """

    def __init__(
        self, transform: Chain, reference: NoiseLevel, channels: int, intensity: SrgbIntensity | None = None
    ) -> None:
        super().__init__(reference.conditions, channels)
        self.transform = transform
        self.reference = reference.freeze()
        self.intensity = intensity
        if intensity is not None:
            self.condition = "srgb"

    @property
    def size_multiple(self) -> int:
        """What height and width must divide by in `log_prob`; the rest pads."""
        return self.transform.size_multiple

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters, in which the transform computes."""
        return self.reference.log_b.dtype

    def start_from(self, level: NoiseLevel) -> None:
        """Make the flow equal to a noise level function, as nearly as its layers can, and take it as the reference."""
        self.reference.copy_from(level)
        for layer in self.transform:
            layer.start_from(level)

    def initialize(self, noise: Tensor, shot: Shot) -> None:
        """Set the data-dependent state of layers that were not started yet, from a batch."""
        self.transform.initialize(noise.to(self.dtype), self.with_context(shot))

    def with_context(self, shot: Shot) -> Shot:
        """The shot in the flow's dtype, with what the couplings see: clean and log std, both about unit range."""
        shot = shot.to(dtype=self.dtype)
        if self.intensity is not None:
            shot = shot.replace(clean=self.intensity(shot))
        log_std = 0.5 * self.reference.variance(shot).log()
        return shot.replace(context=torch.cat((shot.clean, 0.5 * (log_std + 4.0)), dim=1))

    def log_prob(self, noise: Tensor, shot: Shot) -> Tensor:
        """Log density of noise, nats, `(B,)`, float64: layers compute in the flow's dtype, their sums do not.

        Raises:
            ValueError: height or width do not divide by `size_multiple`.
        """
        self.check_channels(noise)
        return _to_base(self.transform, noise.to(self.dtype), self.with_context(shot))[1]

    def log_mass(self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0) -> Tensor:
        """Lower bound on the log probability of the stored codes, one draw of `mass_bound`, nats, `(B,)`, float64."""
        return self.mass_bound(noisy, shot, seed=seed, draws=1).log_mass

    @torch.no_grad()
    def mass_bound(
        self, noisy: Tensor, shot: Shot, *, seed: int | Tensor = 0, draws: int = 2, sweeps: int = SWEEPS
    ) -> MassBound:
        """The bound with its looseness, without gradients.

        Args:
            noisy: `(B, C, H, W)`, stored values, linear units, any height and width.
            shot: clean images and conditions.
            seed: as in `sample`; draw k uses its own stream.
            draws: number of draws per row.
            sweeps: steps by which the proposal is refined (`noiseflow.models.proposal`), in the rows where the bound
                is not tight already and that raises it, judged by two draws that are not reported; 0 draws from the
                reference.
        """
        key = torch.as_tensor(seed, dtype=torch.int64)

        def uniforms(stream: int) -> Tensor:
            shape = tuple(noisy.shape)
            return uniform(combine(key, stream), shape, stream=PROPOSAL, origin=shot.origin, device=noisy.device)  # type: ignore[arg-type]

        cell, padded, proposal = self._prepare(noisy, shot)
        if sweeps:
            trials = [uniforms(stream) for stream in _TRIALS]
            plain = torch.stack([self._draw(cell, padded, proposal, trial) for trial in trials])
            rows = (plain.var(dim=0) > 2 * _TIGHT * noisy[0].numel()).nonzero().flatten()
            if len(rows):
                some, part = Cells(*(end[rows] for end in cell)), padded.rows(rows)
                start = Proposal(*(value.expand_as(cell.low)[rows] for value in proposal))
                slopes = self._slopes(part, combine(key, _PROBE).expand(len(padded))[rows.to(key.device)])
                refined, moved = refine(start, some, slopes, sweeps=sweeps, phase=self.size_multiple)
                drawn = torch.stack([self._draw(some, part, refined, trial[rows]) for trial in trials])
                better = moved & torch.isfinite(drawn).all(dim=0) & ~(drawn.mean(dim=0) <= plain[:, rows].mean(dim=0))
                chosen = start.where(better, refined)
                proposal = Proposal(*(value.expand_as(cell.low).clone() for value in proposal))
                proposal.mean[rows], proposal.std[rows] = chosen.mean, chosen.std
        shares = torch.stack([self._share(cell, padded, proposal, uniforms(k)) for k in range(draws)])
        values = shares.sum(dim=(2, 3))
        looseness = 0.5 * values.var(dim=0) if draws > 1 else torch.full_like(values[0], torch.nan)
        height, width = noisy.shape[-2:]
        share = shares.mean(dim=0)
        inside = share[..., :height, :width]
        padding = (share.sum(dim=(1, 2)) - inside.sum(dim=(1, 2))) / (height * width)
        return MassBound(values.mean(dim=0), looseness, inside + padding[:, None, None])

    def mass_with(self, noisy: Tensor, shot: Shot, uniforms: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        """One draw of the bound from given uniform numbers, nats, float64; what training maximises.

        The proposal is the reference, so that the objective does not move under the flow. Images whose sides do not
        divide by `size_multiple` are padded by reflection; the padded pixels count as not observed, so the bound is
        one on the mass of the real ones.
        """
        return self._draw(*self._prepare(noisy, shot), uniforms)

    def _prepare(self, noisy: Tensor, shot: Shot) -> tuple[Cells, Shot, Proposal]:
        """The cells and the shot, padded, and the reference as a proposal."""
        self.check_channels(noisy)
        cell = cells(noisy, shot)
        padded, (bottom, right) = _pad(shot, self.size_multiple)
        if bottom or right:
            edges = (0, right, 0, bottom)
            cell = Cells(nn.functional.pad(cell.low, edges, value=-1e6), nn.functional.pad(cell.high, edges, value=1e6))
        with torch.no_grad():
            wide = padded.to(dtype=torch.float64)
            if self.intensity is not None:
                wide = wide.replace(clean=self.intensity.curve(wide))
            std = self.reference.variance(wide).double().sqrt()
            return cell, padded, Proposal(self.reference.mean(wide).double(), std)

    def _draw(self, cell: Cells, padded: Shot, proposal: Proposal, uniforms: Tensor) -> Float[Tensor, "b"]:
        """log p − log q at one draw from the proposal."""
        noise, log_q = self._noise(cell, proposal, uniforms)
        return self.log_prob(noise, padded) - log_q.sum(dim=(1, 2, 3))

    def _share(self, cell: Cells, padded: Shot, proposal: Proposal, uniforms: Tensor) -> Float[Tensor, "b h w"]:
        """The same, as shares of the pixels that add up to it."""
        noise, log_q = self._noise(cell, proposal, uniforms)
        shot = self.with_context(padded)
        z = _channels_last(noise.to(self.dtype))
        share = -log_q.sum(dim=1) - 0.5 * noise.shape[1] * math.log(2 * math.pi)
        for layer in self.transform:
            z, log_det = layer.forward_map(z, shot)
            share = share + at_resolution(log_det.double(), share)
        return share - 0.5 * at_resolution(z.double().square().sum(dim=1), share)

    @staticmethod
    @torch.no_grad()
    def _noise(cell: Cells, proposal: Proposal, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """One draw from the proposal and its log density; uniform numbers are padded as the cells are."""
        height, width = cell.low.shape[-2:]
        bottom, right = height - uniforms.shape[-2], width - uniforms.shape[-1]
        if bottom or right:
            mode = "reflect" if min(uniforms.shape[-2:]) > 1 else "replicate"
            uniforms = nn.functional.pad(uniforms, (0, right, 0, bottom), mode=mode)
        return draw_in_cells(cell, proposal.mean, proposal.std, uniforms)

    def _slopes(self, padded: Shot, key: Tensor) -> Slopes:
        """Gradients of log p with respect to the noise, and of base space along random signs."""
        transform = copy.deepcopy(self.transform).requires_grad_(False)  # so that no layer keeps what its weights need
        context = self.with_context(padded)
        at_once = max(1, _PIXELS // max(1, padded.clean.shape[-2] * padded.clean.shape[-1]))

        def some_rows(noise: Tensor, rows: Tensor, sweep: int) -> tuple[Tensor, Tensor]:
            shot, dtype = context.rows(rows), self.dtype
            seed = combine(key.expand(len(padded))[rows.to(key.device)], sweep)
            with torch.enable_grad():
                x = noise.to(dtype).requires_grad_()
                z, log_prob = _to_base(transform, x, shot)
                (slope,) = torch.autograd.grad(log_prob.sum(), x, retain_graph=True)
                signs = uniform(seed, tuple(z.shape), stream=PROPOSAL, origin=shot.origin, device=z.device) - 0.5  # type: ignore[arg-type]
                (along,) = torch.autograd.grad(z, x, signs.sign().to(dtype))
            return slope.double(), along.double().square()

        def slopes(noise: Tensor, rows: Tensor, sweep: int) -> tuple[Tensor, Tensor]:
            parts = zip(torch.split(noise, at_once), torch.split(rows, at_once), strict=True)
            slope, curvature = zip(*(some_rows(x, part, sweep) for x, part in parts), strict=True)
            return torch.cat(slope), torch.cat(curvature)

        return slopes

    @torch.no_grad()
    def sample(self, shot: Shot, *, seed: int | Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw latent noise, linear units, in clean's dtype.

        In float32 the last bits of a convolution depend on how the work is cut up, and now and then one of them moves
        a value to the next code. In float64 they do not reach the result.

        Args:
            shot: clean images and conditions.
            seed: an integer, the same for every row, or `(B,)` integers.
            dtype: in which to compute; float32 is ten times as fast on a CPU, for what needs no equal bytes.
        """
        self.check_channels(shot.clean)
        flow = self if self.dtype == dtype else copy.deepcopy(self).to(dtype)
        padded, _ = _pad(shot, self.size_multiple)
        padded = flow.with_context(padded)
        shape = tuple(padded.clean.shape)
        z = normal(seed, shape, stream=SAMPLE, origin=shot.origin, device=shot.clean.device)  # type: ignore[arg-type]
        noise, _ = flow.transform.inverse(_channels_last(z.to(dtype)), padded)
        height, width = shot.clean.shape[-2:]
        return noise[..., :height, :width].to(shot.clean.dtype)


def _to_base(transform: Chain, noise: Tensor, shot: Shot) -> tuple[Tensor, Float[Tensor, "b"]]:
    """Base space, and the log density of the noise in float64."""
    z = _channels_last(noise)
    log_det = z.new_zeros(z.shape[0], dtype=torch.float64)
    for layer in transform:
        z, part = layer(z, shot)
        log_det = log_det + part
    square = z.square().sum(dim=(1, 2, 3), dtype=torch.float64)
    return z, log_det - 0.5 * (square + z[0].numel() * math.log(2 * math.pi))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _pad(shot: Shot, multiple: int) -> tuple[Shot, tuple[int, int]]:
    """Pad the clean image, its picture and its maps at the bottom and right to a multiple of `multiple`."""
    height, width = shot.clean.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return shot, (0, 0)
    mode = "reflect" if bottom < height and right < width else "replicate"
    edges = (0, right, 0, bottom)
    clean, srgb = nn.functional.pad(shot.clean, edges, mode=mode), shot.srgb
    if srgb is not None:  # whole cells of the mosaic, so that its pattern stays
        srgb = nn.functional.pixel_shuffle(
            nn.functional.pad(nn.functional.pixel_unshuffle(srgb, 2), edges, mode=mode), 2
        )
    maps = {name: getattr(shot, name) for name in ("offset", "gain", "variance")}
    wide = {name: None if value is None else nn.functional.pad(value, edges, mode=mode) for name, value in maps.items()}
    return shot.replace(clean=clean, srgb=srgb, **wide), (bottom, right)
