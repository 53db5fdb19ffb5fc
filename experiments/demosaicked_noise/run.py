"""What demosaicing makes of white noise: its autocovariance, from theory and measured.

Bilinear demosaicing is linear: each colour at each of the four Bayer sites is a weighted mean of its nearest pixels.
White raw noise of variance σ² therefore becomes noise with a known autocovariance, averaged over the sites. 32 frames
of 512×512, grey at half the white level, Gaussian noise of 2 % of it, are rendered as `noiseflow synthesize --srgb`
does; the tone curve, nearly straight over so little noise, scales it. Run

    python experiments/demosaicked_noise/run.py

The picture and the table beside this file are written by that command. It exits with 1 where a measured value is more
than six standard errors from the theory.
"""

import sys
from pathlib import Path

import numpy as np

from noiseflow.raw.cfa import sites
from noiseflow.raw.render import render

HERE = Path(__file__).parent
LAG, FRAMES, SIDE, LEVEL, STD = 3, 32, 512, 0.5, 0.02
COLOUR_OF_SITE = (0, 1, 1, 2)  # R, G on R rows, G on B rows, B


def kernels(cfa: str) -> dict[tuple[int, int, int], dict[tuple[int, int], float]]:
    """Weights by row offset and column offset that give a colour at a site of the cell: equal ones, on the nearest."""
    cell = dict(zip(sites(cfa), COLOUR_OF_SITE, strict=True))
    found = {}
    for row, column in cell:
        for colour in range(3):
            near = [
                (dy * dy + dx * dx, (dy, dx))
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if cell[(row + dy) % 2, (column + dx) % 2] == colour
            ]
            least = min(distance for distance, _ in near)
            nearest = [offset for distance, offset in near if distance == least]
            found[row, column, colour] = {offset: 1 / len(nearest) for offset in nearest}
    return found


def theory(cfa: str, lag: int = LAG) -> np.ndarray:
    """`(3, 3, 2·lag + 1, 2·lag + 1)`: covariance of colour i here and j at an offset, σ² = 1, mean over sites."""
    weights = kernels(cfa)
    out = np.zeros((3, 3, 2 * lag + 1, 2 * lag + 1))
    for row, column in sites(cfa):
        for i in range(3):
            here = weights[row, column, i]
            for dy in range(-lag, lag + 1):
                for dx in range(-lag, lag + 1):
                    for j in range(3):
                        there = weights[(row + dy) % 2, (column + dx) % 2, j]
                        shared = (w * there.get((y - dy, x - dx), 0.0) for (y, x), w in here.items())
                        out[i, j, dy + lag, dx + lag] += sum(shared) / 4
    return out


def autocovariance(noise: np.ndarray, lag: int = LAG) -> np.ndarray:
    """`(3, 3, 2·lag + 1, 2·lag + 1)` of noise `(H, W, 3)` with zero mean."""
    height, width, _ = noise.shape
    middle = noise[lag:-lag, lag:-lag]
    out = np.empty((3, 3, 2 * lag + 1, 2 * lag + 1))
    for dy in range(-lag, lag + 1):
        for dx in range(-lag, lag + 1):
            there = noise[lag + dy : height - lag + dy, lag + dx : width - lag + dx]
            out[:, :, dy + lag, dx + lag] = middle.reshape(-1, 3).T @ there.reshape(-1, 3) / middle[..., 0].size
    return out


def measured(cfa: str, frames: int, side: int = SIDE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over frames of rendered noise's autocovariance, in units of σ² before the tone curve."""
    rng = np.random.default_rng(seed)
    slope = 1.055 / 2.4 * LEVEL ** (1 / 2.4 - 1)  # of the sRGB curve; its bend adds 3e-4 of the variance
    values = []
    for _ in range(frames):
        mosaic = LEVEL + STD * rng.standard_normal((side, side))
        picture = render(mosaic, cfa, (1.0, 1.0, 1.0)).astype(np.float64) / 255
        noise = (picture - picture.mean(axis=(0, 1)))[2:-2, 2:-2]  # OpenCV repeats the values at the border
        covariance = autocovariance(noise)
        covariance[range(3), range(3), LAG, LAG] -= 1 / (12 * 255**2)  # rounding to 8 bits
        values.append(covariance / (slope * STD) ** 2)
    return np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / np.sqrt(frames)


def main() -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    cfa = "RGGB"
    want = theory(cfa)
    got, error = measured(cfa, FRAMES)
    figure, axes = plt.subplots(3, 3, figsize=(9, 9), layout="constrained")
    lines = ["| colour | variance | 1 right | 1 down | 1 right, 1 down | 2 right |", "|---|---|---|---|---|---|"]
    places = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2))
    for colour, name in enumerate(("red", "green", "blue")):
        maps = (want[colour, colour], got[colour, colour], (got - want)[colour, colour] / error[colour, colour])
        for axis, values, title in zip(axes[colour], maps, ("theory", "measured", "difference / s.e."), strict=True):
            limit = 6 if "s.e." in title else 0.75
            axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=(-3.5, 3.5, 3.5, -3.5))
            axis.set_title(f"{name}, {title}")
            for (dy, dx), value in np.ndenumerate(values):
                axis.text(dx - LAG, dy - LAG, f"{value:.2f}".replace("0.00", "0"), ha="center", va="center", fontsize=7)
        row = [f"{want[colour, colour, LAG + dy, LAG + dx]:.4f} / {got[colour, colour, LAG + dy, LAG + dx]:.4f}"
               for dy, dx in places]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(row)} |")
    figure.savefig(HERE / "autocovariance.png", dpi=80)
    worst = float(np.abs((got - want) / error).max())
    lines += ["", f"Theory / measured, in units of the raw noise's variance; {FRAMES} frames of {SIDE}×{SIDE}, {cfa}. "
              f"The largest of all {want.size} differences, colours between each other included, is {worst:.1f} "
              "standard errors."]  # fmt: skip
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    sys.exit(int(worst > 6))


if __name__ == "__main__":
    main()
