"""The structure test: does it reject true models as often as it says, and does it find blur?

Nulls: data and model are one distribution (white, with row noise, or correlated), each repetition draws a data set and
99 sets of the model afresh, 8 patches of 1×16×16 each; the rate of family-wise p ≤ 0.05 must lie within 5 % ± 2 %.
Power: the data have the model's marginal distribution, but are blurred with a Gaussian of σ = 1 pixel; 64 patches of
32×32 with one channel (99 sets) and with four (19 sets); at least 99 % must be rejected. Run

    python experiments/structure_nulls/run.py

The table beside this file is written by that command. It exits with 1 where a bound is missed.
"""

import argparse
import math
import sys
from pathlib import Path

import torch

from noiseflow.metrics.structure import LAG, Structure, monte_carlo, statistics

HERE = Path(__file__).parent
REFERENCE, INTENSITY = 1.0, 0.5


def blurred(white: torch.Tensor, sigma: float) -> torch.Tensor:
    """White noise `(N, C, H + 16, W + 16)` under a Gaussian blur, its interior `(N, C, H, W)` with unit variance."""
    offsets = torch.arange(-LAG, LAG + 1, dtype=white.dtype)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.square().sum().sqrt()
    n, c, h, w = white.shape
    planes = white.reshape(n * c, 1, h, w)
    planes = torch.nn.functional.conv2d(planes, weights[None, None, :, None])
    planes = torch.nn.functional.conv2d(planes, weights[None, None, None, :])
    return planes.reshape(n, c, *planes.shape[-2:])


def draw(law: str, shape: tuple[int, int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Noise of unit variance: white, row (a tenth of the variance is common to a row) or correlated (σ = 0.7 blur)."""
    n, c, h, w = shape
    if law == "correlated":
        return blurred(torch.randn(n, c, h + 2 * LAG, w + 2 * LAG, generator=generator), 0.7)
    white = torch.randn(shape, generator=generator)
    if law == "row":
        return math.sqrt(0.9) * white + math.sqrt(0.1) * torch.randn(n, c, h, 1, generator=generator)
    return white


def p_value(noise: torch.Tensor, patches: int) -> float:
    """Family-wise p of the first `patches` patches among sets of as many."""
    sets = len(noise) // patches
    sums = Structure(sets, noise.shape[1])
    for part, which in zip(
        noise.split(8 * sets), torch.arange(sets).repeat_interleave(patches).split(8 * sets), strict=True
    ):
        sums.update(part, torch.full_like(part, REFERENCE), torch.full_like(part, INTENSITY), which)
    return monte_carlo(statistics(sums.state)).p


def command() -> None:
    """Count rejections, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000, help="of each null")
    parser.add_argument("--power-repetitions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    rows, good = [], True
    for law in ("white", "row", "correlated"):
        p = [p_value(draw(law, (800, 1, 16, 16), generator), 8) for _ in range(options.repetitions)]
        rate = sum(x <= 0.05 for x in p) / len(p)
        good &= abs(rate - 0.05) <= 0.02
        rows.append((f"{law}, model true", "8 of 1×16×16", 99, len(p), rate, "5 % ± 2 %"))
    for channels, sets in ((1, 99), (4, 19)):
        found = 0
        for _ in range(options.power_repetitions):
            data = blurred(torch.randn(64, channels, 32 + 2 * LAG, 32 + 2 * LAG, generator=generator), 1.0)
            model = torch.randn(64 * sets, channels, 32, 32, generator=generator)
            found += p_value(torch.cat([data, model]), 64) <= 0.05
        rate = found / options.power_repetitions
        good &= rate >= 0.99
        rows.append(
            ("blurred, model white", f"64 of {channels}×32×32", sets, options.power_repetitions, rate, "≥ 99 %")
        )
    lines = [
        f"Seed {options.seed}; se: binomial standard error of the rate.",
        "",
        "| data | patches | sets of the model | repetitions | family-wise p ≤ 0.05 | se | wanted |",
        "|---|---|---|---|---|---|---|",
    ]
    for data, patches, sets, n, rate, wanted in rows:
        se = math.sqrt(rate * (1 - rate) / n)
        lines.append(f"| {data} | {patches} | {sets} | {n} | {100 * rate:.2f} % | {100 * se:.2f} % | {wanted} |")
    options.out.write_text("\n".join(lines) + "\n")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    command()
