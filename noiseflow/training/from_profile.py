"""Start a flow from a camera's noise profile instead of from its training data."""

from __future__ import annotations

import logging

import torch

from noiseflow.conditions import UnknownConditionError
from noiseflow.datasets import NoiseDataset
from noiseflow.errors import UserError
from noiseflow.files import load
from noiseflow.models import BASELINES, Physics
from noiseflow.noise_level import NoiseLevel
from noiseflow.options import FitOptions
from noiseflow.shot import Shot

log = logging.getLogger(__name__)


def profile_of(options: FitOptions, dataset: NoiseDataset) -> Physics | None:
    """The physics model of the profile that a run is to start from; None where none is asked for.

    Raises:
        UserError: what is trained cannot start from a profile, or the profile is of another camera.
    """
    if options.profile is None:
        return None
    if options.model in BASELINES or options.condition == "srgb" or dataset.frames[0].channels == 3:
        raise UserError(
            "--profile: expected a flow of raw noise that is conditioned on the clean raw frame, which can start from "
            "one; a profile by itself is a physics model, and sample and evaluate take it as it is"
        )
    model = load(options.profile, black=options.black, white=options.white)
    if not isinstance(model, Physics):
        raise UserError(f"--profile: expected a noise profile, got the model {options.profile}")
    cameras = sorted({camera for camera, _ in dataset.conditions})
    if model.cameras[0] not in cameras:
        raise UserError(
            f"--profile: expected a profile of {' or '.join(cameras)}, got one of {model.cameras[0]}; "
            "its key `camera` says whose it is"
        )
    return model


@torch.no_grad()
def take_profile(level: NoiseLevel, profile: Physics | None) -> None:
    """Put the noise level function of a profile into a table, for its camera; the other rows stay.

    An ISO between two of the profile's is interpolated in log a and log b; one outside stays as it is, with a line in
    the log. None: everything stays.
    """
    if profile is None:
        return
    known = profile.noise_level()
    known.conditions.allow_unseen = True
    for row, (camera, iso) in enumerate(level.conditions.pairs):
        if camera not in known.conditions.cameras:
            continue
        try:
            place = known.conditions.locate(Shot.of(torch.zeros(1, 1, 1, 1), camera=camera, iso=iso))
        except UnknownConditionError as error:
            log.warning("%s; the flow starts from the data there", error)
            continue
        level.log_a[row] = place.read(known.log_a)[0]
        level.log_b[row] = place.read(known.log_b)[0]
