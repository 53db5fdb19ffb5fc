"""What noise a denoiser is best trained on: virtual phones whose own noise can be redrawn at will.

A night phone and a phone with row noise photograph procedural scenes, once for every seed. On each of these trees the
same small DnCNN is trained, from the same weights, on the same crops and for as long, on the noise of `gaussian`,
`nlf`, `physics` and `noise_flow` fitted to that tree, of the sensor itself redrawn for every patch (the reference of
PGap), and of the finite set that was recorded; then it denoises scenes that nobody has seen. Run

    python experiments/denoise/run.py

for the table beside this file (about two core-hours; `--jobs 2` halves the time), or with `--quick` for a small
version of it in some minutes, which replaces no table. Everything is kept in `--work`; a run that was stopped goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from noiseflow.cli import main
from noiseflow.denoise.comparison import compare_scores, markdown, spread

HERE = Path(__file__).parent
PHONES = {"night": "800,3200", "rows": "800,3200"}
"""The phones and the ISOs that they are used at."""

SOURCES = ("gaussian", "nlf", "physics", "noise_flow", "sensor", "real")
EQUIVALENT = 0.1
"""PGap in dB within which an interval must lie before sources are called equivalent."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    seeds: tuple[int, ...]
    scenes: int
    side: int
    flow_steps: int
    steps: int


FULL = Size(seeds=(0, 1, 2, 3, 4), scenes=20, side=256, flow_steps=800, steps=1500)
QUICK = Size(seeds=(0, 1, 2), scenes=10, side=128, flow_steps=100, steps=150)


