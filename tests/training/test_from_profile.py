"""`fit --profile`: a flow that has taken no step is the profile's noise level function, not the data's."""

import math

import pytest

from noiseflow import load
from noiseflow.calibration.profile import Estimate, IsoProfile, Profile, write_profile
from noiseflow.cli import main
from noiseflow.simulate import simulate


def exactly(value):
    return Estimate(value, value, value)


def written(path, camera="S6", isos=(100, 400)):
    """Twice the electrons and a third of the read noise that S6 has."""
    table = {iso: IsoProfile(exactly(0.25 * iso / 100), exactly(1.0), white_dn=1023.0) for iso in map(float, isos)}
    write_profile(Profile(camera, "GRBG", 10, table), path)
    return str(path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "sim"
    simulate(root, cameras=["S6", "GP"], isos=[100, 200, 800], scenes=1, size=(32, 32), seed=1)
    return str(root)


def fitted(tree, tmp_path, *arguments):
    flow = ["--model", "noise_flow", "--steps", "0", "--split", "all", "--black", "0"]
    status = main(["fit", "--data", tree, "--out", str(tmp_path / "run"), *flow, *arguments])
    return status, (load(tmp_path / "run").reference if status == 0 else None)


def test_the_flow_starts_from_the_profile(tree, tmp_path, caplog):
    status, plain = fitted(tree, tmp_path / "plain")
    assert status == 0
    with caplog.at_level("WARNING"):
        status, level = fitted(tree, tmp_path / "profile", "--profile", written(tmp_path / "p.json"))
    assert status == 0
    assert "ISO 800 of camera 'S6' lies outside" in caplog.text
    rows = {pair: row for row, pair in enumerate(level.conditions.pairs)}
    a, b = (level.log_a[:, 0].exp().tolist(), level.log_b[:, 0].exp().tolist())
    # float32 tables: 2⁻²⁴ of a logarithm of size 15
    assert a[rows["S6", 100.0]] == pytest.approx(0.25 / 1023, rel=3e-6)
    assert a[rows["S6", 200.0]] == pytest.approx(0.5 / 1023, rel=3e-6)  # half way between on the logarithm
    assert b[rows["S6", 100.0]] == pytest.approx(1 / 1023**2, rel=3e-6)
    for pair in (("S6", 800.0), ("GP", 100.0), ("GP", 800.0)):
        assert level.log_a[rows[pair], 0] == plain.log_a[rows[pair], 0]
    assert math.exp(plain.log_a[rows["S6", 100.0], 0]) == pytest.approx(4.8e-4, rel=0.5)
    card = load(tmp_path / "profile" / "run").card
    assert card["protocol"]["profile"] == "p.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "physics"], "expected a flow of raw noise"),
        (["--condition", "srgb"], "clean picture|flow of raw noise|sRGB"),
        (["--profile", "eld-sony-a7s2"], "expected a profile of GP or S6, got one of SonyA7S2"),
        (["--profile", "none.json"], "none.json: no such profile"),
    ],
)
def test_what_cannot_start_from_a_profile(tree, tmp_path, capsys, arguments, message):
    import re

    given = ["--profile", written(tmp_path / "p.json"), *arguments]
    assert fitted(tree, tmp_path, *given)[0] == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()
