"""All five virtual phones, four CFA patterns among them, are read as R, G, G, B."""

import h5py
import numpy as np
import pytest

from noiseflow.datasets import open_dataset
from noiseflow.sensors import PHONES
from noiseflow.simulate import simulate

SITES = {  # row and column in the 2×2 cell of: R, the G beside R, the G beside B, B; written down from the patterns
    "RGGB": ((0, 0), (0, 1), (1, 0), (1, 1)),
    "BGGR": ((1, 1), (1, 0), (0, 1), (0, 0)),
    "GRBG": ((0, 1), (0, 0), (1, 1), (1, 0)),
    "GBRG": ((1, 0), (1, 1), (0, 0), (0, 1)),
}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    root = tmp_path_factory.mktemp("phones") / "tree"
    simulate(root, isos=[100], scenes=1, size=(48, 64), seed=4)
    return open_dataset(root).frames


def test_every_phone_is_there_with_its_pattern(frames):
    assert {frame.camera: frame.cfa for frame in frames} == {
        "IP": "RGGB", "GP": "BGGR", "S6": "GRBG", "N6": "GBRG", "G4": "BGGR",
    }  # fmt: skip
    assert set(SITES) == {frame.cfa for frame in frames}


def test_channels_are_r_g_g_b(frames):
    for frame in frames:
        pair = frame.read()
        for kind, image in (("NOISY", pair.noisy), ("GT", pair.clean)):
            (file,) = (f for f in frame.files if f"_{kind}_RAW_" in f.name)
            with h5py.File(file) as stored:
                mosaic = stored["x"][()].T
            for channel, (row, column) in enumerate(SITES[PHONES[frame.camera].cfa]):
                expected = mosaic[row::2, column::2]
                assert np.abs(image[channel].numpy() - expected).max() < 1e-6, (frame.camera, kind, channel)


def test_all_phones_see_the_same_colours(frames):
    """One scene: the same channel of every phone is the same picture, half a pixel apart at most."""
    means = np.array([frame.read().clean.mean(dim=(1, 2)).numpy() for frame in frames])
    red, green_r, green_b, blue = means.T
    assert np.ptp(red) < 0.03 * red.mean()
    assert np.ptp(np.concatenate([green_r, green_b])) < 0.03 * green_r.mean()
    assert np.ptp(blue) < 0.03 * blue.mean()
    assert abs(red.mean() - green_r.mean()) > 0.1 * green_r.mean()  # a swap would be seen
