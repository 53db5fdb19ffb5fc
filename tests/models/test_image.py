"""Unconditional image densities integrate to one, their samples follow them, and bits are counted right."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from noiseflow.models.image import ImageFlow, bits_per_dimension, dequantize, glow_image, nice_image, quantize
from noiseflow.transforms import ActNorm, AdditiveCoupling, AffineCoupling, Chain, Conv1x1LU, DiagonalScale

SHAPE = (1, 8, 8)
BUILD = {
    "nice logistic": lambda shape: nice_image(shape, bins=17, hidden=16),
    "nice gaussian": lambda shape: nice_image(shape, bins=17, hidden=16, base="gaussian"),
    "glow gaussian": lambda shape: glow_image(shape, bins=17, levels=1, steps=3, hidden=8),
    "glow gaussian, two levels": lambda shape: glow_image(shape, bins=17, levels=2, steps=2, hidden=8),
    "glow logistic": lambda shape: glow_image(shape, bins=17, levels=1, steps=3, hidden=8, base="logistic"),
}


def scrambled(model, strength=0.1, dtype=torch.float64):
    """Away from the start, as after training, in a range like that of images."""
    model = model.to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(strength * torch.randn(parameter.shape, dtype=torch.float64, generator=generator).to(dtype))
    return model


@pytest.fixture(params=BUILD, ids=str)
def build(request):
    return BUILD[request.param]


@pytest.mark.parametrize("base", ["gaussian", "logistic"])
def test_two_values_integrate_to_one(base):
    layers = [ActNorm(2), Conv1x1LU(2, torch.Generator().manual_seed(2)), AffineCoupling(2, 8), DiagonalScale(2)]
    layers.append(AdditiveCoupling(2, 8, swap=True))
    model = scrambled(ImageFlow(Chain(layers), (2, 1, 1), base=base, bins=17), 0.2)
    axis = torch.linspace(-24, 24, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, :, None, None]
    with torch.no_grad():
        total = float(model.log_prob(grid).exp().sum()) * float(axis[1] - axis[0]) ** 2
    # Steps of 0.08 on scales near 1: the kinks of the ReLUs leave an error of second order, 0.08²/12 = 5e-4; beyond 24
    # the logistic density holds less than 2e-4 even where a scale reaches e.
    assert total == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", BUILD)
def test_importance_weights_average_one(name):
    """E_q[p/q] = 1 for a Student t with the mean and covariance of the model's samples; its tails exceed p's."""
    shape = (1, 4, 4) if "two levels" in name else (1, 2, 2)
    model = scrambled(BUILD[name](shape), 0.05)
    n, dimensions = 20_000, math.prod(shape)
    near = model.sample(n, seed=3).reshape(n, dimensions).numpy()
    q = stats.multivariate_t(near.mean(axis=0), np.cov(near.T), df=5, seed=4)
    drawn = q.rvs(n)
    with torch.no_grad():
        log_p = model.log_prob(torch.as_tensor(drawn).reshape(n, *shape)).numpy()
    weights = np.exp(log_p - q.logpdf(drawn))
    error = weights.std() / math.sqrt(n)
    assert error < 0.03
    assert abs(weights.mean() - 1) <= 4 * error


def test_samples_are_the_base_distributions_image(build):
    model = scrambled(build(SHAPE))
    images = model.sample(400, seed=5)
    with torch.no_grad():
        z, _ = model.transform(images, shot_for(images))
    expected = stats.norm if model.base == "gaussian" else stats.logistic
    assert stats.kstest(z.flatten().numpy(), expected.cdf).pvalue > 1e-3
    cold = model.sample(400, seed=5, temperature=0.5)
    with torch.no_grad():
        halved, _ = model.transform(cold, shot_for(cold))
    assert (halved - 0.5 * z).norm() <= 1e-9 * z.norm()


def shot_for(images):
    from noiseflow.shot import Shot

    return Shot.of(torch.rand_like(images), camera="any", iso=800)


def test_no_condition_is_read(build):
    model = scrambled(build(SHAPE))
    images = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        z, log_det = model.transform(images, shot_for(images))
        base = stats.norm if model.base == "gaussian" else stats.logistic
        expected = base.logpdf(z.numpy()).sum(axis=(1, 2, 3)) + log_det.numpy()
        assert np.allclose(model.log_prob(images).numpy(), expected, rtol=1e-12)


def test_samples_do_not_depend_on_how_many_are_drawn(build):
    model = scrambled(build(SHAPE), dtype=torch.float32)
    many = model.sample(5, seed=7)
    assert many.dtype == torch.float32
    assert torch.equal(model.sample(2, seed=7), many[:2])
    assert not torch.equal(model.sample(2, seed=8), many[:2])
    assert not torch.equal(many[0], many[1])
    with pytest.raises(ValueError, match="temperature: expected a number >= 0, got -1"):
        model.sample(1, seed=0, temperature=-1)


def test_a_uniform_density_needs_log2_bins_bits():
    for bins in (2, 17, 256):
        assert float(bits_per_dimension(torch.zeros(1), SHAPE, bins)) == pytest.approx(math.log2(bins), rel=1e-6)


def test_bits_bound_the_entropy_of_codes():
    """A Gaussian flow on codes that a Gaussian made: bits above the entropy, and by little where bins are fine."""
    sigma, bins = 0.1, 64
    model = ImageFlow(Chain([ActNorm(1)]), (1, 8, 8), base="gaussian", bins=bins).double()
    with torch.no_grad():
        model.transform.layers[0].bias.fill_(-0.5)
        model.transform.layers[0].log_scale.fill_(-math.log(sigma))
    generator = torch.Generator().manual_seed(9)
    images = 0.5 + sigma * torch.randn(4000, *SHAPE, dtype=torch.float64, generator=generator)
    codes = quantize(images, bins)
    with torch.no_grad():
        bits = model.bits_per_dimension(codes, seed=1, draws=2)
    edges = stats.norm.cdf(np.arange(bins + 1) / bins, 0.5, sigma)
    mass = np.diff(edges)
    true = -np.log2(mass)[codes.numpy()].mean()
    # Jensen's gap of a uniform draw in a cell of width w: w²/24 · E[(log p)'²] = w²/(24 σ²) nats to leading order.
    gap = (1 / bins) ** 2 / (24 * sigma**2) / math.log(2)
    error = 4 * float(bits.std()) / math.sqrt(len(bits))
    assert float(bits.mean()) - true + error / 10 > 0
    assert float(bits.mean()) - true == pytest.approx(gap, abs=error / 10)


def test_dequantised_codes_stay_in_their_cells():
    codes = torch.randint(0, 17, (20, *SHAPE), generator=torch.Generator().manual_seed(3))
    images = dequantize(codes, 17, seed=2)
    assert torch.equal(quantize(images, 17), codes)
    u = (images * 17 - codes).flatten().numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    with pytest.raises(ValueError, match="codes: expected integers from 0 to 15"):
        dequantize(codes, 16, seed=0)


def test_shapes_and_names_that_do_not_fit():
    with pytest.raises(ValueError, match="sides that divide by 4, got 8×6"):
        glow_image((1, 8, 6), levels=2)
    with pytest.raises(ValueError, match="square images with an even side, got 7×7"):
        nice_image((1, 7, 7))
    with pytest.raises(ValueError, match="base: expected one of gaussian, logistic, got 'cauchy'"):
        glow_image(SHAPE, base="cauchy")
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, 8, 8\), got \(1, 3, 8, 8\)"):
        glow_image(SHAPE).log_prob(torch.zeros(1, 3, 8, 8))
