"""The layers of the published noise flows, with their published parametrisation.

They differ from this package's own layers in what they share: parameters belong to a camera or to an ISO where ours
belong to a pair, and the couplings' networks see a border.

The published couplings have batch norm. Here they have it only where it is asked for, to go on with published training:
in inference it is an affine map that the convolution before it absorbs exactly (`BorderCoupling.fold`), and in training
it makes the likelihood of a patch depend on the rest of its batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.conditions import Conditions
from noiseflow.noise_level import NoiseLevel
from noiseflow.shot import Shot
from noiseflow.transforms.base import Transform

_MIDDLE_GREY = 0.25
"""Clean signal at which a layer that cannot follow the signal takes the noise level that it starts from."""


class CameraIsoScale(Transform):
    """z = x / √(b₁·clean/g + b₂), the signal-dependent layer of Noise Flow; log_det = −½ Σ log variance.

    With camera j and ISO i, e = exp(camera[:, j]): b₁ = exp(β₁·e₀), b₂ = exp(β₂·e₁), g = exp(gain[i]·e₂)·ISO. Between
    known ISOs log b₁/g is interpolated on log ISO. Parameters start as published, in float64 where the model is.

    Args:
        conditions: the known (camera, ISO) pairs.

    Source: Abdelhamed, Brubaker and Brown 2019, section 4.1, in the form of the released models.
    """

    camera_of: Tensor
    iso_of: Tensor
    log_iso: Tensor

    def __init__(self, conditions: Conditions) -> None:
        super().__init__()
        self.conditions = conditions
        isos = sorted({iso for _, iso in conditions.rows})
        self.camera = nn.Parameter(torch.ones(3, len(conditions.cameras)))
        self.gain = nn.Parameter(torch.full((len(isos),), -5.0))
        self.beta = nn.Parameter(torch.tensor([-5.0, 0.0]))
        rows = conditions.rows
        camera_of = torch.tensor([conditions.cameras.index(camera) for camera, _ in rows])
        self.register_buffer("camera_of", camera_of, persistent=False)
        self.register_buffer("iso_of", torch.tensor([isos.index(iso) for _, iso in rows]), persistent=False)
        log_iso = torch.tensor([iso for _, iso in rows], dtype=torch.float64).log()
        self.register_buffer("log_iso", log_iso, persistent=False)

    def variance(self, shot: Shot) -> Float[Tensor, "b c h w"]:
        """Variance of the noise up to what the other layers scale, in the parameters' dtype.

        Raises:
            ValueError: a clean value is so far below black that the variance is not positive.
        """
        e = self.camera.exp()[:, self.camera_of]  # (3, rows)
        log_slope = self.beta[0] * e[0] - self.gain[self.iso_of] * e[2] - self.log_iso.to(e.dtype)
        table = torch.stack((log_slope, self.beta[1] * e[1]), dim=1)
        slope, floor = self.conditions.locate(shot).read(table).exp()[..., None, None, None].unbind(dim=1)
        variance = slope * shot.clean.to(slope.dtype) + floor
        if not bool((variance > 0).all()):
            raise ValueError(
                f"clean: expected values that leave the variance positive, got {float(shot.clean.min()):g}"
            )
        return variance

    def start_from(self, level: NoiseLevel) -> None:
        """Take over a noise level function as nearly as the parametrisation can.

        Slopes are matched by the least-squares sum of a camera's and an ISO's part (exact where they are proportional
        to ISO); intercepts are one per camera, the geometric mean over its ISOs.
        """
        k, j, i = len(level.conditions), len(self.conditions.cameras), self.gain.numel()
        log_a, log_b = (table.detach().double().mean(dim=1) for table in (level.log_a, level.log_b))
        design = torch.zeros(k, j + i, dtype=torch.float64)
        design[torch.arange(k), self.camera_of.cpu()] = 1.0
        design[torch.arange(k), j + self.iso_of.cpu()] = -1.0
        target = (log_a.cpu() + self.log_iso.cpu())[:, None]
        parts = torch.linalg.lstsq(design, target, driver="gelsd").solution[:, 0]
        per_camera, per_iso = parts[:j], parts[j:]
        surplus = per_camera.max() + 1.0  # exp(β₁·e₀) with β₁ = −1 reaches every value below 1
        intercept = torch.stack([log_b[self.camera_of == n].mean() for n in range(j)]).cpu()
        with torch.no_grad():
            self.beta.copy_(torch.tensor([-1.0, -1.0]))
            self.camera[0].copy_((surplus - per_camera).log())
            self.camera[1].copy_((-intercept).clamp_min(1e-3).log())
            self.camera[2].zero_()
            self.gain.copy_(per_iso - surplus)

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """Noise → noise in units of its standard deviation."""
        variance = self.variance(shot).to(x.dtype)
        return x * variance.rsqrt(), self._log_det(x, variance)

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """Units of the standard deviation → noise."""
        variance = self.variance(shot).to(z.dtype)
        return z * variance.sqrt(), -self._log_det(z, variance)

    @staticmethod
    def _log_det(x: Tensor, variance: Tensor) -> Tensor:
        shared = x.shape[1] // variance.shape[1]  # channels that share one variance
        return -0.5 * shared * variance.log().sum(dim=(1, 2, 3))

    def __repr__(self) -> str:
        return f"CameraIsoScale({self.conditions})"


class GlobalGain(Transform):
    """z = x / g with one g for everything; log_det = −C·H·W·log g. Starts at g = 1.

    Source: the released Noise Flow models, whose gain layer is one number (the paper has one per ISO).
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x → x/g."""
        return x * (-self.log_gain).exp(), (-x[0].numel() * self.log_gain).expand(x.shape[0])

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z → g·z."""
        return z * self.log_gain.exp(), (z[0].numel() * self.log_gain).expand(z.shape[0])