def command() -> None:
    """Simulate, fit, train, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("denoise-work"), help="folder for data and runs")
    parser.add_argument(
        "--out", type=Path, help="the table to write; default: beside this file, with --quick in --work"
    )
    parser.add_argument("--quick", action="store_true", help="three seeds, few steps: some minutes")
    parser.add_argument("--jobs", type=int, default=1, help="trees at a time, each in a process of its own")
    parser.add_argument("--only", help="one phone and seed, as night/0; writes no table")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    work = options.work.with_name(options.work.name + "-quick") if options.quick else options.work
    torch.set_num_threads(1)
    if options.only is not None:
        phone, _, seed = options.only.partition("/")
        tree(phone, int(seed), work, size)
        return
    cells = [(phone, seed) for seed in size.seeds for phone in PHONES]
    if options.jobs == 1:
        for phone, seed in cells:
            tree(phone, seed, work, size)
    else:
        with ThreadPoolExecutor(options.jobs) as jobs:
            again = [sys.executable, __file__, "--work", str(options.work), *(["--quick"] if options.quick else [])]
            codes = jobs.map(lambda cell: subprocess.run([*again, "--only", f"{cell[0]}/{cell[1]}"]).returncode, cells)
            if any(list(codes)):
                sys.exit(1)
    text, held = table(work, size)
    out = options.out or (work / "table.md" if options.quick else HERE / "table.md")
    out.write_text(text)
    if not options.quick:
        for phone in PHONES:
            shutil.copy(work / phone / str(size.seeds[0]) / "compared" / "strip.png", HERE / f"{phone}.png")
    print(out)
    sys.exit(0 if held or options.quick else 1)


def tree(phone: str, seed: int, work: Path, size: Size) -> None:
    """Everything of one phone and seed, as far as that is not done."""
    folder = work / phone / str(seed)
    if (folder / "seconds.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    data, flow = folder / "data", folder / "noise_flow"
    if not (data / "sensor.json").is_file():
        noiseflow("simulate", data, "--sensor", phone, "--isos", PHONES[phone], "--scenes", size.scenes,
                  "--size", f"{size.side}x{size.side}", "--seed", 500 + seed, "--overwrite")  # fmt: skip
    if (flow / "config.yaml").is_file():
        noiseflow("fit", "--resume", flow)
    else:
        noiseflow("fit", "--data", data, "--model", "noise_flow", "--steps", size.flow_steps, "--patch", 32,
                  "--seed", seed, "--device", "cpu", "--out", flow, "--overwrite")  # fmt: skip
    noise = ",".join(str(flow) if source == "noise_flow" else source for source in SOURCES)
    noiseflow("denoise", "compare", "--noise", noise, "--data", data, "--out", folder / "compared", "--seed", seed,
              "--seeds", 1, "--steps", size.steps, "--batch", 16, "--patch", 32, "--width", 24, "--depth", 6,
              "--learning-rate", 3e-3, "--device", "cpu")  # fmt: skip
    (folder / "seconds.json").write_text(json.dumps(time.process_time() - began))


def noiseflow(*arguments: object) -> None:
    """A noiseflow command; what fails stops all."""
    code = main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


def table(work: Path, size: Size) -> tuple[str, bool]:
    """The results as Markdown, and whether noise_flow is surely better than gaussian on every phone."""
    lines = [
        "# Denoisers by the noise that they were trained on",
        "",
        f"Written by `python experiments/denoise/run.py`. Each of {len(size.seeds)} seeds simulates a tree of its own "
        f"({size.scenes} scenes of {size.side}×{size.side}, ISO 800 and 3200), fits the noise models to its training "
        "scenes, and trains a DnCNN (6 convolutions, 24 channels) on each source of noise for "
        f"{size.steps} steps of 16 patches of 32×32 packed pixels, from the same weights and on the same crops. PSNR "
        "and SSIM are of whole frames of unseen scenes, on packed planes in linear units clipped to [0, 1], per image, "
        "then averaged. ± is the half width of the 95 % t interval over seeds, which here are other scenes, noise "
        "and other weights; differences are paired by seed. PGap is PSNR with the sensor's own noise, redrawn for "
        "every patch, minus PSNR with the source. *drawing noise* is its share of a training step.",
    ]
    held, seconds = True, 0.0
    for phone in PHONES:
        scores: dict[str, list[dict]] = {source: [] for source in SOURCES}
        by_iso: dict[float, dict[str, list[dict]]] = {}
        images, noisy = 0, []
        for seed in size.seeds:
            folder = work / phone / str(seed)
            results = json.loads((folder / "compared" / "results.json").read_text())
            seconds += json.loads((folder / "seconds.json").read_text())
            images += results["data"]["images"]
            noisy.append(results["data"]["noisy_psnr"])
            for source in results["sources"]:
                figures = {key: source[key] for key in ("drawing_share", "step_ms")}
                figures |= {key: source[key]["value"] for key in ("psnr", "ssim")}
                scores[source["name"]].append(figures)
                for shot in source["by_shot"]:
                    of_iso = by_iso.setdefault(shot["iso"], {name: [] for name in SOURCES})
                    of_iso[source["name"]].append({"psnr": shot["psnr"], "ssim": shot["ssim"]})
        sources = compare_scores(scores)
        flow = next(source for source in sources if source["name"] == "noise_flow")
        gain, gap = flow["difference"], flow["gap"]
        better = gain["low"] is not None and gain["low"] > 0
        held &= better
        equivalent = gap["low"] is not None and gap["low"] > -EQUIVALENT and gap["high"] < EQUIVALENT
        lines += [
            "",
            f"## {phone}",
            "",
            f"{images} test images; noisy PSNR {sum(noisy) / len(noisy):.2f} dB.",
            "",
            *markdown(sources),
            "",
            *by_iso_rows(by_iso),
            "",
            f"noise_flow − gaussian: {spread(gain, 3)} dB, {'surely' if better else 'not surely'} above 0. PGap of "
            f"noise_flow: {spread(gap, 3)} dB, "
            + (f"inside ± {EQUIVALENT} dB." if equivalent else f"not shown to lie within ± {EQUIVALENT} dB."),
        ]
    lines += ["", f"{seconds / 60:.0f} core-minutes in all; one thread, torch {torch.__version__}.", ""]
    return "\n".join(lines), held


def by_iso_rows(by_iso: dict[float, dict[str, list[dict]]]) -> list[str]:
    """PSNR and its difference to gaussian at every ISO, as the lines of a Markdown table."""
    isos = sorted(by_iso)
    headings = ["noise", *(text for iso in isos for text in (f"ISO {iso:g}: PSNR, dB", "− gaussian, dB"))]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for entries in zip(*(compare_scores(by_iso[iso]) for iso in isos), strict=True):
        cells = [text for entry in entries for text in (spread(entry["psnr"], 2), spread(entry["difference"], 2))]
        lines.append("| " + " | ".join([entries[0]["name"], *cells]) + " |")
    return lines


if __name__ == "__main__":
    command()
