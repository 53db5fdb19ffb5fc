"""Every density integrates to one, every sampler matches its density, and codes get the probability they have."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from noiseflow.cells import cells, draw_in_cells, log_normal_interval, log_normal_mass
from noiseflow.models import (
    Flow,
    FullGaussian,
    Gaussian,
    Isotropic,
    NoiseLevelFunction,
    glow,
    noise_flow,
    noise_flow_paper,
    srgb_flow,
    synthesize,
)
from noiseflow.noise_level import NoiseLevel
from noiseflow.shot import Shot

PAIRS = [("IP", 100), ("S6", 800), ("S6", 3200)]


def level_of(channels, seed=0):
    from noiseflow.conditions import Conditions

    generator = torch.Generator().manual_seed(seed)
    level = NoiseLevel(Conditions(PAIRS), channels)
    with torch.no_grad():
        level.log_a.copy_(math.log(0.01) + 0.3 * torch.randn(level.log_a.shape, generator=generator))
        level.log_b.copy_(math.log(4e-5) + 0.3 * torch.randn(level.log_b.shape, generator=generator))
        if channels == 3:
            level.offset.copy_(0.01 * torch.randn(level.offset.shape, generator=generator))
    return level


def shot_for(batch, channels, height, width, dtype=torch.float64, seed=1, **rest):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(batch, channels, height, width, dtype=torch.float64, generator=generator) ** 2
    chosen = [PAIRS[i % len(PAIRS)] for i in range(batch)]
    return Shot.of(
        clean.to(dtype), camera=[c for c, _ in chosen], iso=torch.tensor([float(i) for _, i in chosen]), **rest
    )


def scrambled(flow, strength=0.05):
    """A flow away from its start, as after training."""
    generator = torch.Generator().manual_seed(2)
    flow.start_from(level_of(3 if flow.channels == 3 else 1))
    with torch.no_grad():
        for name, parameter in flow.transform.named_parameters():
            if "level" not in name:
                parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    return flow.eval()


def baseline(kind, channels):
    model = kind(PAIRS, channels)
    level = level_of(model.level.channels)
    with torch.no_grad():
        model.level.log_b.copy_(level.log_b + (0.0 if kind is NoiseLevelFunction else 3.0))
        model.level.offset.copy_(level.offset)
        if kind is NoiseLevelFunction:
            model.level.log_a.copy_(level.log_a)
    return model


def full():
    model, level = FullGaussian(PAIRS), level_of(3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        model.log_std.copy_(0.5 * (level.log_b + 3.0))
        model.lower.add_(0.5 * torch.randn(model.lower.shape, generator=generator))
        model.offset.copy_(level.offset)
    return model


BUILD = {
    "gaussian raw": lambda: baseline(Gaussian, 4),
    "gaussian srgb": lambda: baseline(Gaussian, 3),
    "isotropic srgb": lambda: baseline(Isotropic, 3),
    "full srgb": full,
    "nlf raw": lambda: baseline(NoiseLevelFunction, 4),
    "nlf srgb": lambda: baseline(NoiseLevelFunction, 3),
    "nlf mono": lambda: baseline(NoiseLevelFunction, 1),
    "noise_flow raw": lambda: scrambled(noise_flow(PAIRS, 4)),
    "noise_flow srgb": lambda: scrambled(noise_flow(PAIRS, 3)),
    "noise_flow_paper raw": lambda: scrambled(noise_flow_paper(PAIRS, 4)),
    "srgb_flow srgb": lambda: scrambled(srgb_flow(PAIRS, 3)),
    "glow srgb": lambda: scrambled(glow(PAIRS, 3, steps=4, hidden=8), 0.03),
    "glow raw": lambda: scrambled(glow(PAIRS, 4, steps=2, hidden=8), 0.03),
    "glow mono": lambda: scrambled(glow(PAIRS, 1, steps=2, hidden=8), 0.03),
}
FLOWS = [name for name in BUILD if "flow" in name or "glow" in name]
PIXELWISE = [name for name in BUILD if name not in FLOWS and name != "full srgb"]


@pytest.mark.parametrize("kind", [Gaussian, NoiseLevelFunction, noise_flow], ids=["gaussian", "nlf", "noise_flow"])
def test_two_values_integrate_to_one(kind):
    model = scrambled(noise_flow(PAIRS, 2)).double() if kind is noise_flow else baseline(kind, 2).double()
    reach = {Gaussian: 0.5, NoiseLevelFunction: 1.0, noise_flow: 1.0}[kind]  # about 10 standard deviations
    axis = torch.linspace(-reach, reach, 601, dtype=torch.float64)
    step = float(axis[1] - axis[0])
    grid = torch.cartesian_prod(axis, axis)[:, :, None, None]
    for clean in (0.02, 0.6):
        shot = Shot.of(torch.full((len(grid), 2, 1, 1), clean, dtype=torch.float64), camera="S6", iso=800)
        with torch.no_grad():
            total = float(model.log_prob(grid, shot).exp().sum()) * step**2
        # The trapezium rule on a smooth density some tens of steps wide is exact to far below 1e-6; the ReLUs of a
        # coupling put kinks into its density, where the rule's error is of second order in the step: (1/30 sigma)²/12.
        assert total == pytest.approx(1.0, abs=1e-4 if kind is noise_flow else 1e-6)


@pytest.mark.parametrize("name", BUILD)
def test_importance_weights_average_one(name):
    """E_q[p/q] = 1 for a q that is wider than p: the model's own noise, inflated through its NLF."""
    model = BUILD[name]().double()
    n, side = 4000, 2
    shot = Shot.of(torch.full((n, model.channels, side, side), 0.3, dtype=torch.float64), camera="S6", iso=800)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        near = model.sample(shot, seed=torch.arange(2000).repeat(2)[:n])
        centre, spread = near.mean(dim=0), 1.35 * near.std(dim=0)
        if isinstance(model, (Flow, FullGaussian)):  # follow its correlations: a full-covariance Gaussian
            flat = near.reshape(n, -1)
            covariance = torch.cov(flat.T) * 1.35**2
            q = torch.distributions.MultivariateNormal(flat.mean(dim=0), covariance)
            torch.manual_seed(5)
            drawn = q.sample((n,))
            log_q, noise = q.log_prob(drawn), drawn.reshape(near.shape)
        else:
            noise = centre + spread * torch.randn(near.shape, dtype=torch.float64, generator=generator)
            log_q = torch.distributions.Normal(centre, spread).log_prob(noise).sum(dim=(1, 2, 3))
        weights = (model.log_prob(noise, shot) - log_q).exp()
    error = float(weights.std()) / math.sqrt(n)
    assert error < 0.1
    assert abs(float(weights.mean()) - 1.0) <= 4 * error


