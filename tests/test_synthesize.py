"""`noiseflow synthesize`: pairs from a folder of clean images, the same bytes however they are made."""

import csv
import hashlib
import json
import multiprocessing
import os
import random
import signal
import socket
import time

import cv2
import numpy as np
import pytest
import torch

from noiseflow.adapters import add_noise
from noiseflow.cli import main
from noiseflow.datasets import open_dataset
from noiseflow.files import load, save
from noiseflow.models import NoiseLevelFunction
from noiseflow.raw.decode import read_image
from noiseflow.raw.render import PHONE_MATRIX, render, unrender
from noiseflow.scenes import RAW_BALANCE, mosaic, scene

PHOTOS = 12
CARDS = {
    "S6": {"lsb": [1 / 1023] * 4, "low": [0.0] * 4, "high": [1.0] * 4, "cfa": "GRBG"},
    "G4": {"lsb": [1 / 1023] * 4, "low": [0.0] * 4, "high": [1.0] * 4, "cfa": "BGGR"},
}


def nlf(channels, cards=CARDS):
    model = NoiseLevelFunction([("S6", 100), ("S6", 800), ("G4", 400)], channels=channels)
    with torch.no_grad():
        model.level.log_a.fill_(float(np.log(2e-3)))
        model.level.log_b.fill_(float(np.log(1e-5)))
    model.card = {"cameras": cards}
    return model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve photographs, one of them a JPEG in a folder of its own, and models of raw and of sRGB noise."""
    root = tmp_path_factory.mktemp("world")
    (root / "photos" / "more").mkdir(parents=True)
    for number in range(PHOTOS):
        picture = render(mosaic(scene(number, 64, 96), "RGGB"), "RGGB", RAW_BALANCE, PHONE_MATRIX)
        name = "more/last.jpg" if number == PHOTOS - 1 else f"{number:02d}.png"
        assert cv2.imwrite(str(root / "photos" / name), picture[..., ::-1])
    (root / "photos" / "notes.txt").write_text("not a picture")
    save(nlf(4), root / "raw.safetensors")
    save(nlf(3, {}), root / "srgb.safetensors")
    return root


def run(*arguments):
    return main([str(a) for a in arguments])


def content(out):
    """Every file of a folder by name, hashed."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def rows_of(out):
    return list(csv.DictReader((out / "pairs.csv").read_text().splitlines()))


def command(world, out, *more, model="raw"):
    return ("synthesize", world / "photos", out, "--model", world / f"{model}.safetensors", *more)


@pytest.fixture(scope="module")
def pictures(world):
    """Two sRGB pairs of every photograph, 32×48, made in one process."""
    out = world / "pictures"
    assert run(*command(world, out, "--srgb", "--size", "32x48", "--count", 2)) == 0
    return out


def test_srgb_pairs_of_photographs(world, pictures):
    rows = rows_of(pictures)
    assert len(rows) == 2 * PHOTOS
    assert {row["camera"] for row in rows} == {"S6", "G4"}
    assert {(row["camera"], row["iso"]) for row in rows} <= {("S6", "100"), ("S6", "800"), ("G4", "400")}
    assert len({row["seed"] for row in rows}) == 2 * PHOTOS
    for row in rows:
        noisy, clean = (read_image(pictures / row[name]) for name in ("noisy", "clean"))
        assert noisy.shape == clean.shape == (32, 48, 3)
        assert noisy.dtype == clean.dtype == np.uint8
        assert (noisy != clean).any()
    assert rows[-1]["source"] == "more/last.jpg"
    assert rows[-1]["noisy"] == "noisy/more/last_1.png"
    assert open_dataset(pictures).domain == "srgb"


