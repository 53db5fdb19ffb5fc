"""From a clean sRGB picture to the linear intensity that the sensor's pixels saw.

Models of raw noise that are conditioned on a picture see this estimate wherever others see the clean raw signal. At
mosaic resolution every site of the Bayer pattern has one colour that the sensor measured there; demosaicking keeps it,
so undoing the tone curve and the white balance at that site leads back to what the pixel read, as far as 8 bits and
the picture's clipped highlights allow.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from noiseflow.conditions import Conditions
from noiseflow.raw.cfa import sites
from noiseflow.shot import Shot

COLOURS = (0, 1, 1, 2)
"""sRGB channel that each packed channel measures."""

_HIDDEN = 16
_LAST_CODE = 254.0 / 255.0


def linear(srgb: Tensor) -> Tensor:
    """The inverse of the sRGB tone curve (IEC 61966-2-1), values in [0, 1]."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def at_sites(srgb: Float[Tensor, "b 3 h2 w2"], patterns: list[str]) -> Float[Tensor, "b 4 3 h w"]:
    """The three colours of a picture at the four Bayer sites of every cell, in packed order.

    Args:
        srgb: `(B, 3, 2H, 2W)`.
        patterns: the colour filter pattern of each row, B of them.

    Returns:
        `(B, 4, 3, H, W)`: the sites of R, G on the R rows, G on the B rows, B.

    Examples:
        >>> picture = torch.arange(4.0).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
        >>> at_sites(picture, ["BGGR"])[0, :, 0].flatten().tolist()
        [3.0, 2.0, 1.0, 0.0]
    """
    cells = [
        torch.stack([row[:, top::2, left::2] for top, left in sites(pattern)])
        for row, pattern in zip(srgb, patterns, strict=True)
    ]
    return torch.stack(cells) if cells else srgb.new_zeros(0, 4, 3, srgb.shape[-2] // 2, srgb.shape[-1] // 2)


class SrgbIntensity(nn.Module):
    """Packed linear intensity of a clean sRGB picture, per camera: an inverse tone curve and a learned correction.

    intensity = curve(s) · exp(tanh(net(picture))), s the picture's value at a pixel's own site and colour.

    The curve rises along the inverse sRGB tone curve g, whose slope is scaled from knot to knot: x = x₀ + Σ_k m_k ·
    clip(g(s) − g(s_k), 0, g(s_{k+1}) − g(s_k)) with m_k >= 0. Equal m_k are a white balance. The last step, to code
    255, has a slope of its own: it leads to the mean intensity of clipped pixels. The curve is fitted by regression
    before training (`training.intensity`) and then stays; the correction, which sees all colours at all four sites of
    the cell, starts at 1 and is trained with the model.

    Args:
        conditions: the model's conditions; its cameras have a curve each.
        knots: segments of the curve below code 254.

    Attributes:
        start: `(cameras, 3)`, x₀, linear units.
        slopes: `(cameras, 3, knots + 1)`, m_k.
    """

    knots: Tensor
    start: Tensor
    slopes: Tensor

    def __init__(self, conditions: Conditions, knots: int = 16) -> None:
        super().__init__()
        self.conditions = conditions
        cameras = len(conditions.cameras)
        ends = torch.cat((torch.linspace(0, _LAST_CODE, knots + 1, dtype=torch.float64), torch.ones(1).double()))
        self.register_buffer("knots", linear(ends), persistent=False)
        self.register_buffer("start", torch.zeros(cameras, 3))
        self.register_buffer("slopes", torch.ones(cameras, 3, knots + 1))
        self.by_camera = nn.Parameter(torch.zeros(cameras, _HIDDEN))
        self.first = nn.Conv2d(12, _HIDDEN, 1)
        self.last = nn.Conv2d(_HIDDEN, 4, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, shot: Shot) -> Float[Tensor, "b 4 h w"]:
        """The estimated intensity, linear units, in the shot's dtype (which must be the module's).

        Raises:
            ValueError: the shot has no picture, or no colour filter pattern.
        """
        picture = self._picture(shot)
        camera = self.conditions.locate(shot).camera
        hidden = self.first(picture.flatten(1, 2)) + self.by_camera[camera][..., None, None]
        correction: Tensor = self.last(hidden.relu()).tanh().exp()
        return self._curve(picture, camera) * correction

    def curve(self, shot: Shot) -> Float[Tensor, "b 4 h w"]:
        """The estimate without the learned correction: what the model was started from, the same for good."""
        return self._curve(self._picture(shot), self.conditions.locate(shot).camera)

    def basis(self, srgb: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape k"]:
        """How far each segment of the curve is covered at values of the picture, float64; the slopes weigh it."""
        g = linear(srgb.double())[..., None]
        return torch.minimum((g - self.knots[:-1]).clamp_min(0), self.knots.diff())

    def _picture(self, shot: Shot) -> Tensor:
        if shot.srgb is None:
            raise ValueError("expected shot.srgb, the clean picture: this model is conditioned on it; got none")
        patterns = [shot.cfa] * len(shot) if shot.cfa is None or isinstance(shot.cfa, str) else list(shot.cfa)
        known = [pattern for pattern in patterns if pattern is not None]
        if len(known) < len(patterns):
            raise ValueError("expected the colour filter pattern (shot.cfa) beside the picture, got none")
        return at_sites(shot.srgb, known)

    def _curve(self, picture: Tensor, camera: Tensor) -> Tensor:
        own = torch.stack([picture[:, site, colour] for site, colour in enumerate(COLOURS)], dim=1)
        knots, colours = self.knots.to(own), torch.tensor(COLOURS, device=own.device)
        steps = self.slopes.to(own) * knots.diff()
        values = torch.cat((self.start.to(own)[..., None], steps), dim=-1).cumsum(-1)[..., :-1]  # at the knots
        g = linear(own).clamp(0, 1)
        segment = (torch.bucketize(g.contiguous(), knots, right=True) - 1).clamp(0, len(knots) - 2)
        table = (camera[:, None] * 3 + colours)[..., None, None] * steps.shape[-1] + segment
        return values.flatten()[table] + self.slopes.to(own).flatten()[table] * (g - knots[segment])
