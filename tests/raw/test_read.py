"""Frames of one's own camera: the codes that were written, from every kind of file, and no guess where one is mute."""

import re
import struct
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile

from noiseflow.errors import UserError
from noiseflow.raw.cfa import pack
from noiseflow.raw.codes import step_of, suspicions
from noiseflow.raw.dng import write_dng
from noiseflow.raw.frame import RawFrame
from noiseflow.raw.read import DTYPES, read_frame, read_frames

REAL = Path(__file__).parents[3] / "shared" / "real"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="the real camera files are not on this machine")


def codes(height=24, width=34, top=1024):
    return np.random.default_rng(0).integers(0, top, (height, width)).astype(np.uint16)


def test_a_camera_raw_file_says_what_it_is(tmp_path):
    black = (60.5, 61.0, 62.0, 63.0)
    write_dng(tmp_path / "a.dng", codes(), cfa="GRBG", black=black, white=1023, iso=800, camera="Nexus 6")
    frame = read_frame(tmp_path / "a.dng")
    np.testing.assert_array_equal(frame.codes, codes())
    assert (frame.cfa, frame.white, frame.iso, frame.camera) == ("GRBG", 1023.0, 800.0, "Nexus 6")
    assert frame.black.tolist() == list(black) and frame.exposure is None and frame.warnings == ()
    dng(tmp_path / "b.dng", codes(), tags=[(33434, 5, 1, (1, 50), True)])
    assert read_frame(tmp_path / "b.dng").exposure == pytest.approx(0.02, rel=1e-6)  # libraw keeps float32
    frame = read_frame(tmp_path / "a.dng", black=5, white=99, iso=50, exposure=0.25, camera="mine", cfa="BGGR")
    assert (frame.black.tolist(), frame.white, frame.iso, frame.exposure) == ([5.0] * 4, 99.0, 50.0, 0.25)
    assert (frame.camera, frame.cfa) == ("mine", "BGGR")


def dng(path, values, pattern=(2, 2), colours=bytes([0, 1, 1, 2]), tags=()):
    """A DNG that says no levels, written by tifffile."""
    cfa = [(33421, 3, 2, pattern, True), (33422, 1, len(colours), colours, True)] if pattern else []
    tifffile.imwrite(
        path, values, photometric=32803, metadata=None,
        extratags=[*cfa, (50706, 1, 4, bytes([1, 4, 0, 0]), True), *tags],
    )  # fmt: skip


def test_what_a_file_does_not_say_stays_open(tmp_path):
    dng(tmp_path / "a.dng", codes())
    frame = read_frame(tmp_path / "a.dng")
    assert (frame.black, frame.white, frame.iso, frame.exposure, frame.camera) == (None,) * 5
    for quantity in ("levels", "lsb", "mosaic"):
        with pytest.raises(UserError, match="give --black and --white"):
            getattr(frame, quantity)
    with pytest.raises(UserError, match=r"give --white$"):
        _ = read_frame(tmp_path / "a.dng", black=3).mosaic


def test_a_mono_sensor_has_one_black_level_and_odd_sides(tmp_path):
    tags = [(50714, 3, 1, 9, True), (50717, 3, 1, 1023, True)]
    dng(tmp_path / "a.dng", codes(25, 35), pattern=None, tags=tags)
    mono, linear = (struct.pack("<HHIHH", 262, 3, 1, kind, 0) for kind in (32803, 34892))
    content = (tmp_path / "a.dng").read_bytes()
    assert content.count(mono) == 1  # tifffile takes linear raw of three samples only
    (tmp_path / "a.dng").write_bytes(content.replace(mono, linear))
    frame = read_frame(tmp_path / "a.dng")
    np.testing.assert_array_equal(frame.codes, codes(25, 35))
    assert frame.cfa is None and frame.black.tolist() == [9.0]
    # one rounding to float32 of values up to 1 in size
    np.testing.assert_allclose(frame.mosaic.numpy(), (codes(25, 35) - 9.0) / 1014, rtol=0, atol=2**-24)
    with pytest.raises(UserError, match="no pattern"):
        read_frame(tmp_path / "a.dng", cfa="RGGB")


def test_x_trans_is_named(tmp_path):
    colours = bytes("RGB".index(c) for c in "GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG")
    dng(tmp_path / "a.dng", codes(36, 36), pattern=(6, 6), colours=colours)
    with pytest.raises(UserError, match=r"a\.dng: expected a 2×2 Bayer mosaic, got an X-Trans pattern"):
        read_frame(tmp_path / "a.dng")


