"""One pair of distributions, many scores: what each published divergence says of four models of the same noise.

Truth: Gaussian noise of variance 0.012·x + 2e-5, independent from value to value, on clean x that rises linearly from
0.05 to 0.6 across 256 columns. Models: the truth itself; its standard deviation + 10 %; AWGN, Gaussian noise of one
level in each patch or block (the root mean square of the truth's); and noise of the right level at every pixel, but
blurred (Gaussian, σ = 1 pixel). Recipes of sRGB see pictures of 8 bits, rounded and clipped (the model's side of
`naflow` is clipped only); recipes of raw see the noise itself. Each recipe is applied to patches of 32×32×4 = 4,096
values, eight of which make up the ramp, and to blocks of 256×256×3 = 196,608 that hold all of it. Run

    python experiments/which_kl/run.py

The table beside this file is written by that command.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noiseflow.metrics.akld import akld, local_variance
from noiseflow.metrics.conditional import ConditionalKL
from noiseflow.metrics.divergence import RECIPES, HistogramKL, Recipe, histogram, histogram_kl
from noiseflow.metrics.structure import Structure, monte_carlo, statistics

HERE = Path(__file__).parent
MODELS = ("perfect", "std + 10 %", "AWGN", "blurred")
SIDE = 256


def ramp(rows: int, channels: int, images: int) -> Tensor:
    """Clean `(images, channels, rows, 256)`."""
    return torch.linspace(0.05, 0.6, SIDE, dtype=torch.float64).expand(images, channels, rows, SIDE)


def draw(model: str, clean: Tensor, unit: int, generator: torch.Generator) -> Tensor:
    """Latent noise of a model; `unit` is the width of the patches that AWGN has one level in."""
    variance = 0.012 * clean + 2e-5
    if model == "AWGN":
        parts = variance.unflatten(-1, (-1, unit))
        variance = parts.mean((1, 2, 4), keepdim=True).expand_as(parts).flatten(-2)
    if model == "blurred":
        offsets = torch.arange(-8.0, 9.0, dtype=torch.float64)
        weights = torch.exp(-(offsets**2) / 2)
        weights /= weights.square().sum().sqrt()
        n, c, h, w = clean.shape
        white = torch.randn(n * c, 1, h + 16, w + 16, generator=generator, dtype=torch.float64)
        along = torch.nn.functional.conv2d(white, weights[None, None, :, None])
        z = torch.nn.functional.conv2d(along, weights[None, None, None, :]).reshape(n, c, h, w)
    else:
        z = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return z * variance.sqrt() * (1.1 if model == "std + 10 %" else 1.0)


def seen(latent: Tensor, clean: Tensor, recipe: Recipe, rounded: bool) -> tuple[Tensor, Tensor]:
    """Noise as a recipe's pictures hold it, and their clean side."""
    if recipe.domain == "raw":
        return latent, clean
    clean = (255 * clean).round() / 255
    noisy = (clean + latent).clamp(0, 1)
    return ((255 * noisy).round() / 255 if rounded else noisy) - clean, clean


def cut(noise: Tensor, unit: int) -> Tensor:
    """`(units, values)`."""
    return noise.unflatten(-1, (-1, unit)).movedim(3, 1).flatten(0, 1).flatten(1)


def scores(recipe: Recipe, data: Tensor, model: Tensor, clean: Tensor, unit: int, rounded: bool) -> np.ndarray:
    """A histogram recipe of every patch or block."""
    sides = (seen(data, clean, recipe, True)[0], seen(model, clean, recipe, rounded)[0])
    p, q = (histogram(cut(recipe.values(x), unit), recipe.edges) for x in sides)
    return histogram_kl(p, q, cut(data, unit).shape[1], added=recipe.added).numpy()


def akld_scores(data: Tensor, model: Tensor, unit: int) -> np.ndarray:
    """AKLD of every patch or block, one draw."""
    p, q = (local_variance(x.unflatten(-1, (-1, unit)).movedim(3, 1).flatten(0, 1)) for x in (data, model))
    return akld(q, p).numpy()


