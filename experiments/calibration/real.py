"""Calibration of real cameras whose gain somebody else measured.

    python experiments/calibration/real.py --data DIR

DIR holds `parameters/Nikon_D5100_flat.csv` (ISO; shutter; mean; standard deviation, from flat pairs),
`raw/pidng_rpi_640x480_10bit_minhtcai_test.dng` (one picture, 10 bits, black 64) and
`raw/infinite_isp_ColorCheckerRAW_1920x1080_12bit_BGGR_le16.raw` (one picture, black unknown). Writes `real.md` beside
this file: the gains beside the known ones.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import rawpy

from noiseflow.calibration import FrameSet, calibrate
from noiseflow.calibration.points import calibrate_points

HERE = Path(__file__).parent
NIKON = {100: 0.350, 200: 0.704, 400: 1.401, 800: 2.780, 1600: 5.397}
"""DN per electron, from the same points by their author."""

PICTURES = {
    # name: black, white, gains of R, G on R rows, G on B rows, B from flat blocks by somebody else
    "Raspberry Pi": ((64.0,), 1023.0, (0.161, 0.195, 0.190, 0.185)),
    # Codes run in steps of 4 from about 950 up to 4092, and 31,000 sit there: it saturates.
    "ColorChecker": (None, 4092.0, (0.82, 1.07, 1.05, 0.95)),
}


def command() -> None:
    """Calibrate and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "real.md")
    options = parser.parse_args()
    lines = ["# Real cameras", "", "Written by `python experiments/calibration/real.py`.", "",
             "## Nikon D5100, photon-transfer points (flat pairs, 14 bits)", "",
             "| ISO | gain, DN/e⁻ | 95 % interval | known | difference |", "|---|---|---|---|---|"]  # fmt: skip
    points: dict[float, list[tuple[float, float]]] = {}
    with (options.data / "parameters/Nikon_D5100_flat.csv").open() as file:
        for iso, _, mean, sigma in csv.reader(file, delimiter=";"):
            points.setdefault(float(iso), []).append((float(mean), float(sigma)))
    profile = calibrate_points(points, camera="Nikon D5100")
    for iso, one in profile.isos.items():
        gain = one.gain_dn_per_e
        known = NIKON.get(int(iso))
        said = "– | –" if known is None else f"{known} | {100 * (gain.value / known - 1):+.1f} %"
        lines.append(f"| {iso:g} | {gain.value:.3f} | {gain.low:.3f} to {gain.high:.3f} | {said} |")
    segments = ", ".join(f"{a:g} to {b:g}" for a, b in profile.gain_segments)
    lines += ["", f"Gain law: {segments}.", ""] + [f"- {warning}" for warning in profile.warnings]
    lines += ["", "## One picture each: the flattest blocks of 16×16 pixels of a colour", "",
              "| picture | channel | gain, DN/e⁻ | known | difference |", "|---|---|---|---|---|"]  # fmt: skip
    with rawpy.imread(str(options.data / "raw/pidng_rpi_640x480_10bit_minhtcai_test.dng")) as raw:
        frames = {"Raspberry Pi": raw.raw_image_visible.copy()}
    bare = options.data / "raw/infinite_isp_ColorCheckerRAW_1920x1080_12bit_BGGR_le16.raw"
    frames["ColorChecker"] = np.fromfile(bare, "<u2").reshape(1080, 1920)
    for name, (black, white, known) in PICTURES.items():
        found = calibrate([FrameSet(100, singles=(frames[name],), cfa="BGGR", black=black, white=white)])
        for colour, gain, other in zip(
            ("R", "G beside R", "G beside B", "B"), found.diagnostics[0].channel_gains, known, strict=True
        ):
            lines.append(
                f"| {name} | {colour} | {gain.value:.3f} | {other} | {100 * (gain.value / other - 1):+.0f} % |"
            )
    options.out.write_text("\n".join(lines) + "\n")
    print(options.out)


if __name__ == "__main__":
    command()
