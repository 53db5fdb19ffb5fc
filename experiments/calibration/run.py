"""How well calibration finds what a virtual camera is made of, how honest its intervals are, and what it notices.

Five parts, each over cameras drawn at random (12 or 14 bits, normal or heavy-tailed read noise, row and column noise):

- accuracy: 512×512, 5 darks and 5 flat pairs an ISO; how often each parameter is within what was asked for;
- outside: clipped darks and read noise of 0.3 codes, where the honest answer is "not identifiable", or wide;
- coverage: small sets; how often the 95 % intervals hold the truth;
- verdict: small sets, and what comes of shooting what the verdict asks for;
- faults: eight kinds of spoiled frames and clean ones; thresholds were fixed on seeds of 1000 and more.

    python experiments/calibration/run.py

writes the table beside this file; `--quick` takes a tenth of the sets. What is done is kept in `--work`, line by line;
a run that was stopped goes on where it was, and `--only accuracy,faults` does a part of the work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cameras import FAULTS, ISOS, Camera, camera, shoot, spoiled

from noiseflow.calibration import Calibration, Estimate, calibrate
from noiseflow.sensors.read_noise import tukey_std

HERE = Path(__file__).parent
SETS = {"accuracy": 200, "outside": 40, "coverage": 2000, "verdict": 100, "faults": 20 * len(FAULTS) + 200}
BOUNDS = {"gain": 0.005, "read noise": 0.03, "row noise": 0.10, "column noise": 0.10, "λ": 0.01}
SMALL = 64
"""Side of the frames of the small sets, pixels."""

Row = dict[str, object]


def command() -> None:
    """Do what is not done yet, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("calibration-work"), help="folder for what is done")
    parser.add_argument("--out", type=Path, default=HERE / "table.md")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sets")
    parser.add_argument("--only", help="some of the parts, comma-separated; writes no table")
    options = parser.parse_args()
    parts: dict[str, Callable[[int], Row]] = {
        "accuracy": accuracy, "outside": outside, "coverage": coverage, "verdict": verdict, "faults": faults,
    }  # fmt: skip
    options.work.mkdir(parents=True, exist_ok=True)
    done = {}
    for name in parts if options.only is None else options.only.split(","):
        wanted = range(0, SETS[name], 10) if options.quick else range(SETS[name])
        done[name] = run(options.work / f"{name}.jsonl", wanted, parts[name])
    if options.only is None:
        options.out.write_text(table(done, options.quick))
        print(options.out)


def run(path: Path, wanted: range, part: Callable[[int], Row]) -> list[Row]:
    """The rows of all wanted sets; those that the file lacks are made and appended."""
    known = {}
    if path.is_file():
        known = {row["set"]: row for row in map(json.loads, path.read_text().splitlines())}
    with path.open("a") as file:
        for number in wanted:
            if number not in known:
                start = time.process_time()
                known[number] = {"set": number, **part(number)}
                known[number]["seconds"] = time.process_time() - start
                file.write(json.dumps(known[number]) + "\n")
                file.flush()
    return [known[number] for number in wanted]


def truths(cam: Camera, iso: float, found: Calibration) -> dict[str, tuple[Estimate | None, float]]:
    """What was found at an ISO beside what is true; row noise and so on of a camera that has them."""
    profile = found.profile.isos[iso]
    out = {
        "gain": (profile.gain_dn_per_e, cam.sensor.gain(iso)),
        "read noise": (profile.read_noise_dn, cam.scale(iso)),
        "row noise": (profile.row_noise_dn, cam.row_dn(iso)),
        "column noise": (profile.column_noise_dn, cam.column_dn(iso)),
        "PRNU": (profile.prnu, cam.sensor.prnu),
    }
    for k, black in enumerate(profile.black_dn):
        out[f"black {k}"] = black, float(cam.sensor.black_dn)
    if cam.sensor.tukey_lambda is not None:
        out["λ"] = profile.tukey_lambda, cam.sensor.tukey_lambda
    return out


def entry(estimate: Estimate | None, truth: float) -> list[float] | None:
    """Value, ends and truth, or nothing."""
    return None if estimate is None else [estimate.value, estimate.low, estimate.high, truth]


