"""Noise models in training loops: the moments are the model's, and what is drawn depends on seed and number alone."""

import importlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from noiseflow.adapters import ConditionDraw, NoiseTransform, NoisyPairs, add_noise, deepinv_noise
from noiseflow.datasets import collate
from noiseflow.models import NoiseLevelFunction, noise_flow, synthesize
from noiseflow.raw.cfa import pack
from noiseflow.sensors import PHONES, SENSORS, SensorTruth
from noiseflow.shot import Shot

PAIRS = [("S6", 100), ("S6", 800), ("S6", 3200), ("G4", 100), ("G4", 400)]
A, B = 2e-3, 1e-5


def nlf(channels=4, pairs=PAIRS):
    """Noise of variance `A·clean + B`, known by construction."""
    model = NoiseLevelFunction(pairs, channels=channels)
    with torch.no_grad():
        model.level.log_a.fill_(float(np.log(A)))
        model.level.log_b.fill_(float(np.log(B)))
    return model


def assert_moments(noise, clean):
    """Mean and variance within 4 standard errors of a normal sample's: sd/√n, and var·√(2/n)."""
    variance, n = A * clean + B, noise.size
    assert abs(noise.mean()) <= 4 * np.sqrt(variance / n)
    assert abs(noise.var() - variance) <= 4 * variance * np.sqrt(2 / n)


class Wrapped(Dataset):
    """A data set that calls the transform itself, as people do."""

    def __init__(self, transform, use_index):
        self.transform, self.use_index = transform, use_index

    def __len__(self):
        return 12

    def __getitem__(self, index):
        clean = torch.full((4, 8, 8), 0.1 + 0.05 * index)
        return self.transform(clean, index=index) if self.use_index else clean


@pytest.mark.parametrize("stored", [False, True])
def test_moments_of_the_transform(stored):
    noise = NoiseTransform(nlf(), iso=[800], seed=3, stored=stored)
    clean = torch.full((2, 4, 96, 96), 0.3)  # 13 σ from either end, so that clipping does nothing
    assert_moments((noise(clean) - clean).double().numpy(), 0.3)


@pytest.mark.parametrize("shape", [(128, 192), (4, 96, 96)])
def test_moments_of_the_numpy_function(shape):
    clean = np.full(shape, 0.2)
    noisy = add_noise(clean, nlf(), camera="S6", iso=800, seed=5)
    assert noisy.shape == shape
    assert_moments(noisy.astype(float) - np.float32(0.2), 0.2)


def test_moments_of_the_pairs():
    pairs = NoisyPairs([torch.full((4, 64, 64), 0.4)] * 6, NoiseTransform(nlf(), seed=1))
    noisy, shot = collate([pairs[i] for i in range(6)])
    assert_moments((noisy - shot.clean).double().numpy(), 0.4)


def test_moments_of_deepinv():
    noise = deepinv_noise.DeepinvNoise(nlf(channels=3), iso=800)
    x = torch.full((2, 3, 96, 96), 0.5)
    assert torch.equal(noise(x[0], seed=4), noise(x, seed=4)[0])
    assert_moments((noise(x, seed=4) - x).double().numpy(), 0.5)


def test_quick_moments_of_a_flow_and_its_equality_up_to_rounding():
    torch.manual_seed(0)
    flow = noise_flow(PAIRS, hidden=8)
    clean = torch.full((2, 4, 32, 32), 0.3)
    exact = NoiseTransform(flow, seed=2, stored=False)(clean)
    quick = NoiseTransform(flow, seed=2, stored=False, quick=True)(clean)
    assert (exact - quick).abs().max() <= 1e-4 * (exact - clean).std()
    assert not torch.equal(exact, clean)


