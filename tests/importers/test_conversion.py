"""Random checkpoints of the published shapes, against the published formulas written down without any folding."""

import numpy as np
import pytest
import torch
from checkpoints import NOISE_FLOW_STEPS, SRGB_STEPS, TF_STEPS, dncnn, raw_flow, srgb_flow, tensorflow_flow, unet
from torch.nn import functional

from noiseflow.errors import UserError
from noiseflow.files import load, save
from noiseflow.importers import import_checkpoint
from noiseflow.models.published import fold_norm
from noiseflow.shot import Shot

CAMERAS, ISOS = ["IP", "GP", "S6", "N6", "G4"], [100, 400, 800, 1600, 3200]
CHOSEN = [("S6", 3200), ("IP", 1600), ("G4", 800), ("GP", 100)]


def imported(state, tmp_path, wrap=lambda state: {"epoch_num": 3, "state_dict": state, "optimizer": {}}):
    path = tmp_path / "checkpoint.pth"
    torch.save(wrap(state), path)
    return import_checkpoint(path)


def normed(state, name, x, epsilon):
    shape = (-1, *[1] * (x.ndim - 2))
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].double().reshape(shape) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + epsilon) * weight + bias


def with_ring(h):
    padded = functional.pad(h, (1, 1, 1, 1))
    ring = torch.ones_like(padded[:, :1])
    ring[..., 1:-1, 1:-1] = 0
    return torch.cat((padded, ring), dim=1)


