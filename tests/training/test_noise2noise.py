"""The joint loss against its formula, and what its gradients reach."""

import numpy as np
import pytest
import torch
from scipy import stats

from noiseflow.denoise import DnCNN, denoise
from noiseflow.models import NoiseLevelFunction, noise_flow_paper
from noiseflow.raw.cfa import to_clockwise_transposed
from noiseflow.shot import CFA_PATTERNS, Shot
from noiseflow.training.noise2noise import joint_loss


@pytest.fixture
def frames():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(3, 4, 6, 8, generator=generator, dtype=torch.float64)
    first, second = (clean + 0.1 * torch.randn(clean.shape, generator=generator, dtype=torch.float64) for _ in "12")
    shot = Shot.of(torch.zeros_like(clean), camera=["S6", "IP", "S6"], iso=torch.tensor([800, 100, 100]), cfa="BGGR")
    return first, second, shot


def network(**arguments):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return DnCNN(4, width=6, depth=3, **arguments).double().eval()


def test_the_loss_is_the_published_formula(frames):
    """Written down again in numpy, with scipy's normal density."""
    first, second, shot = frames
    flow, denoiser = NoiseLevelFunction([("S6", 800), ("S6", 100), ("IP", 100)], 4).double(), network()
    with torch.no_grad():
        flow.level.log_a.copy_(torch.tensor([[-5.0], [-4.0], [-3.0]]))
        loss = joint_loss(flow, denoiser, first, second, shot, weight=7.0)
        found = [denoiser(frame).numpy() for frame in (first, second)]
    row = [flow.conditions.pairs.index(pair) for pair in (("S6", 800.0), ("IP", 100.0), ("S6", 100.0))]
    a, b = (table.detach().exp().numpy()[row, :, None, None] for table in (flow.level.log_a, flow.level.log_b))
    nll, squares = 0.0, 0.0
    for noisy, other in ((first.numpy(), found[1]), (second.numpy(), found[0])):
        assert other.min() < 0 or other.max() > 1  # so that clipping matters
        clean = np.clip(other, 0, 1)
        nll += -stats.norm.logpdf(noisy, clean, np.sqrt(a * clean + b)).mean() / 2
        squares += ((other - noisy) ** 2).mean() / 2
    assert [float(part) for part in loss] == pytest.approx([nll + 7.0 * squares, nll, squares], rel=1e-12)


def test_the_frames_can_change_places(frames):
    first, second, shot = frames
    flow, denoiser = noise_flow_paper([("S6", 800), ("S6", 100), ("IP", 100)], released=True), network()
    with torch.no_grad():
        there, back = joint_loss(flow, denoiser, first, second, shot), joint_loss(flow, denoiser, second, first, shot)
    assert [float(part) for part in there] == pytest.approx([float(part) for part in back], rel=1e-12)


def test_gradients_of_the_likelihood_reach_the_denoiser(frames):
    """Against differences of the loss itself; nothing is detached on the way."""
    first, second, shot = frames
    flow, denoiser = noise_flow_paper([("S6", 800), ("S6", 100), ("IP", 100)], released=True, norm=True), network()
    weight = denoiser.net[0].weight
    loss = joint_loss(flow.train(), denoiser.train(), first, second, shot, weight=0.0)
    (slope,) = torch.autograd.grad(loss.total, weight)
    step = 1e-6 * slope / slope.norm()
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight.add_(sign * step)
            values.append(float(joint_loss(flow, denoiser, first, second, shot, weight=0.0).total))
            weight.sub_(sign * step)
    # Central differences: third derivatives times 1e-12, and 1e-16 / 1e-6 of rounding.
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(slope.norm()), rel=1e-4)


def test_training_brings_the_loss_down(frames):
    first, second, shot = frames
    flow, denoiser = noise_flow_paper([("S6", 800), ("S6", 100), ("IP", 100)], released=True, norm=True), network()
    parameters = [*flow.train().parameters(), *denoiser.train().parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    losses = []
    for _ in range(8):
        loss = joint_loss(flow, denoiser, first, second, shot, weight=100.0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < losses[0] - 0.5


def test_a_denoiser_sees_the_planes_it_was_made_for(frames):
    noisy, _, shot = frames
    shot = shot.replace(cfa=(*CFA_PATTERNS[:2], "GBRG"))
    ours, theirs = network(), network(packing="clockwise, transposed")
    with torch.no_grad():
        planes = theirs(to_clockwise_transposed(noisy, shot.patterns))
        assert torch.equal(to_clockwise_transposed(denoise(theirs, noisy, shot), shot.patterns), planes)
        assert torch.equal(denoise(ours, noisy, shot.replace(cfa=None)), ours(noisy))
        bgr = DnCNN(3, width=4, depth=2, packing="BGR").double()
        assert torch.equal(denoise(bgr, noisy[:, :3], shot), bgr(noisy[:, [2, 1, 0]])[:, [2, 1, 0]])
    with pytest.raises(ValueError, match="cfa: expected the colour filter pattern of every row"):
        denoise(theirs, noisy, shot.replace(cfa=None))