def recorded(cam: Camera, isos: tuple[float, ...], found: Calibration) -> Row:
    """All that was found, with the truth."""
    rows = {f"{iso:g}": {name: entry(*pair) for name, pair in truths(cam, iso, found).items()} for iso in isos}
    wrong = [iso for iso in isos if (found.profile.isos[iso].tukey_lambda is None) != (cam.sensor.tukey_lambda is None)]
    pre = cam.sensor.read_pre_e * (1.0 if cam.sensor.tukey_lambda is None else tukey_std(cam.sensor.tukey_lambda))
    shared = {"before the gain": entry(found.profile.read_noise_pre_e, pre),
              "behind the gain": entry(found.profile.read_noise_post_dn, cam.sensor.read_post_dn)}  # fmt: skip
    return {"isos": rows, "shared": shared, "wrong_kind": len(wrong), "kinds": [f.kind for f in found.findings]}


def accuracy(seed: int) -> Row:
    """Large frames."""
    cam, rng = camera(seed), np.random.default_rng([seed, 3])
    return recorded(cam, ISOS, calibrate([shoot(cam, iso, 512, rng) for iso in ISOS]))


def outside(seed: int) -> Row:
    """Clipped darks for even seeds, read noise of 0.3 codes at the base ISO for odd ones."""
    rng = np.random.default_rng([seed, 4])
    iso = ISOS[0]
    if seed % 2:
        cam = camera(seed, least=0.3, tails=False)
        scale = 0.3 / cam.scale(iso)
        sensor = dataclasses.replace(
            cam.sensor, read_pre_e=cam.sensor.read_pre_e * scale, read_post_dn=cam.sensor.read_post_dn * scale
        )
        cam = dataclasses.replace(cam, sensor=sensor)
        group = shoot(cam, iso, 256, rng)
    else:
        cam = camera(seed)
        group = shoot(cam, iso, 256, rng)
        level = cam.sensor.black_dn
        group = dataclasses.replace(
            group, darks=np.maximum(group.darks, level) - level, flats=tuple(f - level for f in group.flats),
            white=float(cam.sensor.white_dn - level),
        )  # fmt: skip
    return recorded(cam, (iso,), calibrate([group]))


def coverage(seed: int) -> Row:
    """Small frames, 3 to 6 darks and 3 to 8 flat pairs an ISO."""
    cam, rng = camera(100_000 + seed), np.random.default_rng([seed, 5])
    darks, pairs = int(rng.integers(3, 7)), int(rng.integers(3, 9))
    groups = [shoot(cam, iso, SMALL, rng, darks=darks, pairs=pairs) for iso in ISOS]
    return recorded(cam, ISOS, calibrate(groups))


def verdict(seed: int) -> Row:
    """Frames of 160×160, then as many as the verdict asks for, all taken anew."""
    cam, rng = camera(400_000 + seed), np.random.default_rng([seed, 6])
    iso = ISOS[seed % 2]
    first = calibrate([shoot(cam, iso, 160, rng, darks=3, pairs=5)])
    more = {advice.what: advice.more for advice in first.verdict.advice}
    darks, pairs = 3 + more.get("darks", 0), 5 + more.get("flat pairs", 0)
    again = calibrate([shoot(cam, iso, 160, rng, darks=darks, pairs=pairs)])
    left = {advice.what: advice.more / (darks if advice.what == "darks" else pairs) for advice in again.verdict.advice}
    return {"darks": darks, "pairs": pairs, "enough": again.verdict.enough, "left": left,
            **recorded(cam, (iso,), again)}  # fmt: skip


