"""Unconditional NICE and Glow on scikit-learn's 8×8 digits, against a Gaussian with a full covariance.

    python -m pip install -e ".[experiments]"
    python experiments/digits/run.py

trains both and writes table.md and samples.png beside this file; each model trains for less than 5 minutes on 2 cores.
"""

import argparse
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from noiseflow.metrics.intervals import scene_interval
from noiseflow.models.image import ImageFlow, bits_per_dimension, dequantize, glow_image, nice_image, quantize
from noiseflow.randomness import combine

HERE = Path(__file__).parent
BINS = 17  # pixels hold 0 to 16
SHAPE = (1, 8, 8)
TRAIN, CHOOSE, DIGITS = 1437, 180, 1797  # CHOOSE of the TRAIN digits choose ridge, settings and the step to keep
RIDGES = (0.0, 1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2)
DRAWS = 16
TEMPERATURES = (0.7, 1.0)


@dataclass(frozen=True)
class Recipe:
    """How a model is built and trained; settled on the digits that choose, before the held-out ones were scored."""

    build: Callable[[], ImageFlow]
    steps: int
    weight_decay: float
    rate: float = 1e-3
    batch: int = 128


RECIPES = {
    "nice": Recipe(lambda: nice_image(SHAPE, bins=BINS, couplings=6, hidden=128), steps=1200, weight_decay=0.5),
    "glow": Recipe(lambda: glow_image(SHAPE, bins=BINS, levels=2, steps=6, hidden=48), steps=2000, weight_decay=0.3),
}


