"""The pass over the data: its figures agree with one another, with images in place of a model, and over processes."""

import json
import os
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch

from noiseflow.datasets import collate, open_dataset
from noiseflow.errors import UserError
from noiseflow.evaluation import Entry, SampleFolder, classifier, evaluate, samples, structure
from noiseflow.metrics.intervals import scene_interval
from noiseflow.randomness import combine, seed_of
from noiseflow.raw.cfa import unpack
from noiseflow.sensors import SensorTruth
from noiseflow.simulate import simulate
from noiseflow.training.fit import calibration_patches, fit_baseline

SEED = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation") / "tree"
    simulate(root, cameras=["S6", "N6"], isos=[3200], scenes=6, size=(128, 160), seed=11)
    return open_dataset(root)


@pytest.fixture(scope="module")
def entries(data):
    patches = calibration_patches(data.frames, 0)
    truth = SensorTruth.from_dict(data.sensor)
    return [Entry("truth", truth), *(Entry(name, fit_baseline(name, *patches)) for name in ("nlf", "gaussian"))]


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Fewer draws than by default: the same code, exact p-values all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure, "SETS", 49)
        patch.setattr(structure, "PATCHES", 20)
        patch.setattr(samples, "AKLD_DRAWS", 6)
        patch.setattr(classifier, "STEPS", 120)
        yield


@pytest.fixture(scope="module")
def results(data, entries, few_draws):
    evaluation = evaluate(entries, data, split="all", seed=SEED, classifier=True)
    return {model["name"]: model for model in evaluation.results["models"]} | {"all": evaluation.results}


def weighted(rows, score):
    return sum(row["values"] * row[score] for row in rows) / sum(row["values"] for row in rows)


@pytest.mark.parametrize("name", ["truth", "nlf", "gaussian"])
def test_shares_of_the_mass_add_up(results, name):
    model = results[name]
    assert weighted(model["by_intensity"], "mass") == pytest.approx(model["mass"]["value"], rel=1e-12)
    assert weighted(model["by_intensity"], "regret") == pytest.approx(model["regret"]["value"], abs=1e-12)
    assert weighted(model["near_clip"].values(), "mass") == pytest.approx(model["mass"]["value"], rel=1e-12)
    assert weighted(model["images"], "mass") == pytest.approx(model["mass"]["value"], rel=1e-12)
    assert sum(row["values"] for row in model["by_intensity"]) == sum(row["values"] for row in model["images"])


def test_the_true_sensor_is_what_it_is(results):
    truth = results["truth"]
    assert truth["regret"]["value"] == truth["regret"]["se"] == 0
    assert truth["kld"]["conditional"]["indistinguishable"]
    # Exact p-values: below 0.02 with probability 0.02 over the seed, which is fixed.
    assert truth["structure"]["family"]["p"] > 0.02
    assert truth["classifier"]["low"] < 0.5 < truth["classifier"]["high"]


def test_a_model_that_ignores_the_signal_is_found_out(results):
    flat = results["gaussian"]
    assert flat["regret"]["value"] > 0.05
    assert not flat["kld"]["conditional"]["indistinguishable"]
    assert flat["kld"]["conditional"]["value"] > 100 * abs(results["nlf"]["kld"]["conditional"]["value"])
    assert flat["structure"]["family"]["p"] == flat["structure"]["std"]["p"] == 0.02
    assert flat["classifier"]["low"] > 0.6


def test_near_the_clip_is_where_the_noise_reaches_it(data, results):
    sensors = SensorTruth.from_dict(data.sensor).sensors
    near = total = 0
    for frame in data.frames:
        clean = frame.read().clean.double().numpy()
        a, b = sensors[frame.camera].noise_level(frame.iso)
        reach = 3 * np.sqrt(a * np.maximum(clean, 0) + b)
        near += 4 * ((clean - reach < 0) | (clean + reach > 1)).any(axis=0).sum()
        total += clean.size
    assert results["nlf"]["near_clip"]["near"]["values"] == near
    assert results["nlf"]["near_clip"]["inside"]["values"] == total - near


