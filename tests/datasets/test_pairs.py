"""pairs.csv: every kind of file against the values that went in, and a sentence for every kind of mistake."""

import logging

import cv2
import numpy as np
import pytest
import tifffile
import torch
from sidd_tree import write_mat

from noiseflow.datasets import collate, open_dataset
from noiseflow.datasets import decoded as store
from noiseflow.errors import UserError

RNG = np.random.default_rng(0)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack")
    elif path.suffix == ".mat":
        write_mat(path, image)
    else:
        np.save(path, image)


def table(root, *lines):
    (root / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def one_pair(root, noisy, clean, suffix, columns="", values="", **options):
    save(root / "in" / f"n{suffix}", noisy)
    save(root / "in" / f"c{suffix}", clean)
    table(root, f"noisy,clean,camera,iso{columns}", f"in/n{suffix},in/c{suffix},D600,3200{values}")
    return open_dataset(root, **options).frames[0]


def codes(dtype, *shape, top=None):
    top = np.iinfo(dtype).max if top is None else top
    return RNG.integers(0, top + 1, shape).astype(dtype)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_eight_bit_pictures(tmp_path, suffix):
    noisy, clean = codes(np.uint8, 6, 8, 3), codes(np.uint8, 6, 8, 3)
    frame = one_pair(tmp_path, noisy, clean, suffix)
    assert (frame.camera, frame.iso, frame.channels, frame.cfa, frame.size) == ("D600", 3200.0, 3, None, (6, 8))
    pair = frame.read(1, 2, 4, 5)
    np.testing.assert_array_equal(pair.noisy.numpy(), (noisy / 255).astype(np.float32)[1:5, 2:7].transpose(2, 0, 1))
    np.testing.assert_array_equal(pair.clean.numpy(), (clean / 255).astype(np.float32)[1:5, 2:7].transpose(2, 0, 1))
    assert pair.lsb.tolist() == [1 / 255] * 3
    assert (pair.low.tolist(), pair.high.tolist()) == ([0.0] * 3, [1.0] * 3)
    dataset = open_dataset(tmp_path)
    assert (dataset.domain, dataset.truth, frame.name, frame.scene) == (
        "srgb",
        "unknown",
        f"in/n{suffix}",
        f"in/c{suffix}",
    )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("given", ["columns", "arguments"])
def test_sixteen_bit_mosaics_with_levels(tmp_path, suffix, given):
    noisy, clean = codes(np.uint16, 6, 8, top=1023), codes(np.uint16, 6, 8, top=1023)
    if given == "columns":
        frame = one_pair(tmp_path, noisy, clean, suffix, ",black,white,cfa", ",64,1023,bggr")
    else:
        frame = one_pair(tmp_path, noisy, clean, suffix, ",cfa", ",BGGR", black=64, white=1023)
    assert (frame.channels, frame.cfa, frame.size) == (4, "BGGR", (3, 4))
    pair = frame.read()
    lsb = 1 / (1023 - 64)
    assert pair.lsb.tolist() == [lsb] * 4
    # the file can hold codes below black, down to 0
    assert pair.low.tolist() == [-64 / (1023 - 64)] * 4 and pair.high.tolist() == [1.0] * 4
    for channel, (row, column) in enumerate([(1, 1), (1, 0), (0, 1), (0, 0)]):  # BGGR
        stored = noisy[row::2, column::2].astype(float)
        np.testing.assert_array_equal(pair.noisy[channel].numpy(), ((stored - 64) * lsb).astype(np.float32))
        truth = (clean[row::2, column::2].astype(float) - 64) / (1023 - 64)
        np.testing.assert_allclose(pair.clean[channel].numpy(), truth, rtol=0, atol=2**-24)
    assert open_dataset(tmp_path, black=64, white=1023).domain == "raw"


def test_a_row_wins_over_the_arguments_and_codes_above_white_are_white(tmp_path):
    noisy = codes(np.uint16, 6, 8, 3, top=300)
    frame = one_pair(tmp_path, noisy, noisy, ".npy", ",white", ",255", black=5, white=9999)
    pair = frame.read()
    expected = np.minimum((noisy.astype(float) - 5) / 250, 1).transpose(2, 0, 1)
    np.testing.assert_allclose(pair.noisy.numpy(), expected, rtol=0, atol=2**-24)
    assert pair.noisy.max() == 1 and pair.lsb.tolist() == [1 / 250] * 3


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".mat"])
def test_floats_are_linear_units(tmp_path, suffix):
    noisy = RNG.normal(0.2, 0.3, (6, 8)).astype(np.float32)
    clean = RNG.random((6, 8)).astype(np.float32)
    frame = one_pair(tmp_path, noisy, clean, suffix)
    pair = frame.read()
    assert (frame.channels, open_dataset(tmp_path).domain) == (1, "raw")
    np.testing.assert_array_equal(pair.noisy[0].numpy(), noisy)
    np.testing.assert_array_equal(pair.clean[0].numpy(), clean)
    assert pair.lsb.tolist() == [0.0] and pair.low.item() < noisy.min()
    collate([pair])


