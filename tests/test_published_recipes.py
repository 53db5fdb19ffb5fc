"""The published recipes run as they stand, on a small simulated tree, and say what was published."""

from pathlib import Path

import pytest
import torch
import yaml

from noiseflow.cli import main
from noiseflow.files import load, read_header

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "experiments" / "published"


@pytest.mark.parametrize("name", ["noise_flow_sidd_medium", "srgb_flow_sidd_medium"])
def test_a_recipe_fits_as_it_stands(name, tmp_path):
    """Data, output and the number of steps from the command line, all else from the file."""
    config, out = RECIPES / name / "config.yaml", tmp_path / "run"
    command = ["fit", "--config", str(config), "--data", str(ROOT / "data" / "sample"), "--out", str(out)]
    assert main([*command, "--steps", "2", "--device", "cpu"]) == 0
    protocol, recipe = read_header(out / "model.safetensors")["card"]["protocol"], yaml.safe_load(config.read_text())
    assert protocol | {"steps": recipe["steps"]} == protocol | recipe
    assert (recipe["batch"], recipe["patch"]) == (138, 32)
    assert recipe["steps"] % (56 * 2 * 2898 // 138) == 0  # whole epochs
    assert all(torch.isfinite(value).all() for value in load(out).parameters() if value.requires_grad)


def test_the_joint_training_fits_as_it_stands(tmp_path):
    """On bursts, with fewer steps and patches than published."""
    config, data = RECIPES / "noise2noiseflow_sidd_full" / "config.yaml", tmp_path / "data"
    simulated = ["--cameras", "S6", "--isos", "800", "--scenes", "2", "--size", "64x64", "--frames", "2"]
    assert main(["simulate", str(data), *simulated]) == 0
    command = ["fit", "--config", str(config), "--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*command, "--steps", "1", "--batch", "2"]) == 0
    protocol = read_header(tmp_path / "run" / "model.safetensors")["card"]["protocol"]
    recipe = yaml.safe_load(config.read_text())
    assert protocol | {"steps": recipe["steps"], "batch": 138} == protocol | recipe
    assert recipe["steps"] % (56 * 2898 // 138) == 0  # whole epochs
    assert load(tmp_path / "run").noise_domain == "recorded"


def test_the_step_of_the_joint_training_runs():
    """The example in the recipe."""
    text = (RECIPES / "noise2noiseflow_sidd_full" / "README.md").read_text()
    names = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(text.split("```python\n")[1].split("```")[0], names)
    assert torch.isfinite(names["loss"].total)
    assert all(parameter.grad is not None for parameter in names["flow"].transform.layers[2].parameters())
