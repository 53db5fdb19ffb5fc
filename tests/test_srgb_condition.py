"""Raw noise conditioned on pictures: the picture stays in place, leads back to the intensity, is all that is seen."""

import json

import cv2
import numpy as np
import pytest
import torch

from noiseflow.cells import cells, log_normal_mass
from noiseflow.cli import main
from noiseflow.conditions import Conditions
from noiseflow.datasets import PatchDataset, collate, open_dataset
from noiseflow.errors import UserError
from noiseflow.files import load, save
from noiseflow.intensity import SrgbIntensity, at_sites
from noiseflow.models import glow, noise_flow, synthesize
from noiseflow.noise_level import NoiseLevel
from noiseflow.raw.cfa import pack, unpack
from noiseflow.raw.matfile import MatFrame
from noiseflow.raw.render import render
from noiseflow.shot import CFA_PATTERNS, Shot
from noiseflow.simulate import simulate
from noiseflow.training.fit import calibration_patches
from noiseflow.training.intensity import fit_intensity

BALANCE = (0.55, 1.0, 0.65)
PAIRS = [("N6", 800), ("S6", 800)]


def run(*arguments):
    return main([str(a) for a in arguments])


def smooth(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.random((height, width)), (0, 0), 2) ** 4 * 8 * 0.5


def pictured(flow_class=noise_flow, batch=2, height=8, width=10, seed=0):
    """A flow started on a noise level, and a shot with pictures that have nothing to do with its clean signal."""
    generator = torch.Generator().manual_seed(seed)
    flow = flow_class(PAIRS, 4, condition="srgb")
    level = NoiseLevel(Conditions(PAIRS))
    with torch.no_grad():
        level.log_a.copy_(torch.tensor([[-4.0], [-5.0]]))
        flow.intensity.slopes.copy_(torch.tensor(BALANCE)[None, :, None].expand_as(flow.intensity.slopes))
    flow.start_from(level)
    shot = Shot.of(
        torch.rand(batch, 4, height, width, generator=generator), camera=["N6", "S6"], iso=800.0, lsb=1 / 1023,
        cfa=("GBRG", "GRBG"), srgb=torch.rand(batch, 3, 2 * height, 2 * width, generator=generator),
    )  # fmt: skip
    return flow.eval(), shot


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    simulate(root, cameras=["S6", "N6"], isos=[100, 800], scenes=4, size=(64, 96), srgb=True)
    return root


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_sites_of_a_picture_are_those_of_its_mosaic(cfa):
    planes = torch.rand(1, 3, 8, 12)
    expected = torch.stack([pack(planes[0, c], cfa) for c in range(3)], dim=1)
    assert torch.equal(at_sites(planes, [cfa])[0], expected)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_the_curve_undoes_the_rendering(cfa):
    """Exact but for the 8-bit rounding: half a code times the slope of the inverse curve, and 16-bit demosaicking."""
    mosaic = smooth(32, 48)
    picture = torch.from_numpy(render(mosaic, cfa, BALANCE)).permute(2, 0, 1)[None].double() / 255
    intensity = SrgbIntensity(Conditions([("S6", 100)]))
    intensity.slopes.copy_(torch.tensor(BALANCE)[None, :, None].expand_as(intensity.slopes))
    clean = pack(torch.from_numpy(mosaic), cfa)[None]
    shot = Shot.of(clean, camera="S6", iso=100.0, cfa=cfa, srgb=picture)
    error = (intensity.curve(shot) - clean).abs() / torch.tensor(BALANCE)[[0, 1, 1, 2], None, None]
    relative = (clean / torch.tensor(BALANCE)[[0, 1, 1, 2], None, None]).clamp_min(0.0031308)
    slope = 2.4 / 1.055 * relative ** (1.4 / 2.4)  # of the inverse tone curve
    bound = 0.51 / 255 * slope + 1 / 65535
    unclipped = at_sites(picture, [cfa]).amax(dim=2) < 1  # OpenCV makes up the picture's outermost lines
    assert unclipped.double().mean() > 0.9
    assert bool((error <= bound * 1.05)[..., 1:-1, 1:-1][unclipped[..., 1:-1, 1:-1]].all())


