"""The released sRGB flow beside models that are trained here: real noise of one scene, and the mean of the noise.

Part one: a block of real sRGB noise, noisy and clean picture of one scene (a validation block of SIDD, say), cut into a
left and a right half; each half is scored by models that were trained on the other. Part two: how far the noise of the
released flow, and of the same architecture trained here on a simulated tree, is from zero mean on a uniform grey. Run

    python experiments/released_srgb/run.py --noisy NOISY.png --clean CLEAN.png --camera S6 --iso 3200 --checkpoint FILE

with the checkpoint that the sRGB flow's authors released. The table beside this file is written by that command.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import cv2
import torch

from noiseflow import Shot, load, open_dataset, synthesize
from noiseflow.cli import main
from noiseflow.models import FittedModel

HERE = Path(__file__).parent
BASELINES = ("isotropic", "gaussian", "full", "nlf")
GREY = 100
PATCHES = 64


def run(*arguments: object) -> None:
    """Run a noiseflow command; stop where it fails."""
    code = main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


def write_halves(options: argparse.Namespace, work: Path) -> int:
    """A folder of pairs for each half of the block; the columns of a half."""
    pictures = {kind: cv2.imread(str(path)) for kind, path in (("noisy", options.noisy), ("clean", options.clean))}
    if any(picture is None for picture in pictures.values()):
        sys.exit(f"{options.noisy}, {options.clean}: expected two pictures")
    columns = pictures["noisy"].shape[1] // 2
    for half, start in (("left", 0), ("right", columns)):
        folder = work / half
        folder.mkdir(parents=True)
        for kind, picture in pictures.items():
            cv2.imwrite(str(folder / f"{kind}.png"), picture[:, start : start + columns])
        (folder / "pairs.csv").write_text(
            f"noisy,clean,camera,iso\nnoisy.png,clean.png,{options.camera},{options.iso:g}\n"
        )
    return columns


def score_halves(options: argparse.Namespace, work: Path, released: Path) -> dict[str, list[dict]]:
    """What every model scores on each half, trained on the other."""
    scores: dict[str, list[dict]] = {}
    for train, test in (("left", "right"), ("right", "left")):
        folders = []
        for model, steps in (("srgb_flow", options.srgb_flow_steps), ("glow", options.glow_steps)):
            folders.append(work / train / model)
            run("fit", "--data", work / train, "--split", "all", "--model", model, "--steps", steps, "--out",
                folders[-1])  # fmt: skip
        run("evaluate", released, *folders, *BASELINES, "--data", work / test, "--split", "all", "--baseline-data",
            work / train, "--baseline-split", "all", "--no-samples", "--out", work / f"scores of {test}")  # fmt: skip
        for model in json.loads((work / f"scores of {test}" / "results.json").read_text())["models"]:
            scores.setdefault(model["name"], []).append(model)
    return scores


def mean_on_grey(model: FittedModel) -> torch.Tensor:
    """Mean of noisy − clean per channel, levels of 255, on 32×32 patches of grey; S6, ISO 800, rounded and clipped."""
    clean = torch.full((PATCHES, 3, 32, 32), GREY / 255, dtype=torch.float64)
    shot = Shot.of(clean, camera="S6", iso=800, lsb=1 / 255)
    noisy = synthesize(model, shot, seed=torch.arange(PATCHES))
    return 255 * (noisy - clean).mean(dim=(0, 2, 3))


def mean_of_data(tree: Path) -> torch.Tensor:
    """The same of a tree's own pictures, where all channels of the clean picture lie within 20 levels of the grey."""
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for frame in open_dataset(tree, domain="srgb").frames:
        pair = frame.read(0, 0, *frame.size)
        near = ((255 * pair.clean - GREY).abs() <= 20).all(dim=0)
        sums += 255 * (pair.noisy - pair.clean)[:, near].double().sum(dim=1)
        count += int(near.sum())
    return sums / count


