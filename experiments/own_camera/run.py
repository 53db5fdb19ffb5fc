"""The three commands of the page *Your own camera in three commands*, on a virtual camera, and the page's pictures.

    python experiments/own_camera/run.py

writes `docs/tutorials/your-own-camera-*.png`; frames, profile and report go into a temporary folder, or `--work`.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from noiseflow.calibration import FrameSet, calibrate
from noiseflow.cli import main
from noiseflow.raw.cfa import pack
from noiseflow.raw.dng import write_dng
from noiseflow.raw.read import read_frame
from noiseflow.report.calibration_figures import read_figure, transfer_figure
from noiseflow.report.figures import draw_picture, drawn
from noiseflow.scenes import RAW_BALANCE as BALANCE
from noiseflow.scenes import mosaic, scene
from noiseflow.sensors.virtual import VirtualSensor

DOCS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
BLACK, WHITE, ISO, SIDE = 512, 4095, 800, 256
CAMERA = VirtualSensor(
    "virtual", "RGGB", 12, BLACK, WHITE, ((100, 1.2e-4), (ISO, 9.6e-4)), read_pre_e=2.5, read_post_dn=1.5,
    row_noise_dn=1.2, keep_pedestal=True,
)  # fmt: skip
LEVELS = (0.1, 0.35, 0.7)
EDGE = 24  # pixels that the pictures leave out


def command() -> None:
    """Shoot, run the three commands, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for frames, profile and report")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        shots = shoot(work / "shots")
        clean = work / "clean.dng"
        picture = mosaic(scene(11, SIDE, SIDE), CAMERA.cfa)
        store(clean, np.rint(picture * (WHITE - BLACK) + BLACK).astype(np.uint16), 100)
        profile = str(work / "camera.json")
        for arguments in (
            ["calibrate", *map(str, shots), "--out", profile, "--report", str(work / "camera.html"), "--overwrite"],
            ["info", profile],
            [
                "sample",
                profile,
                str(clean),
                "--iso",
                str(ISO),
                "--count",
                "2",
                "--out",
                str(work / "pairs"),
                "--overwrite",
            ],
        ):
            if main(arguments):
                raise SystemExit(1)
        first = [read_frame(path) for path in (shots[0], shots[4], clean)]
        pairs = [read_frame(clean), *(read_frame(work / "pairs" / f"clean_noisy_{k}.dng") for k in range(2))]
        save(
            options.out,
            "shots",
            side_by_side([shown(first[0].codes, 40), shown(first[1].codes), shown(first[2].codes, 1.2, BALANCE)]),
        )
        save(options.out, "pairs", side_by_side([shown(frame.codes, 1.2, BALANCE) for frame in pairs]))
        (options.out / "your-own-camera-checks.png").write_bytes(checks(shots))


def shoot(folder: Path) -> list[Path]:
    """Four dark frames and three flat pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    lights = [0.0] * 4 + [level for level in LEVELS for _ in range(2)]
    names = [f"dark{k}" for k in range(4)] + [f"flat{k}{name}" for k in range(len(LEVELS)) for name in "ab"]
    for name, light in zip(names, lights, strict=True):
        codes = CAMERA.sample_codes(np.full((1, SIDE, SIDE), light), ISO, generator)[0] + BLACK
        store(folder / f"{name}.dng", codes.astype(np.uint16), ISO)
    return [folder / f"{name}.dng" for name in names]


def store(path: Path, codes: np.ndarray, iso: float) -> None:
    """A frame as DNG."""
    write_dng(path, codes, cfa=CAMERA.cfa, black=float(BLACK), white=float(WHITE), iso=iso, camera=CAMERA.name)


def shown(codes: np.ndarray, times: float = 1, balance: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """The middle of codes as display RGB, two pixels for each 2×2 cell, the two greens together.

    Args:
        codes: `(H, W)`.
        times: brightens.
        balance: what red, green and blue read on grey.
    """
    codes = codes[EDGE:-EDGE, EDGE:-EDGE]
    red, green, other, blue = pack((codes.astype(float) - BLACK) / (WHITE - BLACK) * times, CAMERA.cfa)
    linear = np.stack([red, (green + other) / 2, blue], axis=-1) / balance
    return (np.clip(linear, 0, 1) ** (1 / 2.2)).repeat(2, axis=0).repeat(2, axis=1)


def side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures in a row with a white gap."""
    gap = np.ones((pictures[0].shape[0], 6, 3))
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def save(folder: Path, name: str, picture: np.ndarray) -> None:
    """A picture of the page."""
    (folder / f"your-own-camera-{name}.png").write_bytes(draw_picture(picture))


def checks(shots: list[Path]) -> bytes:
    """The photon-transfer curve beside the probability plot of the read noise, on white."""
    codes = [read_frame(path).codes for path in shots]
    flats = tuple(np.stack(codes[k : k + 2]) for k in range(4, 10, 2))
    group = FrameSet(ISO, darks=np.stack(codes[:4]), flats=flats, cfa=CAMERA.cfa, white=WHITE, camera=CAMERA.name)
    (found,) = calibrate([group]).diagnostics
    assert found.transfer is not None and found.read_plot is not None
    drawings = [drawn(transfer_figure(found.transfer, "light")), drawn(read_figure(found.read_plot, "light"))]
    images = [Image.open(io.BytesIO(png)).convert("RGBA") for png in drawings]
    page = Image.new("RGBA", (sum(image.width for image in images), max(image.height for image in images)), "white")
    left = 0
    for image in images:
        page.alpha_composite(image, (left, 0))
        left += image.width
    png = io.BytesIO()
    page.convert("P", palette=Image.Palette.ADAPTIVE, colors=48).save(png, format="png", optimize=True)
    return png.getvalue()


if __name__ == "__main__":
    command()