class ConditionalAffine(Transform):
    """z = x·exp(s) + t, (s, t) per (camera, ISO) and channel; log_det = H·W·Σ s. Starts as the identity.

    Args:
        conditions: the known (camera, ISO) pairs.
        channels: number of channels.
        first: it meets the noise before the other layers, and starts from the noise level at middle grey.

    Source: Kousha, Maleky, Brown and Brubaker 2022, the conditional linear layer.
    """

    def __init__(self, conditions: Conditions, channels: int, *, first: bool = False) -> None:
        super().__init__()
        self.conditions = conditions
        self.first = first
        self.log_scale = nn.Parameter(torch.zeros(len(conditions.rows), channels))
        self.shift = nn.Parameter(torch.zeros(len(conditions.rows), channels))

    def start_from(self, level: NoiseLevel) -> None:
        """The first of them makes noise at middle grey standard."""
        if not self.first:
            return
        log_std = 0.5 * (level.log_a.exp() * _MIDDLE_GREY + level.log_b.exp()).log()
        cameras = [level.conditions.cameras.index(camera) for camera, _ in self.conditions.rows]
        with torch.no_grad():
            self.log_scale.copy_(-log_std)
            self.shift.copy_(-level.offset[cameras] * (-log_std).exp())

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x → x·exp(s) + t."""
        log_scale, shift = self._read(x, shot)
        return x * log_scale.exp() + shift, self._log_det(x, log_scale)

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z → (z − t)·exp(−s)."""
        log_scale, shift = self._read(z, shot)
        return (z - shift) * (-log_scale).exp(), -self._log_det(z, log_scale)

    def _read(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        place = self.conditions.locate(shot)
        log_scale, shift = (place.read(table).to(x.dtype)[..., None, None] for table in (self.log_scale, self.shift))
        return log_scale, shift

    @staticmethod
    def _log_det(x: Tensor, log_scale: Tensor) -> Tensor:
        return x.shape[-2] * x.shape[-1] * log_scale.sum(dim=(1, 2, 3))

    def __repr__(self) -> str:
        return f"ConditionalAffine({self.conditions}, channels={self.log_scale.shape[1]})"


class BorderCoupling(Transform):
    """z_b = exp(s)·x_b + t, s = E·scale·tanh(raw), (t, raw) = net(x_a, clean), z_a = x_a; log_det = Σ s.

    The network is conv 3×3 (zeros around) → ReLU → conv 1×1 → ReLU → conv 3×3 over one more channel that is 1 on the
    ring of padding around the image and 0 inside: it tells the network where the border is. The ring is that of what
    the layer is given, so a tile of an image has one of its own. E is 1, or one number per (camera, ISO) pair, into
    which a network over camera and ISO folds. Starts as the identity.

    With batch norm, between the first two convolutions and their ReLUs, the layer keeps the promises of a `Transform`
    in inference only. In training mode what the network says of a row depends on the other rows, and each call moves
    the running averages. The kept half decides it all, so the map of a whole batch stays a bijection whose
    log-determinant is the sum of the rows'.

    Args:
        channels: channels of x, at least 2; the first half (rounded down) drives the rest.
        hidden: channels of the hidden layers.
        clean: channels of the clean image that the network sees beside x_a; 0 for none.
        conditions: the known pairs, where E is one number per pair.
        norm: with batch norm.

    Source: Abdelhamed, Brubaker and Brown 2019, section 4.3; Kousha, Maleky, Brown and Brubaker 2022.
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 4,
        *,
        clean: int = 0,
        conditions: Conditions | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"coupling: expected at least 2 channels, got {channels}")
        self.kept = channels // 2
        self.clean = clean
        self.conditions = conditions
        self.first = nn.Conv2d(self.kept + clean, hidden, 3, padding=1)
        self.middle = nn.Conv2d(hidden, hidden, 1)
        self.last = nn.Conv2d(hidden + 1, 2 * (channels - self.kept), 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.strength = None if conditions is None else nn.Parameter(torch.ones(len(conditions.rows), 1))
        self.first_norm: nn.BatchNorm2d | None = nn.BatchNorm2d(hidden) if norm else None
        self.middle_norm: nn.BatchNorm2d | None = nn.BatchNorm2d(hidden) if norm else None

    def fold(self) -> None:
        """Let the convolutions absorb the batch norms, as they are in inference; without any, do nothing."""
        for convolution, norm in ((self.first, self.first_norm), (self.middle, self.middle_norm)):
            if norm is not None:
                scale, shift = inference_affine(norm)
                with torch.no_grad():
                    convolution.weight.mul_(scale[:, None, None, None])
                    assert convolution.bias is not None
                    convolution.bias.mul_(scale).add_(shift)
        self.first_norm = self.middle_norm = None

    def _shift_and_log_scale(self, kept: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        seen = torch.cat((kept, shot.clean.to(kept.dtype)), dim=1) if self.clean else kept
        h = nn.functional.relu(_normed(self.first(seen), self.first_norm))
        h = nn.functional.relu(_normed(self.middle(h), self.middle_norm))
        h = nn.functional.pad(h, (1, 1, 1, 1))
        ring = nn.functional.pad(h.new_zeros(1, 1, *kept.shape[-2:]), (1, 1, 1, 1), value=1.0)
        shift, raw = self.last(torch.cat((h, ring.expand(len(h), -1, -1, -1)), dim=1)).chunk(2, dim=1)
        log_scale = self.scale * torch.tanh(raw)
        if self.conditions is not None and self.strength is not None:
            log_scale = log_scale * self.conditions.locate(shot).read(self.strength).to(raw.dtype)[..., None, None]
        return shift, log_scale

    def forward(self, x: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """x_b → exp(s)·x_b + t."""
        kept, changed = x[:, : self.kept], x[:, self.kept :]
        shift, log_scale = self._shift_and_log_scale(kept, shot)
        return torch.cat((kept, changed * log_scale.exp() + shift), dim=1), log_scale.sum(dim=(1, 2, 3))

    def inverse(self, z: Tensor, shot: Shot) -> tuple[Tensor, Tensor]:
        """z_b → (z_b − t)·exp(−s)."""
        kept, changed = z[:, : self.kept], z[:, self.kept :]
        shift, log_scale = self._shift_and_log_scale(kept, shot)
        return torch.cat((kept, (changed - shift) * (-log_scale).exp()), dim=1), -log_scale.sum(dim=(1, 2, 3))

    def __repr__(self) -> str:
        per_pair = "" if self.conditions is None else f", strength of {self.conditions}"
        norm = "" if self.first_norm is None else ", batch norm"
        return f"BorderCoupling(kept={self.kept}, clean={self.clean}, hidden={self.first.out_channels}{per_pair}{norm})"


def inference_affine(norm: nn.BatchNorm2d) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    """Scale and shift per channel that a batch norm is in inference."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def _normed(h: Tensor, norm: nn.BatchNorm2d | None) -> Tensor:
    normed: Tensor = h if norm is None else norm(h)
    return normed