def faults(number: int) -> Row:
    """Sets of each fault in turn, then clean ones."""
    kind = FAULTS[number // 20] if number < 20 * len(FAULTS) else None
    found = calibrate(spoiled(kind, number, 256))
    return {"fault": kind, "found": sorted({finding.kind for finding in found.findings})}


def gathered(rows: list[Row]) -> dict[str, np.ndarray]:
    """Value, low, high, truth of each parameter over sets and ISOs; NaN where it was not identified."""
    out: dict[str, list[list[float]]] = {}
    for row in rows:
        for found in [*row["isos"].values(), row["shared"]]:
            for name, values in found.items():
                key = "black" if name.startswith("black") else name
                out.setdefault(key, []).append(values or [math.nan] * 4)
    return {name: np.array(values) for name, values in out.items()}


def table(done: dict[str, list[Row]], quick: bool) -> str:
    """All parts as Markdown."""
    minutes = {name: sum(row["seconds"] for row in rows) / 60 for name, rows in done.items()}
    lines = [
        "# What calibration finds, on cameras whose truth is known", "",
        f"Written by `python experiments/calibration/run.py{' --quick' if quick else ''}`; "
        f"{sum(minutes.values()):.0f} core-minutes, simulating included "
        f"({', '.join(f'{name} {m:.1f}' for name, m in minutes.items())}).", "",
        *accuracy_table(done["accuracy"]), *outside_table(done["outside"]), *coverage_table(done["coverage"]),
        *verdict_table(done["verdict"]), *faults_table(done["faults"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def accuracy_table(rows: list[Row]) -> list[str]:
    """How often within bounds, a camera counting as in where it is at all its ISOs."""
    lines = [
        f"## Accuracy: {len(rows)} cameras, 512×512, 5 darks and 5 flat pairs at ISO 100 and 800 each", "",
        "Within: share of cameras whose error is within the bound at both ISOs. Wanted: 95 %.", "",
        "| parameter | bound | within | root mean square error | not identified | cameras |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, bound in BOUNDS.items():
        errors = []
        for row in rows:
            pair = [found[name] for found in row["isos"].values() if name in found]
            if pair:
                errors.append(
                    [math.inf if v is None else v[0] - v[3] if name == "λ" else v[0] / v[3] - 1 for v in pair]
                )
        error = np.abs(np.array(errors))
        within = (error.max(axis=1) <= bound).mean()
        finite = error[np.isfinite(error)]
        said = f"{bound:g}" if name == "λ" else f"{100 * bound:g} %"
        rms = math.sqrt(np.mean(finite**2))
        flag = "" if within >= 0.95 else " **below**"
        size = f"{rms:.4f}" if name == "λ" else f"{100 * rms:.2f} %"
        unknown = int((~np.isfinite(error)).sum())
        lines.append(f"| {name} | {said} | {100 * within:.1f} %{flag} | {size} | {unknown} | {len(error)} |")
    wrong = sum(row["wrong_kind"] > 0 for row in rows)
    return [*lines, "", f"Kind of read noise (normal or heavy tails) wrong: {wrong} of {len(rows)} cameras; findings "
            f"on these clean frames: {sum(bool(row['kinds']) for row in rows)} cameras.", ""]  # fmt: skip


def outside_table(rows: list[Row]) -> list[str]:
    """What is said where it cannot be known."""
    lines = ["## Outside the domain: 256×256, one ISO", "",
             "| frames | parameter | not identified | interval holds the truth, of those given | median half width |",
             "|---|---|---|---|---|"]  # fmt: skip
    for odd, what in ((0, "darks clipped at black"), (1, "read noise 0.3 codes")):
        found = gathered([row for row in rows if row["set"] % 2 == odd])
        for name in ("gain", "read noise", "λ", "row noise", "before the gain"):
            if name not in found:
                continue
            v = found[name]
            given = v[np.isfinite(v[:, 0])]
            held = f"{int(((given[:, 1] <= given[:, 3]) & (given[:, 3] <= given[:, 2])).sum())} of {len(given)}"
            width = (
                f"{100 * np.median((given[:, 2] - given[:, 1]) / 2 / np.abs(given[:, 3])):.1f} %" if len(given) else "–"
            )
            lines.append(f"| {what} | {name} | {len(v) - len(given)} of {len(v)} | {held} | {width} |")
    return [*lines, ""]


def coverage_table(rows: list[Row]) -> list[str]:
    """Coverage, pooled over ISOs; cameras with the wrong kind of read noise have no scale to compare."""
    lines = [
        f"## Coverage of the 95 % intervals: {len(rows)} sets of {SMALL}×{SMALL}, 3–6 darks, 3–8 flat pairs an ISO", "",
        "Pooled over ISOs (and channels, for black); of parameters that are there (read noise behind the gain is 0 in "
        "half the cameras). ± is two standard errors, sets counting as independent. Wanted: "
        "93 to 97 %.", "", "| parameter | coverage | median half width | not identified | intervals |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    right = gathered([row for row in rows if not row["wrong_kind"]])
    every = gathered(rows)
    for name in every:
        v = (right if name in ("read noise", "λ") else every)[name]
        given = v[np.isfinite(v[:, 0]) & (v[:, 3] != 0)]
        held = float(((given[:, 1] <= given[:, 3]) & (given[:, 3] <= given[:, 2])).mean())
        error = 2 * math.sqrt(held * (1 - held) / min(len(given), len(rows)))
        half = np.median((given[:, 2] - given[:, 1]) / 2 / (1 if name in ("λ", "black") else np.abs(given[:, 3])))
        said = f"{half:.3g}" if name in ("λ", "black") else f"{100 * half:.2g} %"
        unknown = int((~np.isfinite(v[:, 0])).sum())
        flag = "" if 0.93 <= held <= 0.97 else " **outside**"
        lines.append(f"| {name} | {100 * held:.1f} ± {100 * error:.1f} %{flag} | {said} | {unknown} | {len(given)} |")
    wrong = sum(row["wrong_kind"] > 0 for row in rows)
    return [*lines, "", f"Kind of read noise wrong: {wrong} of {len(rows)} sets, left out for read noise and λ.", ""]


def verdict_table(rows: list[Row]) -> list[str]:
    """Whether what was asked for was enough."""
    kept = sum(row["enough"] for row in rows)
    nearly = sum(all(share <= 0.15 for share in row["left"].values()) for row in rows)
    good = []
    for row in rows:
        v = next(iter(row["isos"].values()))
        if row["enough"] and v["gain"] and v["read noise"]:
            good.append([abs(v[name][0] / v[name][3] - 1) for name in ("gain", "read noise")])
    error = np.array(good)
    return [
        f"## The verdict: {len(rows)} cameras that nothing was tuned on, 160×160, 3 darks and 5 flat pairs", "",
        "Targets: half widths of 1 % (gain), 3 % (read noise), 10 % (row and column noise), 0.02 (λ). What the verdict "
        f"asks for was shot anew: median {np.median([row['darks'] for row in rows]):.0f} darks and "
        f"{np.median([row['pairs'] for row in rows]):.0f} flat pairs in all.", "",
        f"- then all intervals were as narrow as wanted for {kept} of {len(rows)}; {nearly} of {len(rows)} were there "
        "or within 15 % of the frames",
        "- where it said enough, the error of the gain was within the target for "
        f"{100 * (error[:, 0] <= 0.01).mean():.0f} %, that of the read noise for "
        f"{100 * (error[:, 1] <= 0.03).mean():.0f} % (wanted: 95 %)", "",
    ]  # fmt: skip


def faults_table(rows: list[Row]) -> list[str]:
    """Which fault was given which names."""
    lines = [
        "## Faults: 256×256, two ISOs, one of them spoiled", "",
        "| injected | named | also named |", "|---|---|---|",
    ]  # fmt: skip
    for kind in FAULTS:
        sets = [row for row in rows if row["fault"] == kind]
        named = sum(kind in row["found"] for row in sets)
        others = [other for row in sets for other in row["found"] if other != kind]
        also = ", ".join(f"{other} {others.count(other)}" for other in sorted(set(others))) or "–"
        lines.append(f"| {kind} | {named} of {len(sets)} | {also} |")
    clean = [row for row in rows if row["fault"] is None]
    false = [row for row in clean if row["found"]]
    names = sorted({kind for row in false for kind in row["found"]})
    said = f" ({', '.join(names)})" if names else ""
    return [*lines, "", f"False alarms: {len(false)} of {len(clean)} clean sets{said}.", ""]


if __name__ == "__main__":
    sys.exit(command())
