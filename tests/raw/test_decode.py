"""Decoding: raw files against the codes they were written from, pictures against OpenCV's own writer."""

import logging
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile
import torch

from noiseflow.errors import UserError
from noiseflow.raw.cfa import pack
from noiseflow.raw.decode import read_image, read_raw
from noiseflow.raw.dng import write_dng
from noiseflow.shot import CFA_PATTERNS

REAL = Path(__file__).parents[3] / "shared" / "real"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="the real camera files are not on this machine")
RASPBERRY = REAL / "raw" / "pidng_rpi_640x480_10bit_minhtcai_test.dng"


def codes(height=24, width=34, top=1024):
    return np.random.default_rng(0).integers(0, top, (height, width)).astype(np.uint16)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_a_dng_comes_back_in_linear_units(tmp_path, cfa):
    black = (60.5, 61.0, 62.0, 63.0)
    write_dng(tmp_path / "a.dng", codes(), cfa=cfa, black=black, white=1023, iso=800, camera="Nexus 6")
    frame = read_raw(tmp_path / "a.dng")
    assert (frame.cfa, frame.white, frame.iso, frame.camera) == (cfa, 1023.0, 800.0, "Nexus 6")
    assert frame.black.tolist() == list(black)
    assert frame.mosaic.dtype == torch.float32
    for plane, stored, level, lsb in zip(
        pack(frame.mosaic, cfa), pack(codes(), cfa), black, frame.lsb.tolist(), strict=True
    ):
        assert lsb == 1 / (1023 - level)
        expected = (stored.astype(np.float64) - level) / (1023 - level)
        # one rounding to float32 of values up to 1 in size
        np.testing.assert_allclose(plane.numpy(), expected, rtol=0, atol=2**-24)


def test_arguments_win_over_the_file_and_odd_lines_are_dropped(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.dng",
        codes(25, 35),
        photometric=32803,
        metadata=None,
        extratags=[
            (33421, 3, 2, (2, 2), True),
            (33422, 1, 4, bytes([0, 1, 1, 2]), True),
            (50706, 1, 4, bytes([1, 4, 0, 0]), True),
            (50714, 3, 1, 10, True),
            (50717, 3, 1, 4000, True),
        ],
    )
    frame = read_raw(tmp_path / "a.dng")
    assert (frame.mosaic.shape, frame.cfa) == ((24, 34), "RGGB")
    assert (frame.black.tolist(), frame.white, frame.iso, frame.camera) == ([10.0] * 4, 4000.0, None, None)
    frame = read_raw(tmp_path / "a.dng", black=64, white=1023, cfa="BGGR")
    assert (frame.black.tolist(), frame.white, frame.cfa) == ([64.0] * 4, 1023.0, "BGGR")
    expected = (codes(25, 35)[:24, :34].astype(np.float64) - 64) / (1023 - 64)
    np.testing.assert_allclose(frame.mosaic.numpy(), expected, rtol=0, atol=2**-24)
    with pytest.raises(UserError, match="cfa: expected one of"):
        read_raw(tmp_path / "a.dng", cfa="RGBG")
    with pytest.raises(UserError, match="black < white"):
        read_raw(tmp_path / "a.dng", black=1023, white=1023)
    with pytest.raises(UserError, match="one level or four"):
        read_raw(tmp_path / "a.dng", black=[1.0, 2.0])


@needs_real
def test_levels_that_the_file_does_not_say_are_asked_for():
    with pytest.raises(UserError, match=r"give --black$"):
        read_raw(RASPBERRY)
    frame = read_raw(RASPBERRY, black=64)
    assert (frame.mosaic.shape, frame.white, frame.iso, frame.camera) == ((480, 640), 1023.0, None, None)
    with pytest.raises(UserError, match="give --black and --white"):
        read_raw(REAL / "not_raw" / "emubayer_test_synthetic_bayer.dng")


