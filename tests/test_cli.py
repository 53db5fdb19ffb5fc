"""The command line from outside: the whole way on small data, exit codes, and what must not be imported."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml

from noiseflow.cli import main
from noiseflow.files import file_hash, load
from noiseflow.shot import Shot

PYTHON = [sys.executable, "-W", "error"]


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A simulated tree, a flow and a baseline fitted to it, and their scores."""
    root = tmp_path_factory.mktemp("world")
    fit = ("--data", root / "sim", "--batch", 2, "--patch", 16, "--steps", 4, "--device", "cpu")
    assert run("simulate", root / "sim", "--cameras", "S6,G4", "--isos", "100,800", "--scenes", 4, "--size", "64x96",
               "--srgb") == 0  # fmt: skip
    assert run("fit", *fit, "--model", "noise_flow", "--out", root / "flow") == 0
    assert run("fit", *fit, "--model", "nlf", "--out", root / "nlf") == 0
    assert run("fit", *fit, "--model", "glow", "--domain", "srgb", "--out", root / "glow") == 0
    return root


def test_a_run_folder_is_complete(world):
    assert sorted(p.name for p in (world / "flow").iterdir()) == [
        "config.yaml", "environment.json", "last.ckpt", "metrics.csv", "model.safetensors",
    ]  # fmt: skip
    rows = list(csv.DictReader((world / "flow" / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert all(float(row["mass"]) > 0 for row in rows)
    torch.load(world / "flow" / "last.ckpt", weights_only=True)


def test_the_config_alone_repeats_the_run(world, tmp_path):
    config = yaml.safe_load((world / "flow" / "config.yaml").read_text())
    config["out"] = str(tmp_path / "again")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert run("fit", "--config", tmp_path / "config.yaml") == 0
    assert file_hash(tmp_path / "again" / "model.safetensors") == file_hash(world / "flow" / "model.safetensors")


def test_workers_do_not_change_the_run(world, tmp_path):
    config = ("--config", world / "flow" / "config.yaml", "--workers", 1)
    assert run("fit", *config, "--out", tmp_path / "again") == 0
    assert file_hash(tmp_path / "again" / "model.safetensors") == file_hash(world / "flow" / "model.safetensors")


def test_evaluate_writes_what_the_contract_says(world, tmp_path, capsys):
    models = (world / "flow", "nlf", "gaussian", world / "nlf" / "model.safetensors")
    assert run("evaluate", *models, "--data", world / "sim", "--out", tmp_path / "e") == 0
    assert str(tmp_path / "e" / "report.html") in capsys.readouterr().out
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["format"] == 1
    assert (results["data"]["truth"], results["data"]["split"], results["data"]["scenes"]) == ("exact", "test", 1)
    by_name = {model["name"]: model for model in results["models"]}
    assert list(by_name) == ["flow", "nlf", "gaussian", "nlf (2)"]
    for model in by_name.values():
        assert model["mass"]["unit"] == "nats/value"
        assert model["mass"]["bits"] == pytest.approx(model["mass"]["value"] / np.log(2))
        assert model["mass"]["low"] is None  # one scene has no interval, and says so
        assert "3 needed" in model["reason"]["mass.low"]
        assert model["regret"]["value"] > -1e-3
        assert len(model["by_shot"]) == 4
    # The baseline fitted by name and the one fitted before saw the same images.
    assert by_name["nlf"]["mass"]["value"] == pytest.approx(by_name["nlf (2)"]["mass"]["value"], abs=1e-12)
    assert by_name["nlf"]["file_hash"] is None
    assert by_name["flow"]["file_hash"] == file_hash(world / "flow" / "model.safetensors")
    assert by_name["gaussian"]["mass"]["value"] > by_name["nlf"]["mass"]["value"]


def test_evaluate_agrees_with_the_model_on_whole_frames(world, tmp_path):
    from noiseflow.datasets import collate, open_dataset
    from noiseflow.sensors import SensorTruth

    assert run("evaluate", world / "nlf", "--data", world / "sim", "--out", tmp_path / "e", "--no-samples") == 0
    model = json.loads((tmp_path / "e" / "results.json").read_text())["models"][0]
    dataset = open_dataset(world / "sim").select(split="test")
    truth, nlf = SensorTruth.from_dict(dataset.sensor), load(world / "nlf")
    noisy, shot = collate([frame.read() for frame in dataset.frames])
    with torch.no_grad():
        mass = -float(nlf.log_mass(noisy, shot).sum()) / noisy.numel()
        nll = -float(nlf.log_prob(noisy.double() - shot.clean.double(), shot).sum()) / noisy.numel()
        regret = mass + float(truth.log_mass(noisy, shot).sum()) / noisy.numel()
    assert model["mass"]["value"] == pytest.approx(mass, rel=1e-9)
    assert model["nll"]["value"] == pytest.approx(nll, rel=1e-6)
    assert model["regret"]["value"] == pytest.approx(regret, abs=1e-9)


def test_srgb_half_of_a_tree(world, tmp_path):
    assert run("evaluate", world / "glow", "nlf", "--data", world / "sim", "--out", tmp_path / "e") == 0
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["data"]["domain"] == "srgb"
    assert results["models"][0]["regret"] is None
    assert "raw codes" in results["models"][0]["reason"]["regret"]


def test_sample_bytes_depend_on_the_seed_alone(world, tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", rng.random((32, 48), dtype=np.float32))
    condition = ("--camera", "S6", "--iso", 800)
    assert run("sample", world / "flow", tmp_path / "a.npy", tmp_path / "b.npy", *condition, "--out", tmp_path / "1",
               "--count", 2) == 0  # fmt: skip
    assert run("sample", world / "flow", tmp_path / "b.npy", *condition, "--out", tmp_path / "2") == 0
    assert run("sample", world / "flow", tmp_path / "b.npy", *condition, "--out", tmp_path / "3", "--seed", 1) == 0
    assert sorted(p.name for p in (tmp_path / "1").iterdir()) == [
        "a_noisy.json", "a_noisy_0.npy", "a_noisy_1.npy", "b_noisy.json", "b_noisy_0.npy", "b_noisy_1.npy",
    ]  # fmt: skip
    first = (tmp_path / "1" / "b_noisy_0.npy").read_bytes()
    assert (tmp_path / "2" / "b_noisy_0.npy").read_bytes() == first
    assert (tmp_path / "3" / "b_noisy_0.npy").read_bytes() != first
    assert (tmp_path / "1" / "b_noisy_1.npy").read_bytes() != first
    noisy = np.load(tmp_path / "1" / "b_noisy_0.npy")
    assert noisy.shape == (32, 48)
    codes = noisy * 1023  # S6's grid comes from the model's card
    assert np.abs(codes - np.rint(codes)).max() < 1e-3
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    record = json.loads((tmp_path / "1" / "b_noisy.json").read_text())
    assert record["model_hash"] == file_hash(world / "flow" / "model.safetensors")
    assert (record["camera"], record["iso"], record["cfa"], record["seed"]) == ("S6", 800, "GRBG", 0)


def test_sampled_noise_is_the_models(world, tmp_path):
    np.save(tmp_path / "flat.npy", np.full((256, 256), 0.25, np.float32))
    assert run("sample", world / "nlf", tmp_path / "flat.npy", "--camera", "G4", "--iso", 800, "--out",
               tmp_path / "o") == 0  # fmt: skip
    noise = np.load(tmp_path / "o" / "flat_noisy_0.npy").astype(np.float64) - 0.25
    model = load(world / "nlf")
    shot = Shot.of(torch.full((1, 4, 1, 1), 0.25, dtype=torch.float64), camera="G4", iso=800)
    variance = float(model._moments(shot)[1].detach().mean()) + (1 / (1023 - 64)) ** 2 / 12  # and rounding's
    n = noise.size
    assert abs(noise.mean()) < 4 * np.sqrt(variance / n)
    assert noise.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / n))


@pytest.mark.parametrize("kind", ["npy", "mat", "png", "dng"])
def test_sample_formats_of_a_mosaic(world, tmp_path, kind):
    from noiseflow.raw.decode import read_image, read_raw

    np.save(tmp_path / "c.npy", np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64))
    assert run("sample", world / "nlf", tmp_path / "c.npy", "--camera", "S6", "--iso", 100, "--out", tmp_path / "o",
               "--format", kind) == 0  # fmt: skip
    reference = tmp_path / "r"
    assert run("sample", world / "nlf", tmp_path / "c.npy", "--camera", "S6", "--iso", 100, "--out", reference) == 0
    expected = np.rint(np.load(reference / "c_noisy_0.npy") * 1023)
    path = tmp_path / "o" / f"c_noisy_0.{kind}"
    if kind == "dng":
        frame = read_raw(path)
        assert (frame.cfa, frame.iso, frame.white) == ("GRBG", 100, 1023)
        got = np.rint(frame.mosaic.numpy() * 1023)
    else:
        got = read_image(path)
        got = got if got.dtype.kind == "u" else np.rint(got * 1023)
    assert np.array_equal(got, expected)


def test_sample_on_pictures(world, tmp_path):
    from noiseflow.raw.decode import read_image

    picture = np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)  # odd sides: padded and cropped
    np.save(tmp_path / "p.npy", picture)
    for kind in ("npy", "png"):
        assert run("sample", world / "glow", tmp_path / "p.npy", "--camera", "S6", "--iso", 800, "--out",
                   tmp_path / kind, "--format", kind) == 0  # fmt: skip
    noisy = np.load(tmp_path / "npy" / "p_noisy_0.npy")
    assert noisy.dtype == np.uint8
    assert noisy.shape == picture.shape
    assert np.array_equal(read_image(tmp_path / "png" / "p_noisy_0.png"), noisy)
    assert not np.array_equal(noisy, picture)


