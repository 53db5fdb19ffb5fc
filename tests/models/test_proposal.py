"""The refined proposal: tight where values vary together, never worse than the reference, exact where that is exact."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from noiseflow.cells import Cells, cells, draw_in_cells, log_normal_mass, mean_in_cells
from noiseflow.conditions import Conditions
from noiseflow.models import Flow, NoiseLevelFunction, glow, noise_flow, synthesize
from noiseflow.models.proposal import Proposal, refine
from noiseflow.noise_level import NoiseLevel
from noiseflow.shot import Shot
from noiseflow.transforms import Chain, Conv1x1, SignalDependentScale, Squeeze, Unsqueeze

PAIRS = [("IP", 100), ("S6", 800), ("S6", 3200)]
STD = 0.02
BLACK = float(stats.norm.ppf(0.28))  # 28 % of the noise lies below this many standard deviations


def equal(rho):
    return np.full((4, 4), rho) + (1 - rho) * np.eye(4)


def chain(rho):
    return rho ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))


SIGNS = np.diag([1.0, -1.0, -1.0, 1.0])
CORRELATIONS = {
    "equal .9": equal(0.9),
    "chain .9": chain(0.9),
    "alternating .9": SIGNS @ equal(0.9) @ SIGNS,
    "equal -.3": equal(-0.3),
}


def correlated_flow(correlation, spatial=False, dtype=torch.float32):
    """A flow that is exactly Gaussian noise of standard deviation STD, correlated in groups of four."""
    conditions = Conditions([("S6", 800)])
    level = NoiseLevel(conditions, slope=False)
    with torch.no_grad():
        level.log_b.fill_(2 * math.log(STD))
    mixing = Conv1x1(4)
    with torch.no_grad():
        mixing.weight.copy_(torch.tensor(np.linalg.inv(np.linalg.cholesky(correlation))))
    scale = SignalDependentScale(NoiseLevel(conditions, slope=False))
    layers = [scale, Squeeze(2), mixing, Unsqueeze(2)] if spatial else [scale, mixing]
    flow = Flow(Chain(layers), NoiseLevel(conditions, slope=False), channels=1 if spatial else 4)
    flow.start_from(level)
    return flow.to(dtype).eval()


def clipped_shot(spatial, size, lsb):
    """A flat shot whose codes begin so that 28 % of the noise is stored as black."""
    height, width = size
    shape = (1, 1, 2 * height, 2 * width) if spatial else (1, 4, height, width)
    return Shot.of(torch.full(shape, -BLACK * STD + lsb / 2).double(), camera="S6", iso=800, lsb=lsb)


def groups_of(values, spatial):
    """`(groups, 4)` in the order that the flow mixes them."""
    values = nn.functional.pixel_unshuffle(values, 2) if spatial else values
    return values.permute(0, 2, 3, 1).reshape(-1, 4).numpy()


def exact_log_mass(correlation, cell, spatial):
    """Sum over the groups, by scipy: density of the points times the probability of the others given them."""
    total = 0.0
    for low, high in zip(groups_of(cell.low, spatial), groups_of(cell.high, spatial), strict=True):
        low, high = low / STD, high / STD
        point, mean, covariance = low == high, np.zeros(4), correlation
        if point.any():
            inner = correlation[np.ix_(point, point)]
            density = stats.multivariate_normal(np.zeros(point.sum()), inner)
            total += density.logpdf(low[point]) - point.sum() * math.log(STD)
            weights = correlation[np.ix_(~point, point)] @ np.linalg.inv(inner)
            mean = weights @ low[point]
            covariance = correlation[np.ix_(~point, ~point)] - weights @ correlation[np.ix_(point, ~point)]
            low, high = low[~point], high[~point]
        if len(low):
            box = stats.multivariate_normal(mean, covariance, seed=0)
            low = np.where(low < -1e3, -np.inf, low)
            total += math.log(box.cdf(np.where(high > 1e3, np.inf, high), lower_limit=low))
    return total


@pytest.mark.parametrize("lsb", [0.0, STD / 2], ids=["unquantised", "quantised"])
@pytest.mark.parametrize("spatial", [False, True], ids=["channels", "pixels"])
@pytest.mark.parametrize("name", CORRELATIONS)
def test_the_gap_of_correlated_noise(name, spatial, lsb):
    """150 groups of four, 28 % clipped; the exact mass by scipy's multivariate normal (itself good to about 1e-4)."""
    correlation, rows = CORRELATIONS[name], 24
    flow = correlated_flow(correlation, spatial)
    shot = clipped_shot(spatial, (15, 10), lsb)
    noisy = synthesize(flow, shot, seed=5)
    clipped = float((noisy <= lsb / 4).double().mean())
    assert clipped == pytest.approx(0.28, abs=5 * math.sqrt(0.28 * 0.72 / 150))
    exact = exact_log_mass(correlation, cells(noisy, shot), spatial)
    many, seeds = shot.rows([0] * rows), torch.arange(rows)
    plain, refined = (
        flow.mass_bound(noisy.expand(rows, -1, -1, -1), many, seed=seeds, **options) for options in ({"sweeps": 0}, {})
    )
    wide, narrow = ((exact - bound.log_mass) / noisy.numel() for bound in (plain, refined))
    error = float(narrow.std()) / math.sqrt(rows)
    assert float(narrow.mean()) <= 0.05
    assert float(narrow.mean()) >= -4 * error - 1e-4  # it stays a bound
    assert float(narrow.mean()) <= 0.4 * float(wide.mean())
    # Looseness says how large the gap is, to within Jensen's higher orders; the plain bound's is off by factors.
    assert 0.2 * float(narrow.mean()) - 4 * error <= float(refined.looseness.mean()) / noisy.numel() <= 0.05


