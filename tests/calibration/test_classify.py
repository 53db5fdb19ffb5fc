"""Frames of virtual sensors, sorted without a word said of them."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from noiseflow.calibration.classify import classify
from noiseflow.errors import UserError
from noiseflow.raw.frame import RawFrame
from noiseflow.raw.read import read_frames
from noiseflow.scenes import RAW_BALANCE, mosaic, scene
from noiseflow.sensors import PHONES, SENSORS
from noiseflow.sensors.virtual import VirtualSensor

REAL = Path(__file__).parents[3] / "shared" / "real"
SIDE = 192
BRIGHT = VirtualSensor("bright", "RGGB", 14, 512, 16383, ((100, 2e-5), (6400, 1.28e-3)), keep_pedestal=True, prnu=0.01)
PLAIN = {name: dataclasses.replace(PHONES[name], keep_pedestal=True) for name in ("GP", "N6", "IP")}
KINDS = {
    **PLAIN,
    "bright": BRIGHT,
    "rows": SENSORS["rows"],
    "heavy": dataclasses.replace(SENSORS["heavy"], keep_pedestal=True),
    "columns": dataclasses.replace(SENSORS["rows"], row_noise_dn=0.0, column_noise_dn=3.0),
    "fine": dataclasses.replace(BRIGHT, name="fine", read_pre_e=0.3, read_post_dn=0.2),
    "clipped": PHONES["G4"],
}


def shading(side):
    """A lens that loses half its light in the corners: cos⁴ of up to 33°, not centred."""
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-0.9, 1.1, side), indexing="ij")
    return np.cos(np.arctan(0.45 * np.hypot(y, x))) ** 4


@functools.cache
def light(kind, cfa, seed=0):
    """Linear signal of a kind of frame, (SIDE, SIDE)."""
    if kind == "dark":
        return np.zeros((SIDE, SIDE))
    rgb = scene(seed, SIDE, SIDE) if kind == "scene" else np.ones((SIDE, SIDE, 3)) * RAW_BALANCE
    level = {"scene": 0.8, "dim": 0.1, "flat": 0.5}[kind]
    return mosaic((rgb * level).astype(np.float32), cfa) * shading(SIDE)


def shot(sensor, iso, kind, rng, *, seed=0, name="", black=True, exposure=None):
    codes = (
        sensor.sample_codes(light(kind, sensor.cfa, seed) * sensor.sensitivity(SIDE, SIDE), iso, rng) + sensor.black_dn
    )
    return RawFrame.of(
        name or f"{kind} {seed} {iso}", codes.astype(np.uint16), cfa=sensor.cfa, iso=iso, exposure=exposure,
        white=sensor.white_dn, black=sensor.black_dn if black else None, camera=sensor.name,
    )  # fmt: skip


def found(groups):
    return sorted((group.kind, group.frames[0].iso, len(group.frames)) for group in groups)


@pytest.mark.parametrize(("name", "black"), [*((name, True) for name in KINDS), ("bright", False), ("rows", False)])
def test_a_mixed_heap_is_sorted(name, black):
    sensor = KINDS[name]
    isos = [sensor.slopes[0][0], sensor.slopes[-1][0]]
    rng = np.random.default_rng(1)
    frames = []
    for iso in isos:
        kinds = [("dark", 0)] * 3 + [("flat", 0)] * 2 + [("dim", 0)] * 2 + [("scene", 1)] * 3 + [("scene", 2)]
        frames += [shot(sensor, iso, kind, rng, seed=seed, black=black) for kind, seed in kinds]
    frames = [frames[i] for i in rng.permutation(len(frames))]
    groups = classify(frames)
    expected = [("dark", 3), ("flat", 2), ("flat", 2), ("burst", 3), ("single", 1)]
    assert found(groups) == sorted((kind, iso, n) for iso in isos for kind, n in expected), "\n".join(map(str, groups))
    for group in groups:
        shown = {frame.name.rsplit(" ", 1)[0] for frame in group.frames}
        assert len(shown) == 1  # never two kinds, levels or scenes in one group
        assert {"dark": "dark", "flat": "flat", "dim": "flat", "scene": group.kind}[
            shown.pop().split()[0]
        ] == group.kind
    assert sorted(id(frame) for group in groups for frame in group.frames) == sorted(map(id, frames))


def test_false_alarms_and_misses_are_rare():
    """Sixty even frames and thirty scenes, over sensors and ISOs: at most one error in a hundred."""
    rng = np.random.default_rng(2)
    wrong = 0
    for n in range(90):
        sensor = KINDS[list(KINDS)[n % len(KINDS)]]
        iso = sensor.slopes[int(rng.integers(len(sensor.slopes)))][0]
        kind = ("dark", "flat", "scene")[n % 3]
        (group,) = classify([shot(sensor, iso, kind, rng, seed=n // 3 % 8)])
        wrong += group.kind != {"dark": "dark", "flat": "flat", "scene": "single"}[kind]
    assert wrong <= 1


def test_hot_pixels_and_dust_do_not_make_a_scene():
    rng = np.random.default_rng(3)
    dark, flat = (shot(BRIGHT, 6400, kind, rng) for kind in ("dark", "flat"))
    hot = rng.random(dark.codes.shape) < 1e-3
    dark.codes[hot] += rng.integers(50, 9000, int(hot.sum())).astype(np.uint16)
    flat.codes[100:104, 40:44] = (flat.codes[100:104, 40:44] * 0.8).astype(np.uint16)
    assert [group.kind for group in classify([dark, flat])] == ["dark", "flat"]


def test_what_differs_is_not_put_together():
    rng = np.random.default_rng(4)
    base = [shot(BRIGHT, 100, kind, rng, seed=5) for kind in ("scene", "scene", "flat", "flat", "dark", "dark")]
    for change in ({"iso": 200.0}, {"camera": "other"}, {"cfa": "BGGR"}):
        frames = [dataclasses.replace(frame, **change) if i % 2 else frame for i, frame in enumerate(base)]
        kinds = [group.kind for group in classify(frames)]
        assert sorted(kinds) == ["dark", "dark", "flat", "flat", "single", "single"]
    frames = [dataclasses.replace(frame, exposure=0.1 + i % 2) for i, frame in enumerate(base)]
    assert sorted(group.kind for group in classify(frames)) == ["dark", "flat", "flat", "single", "single"]


def test_flat_fields_pair_by_level_and_the_odd_one_is_named():
    rng = np.random.default_rng(5)
    frames = [shot(BRIGHT, 100, kind, rng) for kind in ("flat", "dim", "flat", "dim", "flat")]
    groups = classify(frames)
    assert found(groups) == [("flat", 100, 1), ("flat", 100, 2), ("flat", 100, 2)]
    (odd,) = (group for group in groups if len(group.frames) == 1)
    assert "no second frame of this level" in odd.reason
    pair = next(str(group) for group in groups if len(group.frames) == 2)
    assert pair.startswith("flat-field pair, ISO 100, 2 frames: even, ") and pair.endswith("dim 0 100, dim 0 100")


def test_saturated_fields_are_set_apart():
    rng = np.random.default_rng(6)
    flat = shot(BRIGHT, 100, "flat", rng)
    full = dataclasses.replace(flat, codes=np.minimum(flat.codes.astype(np.int64) * 9, 16383).astype(np.uint16))
    assert sorted(group.kind for group in classify([flat, full])) == ["flat", "saturated"]


def test_what_nobody_can_tell_is_said():
    """A mono sensor without a black level: even frames may be dark or lit."""
    codes = np.random.default_rng(7).poisson(400, (SIDE, SIDE)).astype(np.uint16)
    (group,) = classify([RawFrame.of("a", codes), RawFrame.of("b", codes)])
    assert group.kind == "unclear" and "give --black" in group.reason
    assert str(group).startswith("unclear, ISO not known, 2 frames: ")
    assert [g.kind for g in classify([RawFrame.of("a", codes, black=400.0)])] == ["dark"]
    assert [g.kind for g in classify([RawFrame.of("a", codes, black=100.0)])] == ["flat"]
    assert classify([]) == ()


def test_a_moved_scene_is_not_the_same_scene():
    rng = np.random.default_rng(8)
    one, other = (shot(BRIGHT, 100, "scene", rng, seed=9) for _ in range(2))
    turned = dataclasses.replace(other, codes=np.ascontiguousarray(other.codes[::-1, ::-1]))
    assert [len(group.frames) for group in classify([one, other])] == [2]
    assert [len(group.frames) for group in classify([one, turned])] == [1, 1]


def test_a_frame_too_small_to_judge_is_refused():
    with pytest.raises(UserError, match=r"a: expected at least 48×48 pixels"):
        classify([RawFrame.of("a", np.zeros((46, 64), np.uint16), cfa="RGGB")])


@pytest.mark.skipif(not REAL.exists(), reason="the real camera files are not on this machine")
def test_real_frames():
    """Molecules that blink on a still background; two cameras' pictures."""
    said = {"size": "256x256", "dtype": "uint16be", "cfa": "mono", "black": 100}
    (group,) = classify(read_frames(REAL / "burst" / "sample_11f_256x256_be16.dax", **said))
    assert (group.kind, len(group.frames)) == ("burst", 11)
    pictures = read_frames(REAL / "raw" / "pidng_rpi_640x480_10bit_minhtcai_test.dng")
    chart = REAL / "raw" / "infinite_isp_ColorCheckerRAW_1920x1080_12bit_BGGR_le16.raw"
    pictures += read_frames(chart, size="1080x1920", dtype="uint16le", cfa="BGGR")
    assert [group.kind for group in classify(pictures)] == ["single", "single"]


def test_grey_light_without_a_black_level_is_not_taken_for_darkness():
    """Neutral flats beside darks: their colours are as close as those of darks, their levels are not."""
    rng = np.random.default_rng(8)

    def even(name, level):
        codes = 128 + rng.poisson(level, (SIDE, SIDE)) + rng.normal(0, 5, (SIDE, SIDE))
        return RawFrame.of(name, np.rint(codes).astype(np.uint16), cfa="RGGB")

    levels = {"d1": 0, "d2": 0, "f1": 300, "f2": 300, "f3": 3000, "f4": 3000}
    groups = classify([even(name, level) for name, level in levels.items()])
    kinds = {frame.name: group.kind for group in groups for frame in group.frames}
    assert kinds == {"d1": "dark", "d2": "dark"} | dict.fromkeys(("f1", "f2", "f3", "f4"), "unclear")