def test_patches_carry_the_picture_of_their_own_place(tree):
    """Whatever the mirrors: undoing the tone curve gives the patch's own clean raw back."""
    frames = [frame for frame in open_dataset(tree, condition="srgb").frames if frame.iso == 100]
    intensity = SrgbIntensity(Conditions({(f.camera, f.iso) for f in frames}))
    intensity.slopes.copy_(torch.tensor(BALANCE)[None, :, None].expand_as(intensity.slopes))
    patches = PatchDataset(frames, 24, seed=1, length=24)
    _, shot = collate([patches[g] for g in range(24)])
    inside = (at_sites(shot.srgb, list(shot.cfa)).amax(dim=2) < 1) & (shot.clean < 0.5)
    relative = (intensity.curve(shot) - shot.clean).abs() / (shot.clean + 0.01)
    for row in range(24):  # border lines aside, which OpenCV makes up
        assert float((relative[row][inside[row]] < 0.03).double().mean()) > 0.9


def test_without_the_condition_no_picture_is_read(tree):
    assert open_dataset(tree).frames[0].read().srgb is None
    pair = open_dataset(tree, condition="srgb").frames[0].read(1, 2, 5, 6)
    assert pair.srgb.shape == (3, 10, 12)


def test_regression_finds_the_white_balance_and_the_clipped_mean(tree):
    _, shot = calibration_patches(open_dataset(tree, condition="srgb").frames, 0)
    intensity = SrgbIntensity(Conditions([("S6", 100), ("N6", 100), ("S6", 800), ("N6", 800)]))
    fit_intensity(intensity, shot)
    for camera in range(2):
        # segments that hold many pixels; 5 %: made-up border lines are 6 % of frames as small as these
        found = intensity.slopes[camera, :, 2:8].mean(dim=1)
        assert found.tolist() == pytest.approx(list(BALANCE), rel=0.05)
    with pytest.raises(UserError, match="turned"):
        fit_intensity(intensity, shot.replace(srgb=torch.rand_like(shot.srgb)))


def test_only_the_picture_is_seen():
    flow, shot = pictured()
    other = shot.replace(clean=torch.rand_like(shot.clean))
    noise = 0.05 * torch.randn(shot.clean.shape)
    with torch.no_grad():
        flow.intensity.last.weight.normal_(0, 0.3)
        assert torch.equal(flow.sample(shot, seed=3), flow.sample(other, seed=3))
        assert torch.equal(flow.log_prob(noise, shot), flow.log_prob(noise, other))
        dark = shot.replace(srgb=torch.zeros_like(shot.srgb))
        assert not torch.equal(flow.sample(shot, seed=3), flow.sample(dark, seed=3))
    with pytest.raises(ValueError, match="srgb"):
        flow.sample(shot.replace(srgb=None), seed=0)
    with pytest.raises(ValueError, match="pattern"):
        flow.sample(shot.replace(cfa=None), seed=0)


def test_the_flow_starts_as_the_noise_level_given_the_estimate():
    flow, shot = pictured()
    noisy = synthesize(flow, shot, seed=1)
    with torch.no_grad():
        estimate = flow.intensity.curve(shot)
        variance = flow.reference.variance(shot.replace(clean=estimate)).double()
        expected = log_normal_mass(cells(noisy, shot), torch.zeros(()).double(), variance.sqrt()).sum(dim=(1, 2, 3))
        # float32 over 320 values of unit order: 320 · 2⁻²⁴ · a few units
        assert flow.log_mass(noisy, shot).tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_padding_keeps_the_picture_in_step():
    """With an odd side glow pads whole cells; the bound stays one on the mass of the real pixels."""
    flow, shot = pictured(glow, height=7, width=9)
    noisy = synthesize(flow, shot, seed=1)
    with torch.no_grad():
        variance = flow.reference.variance(shot.replace(clean=flow.intensity.curve(shot))).double()
        expected = log_normal_mass(cells(noisy, shot), torch.zeros(()).double(), variance.sqrt()).sum(dim=(1, 2, 3))
        assert flow.log_mass(noisy, shot).tolist() == pytest.approx(expected.tolist(), abs=1e-2)


def test_rows_do_not_depend_on_their_batch():
    flow, shot = pictured()
    with torch.no_grad():
        flow.intensity.last.weight.normal_(0, 0.3)
        for row in range(2):
            alone, together = flow.intensity(shot.rows(row)), flow.intensity(shot)[row : row + 1]
            torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-7)  # float32 convolutions


