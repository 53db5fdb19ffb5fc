"""Raw noise from a clean picture: what a flow loses that sees sRGB in place of the clean raw frame.

Two virtual phones photograph scenes; every frame is kept as raw and as an 8-bit picture. The same flow is fitted twice,
conditioned on clean raw and on clean pictures, and both are scored on scenes that neither saw, beside the baselines
(which see clean raw). Then noise is drawn for the pictures of further new scenes, and its standard deviation in every
tenth of the true raw intensity is compared with the sensor's own. Run

    python experiments/srgb_condition/run.py

The table beside this file is written by that command. It exits with 1 where a bound that the table names is missed.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from noiseflow.cli import main
from noiseflow.datasets import NoiseDataset, collate, open_dataset
from noiseflow.files import load
from noiseflow.intensity import at_sites
from noiseflow.models import FittedModel
from noiseflow.sensors import PHONES

HERE = Path(__file__).parent
CLOSE, BETTER, STD, ENOUGH = 0.05, 0.2, 0.05, 10_000
"""Nats per value to the flow on clean raw; nats over gaussian; relative error of the std; pixels that a tenth needs."""


def once(made: Path, *arguments: object) -> None:
    """Run a noiseflow command unless a run that was kept has made its folder already; stop where it fails."""
    if made.exists():
        return
    code = main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


def command() -> None:
    """Simulate, fit, score, sample, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", default="S6,N6")
    parser.add_argument("--isos", default="100,800,3200")
    parser.add_argument("--scenes", type=int, default=15)
    parser.add_argument("--further", type=int, default=30, help="scenes, of another seed, that noise is drawn for")
    parser.add_argument("--size", default="384x384")
    parser.add_argument("--steps", type=int, default=800, help="training steps of either flow")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep data, runs and reports in this folder, and use what is there")
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.keep or Path(scratch)
        phones = ("--cameras", options.cameras, "--isos", options.isos, "--size", options.size, "--srgb")
        for name, scenes, seed in (("data", options.scenes, 0), ("further", options.further, 1001)):
            once(work / name, "simulate", work / name, *phones, "--scenes", scenes, "--seed", options.seed + seed)
        seconds = {}
        for condition in ("raw", "srgb"):
            name = f"flow on {condition}"
            once(work / name, "fit", "--data", work / "data", "--model", "noise_flow", "--condition", condition,
                 "--steps", options.steps, "--seed", options.seed, "--device", "cpu", "--out", work / name)  # fmt: skip
            seconds[name] = json.loads((work / name / "environment.json").read_text())["seconds"]
        once(work / "evaluation", "evaluate", *(work / name for name in seconds), "nlf", "gaussian", "--data",
             work / "data", "--device", "cpu", "--out", work / "evaluation")  # fmt: skip
        results = json.loads((work / "evaluation" / "results.json").read_text())
        further = open_dataset(work / "further", condition="srgb")
        tenths = std_by_tenth(load(work / "flow on srgb"), further, options.seed)
    mass = {model["name"]: model["mass"]["value"] for model in results["models"]}
    verdicts = {
        f"mass within {CLOSE} nats per value of the flow on clean raw": mass["flow on srgb"] - mass["flow on raw"]
        <= CLOSE,
        f"mass at least {BETTER} nats per value below gaussian": mass["gaussian"] - mass["flow on srgb"] >= BETTER,
        f"std within {100 * STD:.0f} % of the sensor's in every tenth of {ENOUGH:,} pixels": all(
            abs(ratio - 1) <= STD for row in tenths.values() for count, ratio in row if count >= ENOUGH
        ),
    }
    options.out.write_text(table(results, seconds, tenths, verdicts, options))
    print(options.out)
    sys.exit(0 if all(verdicts.values()) else 1)


def std_by_tenth(model: FittedModel, data: NoiseDataset, seed: int) -> dict[tuple[str, float], list[tuple[int, float]]]:
    """Pixels, and std of drawn noise over the sensor's, in every tenth of the true raw intensity.

    Left out are cells where, or next to which, a colour of the picture is clipped: nobody can tell from a clipped
    picture how bright its highlights were. Both stds are those of noise before rounding and clipping.
    """
    sums: dict[tuple[str, float], np.ndarray] = defaultdict(lambda: np.zeros((3, 10)))
    for number, frame in enumerate(data.frames):
        _, shot = collate([frame.read()])
        noise = model.sample(shot, seed=seed + number).double()
        assert shot.srgb is not None
        clipped = (at_sites(shot.srgb, [str(frame.cfa)]).amax(dim=(1, 2)) >= 1).float()
        away = (max_pool2d(clipped[:, None], 3, 1, 1) == 0).expand_as(noise)
        clean, drawn = shot.clean.double()[away].numpy(), noise[away].numpy()
        slope, read = PHONES[frame.camera].noise_level(frame.iso)
        tenth = np.clip((clean * 10).astype(int), 0, 9)
        for row, values in enumerate((np.ones_like(clean), drawn**2, slope * clean + read)):
            sums[frame.camera, frame.iso][row] += np.bincount(tenth, values, 10)
    return {
        key: [(int(n), float(np.sqrt(got / true)) if n else float("nan")) for n, got, true in total.T]
        for key, total in sorted(sums.items())
    }


def table(results: dict, seconds: dict, tenths: dict, verdicts: dict[str, bool], options: argparse.Namespace) -> str:
    """The results as Markdown."""
    data = results["data"]
    first = results["models"][0]["mass"]["value"]
    lines = [
        "# Raw noise conditioned on a clean picture",
        "",
        f"Written by `python experiments/srgb_condition/run.py`: {options.cameras} at ISO {options.isos}, "
        f"{options.scenes} simulated scenes of {options.size} mosaic pixels, seed {options.seed} only; "
        f"{options.steps} training steps. Scored on the test split: {data['images']} images of {data['scenes']} scenes "
        "that no model saw. Mass is −log probability of the stored codes, nats per value, averaged over pixels; for "
        "flows it is an upper bound whose looseness stands beside it. ± is the half width of the 95 % interval over "
        "scenes. Only `flow on srgb` goes without the clean raw frame.",
        "",
        "| model | parameters | training, s | mass | looseness | regret | mass over flow on raw |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in results["models"]:
        mass, spent = model["mass"], seconds.get(model["name"])
        half = "" if mass["high"] is None else f" ± {mass['high'] - mass['value']:.3f}"
        lines.append(
            f"| {model['name']} | {model['parameters']} | {'–' if spent is None else f'{spent:.0f}'} | "
            f"{mass['value']:.4f}{half} | {mass['looseness']:.4f} | {model['regret']['value']:.4f} | "
            f"{mass['value'] - first:+.4f} |"
        )
    cpu = f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
    lines += [
        "",
        f"Training time includes reading and the fit of the noise level function: {cpu}.",
        "",
        "Standard deviation of the noise drawn from pictures, over the sensor's own, by tenths of the true raw "
        f"intensity: {options.further} further scenes, one draw each, cells beside clipped sRGB left out; – below "
        f"{ENOUGH:,} pixels:",
        "",
        "| phone | " + " | ".join(f"{k / 10:.1f}–{(k + 1) / 10:.1f}" for k in range(10)) + " |",
        "|---" * 11 + "|",
    ]
    for (camera, iso), row in tenths.items():
        cells = [f"{ratio:.3f}" if count >= ENOUGH else "–" for count, ratio in row]
        lines.append(f"| {camera} ISO {iso:g} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {text}: {'yes' if held else 'NO'}" for text, held in verdicts.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command()
