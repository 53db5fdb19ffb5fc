"""Any noise model as one straight line, variance = a·x + b, for formats that know no more than that."""

from __future__ import annotations

import numpy as np
import torch

from noiseflow.calibration.exchange import Line
from noiseflow.models import FittedModel, Physics
from noiseflow.noise_level import NoiseLevel
from noiseflow.shot import Shot

_LEVELS = 16
_SIDE = 32
"""16 levels of 4·32² values: the variance of each is drawn to 2 %, and the line to 1 %."""


def line_of(model: FittedModel, camera: str, iso: float) -> Line:
    """The noise level function of a model of raw noise at one camera and ISO, before rounding and clip.

    Exact where the model is such a line or counts electrons. A flow's is drawn: the line of least squares through the
    variances of its noise on flat images, each weighted by what its number of values tells.

    Args:
        model: a model of raw noise that is conditioned on the clean raw frame.
        camera: a camera that the model knows.
        iso: an ISO that it knows.

    Raises:
        ValueError: the model is conditioned on pictures, or is of three channels.
    """
    if model.channels == 3 or model.condition == "srgb":
        raise ValueError("line_of: expected a model of raw noise that is conditioned on the clean raw frame")
    level = _level(model)
    ends = Shot.of(torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1), camera=camera, iso=iso)
    if level is not None:
        with torch.no_grad():
            dark, light = level.variance(ends).double().reshape(2, -1).mean(dim=1).tolist()
        return Line(light - dark, dark)
    x = torch.linspace(0.02, 0.9, _LEVELS)
    flat = x.reshape(-1, 1, 1, 1).expand(-1, model.channels, _SIDE, _SIDE)
    with torch.no_grad():
        shot = Shot.of(flat, camera=camera, iso=iso, cfa="RGGB" if model.channels == 4 else None)
        noise = model.sample(shot, seed=torch.arange(_LEVELS)).double()
    variance = noise.var(dim=(1, 2, 3)).numpy()
    slope, intercept = np.polyfit(x.numpy().astype(np.float64), variance, 1, w=1 / variance)
    return Line(max(float(slope), 0.0), float(intercept))


def is_line(model: FittedModel) -> bool:
    """Whether a model is such a line, or `line_of` has to draw its noise."""
    return _level(model) is not None


def _level(model: FittedModel) -> NoiseLevel | None:
    level = model.noise_level() if isinstance(model, Physics) else getattr(model, "level", None)
    return level if isinstance(level, NoiseLevel) else None
