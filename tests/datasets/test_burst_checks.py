"""Guard rails of bursts: the statistics against what is known, and each finding with its evidence."""

import itertools

import cv2
import numpy as np
import pytest
from scipy import ndimage

from noiseflow.cli import main
from noiseflow.datasets import open_bursts
from noiseflow.datasets.burst_checks import _frames_to_read, _t, check_burst, check_frames, refuse_or_warn
from noiseflow.datasets.burst_report import burst_report
from noiseflow.datasets.checking import check
from noiseflow.errors import UserError

LSB = 1 / 1023
SIDE = 128


def scene(shift=0.0, seed=0, channels=1):
    """Blobs of light between black and white, smooth enough to be shifted by parts of a pixel."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(size=(channels, SIDE, SIDE)), (0, 3, 3))
    image = 0.5 + 0.13 * image / image.std()
    return np.clip(ndimage.shift(image, (0, shift, -shift / 2), order=3, mode="reflect"), 0.02, 0.98)


def record(clean, seed=1, a=2e-3, b=1e-5):
    rng = np.random.default_rng(seed)
    noisy = clean + np.sqrt(a * clean + b) * rng.normal(size=clean.shape)
    return np.clip(np.round(noisy / LSB) * LSB, 0, 1)


def burst(count=4, **how):
    return np.stack([record(scene(**how), seed=10 + i) for i in range(count)])


def kinds(frames):
    return {finding.kind: finding for finding in check_frames(frames, LSB, 0.0, 1.0)}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_nothing_is_found_in_frames_as_they_should_be(count):
    assert kinds(burst(count)) == {}
    assert kinds(burst(count, channels=4)) == {}


def test_chance_stays_within_the_bound():
    """P(|t| > τ) ≤ 2·exp(−τ²/2) for symmetric sums, here of very different sizes and with heavy tails."""
    rng = np.random.default_rng(0)
    sizes = 10 ** rng.uniform(-2, 2, 32)
    t = np.abs([_t(sizes * rng.standard_t(2, 32)) for _ in range(5000)])
    for tau in (1.5, 2.0, 2.5, 3.0):
        bound = 2 * np.exp(-(tau**2) / 2)
        assert (t > tau).mean() <= bound + 3 * np.sqrt(bound / 5000)


@pytest.mark.parametrize("shift", [0.4, -0.7])
def test_a_small_move_is_measured(shift):
    frames = np.stack([record(scene(), 1), record(scene(shift), 2)])
    found = kinds(frames)
    numbers = found["moved camera"].numbers
    # the linear estimate is good to the second order: blobs of σ 3 pixels bend little over half a pixel
    assert numbers["rows"] == pytest.approx(shift, abs=0.1)
    assert numbers["columns"] == pytest.approx(-shift / 2, abs=0.1)


def test_a_large_move_is_measured():
    frames = np.stack([record(scene(), 1), record(scene(12.0), 2)])
    numbers = kinds(frames)["moved camera"].numbers
    assert (numbers["rows"], numbers["columns"]) == (12.0, -6.0)


@pytest.mark.parametrize("change", [-0.03, 0.02])
def test_a_change_of_light_is_measured(change):
    frames = np.stack([record(scene(), 1), record(scene(), 2), record(scene() * (1 + change), 3)])
    found = kinds(frames)
    assert set(found) == {"changed light"}
    # 16,384 pixels of relative noise 0.06·√2: standard error 7e-4
    assert found["changed light"].numbers["change"] == pytest.approx(change, abs=3e-3)
    assert found["changed light"].frames[1] == 2


def test_flicker_is_measured():
    rows = np.arange(SIDE)[:, None] / SIDE
    frames = np.stack(
        [record(scene() * (1 + 0.05 * np.sin(2 * np.pi * (3 * rows + half / 2))), 5 + half) for half in (0, 1)]
    )
    found = kinds(frames)
    assert set(found) == {"flicker"}
    assert found["flicker"].numbers["waves"] == 3.0
    assert found["flicker"].numbers["amplitude"] == pytest.approx(0.1, abs=0.01)  # opposite phases: twice the wave
    assert found["flicker"].picture.shape == (64,)


def test_row_noise_is_no_flicker():
    offsets = 0.01 * np.random.default_rng(3).normal(size=(4, 1, SIDE, 1))
    assert kinds(np.clip(np.round((burst() + offsets) / LSB) * LSB, 0, 1)) == {}


@pytest.mark.parametrize("rows", [SIDE, SIDE // 2])
def test_repeated_rows_are_counted(rows):
    frames = burst()
    frames[2, :, :rows] = frames[1, :, :rows]
    found = kinds(frames)
    assert set(found) == {"repeated frames"}
    assert found["repeated frames"].frames == (1, 2)
    assert found["repeated frames"].numbers["equal rows"] == rows / SIDE


def test_clipped_frames_are_not_repeated():
    """Black frames are equal because nothing can be seen in them."""
    assert kinds(np.zeros((3, 1, SIDE, SIDE))) == {}


def test_frames_made_from_others():
    frames = burst(5)
    frames[2] = (frames[1] + frames[3]) / 2
    found = kinds(frames)
    assert set(found) == {"repeated frames"}
    assert 2 in found["repeated frames"].frames
    assert found["repeated frames"].numbers["ratio"] == pytest.approx(0.25, abs=0.03)  # (σ²/2)/(2σ²)


def test_filtered_frames():
    found = kinds(ndimage.gaussian_filter(burst(), (0, 0, 0.7, 0.7)))
    assert set(found) == {"denoised frames"}
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 0.7**2))
    expected = (kernel[1:] * kernel[:-1]).sum() / (kernel**2).sum()
    # rounding hardly matters; levelling over 15×15 pixels takes a little of the correlation
    assert found["denoised frames"].numbers["across"] == pytest.approx(expected, abs=0.05)


def test_frames_filtered_in_time():
    frames = burst(6)
    for one, other in itertools.pairwise(range(6)):
        frames[other] = 0.6 * frames[other] + 0.4 * frames[one]
    assert set(kinds(frames)) == {"denoised frames"}


def test_noise_below_a_code_is_no_photon_noise():
    clean = scene()
    frames = np.stack([record(clean, i, a=1e-7, b=1e-9) for i in range(3)])
    assert "denoised frames" in kinds(frames)
    assert "codes" in kinds(frames)["denoised frames"].numbers


def test_developed_pictures_may_be_smooth():
    smooth = ndimage.gaussian_filter(burst(3, channels=3), (0, 0, 1, 1))
    assert kinds(smooth) == {}


def test_long_bursts_are_looked_at_from_end_to_end():
    assert _frames_to_read(3) == [0, 1, 2]
    assert _frames_to_read(150) == [0, 1, 49, 50, 99, 100, 148, 149]


def write(root, frames):
    (root / "b").mkdir(parents=True)
    for i, frame in enumerate(frames):
        np.save(root / "b" / f"{i}.npy", np.round(frame[0] / LSB).astype(np.uint16))
    (root / "bursts.csv").write_text("frames,camera,iso,black,white\nb/*.npy,lab,100,0,1023\n")


def test_check_and_the_policy(tmp_path, caplog, capsys):
    frames = burst(12)
    frames[11] = frames[10]
    write(tmp_path / "spoilt", frames)
    parts, findings = check(tmp_path / "spoilt")
    assert [(f.severity, f.kind, f.where) for f in findings] == [("damaged", "repeated frames", "b/*.npy")]
    assert (parts[0].unit, parts[0].pairs, parts[0].sizes) == ("bursts", 1, {(SIDE, SIDE)})
    assert main(["check", str(tmp_path / "spoilt")]) == 1
    assert "1 bursts: 1 damaged, 0 warnings" in capsys.readouterr().out

    found = check_burst(open_bursts(tmp_path / "spoilt").bursts[0])
    assert found[0].frames == (10, 11)
    with pytest.raises(UserError, match=r"b: expected frames of one still scene, found repeated frames \(100% of"):
        refuse_or_warn(found, "b")
    refuse_or_warn(found, "b", allow=True)
    assert "b: repeated frames: 100%" in caplog.text

    write(tmp_path / "sound", burst(3))
    assert check(tmp_path / "sound")[1] == []
    assert check_burst(open_bursts(tmp_path / "sound").bursts[0]) == []


def test_the_report_shows_every_finding(tmp_path):
    moved = check_frames(np.stack([record(scene(), 1), record(scene(2.0), 2)]), LSB, 0.0, 1.0)
    filtered = check_frames(ndimage.gaussian_filter(burst(2), (0, 0, 1, 1)), LSB, 0.0, 1.0)
    burst_report({"one": moved, "two": filtered, "three": []}, tmp_path / "r.png")
    burst_report({"three": []}, tmp_path / "empty.png")
    heights = [cv2.imread(str(tmp_path / f"{name}.png")).shape[0] for name in ("r", "empty")]
    assert heights == [100 + 260 * len([*moved, *filtered]), 360]