@pytest.mark.parametrize("name", FLOWS)
def test_samples_map_back_to_standard_normals(name):
    flow = BUILD[name]().double()
    shot = shot_for(6, flow.channels, 40, 42)
    noise = flow.sample(shot, seed=torch.arange(6))
    with torch.no_grad():
        z, _ = flow.transform(noise, flow.with_context(shot))
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(float(z.mean())) < 4 / math.sqrt(z.numel())
    assert abs(float(z.var()) - 1) < 4 * math.sqrt(2 / z.numel())


@pytest.mark.parametrize("name", PIXELWISE)
def test_baseline_samples_have_the_models_moments(name):
    model = BUILD[name]()
    shot = shot_for(3, model.channels, 120, 120)
    noise = model.sample(shot, seed=torch.arange(3))
    with torch.no_grad():
        mean, variance = model._moments(shot)
        z = ((noise - mean) / variance.sqrt()).flatten().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-3


@pytest.mark.parametrize("name", PIXELWISE)
@pytest.mark.parametrize("clean", [-0.05, 0.0, 0.003, 0.4, 1.0, 1.1])
def test_masses_of_all_codes_sum_to_one(name, clean):
    model = BUILD[name]()
    codes = 256
    noisy = (torch.arange(codes) / (codes - 1)).reshape(codes, 1, 1, 1).expand(-1, model.channels, 1, 1)
    for camera, iso in PAIRS:
        shot = Shot.of(torch.full_like(noisy, clean), camera=camera, iso=iso, lsb=1 / (codes - 1))
        with torch.no_grad():
            mean, variance = model._moments(shot)
            each = log_normal_mass(cells(noisy, shot), mean, variance.sqrt())
        assert (each.exp().sum(dim=0) - 1).abs().max() <= 1e-9


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("build", [noise_flow, glow])
@pytest.mark.parametrize("lsb", [1 / 255, 0.0])
def test_a_started_flow_is_its_noise_level_function(build, channels, lsb):
    if build is noise_flow and channels == 1:
        pytest.skip("a coupling without squeeze needs two channels")
    level = level_of(3 if channels == 3 else 1)
    nlf = NoiseLevelFunction(PAIRS, channels).double()
    nlf.level.copy_from(level)
    flow = build(PAIRS, channels).double()
    flow.start_from(level)
    for size in ((8, 10), (7, 5)):  # the second needs padding where the flow squeezes
        shot = shot_for(3, channels, *size, lsb=lsb)
        shot = shot.replace(clean=0.02 * shot.clean)  # dark, so that pixels are clipped
        # Rotations are stored in float32, so that |z|² is kept to 1e-7: noise of many σ would show it.
        noisy = synthesize(nlf, shot, seed=torch.arange(3) + 9)
        assert float((noisy == 0).double().mean()) > 0.01  # clipped pixels take part
        with torch.no_grad():
            bound = flow.mass_bound(noisy, shot, seed=torch.arange(3))
            exact = nlf.log_mass(noisy, shot)
        assert (bound.log_mass - exact).abs().max() / noisy[0].numel() <= 1e-5
        assert bound.looseness.max() / noisy[0].numel() <= 1e-9
        for i in range(3):
            nlf_alone = nlf.log_mass(noisy[i : i + 1], shot.rows(i))
            assert float((nlf_alone - exact[i]).detach().abs()) <= 1e-9


