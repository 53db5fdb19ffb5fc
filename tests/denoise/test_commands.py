"""`noiseflow denoise`: training, resuming to the byte, applying, comparing; bad input in a line."""

import csv
import json
import shutil
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml

from noiseflow.cli import main
from noiseflow.datasets import collate, open_dataset
from noiseflow.denoise import denoise_whole
from noiseflow.denoise.score import psnr
from noiseflow.files import file_hash, load_denoiser
from noiseflow.options import DenoiseFitOptions
from noiseflow.progress import Progress
from noiseflow.raw.cfa import unpack
from noiseflow.raw.decode import read_image
from noiseflow.raw.dng import write_dng
from noiseflow.raw.read import read_frame
from noiseflow.training.fit_denoiser import fit_denoiser

SMALL = ("--device", "cpu", "--width", 16, "--depth", 4, "--batch", 4, "--patch", 16, "--learning-rate", 3e-3)


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tree"
    assert run("simulate", root, "--sensor", "night", "--isos", "3200", "--scenes", 8, "--size", "64x64") == 0
    return root


def options(data, out, **changes):
    small = DenoiseFitOptions(
        noise="nlf", data=str(data), out=str(out), steps=130, batch=4, patch=16, width=16, depth=4, learning_rate=3e-3,
        device="cpu",
    )  # fmt: skip
    return replace(small, **changes)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "nlf"
    assert fit_denoiser(options(data, out))
    return out


class StopAt(Progress):
    """Ctrl-C while a step is in hand."""

    def __init__(self, step):
        self.left = None
        self.step = step

    def start(self, description, total=None):
        self.left = self.step if description == "training" else None

    def update(self, advance=1, **figures):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)


