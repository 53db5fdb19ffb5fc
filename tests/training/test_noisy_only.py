"""`fit --noisy-only`: what a run leaves behind, its going on after Ctrl-C, and the noise that it finds."""

import csv
import dataclasses
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from noiseflow.cli import main
from noiseflow.conditions import Conditions
from noiseflow.datasets import open_bursts
from noiseflow.denoise import Denoiser, DnCNN
from noiseflow.errors import UserError
from noiseflow.files import file_hash, load, load_denoiser, save
from noiseflow.options import FitOptions
from noiseflow.progress import Progress
from noiseflow.training.fit import fit
from noiseflow.training.fit_noisy import compare_frames, fit_for_training
from noiseflow.training.frame_moments import FoundSignal
from noiseflow.training.resume import resume

STEPS, DENOISER_STEPS = 5, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tree"
    arguments = ["--cameras", "S6", "--isos", "100,800", "--scenes", "2", "--size", "32x32", "--frames", "3"]
    assert main(["simulate", str(root), *arguments]) == 0
    return root


def options(data, out, method="unbiased", **more):
    model = "noise_flow" if method == "unbiased" else "noise_flow_paper"
    return FitOptions(
        data=str(data), model=model, out=str(out), split="all", noisy_only=True, method=method, steps=STEPS,
        denoiser_steps=DENOISER_STEPS, batch=2, patch=8, device="cpu", **more,
    )  # fmt: skip


class CtrlC(Progress):
    """Presses Ctrl-C when so many steps have been shown."""

    def __init__(self, after):
        self.left = after

    def update(self, advance=1, **figures):
        self.left -= advance
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module", params=["unbiased", "published"])
def whole(data, tmp_path_factory, request):
    small = tmp_path_factory.mktemp("networks") / "small.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save(DnCNN(4, width=4, depth=3), small)
    chosen = options(data, tmp_path_factory.mktemp("run") / "whole", request.param, denoiser=str(small))
    assert fit(chosen)
    return chosen


def metrics(chosen):
    return Path(chosen.out, "metrics.csv").read_text()


@pytest.mark.parametrize("after", [2, DENOISER_STEPS, DENOISER_STEPS + 2])
def test_stopped_and_resumed_is_the_same_to_the_byte(whole, tmp_path, after):
    """While the denoiser trains, between the networks, and while the noise model does."""
    stopped = dataclasses.replace(whole, out=str(tmp_path / "run"))
    assert not fit(stopped, CtrlC(after))
    both = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in both} >= {"model", "denoiser"}
    for name in ("model", "denoiser"):
        assert (tmp_path / "run" / f"{name}.safetensors").is_file()
    assert resume(tmp_path / "run", {})
    for name in ("model.safetensors", "denoiser.safetensors"):
        assert file_hash(tmp_path / "run" / name) == file_hash(f"{whole.out}/{name}")
    assert (tmp_path / "run" / "metrics.csv").read_text() == metrics(whole)


def test_a_run_folder_holds_both_networks(whole):
    rows = list(csv.DictReader(metrics(whole).splitlines()))
    figure = "mass" if whole.method == "unbiased" else "nll"
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + DENOISER_STEPS + 1))
    assert all(row["mse"] and not row[figure] for row in rows[:DENOISER_STEPS])
    assert all(row[figure] for row in rows[DENOISER_STEPS:])
    assert all(bool(row["mse"]) == (whole.method == "published") for row in rows[DENOISER_STEPS:])
    model, denoiser = load(whole.out), load_denoiser(f"{whole.out}/denoiser.safetensors")
    assert model.noise_domain == ("latent" if whole.method == "unbiased" else "recorded")
    assert model.card["data"]["truth"] == "none"
    assert model.card == denoiser.card
    clean = np.full((4, 8, 8), 0.3)
    assert np.isfinite(model.sample_numpy(clean, camera="S6", iso=800)).all()
    assert not model.training and not denoiser.training