def test_the_bound_is_a_bound_and_is_tight_where_it_can_be_checked():
    """One pixel, two channels: the exact mass of a code pair by quadrature, against the bound over many draws."""
    flow = scrambled(noise_flow(PAIRS, 2)).double()
    lsb = 1 / 63
    clean = torch.tensor([0.02, 0.3], dtype=torch.float64).reshape(1, 2, 1, 1)
    shot = Shot.of(clean, camera="S6", iso=3200, lsb=lsb)
    noisy = torch.tensor([0.0, 20 / 63], dtype=torch.float64).reshape(1, 2, 1, 1)
    cell = cells(noisy, shot)
    edges = [(max(float(cell.low[0, c]), -1.0), float(cell.high[0, c])) for c in range(2)]
    axes = [torch.linspace(low, high, 601, dtype=torch.float64) for low, high in edges]
    middles = [0.5 * (axis[1:] + axis[:-1]) for axis in axes]
    area = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    total = 0.0
    with torch.no_grad():
        for block in middles[0].split(200):
            points = torch.cartesian_prod(block, middles[1])[:, :, None, None]
            same = shot.rows([0] * len(points))
            total += float(flow.log_prob(points, same).exp().sum()) * area
        many = shot.rows([0] * 4000)
        bound = flow.log_mass(noisy.expand(4000, -1, -1, -1), many, seed=torch.arange(4000))
    error = float(bound.std()) / math.sqrt(4000)
    exact = math.log(total)
    assert float(bound.mean()) <= exact + 4 * error
    assert float(bound.mean()) >= exact - 1.2 * float(bound.var()) / 2 - 4 * error - 0.02
    weights = float(torch.logsumexp(bound, 0)) - math.log(4000)  # importance weighting makes it exact
    assert weights == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("name", BUILD)
def test_rows_of_mixed_batches_stand_alone(name):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model = BUILD[name]().to(dtype)
        shot = shot_for(5, model.channels, 8, 8, dtype, lsb=1 / 255)
        noisy = synthesize(model, shot, seed=torch.arange(5))
        noise = noisy - shot.clean
        seeds = torch.arange(5) + 7
        with torch.no_grad():
            both = model.log_prob(noise, shot), model.log_mass(noisy, shot, seed=seeds)
            for i in range(5):
                row = shot.rows(i)
                alone = (
                    model.log_prob(noise[i : i + 1], row),
                    model.log_mass(noisy[i : i + 1], row, seed=seeds[i : i + 1]),
                )
                for together, single in zip(both, alone, strict=True):
                    assert abs(float(together[i] - single[0])) <= tolerance * max(1.0, abs(float(single[0])))


@pytest.mark.parametrize("name", BUILD)
def test_same_seed_same_bytes_whatever_the_batch(name):
    model = BUILD[name]()
    shot = shot_for(5, model.channels, 32, 30, torch.float32, lsb=1 / 1023)
    seeds = torch.tensor([3, 3, 4, 5, 6])
    together = model.sample(shot, seed=seeds)
    for i in range(5):
        assert torch.equal(model.sample(shot.rows(i), seed=int(seeds[i]))[0], together[i])
    assert torch.equal(model.sample(shot.rows([4, 0]), seed=seeds[[4, 0]]), together[[4, 0]])
    assert not torch.equal(together[1], together[2])