@pytest.mark.parametrize("name", DTYPES)
def test_bare_pixels_are_read_as_they_are_said_to_be(tmp_path, name):
    kind = np.dtype(DTYPES[name])
    stack = np.random.default_rng(1).integers(0, 200, (3, 5, 8)).astype(kind)
    if kind.kind != "u":
        stack[0] -= 100  # below the pedestal that was taken off
    stack.tofile(tmp_path / "a.raw")
    said = {"size": "5x8", "dtype": name, "iso": 400, "camera": "mine"}
    frames = read_frames(tmp_path / "a.raw", cfa="mono", **said)
    assert [frame.name for frame in frames] == [f"{tmp_path / 'a.raw'}[{i}]" for i in range(3)]
    for frame, plane in zip(frames, stack, strict=True):
        np.testing.assert_array_equal(frame.codes, plane)
        assert frame.codes.dtype == (
            np.uint16 if (plane == np.abs(np.rint(plane))).all() and kind.kind != "f" else "f4"
        )
        assert (frame.iso, frame.camera, frame.cfa) == (400, "mine", None)
    bayer = read_frames(tmp_path / "a.raw", cfa="GBRG", **said)[1]
    np.testing.assert_array_equal(bayer.codes, stack[1, :4])  # the odd last row is dropped
    with pytest.raises(UserError, match="expected one frame, got 3"):
        read_frame(tmp_path / "a.raw", cfa="mono", **said)


def test_stacks_of_tiff_and_npy_and_single_mat(tmp_path):
    stack = np.stack([codes(), codes() + 1])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    np.save(tmp_path / "a.npy", stack)
    np.save(tmp_path / "b.npy", stack[0].astype(">f8") / 4096)
    cv2.imwrite(str(tmp_path / "c.tiff"), stack[0])
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["x"] = stack[0].T.astype(np.float32) / 4096
    for name in ("a.tif", "a.npy"):
        np.testing.assert_array_equal([f.codes for f in read_frames(tmp_path / name, cfa="RGGB")], stack)
    np.testing.assert_array_equal(read_frame(tmp_path / "c.tiff", cfa="RGGB").codes, stack[0])
    for name in ("b.npy", "a.mat"):
        frame = read_frame(tmp_path / name, cfa="RGGB", black=0, white=1)
        np.testing.assert_array_equal(frame.mosaic.numpy(), stack[0] / np.float32(4096))


def written(folder):
    """Files that cannot be taken for a frame, by name."""
    (folder / "bare.raw").write_bytes(codes().tobytes())
    (folder / "text.tif").write_text("text" * 100)
    (folder / "text.npy").write_text("text" * 100)
    np.save(folder / "picture.npy", np.zeros((4, 5, 3), np.uint8))
    np.save(folder / "line.npy", np.zeros(4))
    np.save(folder / "nan.npy", np.full((4, 4), np.nan))
    np.save(folder / "deep.npy", np.full((4, 4), 2**30))
    with tifffile.TiffWriter(folder / "sizes.tif") as writer:
        writer.write(codes(4, 4))
        writer.write(codes(4, 6))