def test_a_pair_is_what_its_row_says(world, tmp_path):
    """Clean: the photograph taken back to raw and rendered, without noise, exactly. Noisy: the same with the noise."""
    assert run(*command(world, tmp_path / "o", "--srgb", "--cameras", "S6")) == 0
    row = rows_of(tmp_path / "o")[3]
    frame = unrender(read_image(world / "photos" / row["source"]), "GRBG", RAW_BALANCE, PHONE_MATRIX)
    clean = render(frame, "GRBG", RAW_BALANCE, PHONE_MATRIX)
    assert np.array_equal(read_image(tmp_path / "o" / row["clean"]), clean)
    model = load(world / "raw.safetensors")
    noisy = add_noise(frame, model, camera="S6", iso=float(row["iso"]), seed=int(row["seed"]), cfa="GRBG")
    want = render(noisy, "GRBG", RAW_BALANCE, PHONE_MATRIX)
    assert np.array_equal(read_image(tmp_path / "o" / row["noisy"]), want)


def test_raw_pairs_of_photographs_can_be_fitted(world, tmp_path):
    out = tmp_path / "o"
    assert run(*command(world, out, "--isos", "100-800", "--cameras", "S6")) == 0
    dataset = open_dataset(out)
    assert dataset.domain == "raw"
    pair = dataset.frames[0].read()
    assert pair.cfa == "GRBG"
    assert float(pair.lsb[0]) == pytest.approx(1 / 1023, rel=1e-6)
    assert pair.noisy.shape == (4, 32, 48)
    assert run("fit", "--data", out, "--model", "nlf", "--split", "all", "--out", tmp_path / "fit") == 0
    fitted = load(tmp_path / "fit").level.log_a.detach().exp()
    assert float(fitted.min()) == pytest.approx(2e-3, rel=0.1)  # 12 frames: 74,000 values, 1 % each, and two ISOs


def test_pictures_through_a_model_of_pictures(world, tmp_path):
    assert run(*command(world, tmp_path / "o", "--isos", "400", model="srgb")) == 0
    rows = rows_of(tmp_path / "o")
    assert {row["camera"] for row in rows} == {"G4"}
    for row in rows[:-1]:
        assert np.array_equal(read_image(tmp_path / "o" / row["clean"]), read_image(world / "photos" / row["source"]))
    noise = np.concatenate([
        (read_image(tmp_path / "o" / row["noisy"]).astype(float) - read_image(tmp_path / "o" / row["clean"])).ravel()
        for row in rows
    ]) / 255  # fmt: skip
    assert abs(noise.std() - 0.03) < 0.02


def test_mosaics_keep_their_pattern_and_levels(world, tmp_path):
    (tmp_path / "in").mkdir()
    codes = np.random.default_rng(0).integers(64, 1024, (32, 48), dtype=np.uint16)
    np.save(tmp_path / "in" / "m.npy", codes)
    base = ("synthesize", tmp_path / "in", tmp_path / "o", "--model", world / "raw.safetensors")
    levels = ("--white", 1023, "--black", 64, "--cfa", "RGGB")
    assert run(*base, *levels, "--size", "16x16") == 0
    (row,) = rows_of(tmp_path / "o")
    assert row["cfa"] == "RGGB"
    clean = np.load(tmp_path / "o" / row["clean"])
    np.testing.assert_allclose(clean, (codes[8:24, 16:32] - 64.0) / 959, atol=1e-6)
    stored = np.load(tmp_path / "o" / row["noisy"]).astype(float) * 959
    assert np.abs(stored - np.rint(stored)).max() < 0.01
    assert float(row["lsb"]) == pytest.approx(1 / 959, rel=1e-6)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_do_not_change_the_bytes(world, pictures, tmp_path, workers):
    more = ("--srgb", "--size", "32x48", "--count", 2, "--workers", workers)
    assert run(*command(world, tmp_path / "o", *more)) == 0
    assert content(tmp_path / "o") == content(pictures)


def started(world, out, *more, **environment):
    """The command in a process of its own, forked, so that it need not import everything again."""

    def work():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, shells have it ignored
        os.environ.update(environment)
        os._exit(run(*command(world, out, *more)))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_to_the_same_bytes(world, pictures, tmp_path, workers):
    out, more = tmp_path / "o", ("--srgb", "--size", "32x48", "--count", 2, "--workers", workers)
    child = started(world, out, *more)
    enough = random.Random(workers).randint(1, 6)
    deadline = time.monotonic() + 120
    while len(list(out.glob("records/*.json"))) < enough and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.kill()
    child.join()
    assert not (out / "pairs.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "records").glob("*.json")}
    (out / ".partial" / "0-1").mkdir(parents=True, exist_ok=True)  # as if it had died while it wrote
    (out / ".partial" / "0-1" / "0").write_bytes(b"half")
    assert run(*command(world, out, *more)) == 0
    assert content(out) == content(pictures)
    assert len(before) >= enough
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())  # they were not made again