@pytest.mark.parametrize("name", [n for n in BUILD if n not in FLOWS])
def test_a_tile_has_the_noise_of_its_place_in_the_frame(name):
    model = BUILD[name]()
    shot = shot_for(1, model.channels, 24, 26, torch.float32)
    whole = model.sample(shot, seed=9)
    tile = shot.replace(clean=shot.clean[..., 8:20, 10:26], origin=torch.tensor([[8, 10]]))
    assert torch.equal(model.sample(tile, seed=9), whole[..., 8:20, 10:26])


def test_interval_masses_far_from_the_mean():
    """Cells 40 sigma out, and cells from 1e-7 to 20 sigma wide, against 60-digit arithmetic."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 800
    low = np.array([-40.0, -39.5, -8.0, 0.3, 5.0, 38.0, 3.0, -3.0, 0.1, 12.0, -1e6, 30.0])
    width = np.array([1.0, 20.0, 16.0, 1e-3, 0.05, 2.0, 1e-7, 1e-5, 2e-4, 1e-4, 1e6, 1e6])
    for a, w in zip(low, width, strict=True):
        alpha, beta = mpmath.mpf(float(a)), mpmath.mpf(float(a + w))
        exact = float(mpmath.log(mpmath.ncdf(beta) - mpmath.ncdf(alpha)))
        got = float(log_normal_interval(torch.tensor(a, dtype=torch.float64), torch.tensor(a + w, dtype=torch.float64)))
        # The width of the cell itself carries a relative rounding error of 1e-16·|a|/w.
        assert got == pytest.approx(exact, rel=1e-12, abs=1e-11 + 4e-16 * abs(a) / w)


def test_gradient_of_interval_masses():
    alpha = torch.tensor([-30.0, -1.0, 0.2, 3.0, 20.0], dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([-29.0, 2.0, 0.3, 3.5, 22.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_normal_interval, (alpha, beta), atol=1e-6, rtol=1e-5)


def test_draws_in_cells_follow_the_truncated_normal():
    uniforms = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    for low, high in ((-0.3, 0.4), (2.0, 2.5), (9.0, 11.0), (-1e6, -45.0), (-42.0, -41.5), (1.0, 1e6)):
        shape = (1, 1, 1, 20000)
        from noiseflow.cells import Cells

        cell = Cells(torch.full(shape, low, dtype=torch.float64), torch.full(shape, high, dtype=torch.float64))
        one = torch.ones(1, dtype=torch.float64)
        value, log_q = draw_in_cells(cell, 0 * one, one, uniforms.reshape(shape))
        assert bool((value >= low).all() & (value <= high).all())
        # The CDF of the draws must be the uniforms that made them, mirrored or not.
        rank = log_normal_interval(cell.low, value.clamp_min(low + 1e-300)) - log_normal_interval(cell.low, cell.high)
        gap = torch.minimum((rank.exp() - uniforms).abs().max(), (rank.exp() - (1 - uniforms)).abs().max())
        assert float(gap) < 1e-8
        assert torch.isfinite(log_q).all()


def test_unquantised_data_fall_back_to_densities():
    model = BUILD["nlf raw"]()
    shot = shot_for(2, 4, 6, 6, low=-1.0, high=2.0)
    noise = model.sample(shot, seed=0)
    with torch.no_grad():
        assert torch.allclose(model.log_mass(shot.clean + noise, shot), model.log_prob(noise, shot), rtol=1e-9)


@pytest.mark.parametrize("build", [noise_flow, glow])
def test_shares_of_a_bound_add_up(build):
    """Also where squeezes ask for padding; a flow at its start is its noise level function pixel by pixel."""
    pairs = [("S6", 3200.0)]
    flow = build(pairs, 4).double()
    level = NoiseLevel(flow.conditions).double()
    flow.start_from(level)
    generator = torch.Generator().manual_seed(2)
    shot = Shot.of(torch.rand(2, 4, 9, 11, generator=generator) * 0.1, camera="S6", iso=3200, lsb=1 / 1023)
    baseline = NoiseLevelFunction(pairs, 4).double()
    baseline.level.copy_from(level)
    noisy = synthesize(baseline, shot, seed=torch.arange(2))
    bound = flow.mass_bound(noisy, shot, seed=5)
    assert torch.allclose(bound.share.sum(dim=(1, 2)), bound.log_mass, rtol=1e-12)
    if build is noise_flow:  # without squeeze nothing is padded, and nothing is shared within blocks
        assert torch.allclose(bound.share, baseline.log_mass_map(noisy, shot), rtol=1e-6)
    with torch.no_grad():
        for parameter in flow.transform.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).double())
    bound = flow.mass_bound(noisy, shot, seed=5)
    assert torch.allclose(bound.share.sum(dim=(1, 2)), bound.log_mass, rtol=1e-12)
    one = flow.mass_bound(noisy[1:], shot.rows(1), seed=5)
    assert torch.allclose(one.share, bound.share[1:], rtol=1e-12)


def mapped(batch=3, channels=4, side=6):
    shot = shot_for(batch, channels, side, side)
    generator = torch.Generator().manual_seed(9)
    shape = tuple(shot.clean.shape)
    offset = 0.02 * torch.randn(shape, dtype=torch.float64, generator=generator)
    gain = 0.8 + 0.4 * torch.rand(shape, dtype=torch.float64, generator=generator)
    variance = 1e-4 * torch.rand(shape, dtype=torch.float64, generator=generator)
    return shot.replace(offset=offset, gain=gain, variance=variance)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_maps_give_every_pixel_a_noise_level_of_its_own(channels):
    """Against the closed form, pixel by pixel, for the model, its mass and the flow that starts as it."""
    shot = mapped(channels=channels).replace(lsb=1 / 1023)
    model = baseline(NoiseLevelFunction, channels).double()
    place = [
        model.level.conditions.pairs.index((c, i)) for c, i in zip(shot.camera_names, shot.iso.tolist(), strict=True)
    ]
    a = model.level.log_a.detach().exp()[place][..., None, None].numpy()
    clean, offset, gain, variance = (v.numpy() for v in (shot.clean, shot.offset, shot.gain, shot.variance))
    expected = a * gain * np.maximum(clean - offset, 0) + np.maximum(variance, (1 / 1023 / 20) ** 2)
    mean = model.level.mean(shot).detach().expand_as(shot.clean).numpy()
    noise = 0.01 * torch.randn(shot.clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    density = stats.norm(mean, np.sqrt(expected))
    want = torch.from_numpy(density.logpdf(noise.numpy()).sum(axis=(1, 2, 3)))
    assert torch.allclose(model.log_prob(noise, shot), want, rtol=1e-10)

    codes = torch.round((shot.clean + noise).clamp(0, 1) * 1023) / 1023
    low = np.where(codes == 0, -np.inf, codes - 0.5 / 1023) - clean
    high = np.where(codes == 1, np.inf, codes + 0.5 / 1023) - clean
    with np.errstate(divide="ignore"):
        mass = np.log(density.cdf(high) - density.cdf(low)).sum(axis=(1, 2, 3))
    assert torch.allclose(model.log_mass(codes, shot), torch.from_numpy(mass), rtol=1e-6)

    flow = noise_flow(PAIRS, channels=channels).double()
    flow.start_from(model.level)
    assert torch.allclose(flow.log_prob(noise, shot), want, rtol=1e-6)


def test_maps_of_a_row_reach_no_other_row():
    shot = mapped()
    model = baseline(NoiseLevelFunction, 4).double()
    noise = torch.full_like(shot.clean, 0.01)
    together = model.log_prob(noise, shot)
    for row in range(len(shot)):
        assert torch.equal(model.log_prob(noise[row : row + 1], shot.rows(row)), together[row : row + 1])


def test_maps_of_one_value_are_the_table():
    """offset 0, gain 1 and the variance b change nothing."""
    shot = shot_for(3, 4, 6, 6)
    model = baseline(NoiseLevelFunction, 4).double()
    place = model.level.conditions.locate(shot)
    b = place.read(model.level.log_b.detach()).exp()[..., None, None].expand_as(shot.clean)
    flat = shot.replace(offset=torch.zeros_like(b), gain=torch.ones_like(b), variance=b)
    noise = torch.full_like(shot.clean, 0.01)
    assert torch.allclose(model.log_prob(noise, flat), model.log_prob(noise, shot), rtol=1e-12)


def test_padding_keeps_the_maps():
    """A flow pads odd sides: the pixels of the image have the same maps, so a wide image's mass bound is near exact."""
    shot = mapped(side=7).replace(lsb=1 / 1023)
    flow = noise_flow(PAIRS, channels=4).double()
    model = baseline(NoiseLevelFunction, 4).double()
    flow.start_from(model.level)
    codes = torch.round(shot.clean * 1023) / 1023
    exact = model.log_mass(codes, shot)
    assert torch.allclose(flow.mass_bound(codes, shot, seed=0).log_mass, exact, rtol=1e-5)
