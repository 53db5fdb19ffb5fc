"""Real sRGB noise: flows against the Gaussian models of the published tables, on pictures that none of them saw.

The CC15 pictures (Nam et al. 2016) are named `<camera>_iso<ISO>_<number>_real.png` and `…_mean.png`. Models are fitted
to all pictures of number 1 and scored on all pictures of number 2, through the same commands that users call. Run

    python experiments/cc15/run.py --data FOLDER

with the folder that holds the pictures. The table beside this file is written by that command.
"""

import argparse
import json
import platform
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from noiseflow.cli import main
from noiseflow.metrics.intervals import scene_interval

HERE = Path(__file__).parent

BASELINES = {"isotropic": "isotropic", "gaussian": "diagonal", "full": "full covariance", "nlf": "heteroscedastic"}
"""The Gaussian models, and what the published tables of sRGB noise call them."""


def write_pairs(source: Path, number: str, folder: Path) -> int:
    """Put the pictures of one number and their pairs.csv into a folder; how many pairs there are."""
    folder.mkdir(parents=True)
    rows = []
    for noisy in sorted(source.glob(f"*_{number}_real.png")):
        clean = noisy.with_name(noisy.name.replace("_real", "_mean"))
        named = re.fullmatch(r"(?P<camera>.+)_iso(?P<iso>\d+)_\d+_real", noisy.stem)
        if named is None or not clean.is_file():
            continue
        for file in (noisy, clean):
            shutil.copy(file, folder)
        rows.append(f"{noisy.name},{clean.name},{named['camera']},{named['iso']}")
    (folder / "pairs.csv").write_text("\n".join(["noisy,clean,camera,iso", *rows]) + "\n")
    return len(rows)


def run(*arguments: object) -> None:
    """Run a noiseflow command; stop where it fails."""
    code = main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


def command() -> None:
    """Fit, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the CC15 pictures")
    parser.add_argument("--models", nargs="+", default=["srgb_flow", "glow"], help="architectures to fit")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="training steps; default: each architecture's own")
    parser.add_argument("--keep", type=Path, help="keep runs and reports in this folder")
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.keep or Path(scratch)
        for number, name in (("1", "train"), ("2", "test")):
            if not write_pairs(options.data, number, work / name):
                sys.exit(f"{options.data}: no pictures named <camera>_iso<ISO>_{number}_real.png")
        seconds = {}
        for model in options.models:
            for seed in options.seeds:
                steps = [] if options.steps is None else ["--steps", options.steps]
                started = time.monotonic()
                run("fit", "--data", work / "train", "--split", "all", "--model", model, "--seed", seed,
                    "--out", work / f"{model}, seed {seed}", *steps)  # fmt: skip
                seconds[f"{model}, seed {seed}"] = time.monotonic() - started
        run("evaluate", *(work / name for name in seconds), *BASELINES, "--data", work / "test", "--split", "all",
            "--out", work / "evaluation")  # fmt: skip
        results = json.loads((work / "evaluation" / "results.json").read_text())
    options.out.write_text(table(results, seconds))
    print(options.out)


def table(results: dict, seconds: dict[str, float]) -> str:
    """The results as Markdown."""
    by_name = {model["name"]: model for model in results["models"]}
    nlf = {shot_key(shot): shot["mass"] for shot in by_name["nlf"]["by_shot"]}
    lines = [
        "# CC15: real sRGB noise of three cameras, unseen pictures",
        "",
        "Written by `python experiments/cc15/run.py --data FOLDER`. Trained on the pictures of number 1, scored on "
        f"those of number 2: {results['data']['images']} pictures of 512×512×3 values, one per camera and ISO, each a "
        "scene of its own. Mass is −log probability of the stored 8-bit codes, nats per value, averaged over pixels; "
        "for flows it is an upper bound whose looseness stands beside it. Gain is the fitted noise level function's "
        "mass minus the model's, paired by picture; ± is the half width of the 95 % t interval over the pictures. "
        "nll is −log density of the recorded noise per value, in linear units: codes are 1/255 apart, so it lies about "
        "log 255 = 5.541 below mass; it is listed beside published figures only and ranks nothing.",
        "",
        "| model | parameters | training, s | mass | looseness | gain over nlf | nll |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in sorted(by_name.values(), key=lambda m: m["mass"]["value"]):
        gains = [nlf[shot_key(shot)] - shot["mass"] for shot in model["by_shot"]]
        gain = scene_interval(gains, [1] * len(gains))
        spent = seconds.get(model["name"])
        mass = model["mass"]
        half = "" if mass["high"] is None else f" ± {mass['high'] - mass['value']:.3f}"
        wide = "" if gain.high is None else f" ± {gain.high - gain.value:.3f}"
        lines.append(
            f"| {labelled(model['name'])} | {model['parameters']} | {'–' if spent is None else f'{spent:.0f}'} | "
            f"{mass['value']:.3f}{half} | {mass['looseness']:.3f} | {gain.value:.3f}{wide} | "
            f"{model['nll']['value']:.3f} |"
        )
    cpu = f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
    lines += ["", f"Training time includes reading and the fit of the noise level function: {cpu}.", ""]
    lines += ["Gain over nlf by picture:", "", "| picture | " + " | ".join(by_name) + " |"]
    lines.append("|" + "---|" * (len(by_name) + 1))
    for key in nlf:
        cells = [
            f"{nlf[key] - next(s['mass'] for s in m['by_shot'] if shot_key(s) == key):.3f}" for m in by_name.values()
        ]
        lines.append(f"| {key[0]} ISO {key[1]:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def labelled(name: str) -> str:
    """A model's name, with the published one of a Gaussian."""
    return f"{name} ({BASELINES[name]})" if name in BASELINES else name


def shot_key(shot: dict) -> tuple[str, float]:
    """Camera and ISO of an entry of `by_shot`; CC15 has one picture of each here."""
    return shot["camera"], shot["iso"]


if __name__ == "__main__":
    command()
