"""The noise parameters of one camera: what `noiseflow calibrate` finds and what models start from.

A profile is a JSON file (format 1). Everything is in the units of the sensor: electrons (e) before the gain, digital
numbers (DN, codes) behind it. What could not be identified is null, and `warnings` says why.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FORMAT = 1


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
