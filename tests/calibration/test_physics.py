"""Profiles as models: the numbers in linear units, the built-in cameras, and the commands that take them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import noiseflow
from noiseflow.calibration.eld import read_eld
from noiseflow.calibration.physics import BUILT_IN, physics_of
from noiseflow.calibration.profile import Estimate, IsoProfile, Profile, read_profile, write_profile
from noiseflow.cli import main
from noiseflow.errors import UserError
from noiseflow.shot import Shot
from noiseflow.simulate import simulate

ELD = Path(__file__).parents[3] / "shared" / "real" / "parameters" / "eld"


def exactly(value):
    return Estimate(value, value, value)


def profile(**changes):
    plain = {
        "gain_dn_per_e": exactly(0.5),
        "read_noise_dn": exactly(3.0),
        "black_dn": (exactly(60.0), exactly(62.0), exactly(66.0), exactly(68.0)),
        "white_dn": 1023.0,
    }
    return Profile("mine", "BGGR", 10, {200.0: IsoProfile(**plain | changes)})


def test_the_numbers_of_a_profile_become_those_of_the_model():
    model = physics_of(profile(row_noise_dn=exactly(1.5)))
    (electronics,) = model.table
    span = 1023 - 64
    assert electronics.white_e == pytest.approx(span / 0.5, rel=1e-12)
    assert electronics.read == pytest.approx(3 / span, rel=1e-12)
    assert electronics.row == pytest.approx(1.5 / span, rel=1e-12)
    assert electronics.tukey_lambda is None
    assert model.card["cameras"]["mine"] == pytest.approx(
        {"cfa": "BGGR", "lsb": 1 / span, "low": -64 / span, "high": 1.0}
    )


def test_the_noise_has_the_variance_that_the_profile_says():
    """In DN: K·mean + scale²·var(Tukey) + row²; the variance of λ = 1, uniform on ± scale, is scale²/3."""
    model = physics_of(profile(tukey_lambda=exactly(1.0), row_noise_dn=exactly(2.0)))
    span, n = 1023 - 64, 256
    shot = Shot.of(torch.full((1, 4, n, n), 0.25), camera="mine", iso=200)
    noise = model.sample(shot, seed=1).double() * span
    expected = 0.5 * 0.25 * span + 3.0 + 4.0
    pixels = 4 * n * n
    # variance of a sample variance: 2σ⁴/n for the pixels' part; the 2n row offsets add 2·(2²)²/(2n)
    spread = math.sqrt(2 * expected**2 / pixels + 2 * 16 / (2 * n))
    assert abs(float(noise.var()) - expected) < 4 * spread


def test_what_the_model_needs_and_the_profile_does_not_know(caplog):
    with pytest.raises(UserError, match=r"mine, ISO 200: the profile does not say its levels; give --white$"):
        physics_of(profile(white_dn=None))
    with pytest.raises(UserError, match="give --black and --white"):
        physics_of(profile(white_dn=None, black_dn=()))
    given = physics_of(profile(white_dn=None, black_dn=()), black=100, white=1100)
    assert given.table[0].white_e == pytest.approx(2000)
    with pytest.raises(UserError, match="0 <= black < white"):
        physics_of(profile(white_dn=50.0))
    with pytest.raises(UserError, match=r"above -0\.25"):
        physics_of(profile(tukey_lambda=exactly(-0.3)))
    with pytest.raises(UserError, match="mine: expected an ISO whose gain and read noise are known"):
        physics_of(profile(gain_dn_per_e=None))
    two = Profile("mine", "BGGR", 10, profile().isos | {400.0: IsoProfile()})
    with caplog.at_level("WARNING"):
        assert physics_of(two).conditions.pairs == (("mine", 200.0),)
    assert "ISO 400 is left out" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING"):
        assert physics_of(profile(prnu=exactly(0.01))).card["profile"]["left_out"] == ["prnu"]
    assert "no prnu" in caplog.text


def test_a_mono_sensor_has_one_channel():
    mono = Profile("mono", None, 12, {1.0: IsoProfile(exactly(2.0), exactly(2.4), (exactly(100.0),), white_dn=4095.0)})
    assert physics_of(mono).channels == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_cameras(name):
    model = noiseflow.load(name)
    known = read_profile(BUILT_IN[name])
    assert [iso for _, iso in model.conditions.pairs] == [100.0 * 2**n for n in range(7)]
    assert 30_000 < model.table[0].white_e < 200_000  # full wells of sensors of these sizes
    # the scales of ISO 100 and ISO 6400 lie on one line in log K, as the source has it
    isos = list(known.isos.values())
    for scale in ("read_noise_dn", "row_noise_dn"):
        logs = [math.log(getattr(one, scale).value) for one in isos]
        assert np.ptp(np.diff(logs)) < 1e-12 * 100
    assert "Wei" in known.source and any("no ISO" in warning for warning in known.warnings)
    if ELD.exists():
        assert known == read_eld(ELD / f"{known.camera}_params.npy")


def test_there_are_five_of_them_and_another_name_lists_them(capsys, tmp_path):
    assert len(BUILT_IN) == 5
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    arguments = [str(tmp_path / "a.npy"), "--iso", "100", "--out", str(tmp_path / "out")]
    assert main(["sample", "eld-leica", *arguments]) == 1
    said = capsys.readouterr().err
    assert "eld-leica: no such model file" in said and all(name in said for name in BUILT_IN)


def test_sample_takes_a_profile_or_the_name_of_one(tmp_path):
    clean = np.linspace(0, 0.9, 24 * 34).reshape(24, 34)
    np.save(tmp_path / "a.npy", clean)
    arguments = [str(tmp_path / "a.npy"), "--iso", "1600", "--seed", "3", "--out"]
    assert main(["sample", "eld-sony-a7s2", *arguments, str(tmp_path / "one")]) == 0
    write_profile(read_profile(BUILT_IN["eld-sony-a7s2"]), tmp_path / "p.json")
    assert main(["sample", str(tmp_path / "p.json"), *arguments, str(tmp_path / "two")]) == 0
    one, two = ((tmp_path / out / "a_noisy_0.npy").read_bytes() for out in ("one", "two"))
    assert one == two
    record = json.loads((tmp_path / "one" / "a_noisy.json").read_text())
    assert (record["camera"], record["model"], record["cfa"]) == ("SonyA7S2", "physics", "RGGB")
    codes = np.load(tmp_path / "one" / "a_noisy_0.npy") * (16383 - 800)
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-6 * 16383)


def test_a_profile_that_lacks_its_white_level_asks_for_it(tmp_path, capsys):
    write_profile(profile(white_dn=None), tmp_path / "p.json")
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    arguments = ["sample", str(tmp_path / "p.json"), str(tmp_path / "a.npy"), "--iso", "200", "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 1
    assert "give --white" in capsys.readouterr().err
    np.save(tmp_path / "a.npy", np.full((4, 4), 64, np.uint16))
    assert main([*arguments, str(tmp_path / "out"), "--white", "1023", "--black", "64"]) == 0
    assert np.load(tmp_path / "out" / "a_noisy_0.npy").dtype == np.uint16


def test_evaluate_scores_a_profile(tmp_path):
    """On the sensor that it describes, a profile loses nothing against the truth."""
    simulate(tmp_path / "tree", cameras=["G4"], isos=[800], scenes=2, size=(64, 64), seed=2)
    gain = 0.003356 * (1023 - 64)  # the phone's slope in linear units is one electron
    read = math.hypot(2.1 * gain, 0.8)  # DN: before the gain and behind it
    one = IsoProfile(exactly(gain), exactly(read), (exactly(64.0),) * 4, white_dn=1023.0)
    write_profile(Profile("G4", "BGGR", 10, {800.0: one}), tmp_path / "p.json")
    arguments = ["--data", str(tmp_path / "tree"), "--split", "all", "--no-samples", "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(tmp_path / "p.json"), *arguments]) == 0
    (model,) = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    assert model["name"] == "p"
    assert abs(model["regret"]["value"]) < 1e-5  # clean images and grids are float32: about 1e-7 of 1/read


def test_info_describes_a_profile(capsys, tmp_path):
    assert main(["info", "eld-nikon-d850"]) == 0
    said = capsys.readouterr().out
    assert "camera: NikonD850" in said and "ISO 6400: gain_dn_per_e 26.563;" in said and "warning 1: " in said
    write_profile(Profile("x", None, None, {50.0: IsoProfile(black_dn=(None,))}), tmp_path / "p.json")
    assert main(["info", str(tmp_path / "p.json")]) == 0
    assert "ISO 50: black_dn not known" in capsys.readouterr().out
