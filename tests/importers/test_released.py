"""The published weights give the published models' numbers; tolerances are those of independent implementations."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from noiseflow.cli import main
from noiseflow.importers import import_checkpoint
from noiseflow.models import quantise
from noiseflow.randomness import SAMPLE, normal
from noiseflow.raw.cfa import from_clockwise_transposed, pack
from noiseflow.shot import Shot
from noiseflow.training.noise2noise import PUBLISHED_WEIGHT, joint_loss

CLOCKWISE = ((0, 0), (0, 1), (1, 1), (1, 0))
PATTERNS = {"IP": "RGGB", "GP": "BGGR", "S6": "GRBG", "N6": "GBRG"}


def rows(array):
    """Groups and patches as one batch."""
    return torch.from_numpy(array).flatten(0, 1)


def condition(fixture):
    cameras = np.repeat(fixture["cam_name"], 4).tolist()
    return {"camera": cameras, "iso": torch.from_numpy(np.repeat(fixture["iso"], 4))}


@pytest.fixture(scope="module", params=["torch", "tensorflow"])
def raw(request, released, expected):
    """Model, inputs, and the expected z, log det, log-likelihood and samples."""
    inputs = expected("noise2noiseflow_raw.npz")
    if request.param == "torch":
        model = import_checkpoint(released("noise2noiseflow_raw.pth")).model
        outputs = [inputs[key] for key in ("z64", "logdet64", "loglik64", "sample")]
    else:
        model = import_checkpoint(released("noise_flow_tf_variables.npz")).model
        other = expected("noise_flow_tf.npz")
        outputs = [other[key] for key in ("z", "logdet", "loglik", "sample")]
    return model, inputs, [rows(output) for output in outputs]


def gaussian(z):
    return -0.5 * (z.square().sum(dim=(1, 2, 3)) + z[0].numel() * math.log(2 * math.pi))


@pytest.mark.parametrize(
    ("dtype", "likelihood", "base"), [(torch.float64, 1e-10, 1e-6), (torch.float32, 2e-6, 2e-4)], ids=str
)
def test_raw_flows(raw, dtype, likelihood, base):
    model, inputs, (z, log_det, log_prob, sample) = raw
    model = copy.deepcopy(model).to(dtype)
    shot = Shot.of(rows(inputs["clean"]).to(dtype), **condition(inputs))
    with torch.no_grad():
        found, found_log_det = model.transform(rows(inputs["noise"]).to(dtype), shot)
        drawn, _ = model.transform.inverse(rows(inputs["z_in"]).to(dtype), shot)
    assert ((found_log_det - log_det) / log_det).abs().max() <= likelihood
    assert ((found_log_det + gaussian(found) - log_prob) / log_prob).abs().max() <= likelihood
    assert (found - z).abs().max() <= base
    assert ((drawn - sample).abs().amax(dim=(1, 2, 3)) / sample.std(dim=(1, 2, 3))).max() <= 1e-4


def test_raw_flow_layer_by_layer(released, expected):
    model, inputs = import_checkpoint(released("noise2noiseflow_raw.pth")).model, expected("noise2noiseflow_raw.npz")
    group = int(np.flatnonzero((inputs["cam_name"] == "S6") & (inputs["iso"] == 800))[0])
    shot = Shot.of(torch.from_numpy(inputs["clean"][group]).double(), camera="S6", iso=800)
    x = torch.from_numpy(inputs["noise"][group]).double()
    layers = list(model.transform)
    assert len(layers) == 18
    for number, layer in enumerate(layers):
        with torch.no_grad():
            x, log_det = layer(x, shot)
        trace = torch.from_numpy(inputs[f"trace_layer{number:02d}_logdet"])
        # The traces are float32: 4096 terms, summed in float32.
        assert torch.allclose(log_det.float(), trace, rtol=2e-6, atol=2e-3), layer
        assert (x - torch.from_numpy(inputs[f"trace_layer{number:02d}_z"])).abs().max() <= 2e-4, layer


def mosaics(planes):
    """Released planes `(B, 4, h, w)` to sensor mosaics `(B, 2w, 2h)`: as h5py returns them, then transposed."""
    stored = np.empty((len(planes), 2 * planes.shape[2], 2 * planes.shape[3]), planes.dtype)
    for k, (row, column) in enumerate(CLOCKWISE):
        stored[:, row::2, column::2] = planes[:, k]
    return stored.transpose(0, 2, 1)


def planes(mosaic):
    """The inverse of `mosaics`."""
    stored = mosaic.transpose(0, 2, 1)
    return np.stack([stored[:, row::2, column::2] for row, column in CLOCKWISE], axis=1)


def test_raw_flows_take_and_give_noise_in_the_sensors_mosaic(raw):
    """Fixture to mosaic, the sensor's own pattern, packed as this package packs: the same densities and samples."""
    model, inputs, (z, _, log_prob, sample) = raw
    cameras = condition(inputs)["camera"]
    patterns = tuple(PATTERNS[camera] for camera in cameras)

    def packed(array):
        frames = mosaics(np.asarray(array))
        return torch.stack([pack(torch.from_numpy(f.copy()), cfa) for f, cfa in zip(frames, patterns, strict=True)])

    shot = Shot.of(packed(rows(inputs["clean"])), **condition(inputs), cfa=patterns)
    with torch.no_grad():
        found = model.log_prob(packed(rows(inputs["noise"])), shot)
        base, _ = model.to_base(packed(rows(inputs["noise"])), shot)
        drawn = model.from_base(packed(rows(inputs["z_in"])), shot)
    assert ((found - log_prob) / log_prob).abs().max() <= 1e-10
    assert (base - packed(z)).abs().max() <= 1e-6
    assert (drawn - packed(sample)).abs().max() <= 1e-4 * sample.std()


