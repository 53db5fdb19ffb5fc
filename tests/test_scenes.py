"""Procedural scenes: what noise models need of them, and the mosaic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiseflow.raw.cfa import pack
from noiseflow.scenes import RAW_BALANCE, mosaic, scene
from noiseflow.sensors import PHONES
from noiseflow.shot import CFA_PATTERNS


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(8, 50).map(lambda n: 2 * n), st.integers(8, 50).map(lambda n: 2 * n))
def test_any_scene_is_a_picture_in_range(seed, height, width):
    picture = scene(seed, height, width)
    assert picture.shape == (height, width, 3) and picture.dtype == np.float32
    assert np.isfinite(picture).all()
    assert picture.min() > 0 and picture.max() <= 1


def test_equal_seeds_give_equal_scenes_and_others_differ():
    assert np.array_equal(scene(4, 64, 80), scene(4, 64, 80))
    pictures = [scene(seed, 64, 80) for seed in range(4)]
    for i in range(4):
        for j in range(i):
            assert np.abs(pictures[i] - pictures[j]).mean() > 0.01


@pytest.mark.parametrize("side", [64, 256])
def test_brightness_spreads_as_in_dark_photographs(side):
    frames = [mosaic(scene(seed, side, side), "GRBG") for seed in range(1, 11)]
    pooled = np.stack(frames)
    assert np.mean(pooled < 0.3) > 0.7  # mostly dark
    assert np.quantile(pooled, 0.98) > 0.8 and np.quantile(pooled, 0.25) < 0.01  # light and deep shadow
    for frame in frames:
        low, high = np.quantile(frame, (0.02, 0.99))
        assert low < 0.005 and high > 0.5  # both in every frame


def test_signal_dependent_variance_is_worth_its_nats():
    """A heteroscedastic Gaussian gains ½(log E[v] − E[log v]) over one with a single variance."""
    a, b = PHONES["S6"].noise_level(800)
    variance = a * np.stack([mosaic(scene(seed, 256, 256), "GRBG") for seed in range(1, 11)]) + b
    assert 0.5 * (np.log(variance.mean()) - np.log(variance).mean()) > 0.45


def test_scenes_have_edges_texture_and_smooth_areas():
    picture = np.stack([scene(seed, 128, 128)[..., 1] for seed in range(6)]).astype(np.float64)
    steps = np.abs(np.diff(np.log(picture), axis=2))
    assert np.mean(steps > 0.3) > 0.005  # edges
    assert np.mean(steps < 0.1) > 0.5  # smooth shading
    assert np.median(steps) > 1e-4  # and nothing flat


def test_neutral_grey_reads_as_the_raw_balance():
    pictures = np.stack([scene(seed, 64, 64) for seed in range(30)])
    shadows = pictures.reshape(-1, 3)[pictures.max(axis=-1).reshape(-1) < 0.3].mean(axis=0)
    # Colours of surfaces are random around grey: their mean is grey within their saturation over √30 scenes.
    np.testing.assert_allclose(shadows / shadows[1], RAW_BALANCE, rtol=0.35)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_mosaic_packs_to_the_colours_it_was_sampled_from(cfa):
    rgb = np.broadcast_to(np.array([0.1, 0.2, 0.3], np.float32), (6, 4, 3))
    packed = pack(mosaic(rgb, cfa), cfa)
    for channel, value in zip(packed, (0.1, 0.2, 0.2, 0.3), strict=True):
        assert (channel == np.float32(value)).all()


def test_mosaic_keeps_places():
    rgb = np.arange(4 * 6 * 3, dtype=np.float32).reshape(4, 6, 3)
    frame = mosaic(rgb, "BGGR")
    assert frame[2, 4] == rgb[2, 4, 2] and frame[3, 5] == rgb[3, 5, 0] and frame[0, 1] == rgb[0, 1, 1]


def test_mosaic_names_what_is_wrong():
    with pytest.raises(ValueError, match="RGGB"):
        mosaic(np.zeros((2, 2, 3), np.float32), "RGBG")
    with pytest.raises(ValueError, match="even"):
        mosaic(np.zeros((3, 2, 3), np.float32), "RGGB")
