"""The guard rails of bursts: does each fire on what it is for, and do they keep quiet on clean bursts?

Every burst is drawn from one seed: a virtual sensor (five phones, the night phone, one with row noise, one whose noise
neighbours share, one with heavy tails) at one of its ISOs, a scene of 256×256 mosaic pixels, and 2, 3, 5 or 10 frames.
Twenty more are made to trigger each guard rail, on the same sensors:

- moved camera: the scene is shifted by 1 to 6 mosaic pixels, in any direction, from a random frame on;
- changed light: 4 to 10 % from the first to the last frame, brighter or darker, in equal steps or in one;
- flicker: a brightness wave along the rows of amplitude 8 to 20 % (what an exposure of about a period leaves of light
  that flickers fully), 0.7 to 6 waves a frame, 90° to 270° further in every frame;
- repeated frames: one frame is the one before it, wholly or in its lower half, or, of four frames or more, the
  rounded mean of its neighbours;
- denoised frames: every packed plane through a Gaussian of σ 0.6 to 1.2, a median of 3×3, a bilateral filter, or
  non-local means (h 1.5 σ); or, of three frames or more, each frame mixed with half of the filtered one before it.

A guard rail must fire on all of its twenty, and at most 5 of the 200 clean bursts may have any finding. Run

    python experiments/burst_checks/run.py

The table beside this file is written by that command, in four minutes on one core. It exits with 1 where a bound is
missed. Thresholds were set on seeds from 1000 to 8100 and 40000 to 42400 and fixed before the judging seeds, 30000 on,
were drawn. (Two earlier judgings were missed. On seeds 0 to 449, 18 of 20 moved and 14 of 20 denoised bursts: a ratio
of variances at edges, which edge-preserving filters raise too, gave way to the cross-correlation. On seeds 20000 to
20449, 19 of 20 denoised ones: the noise is now measured where bright pixels, and not all pixels, are flattest.)
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import ndimage

from noiseflow.datasets.burst_checks import Finding, check_frames
from noiseflow.raw.cfa import pack
from noiseflow.scenes import mosaic, scene
from noiseflow.sensors import SENSORS, CorrelatedSensor

HERE = Path(__file__).parent
SIZE = 256
KINDS = ("moved camera", "changed light", "flicker", "repeated frames", "denoised frames")
COUNTS = (2, 3, 5, 10)
MARGIN = 8


class Made:
    """A burst in the making: the sensor, and the clean mosaic of every frame."""

    def __init__(self, seed: int, fewest: int = 2) -> None:
        self.rng = np.random.default_rng([20, seed])
        self.sensor = SENSORS[str(self.rng.choice(list(SENSORS)))]
        self.iso = int(self.rng.choice(self.sensor.isos))
        self.count = int(self.rng.choice([n for n in COUNTS if n >= fewest]))
        side = SIZE + 2 * MARGIN
        self.picture = scene(int(self.rng.integers(2**31)), side, side).astype(np.float64)
        self.what = f"{self.sensor.name} ISO {self.iso}, {self.count} frames"

    def clean(self, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """The clean mosaic of the scene, shifted."""
        picture = self.picture
        if any(shift):
            picture = np.maximum(ndimage.shift(picture, (*shift, 0), order=3, mode="nearest"), 0)
        inner = picture[MARGIN:-MARGIN, MARGIN:-MARGIN]
        return mosaic(inner.astype(np.float32), self.sensor.cfa).astype(np.float64)

    def record(self, clean: np.ndarray) -> np.ndarray:
        """One noisy frame, packed."""
        frame = self.sensor.record(clean, self.iso, self.rng).astype(np.float32)
        return pack(torch.from_numpy(frame), self.sensor.cfa).double().numpy()

    def grid(self) -> tuple[float, float, float]:
        """Code width and ends of the frames."""
        if isinstance(self.sensor, CorrelatedSensor):
            return 0.0, -1e6, 1e6
        lsb = 1 / (self.sensor.white_dn - self.sensor.black_dn)
        return lsb, -self.sensor.black_dn * lsb if self.sensor.keep_pedestal else 0.0, 1.0

    def rounded(self, frames: np.ndarray) -> np.ndarray:
        """Values back on the codes."""
        lsb, low, high = self.grid()
        return np.clip(np.round(frames / lsb) * lsb if lsb else frames, low, high)


def clean_burst(seed: int) -> tuple[Made, np.ndarray]:
    """Frames as they should be."""
    made = Made(seed)
    clean = made.clean()
    return made, np.stack([made.record(clean) for _ in range(made.count)])


def moved(seed: int) -> tuple[Made, np.ndarray]:
    """The scene shifted from one frame on."""
    made = Made(seed)
    distance, angle = made.rng.uniform(1.0, 6.0), made.rng.uniform(0, 2 * np.pi)
    shift = (distance * np.sin(angle), distance * np.cos(angle))
    first = int(made.rng.integers(1, made.count))
    made.what += f", {distance:.2f} mosaic pixels"
    before, after = made.clean(), made.clean(shift)
    return made, np.stack([made.record(before if i < first else after) for i in range(made.count)])


def lit(seed: int) -> tuple[Made, np.ndarray]:
    """The light drifting, or changing at once."""
    made = Made(seed)
    change = made.rng.uniform(0.04, 0.10) * made.rng.choice([-1, 1])
    steps = np.linspace(0, 1, made.count)
    if made.rng.random() < 0.5:
        steps = (steps > made.rng.uniform(0, 0.99)).astype(float)
    made.what += f", {change:+.1%}"
    clean = made.clean()
    return made, np.stack([made.record(clean * (1 + change * step)) for step in steps])


def flickering(seed: int) -> tuple[Made, np.ndarray]:
    """A brightness wave along the rows, moving from frame to frame."""
    made = Made(seed)
    amplitude, waves = made.rng.uniform(0.08, 0.20), made.rng.uniform(0.7, 6.0)
    phase, step = made.rng.uniform(0, 2 * np.pi), made.rng.uniform(np.pi / 2, 3 * np.pi / 2)
    rows = np.arange(SIZE)[:, None] / SIZE
    made.what += f", {amplitude:.1%}, {waves:.1f} waves"
    clean = made.clean()
    frames = [
        made.record(clean * (1 + amplitude * np.sin(2 * np.pi * waves * rows + phase + i * step)))
        for i in range(made.count)
    ]
    return made, np.stack(frames)


def repeated(seed: int) -> tuple[Made, np.ndarray]:
    """A frame that is not one of its own."""
    made, frames = clean_burst(seed)
    i = int(made.rng.integers(1, made.count))
    how = ["wholly", "lower half", "mean of neighbours"][int(made.rng.integers(3 if made.count > 3 else 2))]
    if how == "wholly":
        frames[i] = frames[i - 1]
    elif how == "lower half":
        frames[i, :, SIZE // 4 :] = frames[i - 1, :, SIZE // 4 :]
    else:
        i = min(i, made.count - 2)
        frames[i] = made.rounded((frames[i - 1] + frames[i + 1]) / 2)
    made.what += f", {how}"
    return made, frames


def denoised(seed: int) -> tuple[Made, np.ndarray]:
    """Every frame filtered."""
    made, frames = clean_burst(seed)
    hows = ["Gaussian", "median", "bilateral", "non-local means"] + ["in time"] * (made.count > 2)
    how = str(made.rng.choice(hows))
    if how == "in time":
        for i in range(1, made.count):
            frames[i] = 0.5 * frames[i] + 0.5 * frames[i - 1]
    else:
        sigma = made.rng.uniform(0.6, 1.2)
        level = made.sensor.noise_level(made.iso)
        frames = np.stack([[filtered(plane, how, sigma, *level) for plane in frame] for frame in frames])
    made.what += f", {how}"
    return made, made.rounded(frames)


def filtered(plane: np.ndarray, how: str, sigma: float, a: float, b: float) -> np.ndarray:
    """One plane through one filter; those that need to know the noise see it with unit variance (Anscombe)."""
    if how == "Gaussian":
        return ndimage.gaussian_filter(plane, sigma)
    if how == "median":
        return ndimage.median_filter(plane, 3)
    stable = 2 / a * np.sqrt(np.maximum(a * plane + 0.375 * a * a + b, 0))
    if how == "bilateral":
        stable = cv2.bilateralFilter(stable.astype(np.float32), 5, 2.5, 1.5).astype(np.float64)
    else:
        scale = 60000 / stable.max()
        codes = np.round(stable * scale).astype(np.uint16)
        strength = np.array([1.5 * scale], np.float32)
        stable = cv2.fastNlMeansDenoising(codes, strength, None, 3, 11, cv2.NORM_L1) / scale
    return (np.square(stable * a / 2) - 0.375 * a * a - b) / a


MAKERS = dict(zip(KINDS, (moved, lit, flickering, repeated, denoised), strict=True))


def findings(made: Made, frames: np.ndarray) -> list[Finding]:
    """What the guard rails say."""
    return check_frames(frames, *made.grid())


def command() -> None:
    """Judge, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=int, default=200, help="clean bursts")
    parser.add_argument("--made", type=int, default=20, help="bursts made to trigger each guard rail")
    parser.add_argument(
        "--seed", type=int, default=30000, help="first seed; judge with the default, develop with others"
    )
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    parser.add_argument("--verbose", action="store_true", help="print every burst that is not as it should be")
    options = parser.parse_args()
    rows, good = [], True
    for number, (kind, make) in enumerate(MAKERS.items()):
        found: Counter[str] = Counter()
        for k in range(options.made):
            made, frames = make(options.seed + 200 + 50 * number + k)
            kinds = findings(made, frames)
            found.update(f.kind for f in kinds)
            if options.verbose:
                print(kind, made.what, "|", "; ".join(f"{f.kind}: {f.sentence}" for f in kinds), flush=True)
        good &= found[kind] == options.made
        rows.append((f"made: {kind}", options.made, *(found[k] for k in KINDS), "–"))
    found, anything = Counter(), 0
    for k in range(options.clean):
        made, frames = clean_burst(options.seed + k)
        kinds = findings(made, frames)
        found.update(f.kind for f in kinds)
        anything += bool(kinds)
        if options.verbose and kinds:
            print("clean", made.what, "|", "; ".join(f"{f.kind}: {f.sentence}" for f in kinds), flush=True)
    good &= anything <= 5 * options.clean / 200
    rows.append(("clean", options.clean, *(found[k] for k in KINDS), anything))
    table = f"| bursts | n | {' | '.join(KINDS)} | any |\n|---|---|{'---|' * len(KINDS)}---|\n"
    table += "".join("| " + " | ".join(map(str, row)) + " |\n" for row in rows)
    options.out.write_text(f"Seeds from {options.seed}. Number of bursts with each finding.\n\n{table}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    command()
