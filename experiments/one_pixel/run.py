"""What a sensor writes at one dark pixel, and what models say that it writes.

The virtual sensor `night` at ISO 3200: white is 25 electrons, read noise 1.2 electrons, 10 bits, clipped at black.
`nlf`, `physics` and a small `noise_flow` are fitted to simulated scenes; then the probability of every code of a pixel
that waits for one electron (clean 0.04) is taken from the sensor, which knows it, from `nlf` and `physics`, which have
it in closed form, and from `noise_flow`, whose latent noise is drawn, added, rounded and clipped: planes of that signal
in all channels, all of whose values count. Run

    python experiments/one_pixel/run.py

The picture and the table beside this file are written by that command, in a few minutes on one core. Data and models
are kept in `--work`, and used again.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from noiseflow.cli import main
from noiseflow.files import load
from noiseflow.models import FittedModel, synthesize
from noiseflow.report.figures import GRID, INK, SERIES
from noiseflow.sensors import SENSORS
from noiseflow.shot import Shot

HERE = Path(__file__).parent
SENSOR, ISO, CLEAN = SENSORS["night"], 3200, 0.04
EXACT = ("nlf", "physics")
SIDE, EDGE = 256, 16
"""Side of the planes that are drawn, and the margin where a convolution sees beyond them: drawn, not counted."""
BIN = 8
"""Codes that are taken together where models are divided by the sensor."""
FEW = 25.0
"""Expected draws below which the highest codes are counted as one, for the divergence."""


def noiseflow(*arguments: object) -> None:
    """A noiseflow command; what fails stops all."""
    code = main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


def fitted(options: argparse.Namespace) -> dict[str, FittedModel]:
    """The models, fitted as far as that is not done."""
    data = options.work / "data"
    if not (data / "sensor.json").is_file():
        noiseflow("simulate", data, "--sensor", SENSOR.name, "--isos", ISO, "--scenes", options.scenes,
                  "--size", options.size, "--seed", options.seed, "--overwrite")  # fmt: skip
    for name in (*EXACT, "noise_flow"):
        if not (options.work / name / "model.safetensors").is_file():
            extra = ("--steps", options.steps, "--hidden", options.hidden) if name == "noise_flow" else ()
            noiseflow("fit", "--data", data, "--model", name, "--seed", options.seed, "--device", "cpu",
                      "--out", options.work / name, "--overwrite", *extra)  # fmt: skip
    return {name: load(options.work / name) for name in (*EXACT, "noise_flow")}


def shot_of(height: int, width: int, rows: int = 1) -> Shot:
    """Planes of the pixel's signal, with the sensor's code grid."""
    return Shot.of(torch.full((rows, 4, height, width), CLEAN), camera=SENSOR.name, iso=ISO, lsb=SENSOR.lsb,
                   cfa=SENSOR.cfa)  # fmt: skip


def exact_pmf(model: FittedModel) -> np.ndarray:
    """Probability of every code, from a model whose values are independent: one image of one cell for each code."""
    codes = torch.arange(SENSOR.max_code + 1, dtype=torch.float64)
    noisy = (codes * SENSOR.lsb)[:, None, None, None].expand(-1, 4, 1, 1)
    log_mass = model.log_mass(noisy, shot_of(1, 1, len(codes))) / 4  # the four channels are alike
    return log_mass.exp().numpy(force=True)


def drawn_pmf(model: FittedModel, options: argparse.Namespace) -> tuple[np.ndarray, int]:
    """Share of every code among recorded draws, and their number."""
    counts = np.zeros(SENSOR.max_code + 1, np.int64)
    inner = slice(EDGE, EDGE + SIDE)
    for k in range(options.planes):
        noisy = synthesize(model, shot_of(SIDE + 2 * EDGE, SIDE + 2 * EDGE), seed=options.seed + k)
        codes = torch.round(noisy[..., inner, inner].double() * SENSOR.max_code).long()
        counts += np.bincount(codes.flatten().numpy(), minlength=len(counts))
    return counts / counts.sum(), int(counts.sum())


def divergence(truth: np.ndarray, model: np.ndarray, draws: int) -> float:
    """KL(sensor ‖ model), nats, the highest codes taken together."""
    last = int(np.flatnonzero(truth * draws >= FEW)[-1]) + 1
    p, q = (np.append(x[:last], x[last:].sum()) for x in (truth, model))
    return float((p * np.log(p / q)).sum())


def unclipped() -> np.ndarray:
    """What code 0 hides: the sensor's probability of the 150 codes below, were they stored."""
    kept = replace(SENSOR, bits=11, black_dn=500, white_dn=500 + SENSOR.max_code, keep_pedestal=True)
    return kept.pmf(CLEAN, ISO)[kept.black_dn - 150 : kept.black_dn]