def test_differences_are_paired_by_scene(results):
    by_scene = defaultdict(lambda: np.zeros(2))
    for mine, other in zip(results["nlf"]["images"], results["gaussian"]["images"], strict=True):
        by_scene[mine["scene"]] += [mine["values"] * (mine["mass"] - other["mass"]), mine["values"]]
    expected = scene_interval(*zip(*((lost, int(n)) for lost, n in by_scene.values()), strict=True))
    (found,) = (d for d in results["all"]["differences"] if (d["first"], d["second"]) == ("nlf", "gaussian"))
    assert found["value"] == pytest.approx(expected.value, rel=1e-9)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), rel=1e-9)
    own = results["nlf"]["mass"], results["gaussian"]["mass"]
    assert own[0]["high"] > own[1]["low"]  # the scenes differ so much that only the paired interval tells
    assert found["high"] < 0


@pytest.fixture(scope="module")
def folder(data, entries, tmp_path_factory):
    """What `nlf` makes of every frame, as mosaics of another format in the layout of the tree."""
    root = tmp_path_factory.mktemp("made")
    for frame in data.frames:
        _, shot = collate([frame.read()])
        seed = int(combine(SEED, seed_of(frame.name.encode())))
        noise = entries[1].model.sample(shot, seed=seed).double()
        mosaic = unpack(frame.grid.snap(shot.clean.double() + noise)[0].float(), frame.cfa)
        path = root / frame.files[0].relative_to(data.root).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, mosaic.numpy())
    return root


def test_images_score_as_the_model_that_made_them(data, folder, results):
    evaluation = evaluate([Entry("made", SampleFolder(folder, data))], data, split="all", seed=SEED)
    (made,) = evaluation.results["models"]
    assert set(made["kld"]) == set(results["nlf"]["kld"]) - {"akld"}
    for name, figures in made["kld"].items():
        for key in ("value", "low", "high"):
            assert figures[key] == pytest.approx(results["nlf"]["kld"][name][key], rel=1e-9, abs=1e-12)
    assert made["mass"] is made["nll"] is made["regret"] is None
    assert made["reason"]["mass"]
    assert made["structure"]["family"]["p"] > 0.02


def test_images_that_are_missing_or_of_another_size(data, folder, tmp_path):
    with pytest.raises(UserError, match="expected a noisy image for every scored frame"):
        SampleFolder(tmp_path, data)
    with pytest.raises(UserError, match="expected a folder"):
        SampleFolder(tmp_path / "none", data)
    for frame in data.frames:
        np.save(tmp_path / f"{frame.files[0].stem}.npy", np.zeros((16, 16), np.float32))
    small = SampleFolder(tmp_path, data)
    with pytest.raises(UserError, match=r"size|shape"):
        evaluate([Entry("small", small)], data, split="all")


def test_two_processes_give_the_figures_of_one(data, folder, tmp_path):
    """Through the command line, started by torchrun; figures of sums in another order, hence 1e-9."""
    common = ["evaluate", "nlf", "gaussian", "--data", str(data.root), "--baseline-data", str(data.root), "--samples",
              str(folder), "--cameras", "S6", "--device", "cpu"]  # fmt: skip
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    figures = []
    for name, start in (("one", []), ("two", together)):
        command = [sys.executable, *start, "-m", "noiseflow", *common, "--out", str(tmp_path / name)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        figures.append(json.loads((tmp_path / name / "results.json").read_text()))
    assert same(*figures)


def same(a, b):
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a == pytest.approx(b, rel=1e-9, abs=1e-12)
    return a == b


@torch.no_grad()
def test_a_tile_alone_scores_as_in_the_pass(data, entries, results):
    noisy, shot = collate([data.frames[0].read()])
    mass = -entries[1].model.log_mass(noisy, shot).item() / noisy.numel()
    assert results["nlf"]["images"][0]["mass"] == pytest.approx(mass, rel=1e-12)