@pytest.mark.parametrize(("columns", "values"), [(",lsb", ",0.01"), (",black,white", ",20,120")])
def test_floats_with_a_declared_code_width_are_checked_against_it(tmp_path, caplog, columns, values):
    stored = codes(np.uint8, 20, 20, top=100)
    frame = one_pair(tmp_path, (stored / 100).astype(np.float32), np.zeros((20, 20)), ".npy", columns, values)
    pair = frame.read()
    assert pair.lsb.tolist() == [0.01] and (pair.low.item(), pair.high.item()) == (0.0, 1.0)
    np.testing.assert_array_equal(pair.noisy[0].numpy(), (stored * 0.01).astype(np.float32))
    with caplog.at_level(logging.WARNING):
        off = one_pair(tmp_path / "off", RNG.random((20, 20)), np.zeros((20, 20)), ".npy", columns, values)
        assert off.lsb.tolist() == [0.0]
    assert "densities" in caplog.text


def test_levels_that_nobody_says_are_asked_for(tmp_path, caplog):
    noisy = codes(np.uint16, 4, 4)
    with pytest.raises(UserError, match=r"n\.npy: expected levels for uint16 values.*--white and --black"):
        one_pair(tmp_path, noisy, noisy, ".npy").read()
    with caplog.at_level(logging.WARNING):
        frame = one_pair(tmp_path, noisy, noisy, ".npy", ",white,cfa", ",65535,RGGB")
        assert frame.read().lsb.tolist() == [1 / 65535] * 4
    assert "no black level given" in caplog.text
    with pytest.raises(UserError, match="black below white"):
        one_pair(tmp_path, noisy, noisy, ".npy", ",black,white", ",9,9").read()


def write_many(root, columns, rows):
    image = codes(np.uint8, 4, 4, 3)
    for name in {name for row in rows for name in row.split(",")[:2]}:
        save(root / name, image)
    return table(root, f"noisy,clean,camera,iso{columns}", *rows)


def test_split_and_scene_columns_are_kept(tmp_path):
    rows = [f"n{k}.png,c{k}.png,D600,{100 * k},{'test' if k == 3 else 'Train'},s{k % 2}" for k in range(1, 6)]
    dataset = open_dataset(write_many(tmp_path, ",split,scene", rows))
    assert [f.name for f in dataset.select("test").frames] == ["n3.png"]
    assert len(dataset.select("train").frames) == 4
    assert dataset.split_protocol == "split column of pairs.csv"
    assert [f.scene for f in dataset.frames] == ["s1", "s0", "s1", "s0", "s1"]