def coupled(state, name, x, kept, seen, strength=1.0):
    get = {
        key.split("_shift_and_log_scale.")[1]: v.double() for key, v in state.items() if key.startswith(f"{name}._sh")
    }
    h = functional.conv2d(seen, get["conv2d_1.weight"], get["conv2d_1.bias"], padding=1)
    h = torch.relu(normed(get, "net.1", h, 1e-5))
    h = functional.conv2d(h, get["conv2d_2.weight"], get["conv2d_2.bias"])
    h = torch.relu(normed(get, "net.4", h, 1e-5))
    h = functional.conv2d(with_ring(h), get["conv2d_3.weight"], get["conv2d_3.bias"]) * torch.exp(3 * get["logs"])
    shift, raw = h[:, : h.shape[1] // 2], h[:, h.shape[1] // 2 :]
    log_scale = strength * get["scale"] * torch.tanh(raw)
    return torch.cat((x[:, :kept], x[:, kept:] * log_scale.exp() + shift), dim=1), log_scale.sum(dim=(1, 2, 3))


def mixed(state, name, x):
    get = {key: state[f"{name}.{key}"].double() for key in ("l", "u", "p", "log_s", "sign_s")}
    n = x.shape[1]
    lower = get["l"] * torch.tril(torch.ones(n, n), -1) + torch.eye(n)
    upper = get["u"] * torch.triu(torch.ones(n, n), 1) + torch.diag(get["sign_s"] * get["log_s"].exp())
    z = torch.einsum("oi,bihw->bohw", get["p"] @ lower @ upper, x)
    return z, x.shape[2] * x.shape[3] * get["log_s"].sum()


def sensor_scaled(camera, gain, beta1, beta2, x, clean):
    scale = torch.empty_like(clean)
    for row, (name, iso) in enumerate(CHOSEN):
        e = camera[:, CAMERAS.index(name)].double().exp()
        g = torch.exp(gain[ISOS.index(iso)].double() * e[2]) * iso
        scale[row] = torch.sqrt(torch.exp(beta1.double() * e[0]) * clean[row] / g + torch.exp(beta2.double() * e[1]))
    return x / scale, -scale.log().sum(dim=(1, 2, 3))


def a_batch(channels, height=5, width=7):
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(len(CHOSEN), channels, height, width, generator=generator, dtype=torch.float64)
    noise = 0.05 * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    iso = torch.tensor([float(iso) for _, iso in CHOSEN])
    return noise, Shot.of(clean, camera=[camera for camera, _ in CHOSEN], iso=iso)


def assert_same(found, z, log_det):
    """Float64 on both sides, in another order of operations: some hundreds of roundings of values near one."""
    assert torch.allclose(found[0], z, rtol=1e-10, atol=1e-10)
    assert torch.allclose(found[1], log_det, rtol=1e-10)


def test_the_raw_flow_is_what_its_checkpoint_says(tmp_path):
    state = raw_flow()
    model = imported(state, tmp_path).model
    x, shot = a_batch(4)
    name = "noise_flow.model.0._scale"
    parts = (state[f"{name}.{key}"] for key in ("cam_params", "gain_params", "beta1", "beta2"))
    z, log_det = sensor_scaled(*parts, x, shot.clean)
    for number in NOISE_FLOW_STEPS:
        if number == 10:
            gain = state["noise_flow.model.9.scale"].double()
            z, log_det = z / gain, log_det - z[0].numel() * gain.log()
        z, change = mixed(state, f"noise_flow.model.{number}", z)
        log_det = log_det + change
        z, change = coupled(state, f"noise_flow.model.{number + 1}", z, 2, z[:, :2])
        log_det = log_det + change
    with torch.no_grad():
        assert_same(model.transform(x, shot), z, log_det)


def test_batch_norms_can_be_kept(tmp_path):
    """Kept, saved, loaded and folded later, they are what folding at once gives; other checkpoints have none."""
    torch.save(raw_flow(), tmp_path / "raw.pth")
    at_once = import_checkpoint(tmp_path / "raw.pth").model
    save(import_checkpoint(tmp_path / "raw.pth", norm=True).model, tmp_path / "kept.safetensors")
    kept = load(tmp_path / "kept.safetensors")
    save(fold_norm(kept), tmp_path / "folded.safetensors")
    folded = load(tmp_path / "folded.safetensors")
    assert kept.parameter_count() == at_once.parameter_count() + 8 * 16  # weight and bias of two norms of 4 channels
    shot = Shot.of(torch.rand(4, 4, 6, 5).double(), camera=CAMERAS[:4], iso=100, cfa="RGGB")
    noise = 0.05 * torch.randn(4, 4, 6, 5).double()
    with torch.no_grad():
        for model in (kept, folded):
            assert torch.allclose(model.log_prob(noise, shot), at_once.log_prob(noise, shot), rtol=1e-11)
        assert not torch.allclose(kept.train().log_prob(noise, shot), at_once.log_prob(noise, shot), rtol=1e-4)
    torch.save(srgb_flow(), tmp_path / "srgb.pth")
    with pytest.raises(UserError, match="expected the checkpoint of a raw Noise2NoiseFlow"):
        import_checkpoint(tmp_path / "srgb.pth", norm=True)


def test_the_srgb_flow_is_what_its_checkpoint_says(tmp_path):
    state = srgb_flow()
    model = imported(state, tmp_path).model
    x, shot = a_batch(3)
    rows = [ISOS.index(iso) * 5 + CAMERAS.index(camera) for camera, iso in CHOSEN]
    one_hot = torch.zeros(len(CHOSEN), 10, dtype=torch.float64)
    for row, (camera, iso) in enumerate(CHOSEN):
        one_hot[row, ISOS.index(iso)] = one_hot[row, 5 + CAMERAS.index(camera)] = 1
    z, log_det = x, torch.zeros(len(x), dtype=torch.float64)
    for number in SRGB_STEPS:
        if f"model.{number - 1}.log_scale" in state:
            log_scale, bias = (state[f"model.{number - 1}.{key}"][rows].double()[..., None, None]
                               for key in ("log_scale", "bias"))  # fmt: skip
            z, log_det = z * log_scale.exp() + bias, log_det + 35 * log_scale.sum(dim=(1, 2, 3))
        z, change = mixed(state, f"model.{number}", z)
        log_det = log_det + change
        name = f"model.{number + 1}"
        part = {key: value.double() for key, value in state.items() if key.startswith(f"{name}._encoder")}
        h = functional.linear(one_hot, *(part[f"{name}._encoder.initial_layer.{key}"] for key in ("weight", "bias")))
        for i in range(3):
            block, start = f"{name}._encoder.blocks.{i}", h
            for k in range(2):
                h = torch.relu(normed(part, f"{block}.batch_norm_layers.{k}", h, 1e-3))
                h = functional.linear(h, *(part[f"{block}.linear_layers.{k}.{key}"] for key in ("weight", "bias")))
            h = h + start
        strength = functional.linear(h, *(part[f"{name}._encoder.final_layer.{key}"] for key in ("weight", "bias")))
        seen = torch.cat((z[:, :1], shot.clean), dim=1)
        z, change = coupled(state, name, z, 1, seen, strength[..., None, None])
        log_det = log_det + change
    with torch.no_grad():
        assert_same(model.transform(x, shot), z, log_det)


def triangle(vector, upper):
    """A strict 4×4 triangle from TensorFlow Probability's `fill_triangular`.

    Its documentation: fill_triangular([1, 2, 3, 4, 5, 6]) = [[4, 0, 0], [6, 5, 0], [3, 2, 1]], and with upper=True
    [[1, 2, 3], [0, 5, 6], [0, 0, 4]].
    """
    a, b, c, d, e, f = vector.tolist()
    rows = [[a, b, c], [0, e, f], [0, 0, d]] if upper else [[d, 0, 0], [f, e, 0], [c, b, a]]
    block = functional.pad(torch.tensor(rows, dtype=torch.float64), (1, 0, 0, 1))
    return block if upper else block.roll((1, -1), dims=(0, 1))


def test_the_tensorflow_flow_is_what_its_variables_say(tmp_path):
    state = tensorflow_flow()
    np.savez(tmp_path / "variables.npz", **{key: value.numpy() for key, value in state.items()})
    model = import_checkpoint(tmp_path / "variables.npz").model
    x, shot = a_batch(4)
    get = {key: value.double() for key, value in state.items()}
    parts = (get[f"model/sdn_gain/{key}"] for key in ("cam_params", "gain_params", "beta1", "beta2"))
    z, log_det = sensor_scaled(*parts, x, shot.clean)
    for k, number in enumerate(TF_STEPS):
        if number == 6:
            gain = get["model/sdn_gain/gain_val"]
            z, log_det = z / gain, log_det - z[0].numel() * gain.log()
        matrix = {
            key.rsplit("/", 1)[1].split("_mat")[0]: v for key, v in get.items() if f"bijector{number}/Conv" in key
        }
        lower = triangle(matrix["L_vec"], False) + torch.eye(4)
        upper = triangle(matrix["U_vec"], True) + torch.diag(matrix["sign_S"] * matrix["log_S"].exp())
        z = torch.einsum("bihw,io->bohw", z, matrix["P"] @ lower @ upper)
        log_det = log_det + 35 * matrix["log_S"].sum()
        net = "model/real_nvp_conv_template" + (f"_{k}" if k else "")
        h = z[:, :2]
        for name, padding in (("1", 1), ("2", 0)):
            h = functional.conv2d(h, get[f"{net}/l_{name}/W"].permute(3, 2, 0, 1), padding=padding)
            h = h + get[f"{net}/l_{name}/b"].reshape(-1, 1, 1)
            mean, variance = (get[f"{net}/bn_nvp_conv_{name}/{key}"].reshape(-1, 1, 1) for key in ("mean", "var"))
            h = torch.relu((h - mean) / torch.sqrt(variance + 1e-4))
        h = functional.conv2d(with_ring(h), get[f"{net}/l_last/W"].permute(3, 2, 0, 1))
        h = (h + get[f"{net}/l_last/b"].reshape(-1, 1, 1)) * torch.exp(3 * get[f"{net}/l_last/logs"].reshape(-1, 1, 1))
        log_scale = get[f"level0/bijector{number}/rescaling_scale0"] * torch.tanh(h[:, 2:])
        z = torch.cat((z[:, :2], z[:, 2:] * log_scale.exp() + h[:, :2]), dim=1)
        log_det = log_det + log_scale.sum(dim=(1, 2, 3))
    with torch.no_grad():
        assert_same(model.transform(x, shot), z, log_det)


def test_a_tensorflow_checkpoint_is_what_its_variables_say(tmp_path):
    """Written by TensorFlow's own Saver, with the optimiser's slots and a step counter, as training leaves it."""
    tf = pytest.importorskip("tensorflow")
    state = {key: value.numpy() for key, value in tensorflow_flow().items()}
    slots = {f"{key}/Adam": value for key, value in state.items()} | {"global_step": np.int64(3)}
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        for name, value in (state | slots).items():
            tf.compat.v1.get_variable(name, initializer=tf.constant(value))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=3)
    np.savez(tmp_path / "variables.npz", **state)
    expected = import_checkpoint(tmp_path / "variables.npz").model
    for name in ("model.ckpt-3", "model.ckpt-3.index"):
        found = import_checkpoint(tmp_path / name).model
        assert found.card == expected.card
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(found.state_dict()[key], value, rtol=0, atol=0)