def scrambled(flow, strength):
    """A flow with random weights; its reference stays where it was started."""
    generator = torch.Generator().manual_seed(2)
    level = NoiseLevel(Conditions(PAIRS), 3 if flow.channels == 3 else 1)
    with torch.no_grad():
        level.log_a.fill_(math.log(0.01))
        level.log_b.fill_(math.log(4e-5))
        flow.start_from(level)
        for name, parameter in flow.transform.named_parameters():
            if "level" not in name:
                parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    return flow.eval()


def seeded(build, *arguments, **options):
    """A flow whose layers draw their start from a seed of its own, not from what ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return build(*arguments, **options)


BUILD = {
    "started": lambda: scrambled(seeded(noise_flow, PAIRS, 4), 0.0),
    "noise_flow": lambda: scrambled(seeded(noise_flow, PAIRS, 4), 0.05),
    "wild noise_flow": lambda: scrambled(seeded(noise_flow, PAIRS, 4), 0.1),
    "glow srgb": lambda: scrambled(seeded(glow, PAIRS, 3, steps=3, hidden=8), 0.05),
    "glow mono": lambda: scrambled(seeded(glow, PAIRS, 1, steps=2, hidden=8), 0.1),
}


def dark_shot(channels, batch, height, width, dtype=torch.float32, lsb=1 / 255):
    generator = torch.Generator().manual_seed(1)
    clean = 0.05 * torch.rand(batch, channels, height, width, generator=generator, dtype=torch.float64).to(dtype)
    chosen = [PAIRS[i % len(PAIRS)] for i in range(batch)]
    return Shot.of(clean, camera=[c for c, _ in chosen], iso=torch.tensor([float(i) for _, i in chosen]), lsb=lsb)


@pytest.mark.parametrize("lsb", [0.0, 1 / 255], ids=["unquantised", "quantised"])
@pytest.mark.parametrize("name", BUILD)
def test_no_mass_is_lowered(name, lsb):
    """Over 48 patches, 31 pixels wide to be padded: no patch falls by more than its standard error allows."""
    flow, draws = BUILD[name](), 8
    shot = dark_shot(flow.channels, 48, 16, 31, lsb=lsb)
    noisy = synthesize(flow, shot, seed=torch.arange(48))
    plain, refined = (
        flow.mass_bound(noisy, shot, seed=torch.arange(48), draws=draws, sweeps=sweeps) for sweeps in (0, 2)
    )
    error = torch.sqrt(2 * (plain.looseness + refined.looseness) / draws)
    rise = refined.log_mass - plain.log_mass
    # 4.5 standard errors: one in 48 patches by chance has 4e-6 · 48; t with 7 degrees on either side widens it.
    assert bool((rise >= -4.5 * error).all())
    assert float(rise.mean()) >= -4 * float(error.square().mean().sqrt()) / math.sqrt(48)
    if name == "started":
        assert torch.equal(refined.log_mass, plain.log_mass)
        # float32: a value's log p moves by 2⁻²⁴ · z² or so from draw to draw
        assert float(refined.looseness.max()) / noisy[0].numel() <= 1e-6
    elif name == "noise_flow":
        assert float(rise.mean()) / noisy[0].numel() > 1e-3  # it does something


@pytest.mark.parametrize("name", BUILD)
def test_rows_stand_alone(name):
    flow = BUILD[name]().double()
    shot = dark_shot(flow.channels, 5, 6, 9, torch.float64)
    noisy, seeds = synthesize(flow, shot, seed=torch.arange(5)), torch.arange(5) + 3
    together = flow.mass_bound(noisy, shot, seed=seeds)
    for i in range(5):
        alone = flow.mass_bound(noisy[i : i + 1], shot.rows(i), seed=int(seeds[i]))
        # float64 sums of 200 values of unit order in another blocking
        assert alone.log_mass.item() == pytest.approx(together.log_mass[i].item(), rel=1e-11)
    swapped = flow.mass_bound(noisy[[4, 1]], shot.rows([4, 1]), seed=seeds[[4, 1]])
    assert swapped.log_mass.tolist() == pytest.approx(together.log_mass[[4, 1]].tolist(), rel=1e-11)


def test_the_choice_of_proposal_does_not_bias():
    """E[p/q] is the mass for every q that is chosen without the reported draw; chosen with it, it would be higher."""
    correlation, rows = chain(0.5), 6000
    flow = correlated_flow(correlation, dtype=torch.float64)
    shot = clipped_shot(False, (1, 1), STD)
    noisy = torch.zeros_like(shot.clean)
    noisy[0, 0] = STD
    exact = exact_log_mass(correlation, cells(noisy, shot), False)
    many = shot.rows([0] * rows)
    values = flow.log_mass(noisy.expand(rows, -1, -1, -1), many, seed=torch.arange(rows))
    plain = flow.mass_bound(noisy.expand(rows, -1, -1, -1), many, seed=torch.arange(rows), draws=1, sweeps=0).log_mass
    assert 0.05 < float((values != plain).double().mean()) < 0.95  # one trial on four values: both proposals occur
    weights = (values - exact).exp()
    assert float(weights.mean()) == pytest.approx(1.0, abs=4 * float(weights.std()) / math.sqrt(rows) + 1e-4)
    assert float(values.mean()) <= exact


def test_refinement_ends_at_the_mean_field_equations():
    correlation = CORRELATIONS["chain .9"]
    precision = torch.tensor(np.linalg.inv(correlation))
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=generator)
    cell = Cells(torch.where(low > 0, low, -1e6), low + 0.5)
    start = Proposal(torch.zeros(1, 4, 1, 1).double(), torch.ones(1, 4, 1, 1).double())

    def gradient(noise):
        return -torch.einsum("ij,bjhw->bihw", precision, noise)

    def slopes(noise, rows, sweep):
        return gradient(noise), precision.diagonal()[None, :, None, None].expand_as(noise)

    refined, moved = refine(start, cell, slopes, sweeps=300)
    assert moved.tolist() == [True, True]
    m = mean_in_cells(cell, *refined)
    variance = 1 / precision.diagonal()[None, :, None, None]
    torch.testing.assert_close(refined.std**2, variance.expand_as(m), rtol=1e-12, atol=0)
    torch.testing.assert_close(refined.mean, m + variance * gradient(m), rtol=0, atol=1e-6)


def test_rows_without_a_finite_step_keep_the_reference():
    cell = Cells(torch.full((4, 1, 2, 2), -1e6).double(), torch.zeros(4, 1, 2, 2).double())
    start = Proposal(torch.zeros(1, 1, 1, 1).double(), torch.ones(1, 1, 1, 1).double())

    def slopes(noise, rows, sweep):
        """Standard normals about 1; of rows 1 to 3, the first gradient, the second or the curvature is missing."""
        slope, curvature = 1 - noise, torch.ones_like(noise)
        slope[rows == 1] = math.nan
        slope[(rows == 2) & (sweep == 1)] = math.inf
        curvature[(rows == 3) & (sweep == 1)] = math.nan
        return slope, curvature

    refined, moved = refine(start, cell, slopes, sweeps=3)
    assert moved.tolist() == [True, False, False, False]
    assert bool((refined.mean[1:] == 0).all() & (refined.std == 1).all())
    assert refined.mean[0].flatten().tolist() == pytest.approx([1.0] * 4, abs=1e-12)  # independent: at once


def test_scoring_leaves_gradients_alone():
    flow = BUILD["noise_flow"]()
    shot = dark_shot(4, 2, 8, 8)
    noisy = synthesize(flow, shot, seed=0)
    wanted = [p.requires_grad for p in flow.parameters()]
    with torch.no_grad():
        inside = flow.mass_bound(noisy, shot)
    outside = flow.mass_bound(noisy, shot)
    assert torch.equal(inside.log_mass, outside.log_mass)
    assert not outside.log_mass.requires_grad
    assert [p.requires_grad for p in flow.parameters()] == wanted
    assert all(p.grad is None for p in flow.parameters())


def test_training_draws_from_the_reference():
    """The objective's gradient, bit for bit, is that of log p in the flow's dtype at draws from the reference."""
    flow = BUILD["noise_flow"]()
    shot = dark_shot(4, 3, 8, 8)
    noisy = synthesize(flow, shot, seed=0)
    uniforms = torch.rand(noisy.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = [p for p in flow.parameters() if p.requires_grad]
    value = flow.mass_with(noisy, shot, uniforms)
    found = torch.autograd.grad(value.sum() / noisy.numel(), parameters)
    with torch.no_grad():
        wide = shot.to(dtype=torch.float64)
        std = flow.reference.variance(wide).double().sqrt()
        noise, log_q = draw_in_cells(cells(noisy, shot), flow.reference.mean(wide).double(), std, uniforms)
    x = noise.float().contiguous(memory_format=torch.channels_last)
    z, log_det = flow.transform(x, flow.with_context(shot))
    log_prob = log_det - 0.5 * (z.square().sum(dim=(1, 2, 3)) + z[0].numel() * math.log(2 * math.pi))
    old = log_prob.double() - log_q.sum(dim=(1, 2, 3))
    expected = torch.autograd.grad(old.sum() / noisy.numel(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert value.tolist() == pytest.approx(old.tolist(), rel=1e-5)


def test_log_density_is_summed_in_float64():
    """Against exact sums of the float32 values: 200 000 terms in float32 would be off by 1e-8 or more."""
    flow = BUILD["noise_flow"]()
    shot = dark_shot(4, 1, 224, 224)
    noise = flow.sample(shot, seed=0)
    with torch.no_grad():
        x, context = noise.contiguous(memory_format=torch.channels_last), flow.with_context(shot)
        terms = [-0.5 * math.log(2 * math.pi) * noise.numel()]
        for layer in flow.transform:
            x, log_det = layer(x, context)
            terms.append(float(log_det))
        terms.extend((-0.5 * x.square().double()).flatten().tolist())
        got = flow.log_prob(noise, shot)
    assert got.dtype == torch.float64
    assert float(got) == pytest.approx(math.fsum(terms), rel=1e-12)


FAR_CELLS = [
    (-60.0, -40.0),
    (40.0, 60.0),  # one code wide at a standard deviation of 0.05 codes
    (-10.0, 10.0),
    (0.0, 20.0),
    (-41.0, -40.9),
    (40.0, 40.0001),
    (3.0, 3.001),
    (8.0, 8.0000001),
    (-1e6, -40.0),
    (38.0, 1e6),
    (-0.6, 1e6),
    (-1e6, 1e6),
]


@pytest.mark.parametrize(("low", "high"), FAR_CELLS)
def test_cells_far_out_and_wide(low, high):
    """Mass, its gradients, mean and draws at standard deviation 0.05, against 60-digit arithmetic."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 60
    std = 0.05
    ends = [torch.full((1, 1, 1, 1), end * std if abs(end) < 1e6 else end, dtype=torch.float64) for end in (low, high)]
    cell = Cells(*ends)
    mean = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    scale = torch.full_like(mean, std).detach().requires_grad_()
    a, b = (mpmath.mpf(float(end)) / mpmath.mpf(std) for end in ends)
    far = a > 0
    mass = mpmath.ncdf(-a) - mpmath.ncdf(-b) if far else mpmath.ncdf(b) - mpmath.ncdf(a)
    at_a, at_b = mpmath.npdf(a), mpmath.npdf(b)
    value = log_normal_mass(cell, mean, scale)
    value.sum().backward()
    width = min(high - low, 1.0)
    # The ends carry 1e-16 of their own size, which is 4e-16·|low|/width of the width, and |low| times that of the mass.
    noise = 1e-11 + 4e-16 * max(1.0, min(abs(low), abs(high))) ** 2 / width
    assert float(value.detach()) == pytest.approx(float(mpmath.log(mass)), rel=1e-13, abs=noise)
    slopes = ((at_a - at_b) / mass / std, (a * at_a - b * at_b) / mass / std)
    for parameter, slope in zip((mean, scale), slopes, strict=True):
        # a difference of two terms of size 1/width, each as good as the mass
        size = max(1.0, abs(low) if abs(low) < 1e6 else 1.0) / width / std
        assert float(parameter.grad) == pytest.approx(float(slope), rel=1e-10, abs=noise * size + 1e-12)
    mean, scale = mean.detach(), scale.detach()
    exact = (at_a - at_b) / mass
    got = mean_in_cells(cell, mean, scale)
    assert float(ends[0]) <= float(got) <= float(ends[1])
    assert float(got) / std == pytest.approx(float(exact), rel=1e-10, abs=1e-9)
    uniforms = torch.tensor([1e-6, 0.1, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
    for u in uniforms:
        drawn, log_q = draw_in_cells(cell, mean, scale, u.reshape(1, 1, 1, 1))
        z = mpmath.mpf(float(drawn)) / mpmath.mpf(std)
        share = (mpmath.ncdf(-a) - mpmath.ncdf(-z) if far else mpmath.ncdf(z) - mpmath.ncdf(a)) / mass
        if low + high > 0:
            share = 1 - share  # such cells are mirrored, and so are the numbers
        assert float(share) == pytest.approx(float(u), abs=1e-8 + noise)
        density = mpmath.log(mpmath.npdf(z) / mpmath.mpf(std) / mass)
        assert float(log_q) == pytest.approx(float(density), rel=1e-12, abs=10 * noise + 1e-9)


def test_mean_in_cells_of_every_width():
    """From 1e-7 to 20 standard deviations, on both sides of the switch to the series, against 60 digits."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 60
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for low in (-41.0, -8.0, -0.6, -0.1, 0.0, 0.3, 5.0, 40.0):
        for width in (1e-7, 1e-5, 2e-4, 9e-4, 1.1e-3, 0.02, 0.3, 2.0, 20.0):
            high = low + width
            a, b = mpmath.mpf(low), mpmath.mpf(high)
            mass = mpmath.ncdf(b) - mpmath.ncdf(a) if low < 0 else mpmath.ncdf(-a) - mpmath.ncdf(-b)
            exact = float((mpmath.npdf(a) - mpmath.npdf(b)) / mass)
            got = mean_in_cells(Cells(low * one, high * one), 0 * one, one)
            # The series leaves out width³/60 <= 2e-11 at the switch. Past it log Φ = 845 carries 1e-13, which is 1e-10
            # of the logarithm of the mass of a cell that spans 1e-3 of its decay.
            assert float(got) == pytest.approx(exact, rel=1e-10, abs=1e-10)
    point = mean_in_cells(Cells(0.3 * one, 0.3 * one), 0 * one, one)
    assert float(point) == 0.3


def test_a_started_flow_scores_as_its_noise_level_function():
    """float64, over-wide codes and clipped pixels: the refined bound is the exact mass, draw by draw.

    Up to its rotations, eight of them, each kept in float32 and so orthogonal to about 1e-7: |z|², which is about the
    number of values, may move by 1e-6 of itself.
    """
    flow = BUILD["started"]().double()
    nlf = NoiseLevelFunction(PAIRS, 4).double()
    nlf.level.copy_from(flow.reference)
    shot = dark_shot(4, 3, 12, 12, torch.float64, lsb=0.05)
    noisy = synthesize(nlf, shot, seed=torch.arange(3))
    assert float((noisy == 0).double().mean()) > 0.01
    with torch.no_grad():
        exact = nlf.log_mass(noisy, shot)
    for seed in range(3):
        scored = flow.log_mass(noisy, shot, seed=seed)
        assert scored.tolist() == pytest.approx(exact.tolist(), abs=1e-6 * noisy[0].numel())