def split(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The digits as codes `(n, 1, 8, 8)`, in seeded random order: fitted on, chosen on, held out."""
    codes = torch.as_tensor(load_digits().images).to(torch.int64)[:, None]
    shuffled = codes[torch.randperm(DIGITS, generator=torch.Generator().manual_seed(seed))]
    return shuffled[: TRAIN - CHOOSE], shuffled[TRAIN - CHOOSE : TRAIN], shuffled[TRAIN:]


def train(recipe: Recipe, fitted: torch.Tensor, chosen: torch.Tensor, *, seed: int) -> tuple[ImageFlow, int]:
    """Maximise the likelihood of freshly dequantised digits; keep the averaged weights that score best on `chosen`.

    Returns:
        The model with the kept weights, and the step that they are of.
    """
    torch.manual_seed(seed)  # layers draw their start from the global generator
    model = recipe.build()
    model.initialize(dequantize(fitted, BINS, seed=seed))
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    # Only weights decay: scales and biases of actnorms would drift away from the data.
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
    generator = torch.Generator().manual_seed(seed)
    best, kept, kept_step = math.inf, model.state_dict(), 0
    for step in range(1, recipe.steps + 1):
        rows = torch.randint(len(fitted), (recipe.batch,), generator=generator)
        bits = model.bits_per_dimension(fitted[rows], seed=int(combine(seed, step))).mean()
        optimizer.zero_grad()
        bits.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        if step % 100 == 0:
            with torch.no_grad():
                score = float(average.module.bits_per_dimension(chosen, seed=seed, draws=4).mean())
            print(f"step {step}: {bits:.3f} bits on the batch, {score:.3f} on the digits that choose", flush=True)
            if score < best:
                best, kept_step = score, step
                kept = {name: value.clone() for name, value in average.module.state_dict().items()}
    model.load_state_dict(kept)
    return model.eval(), kept_step


def gaussian(codes: torch.Tensor, ridge: float, *, seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """log_prob of the Gaussian with the mean and covariance of the dequantised digits, plus ridge on the diagonal."""
    images = torch.cat([dequantize(codes, BINS, seed=int(combine(seed, k))) for k in range(DRAWS)]).flatten(1)
    covariance = torch.cov(images.T) + ridge * torch.eye(images.shape[1])
    fitted = torch.distributions.MultivariateNormal(images.mean(dim=0), covariance)
    return lambda x: fitted.log_prob(x.flatten(1))


def score(log_prob: Callable[[torch.Tensor], torch.Tensor], codes: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Bits per dimension of every digit, the mean over `DRAWS` dequantisations, the same ones for every model."""
    with torch.no_grad():
        draws = (dequantize(codes, BINS, seed=int(combine(seed, k))) for k in range(DRAWS))
        return torch.stack([bits_per_dimension(log_prob(images), SHAPE, BINS).double() for images in draws]).mean(0)


def table(rows: dict[str, dict], seed: int, ridge: float) -> str:
    """The scores as Markdown."""
    lines = [
        "# 8×8 digits: unconditional image models",
        "",
        f"Written by `python experiments/digits/run.py`. scikit-learn's {DIGITS} digits, codes 0 to {BINS - 1}, in the "
        f"order of a permutation with seed {seed}: {TRAIN} to train on, {DIGITS - TRAIN} held out. {CHOOSE} of the "
        f"{TRAIN} chose the settings, the ridge and the step to keep; the flows are trained on the other "
        f"{TRAIN - CHOOSE}, the Gaussian is fitted on all {TRAIN} (ridge {ridge:g}).",
        "",
        f"Bits per dimension of held-out digits: an upper bound, the mean over {DRAWS} dequantisations that all "
        f"models share. n = {DIGITS - TRAIN} digits of 64 values, one training seed ({seed}); ± is the half width of "
        "the 95 % t interval over digits, and gain, in bits per dimension over the Gaussian, is paired by digit.",
        "",
        "| model | parameters | bits per dimension | gain | kept step | training, s |",
        "|---|---|---|---|---|---|",
    ]
    reference = rows["gaussian, full covariance"]["bits"]
    for name, row in sorted(rows.items(), key=lambda item: float(item[1]["bits"].mean())):
        gain = "–" if row["bits"] is reference else plus_minus(reference - row["bits"])
        lines.append(
            f"| {name} | {row['parameters']} | {plus_minus(row['bits'])} | {gain} | {row.get('step', '–')} | "
            f"{row.get('seconds', '–')} |"
        )
    threads = torch.get_num_threads()
    cpu = f"{threads} thread{'s' * (threads > 1)}, {platform.machine()}, torch {torch.__version__}"
    temperatures = " and ".join(map(str, TEMPERATURES))
    return "\n".join([*lines, "", f"Timed with {cpu}. Samples at temperatures {temperatures}:", "",
                      "![samples](samples.png)", ""])  # fmt: skip


def plus_minus(values: torch.Tensor) -> str:
    """Mean and half width of its 95 % interval."""
    interval = scene_interval(values.tolist(), [1] * len(values))
    assert interval.high is not None
    return f"{interval.value:.3f} ± {interval.high - interval.value:.3f}"


def draw_samples(models: dict[str, ImageFlow], digits: torch.Tensor, seed: int, path: Path) -> None:
    """A panel of real digits, and one for every model and temperature, as stored codes."""
    panels = {"held-out digits": digits[:64]}
    for name, model in models.items():
        for temperature in TEMPERATURES:
            images = model.sample(64, seed=seed, temperature=temperature)
            panels[f"{name}, temperature {temperature}"] = quantize(images, BINS)
    figure = Figure(figsize=(3.2 * len(panels), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, codes) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        framed = torch.nn.functional.pad(codes[:, 0], (1, 1, 1, 1), value=BINS // 2).reshape(8, 8, 10, 10)
        axes.imshow(framed.permute(0, 2, 1, 3).reshape(80, 80).numpy(), cmap="gray_r", vmin=0, vmax=BINS - 1)
        axes.set_title(title)
        axes.axis("off")
    figure.savefig(path, dpi=80, metadata={"Software": None})


def command() -> None:
    """Train, score, write the table and the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the split, the training and the scores")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for table.md and samples.png")
    options = parser.parse_args()
    seed = options.seed
    fitted, chosen, held_out = split(seed)
    ridge = min(RIDGES, key=lambda r: float(score(gaussian(fitted, r, seed=seed), chosen, seed=seed + 1).mean()))
    fitted_gaussian = gaussian(torch.cat((fitted, chosen)), ridge, seed=seed)
    dimensions = math.prod(SHAPE)
    rows = {
        "gaussian, full covariance": {
            "bits": score(fitted_gaussian, held_out, seed=seed + 2),
            "parameters": dimensions + dimensions * (dimensions + 1) // 2,
        }
    }
    models = {}
    for name, recipe in RECIPES.items():
        started = time.monotonic()
        models[name], step = train(recipe, fitted, chosen, seed=seed)
        rows[name] = {
            "seconds": round(time.monotonic() - started),
            "step": step,
            "bits": score(models[name].log_prob, held_out, seed=seed + 2),
            "parameters": sum(p.numel() for p in models[name].parameters()),
        }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(table(rows, seed, ridge))
    draw_samples(models, held_out, seed, options.out / "samples.png")
    print(options.out / "table.md")


if __name__ == "__main__":
    command()