def test_sampling_a_file_adds_the_released_noise(released, expected, tmp_path, capsys):
    """`noiseflow sample` on a mosaic, against the fixture-checked stack fed the same base noise by hand."""
    inputs = expected("noise2noiseflow_raw.npz")
    clean = mosaics(inputs["clean"][5][:1])[0]  # S6, ISO 800
    clean = np.ascontiguousarray(clean[:40])  # not square
    np.save(tmp_path / "clean.npy", clean)
    model_file = tmp_path / "flow.safetensors"
    assert main(["import", str(released("noise2noiseflow_raw.pth")), "--out", str(model_file)]) == 0
    command = ["sample", str(model_file), str(tmp_path / "clean.npy"), "--camera", "S6", "--iso", "800"]
    wide = ["--cfa", "GRBG", "--low", "-9", "--high", "9", "--device", "cpu"]
    assert main([*command, *wide, "--out", str(tmp_path / "noisy")]) == 0
    noisy = np.load(tmp_path / "noisy" / "clean_noisy_0.npy")
    seed = json.loads((tmp_path / "noisy" / "clean_noisy.json").read_text())["noise_seeds"][0]
    z = normal(seed, (1, 4, 20, 32), stream=SAMPLE).numpy()
    mosaic = np.empty((1, 40, 64))  # channels R, G beside R, G beside B, B of a GRBG sensor
    for channel, (row, column) in enumerate(((0, 1), (0, 0), (1, 1), (1, 0))):
        mosaic[:, row::2, column::2] = z[:, channel]
    shot = Shot.of(torch.from_numpy(planes(clean[None].astype(np.float64)).copy()), camera="S6", iso=800)
    model = import_checkpoint(released("noise2noiseflow_raw.pth")).model
    with torch.no_grad():
        noise, _ = model.transform.inverse(torch.from_numpy(planes(mosaic).copy()), shot)
    assert np.abs(noisy - clean - mosaics(noise.numpy())[0]).max() <= 2e-7  # float32 of values below one


@pytest.fixture(scope="module")
def srgb(released):
    return import_checkpoint(released("srgb_flow_epoch30.pth")).model


def test_srgb_flow(srgb, expected):
    """Codes k with dequantisation u stand at (k + u − ½)/255 here; densities per code, not per linear unit, differ."""
    fixture = expected("srgb_flow_epoch30.npz")

    def rgb(name):
        return rows(fixture[name]).double().flip(1)

    clean, noisy = rgb("clean") + rgb("u_clean"), rgb("noisy") + rgb("u_noisy")
    shot = Shot.of((clean - 0.5) / 255, **condition(fixture), lsb=1 / 255)
    values = clean[0].numel()
    with torch.no_grad():
        z, log_det = srgb.to_base((noisy - clean) / 255, shot)
        log_prob = srgb.log_prob((noisy - clean) / 255, shot)
        noise = srgb.from_base(rgb("z_in"), shot)
    assert (log_prob - values * math.log(255) - rows(fixture["ep30_loglik"])).abs().max() <= 0.03
    assert (log_det - values * math.log(255) - rows(fixture["ep30_logdet"])).abs().max() <= 0.03
    assert (z.flip(1) - rows(fixture["ep30_z"])).abs().max() <= 3e-4
    assert (noise.flip(1) * 255 / 256 - rows(fixture["ep30_sample_noise_cont"])).abs().max() <= 2e-6
    codes = (quantise(shot.clean + noise, shot) * 255).round()
    apart = (codes - rgb("ep30_sample_noisy_uint8")).abs()
    assert apart.max() <= 1
    assert (apart > 0).double().mean() < 1e-3