def picture(truth: np.ndarray, pmfs: dict[str, np.ndarray], draws: int, path: Path) -> None:
    """Code 0 on the left, the codes above it on the right, and below them each model's over the sensor's."""
    colours = dict(zip(pmfs, SERIES["light"], strict=False))
    styles, labels = dict(zip(pmfs, ("--", ":", "-"), strict=True)), {name: name for name in pmfs}
    labels["noise_flow"] = f"noise_flow, {draws / 1e6:.1f} million draws"
    ink, grey, pale = INK["light"], "#c3c9d2", "#eceef1"
    figure = Figure(figsize=(8.8, 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 3.9), height_ratios=(2.6, 1))
    left, right = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
    below = figure.add_subplot(grid[1, 1], sharex=right)
    names = ("sensor", *pmfs)
    shares = [100 * x[0] for x in (truth, *pmfs.values())]
    bars = left.bar(names, shares, color=[grey, *colours.values()], width=0.8)
    left.bar_label(bars, [f"{share:.1f}" for share in shares], fontsize=9, color=ink, padding=2)
    left.set_ylabel("probability of code 0, %")
    left.set_ylim(0, 1.1 * max(shares))
    left.set_title("code 0", fontsize=10)
    left.tick_params(axis="x", rotation=90, length=0)
    codes, hidden = np.arange(1, 241), 1000 * unclipped()
    right.bar(np.arange(-len(hidden), 0), hidden, width=1.0, color=pale)
    right.bar(codes, 1000 * truth[codes], width=1.0, color=grey, label="the sensor, exact")
    for name, pmf in pmfs.items():
        width = 1.0 if name == "noise_flow" else 1.9
        right.plot(codes, 1000 * pmf[codes], styles[name], color=colours[name], lw=width, label=labels[name])
        ratio = pmf[codes].reshape(-1, BIN).sum(1) / truth[codes].reshape(-1, BIN).sum(1)
        below.plot(codes.reshape(-1, BIN).mean(1), ratio, styles[name], color=colours[name], lw=width)
    top = 1.2 * 1000 * truth[1:].max()
    signal = CLEAN * SENSOR.max_code
    right.axvline(0, color=ink, lw=1)
    right.text(-6, 0.97 * top, "below black:\nnever stored,\nwritten as 0", ha="right", va="top", fontsize=9)
    right.axvline(signal, color=ink, lw=0.8, ls=(0, (2, 3)), ymax=0.84)
    right.text(signal, 0.97 * top, "clean,\n1 e⁻", ha="center", va="top", fontsize=9)
    right.set_ylim(0, top)
    right.set_ylabel("probability of a code, 10⁻³")
    code_e = 1 / SENSOR.gain(ISO)
    right.set_title(f"every other code; 1 DN = 1/{SENSOR.max_code} of white = {code_e:.3f} e⁻", fontsize=10)
    right.tick_params(labelbottom=False)
    right.legend(frameon=False, fontsize=9, loc="upper right")
    below.axhline(1, color=grey, lw=3, zorder=0)
    below.set_xlim(-len(hidden) - 0.5, codes[-1] + 0.5)
    below.set_ylim(0.5, 1.2)
    below.set_ylabel("model ÷ sensor")
    below.set_xlabel("stored code, DN above black")
    for axes in (left, right, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.grid(True, color=GRID["light"], lw=0.7)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def command() -> None:
    """Fit, take the probabilities, write the picture and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("one-pixel-work"), help="folder for data and models")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for pmf.png and table.md")
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--hidden", type=int, default=32, help="channels of noise_flow's hidden layers")
    parser.add_argument("--planes", type=int, default=16, help=f"of 4×{SIDE}×{SIDE} values, to draw")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    models = fitted(options)
    truth = SENSOR.pmf(CLEAN, ISO)
    pmfs = {name: exact_pmf(models[name]) for name in EXACT}
    pmfs["noise_flow"], draws = drawn_pmf(models["noise_flow"], options)
    lines = [
        f"Written by `python experiments/one_pixel/run.py`: sensor `{SENSOR.name}`, ISO {ISO}, clean {CLEAN:g}; "
        f"models fitted to the training split of {options.scenes} simulated scenes of {options.size} mosaic pixels, "
        f"noise_flow for {options.steps} steps with {options.hidden} hidden channels, its codes from n = {draws:,} "
        f"draws; seed {options.seed} only. KL is from the sensor to the model at this signal, nats.",
        "",
        "| | code 0 | mean code | most frequent code above 0 | KL |",
        "|---|---|---|---|---|",
    ]
    for name, pmf in {"the sensor": truth, **pmfs}.items():
        smooth = np.convolve(pmf[1:], np.ones(15) / 15, mode="valid")  # of draws, the mode alone would be chance
        kl = "0" if name == "the sensor" else f"{divergence(truth, pmf, draws):.4f}"
        lines.append(
            f"| {name} | {100 * pmf[0]:.2f} % | {(pmf * np.arange(len(pmf))).sum():.2f} "
            f"| {1 + int(smooth.argmax()) + 7} | {kl} |"
        )
    occupied = int((truth * draws >= FEW).sum())
    lines += ["", f"Of noise_flow's KL about {occupied / (2 * draws):.5f} is the scatter of its draws."]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    picture(truth, pmfs, draws, options.out / "pmf.png")
    print(options.out / "pmf.png")


if __name__ == "__main__":
    command()
