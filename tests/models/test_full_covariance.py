"""The Gaussian of correlated colours against scipy's multivariate normal, and the two sRGB baselines' fits."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from noiseflow.cells import cells
from noiseflow.models import FullGaussian, Gaussian, Isotropic, quantise, synthesize
from noiseflow.models.full_covariance import SCORING, Nodes, log_box_mass
from noiseflow.shot import Shot
from noiseflow.training.fit import fit_baseline
from noiseflow.training.full_covariance import fit_full_covariance

PAIRS = [("IP", 100.0), ("S6", 800.0)]
LSB = 1 / 255


@pytest.fixture
def model():
    """Standard deviations from below two codes to five, correlations up to 0.9."""
    model = FullGaussian(PAIRS).double()
    with torch.no_grad():
        model.log_std.copy_(torch.tensor([[0.008, 0.007, 0.006], [0.02, 0.01, 0.007]]).log())
        model.lower.copy_(torch.tensor([[0.2, -0.3, 0.5], [0.9, 0.3, 0.5]]))
        model.offset.copy_(torch.tensor([[0.0, 0.0, 0.0], [0.002, -0.003, 0.001]]))
    return model


def shot_for(low, high, height=12, width=10, seed=0, lsb=LSB):
    generator = torch.Generator().manual_seed(seed)
    clean = low + (high - low) * torch.rand(2, 3, height, width, generator=generator, dtype=torch.float64)
    return Shot.of(clean, camera=["S6", "IP"], iso=torch.tensor([800.0, 100.0]), lsb=lsb)


def test_the_density_is_scipys(model):
    shot = shot_for(0, 1)
    noise = model.sample(shot, seed=torch.arange(2))
    found, covariance = model.log_prob(noise, shot).detach(), model.covariance(shot).detach().numpy()
    for row, camera in enumerate((1, 0)):
        q = stats.multivariate_normal(model.offset[camera].detach().numpy(), covariance[row])
        values = noise[row].flatten(1).T.numpy()
        assert float(found[row]) == pytest.approx(q.logpdf(values).sum(), rel=1e-12)


def test_samples_have_its_mean_and_covariance(model):
    shot = shot_for(0, 1, 150, 150)
    noise = model.sample(shot, seed=torch.arange(2)).flatten(2)
    for row, camera in enumerate((1, 0)):
        covariance = model.covariance(shot)[row].detach()
        z = torch.linalg.solve(torch.linalg.cholesky(covariance), noise[row] - model.offset[camera][:, None]).detach()
        # 22,500 pixels: means of standard deviation 1/150, covariances of at most sqrt(2)/150.
        assert float(z.mean(dim=1).abs().max()) < 4 / 150
        assert float((torch.cov(z) - torch.eye(3)).abs().max()) < 4 * math.sqrt(2) / 150
        assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(("low", "high", "tolerance"), [(0.1, 0.9, 2e-5), (-0.02, 0.02, 2e-3), (0.97, 1.01, 2e-3)])
def test_the_mass_of_codes_is_that_of_their_box(model, low, high, tolerance):
    """Against scipy's own quadrature, whose relative error is 1e-5; at the clip ends, boxes have sides without end."""
    shot = shot_for(low, high, 6, 5)
    noisy = synthesize(model, shot, seed=torch.arange(2))
    cell, found = cells(noisy, shot), model.log_mass_map(noisy, shot).detach()
    assert bool(cell.open.any()) == (low < 0 or high > 1)
    for row, camera in enumerate((1, 0)):
        mean, covariance = model.offset[camera].detach().numpy(), model.covariance(shot)[row].detach().numpy()
        box = [end[row].flatten(1).T.numpy() for end in cell]
        q = stats.multivariate_normal(mean, covariance, seed=0, maxpts=100_000, abseps=1e-12, releps=1e-6)
        mass = q.cdf(box[1], lower_limit=box[0])
        seen = mass > 1e-9  # beyond, scipy's absolute error shows
        assert seen.mean() > 0.5
        assert np.abs(found[row].flatten().numpy() - np.log(mass))[seen].max() < tolerance


@pytest.mark.parametrize(("low", "high", "most", "mean"), [(0.1, 0.9, 1e-4, 1e-6), (-0.03, 0.03, 1e-2, 1e-5)])
def test_more_nodes_change_nothing(model, low, high, most, mean):
    shot = shot_for(low, high)
    noisy = synthesize(model, shot, seed=torch.arange(2))
    with torch.no_grad():
        cell, moments = cells(noisy, shot), model._moments(shot)
        apart = (log_box_mass(cell, moments, SCORING) - log_box_mass(cell, moments, Nodes(12, 40))).abs()
    assert float(apart.max()) < most
    assert float(apart.mean()) < mean


