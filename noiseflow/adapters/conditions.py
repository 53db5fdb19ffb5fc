"""Which camera and ISO an image gets, and what that camera stores: asked of any noise model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from noiseflow.conditions import Conditions, CrossedConditions
from noiseflow.datasets.base import UNCLIPPED
from noiseflow.models import NoiseModel
from noiseflow.randomness import uniform
from noiseflow.sensors import SensorTruth, VirtualSensor

Iso = float | tuple[float, float] | Sequence[float] | None
"""One ISO, a range as a tuple (low, high), a list to choose from, or None: those that the model knows."""

_CONDITION = 11  # stream of random numbers


class ConditionDraw:
    """Draws a camera, then one of its ISOs; every camera is equally likely, and every ISO of it.

    From a range, a model that works at any ISO of a camera (one that interpolates, or a virtual sensor) gets an ISO
    that is uniform on a logarithmic scale; one that knows single ISOs gets one of those inside the range.

    Args:
        model: what the noise will be drawn from.
        cameras: names; None for all that the model knows. Those that have none of the ISOs are left out, unless they
            were named.
        iso: a number; a tuple (low, high), both ends included; a list; or None for all ISOs that the model knows.

    Attributes:
        choices: camera → the ISOs to choose from, and whether they are the two ends of a range instead.

    Raises:
        ValueError: a camera or an ISO that the model does not know.

    Examples:
        >>> from noiseflow.models import Gaussian
        >>> model = Gaussian([("S6", 100), ("S6", 800), ("G4", 6400)])
        >>> ConditionDraw(model, iso=(100, 3200)).choices
        {'S6': ((100.0, 800.0), False)}
    """

    def __init__(self, model: NoiseModel, cameras: Sequence[str] | None = None, iso: Iso = None) -> None:
        cameras = [cameras] if isinstance(cameras, str) else cameras
        iso = _plain(iso)
        unknown = [name for name in cameras or () if name not in model.cameras]
        if unknown or (cameras is not None and not cameras):
            raise ValueError(
                f"cameras: expected some of {', '.join(model.cameras)}, got {', '.join(unknown) or 'none'}"
            )
        _check_iso(iso)
        self.choices: dict[str, tuple[tuple[float, ...], bool]] = {}
        for camera in cameras or model.cameras:
            known, ends = _known(model, camera)
            isos, is_range = _among(known, ends, iso)
            if isos:
                self.choices[camera] = isos, is_range
            elif cameras is not None or not known:
                listed = ", ".join(f"{value:g}" for value in known) or "none of its own, so that they must be given"
                raise ValueError(f"iso: expected some that {camera} has ({listed}), got {said(iso)}")
        if isinstance(iso, list):
            there = [value for isos, _ in self.choices.values() for value in isos]
            missing = [value for value in iso if not any(math.isclose(value, one, rel_tol=1e-6) for one in there)]
            if self.choices and missing:
                raise ValueError(f"iso: expected some that a camera of the model has, got {said(missing)} beside them")
        if not self.choices:
            raise ValueError(f"iso: expected some that a camera of the model has, got {said(iso)}")

    def __call__(self, seed: Int[Tensor, "b"]) -> tuple[list[str], Float[Tensor, "b"]]:
        """Camera and ISO of each seed: pure functions of it.

        Args:
            seed: `(B,)` integers.

        Returns:
            B names, and `(B,)` float64 on the CPU.
        """
        numbers = uniform(seed.cpu(), (len(seed), 1, 1, 2), stream=_CONDITION)[:, 0, 0].tolist()
        names, isos = [], []
        for first, second in numbers:
            names.append(list(self.choices)[int(first * len(self.choices))])
            values, is_range = self.choices[names[-1]]
            if is_range:
                isos.append(values[0] * (values[1] / values[0]) ** second)
            else:
                isos.append(values[int(second * len(values))])
        return names, torch.tensor(isos, dtype=torch.float64)


def code_grid(model: NoiseModel, camera: str, channels: int) -> dict[str, Float[Tensor, "c"]]:
    """Code width and clip range of a camera's images, as the model's card or virtual sensor says.

    Args:
        model: any noise model; where it does not say, values are continuous and clipped to [0, 1].
        camera: a name.
        channels: C.

    Returns:
        `lsb`, `low` and `high`, `(C,)` float64 each.
    """
    values: dict[str, Any] = {"lsb": 0.0, "low": 0.0, "high": 1.0}
    if isinstance(model, SensorTruth):
        sensor = model.sensors[camera]
        if isinstance(sensor, VirtualSensor):
            values = {"lsb": sensor.lsb, "low": sensor.min_code * sensor.lsb, "high": 1.0}
        else:
            values = {"lsb": 0.0, "low": -UNCLIPPED, "high": UNCLIPPED}
    else:
        values |= {name: value for name, value in card_of(model, camera).items() if name in values}
    return {name: torch.as_tensor(value, dtype=torch.float64).expand(channels) for name, value in values.items()}


def pattern_of(model: NoiseModel, camera: str) -> str | None:
    """The colour filter pattern of a camera, where the model says it."""
    if isinstance(model, SensorTruth):
        return model.sensors[camera].cfa
    pattern = card_of(model, camera).get("cfa")
    return None if pattern is None else str(pattern)


def card_of(model: NoiseModel, camera: str) -> dict[str, Any]:
    """What the model's card says about a camera's files."""
    card = getattr(model, "card", {}).get("cameras", {}).get(camera, {})
    return dict(card) if isinstance(card, dict) else {}


def _known(model: NoiseModel, camera: str) -> tuple[tuple[float, ...], tuple[float, float] | None]:
    """The ISOs of a camera, and the ends of the range where it works at any."""
    conditions = getattr(model, "conditions", None)
    if isinstance(conditions, Conditions):
        isos = conditions.isos(camera)
        if not conditions.allow_unseen:
            return isos, None
        if isinstance(conditions, CrossedConditions):
            return tuple(sorted({iso for _, iso in conditions.pairs})), None
        return isos, (isos[0], isos[-1])
    if isinstance(model, SensorTruth):
        sensor = model.sensors[camera]
        return tuple(float(iso) for iso in sensor.isos), (float(sensor.slopes[0][0]), float(sensor.slopes[-1][0]))
    return (), None


def _among(known: tuple[float, ...], ends: tuple[float, float] | None, iso: Iso) -> tuple[tuple[float, ...], bool]:
    """What of `iso` a camera has; whether it is a range."""
    if iso is None:
        return known, False
    if isinstance(iso, tuple):
        low, high = iso
        if ends is not None:
            inside = max(low, ends[0]), min(high, ends[1])
            return (inside, True) if inside[0] <= inside[1] else ((), True)
        return tuple(value for value in known if low <= value <= high), False
    wanted = tuple(float(value) for value in iso) if isinstance(iso, Sequence) else (float(iso),)
    if not known:  # a model that does not say: it will raise by itself
        return wanted, False
    return tuple(
        value
        for value in wanted
        if any(math.isclose(value, other, rel_tol=1e-6) for other in known)
        or (ends is not None and ends[0] <= value <= ends[1])
    ), False


def _plain(iso: Any) -> Iso:
    """A choice of ISOs as None, a number, a tuple or a list of numbers."""
    if iso is None:
        return None
    try:
        if isinstance(iso, (str, bytes)):
            raise TypeError
        if isinstance(iso, tuple):
            return tuple(float(value) for value in iso)
        return sorted(float(value) for value in iso) if isinstance(iso, Iterable) else float(iso)
    except (TypeError, ValueError):
        raise ValueError(f"iso: expected a number, a list, or a range as a tuple, got {iso!r}") from None


def _check_iso(iso: Iso) -> None:
    values = list(iso) if isinstance(iso, Sequence) else [] if iso is None else [iso]
    if any(not (math.isfinite(value) and value > 0) for value in values) or (iso is not None and not values):
        raise ValueError(f"iso: expected positive numbers, got {said(iso)}")
    if isinstance(iso, tuple) and len(iso) != 2:
        raise ValueError(f"iso: expected a range (low, high), got {said(iso)}; give single ISOs as a list")
    if isinstance(iso, tuple) and iso[0] > iso[1]:
        raise ValueError(f"iso: expected a range from the lower ISO to the higher one, got {said(iso)}")


def said(iso: Iso) -> str:
    """A choice of ISOs in words: `100, 800` or `100 to 3200`."""
    if isinstance(iso, tuple):
        return " to ".join(f"{value:g}" for value in iso)
    return ", ".join(f"{value:g}" for value in iso) if isinstance(iso, Sequence) else str(iso)
