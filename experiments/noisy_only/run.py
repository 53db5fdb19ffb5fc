"""Noise models learned from noisy frames only, against the truth of virtual phones.

Three phones photograph procedural scenes, six frames of each, three times over with other seeds. On the same bursts and
for the same number of steps are trained: a denoiser and a flow by `fit --noisy-only` (*unbiased*); the same flow and
denoiser on the published joint loss (*published*); the same denoiser by plain Noise2Noise with another seed; and the
same flow with exact clean images (*exact*). Scored on scenes that nobody has seen, with their exact clean images. Run

    python experiments/noisy_only/run.py

for the table beside this file, or with `--quick` for one seed and fewer steps; `--timed` takes the time of a default
run on 20 instances instead. Everything is kept in `--work`; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from noiseflow.cli import main
from noiseflow.datasets import BurstPatches, Pair, collate, collate_frames, open_bursts, open_dataset
from noiseflow.denoise import Denoiser, denoise
from noiseflow.files import load, load_denoiser, save
from noiseflow.metrics.intervals import scene_interval
from noiseflow.models import FittedModel, Flow, noise_flow, quantise
from noiseflow.progress import open_progress
from noiseflow.sensors import SENSORS
from noiseflow.training.batches import BurstDataModule
from noiseflow.training.noise_level import fit_noise_level
from noiseflow.training.noisy_only import JOINT_RATE, JointTask
from noiseflow.training.trainer import run_trainer

HERE = Path(__file__).parent
PHONES = {"S6": 800, "N6": 400, "night": 3200}
SCENES, SIZE, FRAMES = 12, "512x512", 6
PATCH, MARGIN = 32, 4
"""The flow of `fit --noisy-only` sees the inner 24×24 pixels of patches; so does the exact one."""

REPEATS = 4
PAIRS = 50_000
BOUNDS = {"variance": 0.02, "mass": 0.01, "psnr": -0.1}
KINDS = ("unbiased", "published", "exact")


def command() -> None:
    """Simulate, train, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("noisy-only-work"), help="folder for data and runs")
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    parser.add_argument("--quick", action="store_true", help="one seed, a fifth of the steps: some minutes")
    parser.add_argument("--timed", action="store_true", help="only take the time of a default run on 20 instances")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of data and training, comma-separated")
    parser.add_argument("--only", help="some of the phones, comma-separated; writes no table")
    options = parser.parse_args()
    if options.timed:
        timed(options.work)
        return
    options.seeds = [0] if options.quick else [int(seed) for seed in options.seeds.split(",")]
    options.steps = {"denoiser": 200, "flow": 120, "joint": 60} if options.quick else {
        "denoiser": 1000, "flow": 600, "joint": 200}  # fmt: skip
    if options.quick:
        options.work = options.work.with_name(options.work.name + "-quick")
    phones = list(PHONES) if options.only is None else options.only.split(",")
    for seed in options.seeds:
        for phone in phones:
            prepare(phone, seed, options)
    if options.only is not None:
        return
    found = {
        phone: [json.loads((options.work / phone / str(seed) / "scores.json").read_text()) for seed in options.seeds]
        for phone in PHONES
    }
    text, held = table(found, options)
    options.out.write_text(text)
    print(options.out)
    sys.exit(0 if held or options.quick else 1)


def prepare(phone: str, seed: int, options: argparse.Namespace) -> None:
    """Simulate, train and score one phone and seed, as far as that is not done."""
    work, steps = options.work / phone / str(seed), options.steps
    if (work / "scores.json").is_file():
        return
    torch.set_num_threads(1)
    began = time.process_time()
    data = work / "data"
    if not (data / "sensor.json").is_file():
        noiseflow("simulate", data, "--sensor", phone, "--isos", PHONES[phone], "--scenes", SCENES, "--size", SIZE,
                  "--frames", FRAMES, "--seed", seed, "--overwrite")  # fmt: skip
    common = ("--data", data, "--model", "noise_flow", "--device", "cpu")
    fit(work / "unbiased", *common, "--noisy-only", "--seed", seed, "--denoiser-steps", steps["denoiser"],
        "--steps", steps["flow"], "--patch", PATCH)  # fmt: skip
    fit(work / "noise2noise", *common, "--noisy-only", "--seed", 1000 + seed, "--denoiser-steps", steps["denoiser"],
        "--steps", 0, "--patch", PATCH)  # fmt: skip
    fit(work / "exact", *common, "--seed", seed, "--steps", steps["flow"], "--patch", PATCH - 2 * MARGIN)
    if not (work / "published" / "model.safetensors").is_file():
        joint(work, data, seed, steps["joint"])
    scores = score(work, data, phone)
    scores["cpu_seconds"] = time.process_time() - began
    (work / "scores.json").write_text(json.dumps(scores))