@pytest.mark.parametrize(
    ("name", "said", "message"),
    [
        ("bare.raw", {}, "without a known header; headerless pixels need --size, --dtype and --cfa"),
        ("bare.raw", {"size": "24x34"}, "--dtype: expected one of uint8, uint16le"),
        ("bare.raw", {"size": "24x34", "dtype": "uint16", "cfa": "RGGB"}, "--dtype: expected one of.*got 'uint16'"),
        ("bare.raw", {"dtype": "uint16le", "cfa": "RGGB"}, "--size: expected HxW"),
        ("bare.raw", {"size": "24", "dtype": "uint16le", "cfa": "RGGB"}, "--size: expected HxW.*got '24'"),
        ("bare.raw", {"size": "24x34", "dtype": "uint16le"}, "give --cfa"),
        ("bare.raw", {"size": "24x30", "dtype": "uint16le", "cfa": "RGGB"}, "whole frames.*got 1632 bytes"),
        ("bare.raw", {"size": "24x34", "dtype": "uint16le", "cfa": "RGBG"}, "cfa: expected one of"),
        ("bare.raw", {"size": "24x34", "dtype": "uint16le", "cfa": "RGGB", "iso": 0}, "expected iso above 0"),
        ("bare.raw", {"size": "24x34", "dtype": "uint16le", "cfa": "RGGB", "black": [1, 2]}, "one level or four"),
        ("bare.raw", {"size": "24x34", "dtype": "float32le", "cfa": "RGGB"}, "whole frames"),
        ("text.tif", {"cfa": "RGGB"}, "readable TIFF"),
        ("text.npy", {"cfa": "RGGB"}, "readable NPY"),
        ("picture.npy", {"cfa": "RGGB"}, "a picture of 3 channels"),
        ("nan.npy", {}, "give --cfa"),
        ("line.npy", {"cfa": "RGGB"}, "expected shape"),
        ("nan.npy", {"cfa": "RGGB"}, "NaN"),
        ("deep.npy", {"cfa": "RGGB"}, "at most 24 bits"),
        ("sizes.tif", {"cfa": "RGGB"}, "pages of one size"),
        ("none.dng", {}, "expected a file, got none"),
    ],
)
def test_what_cannot_be_read_says_what_it_needs(tmp_path, name, said, message):
    written(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read_frames(tmp_path / name, **said)
    assert name in str(caught.value) or "cfa:" in str(caught.value) or "black:" in str(caught.value)


def scene(size=512, top=4000):
    """A smooth scene with shot noise, whole DN."""
    ramp = np.linspace(20, top, size)[:, None] * np.linspace(0.2, 1, size)
    return np.random.default_rng(3).poisson(ramp).astype(np.uint16)


def companded(values, white=4095):
    """Through a square-root table of 12 to 8 bits and back, as lossy raw formats do."""
    table = np.rint(np.sqrt(values / white) * 255)
    return np.rint((table / 255) ** 2 * white).astype(np.uint16)


def test_companding_shows_in_the_gaps_between_codes():
    assert suspicions([scene()], 4095) == []
    (reason,) = suspicions([companded(scene())], 4095)
    apart = [float(n) for n in re.findall(r"codes lie (\S+) apart in the dark and (\S+) apart", reason)[0]]
    # the derivative of the way back, 2·√(x·white)/255, at the ends of the scene: x = 4 and 4000 and some
    assert apart[0] <= 3 and 24 <= apart[1] <= 2 * np.sqrt(4300 * 4095) / 255 + 1


@pytest.mark.parametrize("kind", ["shifted", "scaled", "dark", "flat", "few", "corrected", "clipped", "float"])
def test_nothing_is_suspected_of_what_sensors_write(kind):
    rng = np.random.default_rng(4)
    values = {
        "shifted": scene(top=900) * 64,  # 10 bits at the top of 16
        "scaled": np.rint(scene() * 1.37),  # digital gain: every third gap is longer, everywhere
        "dark": np.rint(rng.normal(512, 3, (256, 256))),
        "flat": rng.poisson(3000, (256, 256)),
        "few": rng.poisson(np.linspace(10, 16000, 60)[:, None] * np.ones(60)),
        "corrected": np.where(rng.random((512, 512)) < 0.001, scene(), scene() // 4 * 4),
        "clipped": np.clip(scene() * 4.0, 900, 4095),
        "float": scene() / 4095.0,
    }[kind]
    assert suspicions([values], 65535 if kind == "shifted" else None) == []


def test_an_8_bit_picture_in_a_larger_container_is_suspected():
    picture = np.random.default_rng(5).integers(0, 256, (64, 64))
    for factor, white in ((256, 65535), (257, 65535), (16, 4095), (16, None)):
        (reason,) = suspicions([picture * factor], white)
        assert f"every {factor}th: probably an 8-bit picture" in reason
    assert suspicions([picture], 255) == []  # a sensor of 8 bits


def test_the_step_of_codes_is_their_greatest_common_distance():
    assert step_of([np.array([7, 11, 19]), np.array([15, 7])]) == 4
    assert step_of([np.array([7.5, 8.0])]) == 1 and step_of([np.array([3])]) == 1


@needs_real
def test_real_files_of_every_kind():
    pi = read_frame(REAL / "raw" / "pidng_rpi_640x480_10bit_minhtcai_test.dng")
    assert (pi.codes.shape, pi.cfa, pi.black, pi.white, pi.iso) == ((480, 640), "GBRG", None, 1023.0, None)
    assert pi.warnings == ()
    chart = REAL / "raw" / "infinite_isp_ColorCheckerRAW_1920x1080_12bit_BGGR_le16.raw"
    with pytest.raises(UserError, match="headerless pixels need --size, --dtype and --cfa"):
        read_frame(chart)  # libraw opens it: by its size it takes it for some camera's
    frame = read_frame(chart, size="1080x1920", dtype="uint16le", cfa="BGGR", white=4095)
    assert frame.warnings == ()
    assert [step_of([plane[plane % 4 == 0]]) for plane in pack(frame.codes, "BGGR")] == [4] * 4
    burst = read_frames(REAL / "burst" / "sample_11f_256x256_be16.dax", size="256x256", dtype="uint16be", cfa="mono")
    assert len(burst) == 11 and all(95 < np.median(f.codes) < 130 for f in burst)


@needs_real
def test_real_pictures_in_raw_clothing():
    with pytest.raises(UserError, match=r"sample_1mp\.dng: expected a Bayer mosaic.*demosaiced"):
        read_frame(REAL / "not_raw" / "sample_1mp.dng")
    (reason,) = read_frame(REAL / "not_raw" / "emubayer_test_synthetic_bayer.dng").warnings
    assert "8-bit picture" in reason and "every 256th" in reason


def test_a_frame_is_compared_by_identity():
    assert RawFrame.of("a", codes()) != RawFrame.of("a", codes())
