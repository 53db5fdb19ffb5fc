"""How far noise models are from sensors whose probability of every code is known.

Five virtual sensors photograph procedural scenes, three times over with other seeds. On each, `gaussian`, `nlf`,
`physics` and `noise_flow` are fitted to the training scenes, and their regret is measured on scenes that no model saw:
mass minus the true sensor's, in nats per value, which is the Kullback–Leibler divergence. Beside it stands the old way
of scoring: the continuous density of dequantised noise. Run

    python experiments/regret/run.py

for the table beside this file (an hour or two on two cores), or with `--quick` for one seed and fewer steps. Everything
is kept in `--work`; a run that was stopped goes on where it was, and several may share the work by `--only`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from noiseflow.cli import main
from noiseflow.datasets import collate, open_dataset
from noiseflow.files import load
from noiseflow.metrics.intervals import scene_interval
from noiseflow.models import FittedModel, NoDensityError
from noiseflow.randomness import uniform

HERE = Path(__file__).parent
SENSORS = {
    # name: (what it is, sensor, ISOs, size, scenes)
    "day": ("day phone", "S6", "100,800", "512x512", 30),
    "night": ("night phone, white = 25 e⁻, read noise 1.2 e⁻", "night", "3200", "512x512", 50),
    "heavy": ("read noise with Tukey-lambda tails", "heavy", "1600", "512x512", 50),
    "rows": ("row noise", "rows", "800", "256x256", 100),
    "correlated": ("spatially correlated, continuous", "correlated", "800", "256x256", 100),
}
MODELS = ("gaussian", "nlf", "physics", "noise_flow")
IMAGES = 4
"""Images of the test split that are scored, of as many scenes."""

BOUND = 0.5
"""Regret of noise_flow over that of the fitted nlf on the night phone."""

_STREAM = 401


def command() -> None:
    """Simulate, fit, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("regret-work"), help="folder for data, runs and reports")
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    parser.add_argument("--quick", action="store_true", help="one seed, 300 steps a flow: a quarter of an hour")
    parser.add_argument("--only", help="some of the sensors, comma-separated; writes no table")
    options = parser.parse_args()
    options.seeds = (0,) if options.quick else (0, 1, 2)
    options.steps = 300 if options.quick else 700
    if options.quick:
        options.work = options.work.with_name(options.work.name + "-quick")
    chosen = list(SENSORS) if options.only is None else options.only.split(",")
    for seed in options.seeds:
        for name in chosen:
            prepare(name, seed, options)
    if options.only is not None:
        return
    found = {name: [collect(name, seed, options) for seed in options.seeds] for name in SENSORS}
    text, held = table(found, options)
    options.out.write_text(text)
    print(options.out)
    sys.exit(0 if held or options.quick else 1)


def prepare(name: str, seed: int, options: argparse.Namespace) -> None:
    """Simulate, fit and evaluate, as far as that is not done."""
    _, sensor, isos, size, scenes = SENSORS[name]
    work = options.work / name / str(seed)
    if (work / "old_way.json").is_file():
        return
    data = work / "data"
    if not (data / "sensor.json").is_file():
        noiseflow("simulate", data, "--sensor", sensor, "--isos", isos, "--scenes", scenes, "--size", size, "--seed",
                  100 + seed, "--overwrite")  # fmt: skip
    for model in MODELS:
        run = work / model
        if (run / "config.yaml").is_file():
            noiseflow("fit", "--resume", run)
            continue
        extra = ("--steps", options.steps) if model == "noise_flow" else ()
        noiseflow("fit", "--data", data, "--model", model, "--seed", seed, "--device", "cpu", "--out", run,
                  "--overwrite", *extra)  # fmt: skip
    if not (work / "evaluation" / "results.json").is_file():
        noiseflow("evaluate", *(work / model for model in MODELS), "--data", data, "--device", "cpu",
                  "--max-images", IMAGES, "--no-samples", "--out", work / "evaluation", "--overwrite")  # fmt: skip
    scores = {model: old_way(load(work / model), data, seed) for model in MODELS}
    (work / "old_way.json").write_text(json.dumps(scores))


def noiseflow(*arguments: object) -> None:
    """A noiseflow command; what fails stops all."""
    code = main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


@torch.no_grad()
def old_way(model: FittedModel, data: Path, seed: int) -> float | None:
    """−log density of recorded noise with uniform dequantisation, per value, plus log lsb: nats, to compare with mass.

    None for a model without density.
    """
    total, count = 0.0, 0
    for number, frame in enumerate(open_dataset(data).select("test", max_images=IMAGES).frames):
        noisy, shot = collate([frame.read()])
        u = uniform(seed, tuple(noisy.shape), stream=_STREAM + number) - 0.5
        lsb = shot.lsb.double()[..., None, None]
        try:
            log_prob = model.log_prob(noisy.double() + u * lsb - shot.clean.double(), shot)
        except NoDensityError:
            return None
        widths = torch.where(lsb > 0, lsb, 1.0).log().expand(*noisy.shape[:2], 1, 1)
        total -= float(log_prob.sum()) + float(widths.sum()) * noisy.shape[-2] * noisy.shape[-1]
        count += noisy.numel()
    return total / count


