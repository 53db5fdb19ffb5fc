"""The noise parameters of one camera: what `noiseflow calibrate` finds and what models start from.

A profile is a JSON file (format 1). Everything is in the units of the sensor: electrons (e) before the gain, digital
numbers (DN, codes) behind it. What could not be identified is null, and `warnings` says why.

In the file every attribute is a key of the same name, except that `gain_segments` is `gain_law.segments`; ISOs are
written as text.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from noiseflow.errors import UserError
from noiseflow.files import write_atomically
from noiseflow.shot import CFA_PATTERNS

FORMAT = 1
"""Version of the file format."""

_LARGEST = 1 << 24  # bytes


@dataclass(frozen=True)
class Estimate:
    """A parameter with its 95 % interval, all three in the parameter's own unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class IsoProfile:
    """What is known of one ISO; None: not identified.

    Attributes:
        gain_dn_per_e: conversion gain K, DN per electron.
        read_noise_dn: scale of the read noise, DN: its standard deviation, or the Tukey-lambda scale.
        black_dn: black level of each packed channel (R, G, G, B, or one of a mono sensor), DN.
        row_noise_dn: standard deviation of the offset that a row shares, DN.
        column_noise_dn: the same of columns.
        tukey_lambda: shape of the read noise; None where it is Gaussian.
        white_dn: code at which the sensor saturates.
        step_dn: distance of neighbouring codes, DN; 1 for a plain ADC.
        prnu: relative standard deviation of the pixels' sensitivity.
    """

    gain_dn_per_e: Estimate | None = None
    read_noise_dn: Estimate | None = None
    black_dn: tuple[Estimate | None, ...] = ()
    row_noise_dn: Estimate | None = None
    column_noise_dn: Estimate | None = None
    tukey_lambda: Estimate | None = None
    white_dn: float | None = None
    step_dn: float | None = None
    prnu: Estimate | None = None


@dataclass(frozen=True)
class Profile:
    """The noise of one camera over its ISOs.

    Attributes:
        camera: its name.
        cfa: RGGB, BGGR, GRBG or GBRG; None of a mono sensor.
        bits: bit depth of the codes; None where unknown.
        isos: ISO → what is known of it.
        read_noise_pre_e: read noise before the gain, electrons.
        read_noise_post_dn: read noise behind the gain, DN.
        gain_segments: ranges of ISO, each (first, last), inside which the gain is proportional to ISO, or constant.
        warnings: sentences for the user.
        source: where the numbers come from.
    """

    camera: str
    cfa: str | None
    bits: int | None
    isos: dict[float, IsoProfile]
    read_noise_pre_e: Estimate | None = None
    read_noise_post_dn: Estimate | None = None
    gain_segments: tuple[tuple[float, float], ...] = ()
    warnings: tuple[str, ...] = field(default=())
    source: str = ""


def write_profile(profile: Profile, path: Path | str) -> None:
    """Write a profile as JSON, atomically; `read_profile` gives back exactly the same numbers.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(encoded(profile), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(Path(path), text.encode() + b"\n")


def read_profile(path: Path | str) -> Profile:
    """Read a profile.

    Raises:
        UserError: the file is missing, is no profile, is malformed, or is of another format; names the place.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such profile")
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path}: expected a profile of at most 16 MB, got {path.stat().st_size} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a profile in JSON, could not read it ({error})") from error
    if not isinstance(content, dict) or "isos" not in content:
        raise UserError(
            f"{path}: expected a noise profile (an object with the keys format, camera, isos), got other JSON"
        )
    if (version := content.pop("format", None)) != FORMAT or isinstance(version, bool):
        raise UserError(
            f"{path}: expected a noise profile of format {FORMAT}, got another; it may need a newer noiseflow"
        )
    try:
        law = content.pop("gain_law", None)
        if law is not None:
            content["gain_segments"] = _members(law, "gain_law", {"segments"}).get("segments", [])
        profile = _record(Profile, content, "")
        _check(profile)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return profile


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _check(profile: Profile) -> None:
    """What types cannot say."""
    if profile.cfa is not None and profile.cfa not in CFA_PATTERNS:
        raise ValueError(f"cfa: expected one of {', '.join(CFA_PATTERNS)} or null, got {profile.cfa!r}")
    if not profile.isos:
        raise ValueError("isos: expected at least one ISO, got none")
    channels = 1 if profile.cfa is None else 4
    for iso, one in profile.isos.items():
        if len(one.black_dn) not in (0, channels):
            raise ValueError(f"isos.{_key(iso)}.black_dn: expected {channels} levels, got {len(one.black_dn)}")
        for name in ("gain_dn_per_e", "read_noise_dn"):
            estimate = getattr(one, name)
            if estimate is not None and not estimate.value > 0:
                raise ValueError(f"isos.{_key(iso)}.{name}: expected a value above 0, got {estimate.value:g}")


