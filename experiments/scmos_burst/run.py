"""Gain of a scientific CMOS camera from eleven noisy frames, and what its map of the read noise is worth.

The folder holds `sample_11f_256x256_be16.dax` (11 frames of 256×256 big-endian 16-bit codes, no header) and
`calib_offset_var_gain_256x256.npy` (offset, variance and gain of every pixel, transposed against the frames). No clean
frame is used. Run

    python experiments/scmos_burst/run.py --data DIR

The table beside this file is written by that command, in a minute on one core; `README.md` says what is in it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from noiseflow.datasets import open_bursts
from noiseflow.datasets.burst_checks import check_frames
from noiseflow.models import NoiseLevelFunction
from noiseflow.shot import Shot
from noiseflow.training.noise_level import fit_noise_level

HERE = Path(__file__).parent
WHITE = 1023.0
PEDESTAL = 11.0
"""DN by which the true zero lies above the stored offset."""

BLOCK = 16
FITTED, SCORED, OTHERS = (0, 1, 2, 3, 4, 5), (6, 7, 8, 9, 10), 5


def write_burst(data: Path, folder: Path, pedestal: float) -> None:
    """The burst as a folder with `bursts.csv`."""
    frames = np.fromfile(data / "sample_11f_256x256_be16.dax", ">u2").reshape(11, 256, 256).astype(np.uint16)
    offset, variance, gain = np.load(data / "calib_offset_var_gain_256x256.npy", allow_pickle=False).transpose(0, 2, 1)
    for i, frame in enumerate(frames):
        np.save(folder / f"frame{i}.npy", frame)
    for name, values in (("offset", offset + pedestal), ("variance", variance), ("gain", gain)):
        np.save(folder / f"{name}.npy", values)
    (folder / "bursts.csv").write_text(
        f"frames,camera,iso,black,white,offset,gain,variance\nframe*.npy,scmos,100,0,{WHITE:g},offset.npy,gain.npy,variance.npy\n"
    )


def read(data: Path, pedestal: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Frames `(11, 256, 256)` in DN above the pixel's zero, and the maps: offset and variance in DN, relative gain."""
    with tempfile.TemporaryDirectory() as folder:
        write_burst(data, Path(folder), pedestal)
        (burst,) = open_bursts(folder).bursts
        frames = burst.read()[:, 0].double().numpy() * WHITE
        maps = {name: values[0].double().numpy() for name, values in burst.read_maps().items()}
    maps["offset"] *= WHITE
    maps["variance"] *= WHITE**2
    return frames - maps["offset"], maps


def steady(light: np.ndarray, maps: dict[str, np.ndarray], limit: float) -> np.ndarray:
    """Pixels that do not blink: their *neighbours* vary no more than noise does.

    Each pixel's variance over the frames is divided by what a gain of 2.2 DN/e⁻ and its read noise predict. Where the
    mean of that over the 24 pixels around a pixel, itself left out, exceeds `limit`, something blinks there. The
    pixel's own noise has no part in its selection, so that its variance is not biased by it.
    """
    if not np.isfinite(limit):
        return np.ones(light.shape[1:], bool)
    smooth = ndimage.uniform_filter(light.mean(axis=0), 5)
    ratio = light.var(axis=0, ddof=1) / (maps["variance"] + 2.2 * np.maximum(smooth, 0))
    around = (25 * ndimage.uniform_filter(ratio, 5) - ratio) / 24
    return around <= limit


def terms(light: np.ndarray, maps: dict[str, np.ndarray], keep: np.ndarray) -> np.ndarray:
    """Weighted sums over blocks, `(6, blocks)`: of 1, x̂, ẑ, ẑ·x̂, s² − v and ẑ·(s² − v).

    The frames are divided into two sets, in ten ways. The variance s² within one set and the mean of the other have no
    noise in common, nor have the two means: with x the light, g the relative gain, v the map of the read noise, x̂ the
    mean of the first set times g and ẑ the mean of the second, E[ẑ·(s² − v)] = K·E[g·x²] and E[ẑ·x̂] = E[g·x²].
    """
    smooth = np.maximum(ndimage.uniform_filter(light.mean(axis=0), 5), 0)
    weight = keep / np.square(maps["variance"] + 2.2 * smooth)
    total = np.zeros((6, *keep.shape))
    rng = np.random.default_rng(0)
    for _ in range(10):
        order = rng.permutation(len(light))
        for some, others in ((order[:6], order[6:]), (order[5:], order[:5])):
            excess = light[some].var(axis=0, ddof=1) - maps["variance"]
            x, z = maps["gain"] * light[some].mean(axis=0), light[others].mean(axis=0)
            total += weight * np.stack([np.ones_like(x), x, z, z * x, excess, z * excess])
    return in_blocks(total)