def test_info_describes_everything(world, tmp_path, capsys):
    np.save(tmp_path / "c.npy", np.zeros((4, 6), np.float32))
    (tmp_path / "b").mkdir()
    for k in (1, 2):
        np.save(tmp_path / "b" / f"f{k}.npy", np.full((8, 6), k, np.uint8))
    (tmp_path / "b" / "bursts.csv").write_text("frames,camera,iso\nf*.npy,X,100\n")
    for target, words in (
        (world / "flow", ("noise_flow", "G4 at ISO 100, 800; S6 at ISO 100, 800", "SignalDependentScale")),
        (world / "sim", ("images: 16", "truth: exact", "12 train, 4 test")),
        (tmp_path / "c.npy", ("4×6", "float32")),
        (tmp_path / "b", ("bursts: 1", "truth: none", "X ISO 100", "8×6")),
    ):
        assert run("info", target) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words), out


def bad_inputs(world, tmp_path):
    np.save(tmp_path / "clean.npy", np.zeros((8, 8), np.float32))
    np.save(tmp_path / "odd.npy", np.zeros((7, 8), np.float32))
    np.save(tmp_path / "picture.npy", np.zeros((8, 8, 3), np.float32))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    data, out = ("--data", world / "sim"), ("--out", tmp_path / "out")
    sample = ("sample", world / "nlf", tmp_path / "clean.npy", *out)
    return {
        "no such data": ("fit", "--data", tmp_path / "none", "--model", "nlf", *out),
        "no images": ("fit", "--data", tmp_path / "empty", "--model", "nlf", *out),
        "unknown model": ("fit", *data, "--model", "magic", *out),
        "bad isos": ("fit", *data, "--model", "nlf", "--isos", "many", *out),
        "camera not there": ("fit", *data, "--model", "nlf", "--cameras", "N6", *out),
        "out not empty": ("fit", *data, "--model", "nlf", "--out", tmp_path / "full"),
        "bad layers": ("fit", *data, "--model", "noise_flow", "--layers", "sdn|spline", *out),
        "no cuda": ("evaluate", world / "nlf", *data, "--device", "cuda", *out),
        "no such model": ("evaluate", tmp_path / "none.safetensors", *data, *out),
        "baseline without data": ("evaluate", "nlf", *data, *out),
        "baseline on scored images": ("evaluate", "nlf", *data, "--split", "all", "--baseline-data", world / "sim",
                                      *out),
        "domain of another model": ("evaluate", world / "glow", *data, "--domain", "raw", *out),
        "unknown camera": (*sample, "--camera", "N6", "--iso", 100),
        "unknown iso": (*sample, "--camera", "S6", "--iso", 250),
        "iso outside": (*sample, "--camera", "S6", "--iso", 6400, "--allow-unseen"),
        "iso not positive": (*sample, "--camera", "S6", "--iso", 0),
        "bad cfa": (*sample, "--camera", "S6", "--iso", 100, "--cfa", "XYZW"),
        "odd mosaic": ("sample", world / "nlf", tmp_path / "odd.npy", "--camera", "S6", "--iso", 100, *out),
        "picture to raw model": ("sample", world / "nlf", tmp_path / "picture.npy", "--camera", "S6", "--iso", 100,
                                 *out),
        "no such image": ("sample", world / "nlf", tmp_path / "none.npy", "--camera", "S6", "--iso", 100, *out),
        "info on nothing": ("info", tmp_path / "none"),
        "odd size": ("simulate", tmp_path / "out", "--size", "33x64"),
        "size no size": ("simulate", tmp_path / "out", "--size", "big"),
        "unknown phone": ("simulate", tmp_path / "out", "--cameras", "X9"),
        "unreachable iso": ("simulate", tmp_path / "out", "--cameras", "IP", "--isos", "3200"),
    }  # fmt: skip


