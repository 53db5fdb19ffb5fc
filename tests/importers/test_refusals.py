"""What is not a whole published checkpoint is refused in one line, and never run."""

import os
import pickle

import numpy as np
import pytest
import torch
from checkpoints import dncnn, raw_flow, srgb_flow, tensorflow_flow, unet

from noiseflow.cli import main
from noiseflow.errors import UserError
from noiseflow.files import load, load_denoiser
from noiseflow.importers import import_checkpoint

COUPLING = "noise_flow.model.2._shift_and_log_scale"


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


def with_nan(state, name):
    value = state[name].clone()
    value.view(-1)[0] = torch.nan
    return state | {name: value}


DAMAGED = {
    "raw, missing": (without(raw_flow(), "noise_flow.model.5.log_s"), "lacks noise_flow.model.5.log_s"),
    "raw, partial": ({k: v for k, v in raw_flow().items() if ".model.0." in k}, "lacks noise_flow.model.1.l"),
    "raw, one more": (raw_flow() | {"noise_flow.model.18.l": torch.eye(4)}, "noise_flow.model.18.l is in the checkp"),
    "raw, more in a layer": (raw_flow() | {f"{COUPLING}.gate": torch.eye(4)}, f"{COUPLING}.gate is in the checkp"),
    "raw, shape": (
        raw_flow() | {"noise_flow.model.1.l": torch.eye(3)},
        r"should have the shape \(4, 4\), has \(3, 3\)",
    ),
    "raw, NaN": (with_nan(raw_flow(), f"{COUPLING}.conv2d_3.bias"), f"{COUPLING}.conv2d_3.bias holds NaN"),
    "raw, NaN statistic": (with_nan(raw_flow(), f"{COUPLING}.net.1.running_var"), "net.1.running_var holds NaN"),
    "raw, negative gain": (raw_flow() | {"noise_flow.model.9.scale": torch.tensor(-1.0)}, "should be positive, is -1"),
    "raw, two versions": (raw_flow() | {f"{COUPLING}.conv2d_1.bias": torch.ones(4)}, "differs from net.0.bias"),
    "raw, broken denoiser": (
        raw_flow() | {f"denoiser.{k}": v for k, v in without(dncnn(), "dncnn.0.bias").items()},
        "lacks denoiser.dncnn.0.bias",
    ),
    "srgb, missing": (without(srgb_flow(), "model.7.bias"), "lacks model.7.bias"),
    "srgb, missing inside": (
        without(srgb_flow(), "model.4._encoder.blocks.1.linear_layers.0.bias"),
        "lacks model.4._encoder.blocks.1.linear_layers.0.bias",
    ),
    "srgb, NaN": (with_nan(srgb_flow(), "model.2.log_scale"), "model.2.log_scale holds NaN"),
    "srgb, one more": (srgb_flow() | {"model.22.l": torch.eye(3)}, "model.22.l is in the checkpoint"),
    "dncnn, missing": (without(dncnn(), "dncnn.3.running_mean"), "lacks dncnn.3.running_mean"),
    "dncnn, NaN": (with_nan(dncnn(), "dncnn.2.weight"), "dncnn.2.weight holds NaN"),
    "dncnn, no end": (without(dncnn(), "dncnn.8.weight"), "lacks dncnn.8.weight"),
    "dncnn, no kernel": (dncnn() | {"dncnn.0.weight": torch.zeros(8)}, "should be the kernel of a convolution"),
    "raw, variance": (raw_flow() | {f"{COUPLING}.net.1.running_var": -torch.ones(4)}, "2.first.weight infinite or NaN"),
    "raw, no permutation": (raw_flow() | {"noise_flow.model.3.p": torch.ones(4, 4) / 4}, "3.p should be a permutation"),
    "raw, signs": (raw_flow() | {"noise_flow.model.3.sign_s": torch.zeros(4)}, "sign_s should hold ones"),
    "sparse": ({"noise_flow.x": torch.eye(3).to_sparse()}, "expected plain named tensors"),
    "unet, missing": (without(unet(), "_block6.4.bias"), "lacks _block6.4.bias"),
    "unet, shape": (unet() | {"_block5.0.weight": torch.zeros(96, 96, 3, 3)}, "_block5.0.weight should have the shape"),
    "another model": ({"conv1.weight": torch.eye(3)}, "another model .the first is conv1.weight"),
    "empty": ({}, "holds no tensors"),
    "not tensors": ({"model": "resnet"}, "expected plain named tensors, got str under 'model'"),
    "a list": ([1, 2], "expected a dictionary of tensors, got list"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_refused_by_name(name, tmp_path):
    state, message = DAMAGED[name]
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=message) as error:
        import_checkpoint(tmp_path / "checkpoint.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["model/real_nvp_conv_template_3/l_2/b", "level0/bijector7/rescaling_scale0"])
def test_partial_variables_are_refused_by_name(missing, tmp_path):
    state = {key: value.numpy() for key, value in tensorflow_flow().items() if key != missing}
    np.savez(tmp_path / "variables.npz", **state)
    with pytest.raises(UserError, match=f"lacks {missing}"):
        import_checkpoint(tmp_path / "variables.npz")


class Hostile:
    """Runs a command when it is unpickled by a reader that lets it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_nothing_in_a_checkpoint_is_run(tmp_path, capsys):
    marker = tmp_path / "ran"
    torch.save(raw_flow() | {"epoch": Hostile(marker)}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"noise_flow.x": Hostile(marker)}))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps({"noise_flow.x": Hostile(marker)}))
    np.savez(tmp_path / "inside.npz", **{"model/sdn_gain/beta1": np.array([Hostile(marker)], dtype=object)})
    for name in ("zip.pth", "bare.pth", "bare.npz", "inside.npz"):
        assert main(["import", str(tmp_path / name), "--out", str(tmp_path / "m.safetensors")]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        assert name in said
    assert not marker.exists()
    assert not (tmp_path / "m.safetensors").exists()
    pickle.loads((tmp_path / "bare.pth").read_bytes())  # a reader that trusts it does run it
    assert marker.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["pth", "npz"])
def test_truncated_files_are_refused(kind, kept, tmp_path):
    path = tmp_path / f"checkpoint.{kind}"
    if kind == "pth":
        torch.save(raw_flow(), path)
    else:
        np.savez(path, **{key: value.numpy() for key, value in tensorflow_flow().items()})
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept >= 1 or kept == 0 else int(kept * len(content))])
    with pytest.raises(UserError, match="not a ") as error:
        import_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_tensorflow_checkpoint_needs_tensorflow(tmp_path):
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        (tmp_path / "model.ckpt.index").write_bytes(b"")
        with pytest.raises(UserError, match=r"needs tensorflow; install it with .*\[tensorflow\]"):
            import_checkpoint(tmp_path / "model.ckpt")
    else:
        pytest.skip("tensorflow is installed")


def test_the_command_writes_model_and_denoiser(tmp_path, capsys):
    both = raw_flow() | {f"denoiser.{key}": value for key, value in dncnn().items()}
    torch.save({"state_dict": both}, tmp_path / "both.pth")
    torch.save(dncnn(), tmp_path / "denoiser.pth")
    flow, network, alone = (str(tmp_path / f"{name}.safetensors") for name in ("flow", "network", "alone"))
    assert main(["import", str(tmp_path / "both.pth"), "--out", flow, "--denoiser", network]) == 0
    assert capsys.readouterr().out.split() == [flow, network]
    assert main(["import", str(tmp_path / "denoiser.pth"), "--out", alone]) == 0
    x = torch.rand(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_denoiser(network)(x), load_denoiser(alone)(x))
    model = load(flow)
    again = import_checkpoint(tmp_path / "both.pth").model
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert model.noise_domain == "recorded" and model.packing == "clockwise, transposed"
    assert model.card["imported"]["licence"] == "CC BY-NC 4.0"
    capsys.readouterr()
    assert main(["info", flow]) == 0
    said = capsys.readouterr().out
    assert "noise domain: recorded" in said and "CC BY-NC 4.0" in said and "CameraIsoScale" in said
    assert main(["info", network]) == 0
    assert "denoiser: dncnn" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected a noise model, found a denoiser"):
        load(network)
    with pytest.raises(UserError, match="expected a denoiser, found a noise model"):
        load_denoiser(flow)


def test_the_command_refuses_outputs_that_make_no_sense(tmp_path, capsys):
    torch.save(raw_flow(), tmp_path / "flow.pth")
    torch.save(dncnn(), tmp_path / "denoiser.pth")
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    free = str(tmp_path / "free.safetensors")
    for arguments, message in (
        (["flow.pth", "--out", str(taken)], "pass --overwrite"),
        (["flow.pth", "--out", str(tmp_path / "model.pth")], "ends in .safetensors"),
        (["flow.pth", "--out", str(tmp_path / "no" / "model.safetensors")], "does not exist"),
        (["flow.pth", "--out", free, "--denoiser", str(tmp_path / "d.safetensors")], "holds no denoiser"),
        (["denoiser.pth", "--out", free, "--denoiser", str(tmp_path / "d.safetensors")], "and nothing else"),
        (["nowhere.pth", "--out", free], "no such checkpoint"),
    ):
        assert main(["import", str(tmp_path / arguments[0]), *arguments[1:]]) == 1
        assert message in capsys.readouterr().err
    assert taken.read_bytes() == b"mine"
    assert main(["import", str(tmp_path / "flow.pth"), "--out", str(taken), "--overwrite"]) == 0
    assert load(taken).parameter_count() > 2000
