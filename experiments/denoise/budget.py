"""What drawing noise for every patch costs beside a training step of the published DnCNN. Run

    python experiments/denoise/budget.py

DnCNN of 9 convolutions with 64 channels, 32 patches of 4×64×64; the share of drawing is that of drawing + step. It
exits with 1 where `noise_flow` takes more than a fifth.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from noiseflow.conditions import Conditions
from noiseflow.denoise import DnCNN, denoise
from noiseflow.denoise.sources import Grid, Redrawn
from noiseflow.models import Gaussian, NoiseLevelFunction, Physics, noise_flow
from noiseflow.noise_level import NoiseLevel
from noiseflow.randomness import combine
from noiseflow.sensors import PHONES, SensorTruth
from noiseflow.shot import Shot

LARGEST_SHARE = 0.2
PAIRS = [("S6", 100.0), ("S6", 800.0), ("S6", 3200.0)]


def command() -> None:
    """Take the times and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    clean = torch.rand(32, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    shot = Shot.of(clean, camera="S6", iso=100.0)
    network = DnCNN(4).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        (denoise(network, clean, shot) - clean).square().mean().backward()
        optimizer.step()

    spent = {"step": seconds(step, options.repeats)}
    lsb = PHONES["S6"].lsb
    grids = {"S6": Grid(*(torch.full((4,), value, dtype=torch.float64) for value in (lsb, 0.0, 1.0)))}
    seeds = combine(0, torch.arange(32))
    for name, model in models().items():
        noise = Redrawn(model, PAIRS, grids)
        spent[name] = seconds(lambda noise=noise: noise(clean, shot, seeds), options.repeats)
    threads = torch.get_num_threads()
    print(
        f"a step of DnCNN-9 on 32×4×64×64: {1000 * spent['step']:.0f} ms ({threads} threads, torch {torch.__version__})"
    )
    shares = {name: value / (value + spent["step"]) for name, value in spent.items() if name != "step"}
    for name, share in shares.items():
        print(f"{name}: {1000 * spent[name]:.0f} ms, {100 * share:.1f} % of drawing and step")
    sys.exit(0 if shares["noise_flow"] <= LARGEST_SHARE else 1)


def models() -> dict[str, object]:
    """The sources; what their parameters are does not matter to the time."""
    level = NoiseLevel(Conditions(PAIRS), 1)
    nlf, flow = NoiseLevelFunction(PAIRS, 4), noise_flow(PAIRS, 4)
    nlf.level.copy_from(level)
    flow.start_from(level)
    return {
        "gaussian": Gaussian(PAIRS, 4),
        "nlf": nlf,
        "physics": Physics(PAIRS, 4),
        "noise_flow": flow,
        "sensor": SensorTruth([PHONES["S6"]]),
    }


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of some repeats, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    command()
