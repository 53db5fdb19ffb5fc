"""A profile as a noise model: the physics model with a camera's own numbers.

In linear units, with white − black codes from black to white: white_e = (white − black) / K electrons fill a pixel;
the read noise and the row noise of the profile are divided by white − black.
"""

from __future__ import annotations

import logging
from pathlib import Path

from noiseflow.calibration.profile import Estimate, IsoProfile, Profile
from noiseflow.errors import UserError
from noiseflow.models.electronics import Electronics
from noiseflow.models.physics import Physics
from noiseflow.sensors.read_noise import tukey_std

_log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent / "profiles"

BUILT_IN = {path.stem: path for path in sorted(_FOLDER.glob("*.json"))}
"""Profiles that come with the package: name → file."""


def physics_of(profile: Profile, *, black: float | None = None, white: float | None = None) -> Physics:
    """The physics model with the numbers of a profile.

    ISOs without gain or read noise are left out, with a line in the log; so are, in it, the column noise and the
    pixels' own sensitivities, which the model does not have.

    Args:
        profile: what is known of a camera.
        black: black level in codes where the profile does not say it.
        white: white level in codes where the profile does not say it.

    Returns:
        The model, of 4 channels or, for a sensor without colour filters, 1. Its card names the profile's camera, its
        levels and what was left out.

    Raises:
        UserError: no ISO has gain and read noise, or a level is neither known nor given.
    """
    table: dict[float, Electronics] = {}
    spans: dict[float, tuple[float, float]] = {}
    for iso, one in sorted(profile.isos.items()):
        if one.gain_dn_per_e is None or one.read_noise_dn is None:
            _log.warning("%s: ISO %g is left out: its gain or its read noise is not known", profile.camera, iso)
            continue
        spans[iso] = low, high = _levels(profile.camera, iso, one, black, white)
        shape = None if one.tukey_lambda is None else one.tukey_lambda.value
        read = one.read_noise_dn.value * (1.0 if shape is None else tukey_std(shape))
        row = 0.0 if one.row_noise_dn is None else one.row_noise_dn.value
        span = high - low
        try:
            table[iso] = Electronics(span / one.gain_dn_per_e.value, read / span, shape, row / span)
            table[iso].read_noise()
        except UserError as error:
            raise UserError(f"{profile.camera}, ISO {iso:g}: {error}") from error
    if not table:
        raise UserError(f"{profile.camera}: expected an ISO whose gain and read noise are known, found none")
    model = Physics([(profile.camera, iso) for iso in table], 1 if profile.cfa is None else 4)
    for row_number, (_, iso) in enumerate(model.conditions.pairs):
        model.set(row_number, table[iso])
    left_out = sorted(
        {
            name
            for iso in table
            for name in ("column_noise_dn", "prnu")
            if _matters(getattr(profile.isos[iso], name))
        }
    )  # fmt: skip
    if left_out:
        _log.warning("%s: the physics model has no %s; left out", profile.camera, " and no ".join(left_out))
    (low, high) = spans[min(spans)]
    model.card = {
        "profile": {"camera": profile.camera, "source": profile.source, "left_out": left_out},
        "cameras": {
            profile.camera: {"cfa": profile.cfa, "lsb": 1 / (high - low), "low": -low / (high - low), "high": 1.0}
        },
    }
    return model.eval()


def _matters(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.value > 0


def _levels(camera: str, iso: float, one: IsoProfile, black: float | None, white: float | None) -> tuple[float, float]:
    """Black level, over the channels, and white level of an ISO."""
    known = [level.value for level in one.black_dn if level is not None]
    low = sum(known) / len(known) if known else black
    high = one.white_dn if one.white_dn is not None else white
    missing = [name for name, level in (("--black", low), ("--white", high)) if level is None]
    if missing or low is None or high is None:
        raise UserError(f"{camera}, ISO {iso:g}: the profile does not say its levels; give {' and '.join(missing)}")
    if not 0 <= low < high:
        raise UserError(f"{camera}, ISO {iso:g}: expected 0 <= black < white, got black {low:g} and white {high:g}")
    return low, high