def test_the_bias_that_the_srgb_card_names(srgb):
    """Blue about 17 levels too dark on uniform grey 100, S6, ISO 800; 32×32 patches as published."""
    shot = Shot.of(torch.full((64, 3, 32, 32), 100 / 255).double(), camera="S6", iso=800, lsb=1 / 255)
    noisy = quantise(shot.clean + srgb.sample(shot, seed=torch.arange(64)), shot)
    bias = (255 * (noisy - shot.clean)).mean(dim=(0, 2, 3))
    # 65,536 values of a standard deviation near 20 levels: 0.08 levels, some times that with correlation.
    assert float(bias[2]) == pytest.approx(-17, abs=1.5)
    assert abs(float(bias[0])) < 4 and abs(float(bias[1])) < 4
    assert "blue is about 17 levels" in srgb.card["imported"]["known bias"]


def test_denoiser(released, expected):
    fixture = expected("denoiser.npz")
    network = import_checkpoint(released("noise2noiseflow_raw.pth")).denoiser
    with torch.no_grad():
        assert np.abs(network(torch.from_numpy(fixture["noisy"])).numpy() - fixture["denoised"]).max() <= 1e-5


@pytest.mark.parametrize("name", ["dncnn_raw.pth", "unet_raw.pth"])
def test_plain_denoisers_denoise(released, name):
    """No expected numbers exist for these two; wrongly joined levels leave more error than there was noise."""
    network = import_checkpoint(released(name)).denoiser
    down, across = torch.meshgrid(torch.arange(128.0), torch.arange(96.0), indexing="ij")
    clean = (0.15 + 0.1 * torch.sin(across / 20) * torch.cos(down / 31)).expand(1, 4, -1, -1)
    noisy = clean + 0.02 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = float((network(noisy) - clean).square().mean())
    assert error < 0.2 * 0.02**2


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_flow_and_denoiser_together_give_the_joint_loss(mode, released, expected):
    """Noise2NoiseFlow's loss in inference, and in training with the batch's statistics in all its batch norms."""
    fixture = expected("noise2noiseflow_joint_loss.npz")
    flow, denoiser = import_checkpoint(released("noise2noiseflow_raw.pth"), norm=True)
    assert PUBLISHED_WEIGHT == 2**18
    patterns = [PATTERNS["S6"]] * len(fixture["noisy1"])
    first, second = (
        from_clockwise_transposed(torch.from_numpy(fixture[name]), patterns) for name in ("noisy1", "noisy2")
    )
    shot = Shot.of(first, camera="S6", iso=int(fixture["iso"]), cfa=PATTERNS["S6"])
    with torch.no_grad():
        loss = joint_loss(flow.train(mode == "train"), denoiser.train(mode == "train"), first, second, shot)
    assert [float(part) for part in loss] == pytest.approx(fixture[mode].tolist(), rel=1e-6)


def test_evaluating_a_folder_of_mosaics_gives_the_released_likelihoods(released, expected, tmp_path):
    """`noiseflow import` and `noiseflow evaluate` on the fixture's noise in sensor mosaics, one file a patch."""
    inputs, model_file = expected("noise2noiseflow_raw.npz"), tmp_path / "flow.safetensors"
    assert main(["import", str(released("noise2noiseflow_raw.pth")), "--out", str(model_file)]) == 0
    lines = ["noisy,clean,camera,iso,cfa"]
    for group, (camera, iso) in enumerate(zip(inputs["cam_name"].tolist(), inputs["iso"].tolist(), strict=True)):
        clean = mosaics(inputs["clean"][group].astype(np.float64))
        noisy = clean + mosaics(inputs["noise"][group].astype(np.float64))
        for patch in range(len(clean)):
            files = [f"{kind}_{group}_{patch}.npy" for kind in ("noisy", "clean")]
            for file, mosaic in zip(files, (noisy[patch], clean[patch]), strict=True):
                np.save(tmp_path / file, mosaic)
            lines.append(",".join((*files, camera, str(iso), PATTERNS[camera])))
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    command = ["evaluate", str(model_file), "--data", str(tmp_path), "--split", "all", "--no-samples"]
    assert main([*command, "--device", "cpu", "--out", str(tmp_path / "scores")]) == 0
    (model,) = json.loads((tmp_path / "scores" / "results.json").read_text())["models"]
    # The mean over pixels is that over patches. Pairs are float32: 6e-8 of values that are not small beside the noise.
    assert model["nll"]["value"] == pytest.approx(-inputs["loglik64"].mean() / 4096, rel=1e-5)
    assert len(model["by_shot"]) == 8
    for shot in model["by_shot"]:
        group = int(np.flatnonzero((inputs["cam_name"] == shot["camera"]) & (inputs["iso"] == shot["iso"]))[0])
        assert shot["nll"] == pytest.approx(-inputs["loglik64"][group].mean() / 4096, rel=1e-5)
