"""Other people's formats: what we write they read, what they wrote we read, and nonsense names its line."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from noiseflow.calibration.exchange import (
    Line,
    TransferPoint,
    read_nlf_table,
    read_noise_profile,
    read_photon_transfer,
    write_nlf_table,
)
from noiseflow.calibration.lines import line_of
from noiseflow.calibration.physics import BUILT_IN
from noiseflow.calibration.profile import read_profile
from noiseflow.cli import main
from noiseflow.errors import UserError
from noiseflow.files import load
from noiseflow.raw.dng import write_dng

PARAMETERS = Path(__file__).parents[3] / "shared" / "real" / "parameters"
needs_real = pytest.mark.skipif(not PARAMETERS.exists(), reason="the real parameter files are not on this machine")


def test_the_noise_profile_of_a_dng_comes_back_to_the_last_bit(tmp_path):
    codes = np.zeros((24, 34), np.uint16)
    levels = {"cfa": "RGGB", "black": 0, "white": 1023, "iso": 100, "camera": "x"}
    write_dng(tmp_path / "a.dng", codes, **levels, noise_profile=(1 / 3, 1e-7 / 3))
    assert read_noise_profile(tmp_path / "a.dng") == (Line(1 / 3, 1e-7 / 3),) * 3
    write_dng(tmp_path / "b.dng", codes, **levels)
    assert read_noise_profile(tmp_path / "b.dng") is None
    one = [(51041, 12, 2, (1e-3, -1e-9), True)]  # a camera of one profile for all colours; fits may be negative at 0
    tifffile.imwrite(tmp_path / "c.tif", codes, metadata=None, extratags=one)
    assert read_noise_profile(tmp_path / "c.tif") == (Line(1e-3, -1e-9),)
    (tmp_path / "d.dng").write_text("text")
    with pytest.raises(UserError, match=r"d\.dng: expected a DNG"):
        read_noise_profile(tmp_path / "d.dng")


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), (float("nan"), 1.0), (-1.0, 1.0)])
def test_a_malformed_noise_profile_is_refused(tmp_path, values):
    tags = [(51041, 12, len(values), values, True)]
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), np.uint16), metadata=None, extratags=tags)
    with pytest.raises(UserError, match="pairs of numbers in the NoiseProfile tag"):
        read_noise_profile(tmp_path / "a.tif")


def test_a_table_of_noise_level_functions_comes_back_to_the_last_bit(tmp_path):
    table = {("S6", 100.0): Line(1 / 3, 2e-6), ("My_camera", 102400.0): Line(0.0, -1e-300), ("S6", 12.5): Line(1, 2)}
    write_nlf_table(tmp_path / "a.txt", table)
    assert read_nlf_table(tmp_path / "a.txt") == table
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert lines[0] == "cam_iso,beta1,beta2" and any(line.startswith("S6_00100,") for line in lines)


@needs_real
def test_real_tables():
    table = read_nlf_table(PARAMETERS / "cam_iso_nlf_all.txt")
    assert table["S6", 3200] == Line(0.01993, 2e-6) and table["IP", 100] == Line(0.000702, 3e-6)
    assert {camera for camera, _ in table} == {"IP", "GP", "S6", "N6", "G4"}
    points = read_photon_transfer(PARAMETERS / "Nikon_D5100_flat.csv")
    assert points[0] == TransferPoint(100, 192.929642, 4.758737, 0.001563)
    assert len(points) == len((PARAMETERS / "Nikon_D5100_flat.csv").read_text().split())


def test_photon_transfer_points_in_every_layout(tmp_path):
    expected = (TransferPoint(100, 200.5, 3.0, 0.5), TransferPoint(200, 300, 4.0, None))
    layouts = {
        "a.csv": "iso,mean,sigma,exposure\n100,200.5,3,0.5\n\n200,300,4,\n",
        "b.csv": "\ufeffCamera; ISO ;Sigma;Mean;Exposure\r\nx;100;3;200.5;.5\r\nx;200;4;300;\r\n",
        "c.csv": "100;0.5;200.5;3\n200; ;300;4",
    }
    for name, text in layouts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_photon_transfer(tmp_path / name) == expected
    (tmp_path / "d.csv").write_text("200,300,4\n")
    assert read_photon_transfer(tmp_path / "d.csv") == expected[1:]


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_nlf_table, "", "expected the header cam_iso,beta1,beta2"),
        (read_nlf_table, "S6_00100,1,2", "expected the header"),
        (read_nlf_table, "cam_iso,beta1,beta2\nS6,1,2", "line 2: expected finite numbers"),
        (read_nlf_table, "cam_iso,beta1,beta2\nS6_00100,-1,2", "line 2: expected CAMERA_ISO"),
        (read_nlf_table, "cam_iso,beta1,beta2\nS6_00100,1", "line 2: expected CAMERA_ISO"),
        (read_nlf_table, "cam_iso,beta1,beta2\n\nS6_00100,nan,2", "line 3: expected finite numbers"),
        (read_nlf_table, "cam_iso,beta1,beta2\nS6_00100,1,2\nS6_00100,1,3", "line 3: S6_00100 is there twice"),
        (read_photon_transfer, "", "empty"),
        (read_photon_transfer, "100,2", "line 1: expected ISO, exposure, mean and sigma"),
        (read_photon_transfer, "a,b,c", "line 1: expected finite numbers"),
        (read_photon_transfer, "100,5,1\n0,5,1", "line 2: expected ISO > 0"),
        (read_photon_transfer, "iso,mean,sigma\n100,,1", "line 2: expected ISO > 0"),
        (read_photon_transfer, "iso,mean,sigma\n100,2", "line 2: expected ISO, exposure"),
        (read_photon_transfer, "iso,mean,sigma\n100,2,-1", "line 2: expected ISO > 0, mean and sigma >= 0"),
        (read_photon_transfer, "\xff\xfe\x00", "a table in text|finite"),
    ],
)
def test_nonsense_names_its_line(tmp_path, read, text, message):
    (tmp_path / "a.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "a.csv")
    assert str(caught.value).startswith(str(tmp_path / "a.csv"))
    with pytest.raises(UserError, match="expected a file, got none"):
        read(tmp_path / "b.csv")


def test_import_takes_parameters_of_every_format(tmp_path, capsys):
    write_nlf_table(tmp_path / "t.txt", {("S6", 100.0): Line(2e-3, 3e-6), ("S6", 200.0): Line(0.0, -1e-9)})
    codes = np.full((24, 34), 500, np.uint16)
    levels = {"cfa": "RGGB", "black": 0, "white": 1023, "iso": 320, "camera": "x"}
    write_dng(tmp_path / "a.dng", codes, **levels, noise_profile=(1e-3, 1e-6))
    for source, out in (("t.txt", "t.safetensors"), ("a.dng", "a.safetensors")):
        assert main(["import", str(tmp_path / source), "--out", str(tmp_path / out)]) == 0
    table, tag = (load(tmp_path / name) for name in ("t.safetensors", "a.safetensors"))
    # float32 tables of logarithms of size up to 13: 2^-24 of that
    assert line_of(table, "S6", 100) == pytest.approx((2e-3, 3e-6), rel=1e-5)
    assert line_of(table, "S6", 200) == pytest.approx((0, 0), abs=1e-30)
    assert line_of(tag, "x", 320) == pytest.approx((1e-3, 1e-6), rel=1e-5)
    assert main(["info", str(tmp_path / "a.dng")]) == 0
    assert "noise profile: variance = 0.001·x + 1e-06" in capsys.readouterr().out
    write_dng(tmp_path / "b.dng", codes, **levels)
    for source, out, message in (
        ("b.dng", "b.safetensors", "with a NoiseProfile tag, got one without"),
        ("t.txt", "t.json", "ends in .safetensors"),
        ("t.txt", "t.safetensors", "the file exists"),
        ("p.npy", "p.safetensors", "ends in .json"),
        ("p.npy", "p.json", "expected a file, got none"),
    ):
        assert main(["import", str(tmp_path / source), "--out", str(tmp_path / out)]) == 1
        assert message in capsys.readouterr().err


@needs_real
def test_import_makes_a_profile_of_elds_parameters(tmp_path):
    out = tmp_path / "p.json"
    assert main(["import", str(PARAMETERS / "eld" / "SonyA7S2_params.npy"), "--out", str(out)]) == 0
    assert read_profile(out) == read_profile(BUILT_IN["eld-sony-a7s2"])
