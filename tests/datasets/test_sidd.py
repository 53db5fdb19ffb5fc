"""SIDD trees: what is read is what was written, pixel by pixel, for all four patterns."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sidd_tree import PATTERNS, write_mat, write_metadata, write_sidd

from noiseflow.datasets import collate, open_dataset
from noiseflow.errors import UserError

NAMES = {"IP": "RGGB", "GP": "BGGR", "S6": "GRBG", "N6": "GBRG"}


def loop_packed(mosaic, pattern):
    """Packed channels from a 2×2 cell of DNG numbers (0 R, 1 G, 2 B), one pixel at a time."""
    packed = np.zeros((4, mosaic.shape[0] // 2, mosaic.shape[1] // 2))
    for i in range(mosaic.shape[0]):
        for j in range(mosaic.shape[1]):
            colour, row = pattern[2 * (i % 2) + j % 2], pattern[2 * (i % 2) : 2 * (i % 2) + 2]
            channel = {0: 0, 2: 3}.get(colour, 1 if 0 in row else 2)
            packed[channel, i // 2, j // 2] = mosaic[i, j]
    return packed


def test_raw_frames_hold_the_written_codes(four_phones):
    dataset = open_dataset(four_phones.root)
    assert (dataset.domain, dataset.truth, dataset.sensor) == ("raw", "mean", None)
    assert len(dataset.frames) == 8
    assert dataset.conditions == (("GP", 800.0), ("IP", 400.0), ("N6", 3200.0), ("S6", 100.0))
    for frame in dataset.frames:
        pattern, black, white = PATTERNS[frame.camera]
        assert (frame.cfa, frame.channels, frame.size) == (NAMES[frame.camera], 4, (12, 20))
        pair = frame.read()
        lsb = 1 / (white - black)
        assert pair.lsb.tolist() == [lsb] * 4
        assert (pair.low.tolist(), pair.high.tolist()) == ([0.0] * 4, [1.0] * 4)
        codes = loop_packed(four_phones.codes[frame.name], pattern)
        # snapped: exactly the float32 of k·lsb
        np.testing.assert_array_equal(pair.noisy.numpy(), (codes * lsb).astype(np.float32))
        clean = loop_packed(four_phones.clean[frame.name], pattern)
        np.testing.assert_array_equal(pair.clean.numpy(), clean.astype(np.float32))
        assert pair.clean.min() < 0 and pair.clean.max() > 1  # neither clipped nor rounded


def test_a_rectangle_is_the_same_part_of_the_whole(four_phones):
    for frame in open_dataset(four_phones.root).frames[:2]:
        whole, part = frame.read(), frame.read(3, 5, 7, 11)
        assert torch.equal(part.noisy, whole.noisy[:, 3:10, 5:16])
        assert torch.equal(part.clean, whole.clean[:, 3:10, 5:16])
        assert part.origin == (3, 5)
        with pytest.raises(ValueError, match="inside 12×20"):
            frame.read(6, 0, 7, 4)


def test_names_come_from_the_folder(four_phones):
    frame = open_dataset(four_phones.root).frames[-1]
    assert frame.name == "0005_002_N6_03200_00060_3200_L/011"
    assert (frame.scene, frame.camera, frame.iso) == ("002", "N6", 3200.0)
    assert [path.name for path in frame.files] == [
        "0005_NOISY_RAW_011.MAT",
        "0005_GT_RAW_011.MAT",
        "0005_METADATA_RAW_011.MAT",
    ]
    pair = frame.read(0, 0, 2, 2)
    assert (pair.name, pair.scene, pair.camera, pair.iso, pair.cfa) == (
        frame.name,
        "002",
        "N6",
        3200.0,
        "GBRG",
    )


def test_the_data_folder_itself_will_do(four_phones):
    outer, inner = open_dataset(four_phones.root), open_dataset(four_phones.root / "Data")
    assert [f.name for f in inner.frames] == [f.name for f in outer.frames]
    assert inner.root_hash() == outer.root_hash()


def test_srgb_frames_hold_the_written_pictures(four_phones):
    dataset = open_dataset(four_phones.root, domain="srgb")
    assert (dataset.domain, len(dataset.frames)) == ("srgb", 8)
    for frame in dataset.frames:
        assert (frame.cfa, frame.channels, frame.size) == (None, 3, (24, 40))
        pair = frame.read(1, 2, 20, 30)
        for image, kind in ((pair.noisy, "NOISY"), (pair.clean, "GT")):
            codes = four_phones.codes[f"{frame.name}/{kind}"][1:21, 2:32].transpose(2, 0, 1)
            np.testing.assert_array_equal(image.numpy(), (codes / 255).astype(np.float32))
        assert pair.lsb.tolist() == [1 / 255] * 3


def test_srgb_is_taken_where_there_is_no_raw(four_phones):
    for path in four_phones.root.rglob("*RAW*"):
        path.unlink()
    assert open_dataset(four_phones.root).domain == "srgb"
    with pytest.raises(UserError, match="expected raw frames"):
        open_dataset(four_phones.root, domain="raw")


def test_collate_builds_a_shot_with_a_condition_in_every_row(four_phones):
    frames = open_dataset(four_phones.root).frames[::2]
    noisy, shot = collate([frame.read(1, 2, 4, 6) for frame in frames])
    assert noisy.shape == shot.clean.shape == (4, 4, 4, 6)
    assert shot.camera_names == tuple(frame.camera for frame in frames)
    assert shot.iso.tolist() == [frame.iso for frame in frames]
    assert shot.cfa == tuple(frame.cfa for frame in frames)
    torch.testing.assert_close(shot.lsb[:, 0], torch.stack([f.lsb[0] for f in frames]).float())
    assert shot.origin.tolist() == [[1, 2]] * 4
    with pytest.raises(UserError, match="one shape"):
        collate([frames[0].read(0, 0, 2, 2), frames[0].read(0, 0, 2, 4)])
    with pytest.raises(UserError, match="at least one"):
        collate([])


def test_a_frame_survives_pickling_after_use(four_phones):
    frame = open_dataset(four_phones.root).frames[0]
    pair = frame.read()
    again = pickle.loads(pickle.dumps(frame)).read()
    assert torch.equal(again.noisy, pair.noisy)


def one_instance(tmp_path, **options):
    return write_sidd(tmp_path / "sidd", [(1, 1, "S6", 100)], **options)


def path_of(written, kind, number="010"):
    return next(written.root.rglob(f"*_{kind}_RAW_{number}.MAT"))


def test_values_off_the_lattice_are_not_quantised_anywhere_in_the_frame(tmp_path, caplog):
    written = one_instance(tmp_path, size=(200, 40))
    off = written.codes["0001_001_S6_00100_00060_3200_L/010"] / 1023
    off[100, 7] += 0.3 / 1023  # one value in the middle strip
    write_mat(path_of(written, "NOISY"), off.astype(np.float32))
    first, second = open_dataset(written.root).frames
    with caplog.at_level(logging.WARNING):
        corner = first.read(0, 0, 4, 4)
    assert "fall" in caplog.text and "0001_NOISY_RAW_010.MAT" in caplog.text
    assert corner.lsb.tolist() == [0.0] * 4 and first.read(48, 0, 4, 4).lsb.tolist() == [0.0] * 4
    assert first.read().noisy[:, 50, 3].allclose(torch.tensor(off[100:102, 6:8][[0, 0, 1, 1], [1, 0, 1, 0]]).float())
    assert second.lsb.tolist() == [1 / 1023] * 4


def test_a_black_middle_does_not_decide_the_lattice(tmp_path):
    written = one_instance(tmp_path, size=(400, 20))
    off = np.random.default_rng(0).random((400, 20), dtype=np.float32)
    off[100:300] = 0
    write_mat(path_of(written, "NOISY"), off)
    assert open_dataset(written.root).frames[0].lsb.tolist() == [0.0] * 4


def test_a_frame_that_was_not_clipped_is_not_said_to_be(tmp_path):
    written = one_instance(tmp_path)
    values = np.random.default_rng(0).normal(0.2, 0.3, (24, 40)).astype(np.float32)
    write_mat(path_of(written, "NOISY"), values)
    pair = open_dataset(written.root).frames[0].read()
    assert pair.low.max() < values.min() and pair.noisy.min() == values.min()


def test_missing_levels_are_asked_for_and_given_ones_win(tmp_path):
    written = one_instance(tmp_path)
    write_metadata(path_of(written, "METADATA"), [1, 0, 2, 1], None, None, 100)
    with pytest.raises(UserError, match=r"METADATA_RAW_010\.MAT.*--black and --white"):
        open_dataset(written.root).frames[0].read()
    with pytest.raises(UserError, match=r"give --black$"):
        open_dataset(written.root, white=1023).frames[0].read()
    frames = open_dataset(written.root, black=0, white=1023).frames
    assert frames[0].lsb.tolist() == [1 / 1023] * 4
    assert open_dataset(written.root, black=0, white=2046).frames[1].lsb.tolist() == [1 / 2046] * 4
    with pytest.raises(UserError, match="black < white"):
        open_dataset(written.root, black=9, white=9).frames[0].read()


def test_the_only_truth_of_an_instance_serves_all_its_frames(tmp_path):
    written = one_instance(tmp_path, frames=("010", "011", "012"))
    for number in ("011", "012"):
        path_of(written, "GT", number).unlink()
        path_of(written, "METADATA", number).unlink()
    frames = open_dataset(written.root).frames
    assert [frame.name[-3:] for frame in frames] == ["010", "011", "012"]
    assert torch.equal(frames[2].read().clean, frames[0].read().clean)


def test_a_missing_truth_is_named(tmp_path):
    written = one_instance(tmp_path, frames=("010", "011", "012"))
    path_of(written, "GT", "011").unlink()
    with pytest.raises(UserError, match=r"0001_GT_RAW_011\.MAT: expected the clean frame"):
        open_dataset(written.root)
    shutil.copy(path_of(written, "GT", "010"), path_of(written, "GT", "010").with_name("0001_GT_RAW_011.MAT"))
    for path in written.root.rglob("*METADATA*"):
        path.unlink()
    with pytest.raises(UserError, match=r"0001_METADATA_RAW_010\.MAT.*and 2 more"):
        open_dataset(written.root)


def test_frames_one_folder_down_are_found(tmp_path):
    written = one_instance(tmp_path)
    expected = open_dataset(written.root).frames[1].read()
    for path in list(written.root.rglob("*.MAT")):
        folder = path.parent / path.name[:-8]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    assert torch.equal(open_dataset(written.root).frames[1].read().noisy, expected.noisy)


def test_frames_of_two_sizes_or_odd_ones_are_refused(tmp_path):
    written = one_instance(tmp_path)
    write_mat(path_of(written, "GT"), np.zeros((24, 38), np.float32))
    for kind in ("NOISY", "GT"):
        write_mat(path_of(written, kind, "011"), np.zeros((23, 38), np.float32))
    first, second = open_dataset(written.root).frames
    with pytest.raises(UserError, match=r"0001_GT_RAW_010.MAT: expected the size .* 24×40, got 24×38"):
        first.read()
    with pytest.raises(UserError, match="even sides, got 23×38"):
        second.read()


def test_srgb_of_another_kind_is_refused(four_phones):
    frames = open_dataset(four_phones.root, domain="srgb").frames
    cv2.imwrite(str(frames[0].files[0]), np.zeros((24, 40, 3), np.uint16))
    cv2.imwrite(str(frames[1].files[1]), np.zeros((24, 38, 3), np.uint8))
    with pytest.raises(UserError, match="8-bit colour picture, got uint16"):
        frames[0].read()
    with pytest.raises(UserError, match="24×40, got 24×38"):
        frames[1].read()


def test_a_few_nans_are_told_and_many_are_an_error(tmp_path):
    written = one_instance(tmp_path, size=(100, 100))
    clean = written.clean["0001_001_S6_00100_00060_3200_L/010"].copy()
    clean[20, 30:36] = np.nan  # 6 of 10000: 0.06 %
    write_mat(path_of(written, "GT"), clean)
    frame = open_dataset(written.root).frames[0]
    pair = frame.read(8, 12, 8, 8)  # 6 of 256 values: a patch's share is not the frame's
    assert not pair.is_finite and frame.read(0, 0, 8, 8).is_finite
    with pytest.raises(UserError, match="NaN"):
        collate([pair])
    clean[20, 30:42] = np.nan  # 0.12 %
    write_mat(path_of(written, "GT"), clean)
    frame = open_dataset(written.root).frames[0]
    with pytest.raises(UserError, match=r"0001_GT_RAW_010\.MAT.*0\.12 %"):
        frame.read(8, 12, 8, 8)


def test_sensor_json_says_how_the_truth_was_made(four_phones):
    path = four_phones.root / "sensor.json"
    path.write_text(json.dumps({"truth": "exact", "seed": 3}))
    dataset = open_dataset(four_phones.root)
    assert dataset.truth == "exact" and dataset.sensor == {"truth": "exact", "seed": 3}
    assert open_dataset(four_phones.root / "Data").sensor == dataset.sensor
    for content in ("{", '{"truth": "guess"}', "[]"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"sensor\.json"):
            open_dataset(four_phones.root)


def test_root_hash_sees_every_file_and_no_selection(four_phones):
    dataset = open_dataset(four_phones.root)
    whole = dataset.root_hash()
    assert len(whole) == 64 and dataset.select(cameras=["S6"]).root_hash() == whole
    path = dataset.frames[-1].files[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert open_dataset(four_phones.root).root_hash() != whole


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a folder, got none"):
        open_dataset(tmp_path / "none")
    with pytest.raises(UserError, match=r"pairs\.csv, a SIDD tree"):
        open_dataset(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="expected a folder, got a file"):
        open_dataset(tmp_path / "a.txt")
    with pytest.raises(UserError, match="raw or srgb"):
        open_dataset(tmp_path, domain="rgb")
    (tmp_path / "Data" / "0001_001_S6_00000_00060_3200_L").mkdir(parents=True)
    (tmp_path / "Data" / "0001_001_S6_00000_00060_3200_L" / "0001_NOISY_RAW_010.MAT").write_bytes(b"")
    with pytest.raises(UserError, match="ISO above 0"):
        open_dataset(tmp_path)


REAL_PICTURES = Path(__file__).parents[3] / "shared" / "real" / "srgb_pairs"


@pytest.mark.skipif(not REAL_PICTURES.exists(), reason="the real pictures are not on this machine")
def test_a_real_sidd_block_has_its_known_noise(tmp_path):
    folder = tmp_path / "Data" / "0032_001_S6_03200_00060_3200_L"
    folder.mkdir(parents=True)
    for ours, theirs in (("NOISY", "noisy"), ("GT", "clean")):
        shutil.copy(REAL_PICTURES / f"0032-0023_{theirs}.png", folder / f"0032_{ours}_SRGB_010.PNG")
    pair = open_dataset(tmp_path).frames[0].read()
    # the standard deviation listed beside the file, given to one decimal
    assert abs(255 * float((pair.noisy - pair.clean).std()) - 36.1) < 0.05
