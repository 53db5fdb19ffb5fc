"""Every transform, one row of a table each: what `Transform` promises, against the autograd Jacobian."""

import copy

import numpy as np
import pytest
import torch

from noiseflow.conditions import Conditions, CrossedConditions, UnknownConditionError
from noiseflow.noise_level import NoiseLevel
from noiseflow.shot import Shot
from noiseflow.transforms import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    BorderCoupling,
    CameraIsoScale,
    Chain,
    ConditionalAffine,
    Conv1x1,
    Conv1x1LU,
    DiagonalScale,
    Gain,
    GlobalGain,
    OnFirst,
    SignalDependentScale,
    Split,
    Squeeze,
    Unsqueeze,
    multi_scale,
)

PAIRS = [("IP", 100), ("IP", 800), ("S6", 100), ("S6", 3200)]
CONTEXT = 3


def rotation_seed():
    return torch.Generator().manual_seed(5)


def glow_step(channels):
    return [ActNorm(channels), Conv1x1LU(channels, rotation_seed()), AffineCoupling(channels, 6)]


def inferring():
    """A coupling with batch norm in inference, its running averages away from their start."""
    layer = BorderCoupling(4, 6, norm=True).eval()
    generator = torch.Generator().manual_seed(13)
    for name, average in layer.named_buffers():
        if "running" in name:
            average.add_(torch.rand(average.shape, generator=generator))
    return layer


TABLE = {
    # name: (build, channels, height and width must divide by)
    "actnorm": (lambda: ActNorm(4), 4, 1),
    "conv1x1": (lambda: Conv1x1(4, rotation_seed()), 4, 1),
    "conv1x1 from identity": (lambda: Conv1x1(3), 3, 1),
    "conv1x1 lu": (lambda: Conv1x1LU(4, rotation_seed()), 4, 1),
    "conv1x1 lu from identity": (lambda: Conv1x1LU(3), 3, 1),
    "coupling": (lambda: AffineCoupling(4, 6), 4, 1),
    "coupling, odd channels, swapped": (lambda: AffineCoupling(3, 6, swap=True), 3, 1),
    "coupling with context": (lambda: AffineCoupling(4, 6, context=CONTEXT), 4, 1),
    "additive coupling": (lambda: AdditiveCoupling(4, 6), 4, 1),
    "additive coupling, odd channels, swapped": (lambda: AdditiveCoupling(3, 6, swap=True, kernel=1), 3, 1),
    "additive coupling with context": (lambda: AdditiveCoupling(4, 6, context=CONTEXT), 4, 1),
    "diagonal scale": (lambda: DiagonalScale(3), 3, 1),
    "diagonal scale per dimension": (lambda: Chain([Squeeze(2), DiagonalScale(12), Unsqueeze(2)]), 3, 2),
    "split": (lambda: Split(4), 4, 1),
    "split, odd channels": (lambda: Split(3), 3, 1),
    "on first": (lambda: OnFirst(2, Chain([ActNorm(2), AffineCoupling(2, 6)])), 3, 1),
    "multi-scale": (lambda: multi_scale(1, 2, glow_step), 1, 4),
    "squeeze": (lambda: Squeeze(2), 2, 2),
    "unsqueeze": (lambda: Unsqueeze(2), 4, 1),
    "signal-dependent scale": (lambda: SignalDependentScale(NoiseLevel(Conditions(PAIRS))), 4, 1),
    "signal-dependent scale per channel": (lambda: SignalDependentScale(NoiseLevel(Conditions(PAIRS), 3)), 3, 1),
    "gain": (lambda: Gain(Conditions(PAIRS)), 4, 1),
    "camera-iso scale": (lambda: CameraIsoScale(Conditions(PAIRS)), 4, 1),
    "camera-iso scale, crossed": (lambda: CameraIsoScale(CrossedConditions(PAIRS)), 3, 1),
    "global gain": (GlobalGain, 4, 1),
    "conditional affine": (lambda: ConditionalAffine(Conditions(PAIRS), 3), 3, 1),
    "border coupling": (lambda: BorderCoupling(4, 6), 4, 1),
    "border coupling, batch norm": (inferring, 4, 1),
    "border coupling, odd channels, clean, strength": (
        lambda: BorderCoupling(3, 6, clean=3, conditions=Conditions(PAIRS)),
        3,
        1,
    ),
    "chain": (
        lambda: Chain(
            [
                SignalDependentScale(NoiseLevel(Conditions(PAIRS))),
                Squeeze(2),
                ActNorm(4),
                Conv1x1LU(4, rotation_seed()),
                AffineCoupling(4, 6, context=4 * CONTEXT),
                Unsqueeze(2),
                Gain(Conditions(PAIRS)),
            ]
        ),
        1,
        2,
    ),
}
SHAPES = [(4, 4), (2, 6), (6, 2)]