def table(title: str, images: int, rows: int, channels: int, unit: int, generator: torch.Generator) -> list[str]:
    """All recipes on patches or blocks."""
    clean = ramp(rows, channels, images)
    data, again = (draw("perfect", clean, unit, generator) for _ in range(2))
    models = {name: draw(name, clean, unit, generator) for name in MODELS}
    lines = [title, "", f"| recipe | floor of one | {' | '.join(MODELS)} |", "|---|---|" + "---|" * len(MODELS)]

    def line(name: str, score: Callable[[Tensor, bool], np.ndarray], rounded: bool) -> None:
        low, high = np.quantile(score(again, True), [0.025, 0.975])
        cells = [f"{low:.5f} … {high:.5f}"]
        for model in models.values():
            value = score(model, rounded)
            cells.append(f"{value.mean():.5f} ± {value.std(ddof=1) / np.sqrt(len(value)):.5f}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")

    for recipe in RECIPES.values():
        line(recipe.name + (", each alone" if recipe.per == "pool" else ""),
             lambda model, rounded, r=recipe: scores(r, data, model, clean, unit, rounded), recipe.rounded)  # fmt: skip
    line("akld, 1 draw", lambda model, _: akld_scores(data, model, unit), True)
    return lines


def over_all(images: int, generator: torch.Generator) -> list[str]:
    """What is computed from a whole set: pooled and conditional KL, and the test of structure."""
    clean = ramp(SIDE, 3, images)
    data = draw("perfect", clean, SIDE, generator)
    index = torch.arange(images)
    names = ("`c2n`, pooled", "conditional", "structure: p, 99 draws")
    rows: dict[str, list[str]] = {name: [] for name in names}
    for name in MODELS:
        model = draw(name, clean, SIDE, generator)
        pooled, conditional = HistogramKL(RECIPES["c2n"], images), ConditionalKL(images)
        sides = [seen(x, clean, RECIPES["c2n"], True)[0] for x in (data, model)]
        pooled.update(*sides, index)
        conditional.update(data, model, clean, index)
        for key, result in zip(names, (pooled.result(), conditional.result([0] * images).overall), strict=False):
            low, high = result.floor
            margin = result.value - (result.interval.low or np.nan)
            rows[key].append(f"{result.value:.5f} ± {margin:.5f}, floor {low:.5f} … {high:.5f}")
        small = ramp(32, 1, 8 * 100)
        sets = torch.cat([draw("perfect", small[:8], 32, generator), draw(name, small[8:], 32, generator)])
        sums = Structure(100, 1)
        sums.update(sets, (0.012 * small + 2e-5).sqrt(), small, torch.arange(100).repeat_interleave(8))
        test = monte_carlo(statistics(sums.state))
        least = min(test.p_each, key=lambda family: test.p_each[family])
        rows[names[2]].append(f"{test.p:.2f}" + (f" ({least})" if test.p <= 0.05 else ""))
    lines = [
        f"The whole set at once: {images} such blocks (structure: 8 strips of 1×32×256 against 99 draws of the model, "
        "and the family that says most where p ≤ 0.05). ± is half the 95 % interval over blocks.",
        "",
        f"| score | {' | '.join(MODELS)} |",
        "|---|" + "---|" * len(MODELS),
    ]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def command() -> None:
    """Score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ramps", type=int, default=40, help="ramps of eight patches")
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    lines = [
        f"Seed {options.seed}; nats; mean ± its standard error over independent patches or blocks. Floor of one: 2.5 "
        "to 97.5 % of the score of a single patch or block between two draws of the truth, both treated as data.",
        "",
        *table(f"{8 * options.ramps} patches of 32×32×4 = 4,096 values:", options.ramps, 32, 4, 32, generator),
        "",
        *table(f"{options.blocks} blocks of 256×256×3 = 196,608 values:", options.blocks, SIDE, 3, SIDE, generator),
        "",
        *over_all(options.blocks, generator),
    ]
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    command()