def noiseflow(*arguments: object) -> None:
    """A noiseflow command; what fails stops all."""
    code = main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


def fit(run: Path, *arguments: object) -> None:
    """Fit, go on with a fit, or nothing where it is finished."""
    if (run / "model.safetensors").is_file():
        return
    if (run / "config.yaml").is_file():
        noiseflow("fit", "--resume", run)
    else:
        noiseflow("fit", *arguments, "--out", run, "--overwrite")


def joint(work: Path, data: Path, seed: int, steps: int) -> None:
    """The published loss with our flow and denoiser, and with a head start for both.

    The denoiser goes on from the one of the unbiased run; the flow starts as the noise level function that maximises
    the likelihood of its residuals. So what differs is the loss, not the time it would need from scratch.
    """
    out = work / "published"
    out.mkdir(parents=True, exist_ok=True)
    dataset = open_bursts(data).select("train")
    denoiser = load_denoiser(work / "unbiased" / "denoiser.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = noise_flow(dataset.conditions, 4)
    frames, shot = collate_frames([BurstPatches(dataset.bursts, PATCH, seed + 1, 200)[i] for i in range(200)])
    with torch.no_grad():
        found = denoise(denoiser, frames[:, 0], shot).clamp(0, 1)
    flow.start_from(fit_noise_level(frames[:, 1], shot.replace(clean=found)))
    for network in (flow, denoiser):
        network.to(memory_format=torch.channels_last)
    task = JointTask(flow, denoiser, denoiser_steps=0, steps=steps, learning_rate=JOINT_RATE, seed=seed)
    batches = BurstDataModule(dataset.bursts, patch=PATCH, batch=12, steps=steps, seed=seed)
    with open_progress() as progress:
        run_trainer(task, batches, out=out, steps=steps, device="cpu", progress=progress,
                    clip=None)  # fmt: skip
    save(denoiser.eval(), out / "denoiser.safetensors")
    save(flow.eval(), out / "model.safetensors")


def score(work: Path, data: Path, phone: str) -> dict:
    """Everything that the table needs of one phone and seed."""
    by_scene: dict[str, list[Pair]] = {}
    for frame in open_dataset(data).select("test").frames:
        by_scene.setdefault(frame.scene, []).append(frame.read())
    pairs = [members[0] for members in by_scene.values()]
    every = {frame.scene: frame for frame in open_dataset(data).frames}
    everywhere = [frame.read() for frame in every.values()]
    models = {kind: load(work / kind) for kind in KINDS}
    denoisers = {kind: load_denoiser(work / kind / "denoiser.safetensors")
                 for kind in ("unbiased", "published", "noise2noise")}  # fmt: skip
    clean = np.concatenate([pair.clean.numpy().reshape(-1) for pair in everywhere]).astype(np.float64)
    return {
        "pairs": training_pairs(data),
        "values": np.bincount(tenth(clean), minlength=10).tolist(),
        "truth": true_variance(phone, clean),
        "variance": {kind: model_variance(model, everywhere) for kind, model in models.items()},
        "mass": {kind: mass(models[kind], pairs) for kind in ("unbiased", "exact")},
        "psnr": {kind: psnr(denoiser, list(by_scene.values())) for kind, denoiser in denoisers.items()},
        "noisy_psnr": psnr(None, list(by_scene.values())),
        "scenes": len(pairs),
    }


def tenth(clean: np.ndarray) -> np.ndarray:
    """Which tenth of [0, 1] each value lies in."""
    return np.clip((clean * 10).astype(int), 0, 9)


def training_pairs(data: Path) -> list[int]:
    """Pairs of values in the training bursts, disjoint pairs of frames, by tenth of the clean signal."""
    counts = np.zeros(10, int)
    for frame in open_dataset(data).select("train").frames:
        counts += np.bincount(tenth(frame.read().clean.numpy().reshape(-1)), minlength=10)
    return (counts // 2).tolist()


def true_variance(phone: str, clean: np.ndarray) -> list[float]:
    """Variance of the phone's recorded noise, from its exact code probabilities on a grid of signals, by tenth."""
    sensor, iso = SENSORS[phone], PHONES[phone]
    codes = np.arange(sensor.max_code + 1)
    grid, place = np.unique(np.round(clean * 4000) / 4000, return_inverse=True)
    probability = np.exp(sensor.log_pmf(codes[None], grid[:, None], iso))
    mean = probability @ (codes * sensor.lsb)
    variance = probability @ (codes * sensor.lsb) ** 2 - mean**2
    return pooled(tenth(clean), (mean - grid)[place], variance[place])


def pooled(which: np.ndarray, mean: np.ndarray, variance: np.ndarray | float) -> list[float]:
    """Variance of everything in a tenth, from mean and variance of every value."""
    count = np.maximum(np.bincount(which, minlength=10), 1)
    first = np.bincount(which, mean, 10) / count
    second = np.bincount(which, mean**2 + variance, 10) / count
    return (second - first**2).tolist()


@torch.no_grad()
def model_variance(model: FittedModel, pairs: list[Pair]) -> list[float]:
    """Variance of the model's recorded noise on clean images, by tenth, `REPEATS` draws an image."""
    which, noise = [], []
    for number, pair in enumerate(pairs):
        _, shot = collate([pair])
        assert isinstance(model, Flow)
        for repeat in range(REPEATS):
            drawn = model.sample(shot, seed=1000 * repeat + number, dtype=torch.float32)
            stored = quantise(shot.clean.double() + drawn.double(), shot)
            noise.append((stored.double() - shot.clean.double()).numpy().reshape(-1))
            which.append(tenth(shot.clean.double().numpy().reshape(-1)))
    return pooled(np.concatenate(which), np.concatenate(noise), 0.0)


@torch.no_grad()
def mass(model: FittedModel, pairs: list[Pair]) -> list[float]:
    """−log mass in nats per value, image by image."""
    assert isinstance(model, Flow)
    values = []
    for pair in pairs:
        noisy, shot = collate([pair])
        total = 0.0
        for top in range(0, noisy.shape[-2], 128):
            for left in range(0, noisy.shape[-1], 128):
                tile = noisy[..., top : top + 128, left : left + 128]
                part = shot.crop(top, left, *tile.shape[-2:])
                total -= float(model.mass_bound(tile, part, seed=0).log_mass.sum())
        values.append(total / noisy.numel())
    return values


@torch.no_grad()
def psnr(denoiser: Denoiser | None, scenes: list[list[Pair]]) -> list[float]:
    """PSNR against the exact clean image, peak 1, found images clipped to [0, 1]; dB, scene by scene."""
    values = []
    for pairs in scenes:
        noisy, shot = collate(pairs)
        found = noisy if denoiser is None else denoise(denoiser, noisy, shot).clamp(0, 1)
        values.append(-10 * math.log10(float((found.double() - shot.clean.double()).square().mean())))
    return values


def over_seeds(values: list[float], digits: int) -> str:
    """Mean and the half width of its 95 % t interval over seeds."""
    interval = scene_interval(values, [1] * len(values))
    half = "" if interval.high is None else f" ± {interval.high - interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f}{half}"


def table(found: dict[str, list[dict]], options: argparse.Namespace) -> tuple[str, bool]:
    """The results as Markdown, and whether the bounds held."""
    seeds, steps = len(options.seeds), options.steps
    minutes = sum(run["cpu_seconds"] for runs in found.values() for run in runs) / 60
    scenes = found["S6"][0]["scenes"]
    lines = [
        "# Noise models from noisy frames only",
        "",
        f"Written by `python experiments/noisy_only/run.py{' --quick' if options.quick else ''}`: {seeds} "
        f"seed{'s' if seeds > 1 else ''} (of data and training alike), {SCENES} scenes of {SIZE}, {FRAMES} frames "
        f"each, {SCENES - scenes} to train on; denoiser {steps['denoiser']} steps, flow {steps['flow']}, joint loss "
        f"{steps['joint']} steps after them. Scored on the {scenes} other scenes. {minutes:.0f} minutes of one core. "
        "± is the half width of the 95 % t interval over seeds.",
        "",
        "## Variance of recorded noise over the truth, by tenth of the clean signal",
        "",
        f"Mean over seeds, and in brackets the value furthest from 1; {REPEATS} draws on each of the {SCENES} clean "
        f"images, which none but the exact flow has seen. Tenths with "
        f"fewer than {PAIRS:,} pairs of values in the training frames are left out.",
        "",
        "| phone | trained | " + " | ".join(f"{k / 10:.1f}–{(k + 1) / 10:.1f}" for k in range(10)) + " |",
        "|---" * 12 + "|",
    ]
    worst: dict[str, dict[str, float]] = {}
    for phone, runs in found.items():
        worst[phone] = {}
        for kind in KINDS:
            ratios = np.array([run["variance"][kind] for run in runs]) / np.array([run["truth"] for run in runs])
            counted = np.array([run["pairs"] for run in runs]) >= PAIRS
            cells = []
            for k in range(10):
                some = ratios[counted[:, k], k]
                cells.append(f"{some.mean():.3f} ({some[np.abs(some - 1).argmax()]:.3f})" if some.size else "–")
            worst[phone][kind] = float(np.abs(ratios - 1)[counted].max())
            lines.append(f"| {phone} ISO {PHONES[phone]} | {kind} | " + " | ".join(cells) + " |")
    lines += ["", "## Mass and denoiser", "",
              "*mass*: nats per value on held-out scenes with exact clean images, of the unbiased flow and of the same "
              "flow trained with exact clean images; PSNR in dB against the exact clean image.", "",
              "| phone | mass, unbiased | mass, exact | difference | PSNR noisy | Noise2Noise alone | unbiased "
              "| published |",
              "|---" * 8 + "|"]  # fmt: skip
    held, verdicts = True, []
    for phone, runs in found.items():
        masses = {kind: [float(np.mean(run["mass"][kind])) for run in runs] for kind in ("unbiased", "exact")}
        lost = [u - e for u, e in zip(masses["unbiased"], masses["exact"], strict=True)]
        db = {kind: [float(np.mean(run["psnr"][kind])) for run in runs] for kind in runs[0]["psnr"]}
        noisy = [float(np.mean(run["noisy_psnr"])) for run in runs]
        gained = [u - n for u, n in zip(db["unbiased"], db["noise2noise"], strict=True)]
        lines.append(
            f"| {phone} ISO {PHONES[phone]} | {over_seeds(masses['unbiased'], 4)} | {over_seeds(masses['exact'], 4)} | "
            f"{over_seeds(lost, 4)} | {over_seeds(noisy, 2)} | {over_seeds(db['noise2noise'], 2)} | "
            f"{over_seeds(db['unbiased'], 2)} | {over_seeds(db['published'], 2)} |"
        )
        checks = (
            ("variance furthest from the truth", worst[phone]["unbiased"], BOUNDS["variance"], 1),
            ("mass above the exact one, worst seed", max(lost), BOUNDS["mass"], 1),
            ("PSNR above Noise2Noise alone, worst seed", min(gained), BOUNDS["psnr"], -1),
        )
        for what, value, bound, sign in checks:
            good = sign * value <= sign * bound
            held = held and good
            verdicts.append(f"- {phone}: {what}: {value:.4f} (bound {bound}): {'yes' if good else 'NO'}")
        verdicts.append(f"- {phone}: variance furthest from the truth, published {worst[phone]['published']:.4f}, "
                        f"exact {worst[phone]['exact']:.4f}")  # fmt: skip
    return "\n".join([*lines, "", *verdicts]) + "\n", held


def timed(work: Path) -> None:
    """A default run on 20 instances of 8 frames, with its time."""
    data, run = work / "timed-data", work / "timed-run"
    if not (data / "sensor.json").is_file():
        noiseflow("simulate", data, "--cameras", "S6,N6", "--isos", "100,800", "--scenes", 5, "--size", "512x512",
                  "--frames", 8, "--seed", 0, "--overwrite")  # fmt: skip
    began, used = time.monotonic(), time.process_time()
    noiseflow("fit", "--noisy-only", "--data", data, "--split", "all", "--model", "noise_flow", "--device", "cpu",
              "--out", run, "--overwrite")  # fmt: skip
    print(f"{time.monotonic() - began:.0f} s, {time.process_time() - used:.0f} s of processor time")


if __name__ == "__main__":
    command()
