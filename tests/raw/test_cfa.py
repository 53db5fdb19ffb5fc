"""Packing against an explicit loop over pixels; mirrors and crops against what they must keep."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from noiseflow.raw.cfa import crop, mirror, mirror_packed, pack, sites, unpack
from noiseflow.shot import CFA_PATTERNS

even = st.integers(1, 5).map(lambda n: 2 * n)
patterns = st.sampled_from(CFA_PATTERNS)


@st.composite
def mosaics(draw, smallest=2):
    height, width = draw(even) + smallest - 2, draw(even) + smallest - 2
    # every pixel its own number, so that no misplaced pixel can hide
    offset = draw(st.integers(0, 1000))
    return np.arange(offset, offset + height * width, dtype=np.int64).reshape(height, width)


def pack_by_loop(mosaic, cfa):
    """Pixel by pixel, from the definition: colour of the pixel, and for green the red in its row."""
    height, width = mosaic.shape
    packed = np.full((4, height // 2, width // 2), -1, dtype=mosaic.dtype)
    for i in range(height):
        row = [cfa[2 * (i % 2) + j % 2] for j in range(width)]
        for j in range(width):
            if row[j] == "R":
                channel = 0
            elif row[j] == "B":
                channel = 3
            else:
                channel = 1 if "R" in row else 2
            packed[channel, i // 2, j // 2] = mosaic[i, j]
    return packed


@given(mosaics(), patterns)
def test_pack_is_the_loop_over_pixels_and_unpack_its_inverse(mosaic, cfa):
    expected = pack_by_loop(mosaic, cfa)
    np.testing.assert_array_equal(pack(mosaic, cfa), expected)
    np.testing.assert_array_equal(pack(torch.from_numpy(mosaic), cfa).numpy(), expected)
    np.testing.assert_array_equal(unpack(expected, cfa), mosaic)
    np.testing.assert_array_equal(unpack(torch.from_numpy(expected), cfa).numpy(), mosaic)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 2), even, even)), patterns)
def test_leading_dimensions_and_bits_survive(mosaic, cfa):
    packed = pack(mosaic, cfa)
    assert packed.shape == (*mosaic.shape[:2], 4, mosaic.shape[2] // 2, mosaic.shape[3] // 2)
    assert unpack(packed, cfa).tobytes() == mosaic.tobytes()


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_a_mosaic_of_constant_colours_becomes_constant_planes(cfa):
    mosaic = np.zeros((6, 8))
    level = {"R": 10.0, "G": 20.0, "B": 30.0}
    for i in range(6):
        for j in range(8):
            mosaic[i, j] = level[cfa[2 * (i % 2) + j % 2]]
    for plane, expected in zip(pack(mosaic, cfa), (10.0, 20.0, 20.0, 30.0), strict=True):
        assert (plane == expected).all()


@given(mosaics(smallest=4), patterns, st.booleans(), st.booleans())
def test_mirror_keeps_the_pattern_and_equals_its_packed_form(mosaic, cfa, vertical, horizontal):
    height, width = mosaic.shape
    colours = np.array([[ord(cfa[2 * (i % 2) + j % 2]) for j in range(width)] for i in range(height)])
    mirrored = mirror(mosaic, vertical=vertical, horizontal=horizontal)
    shape = (height - 2 * vertical, width - 2 * horizontal)
    assert mirrored.shape == shape
    np.testing.assert_array_equal(
        mirror(colours, vertical=vertical, horizontal=horizontal), colours[: shape[0], : shape[1]]
    )
    # the oracle for where each pixel came from: numpy's plain reversal of the inner lines
    inner = mosaic[1:-1] if vertical else mosaic
    inner = inner[:, 1:-1] if horizontal else inner
    expected = inner[:: -1 if vertical else 1, :: -1 if horizontal else 1]
    np.testing.assert_array_equal(mirrored, expected)
    packed = mirror_packed(pack(mosaic, cfa), cfa, vertical=vertical, horizontal=horizontal)
    np.testing.assert_array_equal(packed, pack_by_loop(expected, cfa))
    as_tensor = mirror_packed(torch.from_numpy(pack(mosaic, cfa)), cfa, vertical=vertical, horizontal=horizontal)
    np.testing.assert_array_equal(as_tensor.numpy(), packed)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_mirror_keeps_a_ramp_straight(cfa):
    # a horizontal ramp mirrored is a falling ramp of slope -1 between *neighbouring* mosaic pixels
    ramp = torch.arange(12.0).expand(6, 12)
    mosaic = unpack(mirror_packed(pack(ramp, cfa), cfa, horizontal=True), cfa)
    assert (mosaic.diff(dim=1) == -1).all()


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_crop_keeps_the_pattern(cfa):
    mosaic = np.arange(8 * 10).reshape(8, 10)
    part = crop(mosaic, 2, 4, 4, 6)
    np.testing.assert_array_equal(pack(part, cfa), pack(mosaic, cfa)[:, 1:3, 2:5])


def test_what_would_break_the_pattern_is_refused():
    with pytest.raises(ValueError, match="even H and W, got \\(3, 4\\)"):
        pack(np.zeros((3, 4)), "RGGB")
    with pytest.raises(ValueError, match="even H and W"):
        mirror(np.zeros((4, 5)), horizontal=True)
    with pytest.raises(ValueError, match="expected \\(…, 4, h, w\\), got \\(3, 2, 2\\)"):
        unpack(torch.zeros(3, 2, 2), "RGGB")
    with pytest.raises(ValueError, match="expected \\(…, 4, h, w\\)"):
        mirror_packed(torch.zeros(3, 2, 2), "RGGB", vertical=True)
    with pytest.raises(ValueError, match="RGGB, BGGR, GRBG, GBRG, got 'RGBG'"):
        sites("RGBG")
    with pytest.raises(ValueError, match="even rectangle"):
        crop(np.zeros((8, 8)), 1, 0, 4, 4)
    with pytest.raises(ValueError, match="inside 8×8"):
        crop(np.zeros((8, 8)), 4, 0, 6, 4)
