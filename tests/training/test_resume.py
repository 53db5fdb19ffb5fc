"""A run killed and resumed ends in the same bytes as one that was not; what must not change is refused."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from noiseflow.cli import main
from noiseflow.files import file_hash

KILLS = int(os.environ.get("NOISEFLOW_KILLS", "2"))
STEPS = 260  # the checkpoints of steps 100 and 200 lie inside


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tree"
    assert run("simulate", root, "--cameras", "S6", "--isos", "100,800", "--scenes", 12, "--size", "64x64") == 0
    return root


def fit(data, out, *more):
    return ["fit", "--data", str(data), "--model", "noise_flow", "--out", str(out), "--steps", str(STEPS), "--batch",
            "2", "--patch", "8", "--hidden", "4", "--device", "cpu", "--keep", "best", *map(str, more)]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    assert main(fit(data, out)) == 0
    return out


def metrics(folder):
    return (folder / "metrics.csv").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_the_same_to_the_byte(data, uninterrupted, tmp_path, workers):
    """SIGKILL at random moments of the run: while starting, between checkpoints, while saving."""
    out = tmp_path / "run"
    moments = random.Random(workers)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command, killed = fit(data, out, "--workers", workers), 0
    while killed < KILLS:
        process = subprocess.Popen(
            [sys.executable, "-m", "noiseflow", *command],
            env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started = time.monotonic()
        while not (out / "config.yaml").is_file() and time.monotonic() - started < 300:
            assert process.poll() in (None, 0)
            time.sleep(0.05)
        wait = moments.uniform(0.0, 6.0)  # from before the first step to the last ones
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        killed += 1
        command = ["fit", "--resume", str(out)]
    assert run("fit", "--resume", out) == 0
    assert file_hash(out / "model.safetensors") == file_hash(uninterrupted / "model.safetensors")
    assert metrics(out) == metrics(uninterrupted)
    steps = [int(row["step"]) for row in csv.DictReader(metrics(out).splitlines())]
    assert steps == list(range(1, STEPS + 1))


def test_validation_rows_are_there(uninterrupted):
    rows = list(csv.DictReader(metrics(uninterrupted).splitlines()))
    assert [int(row["step"]) for row in rows if row["val_mass"]] == [50, 100, 150, 200, 250, 260]


@pytest.fixture
def copy(uninterrupted, tmp_path):
    return shutil.copytree(uninterrupted, tmp_path / "copy")


def test_steps_may_grow_and_not_shrink(copy, capsys):
    assert run("fit", "--resume", copy, "--steps", STEPS + 20) == 0
    steps = [int(row["step"]) for row in csv.DictReader(metrics(copy).splitlines())]
    assert steps == list(range(1, STEPS + 21))
    assert yaml.safe_load((copy / "config.yaml").read_text())["steps"] == STEPS + 20
    assert run("fit", "--resume", copy, "--steps", 10) == 1
    assert "already taken 280 steps" in capsys.readouterr().err


def test_other_options_may_not_change(copy, capsys):
    for option, value in (("--batch", 3), ("--learning-rate", 0.1), ("--model", "glow"), ("--seed", 5)):
        assert run("fit", "--resume", copy, option, value) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"error: {option}: a resumed run keeps")


def test_changed_data_are_refused_unless_said(data, copy, tmp_path, capsys):
    other = shutil.copytree(data, tmp_path / "other")
    extra = next((other / "Data").iterdir())
    with next(extra.glob("*_NOISY_RAW_010.MAT")).open("ab") as file:
        file.write(b"\0")
    environment = json.loads((copy / "environment.json").read_text()) | {"data": str(other)}
    (copy / "environment.json").write_text(json.dumps(environment))
    assert run("fit", "--resume", copy) == 1
    assert "the data have changed" in capsys.readouterr().err
    assert run("fit", "--resume", copy, "--data", other, "--steps", STEPS + 1) == 0


@pytest.mark.parametrize("damage", ["none", "config", "checkpoint", "metrics", "no metrics"])
def test_damaged_runs_are_one_line(copy, tmp_path, capsys, damage):
    target = copy
    if damage == "none":
        target = tmp_path / "nothing"
    elif damage == "config":
        (copy / "config.yaml").write_text("model: [")
    elif damage == "checkpoint":
        (copy / "last.ckpt").write_bytes((copy / "last.ckpt").read_bytes()[:1000])
    elif damage == "metrics":
        (copy / "metrics.csv").write_text("".join(metrics(copy).splitlines(keepends=True)[:100]))
    else:
        (copy / "metrics.csv").unlink()
    assert run("fit", "--resume", target) == 1
    err = capsys.readouterr().err.splitlines()
    assert len([line for line in err if line.startswith("error:")]) == 1


def test_what_is_not_finite_is_named_and_the_last_good_checkpoint_kept(data, copy, capsys):
    checkpoint = torch.load(copy / "last.ckpt", weights_only=True)
    name = next(key for key in checkpoint["state_dict"] if key.endswith("layers.2.net.4.bias"))
    checkpoint["state_dict"][name][-1] = torch.inf  # a shift: scales are bounded
    torch.save(checkpoint, copy / "last.ckpt")
    before = (copy / "last.ckpt").read_bytes()
    assert run("fit", "--resume", copy, "--steps", STEPS + 50) == 1
    err = capsys.readouterr().err
    assert "layer 2, AffineCoupling" in err
    assert "camera S6, ISO" in err
    assert "_NOISY_RAW_010.MAT" in err
    assert (copy / "last.ckpt").read_bytes() == before


def test_a_gradient_that_is_not_finite_is_named(data, tmp_path, capsys, monkeypatch):
    from noiseflow.transforms import Gain

    original = Gain.forward

    def poisoned(self, x, shot):
        z, log_det = original(self, x, shot)
        if self.log_gain.requires_grad and z.requires_grad:
            self.log_gain.register_hook(lambda g: g * torch.nan)
        return z, log_det

    monkeypatch.setattr(Gain, "forward", poisoned)
    assert main(fit(data, tmp_path / "run")) == 1
    err = capsys.readouterr().err
    assert "gradient of transform.layers.9.log_gain is not finite at step 1" in err
    assert "camera S6" in err
