"""Frames that do not fit together are refused with a sentence."""

import numpy as np
import pytest

from noiseflow.calibration.darks import code_step
from noiseflow.calibration.frames import FrameSet
from noiseflow.errors import UserError

DARKS = np.zeros((3, 32, 32), np.uint16)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"iso": 0}, "positive ISO"),
        ({"cfa": "RGB"}, "expected a CFA"),
        ({"darks": DARKS, "black": (64.0, 64.0)}, "one black level"),
        ({"darks": DARKS, "exposures": (0.1,)}, "exposure"),
        ({"flats": (DARKS,)}, "a flat pair"),
        ({"bursts": (DARKS[:1],)}, "a burst"),
        ({"singles": (DARKS,)}, "single pictures"),
        ({"darks": DARKS[:, :31], "cfa": "RGGB"}, "even for a mosaic"),
        ({"darks": DARKS[:, :8]}, "at least 16"),
        ({"darks": DARKS, "singles": (DARKS[0, :20],)}, "one size"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        FrameSet(**{"iso": 100, **arguments})


def test_planes_are_packed_channels_or_the_frame_itself():
    mosaic = np.arange(32 * 32).reshape(32, 32)
    assert FrameSet(100).planes(mosaic).shape == (1, 32, 32)
    planes = FrameSet(100, cfa="BGGR").planes(mosaic)
    assert planes[:, 0, 0].tolist() == [33, 32, 1, 0]
    np.testing.assert_array_equal(FrameSet(100, cfa="BGGR", black=(7.0,)).blacks, [7, 7, 7, 7])


@pytest.mark.parametrize(("codes", "step"), [([64, 68, 76], 4.0), ([5], 1.0), ([3, 4, 9], 1.0), ([0.0, 16.0], 16.0)])
def test_the_step_divides_all_distances(codes, step):
    assert code_step([np.array(codes)]) == step


def test_fractions_are_no_codes():
    with pytest.raises(UserError, match="whole codes"):
        code_step([np.array([0.25, 1.0])])
