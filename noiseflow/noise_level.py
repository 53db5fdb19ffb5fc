"""Noise level functions: the variance of the noise as a straight line of the clean signal.

`variance = a · max(clean, 0) + max(b, (lsb / 20)²)`, one (a, b) per camera and ISO (Foi, Trimeche, Katkovnik and
Egiazarian 2008, eq. 3), shared by the channels of raw images and one per channel in sRGB, plus a constant offset per
camera and channel where it is asked for. The floor on b keeps the variance positive and far below what one code can
show.

Where a shot has per-pixel maps of the sensor, every pixel has a line of its own,

    variance = a · gain · max(clean − offset, 0) + max(variance map, (lsb / 20)²):

light is what a pixel reads above its own offset; a pixel whose gain is g times the sensor's reads g times the signal,
with g² times the photons' variance, that is g times as much at equal readings; and the map of the read noise takes the
place of b (Huang et al., Nature Methods 10, 2013, describe scientific CMOS sensors so). A fit on shots with such a map
leaves b at the intercept of its start. A table without slope knows only the noise as a whole and ignores the maps.

The same table is a baseline model (`models.gaussian`), the first layer of the flows (`transforms.sensor`) and
the reference from which the likelihood of codes is estimated (`models.flow`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.conditions import Conditions
from noiseflow.shot import Shot


def light(shot: Shot) -> Float[Tensor, "b c h w"]:
    """gain · max(clean − offset, 0): what the variance is proportional to, without maps the clean signal itself."""
    signal = shot.clean if shot.offset is None else shot.clean - shot.offset
    signal = signal.clamp_min(0)
    return signal if shot.gain is None else shot.gain * signal


class NoiseLevel(nn.Module):
    """(a, b) per camera and ISO, and an offset per camera.

    Args:
        conditions: the known (camera, ISO) pairs, K of them.
        channels: 1 where all channels of an image share their values, else the number of channels.
        slope: whether the variance depends on the signal; without, a = 0 (homoscedastic noise).

    Attributes:
        log_a: `(K, channels)`, log of the slope a in linear units; -infinity without slope.
        log_b: `(K, channels)`, log of the intercept b in squared linear units.
        offset: `(cameras, channels)`, mean of the noise, linear units.
    """

    log_a: Tensor
    log_b: Tensor
    offset: Tensor

    def __init__(self, conditions: Conditions, channels: int = 1, *, slope: bool = True) -> None:
        super().__init__()
        self.conditions = conditions
        self.channels = channels
        self.slope = slope
        log_a = torch.full((len(conditions), channels), -6.0 if slope else -torch.inf)
        if slope:
            self.log_a = nn.Parameter(log_a)
        else:
            self.register_buffer("log_a", log_a)
        self.log_b = nn.Parameter(torch.full((len(conditions), channels), -10.0))
        self.offset = nn.Parameter(torch.zeros(len(conditions.cameras), channels))

    def mean(self, shot: Shot) -> Float[Tensor, "b c 1 1"]:
        """Mean of the noise in every row and channel, linear units."""
        camera = self.conditions.locate(shot).camera
        return self.offset[camera][..., None, None]

    def variance(self, shot: Shot) -> Float[Tensor, "b c h w"]:
        """Variance of the noise at every pixel, squared linear units, in the table's dtype."""
        place = self.conditions.locate(shot)
        floor = (shot.lsb.to(self.log_b.dtype) / 20) ** 2
        b = torch.maximum(place.read(self.log_b).exp(), floor)[..., None, None]
        if not self.slope:
            return b.expand(-1, -1, *shot.clean.shape[-2:])
        if shot.variance is not None:
            b = torch.maximum(shot.variance.to(b.dtype), floor[..., None, None])
        a = place.read(self.log_a).exp()[..., None, None]
        return a * light(shot).to(a.dtype) + b

    def copy_from(self, other: NoiseLevel) -> None:
        """Take over the values of another table with the same pairs (its channels may be shared)."""
        if other.conditions.pairs != self.conditions.pairs:
            raise ValueError("noise level: expected the same cameras and ISOs in both tables")
        with torch.no_grad():
            for name in ("log_a", "log_b", "offset"):
                getattr(self, name).copy_(getattr(other, name))

    def freeze(self) -> NoiseLevel:
        """Take the table out of training; its values are saved all the same."""
        return self.requires_grad_(False)

    def extra_repr(self) -> str:
        """The line that `repr` prints."""
        return f"{self.conditions}, channels={self.channels}, slope={self.slope}"
