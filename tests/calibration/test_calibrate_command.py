"""`noiseflow calibrate` from outside: files in, profile, page and verdict out; what it refuses, and how."""

import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from virtual import BLACK, ISOS, WHITE, codes, frames, sensor

from noiseflow.calibration.profile import Estimate
from noiseflow.cli import main
from noiseflow.raw.dng import write_dng
from noiseflow.raw.read import read_frame
from noiseflow.report.calibration_table import shown

ROOT = Path(__file__).resolve().parents[2]
GAINS = {100: 0.5, 800: 4.0}


def run(*arguments):
    return main([str(a) for a in arguments])


def write(path, plane, iso=100, **changes):
    arguments = {"cfa": "GRBG", "black": float(BLACK), "white": float(WHITE), "iso": iso, "camera": "test"} | changes
    write_dng(path, plane, **arguments)


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Two ISOs of a camera as DNGs; frames of one of them as arrays."""
    root = tmp_path_factory.mktemp("shots")
    for iso in ISOS:
        group = frames(sensor(), iso, size=192)
        for k, dark in enumerate(group.darks):
            write(root / f"dark_{iso}_{k}.dng", dark, iso)
        for k, (first, second) in enumerate(group.flats):
            write(root / f"flat_{iso}_{k}a.dng", first, iso)
            write(root / f"flat_{iso}_{k}b.dng", second, iso)
        if iso == 100:
            np.save(root / "darks.npy", group.darks)
            np.save(root / "flats.npy", np.concatenate(group.flats))
            (root / "darks.bin").write_bytes(group.darks.astype(">u2").tobytes())
            (root / "flats.bin").write_bytes(np.concatenate(group.flats).astype(">u2").tobytes())
    return root


@pytest.fixture(scope="module")
def calibrated(shots, tmp_path_factory):
    """The profile of bare DNGs, its page, and what was printed."""
    out = tmp_path_factory.mktemp("out")
    command = ["calibrate", str(shots / "*.dng"), "--out", str(out / "p.json"), "--report", str(out / "p.html")]
    done = subprocess.run([sys.executable, "-W", "error", "-m", "noiseflow", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "p.json").read_text()), (out / "p.html").read_text(), done.stdout


def holds(estimate, truth, reach=2.0):
    """Whether truth lies within twice the half width of a 95 % interval: missed by chance once in ten thousand."""
    low, value, high = estimate["low"], estimate["value"], estimate["high"]
    return value - reach * (value - low) <= truth <= value + reach * (high - value)


def test_bare_frames_are_told_apart_and_give_the_camera(calibrated):
    profile, _, said = calibrated
    for iso in ISOS:
        assert f"ISO {iso}: 4 darks" in said
        assert said.count(f"ISO {iso}: flat pair") == 4
        one = profile["isos"][str(iso)]
        assert holds(one["gain_dn_per_e"], GAINS[iso])
        assert holds(one["read_noise_dn"], np.hypot(3.0 * GAINS[iso], 1.0))
        assert holds(one["row_noise_dn"], 0.6)
        assert all(holds(black, BLACK) for black in one["black_dn"])
        assert one["gain_dn_per_e"]["high"] < 1.1 * one["gain_dn_per_e"]["low"]  # an interval that says something
    assert re.search(r"verdict: (enough frames|shoot \d+ more (darks|flat pairs) at ISO)", said)
    assert said.strip().splitlines()[-1].endswith("p.json")


def test_the_profile_has_the_schema_of_the_contract(calibrated):
    profile = calibrated[0]
    assert {"format", "camera", "cfa", "bits", "isos", "read_noise_pre_e", "read_noise_post_dn", "gain_law",
            "warnings"} <= set(profile)  # fmt: skip
    assert (profile["format"], profile["camera"], profile["cfa"], profile["bits"]) == (1, "test", "GRBG", 12)
    assert list(profile["isos"]) == ["100", "800"]
    assert profile["gain_law"]["segments"] == [[100, 800]]
    assert holds(profile["read_noise_pre_e"], 3.0)
    for one in profile["isos"].values():
        assert len(one["black_dn"]) == 4
        assert one["white_dn"] == WHITE
        assert one["tukey_lambda"] is None
        for name in ("gain_dn_per_e", "read_noise_dn", "row_noise_dn"):
            assert set(one[name]) == {"value", "low", "high"}
            assert one[name]["low"] <= one[name]["value"] <= one[name]["high"]
    assert all(isinstance(warning, str) for warning in profile["warnings"])


class Page(HTMLParser):
    """What a page shows: its numbers by their place in the profile, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.numbers, self.fetched, self._place = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.fetched += [given[key] for key in ("src", "srcset", "href") if key in given]
        if tag == "data":
            self._place = given["data-path"], float(given["value"])

    def handle_data(self, data):
        if self._place is not None:
            self.numbers[self._place[0]] = (self._place[1], data)

    def handle_endtag(self, tag):
        self._place = None if tag == "data" else self._place