def command() -> None:
    """Fit, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noisy", type=Path, required=True, help="noisy picture of the block")
    parser.add_argument("--clean", type=Path, required=True, help="clean picture of the block")
    parser.add_argument("--camera", required=True, help="its camera, as the released flow calls it")
    parser.add_argument("--iso", type=float, required=True, help="its ISO")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the released weights of the sRGB flow")
    parser.add_argument("--srgb-flow-steps", type=int, default=600, help="training steps on half a block")
    parser.add_argument("--glow-steps", type=int, default=200, help="training steps on half a block")
    parser.add_argument("--tree-steps", type=int, default=1200, help="training steps on the simulated tree")
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        columns = write_halves(options, work)
        released, tree = work / "released.safetensors", work / "tree"
        run("import", options.checkpoint, "--out", released)
        scores = score_halves(options, work, released)
        run("simulate", tree, "--cameras", "S6", "--isos", 800, "--scenes", 12, "--size", "256x256", "--srgb")
        run("fit", "--data", tree, "--domain", "srgb", "--model", "srgb_flow", "--steps", options.tree_steps, "--batch",
            8, "--patch", 32, "--out", work / "trained")  # fmt: skip
        means = {
            "released": mean_on_grey(load(released)),
            "srgb_flow, trained here": mean_on_grey(load(work / "trained")),
            "the simulated tree itself": mean_of_data(tree),
        }
    options.out.write_text(table(options, columns, scores, means))
    print(options.out)


def table(options: argparse.Namespace, columns: int, scores: dict[str, list[dict]], means: dict) -> str:
    """The results as Markdown."""
    lines = [
        "# The released sRGB flow beside models trained here",
        "",
        "Written by `python experiments/released_srgb/run.py --noisy … --clean … --checkpoint …`.",
        "",
        f"## One block of {options.camera}, ISO {options.iso:g}",
        "",
        f"n = 1 scene: a block cut into two halves of {columns} columns, each scored by models trained on the other, "
        "averaged over the two. So the models trained here know this scene, camera and ISO, and nothing else; the "
        "released flow knows the camera and ISO from other scenes. One scene gives no interval: the figures say what "
        f"happens on this block. Trained for {options.srgb_flow_steps} (srgb_flow) and {options.glow_steps} (glow) "
        "steps. nll: −log density of the recorded noise per value, linear units. Mass: −log probability of the stored "
        "codes per value, nats; for flows an upper bound with its looseness. The mass of the released flow (*) is the "
        "density of recorded noise times the volume of the cells, not comparable with the others.",
        "",
        "| model | parameters | nll | mass | looseness |",
        "|---|---|---|---|---|",
    ]
    for name, folds in sorted(scores.items(), key=lambda item: mean(item[1], "nll")):
        star = "*" if folds[0]["noise_domain"] == "recorded" else ""
        loose = "–" if star else f"{sum(fold['mass']['looseness'] for fold in folds) / len(folds):.3f}"
        lines.append(
            f"| {name} | {folds[0]['parameters']} | {mean(folds, 'nll'):.3f} | {mean(folds, 'mass'):.3f}{star} | "
            f"{loose} |"
        )
    lines += [
        "",
        "## Mean of the noise",
        "",
        f"Mean of noisy − clean, levels of 255, on {PATCHES} patches of 32×32 of uniform grey {GREY}, S6, ISO 800, "
        f"stored codes. Trained here: {options.tree_steps} steps on the training scenes of 12 simulated ones "
        "(`simulate --srgb`), whose own mean, over pixels within 20 levels of that grey, stands below. One seed.",
        "",
        "| | R | G | B |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | " + " | ".join(f"{value:+.2f}" for value in of) + " |" for name, of in means.items()]
    return "\n".join(lines) + "\n"


def mean(folds: list[dict], figure: str) -> float:
    """Mean of a figure over the folds, which have equally many values."""
    return sum(fold[figure]["value"] for fold in folds) / len(folds)


if __name__ == "__main__":
    command()