def test_a_denoiser_learns_and_says_how_well(data, trained):
    scores = json.loads((trained / "scores.json").read_text())
    assert scores["psnr"] > scores["noisy_psnr"] + 3  # of about 24 dB
    frames = open_dataset(data).select("test").frames
    assert [row["name"] for row in scores["by_image"]] == [frame.name for frame in frames]
    network = load_denoiser(trained)
    by_hand = []
    for frame in frames:
        noisy, shot = collate([frame.read()])
        by_hand.append(psnr(denoise_whole(network, noisy, shot)[0], shot.clean[0]))
    # the run scored with channels last, whose convolutions sum in another order
    assert [row["psnr"] for row in scores["by_image"]] == pytest.approx(by_hand, abs=1e-3)
    assert scores["psnr"] == pytest.approx(np.mean(by_hand), abs=1e-3)
    assert network.card["scores"]["psnr"] == scores["psnr"] and "clipped" in network.card["scores"]["policy"]["range"]
    assert network.card["protocol"]["noise"] == "nlf"
    environment = json.loads((trained / "environment.json").read_text())
    assert 0 < environment["drawing_share"] < 1
    rows = list(csv.DictReader((trained / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, 131))
    assert [int(row["step"]) for row in rows if row["val_mse"]] == [50, 100, 130]


@pytest.mark.parametrize(("step", "workers"), [(37, 0), (37, 2), (130, 0)])  # at 130 all but the scores is done
def test_stopped_and_resumed_is_the_same_to_the_byte(data, trained, tmp_path, step, workers):
    out = tmp_path / "run"
    assert not fit_denoiser(options(data, out, workers=workers), StopAt(step))
    assert (out / "denoiser.safetensors").is_file() and not (out / "scores.json").is_file()
    assert run("denoise", "fit", "--resume", out) == 0
    for name in ("denoiser.safetensors", "metrics.csv", "scores.json"):
        assert file_hash(out / name) == file_hash(trained / name), name


def test_a_run_is_a_function_of_its_seed_and_its_config_repeats_it(data, trained, tmp_path, capsys):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["noise"] == "nlf" and config["domain"] == "raw"
    common = ("denoise", "fit", "--config", trained / "config.yaml", "--steps", 20)
    for name, more in {"a": (), "b": (), "c": ("--seed", 1)}.items():
        assert run(*common, "--out", tmp_path / name, *more) == 0
    said = capsys.readouterr().out
    assert "all, test: PSNR" in said and "% of it to draw noise" in said
    hashes = [file_hash(tmp_path / name / "denoiser.safetensors") for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_apply_keeps_the_layout_of_every_file(data, trained, tmp_path):
    frame = open_dataset(data).select("test").frames[0]
    folder = tmp_path / "in" / "deeper"
    folder.mkdir(parents=True)
    mosaic, white = read_image(frame.files[0]), round(1 / float(frame.lsb[0]))
    np.save(folder / "codes.npy", np.rint(mosaic * white).astype(np.uint16))
    out = tmp_path / "out"
    assert run("denoise", "apply", trained, frame.files[0], "--out", out, "--device", "cpu", "--tile", 8) == 0
    assert run("denoise", "apply", trained, tmp_path / "in", "--out", tmp_path / "codes", "--white", white,
               "--device", "cpu", "--format", "png") == 0  # fmt: skip
    noisy, shot = collate([frame.read()])
    expected = unpack(denoise_whole(load_denoiser(trained), noisy, shot)[0].clamp(0, 1), frame.cfa).numpy()
    written = read_image(out / f"{frame.files[0].stem}_denoised.mat")
    assert np.abs(written - expected).max() < 1e-5  # float32 through tiles, in another order
    codes = cv2.imread(str(tmp_path / "codes" / "deeper" / "codes_denoised.png"), cv2.IMREAD_UNCHANGED)
    assert codes.dtype == np.uint16
    assert np.abs(codes - expected * white).max() < 0.5 + 1e-2


def test_apply_writes_dngs_that_other_software_reads(data, trained, tmp_path):
    """From a DNG and from a MAT file: the same codes, with the levels, the pattern and the ISO of the noisy file."""
    import rawpy

    frame = open_dataset(data).select("test").frames[0]
    white = round(1 / float(frame.lsb[0]))
    codes = np.rint(read_image(frame.files[0]) * white).astype(np.uint16)
    write_dng(tmp_path / "noisy.dng", codes, cfa=frame.cfa, black=(0.0,) * 4, white=white, iso=3200, camera="night")
    assert run("denoise", "apply", trained, tmp_path / "noisy.dng", "--out", tmp_path / "a", "--device", "cpu") == 0
    assert run("denoise", "apply", trained, frame.files[0], "--out", tmp_path / "b", "--device", "cpu",
               "--format", "dng", "--iso", 3200) == 0  # fmt: skip
    noisy, shot = collate([frame.read()])
    expected = unpack(denoise_whole(load_denoiser(trained), noisy, shot)[0].clamp(0, 1), frame.cfa).numpy() * white
    for path in (tmp_path / "a" / "noisy_denoised.dng", tmp_path / "b" / f"{frame.files[0].stem}_denoised.dng"):
        written = read_frame(path)
        assert (written.cfa, written.white, written.iso) == (frame.cfa, white, 3200)
        assert np.abs(written.codes - expected).max() < 0.5 + 1e-2
        with rawpy.imread(str(path)) as raw:
            np.testing.assert_array_equal(raw.raw_image_visible, written.codes)


def test_pictures(tmp_path, capsys):
    """sRGB from the tree to the PNG: the denoiser learns, and what is written is what it finds, in 8 bits."""
    tree, out = tmp_path / "tree", tmp_path / "run"
    assert run("simulate", tree, "--sensor", "night", "--isos", "3200", "--scenes", 6, "--size", "64x64", "--srgb") == 0
    assert run("denoise", "fit", "--data", tree, "--domain", "srgb", "--noise", "full", "--out", out, "--steps", 120,
               *SMALL) == 0  # fmt: skip
    scores = json.loads((out / "scores.json").read_text())
    assert scores["psnr"] > scores["noisy_psnr"] + 3
    frame = open_dataset(tree, domain="srgb").select("test").frames[0]
    assert run("denoise", "apply", out, frame.files[0], "--out", tmp_path / "clean", "--device", "cpu") == 0
    noisy, shot = collate([frame.read()])
    expected = denoise_whole(load_denoiser(out), noisy, shot)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    written = read_image(tmp_path / "clean" / f"{frame.files[0].stem}_denoised.png")
    assert written.dtype == np.uint8
    assert np.abs(written - 255 * expected).max() < 0.5 + 1e-2
    # A folder: every picture in it, photographs too, but not what was written by an earlier call.
    photos = tmp_path / "photos"
    (photos / "done").mkdir(parents=True)
    shutil.copy(frame.files[0], photos / "a.png")
    assert cv2.imwrite(str(photos / "b.jpg"), written)
    for _ in range(2):
        assert run("denoise", "apply", out, photos, "--out", photos / "done", "--device", "cpu", "--overwrite") == 0
        assert sorted(path.name for path in (photos / "done").iterdir()) == ["a_denoised.png", "b_denoised.png"]
    assert run("denoise", "apply", out, photos / "done", "--out", photos, "--overwrite", "--device", "cpu") == 1
    assert "does not hold the noisy images" in capsys.readouterr().err


def test_a_noise_model_as_the_source(data, tmp_path, capsys):
    """A trained flow by its run folder: named in the card without a path; it may move, but not change."""
    flow, moved, out = tmp_path / "flow", tmp_path / "moved", tmp_path / "run"
    assert run("fit", "--data", data, "--model", "noise_flow", "--hidden", 4, "--steps", 3, "--batch", 2, "--patch", 8,
               "--device", "cpu", "--out", flow) == 0  # fmt: skip
    assert not fit_denoiser(options(data, out, noise=str(flow), steps=40), StopAt(20))
    digest = file_hash(flow / "model.safetensors")
    flow.rename(moved)
    assert run("denoise", "fit", "--resume", out) == 1
    assert "flow" in capsys.readouterr().err
    assert run("denoise", "fit", "--resume", out, "--noise", moved) == 0
    whole = tmp_path / "whole"
    assert fit_denoiser(options(data, whole, noise=str(moved), steps=40))
    assert file_hash(out / "denoiser.safetensors") == file_hash(whole / "denoiser.safetensors")
    protocol = load_denoiser(out).card["protocol"]
    assert (protocol["noise"], protocol["noise_hash"]) == ("noise_flow", digest)


def test_apply_takes_the_noisy_frames_of_a_tree(data, trained, tmp_path):
    frames = open_dataset(data).frames[:2]
    for frame in frames:
        shutil.copytree(frame.files[0].parent, tmp_path / "tree" / frame.files[0].parent.name)
    assert run("denoise", "apply", trained, tmp_path / "tree", "--out", tmp_path / "out", "--device", "cpu") == 0
    written = sorted(path.name for path in (tmp_path / "out").rglob("*.mat"))
    assert written == sorted(f"{frame.files[0].stem}_denoised.mat" for frame in frames)


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    assert run("denoise", "compare", "--noise", "gaussian,real", "--data", data, "--out", out, "--seeds", 2,
               "--steps", 5, *SMALL) == 0  # fmt: skip
    return out


def test_compare_says_what_the_runs_say(compared):
    results = json.loads((compared / "results.json").read_text())
    assert [source["name"] for source in results["sources"]] == ["gaussian", "real"] and results["reference"] == "real"
    runs = {
        name: [json.loads((compared / "runs" / name / str(seed) / "scores.json").read_text()) for seed in (0, 1)]
        for name in ("gaussian", "real")
    }
    for source in results["sources"]:
        assert source["psnr"]["by_seed"] == [scores["psnr"] for scores in runs[source["name"]]]
        assert 0 <= source["drawing_share"] < 1
    gaps = [runs["real"][k]["psnr"] - runs["gaussian"][k]["psnr"] for k in (0, 1)]
    assert results["sources"][0]["gap"]["value"] == pytest.approx(np.mean(gaps))
    assert results["data"]["split"] == "test"
    assert (compared / "strip.png").read_bytes()[:4] == b"\x89PNG"
    assert "| real |" in (compared / "table.md").read_text()


def test_sources_start_from_the_same_weights_and_crops(compared):
    """Nothing but the noise and the folder differs between runs of one seed."""
    configs = [yaml.safe_load((compared / "runs" / name / "1" / "config.yaml").read_text()) for name in
               ("gaussian", "real")]  # fmt: skip
    different = {key for key in configs[0] if configs[0][key] != configs[1][key]}
    assert different == {"noise", "out"}


def test_compare_goes_on_where_it_was(data, compared, tmp_path, capsys):
    out = shutil.copytree(compared, tmp_path / "out")
    done = out / "runs" / "gaussian" / "0" / "denoiser.safetensors"
    before = done.stat().st_mtime_ns
    shutil.rmtree(out / "runs" / "real" / "1")
    command = ("denoise", "compare", "--noise", "gaussian,real", "--data", data, "--out", out, "--steps", 5, *SMALL)
    assert run(*command, "--seeds", 2) == 0
    assert done.stat().st_mtime_ns == before
    again, first = (json.loads((folder / "results.json").read_text()) for folder in (out, compared))
    assert [s["psnr"] for s in again["sources"]] == [s["psnr"] for s in first["sources"]]
    capsys.readouterr()
    assert run(*command, "--seeds", 2, "--batch", 3) == 1
    assert "--batch has changed since the comparison began" in capsys.readouterr().err
    assert run(*command, "--seeds", 1, "--overwrite") == 0  # all of it anew
    assert done.stat().st_mtime_ns != before
    assert not (out / "runs" / "gaussian" / "1").exists()
    (out / "compare.yaml").unlink()
    assert run(*command, "--seeds", 2) == 1
    assert "not empty" in capsys.readouterr().err


def test_noise_of_another_camera_than_the_images(data, tmp_path, capsys):
    """--cameras and --isos choose images; --noise-cameras and --noise-isos noise, of cameras that the data lack."""
    common = ("denoise", "fit", "--data", data, "--noise", "eld-sony-a7s2", "--steps", 2, *SMALL)
    assert run(*common, "--out", tmp_path / "a", "--isos", 3200, "--noise-isos", "1600") == 0
    assert run(*common, "--out", tmp_path / "b", "--noise-isos", "7") == 1
    assert "--noise-isos: expected" in capsys.readouterr().err
    assert run(*common, "--out", tmp_path / "c", "--noise-isos", "1600", "--noise-cameras", "night") == 1


def test_a_small_image_is_named_where_it_decides_the_patches(data, tmp_path, caplog):
    assert run("denoise", "fit", "--data", data, "--noise", "nlf", "--out", tmp_path / "a", "--steps", 1, "--patch", 48,
               "--batch", 2, "--width", 4, "--depth", 2, "--device", "cpu") == 0  # fmt: skip
    assert "patches of 32×32, the size of " in caplog.text


BAD = {
    "neither source nor model": (("--noise", "nonsense"), "--noise: expected real, sensor"),
    "a missing file": (("--noise", "no/such.safetensors"), "no such"),
    "a fixed depth": (("--noise", "nlf", "--network", "unet", "--depth", 3), "--depth: unet has a fixed one"),
    "too shallow": (("--noise", "nlf", "--depth", 1), "depth: expected at least 2"),
    "no steps": (("--noise", "nlf", "--steps", -1), "--steps"),
    "an unknown camera": (("--noise", "nlf", "--cameras", "S6"), "expected cameras among night"),
    "frames that are too small": (("--noise", "nlf", "--network", "unet", "--patch", 16), "frames of 32"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_said_in_a_line(case, data, tmp_path, capsys):
    arguments, expected = BAD[case]
    assert run("denoise", "fit", "--data", data, "--out", tmp_path / "run", *arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and expected in error
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_sensor_needs_its_description(data, tmp_path, capsys):
    tree = shutil.copytree(data, tmp_path / "tree")
    (tree / "sensor.json").unlink()
    assert run("denoise", "fit", "--data", tree, "--out", tmp_path / "run", "--noise", "sensor", *SMALL) == 1
    assert "with sensor.json" in capsys.readouterr().err


def test_a_changed_run_is_refused(data, trained, tmp_path, capsys):
    out = shutil.copytree(trained, tmp_path / "run")
    assert run("denoise", "fit", "--resume", out, "--batch", 5) == 1
    assert "--batch: a resumed run keeps" in capsys.readouterr().err
    assert run("denoise", "fit", "--resume", out, "--noise", "gaussian", "--steps", 131) == 1
    assert "not the noise that the run began with" in capsys.readouterr().err
    assert run("info", out) == 0
    assert "denoiser: dncnn" in capsys.readouterr().out
    assert run("denoise", "apply", out, tmp_path / "nothing.npy", "--out", tmp_path / "o") == 1
    assert "nothing.npy" in capsys.readouterr().err


def test_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("denoise", "fit", "--noise", "nlf")
    assert stopped.value.code == 2
    assert "noiseflow denoise fit needs --data, --out" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run("denoise")
    assert stopped.value.code == 2