def numbers(value, path=""):
    """The numbers of a profile by their place."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in numbers(part, f"{path}.{key}".lstrip(".")).items()}
    if isinstance(value, list):
        return {k: v for n, part in enumerate(value) for k, v in numbers(part, f"{path}.{n}").items()}
    return {path: value} if isinstance(value, float) else {}


def test_every_number_of_the_page_is_the_profile_s_and_none_is_missing(calibrated):
    profile, html, _ = calibrated
    page = Page(html)
    known = {path: value for path, value in numbers(profile).items() if not path.startswith("gain_law")}
    assert {path: full for path, (full, _) in page.numbers.items()} == known
    for path, (full, text) in page.numbers.items():
        width = abs(full - float(text.replace("−", "-")))
        assert width <= 0.5 * 10 ** -len(text.partition(".")[2]) * 1.0001, path  # rounded to the digits that it shows
    assert all(link.startswith(("data:", "#")) for link in page.fetched)
    for alt in ("Photon-transfer curve", "Gain against ISO", "Read-noise probability plot", "Spectra of row",
                "Level of the dark frames"):  # fmt: skip
        assert f'alt="{alt}' in html
    assert "no pixel of the dark frames is hot" in html


def test_what_looks_wrong_is_on_the_page_in_the_profile_and_printed(tmp_path, capsys):
    camera, generator = sensor(), np.random.default_rng(5)
    group = frames(camera, 100)
    y, x = np.indices((128, 128)) / 128
    leak = 40 * np.exp(-8 * (x**2 + y**2)) * GAINS[100] / (WHITE - BLACK)  # 20 DN in the corner
    np.save(tmp_path / "darks.npy", codes(camera, np.repeat(leak[None], 4, axis=0), 100, generator))
    np.save(tmp_path / "flats.npy", np.concatenate(group.flats))
    out = tmp_path / "p.json"
    assert run("calibrate", "--dark", tmp_path / "darks.npy", "--flat", tmp_path / "flats.npy", "--iso", 100, "--cfa",
               "GRBG", "--white", WHITE, "--out", out, "--report", tmp_path / "p.html") == 0  # fmt: skip
    warning = next(w for w in json.loads(out.read_text())["warnings"] if "light leak" in w)
    assert "viewfinder" in warning
    assert warning in capsys.readouterr().out
    html = (tmp_path / "p.html").read_text()
    assert "<b>ISO 100: light leak</b>" in html
    assert "viewfinder" in html


@pytest.mark.parametrize("kind", ["npy", "bin"])
def test_arrays_and_bare_pixels_give_the_same_camera(shots, tmp_path, kind):
    said = ("--iso", 100, "--cfa", "GRBG", "--white", WHITE, "--camera", "mine")
    said += ("--size", "192x192", "--dtype", "uint16be") if kind == "bin" else ()
    assert run("calibrate", "--dark", shots / f"darks.{kind}", "--flat", shots / f"flats.{kind}", *said, "--out",
               tmp_path / "p.json") == 0  # fmt: skip
    profile = json.loads((tmp_path / "p.json").read_text())
    assert profile["camera"] == "mine"
    assert holds(profile["isos"]["100"]["gain_dn_per_e"], 0.5)
    assert holds(profile["isos"]["100"]["row_noise_dn"], 0.6)
    assert run("sample", tmp_path / "p.json", shots / "flat_100_1a.dng", "--iso", 100, "--out", tmp_path / "o") == 0


def test_photon_transfer_points_give_gains_and_the_break_of_their_law(tmp_path, capsys):
    rows = ["iso,mean,sigma"]
    for iso, gain in ((100, 0.5), (200, 1.0), (400, 1.0)):
        rows += [f"{iso},{mean},{(gain * (mean - 64) + 9) ** 0.5}" for mean in (80, 200, 500, 1000)]
    (tmp_path / "points.csv").write_text("\n".join(rows))
    assert run("calibrate", "--ptc", tmp_path / "points.csv", "--black", 64, "--out", tmp_path / "p.json", "--report",
               tmp_path / "p.html") == 0  # fmt: skip
    profile = json.loads((tmp_path / "p.json").read_text())
    found = {iso: one["gain_dn_per_e"]["value"] for iso, one in profile["isos"].items()}
    assert found == pytest.approx({"100": 0.5, "200": 1.0, "400": 1.0}, rel=1e-6)
    assert profile["gain_law"]["segments"] == [[100, 200], [400, 400]]
    assert "not proportional to ISO from 200 to 400" in capsys.readouterr().out
    assert 'alt="Gain against ISO' in (tmp_path / "p.html").read_text()


BAD = {
    "no ISO": (["--single", "npy", "--cfa", "GRBG"], "give --iso"),
    "no pattern": (["--single", "npy", "--iso", "100"], "give --cfa"),
    "a black level below 0": (["--single", "npy", "--black", "-5"], "one number of 0 or more"),
    "a black level that is none": (["--single", "npy", "--black", "nan"], "one number of 0 or more"),
    "no black": (["--single", "npy", "--iso", "100", "--cfa", "GRBG"], "give --black"),
    "nobody can tell": (["even", "--iso", "100", "--cfa", "mono"], "say which with --dark or --flat"),
    "other size": (["--dark", "npy", "wide", "--iso", "100", "--cfa", "GRBG"], "frames of one size, got 64×64"),
    "no size": (["--dark", "bin", "--dtype", "uint16le", "--iso", "100"], "--size: expected HxW"),
    "bad black": (["--dark", "npy", "--iso", "100", "--cfa", "GRBG", "--black", "1,2"], "--black: expected one number"),
    "unreadable": (["broken.dng"], "broken.dng: expected a camera raw file"),
    "a linear DNG": (["linear.dng", "--iso", "100"], "already demosaiced"),
    "no such file": (["--dark", "dork*.dng"], "no such file"),
    "twice": (["npy", "--dark", "npy", "--iso", "100", "--cfa", "GRBG"], "the file is given twice"),
    "points and frames": (["npy", "--ptc", "points.csv"], "expected the points alone"),
    "flats without partners": (
        ["--flat", "npy", "--iso", "100", "--cfa", "GRBG", "--black", "9"],
        "none that can be used",
    ),
    "constant": (["--single", "same", "--iso", "100", "--cfa", "GRBG", "--black", "9"], "nothing could be found"),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    import tifffile

    root = tmp_path_factory.mktemp("bad")
    generator = np.random.default_rng(0)
    np.save(root / "npy.npy", generator.poisson(900, (64, 64)).astype(np.uint16))
    np.save(root / "wide.npy", generator.poisson(900, (64, 96)).astype(np.uint16))
    np.save(root / "even.npy", generator.poisson(900, (192, 192)).astype(np.uint16))
    np.save(root / "same.npy", np.full((64, 64), 900, np.uint16))
    (root / "bin").write_bytes(bytes(64))
    (root / "broken.dng").write_bytes(b"II*\0" + bytes(200))
    linear = [(50706, 1, 4, bytes((1, 4, 0, 0)), True), (50708, 2, 0, "linear", True)]
    picture = generator.integers(0, 4000, (64, 64, 3)).astype(np.uint16)
    tifffile.imwrite(root / "linear.dng", picture, photometric=34892, extratags=linear, metadata=None)
    return root


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(name, bad_files, tmp_path, capsys, monkeypatch):
    arguments, said = BAD[name]
    monkeypatch.chdir(bad_files)
    given = [a + ".npy" if a in ("npy", "wide", "same", "even") else a for a in arguments]
    assert run("calibrate", *given, "--out", tmp_path / "p.json", "--report", tmp_path / "p.html") == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert said in error[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "said"), [("there.json", "--overwrite"), ("p.txt", "ends in .json"), ("no/p.json", "does not exist")]
)
def test_a_bad_place_is_said_before_anything_is_read(out, said, tmp_path, capsys):
    (tmp_path / "there.json").write_text("mine")
    assert run("calibrate", "no-such-frame.dng", "--out", tmp_path / out) == 1
    assert said in capsys.readouterr().err
    assert (tmp_path / "there.json").read_text() == "mine"


def test_no_frames_at_all_is_bad_usage(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("calibrate", "--out", tmp_path / "p.json")
    assert stopped.value.code == 2
    assert "FRAMES" in capsys.readouterr().err


def test_ctrl_c_exits_130_and_leaves_nothing(shots, tmp_path):
    command = ["calibrate", str(shots / "*_100_*.dng"), "--out", str(tmp_path / "p.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "noiseflow", *command], stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background, shells have it ignored
    )  # fmt: skip
    assert process.stdout is not None
    assert "darks" in process.stdout.readline()  # it has read the frames, and is about to fit
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())


def test_the_three_commands_of_the_docs(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "tutorials" / "your-own-camera.md").read_text()
    commands = re.findall(r"^noiseflow .*$", page.split("```sh")[1].split("```")[0], re.MULTILINE)
    assert [shlex.split(command)[1] for command in commands] == ["calibrate", "info", "sample"]
    monkeypatch.chdir(tmp_path)
    Path("shots").mkdir()
    group = frames(sensor(), 800, size=192)
    for k, dark in enumerate(group.darks):
        write(Path("shots", f"dark{k}.dng"), dark, 800)
    for k, pair in enumerate(group.flats[:3]):
        for name, flat in zip("ab", pair, strict=True):
            write(Path("shots", f"flat{k}{name}.dng"), flat, 800)
    assert len(list(Path("shots").iterdir())) == 10
    write("clean.dng", group.flats[1].mean(axis=0).astype(np.uint16), 100)
    for command in commands:
        words = [sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in shlex.split(command)[1:]]
        assert run(*itertools.chain(*words)) == 0, command
    assert "gain_dn_per_e" in capsys.readouterr().out
    clean, noisy = read_frame("clean.dng"), read_frame("pairs/clean_noisy_0.dng")
    expected = 4.0 * (clean.codes.astype(float).mean() - BLACK) + 4.0**2 * 9 + 1 + 1 / 12
    difference = noisy.codes.astype(float) - clean.codes
    # The variance of 64² values has a relative standard error of √(2/64²) = 2.2 %, the gain one of about 2 %.
    assert difference.var() == pytest.approx(expected, rel=0.15)


def test_estimates_are_shown_to_two_digits_of_their_half_width():
    assert shown(Estimate(-0.104, -0.13, -0.08)) == ("−0.104", "−0.130", "−0.080")
    assert shown(Estimate(2.0, 2.0, 2.0)) == ("2.0000", "2.0000", "2.0000")