def test_dncnn_is_what_its_checkpoint_says(tmp_path):
    state = dncnn(channels=3, width=6, depth=5)
    network = imported(state, tmp_path, wrap=dict).denoiser.double()
    x = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    get = {key: value.double() for key, value in state.items()}
    h = torch.relu(functional.conv2d(x, get["dncnn.0.weight"], get["dncnn.0.bias"], padding=1))
    for i in range(3):
        h = functional.conv2d(h, get[f"dncnn.{2 + 3 * i}.weight"], padding=1)
        h = torch.relu(normed(get, f"dncnn.{3 + 3 * i}", h, 1e-5))
    expected = x - functional.conv2d(h, get["dncnn.11.weight"], padding=1)
    with torch.no_grad():
        assert torch.allclose(network(x), expected, rtol=1e-12, atol=1e-10)


def test_unet_is_what_its_checkpoint_says(tmp_path):
    state = unet()
    network = imported(state, tmp_path, wrap=dict).denoiser.double()
    x = torch.rand(1, 4, 32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def conv(name, h):
        return functional.conv2d(h, state[f"{name}.weight"].double(), state[f"{name}.bias"].double(), padding=1)

    def double(name, h):
        weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
        return functional.conv_transpose2d(h, weight, bias, stride=2, padding=1, output_padding=1)

    def two(block, h):
        return double(f"{block}.4", conv(f"{block}.2", conv(f"{block}.0", h).relu()).relu())

    one = functional.max_pool2d(conv("_block1.2", conv("_block1.0", x).relu()).relu(), 2)
    down = [one]
    for _ in range(4):
        down.append(functional.max_pool2d(conv("_block2.0", down[-1]).relu(), 2))
    h = double("_block3.2", conv("_block3.0", down[4]).relu())
    h = two("_block4", torch.cat((h, down[3]), dim=1))
    for level in (2, 1, 0):
        h = two("_block5", torch.cat((h, down[level]), dim=1))
    h = conv("_block6.2", conv("_block6.0", torch.cat((h, x), dim=1)).relu()).relu()
    expected = functional.leaky_relu(conv("_block6.4", h), 0.1)
    with torch.no_grad():
        assert torch.allclose(network(x), expected, rtol=1e-12, atol=1e-12)
        with pytest.raises(ValueError, match="divide by 32, got 32×48"):
            network(x[..., :48])


def test_a_checkpoint_with_both_gives_both(tmp_path):
    both = raw_flow() | {f"denoiser.{key}": value for key, value in dncnn().items()}
    found = imported(both, tmp_path)
    assert found.model is not None and found.denoiser is not None
    assert found.denoiser.packing == found.model.packing == "clockwise, transposed"
    assert imported(raw_flow(), tmp_path).denoiser is None
