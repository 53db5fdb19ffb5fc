"""The published flows as models: units and packing, rows that stand alone, borders, and training from the start."""

import json
import math

import numpy as np
import pytest
import torch

from noiseflow.cli import main
from noiseflow.conditions import UnknownConditionError
from noiseflow.datasets import open_dataset
from noiseflow.files import load, save
from noiseflow.importers.folding import PAIRS
from noiseflow.models import ARCHITECTURES, noise_flow_paper, srgb_flow, synthesize
from noiseflow.raw.cfa import from_clockwise_transposed, pack, to_clockwise_transposed
from noiseflow.shot import CFA_PATTERNS, Shot
from noiseflow.training.fit import calibration_patches, fit_baseline
from noiseflow.training.noise_level import fit_noise_level

BUILD = {"raw": lambda: released(noise_flow_paper), "srgb": lambda: released(srgb_flow)}
CFA = {"IP": "RGGB", "GP": "BGGR", "S6": "GRBG", "N6": "GBRG", "G4": "BGGR"}


def released(architecture):
    """A released architecture with random weights whose noise is some hundredths wide."""
    model = architecture(PAIRS, 4 if architecture is noise_flow_paper else 3, released=True)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            if name in ("transform.layers.0.log_scale", "transform.layers.9.log_gain"):
                parameter.add_(3.0 if "log_scale" in name else -3.0)
    return model.eval()


@pytest.fixture(params=BUILD)
def model(request):
    return BUILD[request.param]()