@needs_real
def test_pictures_in_raw_clothing_are_refused_or_flagged(caplog):
    with pytest.raises(UserError, match=r"sample_1mp\.dng: expected a Bayer mosaic.*demosaiced"):
        read_raw(REAL / "not_raw" / "sample_1mp.dng", black=0, white=1)
    with caplog.at_level(logging.WARNING):
        read_raw(REAL / "not_raw" / "emubayer_test_synthetic_bayer.dng", black=0, white=65535)
    assert "8-bit picture" in caplog.text


def test_what_is_no_raw_file_is_refused(tmp_path):
    (tmp_path / "a.dng").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(UserError, match=r"a\.dng: expected a camera raw file"):
        read_raw(tmp_path / "a.dng")
    with pytest.raises(UserError, match=r"none\.dng"):
        read_raw(tmp_path / "none.dng")


PIXELS = {
    "grey8": np.random.default_rng(1).integers(0, 256, (5, 7)).astype(np.uint8),
    "rgb8": np.random.default_rng(2).integers(0, 256, (5, 7, 3)).astype(np.uint8),
    "grey16": np.random.default_rng(3).integers(0, 65536, (5, 7)).astype(np.uint16),
    "rgb16": np.random.default_rng(4).integers(0, 65536, (5, 7, 3)).astype(np.uint16),
    "float": np.random.default_rng(5).random((5, 7, 3)).astype(np.float32),
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("kind", ["grey8", "rgb8", "grey16", "rgb16"])
def test_pictures_come_back_as_stored_in_rgb(tmp_path, kind, suffix):
    image = PIXELS[kind]
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    else:  # tifffile writes R G B as given
        tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack")
    read = read_image(path)
    assert read.dtype == image.dtype and read.flags.c_contiguous
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i4", "f4", ">f8"])
def test_npy_comes_back_in_native_order(tmp_path, dtype):
    image = np.arange(35).reshape(5, 7).astype(dtype)
    np.save(tmp_path / "a.npy", image)
    read = read_image(tmp_path / "a.npy")
    assert read.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(read, image)
    read[0, 0] = 1  # a copy of its own, not the mapped file


def test_float_tiff_and_mat(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS["float"], photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), PIXELS["float"])
    with h5py.File(tmp_path / "a.MAT", "w") as file:
        file["x"] = PIXELS["float"][..., 0].T
    np.testing.assert_array_equal(read_image(tmp_path / "a.MAT"), PIXELS["float"][..., 0])


def damaged(path):
    """Write something that is not quite an image."""
    name = path.name
    if name == "short.png":
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8))
        path.write_bytes(path.read_bytes()[:-100])
    elif name == "alpha.png":
        cv2.imwrite(str(path), np.zeros((4, 4, 4), np.uint8))
    elif name == "object.npy":
        np.save(path, np.array([[{}, {}]], dtype=object), allow_pickle=True)
    elif name == "bomb.npy":
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
            )
    elif name == "complex.npy":
        np.save(path, np.zeros((4, 4), complex))
    elif name == "line.npy":
        np.save(path, np.zeros(4))
    elif name == "short.tif":
        tifffile.imwrite(path, np.zeros((64, 64), np.uint16))
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_bytes(b"" if name == "empty.png" else b"text" * 100)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short.png", "ends early"),
        ("alpha.png", r"expected shape \(H, W\) or \(H, W, 3\), got \(4, 4, 4\)"),
        ("empty.png", "readable picture"),
        ("text.png", "readable picture"),
        ("text.npy", "readable NPY"),
        ("object.npy", "readable NPY"),
        ("bomb.npy", "readable NPY"),
        ("complex.npy", "got complex128"),
        ("line.npy", "expected shape"),
        ("short.tif", "readable picture"),
        ("text.mat", "MAT v7.3"),
        ("text.jpg", "expected one of"),
    ],
)
def test_damaged_images_are_named(tmp_path, name, message):
    damaged(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        read_image(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.png: expected a file, got none"):
        read_image(tmp_path / "none.png")


def test_the_decoders_are_imported_only_when_needed():
    code = "import sys, noiseflow.raw.decode, noiseflow.raw.dng; print({'rawpy', 'cv2', 'tifffile'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