def in_blocks(values: np.ndarray) -> np.ndarray:
    """Sums over blocks of 16×16 pixels, `(…, blocks)`."""
    *rest, h, w = values.shape
    return values.reshape(*rest, h // BLOCK, BLOCK, w // BLOCK, BLOCK).sum(axis=(-3, -1)).reshape(*rest, -1)


def gains(sums: np.ndarray) -> np.ndarray:
    """K in DN/e⁻ with the line through zero, and with a free intercept (which needs to know no offset)."""
    one, x, z, zx, e, ze = sums
    return np.stack([ze / zx, (ze - z * e / one) / (zx - z * x / one)])


def resampled(blocks: np.ndarray, repetitions: int = 2000) -> np.ndarray:
    """Bootstrap sums, `(…, repetitions)`, from blocks drawn with replacement."""
    rng = np.random.default_rng(1)
    counts = rng.multinomial(blocks.shape[-1], np.full(blocks.shape[-1], 1 / blocks.shape[-1]), repetitions)
    return blocks @ counts.T


def with_interval(blocks: np.ndarray) -> list[str]:
    """Both gains with their 95 % intervals."""
    values = gains(blocks.sum(axis=-1))
    low, high = np.quantile(gains(resampled(blocks)), (0.025, 0.975), axis=-1)
    return [f"{v:.2f} ({a:.2f} to {b:.2f})" for v, a, b in zip(values, low, high, strict=True)]


def shot_of(light: np.ndarray, others: list[int], maps: dict[str, np.ndarray], keep: np.ndarray, known: bool) -> Shot:
    """The condition of a frame: clean is the mean of `others`; pixels in a row."""
    clean = light[others].mean(axis=0) + maps["offset"]
    inflation = 1 + 1 / len(others)
    given = {"offset": maps["offset"] / WHITE, "gain": maps["gain"]}
    given |= {"variance": maps["variance"] * inflation / WHITE**2} if known else {}
    row = {name: torch.from_numpy(values[keep])[None, None, None] for name, values in given.items()}
    clean_row = torch.from_numpy(clean[keep] / WHITE)[None, None, None]
    return Shot.of(clean_row, camera="scmos", iso=100.0, lsb=1 / WHITE, **row)


def masses(light: np.ndarray, maps: dict[str, np.ndarray], keep: np.ndarray, known: bool) -> tuple[np.ndarray, float]:
    """Held-out mass of every kept pixel, nats, mean over the scored frames, and the fitted gain, DN/e⁻."""
    stored = torch.from_numpy((light + maps["offset"])[:, keep] / WHITE)[:, None, None, None]
    shots = [shot_of(light, [j for j in FITTED if j != i], maps, keep, known) for i in FITTED]
    level = fit_noise_level(torch.cat([stored[i] for i in FITTED]), shots[0].join(*shots[1:]))
    model = NoiseLevelFunction([("scmos", 100.0)], channels=1)
    model.level.copy_from(level)
    shot = shot_of(light, list(FITTED[:OTHERS]), maps, keep, known)
    with torch.no_grad():
        maps_of_mass = [model.log_mass_map(stored[i], shot)[0, 0].numpy() for i in SCORED]
    return -np.mean(maps_of_mass, axis=0), float(level.log_a.detach().exp()) * WHITE / (1 + 1 / OTHERS)


def command() -> None:
    """Fit, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the burst")
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    options = parser.parse_args()
    lines = ["## Gain, DN/e⁻", ""]
    lines += ["| pixels left out | offset, DN above the stored | kept | signal, DN: 5 %, median, 95 % |"]
    lines[-1] += " through zero (95 %) | free intercept (95 %) |"
    lines += ["|---|---|---|---|---|---|"]
    cases = [(1.3, PEDESTAL), (1.15, PEDESTAL), (1.6, PEDESTAL), (3.0, PEDESTAL), (np.inf, PEDESTAL)]
    cases += [(1.3, PEDESTAL + step) for step in (-2, -1, 1, 2)]
    for limit, pedestal in cases:
        light, maps = read(options.data, pedestal)
        keep = steady(light, maps, limit)
        signal = np.quantile(ndimage.uniform_filter(light.mean(axis=0), 5)[keep], (0.05, 0.5, 0.95))
        rule = f"neighbours' variance over {limit:g} times the noise" if np.isfinite(limit) else "none"
        row = [rule, f"{pedestal:g}", f"{keep.mean():.1%}", ", ".join(f"{v:.1f}" for v in signal)]
        lines.append("| " + " | ".join([*row, *with_interval(terms(light, maps, keep))]) + " |")
    light, maps = read(options.data, PEDESTAL)
    keep = steady(light, maps, 1.3)
    lines += ["", "## Held-out mass, nats per value", ""]
    known, gain_known = masses(light, maps, keep, True)
    constant, gain_constant = masses(light, maps, keep, False)
    lines += ["| read noise | mass | gain of the fit, DN/e⁻ |", "|---|---|---|"]
    lines += [f"| map, one value a pixel | {known.mean():.4f} | {gain_known:.2f} |"]
    lines += [f"| one fitted constant | {constant.mean():.4f} | {gain_constant:.2f} |"]
    difference = np.zeros(keep.shape)
    difference[keep] = constant - known
    sums = resampled(in_blocks(np.stack([difference, keep.astype(float)])))
    low, high = np.quantile(sums[0] / sums[1], (0.025, 0.975))
    lines += ["", f"Gained by the map: {difference.sum() / keep.sum():.4f} ({low:.4f} to {high:.4f})."]
    lines += ["", "## Guard rails", ""]
    for what, pixels in (("all pixels", np.ones_like(keep)), ("blinking pixels replaced by their mean", keep)):
        frames = np.where(pixels, light, light.mean(axis=0))[:, None] / WHITE
        found = check_frames(frames, 1 / WHITE)
        lines.append(f"- {what}: " + ("; ".join(f"{f.kind}: {f.sentence}" for f in found) or "nothing found"))
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    command()
