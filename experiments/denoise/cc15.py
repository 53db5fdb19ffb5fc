"""Real sRGB noise: a denoiser trained on models of the CC15 pictures' noise, on pictures that nobody saw.

The CC15 pictures (Nam et al. 2016) are named `<camera>_iso<ISO>_<number>_real.png` and `…_mean.png`. Noise models are
fitted to all pictures of number 1, the same DnCNN is trained on each model's noise on those pictures' means, and
denoises all pictures of number 2. `isotropic` is additive white Gaussian noise of one variance per camera and ISO. Run

    python experiments/denoise/cc15.py --data FOLDER

with the folder that holds the pictures. `cc15.md` beside this file is written by that command. Everything is kept in
`--work`; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import torch

from noiseflow.cli import main
from noiseflow.denoise.comparison import caption, markdown

HERE = Path(__file__).parent
BASELINES = ("isotropic", "gaussian", "nlf", "full")
SPLITS = {"1": "train", "2": "test"}


def command() -> None:
    """Fit, train, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the CC15 pictures")
    parser.add_argument("--work", type=Path, default=Path("denoise-cc15-work"), help="folder for runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="training steps of the denoisers")
    parser.add_argument("--flow-steps", type=int, default=1200, help="training steps of srgb_flow and glow")
    parser.add_argument("--out", type=Path, default=HERE / "cc15.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = options.work / "data"
    if not (pairs / "pairs.csv").is_file() and not link_pairs(options.data, pairs):
        sys.exit(f"{options.data}: no pictures named <camera>_iso<ISO>_{{1,2}}_real.png")
    flows = {name: options.work / name for name in ("srgb_flow", "glow")}
    for name, run in flows.items():
        if (run / "config.yaml").is_file():
            noiseflow("fit", "--resume", run)
        else:
            noiseflow("fit", "--data", pairs, "--model", name, "--steps", options.flow_steps, "--device", "cpu",
                      "--out", run, "--overwrite")  # fmt: skip
    noise = ",".join([*BASELINES, *map(str, flows.values()), "real"])
    compared = options.work / "compared"
    noiseflow("denoise", "compare", "--noise", noise, "--data", pairs, "--out", compared, "--seeds", options.seeds,
              "--steps", options.steps, "--batch", 16, "--patch", 40, "--width", 32, "--depth", 6,
              "--learning-rate", 3e-3, "--device", "cpu")  # fmt: skip
    results = json.loads((compared / "results.json").read_text())
    lines = [
        "# CC15: denoisers by the noise that they were trained on",
        "",
        "Written by `python experiments/denoise/cc15.py --data FOLDER`. Noise models and denoisers (DnCNN, 6 "
        "convolutions of 32 channels, 16 patches of 40×40 a step) were trained on the pictures of number 1 and scored "
        "on those of number 2, one per camera and ISO. PSNR and SSIM by the package's policy: values/255 clipped to "
        "[0, 1], per picture over all channels, then averaged. *isotropic* is additive white Gaussian noise.",
        "",
        caption(results) + ".",
        "",
        *markdown(results["sources"]),
        "",
        "PSNR by picture, mean over seeds:",
        "",
        "| picture | noisy | " + " | ".join(source["name"] for source in results["sources"]) + " |",
        "|" + "---|" * (len(results["sources"]) + 2),
    ]
    for k, shot in enumerate(results["sources"][0]["by_shot"]):
        cells = [f"{source['by_shot'][k]['psnr']:.2f}" for source in results["sources"]]
        lines.append(f"| {shot['camera']} ISO {shot['iso']:g} | {shot['noisy_psnr']:.2f} | {' | '.join(cells)} |")
    options.out.write_text("\n".join(lines) + "\n")
    print(options.out)


def link_pairs(source: Path, folder: Path) -> int:
    """Write a pairs.csv that names the pictures where they are; how many pairs there are."""
    rows = []
    for noisy in sorted(source.resolve().glob("*_real.png")):
        clean = noisy.with_name(noisy.name.replace("_real", "_mean"))
        named = re.fullmatch(r"(?P<camera>.+)_iso(?P<iso>\d+)_(?P<number>\d+)_real", noisy.stem)
        if named is None or named["number"] not in SPLITS or not clean.is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for file in (noisy, clean):
            (folder / file.name).unlink(missing_ok=True)
            (folder / file.name).symlink_to(file)
        scene = noisy.stem.removesuffix("_real")
        rows.append(f"{noisy.name},{clean.name},{named['camera']},{named['iso']},{scene},{SPLITS[named['number']]}")
    if rows:
        (folder / "pairs.csv").write_text("\n".join(["noisy,clean,camera,iso,scene,split", *rows]) + "\n")
    return len(rows)


def noiseflow(*arguments: object) -> None:
    """A noiseflow command; what fails stops all."""
    code = main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


if __name__ == "__main__":
    command()
