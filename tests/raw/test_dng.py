"""DNGs that we write, read back by rawpy (libraw) and by tifffile, neither of which we wrote."""

import shutil
import subprocess

import numpy as np
import pytest
import rawpy
import tifffile

from noiseflow.calibration.exchange import read_noise_profile
from noiseflow.raw.decode import read_raw
from noiseflow.raw.dng import write_dng
from noiseflow.raw.read import read_frame
from noiseflow.shot import CFA_PATTERNS

EXIFTOOL = shutil.which("exiftool")

LEVELS = {"black": 64.25, "white": 1023, "iso": 3200, "camera": "S6"}


def codes(height=24, width=34):
    return np.random.default_rng(0).integers(0, 65536, (height, width)).astype(np.uint16)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_libraw_reads_back_the_same_mosaic(tmp_path, cfa):
    write_dng(tmp_path / "a.dng", codes(), cfa=cfa, **LEVELS)
    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        assert raw.raw_type == rawpy.RawType.Flat
        np.testing.assert_array_equal(raw.raw_image_visible, codes())
        letters = raw.color_desc.decode()
        assert "".join(letters[n] for n in raw.raw_colors_visible[:2, :2].flat) == cfa
        assert raw.white_level == 1023
        assert raw.black_level_per_channel == [64] * 4  # libraw keeps whole numbers only
        if hasattr(raw, "other"):
            assert raw.other.iso_speed == 3200
        assert raw.postprocess().shape[2] == 3


def test_tags_say_what_was_given(tmp_path):
    black = (1.5, 2.0, 3.0, 4.0)  # R, G on R rows, G on B rows, B
    write_dng(
        tmp_path / "a.dng",
        codes(),
        cfa="GBRG",
        **LEVELS | {"black": black},
        noise_profile=(1e-3, 2e-6),
    )
    with tifffile.TiffFile(tmp_path / "a.dng") as file:
        tags = file.pages.first.tags
        assert tags[33422].value == bytes([1, 2, 0, 1])
        levels = np.array(tags[50714].value).reshape(4, 2)
        # cell of GBRG row by row: G beside B, B, R, G beside R
        np.testing.assert_array_equal(levels[:, 0] / levels[:, 1], [3.0, 4.0, 1.5, 2.0])
        assert tags[50717].value == 1023
        assert tags[50708].value == "S6"
        assert tags[34665].value["ISOSpeedRatings"] == 3200
        assert tags[51041].value == (1e-3, 2e-6) * 3


@pytest.mark.parametrize("iso", [1, 65535, 65536, 102400, 3276800])
def test_every_iso_is_read_back(tmp_path, iso):
    write_dng(tmp_path / "a.dng", codes(), cfa="RGGB", **LEVELS | {"iso": iso})
    assert read_raw(tmp_path / "a.dng").iso == iso
    with tifffile.TiffFile(tmp_path / "a.dng") as file:
        exif = file.pages.first.tags[34665].value
    assert exif["ISOSpeedRatings"] == min(iso, 65535)
    assert exif.get("ISOSpeed") == exif.get("RecommendedExposureIndex") == (iso if iso > 65535 else None)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_every_pattern_and_depth_comes_back_to_the_last_bit(tmp_path, cfa, bits):
    """Through libraw and through exiftool, both by other people."""
    white = 2**bits - 1
    stored = np.random.default_rng(bits).integers(0, 2**bits, (26, 38)).astype(np.uint16)
    stored[:2, :2] = [[0, white], [white, 0]]
    black = (white // 16 + 0.25, white // 16 + 1, white // 16 + 2.5, white // 16 + 3)
    path = tmp_path / "a.dng"
    write_dng(path, stored, cfa=cfa, black=black, white=white, iso=400, camera="S6", noise_profile=(1e-3, 2e-6))
    frame = read_frame(path)
    np.testing.assert_array_equal(frame.codes, stored)
    assert (frame.cfa, frame.white, frame.iso, frame.camera) == (cfa, white, 400, "S6")
    assert frame.black.tolist() == list(black)
    assert read_noise_profile(path) == ((1e-3, 2e-6),) * 3
    with rawpy.imread(str(path)) as raw:
        np.testing.assert_array_equal(raw.raw_image_visible, stored)
        assert raw.white_level == white
        letters = raw.color_desc.decode()
        assert "".join(letters[n] for n in raw.raw_colors_visible[:2, :2].flat) == cfa
    if EXIFTOOL is None:
        pytest.skip("exiftool is not on this machine")
    said = subprocess.run(
        [EXIFTOOL, "-validate", "-warning", "-error", "-a", "-s", "-CFAPattern", path], capture_output=True, text=True
    )
    assert "Validate                        : OK" in said.stdout, said.stdout
    assert "Warning" not in said.stdout and "Error" not in said.stdout
    names = {"R": "Red", "G": "Green", "B": "Blue"}
    top, bottom = ([names[letter] for letter in half] for half in (cfa[:2], cfa[2:]))
    assert f"[{','.join(top)}][{','.join(bottom)}]" in said.stdout


def test_equal_content_is_equal_bytes(tmp_path):
    for name in ("a.dng", "b.dng"):
        write_dng(tmp_path / name, codes(), cfa="RGGB", **LEVELS)
    assert (tmp_path / "a.dng").read_bytes() == (tmp_path / "b.dng").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mosaic_codes": codes().astype(np.int32)}, "uint16"),
        ({"mosaic_codes": codes(3, 4)}, "even sides"),
        ({"black": -1}, "black"),
        ({"black": 1023}, "black"),
        ({"black": (1.0, 2.0)}, "black"),
        ({"white": 70000}, "white"),
        ({"white": 1000.5}, "whole white"),
        ({"iso": 0}, "iso"),
        ({"iso": 2**32}, "iso"),
        ({"cfa": "RGBG"}, "cfa"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, change, message):
    arguments = {"mosaic_codes": codes(), "cfa": "RGGB", **LEVELS} | change
    with pytest.raises(ValueError, match=message):
        write_dng(tmp_path / "a.dng", **arguments)
    assert not (tmp_path / "a.dng").exists()
