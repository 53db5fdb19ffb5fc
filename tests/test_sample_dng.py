"""`noiseflow sample` on a camera's raw file: a DNG with the same levels, and noise of the right size in codes."""

import json

import numpy as np
import pytest
import rawpy
import torch

from noiseflow.calibration.exchange import read_noise_profile
from noiseflow.calibration.lines import line_of
from noiseflow.calibration.physics import BUILT_IN, physics_of
from noiseflow.calibration.profile import Estimate, IsoProfile, Profile, read_profile, write_profile
from noiseflow.cli import main
from noiseflow.models import NoiseLevelFunction, noise_flow
from noiseflow.raw.cfa import pack, unpack
from noiseflow.raw.dng import write_dng
from noiseflow.raw.read import read_frame
from noiseflow.shot import CFA_PATTERNS

BLACK, WHITE = (500.25, 510.5, 512.75, 520.0), 16383


def exactly(value):
    return Estimate(value, value, value)


def flat(cfa, signal=(400, 800, 1200, 2000), side=128):
    """Codes that are constant in each colour, DN above 512."""
    planes = np.stack([np.full((side, side), 512 + n) for n in signal])
    return unpack(planes, cfa).astype(np.uint16)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_a_raw_file_becomes_a_noisy_dng(tmp_path, cfa):
    gain, read = 1.5, 4.0
    levels = tuple(exactly(n) for n in BLACK)
    isos = {102400.0: IsoProfile(exactly(gain), exactly(read), levels, white_dn=WHITE)}
    write_profile(Profile("mine", cfa, 14, isos), tmp_path / "p.json")
    write_dng(tmp_path / "clean.dng", flat(cfa), cfa=cfa, black=BLACK, white=WHITE, iso=50, camera="other")
    arguments = ["--iso", "102400", "--count", "2", "--out", str(tmp_path / "out")]
    assert main(["sample", str(tmp_path / "p.json"), str(tmp_path / "clean.dng"), *arguments]) == 0
    path = tmp_path / "out" / "clean_noisy_1.dng"
    frame = read_frame(path)
    assert (frame.cfa, frame.white, frame.iso, frame.camera) == (cfa, WHITE, 102400, "mine")
    assert frame.black.tolist() == list(BLACK)
    with rawpy.imread(str(path)) as raw:
        np.testing.assert_array_equal(raw.raw_image_visible, frame.codes)
    noise = pack(frame.codes.astype(np.float64) - flat(cfa), cfa)
    n = noise[0].size
    for plane, signal, black in zip(noise, (400, 800, 1200, 2000), BLACK, strict=True):
        variance = gain * (signal + 512 - black) + read**2 + 1 / 12  # the last is rounding's
        assert abs(plane.mean()) < 4.5 * np.sqrt(variance / n)  # 0.25 DN off would be 1 here
        # kurtosis of a Poisson-Gaussian sum is within 1 % of 3; levels are shared among channels in linear units
        assert plane.var() == pytest.approx(variance, rel=4.5 * np.sqrt(2 / n) + 20 / 15873)
    span = WHITE - np.mean(BLACK)
    expected = (gain / span, (read / span) ** 2)
    for line in read_noise_profile(path):
        assert line == pytest.approx(expected, rel=1e-6)  # the table of a noise level function is float32
    record = json.loads((tmp_path / "out" / "clean_noisy.json").read_text())
    assert record["files"] == ["clean_noisy_0.dng", "clean_noisy_1.dng"]


def test_fractions_of_black_do_not_move_the_codes(tmp_path):
    """Without noise to speak of, every code stays what it was, whatever the fractions of the black levels."""
    tiny = {100.0: IsoProfile(exactly(1e-9), exactly(1e-6), tuple(map(exactly, BLACK)), white_dn=WHITE)}
    write_profile(Profile("mine", "RGGB", 14, tiny), tmp_path / "p.json")
    codes = np.random.default_rng(0).integers(600, WHITE + 1, (24, 34)).astype(np.uint16)
    write_dng(tmp_path / "clean.dng", codes, cfa="RGGB", black=BLACK, white=WHITE, iso=100, camera="x")
    for kind in ("dng", "npy"):
        out = ["--format", kind, "--iso", "100", "--out", str(tmp_path / kind)]
        assert main(["sample", str(tmp_path / "p.json"), str(tmp_path / "clean.dng"), *out]) == 0
    np.testing.assert_array_equal(read_frame(tmp_path / "dng" / "clean_noisy_0.dng").codes, codes)
    np.testing.assert_array_equal(np.load(tmp_path / "npy" / "clean_noisy_0.npy"), codes)


def test_levels_of_another_camera_are_mentioned(tmp_path, caplog):
    for white in (1023, WHITE):
        write_dng(tmp_path / "a.dng", flat("RGGB", (0,) * 4, 16), cfa="RGGB", black=500, white=white, iso=1, camera="x")
        out = ["--iso", "100", "--out", str(tmp_path / str(white))]
        caplog.clear()
        with caplog.at_level("WARNING"):
            assert main(["sample", "eld-canon-5d4", str(tmp_path / "a.dng"), *out]) == 0
        assert ("523 codes from black to white, in the profile 15583" in caplog.text) == (white == 1023)


def test_the_line_of_every_kind_of_model():
    physics = physics_of(read_profile(BUILT_IN["eld-sony-a7s2"]))
    (one,) = (e for e, (_, iso) in zip(physics.table, physics.conditions.pairs, strict=True) if iso == 800)
    expected = (1 / one.white_e, one.read**2 + one.row**2)
    assert line_of(physics, "SonyA7S2", 800) == pytest.approx(expected, rel=1e-6)
    table = NoiseLevelFunction([("a", 100.0)])
    with torch.no_grad():
        table.level.log_a.fill_(np.log(2e-3))
        table.level.log_b.fill_(np.log(3e-5))
    assert line_of(table, "a", 100) == pytest.approx((2e-3, 3e-5), rel=1e-6)
    flow = noise_flow([("a", 100.0)], 4)
    flow.start_from(table.level)
    # its variances are drawn: 16 of them to 2.2 %, their line to about 1 % in the slope and 3 % in the intercept
    slope, intercept = line_of(flow.eval(), "a", 100)
    assert slope == pytest.approx(2e-3, rel=0.05) and intercept == pytest.approx(3e-5, rel=0.2)
    with pytest.raises(ValueError, match="raw noise"):
        line_of(NoiseLevelFunction([("a", 100.0)], 3), "a", 100)