def test_the_noise_is_that_of_synthesize():
    model = nlf()
    model.card = {"cameras": {"S6": {"lsb": [1 / 1023] * 4, "low": [0.0] * 4, "high": [1.0] * 4, "cfa": "GRBG"}}}
    noise = NoiseTransform(model, cameras=["S6"], iso=800, seed=9)
    clean = torch.rand(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([5, 0, 77])
    noisy, shot = noise(clean, index=index, return_shot=True)
    want = Shot.of(clean, camera="S6", iso=800, lsb=1 / 1023, cfa="RGGB")
    assert torch.equal(noisy, synthesize(model, want, seed=noise.keys(3, index)))
    codes = noisy.double() * 1023
    assert (codes - codes.round()).abs().max() < 1e-3
    assert noisy.min() == 0
    assert shot.camera_names == ("S6",) * 3
    assert noise.last is shot


def test_numbers_alone_decide():
    noise = NoiseTransform(nlf(), iso=(100, 3200), seed=1)
    clean = torch.full((4, 4, 8, 8), 0.5)
    whole = noise(clean, index=torch.arange(4))
    for i in (2, 0, 3):
        assert torch.equal(noise(clean[i], index=i), whole[i])
    assert torch.equal(pickle.loads(pickle.dumps(noise))(clean[1], index=1), whole[1])
    assert not torch.equal(NoiseTransform(nlf(), iso=(100, 3200), seed=2)(clean[1], index=1), whole[1])
    mosaic = np.full((16, 16), 0.5)
    assert np.array_equal(pack(noise(mosaic, index=2), "RGGB"), whole[2].numpy())


def test_counting_goes_on_after_a_resume():
    noise, again = NoiseTransform(nlf(), seed=1), NoiseTransform(nlf(), seed=1)
    clean = torch.full((2, 4, 8, 8), 0.5)
    first = noise(clean)
    again.load_state_dict(noise.state_dict())
    assert int(again.count) == 2
    second = noise(clean)
    assert torch.equal(again(clean), second)
    assert not torch.equal(first, second)


def stream(workers, use_index):
    """12 images in batches of 3: noise from inside the workers by index, or by count in the main process."""
    noise = NoiseTransform(nlf(), iso=(100, 3200), seed=6)
    batches = list(DataLoader(Wrapped(noise, use_index), batch_size=3, num_workers=workers))
    return torch.cat(batches if use_index else [noise(batch) for batch in batches])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("use_index", [True, False])
def test_workers_do_not_change_the_stream(use_index):
    alone = stream(0, use_index)
    for workers in (2, 4):
        assert torch.equal(stream(workers, use_index), alone)


class Counting(Wrapped):
    """Calls the transform inside the worker, without an index."""

    def __getitem__(self, index):
        return self.transform(torch.full((4, 8, 8), 0.5))


def test_counting_inside_workers_repeats_nothing():
    loader = DataLoader(Counting(NoiseTransform(nlf(), seed=6), False), batch_size=3, num_workers=2)
    images = torch.cat([*loader, *loader]).flatten(1)  # two epochs, each with workers of its own
    assert len({image.numpy().tobytes() for image in images}) == 24


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_pairs_do_not_depend_on_the_workers_and_change_with_the_epoch(workers):
    cleans = [np.full((16, 16), 0.1 * (i + 1)) for i in range(5)]
    pairs = NoisyPairs(cleans, NoiseTransform(nlf(), iso=(100, 3200), seed=6))
    loader = DataLoader(pairs, batch_size=2, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0)
    epochs = []
    for epoch in range(2):
        pairs.set_epoch(epoch)
        batches = list(loader)
        noisy, iso = torch.cat([noisy for noisy, _ in batches]), torch.cat([shot.iso for _, shot in batches])
        want = collate([pairs[i] for i in range(5)])
        assert torch.equal(noisy, want[0])
        assert torch.equal(iso, want[1].iso)
        epochs.append(noisy)
    assert not torch.equal(*epochs)
    assert pairs[-1].name == "4"
    with pytest.raises(IndexError):
        pairs[5]


def test_the_model_inside_is_frozen_and_apart():
    model = noise_flow(PAIRS, hidden=8)
    noise = NoiseTransform(model)
    assert any(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in noise.parameters())


def test_conditions_are_drawn_evenly():
    draw = ConditionDraw(nlf(), iso=(100, 1000))
    assert draw.choices == {"G4": ((100.0, 400.0), False), "S6": ((100.0, 800.0), False)}
    names, isos = draw(torch.arange(4000))
    counts = {
        pair: sum(1 for p in zip(names, isos.tolist(), strict=True) if p == pair)
        for pair in set(zip(names, isos.tolist(), strict=True))
    }
    assert set(counts) == {("G4", 100.0), ("G4", 400.0), ("S6", 100.0), ("S6", 800.0)}
    # 4 standard errors of a binomial count with p = 1/4
    assert all(abs(count - 1000) <= 4 * np.sqrt(4000 * 3 / 16) for count in counts.values())


def test_ranges_are_uniform_in_the_logarithm_where_the_model_interpolates():
    model = nlf()
    model.conditions.allow_unseen = True
    draw = ConditionDraw(model, cameras=["S6"], iso=(50, 1600))
    assert draw.choices == {"S6": ((100.0, 1600.0), True)}
    _, isos = draw(torch.arange(4000))
    place = np.log(isos.numpy() / 100) / np.log(16)
    assert place.min() >= 0
    assert place.max() <= 1
    assert abs(place.mean() - 0.5) <= 4 * np.sqrt(1 / 12 / 4000)
    assert abs(place.var() - 1 / 12) <= 4 * np.sqrt(1 / 180 / 4000)
    noise = NoiseTransform(model, cameras=["S6"], iso=(50, 1600))
    noise(torch.full((2, 4, 8, 8), 0.5))
    assert len(set(noise.last.iso.tolist())) == 2


def test_virtual_sensors_store_their_own_codes():
    truth = SensorTruth([PHONES["S6"], SENSORS["rows"]])
    noise = NoiseTransform(truth, iso=(100, 3200), seed=2)
    noisy, shot = noise(torch.full((6, 4, 16, 16), 0.002), return_shot=True)
    for image, camera, lsb in zip(noisy.double(), shot.camera_names, shot.lsb[:, 0].double(), strict=True):
        assert torch.allclose(image / lsb, (image / lsb).round(), atol=1e-3)
        assert (image.min() < 0) == (camera == "rows")  # the one that keeps its pedestal


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"cameras": ["X"]}, "cameras: expected some of G4, S6, got X"),
        ({"cameras": []}, "got none"),
        ({"iso": (5000, 6000)}, "got 5000 to 6000"),
        ({"iso": (800, 100)}, "a range"),
        ({"iso": -1}, "positive"),
        ({"cameras": ["G4"], "iso": [800]}, "G4 has"),
        ({"iso": [100, 1600]}, "got 1600"),
        ({"iso": "100"}, "a number, a list, or a range"),
        ({"cfa": "RGBW"}, "cfa: expected one of"),
    ],
)
def test_conditions_that_the_model_lacks(arguments, says):
    with pytest.raises(ValueError, match=says):
        NoiseTransform(nlf(), **arguments)