def test_bad_input_is_one_line_and_exit_1(world, tmp_path, capsys):
    for name, arguments in bad_inputs(world, tmp_path).items():
        code = run(*arguments)
        err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert code == 1, name
        assert len(err) == 1, (name, err)
        assert "NOISEFLOW_TRACEBACK" not in err[0], (name, err)
        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir()), name


@pytest.mark.parametrize("arguments", [["fit"], ["nonsense"], ["evaluate", "--data", "x", "--out", "y"], ["--bad"]])
def test_bad_usage_exits_2(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_ctrl_c_saves_and_exits_130(world, tmp_path):
    out = tmp_path / "run"
    command = [*PYTHON, "-m", "noiseflow", "fit", "--data", str(world / "sim"), "--model", "noise_flow", "--out",
               str(out), "--batch", "1", "--patch", "8", "--steps", "100000"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        time.sleep(0.1)
        if (out / "metrics.csv").is_file() and len((out / "metrics.csv").read_text().splitlines()) > 5:
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "stopped early" in stdout
    model = load(out)
    steps = [int(row["step"]) for row in csv.DictReader((out / "metrics.csv").read_text().splitlines())]
    assert steps == list(range(1, len(steps) + 1))
    assert model.card["scores"]["steps"] == steps[-1]
    assert (out / "last.ckpt").is_file()


def imported_by(code):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    listing = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    return set(listing.stdout.split())


def test_import_is_cheap():
    assert not {"torch", "lightning", "matplotlib", "rawpy", "cv2"} & imported_by("import noiseflow")
    everything = "import noiseflow\nfor name in noiseflow.__all__: getattr(noiseflow, name)"
    assert not {"lightning", "matplotlib", "rawpy", "cv2"} & imported_by(everything)


def test_help_imports_nothing_heavy():
    code = "from noiseflow.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not {"torch", "numpy", "scipy", "lightning", "matplotlib"} & imported_by(code)


def test_mono_frames_are_fitted_and_scored(tmp_path):
    """Pictures of one channel, through a baseline and a flow."""
    rng = np.random.default_rng(0)
    rows = ["noisy,clean,camera,iso,black,white"]
    for i in range(4):
        clean = rng.uniform(50, 900, (32, 34))
        for name, frame in (("n", clean + np.sqrt(clean) * rng.normal(size=clean.shape)), ("c", clean)):
            np.save(tmp_path / f"{name}{i}.npy", np.clip(np.round(frame), 0, 1023).astype(np.uint16))
        rows.append(f"n{i}.npy,c{i}.npy,mono,100,0,1023")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    data = ["--data", str(tmp_path)]
    for model, more in (("nlf", []), ("noise_flow", ["--steps", "2", "--patch", "16", "--batch", "2"])):
        assert main(["fit", *data, "--model", model, "--out", str(tmp_path / model), "--split", "all", *more]) == 0
    models = [str(tmp_path / "nlf"), str(tmp_path / "noise_flow")]
    assert main(["evaluate", *models, *data, "--split", "all", "--out", str(tmp_path / "e")]) == 0
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    nlf, flow = (model["mass"]["value"] for model in results["models"])
    assert flow == pytest.approx(nlf, abs=0.3)  # after two steps a flow is not far from where it started


WITHOUT_EFFECT = {
    "seed": (("--seed", "-1"), "--seed: expected 0 or more, got -1"),
    "batch": (("--batch", "0"), "--batch and --patch: expected 1 or more, got 1200, 0 and None"),
    "method": (("--method", "published"), "--method: only --noisy-only takes it"),
    "denoiser steps": (("--denoiser-steps", "3"), "--denoiser-steps: only --noisy-only takes it"),
}


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_options_that_cannot_be_meant_are_refused(case, tmp_path, capsys):
    data = tmp_path / "tree"
    assert main(["simulate", str(data), "--cameras", "S6", "--isos", "100", "--scenes", "2", "--size", "32x32"]) == 0
    arguments, expected = WITHOUT_EFFECT[case]
    command = ["fit", "--data", str(data), "--model", "noise_flow", "--out", str(tmp_path / "run"), *arguments]
    assert main(command) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