def shot_for(model, pairs, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(len(pairs), model.channels, height, width, generator=generator, dtype=torch.float64)
    cameras = [camera for camera, _ in pairs]
    cfa = tuple(CFA[camera] for camera in cameras) if model.channels == 4 else None
    iso = torch.tensor([iso for _, iso in pairs])
    return Shot.of(clean, camera=cameras, iso=iso, cfa=cfa, lsb=1 / 1023)


def noise_for(shot, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 0.05 * torch.randn(shot.clean.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_the_clockwise_planes_are_those_of_the_transposed_mosaic(cfa):
    mosaic = torch.arange(2 * 6 * 10).reshape(2, 6, 10)
    planes = to_clockwise_transposed(pack(mosaic, cfa), [cfa, cfa])
    stored = mosaic.transpose(1, 2)
    for channel, (row, column) in enumerate(((0, 0), (0, 1), (1, 1), (1, 0))):
        assert torch.equal(planes[:, channel], stored[:, row::2, column::2])
    assert torch.equal(from_clockwise_transposed(planes, [cfa, cfa]), pack(mosaic, cfa))


def test_every_row_has_its_own_pattern():
    packed = torch.rand(4, 4, 3, 5)
    together = to_clockwise_transposed(packed, CFA_PATTERNS)
    for row, cfa in enumerate(CFA_PATTERNS):
        assert torch.equal(together[row : row + 1], to_clockwise_transposed(packed[row : row + 1], [cfa]))
    assert torch.equal(from_clockwise_transposed(together, CFA_PATTERNS), packed)


def test_the_raw_density_does_not_depend_on_how_the_mosaic_is_packed():
    """One mosaic under two names of its pattern: other packed channels, the same pixels at the same places."""
    model, mosaic = BUILD["raw"](), torch.rand(3, 12, 8, dtype=torch.float64)
    noise, values = mosaic[:1] - 0.5, []
    for cfa in ("RGGB", "GBRG"):
        shot = Shot.of(pack(mosaic[1:2], cfa), camera="S6", iso=800, cfa=cfa)
        with torch.no_grad():
            values.append(float(model.log_prob(0.1 * pack(noise, cfa), shot)))
    assert values[0] == pytest.approx(values[1], rel=1e-13)
    with pytest.raises(ValueError, match="cfa: expected the colour filter pattern of every row"):
        model.log_prob(shot.clean, shot.replace(cfa=None))


def test_rows_of_all_pairs_stand_alone(model):
    shot = shot_for(model, PAIRS, 6, 8)
    noise = noise_for(shot)
    with torch.no_grad():
        together, drawn = model.log_prob(noise, shot), model.sample(shot, seed=torch.arange(15))
        for row in range(15):
            alone = shot.rows(row)
            # Float64, sums of some hundred terms; convolutions may add them in another order.
            assert float(model.log_prob(noise[row : row + 1], alone)) == pytest.approx(float(together[row]), rel=1e-12)
            assert torch.allclose(model.sample(alone, seed=row)[0], drawn[row], rtol=1e-9, atol=1e-12)


def log_det_of_jacobian(model, noise, shot):
    def flat(v):
        return model.to_base(v.reshape(noise.shape), shot)[0].reshape(-1)

    jacobian = torch.func.jacrev(flat, chunk_size=256)(noise.reshape(-1))
    return torch.linalg.slogdet(jacobian).logabsdet.detach()


@pytest.mark.parametrize(("height", "width"), [(3, 5), (4, 2), (1, 3)])
def test_log_det_is_the_jacobians(model, height, width):
    """In linear units, constants included; float64, at most 60 values."""
    shot = shot_for(model, [("IP", 400)], height, width)
    noise = noise_for(shot)
    assert torch.allclose(model.to_base(noise, shot)[1], log_det_of_jacobian(model, noise, shot), rtol=1e-10)


def test_log_det_of_a_patch_of_17_by_23_packed_pixels():
    """All 1564 × 1564 derivatives; elimination loses about log10(1564) of float64's 15 digits."""
    model = BUILD["raw"]()
    shot = shot_for(model, [("S6", 3200)], 17, 23)
    noise = noise_for(shot)
    assert torch.allclose(model.to_base(noise, shot)[1], log_det_of_jacobian(model, noise, shot), rtol=1e-9)


def test_round_trip(model):
    shot = shot_for(model, PAIRS[:5], 7, 4)
    noise = noise_for(shot)
    with torch.no_grad():
        back = model.from_base(model.to_base(noise, shot)[0], shot)
    assert (back - noise).norm() <= 1e-9 * noise.norm()


def test_the_mass_is_density_times_cell(model):
    shot = shot_for(model, PAIRS[:2], 4, 6)
    noisy = (shot.clean + noise_for(shot)).clamp(0, 1)
    values = noisy[0].numel()
    with torch.no_grad():
        density, mass = model.log_prob(noisy - shot.clean, shot), model.log_mass(noisy, shot)
        continuous = model.log_mass(noisy, shot.replace(lsb=0.0))
    assert torch.allclose(mass, density - values * math.log(1023), rtol=1e-12)
    assert torch.allclose(continuous, density, rtol=1e-12)


def test_srgb_units():
    """Code k is the middle of [k, k + 1)/256, B G R: the density in linear units follows from that of the layers."""
    model = BUILD["srgb"]()
    generator = torch.Generator().manual_seed(2)
    clean, noisy = torch.randint(0, 256, (2, 2, 3, 5, 4), generator=generator).double()
    shot = Shot.of(clean / 255, camera="G4", iso=100, lsb=1 / 255)
    bgr = shot.replace(clean=((clean + 0.5) / 256).flip(1))
    with torch.no_grad():
        z, log_det = model.transform(((noisy + 0.5) / 256 - (clean + 0.5) / 256).flip(1), bgr)
        layers = log_det + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=(1, 2, 3))
        found = model.log_prob((noisy - clean) / 255, shot)
    assert torch.allclose(found, layers + 60 * math.log(255 / 256), rtol=1e-12)


def test_synthesis_is_the_published_rounding():
    """Rounding our noise to codes is floor(256·x) of the published image, clipped."""
    model = BUILD["srgb"]()
    clean = torch.randint(0, 256, (1, 3, 16, 12), generator=torch.Generator().manual_seed(4)).double()
    shot = Shot.of(clean / 255, camera="S6", iso=3200, lsb=1 / 255)
    noise = model.sample(shot, seed=5)
    published = torch.floor(256 * (noise * 255 / 256 + (clean + 0.5) / 256)).clamp(0, 255)
    assert torch.equal((synthesize(model, shot, seed=5) * 255).round(), published)


def test_unseen_conditions(model):
    shot = shot_for(model, [("GP", 400)], 4, 4)
    with pytest.raises(UnknownConditionError, match="100, 800"):
        model.sample(shot, seed=0)
    model.conditions.allow_unseen = True
    assert bool(torch.isfinite(model.sample(shot, seed=0)).all())
    for camera, iso in (("GP", 3201), ("D800", 100)):
        with pytest.raises(UnknownConditionError):
            model.sample(Shot.of(shot.clean, camera=camera, iso=iso, cfa=shot.cfa), seed=0)


def test_every_known_pair_is_listed():
    with pytest.raises(UnknownConditionError) as error:
        BUILD["raw"]().sample(Shot.of(torch.zeros(1, 4, 2, 2), camera="N6", iso=400, cfa="RGGB"), seed=0)
    for phone in ("IP at ISO 100, 400, 800, 1600;", "S6 at ISO 100, 400, 800, 1600, 3200", "N6 at ISO 100, 800;"):
        assert phone in str(error.value)


def test_saved_and_loaded(model, tmp_path):
    """In float64, to the last bit: the weights of a released model are not those of any float32."""
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    shot = shot_for(model, PAIRS, 4, 6)
    with torch.no_grad():
        assert torch.equal(again.log_prob(noise_for(shot), shot), model.log_prob(noise_for(shot), shot))
    assert again.noise_domain == "recorded"


def test_a_mosaic_in_numpy():
    model = BUILD["raw"]()
    clean = np.random.default_rng(0).random((6, 10))
    noise = model.sample_numpy(clean, camera="S6", iso=800, seed=3, cfa="GRBG")
    shot = Shot.of(pack(torch.from_numpy(clean).float(), "GRBG")[None], camera="S6", iso=800, cfa="GRBG")
    assert noise.shape == (6, 10)
    assert np.array_equal(pack(noise, "GRBG"), model.sample(shot, seed=3)[0].numpy())


@pytest.mark.parametrize(("architecture", "channels"), [(noise_flow_paper, 3), (srgb_flow, 4)])
def test_released_flows_have_the_released_channels(architecture, channels):
    with pytest.raises(ValueError, match=f"released: expected . channels and condition raw, got {channels}"):
        architecture(PAIRS, channels, released=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    out = tmp_path_factory.mktemp("published") / "sim"
    size = ("--scenes", "4", "--size", "64x96", "--srgb")
    assert main(["simulate", str(out), "--cameras", "S6,G4", "--isos", "100,800", *size]) == 0
    return str(out)


@pytest.mark.parametrize(("name", "domain"), [("noise_flow_paper", "raw"), ("srgb_flow", "srgb")])
def test_they_train_here(name, domain, tree, tmp_path):
    """As flows for latent noise: from near the noise level function, better on the data they are trained on."""
    out = tmp_path / "run"
    options = ["--steps", "25", "--batch", "4", "--patch", "16", "--device", "cpu", "--domain", domain]
    assert main(["fit", "--data", tree, "--model", name, "--out", str(out), *options]) == 0
    trained = load(out)
    assert trained.noise_domain == "latent"
    noisy, shot = calibration_patches(open_dataset(tree, domain=domain).select(split="train").frames, 0)
    level = fit_noise_level(noisy, shot)
    start = ARCHITECTURES[name](level.conditions.pairs, noisy.shape[1])
    start.start_from(level)
    best = fit_baseline("nlf", noisy, shot)
    with torch.no_grad():
        before, after, nlf = (-float(m.log_mass(noisy, shot).sum()) / noisy.numel() for m in (start, trained, best))
    assert before < nlf + 0.5  # an intercept per camera, or no signal dependence at all, costs some tenths of a nat
    assert after < before
    drawn = trained.sample(shot.rows([0, 1]), seed=torch.arange(2))
    # Nothing of a batch: the released flows are biased by statistics that differ in training and inference.
    assert torch.equal(trained.train().sample(shot.rows([0, 1]), seed=torch.arange(2)), drawn)
    assert torch.equal(trained.sample(shot.rows(1), seed=1), drawn[1:])


def test_evaluate_marks_the_mass_of_recorded_noise(tree, tmp_path, capsys):
    save(BUILD["raw"](), tmp_path / "released.safetensors")
    command = ["evaluate", str(tmp_path / "released.safetensors"), "nlf", "--data", tree, "--baseline-data", tree]
    assert main([*command, "--out", str(tmp_path / "e"), "--device", "cpu"]) == 0
    assert "not comparable" in capsys.readouterr().out
    released, nlf = json.loads((tmp_path / "e" / "results.json").read_text())["models"]
    assert released["noise_domain"] == "recorded"
    assert released["mass"]["value"] is not None and released["regret"] is None
    for field in ("mass", "regret"):
        assert released["reason"][field].startswith("not comparable: ")
    assert "mass" not in nlf["reason"]
    page = (tmp_path / "e" / "report.html").read_text()
    assert "not comparable" in page
    assert "nlf has the lowest mass" in page