def test_conditions_in_other_types():
    for iso in (np.array([100, 800]), [100, 800], {100, 800}):
        assert ConditionDraw(nlf(), cameras="S6", iso=iso).choices == {"S6": ((100.0, 800.0), False)}


def test_a_cast_of_the_network_around_does_not_reach_the_model():
    model, clean = nlf(), torch.full((2, 4, 8, 8), 0.5, dtype=torch.float16)
    alone, inside = NoiseTransform(model, seed=1), NoiseTransform(model, seed=1)
    network = nn.Sequential(inside).half()
    assert torch.equal(network(clean), alone(clean))
    assert set(network.state_dict()) == {"0.count"}


def test_what_is_no_image_is_refused():
    noise = NoiseTransform(nlf())
    codes = np.full((8, 8), 100, np.uint8)
    with pytest.raises(ValueError, match="floating-point"):
        nlf().sample_numpy([[1, 2], [3, 4]], camera="S6", iso=100)
    for call in (lambda: add_noise(codes, nlf(), camera="S6", iso=100), lambda: noise(codes)):
        with pytest.raises(ValueError, match=r"floating-point values in linear units .* got uint8"):
            call()
    with pytest.raises(ValueError, match="yields nothing else"):
        NoisyPairs([(torch.zeros(4, 8, 8),)], noise)[0]
    for shape in ((0, 4, 8, 8), (2, 3, 8, 8), (3, 8, 8), (1, 1, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"expected images \(4, H, W\)"):
            noise(torch.zeros(shape))
    for index in (1.5, torch.arange(3)):
        with pytest.raises(ValueError, match="whole number for each of 2 images"):
            noise(torch.zeros(2, 4, 8, 8), index=index)
    with pytest.raises(ValueError, match=r"noiseflow\.load reads it"):
        NoiseTransform("runs/raw")


def test_images_that_carry_a_gradient_go_through_workers():
    pairs = NoisyPairs([torch.full((4, 8, 8), 0.5, requires_grad=True)] * 2, NoiseTransform(nlf()))
    (batch,) = DataLoader(pairs, batch_size=2, num_workers=1, collate_fn=collate)
    assert torch.equal(batch[0], collate([pairs[0], pairs[1]])[0])


def test_shapes_that_do_not_fit():
    noise = NoiseTransform(nlf())
    with pytest.raises(ValueError, match=r"\(H, W\) or \(4, H, W\)"):
        noise(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="expected"):
        noise(torch.zeros(8, 8))


class StandIn(nn.Module):
    """The interface of deepinv's `NoiseModel`, as documented: what its physics call."""

    def __init__(self, noise_model=None, rng=None):
        super().__init__()
        self.noise_model = noise_model if noise_model is not None else (lambda x: x)
        self.rng = rng

    def forward(self, x, seed=None):
        return self.noise_model(x)

    def update_parameters(self, **kwargs):
        """Physics call it with all their parameters."""


def test_deepinv_where_it_is_installed(monkeypatch):
    physics = types.ModuleType("deepinv.physics")
    physics.NoiseModel = StandIn
    monkeypatch.setitem(sys.modules, "deepinv", types.ModuleType("deepinv"))
    monkeypatch.setitem(sys.modules, "deepinv.physics", physics)
    try:
        module = importlib.reload(deepinv_noise)
        noise = module.DeepinvNoise(nlf(channels=3), iso=(100, 3200), seed=1)
        assert isinstance(noise, StandIn)
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        noise.update_parameters(sigma=0.1)
        y = noise(x, seed=2, sigma=0.1)  # parameters of other parts of the physics pass through
        assert torch.equal(noise(x, seed=2), y)
        assert not torch.equal(noise(x, seed=3), y)
        assert not torch.equal(noise(x), noise(x))
        assert not torch.equal(y[0] - x[0], y[1] - x[1])
        assert torch.equal(pickle.loads(pickle.dumps(noise))(x, seed=2), y)
    finally:
        monkeypatch.undo()
        importlib.reload(deepinv_noise)
    assert not issubclass(deepinv_noise.DeepinvNoise, StandIn)