def test_the_table_may_come_from_a_spreadsheet(tmp_path):
    save(tmp_path / "a b.png", codes(np.uint8, 4, 4, 3))
    text = '\ufeffNoisy, Clean ,camera,iso,note\r\n"a b.png","a b.png","Canon, 5D",3200,"so, what"\r\n\r\n'
    (tmp_path / "pairs.csv").write_bytes(text.encode("utf-8"))
    frame = open_dataset(tmp_path / "pairs.csv").frames[0]
    assert (frame.camera, frame.iso) == ("Canon, 5D", 3200.0)
    assert frame.read().noisy.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "expected a header"),
        (["noisy,clean,camera"], "got noisy,clean,camera"),
        (["noisy,clean,camera,iso,iso"], "each once"),
        (["noisy,clean,camera,iso"], "a row for each pair"),
        (["noisy,clean,camera,iso", "n.png,c.png,D600"], "line 2: expected 4 values"),
        (["noisy,clean,camera,iso", "n.png,c.png,D600,1,2"], "line 2: expected 4 values"),
        (["noisy,clean,camera,iso", "n.png,c.png,D600,fast"], "line 2: expected a number for iso, got 'fast'"),
        (["noisy,clean,camera,iso", "n.png,c.png,D600,nan"], "expected a number for iso"),
        (["noisy,clean,camera,iso", "n.png,c.png,D600,0"], "line 2: expected an iso above 0, got '0'"),
        (["noisy,clean,camera,iso", "n.png,c.png,D600,-100"], "above 0"),
        (["noisy,clean,camera,iso", "n.png,c.png,D600,"], "above 0"),
        (["noisy,clean,camera,iso", "n.png,c.png,,100"], "a value for camera"),
        (["noisy,clean,camera,iso", *["n.png,c.png,D600,100"] * 2], "line 3: expected every noisy file once"),
        (["noisy,clean,camera,iso", "n.png,none.png,D600,100"], r"none\.png: expected a file"),
        (["noisy,clean,camera,iso,split", "n.png,c.png,D600,100,"], "train or test, got ''"),
        (["noisy,clean,camera,iso,cfa", "n.png,c.png,D600,100,RGBG"], "got 'RGBG'"),
        (["noisy,clean,camera,iso,lsb", "n.png,c.png,D600,100,-1"], "lsb of 0 or above"),
        (["noisy,clean,camera,iso,white", "n.png,c.png,D600,100,x"], "a number for white"),
        (
            ["noisy,clean,camera,iso,cfa", "n.png,c.png,D600,100,RGGB", "c.png,c.png,D600,100,"],
            "cfa in every row or in none",
        ),
    ],
)
def test_mistakes_in_the_table_are_named(tmp_path, lines, message):
    for name in ("n.png", "c.png"):
        save(tmp_path / name, codes(np.uint8, 4, 4, 3))
    with pytest.raises(UserError, match=message):
        open_dataset(table(tmp_path, *lines))


def test_a_table_of_bytes_is_refused(tmp_path):
    (tmp_path / "pairs.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="CSV file in UTF-8"):
        open_dataset(tmp_path)


def test_mistakes_in_the_pictures_are_named(tmp_path):
    colour, grey = codes(np.uint8, 4, 6, 3), codes(np.uint8, 4, 6)
    with pytest.raises(UserError, match=r"c\.png: expected the shape of n\.png, 4×6×3, got 4×5×3"):
        one_pair(tmp_path, colour, colour[:, :5], ".png").read()
    with pytest.raises(UserError, match="even sides, got 4×6×3"):
        one_pair(tmp_path, colour, colour, ".png", ",cfa", ",RGGB").read()
    with pytest.raises(UserError, match="even sides, got 4×5"):
        one_pair(tmp_path, grey[:, :5], grey[:, :5], ".png", ",cfa", ",RGGB").read()
    with pytest.raises(UserError, match="expected raw pairs, got srgb ones"):
        one_pair(tmp_path, colour, colour, ".png", domain="raw")
    frame = one_pair(tmp_path, colour, colour, ".png")
    frame.files[1].write_bytes(frame.files[1].read_bytes()[:-20])
    with pytest.raises(UserError, match=r"c\.png: the PNG ends early"):
        frame.read()


def test_decoded_files_are_kept_within_the_budget_and_seen_to_change(tmp_path, monkeypatch):
    store._store.clear()
    paths = [tmp_path / f"{k}.npy" for k in range(4)]
    for path in paths:
        np.save(path, np.zeros((10, 10)))  # 800 bytes
    monkeypatch.setattr(store, "BUDGET", 1700)
    first, second = store.decoded(paths[0]), store.decoded(paths[1])
    assert store.decoded(paths[0]) is first
    store.decoded(paths[2])  # the second is the least recently used
    assert store.decoded(paths[0]) is first and store.decoded(paths[1]) is not second
    assert sum(image.nbytes for image in store._store.values()) <= 1700
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1
    np.save(paths[0], np.ones((11, 10)))
    assert store.decoded(paths[0]).sum() == 110
    monkeypatch.setattr(store, "BUDGET", 10)
    assert store.decoded(paths[3]).shape == (10, 10)
    store._store.clear()


def test_a_mono_batch_collates(tmp_path):
    frame = one_pair(tmp_path, codes(np.uint8, 4, 6), codes(np.uint8, 4, 6), ".png")
    noisy, shot = collate([frame.read(), frame.read()])
    assert noisy.shape == (2, 1, 4, 6) and shot.cfa is None
    assert torch.equal(shot.iso, torch.tensor([3200.0, 3200.0]))
