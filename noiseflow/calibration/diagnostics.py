"""What to look at: the numbers behind the pictures of a calibration, one set for each ISO, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from noiseflow.calibration.darks import Darks
from noiseflow.calibration.differences import Read
from noiseflow.calibration.frames import FloatArray, FrameSet
from noiseflow.calibration.profile import Estimate
from noiseflow.calibration.transfer import Line, Points


@dataclass(frozen=True, eq=False)
class TransferCurve:
    """Photon-transfer curve of one ISO: each stack of frames and channel is a point.

    Attributes:
        mean: `(n,)`, DN above the black level.
        variance: `(n,)`, of a single frame, DN².
        error: `(n,)`, standard error of it, DN².
        fitted: `(n,)`, the line there, DN².
        channel, stack: `(n,)`, where it comes from.
    """

    mean: FloatArray
    variance: FloatArray
    error: FloatArray
    fitted: FloatArray
    channel: FloatArray
    stack: FloatArray


@dataclass(frozen=True, eq=False)
class ReadPlot:
    """Read-noise probability plot, of differences of two dark frames of one pixel.

    Attributes:
        difference: `(n,)`, DN.
        observed: `(n,)`, standard normal quantile of the share of differences up to it.
        expected: `(n,)`, the same of the fitted read noise.
    """

    difference: FloatArray
    observed: FloatArray
    expected: FloatArray


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Power spectrum of the means of rows (or columns) of dark frames, each frame less the mean of all.

    Attributes:
        frequency: `(n,)`, cycles a line, above 0 and up to ½.
        power: `(n,)`, DN² a line; flat where lines are independent, and the variance of their means is its mean.
    """

    frequency: FloatArray
    power: FloatArray


@dataclass(frozen=True, eq=False)
class IsoDiagnostics:
    """All of one ISO; None or empty where the frames for it are lacking.

    Attributes:
        iso: ISO speed.
        transfer: photon-transfer curve.
        line: the line through it.
        black_shift: black level under light less that of the darks, DN, where the curve tells.
        channel_gains: conversion gain of each channel on its own, DN per electron.
        read_plot: read-noise probability plot.
        rows, columns: spectra of what rows and columns share.
        dark_means: `(N, C)`, mean of each dark frame, DN.
        exposures: seconds of each dark frame, where known.
        hot, jumping: `(n, 2)`, rows and columns of odd pixels.
    """

    iso: float
    transfer: TransferCurve | None = None
    line: Line | None = None
    black_shift: Estimate | None = None
    channel_gains: tuple[Estimate | None, ...] = ()
    read_plot: ReadPlot | None = None
    rows: Spectrum | None = None
    columns: Spectrum | None = None
    dark_means: FloatArray | None = None
    exposures: tuple[float, ...] = ()
    hot: NDArray[np.int64] | None = None
    jumping: NDArray[np.int64] | None = None


def transfer_curve(points: Points, line: Line) -> TransferCurve:
    """The points of tiles gathered by stack and channel."""
    keys, place = np.unique(np.stack([points.stack, points.channel]), axis=1, return_inverse=True)
    place = place.reshape(-1)
    dof = np.bincount(place, points.dof)
    mean = np.bincount(place, points.dof * points.mean) / dof
    variance = np.bincount(place, points.dof * points.variance) / dof
    fitted = line.intercept + line.slope * mean
    return TransferCurve(mean, variance, np.abs(fitted) * np.sqrt(2 / dof), fitted, keys[1], keys[0])


def read_plot(darks: Darks, read_dn: float, shape: float | None) -> ReadPlot:
    """Observed against fitted distribution of differences.

    Args:
        darks: statistics of the dark frames.
        read_dn: scale of the read noise, DN.
        shape: λ, None where it is normal.
    """
    data = darks.differences
    counts = data.counts.sum(axis=0)
    # Differences are symmetric: a share of |d| above x is twice that of d above x.
    observed = 0.5 * counts[::-1].cumsum()[::-1][1:] / counts.sum()
    expected = 0.5 * np.exp(data.log_pmf(Read(read_dn / darks.step, shape)))[::-1].cumsum()[::-1][1:]
    seen = observed > 0
    sizes = (np.arange(observed.size) + 0.5) * darks.step
    return ReadPlot(sizes[seen], -special.ndtri(observed[seen]), -special.ndtri(expected[seen]))


def line_spectra(frames: FrameSet) -> tuple[Spectrum, Spectrum]:
    """Spectra of the means of rows and of columns of at least two dark frames."""
    rest = frames.darks.astype(np.float32)
    rest -= rest.mean(axis=0)
    return _spectrum(rest.mean(axis=2, dtype=np.float64)), _spectrum(rest.mean(axis=1, dtype=np.float64))


def _spectrum(lines: NDArray[Any]) -> Spectrum:
    frames, count = lines.shape
    lines = lines - lines.mean(axis=1, keepdims=True)
    power = (np.abs(np.fft.rfft(lines, axis=1)) ** 2).sum(axis=0) / (count * (frames - 1))
    frequency: FloatArray = np.fft.rfftfreq(count).astype(np.float64)
    return Spectrum(frequency[1:], power[1:].astype(np.float64))