def test_the_numpy_door_takes_pictures():
    flow, shot = pictured()
    picture = (shot.srgb[1] * 255).round().byte().permute(1, 2, 0).numpy()
    noise = flow.sample_numpy(np.zeros(picture.shape[:2]), srgb=picture, cfa="GRBG", camera="S6", iso=800, seed=2)
    same = shot.rows(1).replace(srgb=torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
    assert np.array_equal(noise, unpack(flow.sample(same, seed=2)[0], "GRBG").numpy())


def test_saved_and_loaded(tmp_path):
    flow, shot = pictured()
    save(flow, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.condition == "srgb"
    assert torch.equal(again.sample(shot, seed=5), flow.sample(shot, seed=5))


def test_conditions_that_make_no_sense_are_refused(tree, tmp_path, capsys):
    with pytest.raises(ValueError, match="4 channels"):
        glow(PAIRS, 3, condition="srgb")
    fit = ("fit", "--data", tree, "--condition", "srgb", "--out", tmp_path / "x")
    assert run(*fit, "--model", "nlf") == 1
    assert "baselines see the clean raw" in capsys.readouterr().err
    assert run(*fit, "--model", "noise_flow", "--domain", "srgb") == 1
    assert "domain raw" in capsys.readouterr().err
    simulate(tmp_path / "raw only", cameras=["S6"], isos=[100], scenes=2, size=(32, 32))
    assert run("fit", "--data", tmp_path / "raw only", "--condition", "srgb", "--model", "noise_flow", "--out",
               tmp_path / "x") == 1  # fmt: skip
    assert "GT_SRGB_010.PNG" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_picture_of_another_size_is_refused(tmp_path):
    simulate(tmp_path, cameras=["S6"], isos=[100], scenes=2, size=(32, 48), srgb=True)
    frame = open_dataset(tmp_path, condition="srgb").frames[0]
    cv2.imwrite(str(frame.picture), cv2.imread(str(frame.picture)).transpose(1, 0, 2))
    with pytest.raises(UserError, match="turned or cropped"):
        frame.read()


def test_the_commands(tree, tmp_path):
    small = ("--batch", 2, "--patch", 16, "--steps", 3, "--learning-rate", 1e-5, "--device", "cpu", "--data", tree)
    assert run("fit", *small, "--model", "noise_flow", "--condition", "srgb", "--out", tmp_path / "flow") == 0
    assert run("evaluate", tmp_path / "flow", "nlf", "--data", tree, "--out", tmp_path / "e") == 0
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    flow, nlf = (model["mass"]["value"] for model in results["models"])
    assert flow == pytest.approx(nlf, abs=0.05)

    folder = next((tree / "Data").glob("*S6_00800*"))
    picture, raw = (next(folder.glob(pattern)) for pattern in ("*GT_SRGB*.PNG", "*GT_RAW*.MAT"))
    one = ("sample", tmp_path / "flow", picture, "--camera", "S6", "--iso", 800, "--seed", 4)
    assert run(*one, "--out", tmp_path / "noise") == 0
    noise = np.load(tmp_path / "noise" / f"{picture.stem}_noise_0.npy")
    clean = MatFrame(raw).read()
    assert noise.shape == clean.shape
    assert noise.dtype == np.float32
    model, shot = load(tmp_path / "flow"), collate([open_dataset(tree, condition="srgb").frames[0].read()])[1]
    assert 0.5 < noise.std() / unpack(model.sample(shot.replace(iso=800.0), seed=0)[0], "GRBG").std() < 2

    assert run(*one, "--raw", raw, "--out", tmp_path / "noisy", "--format", "mat") == 0
    again = MatFrame(tmp_path / "noisy" / f"{picture.stem}_noise_0.mat").read()
    assert np.array_equal(again, noise)  # what is added to does not change the noise
    noisy = MatFrame(tmp_path / "noisy" / f"{picture.stem}_noisy_0.mat").read()
    # the model's card says the code width and the clip range
    assert noisy == pytest.approx(np.clip(np.rint((clean + noise) * 1023) / 1023, 0, 1), abs=1e-6)
    record = json.loads((tmp_path / "noisy" / f"{picture.stem}_noisy.json").read_text())
    assert record["condition"] == "srgb"
    assert record["files"] == [f"{picture.stem}_noise_0.mat", f"{picture.stem}_noisy_0.mat"]


def test_sample_says_what_it_needs(tree, tmp_path, capsys):
    flow, _ = pictured()
    save(flow, tmp_path / "m.safetensors")
    picture = next((tree / "Data").glob("*S6_00800*/*GT_SRGB*.PNG"))
    raw = next((tree / "Data").glob("*S6_00800*/*GT_RAW*.MAT"))
    base = ("sample", tmp_path / "m.safetensors", "--camera", "S6", "--iso", 800, "--out", tmp_path / "x")
    assert run(*base, picture) == 1
    assert "--cfa" in capsys.readouterr().err
    assert run(*base, raw, "--cfa", "GRBG") == 1
    assert "8-bit sRGB picture" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((8, 8, 3), np.uint8))
    assert run(*base, tmp_path / "small.png", "--cfa", "GRBG", "--raw", raw) == 1
    assert "64×96" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