def scrambled(build, dtype=torch.float64):
    """The transform away from its start: every parameter moved at random, its noise level made realistic."""
    transform = build().to(dtype)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator).to(dtype))
    return transform


def shot_for(batch, channels, height, width, dtype=torch.float64, seed=3):
    generator = torch.Generator().manual_seed(seed)
    names = [("IP", 100), ("S6", 3200), ("S6", 100), ("IP", 800)]
    chosen = [names[i % 4] for i in range(batch)]
    clean = torch.rand(batch, channels, height, width, dtype=torch.float64, generator=generator)
    context = torch.randn(batch, CONTEXT, height, width, dtype=torch.float64, generator=generator)
    return Shot.of(
        clean.to(dtype),
        camera=[camera for camera, _ in chosen],
        iso=torch.tensor([iso for _, iso in chosen]),
        lsb=1 / 1023,
        context=context.to(dtype),
    )


def fitting(height, width, multiple):
    """The size, rounded up to one that the transform takes."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def noise_for(shot, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shot.clean.shape, dtype=torch.float64, generator=generator).to(shot.clean.dtype)


@pytest.fixture(params=TABLE, ids=str)
def row(request):
    return TABLE[request.param]


@pytest.mark.parametrize("size", SHAPES)
def test_round_trip(row, size):
    build, channels, multiple = row
    transform = scrambled(build)
    shot = shot_for(3, channels, *fitting(*size, multiple))
    x = noise_for(shot)
    z, log_det = transform(x, shot)
    back, log_det_back = transform.inverse(z, shot)
    assert (back - x).norm() <= 1e-9 * x.norm()
    assert torch.allclose(log_det, -log_det_back, rtol=1e-9, atol=1e-9)
    assert log_det.shape == (3,)
    assert log_det.dtype == x.dtype


@pytest.mark.parametrize("size", SHAPES)
def test_log_det_is_the_jacobians(row, size):
    build, channels, multiple = row
    transform = scrambled(build)
    shot = shot_for(2, channels, *fitting(*size, multiple))
    x = noise_for(shot)
    for i in range(2):
        alone = shot.rows(i)

        def flat(v, alone=alone):
            return transform(v.reshape(alone.clean.shape), alone)[0].reshape(-1)

        jacobian = torch.autograd.functional.jacobian(flat, x[i].reshape(-1))
        expected = torch.linalg.slogdet(jacobian).logabsdet
        log_det = transform(x[i : i + 1], alone)[1].detach()
        assert abs(float(log_det[0] - expected)) <= 1e-9 * max(1.0, abs(float(expected)))


def test_gradients(row):
    build, channels, multiple = row
    transform = scrambled(build)
    shot = shot_for(2, channels, *fitting(2, 4, multiple))
    x = noise_for(shot).requires_grad_(True)
    parameters = [p for p in transform.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda v, *_: transform(v, shot), (x, *parameters))
    z = transform(x, shot)[0].detach().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v, *_: transform.inverse(v, shot), (z, *parameters))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_rows_stand_alone(row, dtype, tolerance):
    build, channels, multiple = row
    transform = scrambled(build, dtype)
    shot = shot_for(4, channels, *fitting(6, 4, multiple), dtype)
    x = noise_for(shot)
    with torch.no_grad():
        for call, value in ((transform, x), (transform.inverse, transform(x, shot)[0])):
            together, log_dets = call(value, shot)
            for i in range(4):
                alone, log_det = call(value[i : i + 1], shot.rows(i))
                assert (together[i] - alone[0]).norm() <= tolerance * alone.norm()
                assert abs(float(log_dets[i] - log_det[0])) <= tolerance * max(1.0, abs(float(log_det[0])))


def test_calls_change_no_state(row):
    build, channels, multiple = row
    transform = scrambled(build)
    before = copy.deepcopy(transform.state_dict())
    shot = shot_for(2, channels, *fitting(4, 4, multiple))
    z, _ = transform(noise_for(shot), shot)
    transform.inverse(z, shot)
    for key, value in transform.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_saved_loaded_continued(row, tmp_path):
    """A loaded transform gives the same values, is not initialised again, and trains on as the original does."""
    build, channels, multiple = row
    original = scrambled(build)
    shot = shot_for(2, channels, *fitting(4, 4, multiple))
    x = noise_for(shot)
    original.initialize(x, shot)
    torch.save(original.state_dict(), tmp_path / "state.pt")
    loaded = build().double()
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for transform in (original, loaded):
        transform.initialize(3.0 + 2.0 * x, shot)  # a second call, on other data, must do nothing
    results = []
    for transform in (original, loaded):
        parameters = [p for p in transform.parameters() if p.requires_grad]
        if parameters:
            optimizer = torch.optim.SGD(parameters, 1e-3)
            z, log_det = transform(x, shot)
            (z.square().sum() - log_det.sum()).backward()
            optimizer.step()
        results.append(transform(x, shot))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_actnorm_normalises_the_batch_it_is_initialised_on():
    layer = ActNorm(3).double()
    shot = shot_for(5, 3, 8, 6)
    x = 2.5 * noise_for(shot) + torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)[:, None, None]
    layer.initialize(x, shot)
    z, _ = layer(x, shot)
    assert torch.allclose(z.mean(dim=(0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(z.var(dim=(0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-12)


def test_chain_initialises_each_layer_on_what_reaches_it():
    chain = Chain([ActNorm(4), Conv1x1(4, rotation_seed()), ActNorm(4)]).double()
    shot = shot_for(4, 4, 6, 6)
    x = 3.0 * noise_for(shot) - 1.0
    chain.initialize(x, shot)
    z, _ = chain(x, shot)
    assert torch.allclose(z.var(dim=(0, 2, 3), correction=0), torch.ones(4, dtype=torch.float64), atol=1e-9)


def test_size_multiple_and_its_error():
    chain = Chain([Squeeze(2), Squeeze(3), Unsqueeze(3), Unsqueeze(2), Squeeze(2), Unsqueeze(2)])
    assert chain.size_multiple == 6
    shot = shot_for(1, 2, 3, 4)
    with pytest.raises(ValueError, match="divide by 2, got 3×4"):
        Squeeze(2)(noise_for(shot), shot)


def test_starts_are_the_identity():
    shot = shot_for(2, 4, 4, 4)
    x = noise_for(shot)
    couplings = (AffineCoupling(4, 8), AdditiveCoupling(4, 8), Split(4), BorderCoupling(4, 8))
    scales = (
        ActNorm(4),
        DiagonalScale(4),
        Gain(Conditions(PAIRS)),
        GlobalGain(),
        ConditionalAffine(Conditions(PAIRS), 4),
    )
    for layer in (Conv1x1(4), Conv1x1LU(4), *couplings, *scales):
        z, log_det = layer.double()(x, shot)
        assert torch.equal(z, x)
        assert float(log_det.detach().abs().max()) == 0.0


def test_multi_scale_finishes_the_half_that_leaves_first():
    """Deeper levels move only what the split kept, and the whole needs sides that divide by 2^levels."""
    flow = scrambled(lambda: multi_scale(1, 3, glow_step))
    assert flow.size_multiple == 8
    shot = shot_for(2, 1, 8, 8)
    x = noise_for(shot)
    first = Chain(list(flow)[:5])  # squeeze, the three layers of a step, split
    leaving = first(x, shot)[0][:, 2:]
    base = Squeeze(2)(flow(x, shot)[0], shot)[0]
    assert torch.equal(base[:, 2:], leaving)
    assert not torch.equal(base[:, :2], first(x, shot)[0][:, :2])


def test_a_split_scores_the_half_that_leaves_under_its_learned_prior():
    """log N(z; 0, 1) + log_det of the split is log N(x_b; mean, exp(log_std)²) + log N(x_a; 0, 1)."""
    split = scrambled(lambda: Split(4))
    shot = shot_for(3, 4, 6, 4)
    x = noise_for(shot)
    z, log_det = split(x, shot)
    mean, log_std = split.prior(x[:, :2]).chunk(2, dim=1)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(x[:, 2:]).sum(dim=(1, 2, 3))
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = expected + standard.log_prob(x[:, :2]).sum(dim=(1, 2, 3))
    assert torch.allclose(standard.log_prob(z).sum(dim=(1, 2, 3)) + log_det, expected, rtol=1e-12, atol=1e-9)


def test_rotation_start_is_orthogonal():
    for layer in (Conv1x1(5, rotation_seed()), Conv1x1LU(5, rotation_seed())):
        x = torch.eye(5, dtype=torch.float64)[:, :, None, None]
        shot = shot_for(5, 5, 1, 1)
        w = layer.double()(x, shot)[0][:, :, 0, 0]
        assert torch.allclose(w @ w.T, torch.eye(5, dtype=torch.float64), atol=1e-6)  # stored as float32


@pytest.mark.parametrize("size", SHAPES)
def test_shares_of_the_log_det_add_up(row, size):
    build, channels, multiple = row
    transform = scrambled(build)
    shot = shot_for(3, channels, *fitting(*size, multiple))
    x = noise_for(shot)
    z, log_det = transform(x, shot)
    same, share = transform.forward_map(x, shot)
    assert torch.equal(same, z)
    assert share.shape == (3, *x.shape[-2:])
    assert torch.allclose(share.sum(dim=(1, 2)), log_det, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["coupling", "coupling with context", "split", "on first", "signal-dependent scale", "conv1x1", "gain"]
)
def test_share_of_a_pixel_is_its_jacobian_blocks(name):
    """Within one layer the Jacobian is triangular over pixels: a pixel's share is its own block's log-determinant."""
    build, channels, _ = TABLE[name]
    transform = scrambled(build)
    shot = shot_for(1, channels, 3, 4)
    x = noise_for(shot)
    jacobian = torch.autograd.functional.jacobian(lambda v: transform(v, shot)[0], x)[0, :, :, :, 0]
    _, share = transform.forward_map(x, shot)
    for i in range(3):
        for j in range(4):
            block = jacobian[:, i, j, :, i, j]
            assert torch.allclose(torch.linalg.slogdet(block)[1], share[0, i, j], rtol=1e-9, atol=1e-12)


def level_with(log_a, log_b):
    level = NoiseLevel(Conditions(PAIRS)).double()
    with torch.no_grad():
        level.log_a.copy_(log_a[:, None])
        level.log_b.copy_(log_b[:, None])
    return level


def test_the_published_scale_starts_from_a_noise_level_whose_slopes_grow_with_iso():
    """Exactly, for slopes proportional to ISO and one intercept per camera: all that its parameters can say."""
    log_iso = torch.tensor([iso for _, iso in PAIRS], dtype=torch.float64).log()
    phone = torch.tensor([0, 0, 1, 1])  # PAIRS is sorted
    level = level_with(
        torch.tensor([-13.0, -11.5]).double()[phone] + log_iso, torch.tensor([-9.0, -7.0]).double()[phone]
    )
    layer = CameraIsoScale(Conditions(PAIRS)).double()
    layer.start_from(level)
    shot = shot_for(4, 3, 4, 4)
    # The closed form solves a 4×5 least-squares problem of condition number about 10 in float64.
    assert torch.allclose(layer.variance(shot), level.variance(shot), rtol=1e-11)


def test_the_published_scale_is_the_published_formula():
    layer = scrambled(lambda: CameraIsoScale(CrossedConditions(PAIRS)))
    shot = shot_for(4, 3, 4, 4)
    camera, gain, beta = (p.detach().numpy() for p in (layer.camera, layer.gain, layer.beta))
    for row, (name, iso) in enumerate([("IP", 100), ("S6", 3200), ("S6", 100), ("IP", 800)]):
        e = np.exp(camera[:, ["IP", "S6"].index(name)])
        g = np.exp(gain[[100, 800, 3200].index(iso)] * e[2]) * iso
        expected = np.exp(beta[0] * e[0]) * shot.clean[row].numpy() / g + np.exp(beta[1] * e[1])
        assert np.allclose(layer.variance(shot)[row].detach().numpy(), expected, rtol=1e-12, atol=0)
    dark = shot.replace(clean=shot.clean - 1e9)
    with pytest.raises(ValueError, match="leave the variance positive"):
        layer.variance(dark)


def test_the_first_affine_layer_makes_noise_at_middle_grey_standard():
    level = level_with(torch.tensor([-6.0, -5.0, -4.0, -3.0]).double(), torch.full((4,), -9.0).double())
    first, later = (ConditionalAffine(Conditions(PAIRS), 3, first=first).double() for first in (True, False))
    shot = shot_for(4, 3, 4, 4)
    grey = shot.replace(clean=torch.full_like(shot.clean, 0.25))
    for layer in (first, later):
        layer.start_from(level)
    x = noise_for(shot)
    assert torch.allclose(first(x, shot)[0], x / level.variance(grey).sqrt(), rtol=1e-12)
    assert torch.equal(later(x, shot)[0], x)


def test_a_border_coupling_sees_where_the_border_is():
    layer = scrambled(lambda: BorderCoupling(4, 6))
    shot = shot_for(1, 4, 9, 8)
    shift = (layer(torch.zeros_like(shot.clean), shot)[0])[0, 2:]
    inner = shift[:, 2:-2, 2:-2]
    assert torch.allclose(inner, inner[:, :1, :1].expand_as(inner), rtol=1e-12)
    for edge in (shift[:, 0, 4], shift[:, -1, 4], shift[:, 4, 0], shift[:, 4, -1]):
        assert not torch.allclose(edge, shift[:, 4, 4], rtol=1e-3)


def test_a_folded_coupling_is_the_same_in_inference():
    layer, shot = scrambled(inferring), shot_for(3, 4, 5, 4)
    x, folded = noise_for(shot), copy.deepcopy(layer)
    folded.fold()
    for found, expected in zip(folded.train()(x, shot), layer(x, shot), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert not any("norm" in name for name in folded.state_dict())


def test_batch_norm_in_training_couples_the_rows_and_stays_a_bijection():
    """Normalised over the batch, the whole batch's Jacobian has the rows' log-determinants, summed; it inverts."""
    layer, shot = scrambled(inferring).train(), shot_for(2, 4, 3, 2)
    x = noise_for(shot)
    z, log_det = layer(x, shot)
    h = layer.first(x[:, :2])
    averages = layer.first_norm.running_mean.clone()
    z_again, _ = layer(x, shot)
    # One more step of a tenth towards this batch's mean, whatever the layer computed.
    assert torch.allclose(layer.first_norm.running_mean, 0.9 * averages + 0.1 * h.mean(dim=(0, 2, 3)), rtol=1e-12)
    assert torch.equal(z_again, z)
    assert (layer.inverse(z, shot)[0] - x).norm() <= 1e-9 * x.norm()
    assert not torch.allclose(layer(x[:1], shot.rows(0))[0], z[:1], rtol=1e-3)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v.reshape(x.shape), shot)[0].reshape(-1), x.ravel())
    assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(log_det.sum().detach()), rel=1e-9)


def test_crossed_conditions_combine_known_parts_only_where_that_is_allowed():
    conditions = CrossedConditions(PAIRS)
    assert conditions.locate(Shot.of(torch.zeros(2, 1, 1, 1), camera=["IP", "S6"], iso=100)).lower.tolist() == [0, 3]
    unseen = Shot.of(torch.zeros(1, 1, 1, 1), camera="IP", iso=3200)
    with pytest.raises(UnknownConditionError, match="IP at ISO 100, 800; S6 at ISO 100, 3200"):
        conditions.locate(unseen)
    conditions.allow_unseen = True
    assert conditions.locate(unseen).lower.tolist() == [2]
    for camera, iso in (("IP", 400), ("G4", 100)):
        with pytest.raises(UnknownConditionError, match="known: IP at ISO"):
            conditions.locate(Shot.of(torch.zeros(1, 1, 1, 1), camera=camera, iso=iso))