def test_masses_of_all_boxes_sum_to_one(model):
    """All 12³ triples of codes, clip ends among them; cells of three standard deviations are hard on the nodes."""
    codes, lsb = 12, 0.02
    grid = torch.cartesian_prod(*[torch.arange(codes, dtype=torch.float64) * lsb] * 3)[:, :, None, None]
    clean = torch.tensor([0.0, 0.1, 0.22], dtype=torch.float64)[:, None, None].expand(len(grid), 3, 1, 1)
    shot = Shot.of(clean.contiguous(), camera="S6", iso=800, lsb=lsb, high=(codes - 1) * lsb)
    with torch.no_grad():
        assert float(model.log_mass(grid, shot).exp().sum()) == pytest.approx(1.0, abs=1e-4)


def test_without_correlation_it_is_the_diagonal_model(model):
    diagonal = Gaussian(PAIRS, 3).double()
    with torch.no_grad():
        model.lower.zero_()
        diagonal.level.log_b.copy_(2 * model.log_std)
        diagonal.level.offset.copy_(model.offset)
    shot = shot_for(-0.02, 0.9)
    noisy = synthesize(model, shot, seed=torch.arange(2))
    with torch.no_grad():
        assert torch.allclose(model.log_mass_map(noisy, shot), diagonal.log_mass_map(noisy, shot), rtol=1e-10)


def test_unquantised_values_have_densities(model):
    shot = shot_for(0.2, 0.8, lsb=0.0)
    noise = model.sample(shot, seed=torch.arange(2))
    with torch.no_grad():
        assert torch.allclose(model.log_mass(shot.clean + noise, shot), model.log_prob(noise, shot), rtol=1e-10)


def test_the_fit_finds_the_covariance_under_clipping_and_rounding(model):
    shot = shot_for(-0.02, 0.9, 90, 80)
    noisy = quantise(shot.clean + model.sample(shot, seed=torch.arange(2)), shot)
    found = fit_full_covariance(noisy, shot)
    for row, camera in enumerate((1, 0)):
        expected, got = model.covariance(shot)[row].detach(), found.covariance(shot)[row].detach()
        # Whitened, a covariance of 7200 pixels has a standard error of at most sqrt(2/7200) = 0.017.
        factor = torch.linalg.cholesky(expected)
        whitened = torch.linalg.solve(factor, torch.linalg.solve(factor, got).mT)
        assert float((whitened - torch.eye(3)).abs().max()) < 5 * 0.018
        error = torch.linalg.solve(factor, (found.offset[camera].double() - model.offset[camera])).detach()
        assert float(error.abs().max()) < 5 / math.sqrt(7200)
    with torch.no_grad():
        assert float(found.log_mass(noisy, shot).sum()) >= float(model.log_mass(noisy, shot).sum()) - 0.1


def test_the_four_baselines_are_ordered_by_what_they_can_say(model):
    """On correlated colours of unequal strength: one variance, one a colour, and all covariances."""
    shot = shot_for(0.1, 0.9, 100, 80)
    noisy = synthesize(model, shot, seed=torch.arange(2))
    with torch.no_grad():
        masses = [
            float(fit_baseline(name, noisy, shot).log_mass(noisy, shot).sum()) / noisy.numel()
            for name in ("isotropic", "gaussian", "full")
        ]
        truth = float(model.log_mass(noisy, shot).sum()) / noisy.numel()
    assert masses[0] < masses[1] - 0.01 < masses[2] - 0.1
    # 18 parameters fitted to 48,000 values gain 9 nats on them, give or take.
    assert masses[2] == pytest.approx(truth, abs=5 * 9 / 48_000)


def test_isotropic_is_one_variance_for_all_colours(model):
    shot = shot_for(0.3, 0.7, 60, 50, lsb=0.0)
    noisy = shot.clean + model.sample(shot, seed=torch.arange(2))
    fitted = fit_baseline("isotropic", noisy, shot)
    for row, pair in enumerate((1, 0)):
        noise = (noisy - shot.clean)[row]
        # Unquantised and unclipped: the likelihood is that of the mean square, to what float32 parameters hold.
        assert fitted.level.log_b[pair, 0].exp().item() == pytest.approx(float(noise.var(correction=0)), rel=1e-4)
        assert fitted.level.offset[pair, 0].item() == pytest.approx(float(noise.mean()), abs=1e-6)
    assert fitted.level.log_b.shape == (2, 1)


@pytest.mark.parametrize("build", [Isotropic, FullGaussian])
def test_they_are_for_pictures(build):
    with pytest.raises(ValueError, match="expected 3 channels, sRGB, got 4"):
        build(PAIRS, 4)
