"""Rendering and its inverse: what demosaicing makes of white noise, colours, and the round trip."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from noiseflow.raw.render import IDENTITY, PHONE_MATRIX, linear_light, render, shrink, tone_curve, unrender
from noiseflow.scenes import RAW_BALANCE, mosaic, scene
from noiseflow.shot import CFA_PATTERNS

SOURCE = Path(__file__).parents[2] / "experiments" / "demosaicked_noise" / "run.py"


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("demosaicked_noise", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_rendered_white_noise_has_the_demosaickers_autocovariance(experiment, cfa):
    want = experiment.theory(cfa)
    # by hand: red is itself at a quarter of the sites, a mean of two at half of them, of four at a quarter
    assert want[0, 0, 3, 3] == pytest.approx((1 + 2 * 0.5 + 0.25) / 4)
    assert want[1, 1, 3, 3] == pytest.approx((2 * 1 + 2 * 0.25) / 4)
    got, error = experiment.measured(cfa, frames=8, side=160)
    # 6 standard errors with 7 degrees of freedom and 441 numbers; the tone curve's bend is 3e-4 of the variance
    assert np.abs(got - want).max() <= 6 * error.max() + 1e-3
    white = np.zeros_like(want)
    white[range(3), range(3), 3, 3] = want[range(3), range(3), 3, 3]
    assert np.abs(got - white).max() > 20 * error.max()


@pytest.mark.parametrize("matrix", [IDENTITY, PHONE_MATRIX])
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_any_flat_colour_survives_the_round_trip(cfa, matrix):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [3, 140, 77], [250, 20, 1]])
    for colour in colours:
        picture = np.broadcast_to(colour.astype(np.uint8), (8, 8, 3))
        frame = unrender(picture, cfa, RAW_BALANCE, matrix)
        assert frame.shape == (8, 8)
        assert frame.min() >= 0
        assert frame.max() <= 1
        # 16 bits before the matrix and the tone curve's steepest part: 1.6 · 12.92 · 255 / 65535 / 0.55 < 0.2 codes
        assert np.abs(render(frame, cfa, RAW_BALANCE, matrix).astype(int) - picture).max() <= 1


def test_the_round_trip_of_a_smooth_picture_is_exact_to_the_interpolation():
    """A bilinear interpolation over two pixels errs by at most max|f''| · 2² / 8 along each axis, in linear light."""
    y, x = np.mgrid[:96, :128]
    wave = 0.5 + 0.3 * np.sin(2 * np.pi * x / 64) * np.cos(2 * np.pi * y / 48)
    linear = np.stack((wave, 0.9 * wave, 1.1 * wave), axis=-1)
    back = linear_light(render(unrender(tone_curve(linear), "GRBG", RAW_BALANCE), "GRBG", RAW_BALANCE))
    bend = 1.1 * 0.3 * (2 * np.pi) ** 2 * (1 / 64**2 + 1 / 48**2)
    step = (1 / 0.6586 / 255) * 1.5  # one 8-bit code at these levels, in linear light
    assert np.abs(back - linear)[2:-2, 2:-2].max() <= bend / 2 + step


def test_the_round_trip_of_scenes_is_close():
    """Measured: 43.0 and 35.1 dB; demosaicing cannot restore hard edges and fine texture."""
    for seed in (1, 2):
        picture = render(mosaic(scene(seed, 128, 128), "BGGR"), "BGGR", RAW_BALANCE, PHONE_MATRIX)
        again = render(unrender(picture, "BGGR", RAW_BALANCE, PHONE_MATRIX), "BGGR", RAW_BALANCE, PHONE_MATRIX)
        error = (again.astype(float) - picture)[2:-2, 2:-2] / 255
        assert 10 * np.log10(1 / np.mean(error**2)) >= 30


def test_the_matrix_acts_on_balanced_linear_colours():
    sensor = np.array([0.3, 0.4, 0.2])
    frame = mosaic(np.broadcast_to((sensor * RAW_BALANCE).astype(np.float32), (8, 8, 3)), "GBRG")
    want = 255 * tone_curve(np.asarray(PHONE_MATRIX) @ sensor)
    assert np.abs(render(frame, "GBRG", RAW_BALANCE, PHONE_MATRIX) - want).max() <= 0.6  # rounding, after 16 bits


def test_the_phone_matrix_keeps_grey_and_gamut():
    matrix = np.asarray(PHONE_MATRIX)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assert np.linalg.inv(matrix).min() >= 0


def test_shrink_averages_the_middle_in_linear_light():
    picture = np.random.default_rng(0).integers(0, 256, (11, 17, 3), dtype=np.uint8)
    got = shrink(picture, 4, 6)  # factor 2, from row 1 and column 2
    part = linear_light(picture)[1:9, 2:14]
    want = (part[::2, ::2] + part[1::2, ::2] + part[::2, 1::2] + part[1::2, 1::2]) / 4
    np.testing.assert_allclose(linear_light(got), want, atol=1e-6)
    with pytest.raises(ValueError, match="at least 12×6"):
        shrink(picture, 12, 6)


def test_unrender_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match="even H and W"):
        unrender(np.zeros((3, 4, 3), np.uint8), "RGGB", RAW_BALANCE)
    with pytest.raises(ValueError, match="uint8"):
        unrender(np.zeros((4, 4, 3), np.uint16), "RGGB", RAW_BALANCE)