def collect(name: str, seed: int, options: argparse.Namespace) -> dict:
    """Results of one sensor and seed by model, with the old way's excess over the true sensor's mass."""
    work = options.work / name / str(seed)
    results = json.loads((work / "evaluation" / "results.json").read_text())
    old = json.loads((work / "old_way.json").read_text())
    models = {model["name"]: model for model in results["models"]}
    for key, model in models.items():
        best = model["mass"]["value"] - model["regret"]["value"]
        model["old"] = None if old[key] is None else old[key] - best
    return {"models": models, "images": results["data"]["images"], "scenes": results["data"]["scenes"]}


def spread(values: Sequence[float], digits: int = 5) -> str:
    """Mean over seeds and the half width of its 95 % t interval."""
    interval = scene_interval(list(values), [1] * len(values))
    half = "" if interval.high is None else f" ± {interval.high - interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f}{half}"


def table(found: dict[str, list[dict]], options: argparse.Namespace) -> tuple[str, bool]:
    """The results as Markdown, and whether the bound held."""
    seeds = len(options.seeds)
    values = {
        name: sum(image["values"] for image in runs[0]["models"]["nlf"]["images"]) for name, runs in found.items()
    }
    lines = [
        "# Regret against sensors whose truth is known",
        "",
        f"Written by `python experiments/regret/run.py{' --quick' if options.quick else ''}`: {seeds} "
        f"seed{'s' if seeds > 1 else ''} (of data and training alike), flows trained for {options.steps} steps. Scored "
        f"on {IMAGES} images of the test split. "
        "Regret is mass minus the true sensor's, nats per value, averaged over pixels; flows' mass is a bound, its "
        "looseness beside it and part of the regret. ± is the half width of the 95 % t interval over seeds. *Old way*: "
        "−log of the continuous density of noise with uniform dequantisation, in the unit of mass, minus the true "
        "sensor's mass; – where the model has no density.",
        "",
        "| sensor | model | regret | over nlf | looseness | old way |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        what, _, isos, size, scenes = SENSORS[name]
        about = f"{what}: ISO {isos}, {scenes} scenes of {size}; {values[name]:,} values scored"
        for model in MODELS:
            part = [run["models"][model] for run in runs]
            regrets = [m["regret"]["value"] for m in part]
            over = np.mean(regrets) / np.mean([run["models"]["nlf"]["regret"]["value"] for run in runs])
            old = [m["old"] for m in part]
            lines.append(
                f"| {about} | {model} | {spread(regrets)} | {over:.2f} | "
                f"{np.mean([m['mass']['looseness'] for m in part]):.5f} | "
                f"{'–' if None in old else f'{np.mean(old):.3f}'} |"
            )
            about = ""
    lines += ["", *verdicts(found), "", *by_intensity(found["night"], "night")]
    night = [np.mean([run["models"][m]["regret"]["value"] for run in found["night"]]) for m in ("noise_flow", "nlf")]
    held = bool(night[0] <= BOUND * night[1])
    lines += [
        "",
        f"- on the night phone the mean regret of noise_flow is {night[0] / night[1]:.2f} × the fitted nlf's "
        f"(bound {BOUND}): {'yes' if held else 'NO'}",
    ]
    return "\n".join(lines) + "\n", held


def verdicts(found: dict[str, list[dict]]) -> list[str]:
    """Where a flow wins and where it does not, paired by seed."""
    lines = ["noise_flow against the classical models, difference of regrets paired by seed, nats per value:", ""]
    for name, runs in found.items():
        for other in ("nlf", "physics"):
            lost = [run["models"]["noise_flow"]["regret"]["value"] - run["models"][other]["regret"]["value"]
                    for run in runs]  # fmt: skip
            interval = scene_interval(lost, [1] * len(lost))
            said = "beats" if interval.value < 0 else "does not beat"
            if interval.low is not None and interval.low < 0 < interval.high:
                said = "cannot be told from"
            lines.append(f"- {name}: noise_flow {said} {other}: {spread(lost)}")
    return lines


def by_intensity(runs: list[dict], name: str) -> list[str]:
    """Regret by tenth of the clean intensity, mean over seeds."""
    lines = [
        f"Where they lose, sensor `{name}`: regret by tenth of the clean intensity, nats per value, mean over seeds:",
        "",
        "| model | " + " | ".join(f"{k / 10:.1f}–{(k + 1) / 10:.1f}" for k in range(10)) + " |",
        "|---" * 11 + "|",
    ]
    for model in MODELS:
        sums = np.zeros((2, 10))
        for run in runs:
            for row in run["models"][model]["by_intensity"]:
                sums[:, round(row["low"] * 10)] += row["values"], row["values"] * row["regret"]
        cells = [f"{lost / n:.4f}" if n else "–" for n, lost in sums.T]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    command()
