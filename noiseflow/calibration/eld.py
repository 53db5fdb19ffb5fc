"""Noise parameters in the files of ELD, as a profile.

Wei, Fu, Yang and Huang 2020, "A Physics-based Noise Formation Model for Extreme Low-light Raw Denoising" (ELD; files
under the MIT licence) measured five cameras. For each camera a file holds the range of the conversion gain K (DN per
electron, codes of 14 bits) and, for the scales σ of its noises in DN, log-linear laws

    log σ = slope · log K + bias + N(0, sigma²)

of which `G_scale` is Tukey-lambda read noise, `R_scale` row noise; `G_shape` lists the shapes λ that were measured.

What the files do not say is decided here, and every profile says it in its warnings. They name no ISO: K_min is taken
for ISO 100, and the gain for proportional to ISO (the range of all five is exactly six stops, and full wells that
follow are those of the cameras). Levels are those that the authors' own code normalises with, black 800 and white
16383, whatever the camera. Which λ belongs to which gain is not said: it is their mean, its interval their spread.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from noiseflow.calibration.plain_pickle import load_plain
from noiseflow.calibration.profile import Estimate, IsoProfile, Profile
from noiseflow.errors import UserError

SOURCE = (
    'Wei, Fu, Yang and Huang 2020, "A Physics-based Noise Formation Model for Extreme Low-light Raw Denoising" '
    "(ELD, MIT licence)"
)

_BASE_ISO = 100.0
_BITS, _BLACK, _WHITE = 14, 800.0, 16383.0
_LAWS = "Profile-1"
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution

_WARNINGS = (
    "the source names no ISO: its least gain is taken for ISO 100, and the gain for proportional to ISO",
    "black level 800 and white level 16383 are those that the source's code uses for all cameras",
    "intervals are the spread that the source measured among settings of the camera; the gain has none",
    "the shape lambda is the mean over all gains: the source does not say which belongs to which",
)


def read_eld(path: Path | str, camera: str | None = None) -> Profile:
    """Read the noise parameters of a camera in ELD's format; nothing in the file is run.

    Args:
        path: a `<camera>_params.npy` file.
        camera: name of the camera; default the file's name.

    Raises:
        UserError: the file cannot be read, holds anything but numbers, or not those of a camera.
    """
    path = Path(path)
    content = load_plain(path)
    try:
        first, last = (_number(content[key]) for key in ("Kmin", "Kmax"))
        laws = content[_LAWS]
        read, row = (
            [_number(laws[key][name]) for name in ("slope", "bias", "sigma")] for key in ("G_scale", "R_scale")
        )
        shapes = np.asarray(content["G_shape"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected ELD's noise parameters, found none that are whole ({error})") from error
    if not (0 < first <= last and shapes.ndim == 1 and shapes.size > 1 and np.isfinite(shapes).all()):
        raise UserError(f"{path}: expected ELD's noise parameters, found gains or shapes out of range")
    mean, spread = float(shapes.mean()), _Z * float(shapes.std(ddof=1))
    isos = {}
    for stop in range(math.floor(math.log2(last / first) + 1e-9) + 1):
        gain = first * 2.0**stop
        isos[_BASE_ISO * 2.0**stop] = IsoProfile(
            gain_dn_per_e=Estimate(gain, gain, gain),
            read_noise_dn=_law(gain, *read),
            black_dn=(Estimate(_BLACK, _BLACK, _BLACK),) * 4,
            row_noise_dn=_law(gain, *row),
            tukey_lambda=Estimate(mean, mean - spread, mean + spread),
            white_dn=_WHITE,
            step_dn=1.0,
        )
    name = camera or path.stem.removesuffix("_params")
    return Profile(
        name, "RGGB", _BITS, isos, gain_segments=((min(isos), max(isos)),), warnings=_WARNINGS, source=SOURCE
    )


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _law(gain: float, slope: float, bias: float, sigma: float) -> Estimate:
    """The scale that a log-linear law gives, with 95 % of its spread."""
    centre = slope * math.log(gain) + bias
    return Estimate(math.exp(centre), math.exp(centre - _Z * sigma), math.exp(centre + _Z * sigma))
