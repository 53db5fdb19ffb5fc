"""`noiseflow export`: tables that come back as the same model, ONNX files that give the same images elsewhere."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from noiseflow.calibration.exchange import read_nlf_table
from noiseflow.calibration.physics import BUILT_IN, physics_of
from noiseflow.calibration.profile import read_profile
from noiseflow.cli import main
from noiseflow.denoise import NETWORKS
from noiseflow.files import load, save
from noiseflow.models import NoiseLevelFunction, noise_flow, srgb_flow

SLOPES = [1e-3, 7e-3, 5e-2]
PAIRS = [("S6", 100), ("S6", 800), ("G4", 51200)]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def nlf():
    """Noise level functions with other numbers for every camera and ISO."""
    model = NoiseLevelFunction(PAIRS, channels=4)
    with torch.no_grad():
        model.level.log_a.copy_(torch.tensor(SLOPES).log()[:, None].expand_as(model.level.log_a))
        model.level.log_b.copy_(torch.tensor([-12.0, -10.0, -9.0])[:, None].expand_as(model.level.log_b))
    return model


def test_a_table_comes_back_as_the_same_model(tmp_path):
    save(nlf(), tmp_path / "a.safetensors")
    assert run("export", tmp_path / "a.safetensors", "--out", tmp_path / "a.csv") == 0
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "cam_iso,beta1,beta2"
    assert [line.split(",")[0] for line in lines[1:]] == ["G4_51200", "S6_00100", "S6_00800"]
    assert run("import", tmp_path / "a.csv", "--out", tmp_path / "b.safetensors") == 0
    back, want = load(tmp_path / "b.safetensors").level, nlf().level
    assert back.conditions.pairs == want.conditions.pairs
    with torch.no_grad():
        torch.testing.assert_close(back.log_a, want.log_a)
        torch.testing.assert_close(back.log_b, want.log_b)


@torch.no_grad()
def test_the_table_of_a_profile(tmp_path, caplog):
    assert run("export", "eld-sony-a7s2", "--out", tmp_path / "a.txt") == 0
    assert "nearest" not in caplog.text  # it is exact
    level = physics_of(read_profile(BUILT_IN["eld-sony-a7s2"])).noise_level()
    for (camera, iso), line in read_nlf_table(tmp_path / "a.txt").items():
        row = level.conditions.pairs.index((camera, iso))
        assert line.slope == pytest.approx(float(level.log_a[row, 0].exp()), rel=1e-5)


def test_the_table_of_a_flow_is_the_line_of_its_noise(tmp_path, caplog):
    flow = noise_flow(PAIRS, hidden=4)
    flow.start_from(nlf().level)  # so the flow is that noise level function
    save(flow, tmp_path / "flow.safetensors")
    assert run("export", tmp_path / "flow.safetensors", "--out", tmp_path / "a.csv") == 0
    table = read_nlf_table(tmp_path / "a.csv")
    # 16 levels of 4096 values tell a slope to 1 %; 5 standard errors
    assert [table[pair].slope for pair in flow.conditions.pairs] == pytest.approx(SLOPES, rel=0.05)
    assert "nearest" in caplog.text


@pytest.mark.parametrize(("name", "channels"), [("dncnn", 4), ("unet", 4), ("nafnet-small", 3)])
def test_onnx_gives_the_same_images_at_every_size(tmp_path, name, channels):
    torch.manual_seed(0)
    network = NETWORKS[name](channels, **({} if name == "unet" else {"width": 8}))
    with torch.no_grad():
        for parameter in network.parameters():  # far from a start at the identity
            parameter += 0.1 * torch.randn_like(parameter)
    network.card = {"scores": {"psnr": 40.0}}
    save(network.eval(), tmp_path / "denoiser.safetensors")
    assert run("export", tmp_path / "denoiser.safetensors", "--out", tmp_path / "a.onnx") == 0
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    k = network.size_multiple
    for rows, height, width in ((1, k, 2 * k), (3, 40 // k * k, 72 // k * k), (1, 160, 96)):
        noisy = torch.rand(rows, channels, height, width)
        with torch.no_grad():
            clean = network(noisy)
        np.testing.assert_allclose(
            session.run(["clean"], {"noisy": noisy.numpy()})[0], clean, atol=1e-4 * float(clean.abs().max())
        )
    metadata = session.get_modelmeta().custom_metadata_map
    said = json.loads(metadata["noiseflow"])
    assert (said["architecture"], said["packing"], said["card"]) == (name, network.packing, network.card)
    assert (int(metadata["size_multiple"]), int(metadata["reach"])) == (k, network.reach)


BAD = {
    "no such model": (("none.safetensors", "--out", "a.csv"), "no such model"),
    "another ending": (("nlf.safetensors", "--out", "a.bin"), "expected a name that ends in .csv or .txt or .onnx"),
    "a noise model as a network": (("nlf.safetensors", "--out", "a.onnx"), "expected a denoiser, found a noise model"),
    "a network as a table": (("dncnn.safetensors", "--out", "a.csv"), "expected a noise model, found a denoiser"),
    "a folder with a network": (("dncnn", "--out", "a.csv"), "holds a denoiser and no noise model"),
    "a folder with a noise model": (("nlf", "--out", "a.onnx"), "holds a noise model and no denoiser"),
    "noise of pictures": (("srgb.safetensors", "--out", "a.csv"), "expected a model of raw noise"),
    "a file that is there": (("nlf.safetensors", "--out", "nlf.csv"), "pass --overwrite"),
    "a folder that is not": (("nlf.safetensors", "--out", "no/a.csv"), "does not exist"),
    "a comma in a name": (("comma.safetensors", "--out", "a.csv"), "without commas"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_said_in_a_line(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(nlf(), "nlf.safetensors")
    save(NETWORKS["dncnn"](4, width=4, depth=2), "dncnn.safetensors")
    save(srgb_flow([("S6", 100)]), "srgb.safetensors")
    save(NoiseLevelFunction([("a,b", 100)], channels=4), "comma.safetensors")
    for folder, name in (("nlf", "model"), ("dncnn", "denoiser")):
        (tmp_path / folder).mkdir()
        shutil.copy(f"{folder}.safetensors", tmp_path / folder / f"{name}.safetensors")
    (tmp_path / "nlf.csv").write_text("mine")
    arguments, expected = BAD[case]
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run("export", *arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and expected in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "nlf.csv").read_text() == "mine"


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch, capsys):
    save(NETWORKS["dncnn"](4, width=4, depth=2), tmp_path / "a.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    assert run("export", tmp_path / "a.safetensors", "--out", tmp_path / "a.onnx") == 1
    assert "camera-noiseflow[onnx]" in capsys.readouterr().err