def test_what_does_not_go_together_is_said(data, tmp_path):
    wrong = (
        ({"model": "nlf"}, "expected --model noise_flow or"),
        ({"method": "published"}, "expected --model noise_flow_paper"),
        ({"keep": "best"}, "--keep last"),
        ({"denoiser": "bm3d"}, "--denoiser: expected dncnn, unet or a denoiser's file"),
        ({"denoiser_steps": -1}, "--denoiser-steps"),
        ({"denoiser": "unet"}, "expected frames of 32 pixels or more, got 16"),
    )
    for change, said in wrong:
        with pytest.raises(UserError, match=said):
            fit(dataclasses.replace(options(data, tmp_path / "run"), **change))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_bursts_that_moved_are_left_out(tmp_path, caplog):
    """One of two bursts was taken while the camera moved by a pixel; with --unfit keep it stays."""
    rng = np.random.default_rng(6)
    scene = rng.uniform(0.2, 0.8, (12, 13)).repeat(8, axis=0).repeat(8, axis=1)
    for name, move in (("still", 0), ("moved", 1)):
        for k in range(2):
            frame = scene[:, move * k :][:, :96] + 0.02 * rng.standard_normal((96, 96))
            np.save(tmp_path / f"{name}_{k}.npy", frame.astype(np.float32))
    (tmp_path / "bursts.csv").write_text("frames,camera,iso\nstill_*.npy,C,100\nmoved_*.npy,C,100\n")
    dataset = open_bursts(tmp_path, black=0, white=1)
    chosen = fit_for_training(dataset)
    kept = chosen.bursts
    assert [burst.frames[0].files[0].name for burst in kept] == ["still_0.npy"]
    assert "moved camera" in caplog.text
    assert "left out" in caplog.text
    assert [len(found) for found in chosen.findings.values()] == [0, 1]
    assert len(fit_for_training(dataset, keep=True).bursts) == 2
    moved = tuple(burst for burst in dataset.bursts if burst not in kept)
    with pytest.raises(UserError, match="moved camera"):
        fit_for_training(dataclasses.replace(dataset, frames=moved))
    with pytest.raises(UserError, match="found something wrong with all 2"):
        fit_for_training(dataclasses.replace(dataset, frames=moved * 2))
    run = tmp_path / "run"
    assert fit(dataclasses.replace(options(tmp_path, run), black=0, white=1, steps=1, denoiser_steps=1))
    assert cv2.imread(str(run / "bursts.png")).shape[1] == 1000  # 10 inches at 100 dots each


class Blur(Denoiser):
    """The mean of 3×3 pixels: on a flat scene it errs by a ninth of the noise's variance."""

    def __init__(self):
        super().__init__(1, None)
        self.none = torch.nn.Parameter(torch.zeros(1))

    def forward(self, noisy):
        return torch.nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)


@pytest.mark.parametrize("frames", [2, 3])
def test_frames_of_flat_scenes_give_noise_and_error(tmp_path, frames):
    """Bursts of two frames as those of three, from a folder with bursts.csv."""
    a, b, rng = 4e-3, 2e-4, np.random.default_rng(5)
    rows = ["frames,camera,iso"]
    for number, level in enumerate((0.2, 0.5, 0.8)):
        for k in range(frames):
            noise = np.sqrt(a * level + b) * rng.standard_normal((192, 192))
            np.save(tmp_path / f"{number}_{k}.npy", (level + noise).astype(np.float32))
        rows.append(f"{number}_*.npy,C,100")
    (tmp_path / "bursts.csv").write_text("\n".join(rows))
    bursts = open_bursts(tmp_path, black=0, white=1).bursts
    table = FoundSignal(Conditions([("C", 100.0)]), 1)
    level = compare_frames(Blur(), table, bursts=bursts, patch=32, margin=2, seed=0)
    # 3 · 192² values of ½d², each as uncertain as √2 times itself; bins weigh differently, hence twice four of those.
    se = np.sqrt(2 / (3 * 192**2))
    a_found, b_found = (float(log.detach().exp()) for log in (level.log_a, level.log_b))
    for value in (0.2, 0.5, 0.8):
        variance = a * value + b
        assert a_found * value + b_found == pytest.approx(variance, rel=8 * se)
        near = (table.knots[0, 0] - value).abs() < np.sqrt(variance / 9)
        signal = table.knots[0, 0, near, None] + table.shift[0, 0, near]
        assert near.any()
        # A hundred values or more in every group: a tenth of the noise's deviation, four times.
        assert float((signal - value).abs().max()) < 0.4 * np.sqrt(variance)
        # Nothing is left of a known signal but what 100 products, each as uncertain as the variance, seem to hold.
        assert float(table.error[0, 0, near].mean()) < 0.1 * variance