def _key(iso: float) -> str:
    """An ISO as text: 100, not 100.0."""
    return str(int(iso)) if iso == int(iso) else repr(iso)


def encoded(value: Any) -> Any:
    """A value as JSON knows it."""
    if isinstance(value, Profile):
        out: dict[str, Any] = {"format": FORMAT}
        for each in fields(value):
            inner = getattr(value, each.name)
            if each.name == "gain_segments":
                out["gain_law"] = {"segments": encoded(inner)} if inner else None
            else:
                out[each.name] = encoded(inner)
        return out
    if isinstance(value, (Estimate, IsoProfile)):
        return {each.name: encoded(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {_key(iso): encoded(one) for iso, one in sorted(value.items())}
    if isinstance(value, tuple):
        return [encoded(one) for one in value]
    return value


_Record = TypeVar("_Record", Estimate, IsoProfile, Profile)


def _record(kind: type[_Record], value: Any, where: str) -> _Record:
    """An object of the file as the dataclass that it stands for."""
    hints = get_type_hints(kind)
    members = _members(value, where, set(hints))
    inner = {name: _decoded(hints[name], one, f"{where}.{name}".lstrip(".")) for name, one in members.items()}
    missing = [
        each.name for each in fields(kind) if each.name in _REQUIRED.get(kind, ()) and inner.get(each.name) is None
    ]
    if missing:
        raise ValueError(f"{where or 'profile'}: expected the keys {', '.join(missing)}")
    inner = {"cfa": None, "bits": None} | inner if kind is Profile else inner
    out = kind(**inner)
    if isinstance(out, Estimate) and not out.low <= out.value <= out.high:
        raise ValueError(f"{where}: expected low <= value <= high, got {out.low:g}, {out.value:g}, {out.high:g}")
    return out


_REQUIRED: dict[type, tuple[str, ...]] = {Profile: ("camera", "isos"), Estimate: ("value", "low", "high")}


def _members(value: Any, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {json.dumps(value)[:40]}")
    unknown = sorted(set(value) - known)
    if unknown:
        raise ValueError(f"{where or 'profile'}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return value


def _decoded(hint: Any, value: Any, where: str) -> Any:
    """A value of the file as the type that the dataclass declares."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(one for one in kinds if one is not type(None))
    if kind in (Estimate, IsoProfile):
        return _record(kind, value, where)
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object with one entry an ISO, got {json.dumps(value)[:40]}")
        return {_iso(text, where): _record(IsoProfile, one, f"{where}.{text}") for text, one in value.items()}
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if not isinstance(value, list) or (parts[-1] is not Ellipsis and len(value) != len(parts)):
            raise ValueError(f"{where}: expected a list, got {json.dumps(value)[:40]}")
        inner = [parts[0]] * len(value) if parts[-1] is Ellipsis else list(parts)
        return tuple(
            _decoded(part, one, f"{where}[{i}]") for i, (part, one) in enumerate(zip(inner, value, strict=True))
        )
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    raise ValueError(f"{where}: expected {_SAID.get(kind, kind)}, got {json.dumps(value)[:40]}")


_SAID = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text"}


def _iso(text: str, where: str) -> float:
    try:
        iso = float(text)
    except ValueError:
        iso = math.nan
    if not 0 < iso < math.inf:
        raise ValueError(f"{where}: expected ISO speeds as keys, got {text!r}")
    return iso
