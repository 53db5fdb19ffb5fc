"""The counter-based generator: against plain Python integers, in distribution, and by place in the frame."""

import math

import pytest
import torch
from scipy import stats

from noiseflow.randomness import combine, normal, uniform

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def plain(seed, stream, channel, row, column):
    """The documented formula in Python's unbounded integers."""
    key = mix((seed + GAMMA) & MASK)
    key = mix((key + mix((stream + GAMMA) & MASK) * GAMMA) & MASK)
    state = mix((key + mix(((channel + 1) * GAMMA) & MASK)) & MASK)
    state = mix((state + mix(((row + 1) * GAMMA) & MASK)) & MASK)
    state = mix((state + (column + 1) * GAMMA) & MASK)
    return ((state >> 12) + 0.5) * 2.0**-52


def test_equals_the_formula_in_python_integers():
    seeds = torch.tensor([0, 12345, -7])
    got = uniform(seeds, (3, 2, 3, 4), stream=5, origin=torch.tensor([[0, 0], [10, 200], [3, 1]]))
    for b, (top, left) in enumerate(((0, 0), (10, 200), (3, 1))):
        for c in range(2):
            for r in range(3):
                for w in range(4):
                    expected = plain(int(seeds[b]) & MASK, 5, c, top + r, left + w)
                    assert float(got[b, c, r, w]) == expected


def test_a_tile_is_a_part_of_the_frame():
    frame = uniform(3, (1, 2, 300, 500), stream=1)  # larger than a block
    tile = uniform(3, (1, 2, 20, 30), stream=1, origin=torch.tensor([[250, 401]]))
    assert torch.equal(tile, frame[..., 250:270, 401:431])


def test_rows_streams_and_seeds_differ_and_equal_ones_agree():
    shape = (2, 1, 8, 8)
    same = uniform(1, shape, stream=1)
    assert torch.equal(same[0], same[1])
    assert torch.equal(uniform(torch.tensor([1, 2]), shape, stream=1)[0], same[0])
    others = [uniform(2, shape, stream=1), uniform(1, shape, stream=2), uniform(combine(1, 0), shape, stream=1)]
    for other in others:
        assert not (other[0] == same[0]).any()


def test_uniform_and_white():
    n = 512
    u = uniform(9, (1, 1, n, n), stream=1)[0, 0]
    assert 0 < float(u.min()) < float(u.max()) < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    x = (u - 0.5) * math.sqrt(12)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2), (7, 3)):
        correlation = float((x[dy:, dx:] * x[: n - dy, : n - dx]).mean())
        assert abs(correlation) < 4.5 / n  # standard error 1/n
    planes = uniform(9, (1, 2, n, n), stream=1)[0]
    across = float(torch.corrcoef(planes.reshape(2, -1))[0, 1])
    assert abs(across) < 4.5 / n
    # The largest of n²/2 periodogram ordinates of white noise is about log(n²/2), with a Gumbel's tail.
    power = torch.fft.rfft2(x).abs().square().flatten()[1:] / n**2
    assert float(power.max()) < math.log(power.numel()) + 12


def test_normal_moments():
    z = normal(torch.arange(4), (4, 1, 200, 200), stream=1)
    n = z.numel()
    assert abs(float(z.mean())) < 4 / math.sqrt(n)
    assert abs(float(z.var()) - 1) < 4 * math.sqrt(2 / n)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


def test_combine_is_order_sensitive_and_keeps_its_arguments():
    seeds = torch.arange(3)
    combine(seeds, seeds)
    assert seeds.tolist() == [0, 1, 2]
    assert int(combine(1, 2, 3)) != int(combine(1, 3, 2))
    assert combine(seeds, 4).tolist() == [int(combine(i, 4)) for i in range(3)]


@pytest.mark.parametrize("shape", [(1, 1, 0, 5), (1, 1, 2, 0), (0, 2, 3, 3), (1, 1, 1, 1)])
def test_degenerate_shapes(shape):
    assert uniform(1, shape, stream=1).shape == shape
