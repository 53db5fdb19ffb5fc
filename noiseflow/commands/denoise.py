"""`noiseflow denoise`: train denoisers, use them, and compare what noise they are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from noiseflow.options import DenoiseApplyOptions, DenoiseCompareOptions, DenoiseFitOptions
from noiseflow.progress import open_progress


def fit(options: DenoiseFitOptions) -> int:
    """Train a denoiser, save everything, print its scores; 130 if Ctrl-C ended it early."""
    from noiseflow.training.fit_denoiser import fit_denoiser

    with open_progress() as progress:
        finished = fit_denoiser(options, progress)
    return _close(finished, options.out)


def resume(folder: str, changes: dict[str, Any]) -> int:
    """Go on with a run; `changes` are the options given beside `--resume`."""
    from noiseflow.training.fit_denoiser import resume_denoiser

    with open_progress() as progress:
        finished = resume_denoiser(folder, changes, progress)
    return _close(finished, folder)


def apply(network: str, images: list[str], options: DenoiseApplyOptions) -> int:
    """Denoise files and folders."""
    from noiseflow.commands import denoise_apply

    return denoise_apply.run(network, images, options)


def compare(options: DenoiseCompareOptions) -> int:
    """Train on several sources, print the table; 130 if Ctrl-C ended it early."""
    from rich.console import Console

    from noiseflow.denoise.comparison import terminal_table
    from noiseflow.training.compare_denoisers import compare_denoisers

    with open_progress() as progress:
        results = compare_denoisers(options, progress)
    if results is None:
        print("stopped early; the same command goes on")
        return 130
    console = Console()
    console.print(terminal_table(results))
    console.print(f"{options.out}/table.md", soft_wrap=True, highlight=False)
    return 0


def _close(finished: bool, out: str) -> int:
    from noiseflow.training.fit_denoiser import FILE, SCORES

    if finished:
        scores = json.loads((Path(out) / SCORES).read_text())
        for shot in [] if "psnr" not in scores else [*scores["by_shot"], scores]:
            name = f"{shot['camera']} ISO {shot['iso']:g}" if "camera" in shot else f"all, {scores['on']}"
            print(
                f"{name}: PSNR {shot['psnr']:.2f} dB (noisy {shot['noisy_psnr']:.2f}), SSIM {shot['ssim']:.4f} "
                f"(noisy {shot['noisy_ssim']:.4f}), {shot['images']} images"
            )
    environment = json.loads((Path(out) / "environment.json").read_text())
    if "drawing_share" in environment:
        share = 100 * environment["drawing_share"]
        print(f"a step took {environment['step_ms']:.0f} ms, {share:.1f} % of it to draw noise")
    print(f"{out}/{FILE}")
    if not finished:
        print(
            "stopped early; the denoiser as it was at the last step is saved, and "
            f"noiseflow denoise fit --resume {out} goes on"
        )
    return 0 if finished else 130
