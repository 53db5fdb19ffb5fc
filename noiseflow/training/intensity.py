"""Fit the inverse tone curves of `SrgbIntensity`: regression of clean raw on the picture's codes."""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.optimize import nnls

from noiseflow.errors import UserError
from noiseflow.intensity import COLOURS, SrgbIntensity, at_sites, linear
from noiseflow.shot import Shot

log = logging.getLogger(__name__)

_PRIOR = 30.0  # pixels' worth of belief, per segment, that the camera's curve is sRGB's
_DARK = 2e-3  # linear units: below, errors weigh alike; above, as the variance of shot noise
_LEAST_CORRELATION = 0.5


@torch.no_grad()
def fit_intensity(intensity: SrgbIntensity, shot: Shot) -> None:
    """Set the start and the slopes of every camera and colour, in place, by non-negative least squares.

    The clean raw values of each of the 256 codes are averaged; a ridge draws segments that few pixels reach to the
    white balance alone, the slope of the plain inverse sRGB curve through the data.

    Args:
        intensity: what to fit.
        shot: pictures with their clean raw signal; about 50,000 values per camera are plenty.

    Raises:
        UserError: picture and raw signal of a camera have nothing to do with each other.
    """
    assert shot.srgb is not None
    patterns = [shot.cfa] * len(shot) if isinstance(shot.cfa, str) else list(shot.cfa or ())
    picture = at_sites(shot.srgb, [str(pattern) for pattern in patterns])
    camera = intensity.conditions.locate(shot).camera
    codes = torch.arange(256, dtype=torch.float64) / 255
    basis, g = intensity.basis(codes).numpy(), linear(codes).numpy()
    widths = intensity.knots.diff().numpy()
    for i in range(len(intensity.conditions.cameras)):
        rows = camera == i
        for colour in range(3):
            here = [site for site, c in enumerate(COLOURS) if c == colour]
            code = (picture[rows][:, here, colour] * 255).round().long().flatten().numpy()
            clean = shot.clean[rows][:, here].double().flatten().numpy()
            count = np.bincount(code, minlength=256)
            mean = np.bincount(code, clean, 256) / np.maximum(count, 1)
            weight = np.sqrt(count / (g + _DARK))
            inside = slice(0, 255)  # code 255 holds everything that was clipped
            balance = float((weight[inside] ** 2 * g[inside] * mean[inside]).sum())
            balance /= max(float((weight[inside] ** 2 * g[inside] ** 2).sum()), 1e-12)
            ridge = np.sqrt(_PRIOR / (intensity.knots[:-1].numpy() + _DARK)) * widths
            ridge[-1] *= 0.01  # what was clipped lies where no tone curve says
            matrix = np.zeros((256 + len(widths), 1 + len(widths)))
            matrix[:256, 0], matrix[:256, 1:] = weight, basis * weight[:, None]
            matrix[256:, 1:] = np.diag(ridge)
            solution, _ = nnls(matrix, np.concatenate((weight * mean, ridge * balance)))
            intensity.start[i, colour] = float(solution[0])
            intensity.slopes[i, colour] = torch.from_numpy(solution[1:]).float()
    _check_alignment(intensity, shot, camera)


def _check_alignment(intensity: SrgbIntensity, shot: Shot, camera: torch.Tensor) -> None:
    """A picture that was turned or shifted has the right curve and the wrong places."""
    for i, name in enumerate(intensity.conditions.cameras):
        part = shot.rows(torch.nonzero(camera == i).flatten())
        both = torch.stack((intensity.curve(part).double().flatten(), part.clean.double().flatten()))
        correlation = float(torch.corrcoef(both)[0, 1])
        log.info("camera %s: intensity from the pictures and clean raw have a correlation of %.4f", name, correlation)
        if correlation < _LEAST_CORRELATION:
            raise UserError(
                f"camera {name}: the clean pictures do not fit the clean raw frames (correlation {correlation:.2f}); "
                "expected pictures at mosaic resolution that were neither turned nor shifted"
            )
