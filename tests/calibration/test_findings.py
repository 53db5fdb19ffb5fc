"""Each spoiled set is given the name of what spoiled it, and a good set none."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from virtual import BLACK, codes, frames, sensor

from noiseflow.calibration import FrameSet, calibrate
from noiseflow.calibration.frames import FloatArray

CAMERA = sensor()
SIZE = 128
ISO = 100
SIGMA = CAMERA.read_noise_dn(ISO)


def lit(*lights: FloatArray) -> tuple[np.ndarray, ...]:
    """A stack of frames of each light `(N, H, W)`."""
    return tuple(codes(CAMERA, light, ISO, np.random.default_rng([7, k])) for k, light in enumerate(lights))


def filtered(stack: np.ndarray) -> np.ndarray:
    out = stack.astype(float)
    for row in range(2):
        for column in range(2):
            plane = out[:, row::2, column::2]
            plane += 0.3 * (ndimage.uniform_filter(plane, (0, 3, 3)) - plane)
    return np.rint(out).astype(np.uint16)


def denoised(group: FrameSet) -> FrameSet:
    return dataclasses.replace(group, darks=filtered(group.darks), flats=tuple(filtered(f) for f in group.flats))


def clipped_black(group: FrameSet) -> FrameSet:
    return dataclasses.replace(group, darks=np.maximum(group.darks, BLACK) - BLACK)


def light_leak(group: FrameSet) -> FrameSet:
    glow = 2 * SIGMA / CAMERA.max_code * np.linspace(0, 1, SIZE) * np.ones((4, SIZE, 1))
    return dataclasses.replace(group, darks=lit(glow)[0])


def flicker(group: FrameSet) -> FrameSet:
    pair = 0.4 * np.array([1.0, 1.02])[:, None, None] * np.ones((SIZE, SIZE))
    return dataclasses.replace(group, flats=(group.flats[0], group.flats[1], *lit(pair), group.flats[3]))


def bands(group: FrameSet) -> FrameSet:
    wave = np.sin(np.arange(SIZE)[:, None] / 10 + np.array([0.0, 2.0])[:, None, None])
    return dataclasses.replace(
        group, flats=(*group.flats[:3], *lit(0.6 * (1 + 0.02 * wave) * np.ones((1, SIZE, SIZE))))
    )


def moved(group: FrameSet) -> FrameSet:
    x = np.arange(SIZE) + np.array([0.0, 0.8])[:, None]
    scene = 0.3 + 0.2 * np.sin(x / 9)[:, None, :] * np.ones((1, SIZE, 1))
    return dataclasses.replace(group, bursts=lit(scene))


def mixed_pair(group: FrameSet) -> FrameSet:
    other = codes(CAMERA, np.full((2, SIZE, SIZE), 0.2), 2 * ISO, np.random.default_rng(8))
    return dataclasses.replace(group, flats=(*group.flats, other))


def mixed_dark(group: FrameSet) -> FrameSet:
    darks = group.darks.copy()
    darks[2] = codes(CAMERA, np.zeros((SIZE, SIZE)), 2 * ISO, np.random.default_rng(9))
    return dataclasses.replace(group, darks=darks)


def lens_shading(group: FrameSet) -> FrameSet:
    y, x = np.indices((SIZE, SIZE)) / SIZE - 0.5
    fall = (1 - y**2 - x**2) * np.ones((2, 1, 1))
    return dataclasses.replace(group, flats=lit(*(level * fall for level in (0.05, 0.15, 0.4, 0.7))))


def black_drift(group: FrameSet) -> FrameSet:
    drift = np.rint(SIGMA * np.arange(4)).astype(np.uint16)[:, None, None]
    return dataclasses.replace(group, darks=group.darks + drift)


def odd_pixels(group: FrameSet) -> FrameSet:
    darks = group.darks.copy()
    darks[:, ::16, ::20] += 400
    return dataclasses.replace(group, darks=darks)


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (denoised, "denoised"),
        (clipped_black, "clipped black"),
        (light_leak, "light leak"),
        (flicker, "flicker"),
        (bands, "flicker"),
        (moved, "moved"),
        (mixed_pair, "mixed ISO"),
        (mixed_dark, "mixed ISO"),
        (lens_shading, "lens shading"),
        (black_drift, "black drift"),
        (odd_pixels, "odd pixels"),
    ],
)
def test_a_fault_is_called_by_its_name(spoil, kind):
    found = calibrate([spoil(frames(CAMERA, ISO, size=SIZE))]).findings
    assert {finding.kind for finding in found} == {kind}
    assert found[0].iso == ISO and found[0].evidence
    assert all(type(value) is float for value in found[0].evidence.values())


@pytest.mark.parametrize("seed", range(20, 26))
def test_good_frames_raise_no_alarm(seed):
    scene = 0.3 + 0.2 * np.sin(np.arange(SIZE) / 9) * np.ones((3, SIZE, 1))
    group = dataclasses.replace(frames(CAMERA, ISO, size=SIZE, seed=seed), bursts=lit(scene))
    assert calibrate([group]).findings == ()


def test_a_burst_that_moved_is_left_out_of_the_gain():
    group = moved(frames(CAMERA, ISO, size=SIZE))
    with_burst, without = calibrate([group]), calibrate([dataclasses.replace(group, bursts=())])
    assert with_burst.profile.isos[ISO].gain_dn_per_e == without.profile.isos[ISO].gain_dn_per_e