def test_processes_share_the_images(world, pictures, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    more = ("--srgb", "--size", "32x48", "--count", 2)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [started(world, tmp_path / "o", *more, RANK=str(rank), **common) for rank in range(2)]
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    assert content(tmp_path / "o") == content(pictures)


def test_a_finished_folder_and_photos_that_come_later(world, pictures, tmp_path, capsys):
    before = content(pictures)
    assert run(*command(world, pictures, "--srgb", "--size", "32x48", "--count", 2)) == 0
    assert content(pictures) == before
    capsys.readouterr()
    for changed in (("--seed", 1), ("--count", 1), ("--isos", "100,800")):
        more = dict(zip(("--size", "--count"), ("32x48", 2), strict=True)) | {changed[0]: changed[1]}
        assert run(*command(world, pictures, "--srgb", *[x for pair in more.items() for x in pair])) == 1
        assert "another command" in capsys.readouterr().err
    assert content(pictures) == before
    (tmp_path / "in").mkdir()
    name = "00.png"
    one = ("synthesize", tmp_path / "in", tmp_path / "o", "--model", world / "raw.safetensors", "--srgb")
    (tmp_path / "in" / name).write_bytes((world / "photos" / name).read_bytes())
    assert run(*one) == 0
    first = rows_of(tmp_path / "o")
    (tmp_path / "in" / "z.png").write_bytes((world / "photos" / "01.png").read_bytes())
    assert run(*one) == 0
    assert rows_of(tmp_path / "o")[:1] == first
    assert len(rows_of(tmp_path / "o")) == 2
    (tmp_path / "in" / name).unlink()
    assert run(*one) == 1
    assert "00.png, too, which is gone" in capsys.readouterr().err
    assert run(*one, "--overwrite") == 0
    assert [row["source"] for row in rows_of(tmp_path / "o")] == ["z.png"]


def test_results_that_were_lost_are_made_again(world, pictures, tmp_path):
    out, more = tmp_path / "o", ("--srgb", "--size", "32x48", "--count", 2)
    assert run(*command(world, out, *more)) == 0
    (out / "noisy" / "03_1.png").unlink()
    next((out / "clean").glob("05*")).unlink()
    assert run(*command(world, out, *more)) == 0
    assert content(out) == content(pictures)


@pytest.mark.parametrize("model", ["raw", "srgb"])
def test_grey_and_16_bit_pictures_are_pictures(world, tmp_path, model):
    """A grey PNG gives what the same picture with three equal colours gives; 16 bits what their 8 highest give."""
    grey = cv2.imread(str(world / "photos" / "00.png"), cv2.IMREAD_GRAYSCALE)
    colour = np.repeat(grey[..., None], 3, axis=2)
    cleans = []
    for name, picture in {"grey": grey, "colour": colour, "deep": colour.astype(np.uint16) * 257}.items():
        (tmp_path / name).mkdir()
        assert cv2.imwrite(str(tmp_path / name / "a.png"), picture)
        base = ("synthesize", tmp_path / name, tmp_path / f"{name}-out", "--model", world / f"{model}.safetensors")
        more = ("--srgb", "--cameras", "S6") if model == "raw" else ("--cameras", "S6")
        assert run(*base, *more) == 0
        (row,) = rows_of(tmp_path / f"{name}-out")
        cleans.append(read_image(tmp_path / f"{name}-out" / row["clean"]))
    assert np.array_equal(cleans[0], cleans[1]) and np.array_equal(cleans[2], cleans[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_too_small_is_left_out_and_named(world, tmp_path, caplog, workers):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes((world / "photos" / "00.png").read_bytes())
    assert cv2.imwrite(str(tmp_path / "in" / "b.png"), np.zeros((16, 200, 3), np.uint8))
    base = ("synthesize", tmp_path / "in", tmp_path / "o", "--model", world / "raw.safetensors", "--size", "32x32")
    for _ in range(2):
        assert run(*base, "--workers", workers) == 0
        assert [row["source"] for row in rows_of(tmp_path / "o")] == ["a.png"]
    if not workers:
        assert "b.png: expected at least 32×32, got 16×200" in caplog.text


def test_ctrl_c(world, tmp_path):
    child = started(world, tmp_path / "o", "--srgb", "--count", 100, "--workers", 2)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("o/records/*.json"))) < 4 and time.monotonic() < deadline:  # all workers have started
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    child.join(60)
    assert child.exitcode == 130


BAD = {
    "no folder": lambda w, t: ("synthesize", w / "none", t / "o", "--model", w / "raw.safetensors"),
    "no images": lambda w, t: ("synthesize", t / "in", t / "o", "--model", w / "raw.safetensors"),
    "no model": lambda w, t: command(w, t / "o", model="none"),
    "unknown camera": lambda w, t: command(w, t / "o", "--cameras", "X"),
    "unknown ISO": lambda w, t: command(w, t / "o", "--isos", "5000"),
    "no ISO": lambda w, t: command(w, t / "o", "--isos", "many"),
    "ISO 0": lambda w, t: command(w, t / "o", "--isos", "0"),
    "count 0": lambda w, t: command(w, t / "o", "--count", 0),
    "odd size": lambda w, t: command(w, t / "o", "--size", "31x48"),
    "no size": lambda w, t: command(w, t / "o", "--size", "big"),
    "too large": lambda w, t: command(w, t / "o", "--size", "512x512"),
    "too large, by a worker": lambda w, t: command(w, t / "o", "--size", "512x512", "--workers", 1),
    "pattern": lambda w, t: command(w, t / "o", "--cfa", "RGBW"),
    "srgb of a picture model": lambda w, t: command(w, t / "o", "--srgb", model="srgb"),
    "workers": lambda w, t: command(w, t / "o", "--workers", "-1"),
    "a range the wrong way": lambda w, t: command(w, t / "o", "--isos", "800-100"),
    "an ISO that none has": lambda w, t: command(w, t / "o", "--isos", "100,5000"),
    "out around source": lambda w, t: command(w, w),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(world, tmp_path, capsys, name):
    (tmp_path / "in").mkdir()
    assert run(*BAD[name](world, tmp_path)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
    assert "NOISEFLOW_TRACEBACK" not in lines[0], lines
    assert not [path for path in (tmp_path / "o").rglob("*") if path.is_file()]


def test_other_bad_input(world, tmp_path, capsys, caplog):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes((world / "photos" / "00.png").read_bytes())
    (tmp_path / "in" / "a.jpg").write_bytes((world / "photos" / "more" / "last.jpg").read_bytes())
    base = ("synthesize", tmp_path / "in", tmp_path / "o", "--model", world / "raw.safetensors")
    assert run(*base) == 1
    assert "one name" in capsys.readouterr().err
    (tmp_path / "in" / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "in" / "a.png").unlink()
    assert run(*base) == 1
    assert "a.jpg: expected a readable picture" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert run(*command(world, tmp_path / "full")) == 1
    assert "not empty" in capsys.readouterr().err
    (tmp_path / "in" / "a.jpg").unlink()
    for shape, expected in (((1, 1, 3), "at least 2×2"), ((8, 8, 4), "without transparency")):
        assert cv2.imwrite(str(tmp_path / "in" / "p.png"), np.zeros(shape, np.uint8))
        assert run(*base) == 1
        assert expected in capsys.readouterr().err + caplog.text
        assert not (tmp_path / "o" / "synthesize.json").exists()
    (tmp_path / "in" / "p.png").unlink()
    np.save(tmp_path / "in" / "m.npy", np.zeros((8, 8), np.float32))
    assert run(*base) == 1
    assert "pass --cfa" in capsys.readouterr().err  # cameras of different patterns
    assert json.loads((world / "pictures" / "synthesize.json").read_text())["iso"] is None
