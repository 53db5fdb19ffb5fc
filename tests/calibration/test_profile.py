"""Profiles: what is written is what is read, to the last bit; what is not a profile is refused by name."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiseflow.calibration.profile import Estimate, IsoProfile, Profile, read_profile, write_profile
from noiseflow.errors import UserError

numbers = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-300, 1e300)


def estimates(values):
    return st.lists(values, min_size=3, max_size=3).map(sorted).map(lambda v: Estimate(v[1], v[0], v[2]))


def isos(channels):
    wide, scale = st.none() | estimates(numbers), st.none() | estimates(positive)
    return st.builds(
        IsoProfile,
        gain_dn_per_e=scale,
        read_noise_dn=scale,
        black_dn=st.sampled_from([0, channels]).flatmap(lambda n: st.tuples(*[wide] * n)),
        row_noise_dn=wide,
        column_noise_dn=wide,
        tukey_lambda=wide,
        white_dn=st.none() | numbers,
        step_dn=st.none() | numbers,
        prnu=wide,
    )


profiles = st.sampled_from([None, "RGGB", "BGGR"]).flatmap(
    lambda cfa: st.builds(
        Profile,
        camera=st.text(max_size=9),
        cfa=st.just(cfa),
        bits=st.none() | st.integers(1, 16),
        isos=st.dictionaries(st.floats(1e-3, 1e9), isos(1 if cfa is None else 4), min_size=1, max_size=3),
        read_noise_pre_e=st.none() | estimates(numbers),
        read_noise_post_dn=st.none() | estimates(numbers),
        gain_segments=st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple),
        warnings=st.lists(st.text(max_size=9), max_size=2).map(tuple),
        source=st.text(max_size=9),
    )
)


@settings(max_examples=30)
@given(profile=profiles)
def test_what_is_written_is_read(tmp_path_factory, profile):
    path = tmp_path_factory.mktemp("profile") / "a.json"
    write_profile(profile, path)
    first = path.read_bytes()
    assert read_profile(path) == profile
    write_profile(read_profile(path), path)
    assert path.read_bytes() == first


PROFILE = Profile(
    "S6",
    "GRBG",
    10,
    {
        100.0: IsoProfile(Estimate(0.35, 0.34, 0.36), Estimate(2.0, 1.9, 2.1), (Estimate(1, 0, 2),) * 4, white_dn=1023),
        104857600.0: IsoProfile(),
    },
    gain_segments=((100.0, 1600.0), (3200.0, 25600.0)),
    warnings=("no dark frames at ISO 200",),
)


def content(tmp_path):
    write_profile(PROFILE, tmp_path / "a.json")
    return json.loads((tmp_path / "a.json").read_text())


def test_the_keys_are_those_that_are_documented(tmp_path):
    read = content(tmp_path)
    assert list(read)[:5] == ["format", "camera", "cfa", "bits", "isos"]
    assert (read["format"], read["camera"], read["cfa"], read["bits"]) == (1, "S6", "GRBG", 10)
    assert list(read["isos"]) == ["100", "104857600"]
    one = read["isos"]["100"]
    assert one["gain_dn_per_e"] == {"value": 0.35, "low": 0.34, "high": 0.36}
    assert one["black_dn"] == [{"value": 1, "low": 0, "high": 2}] * 4
    assert (one["white_dn"], one["tukey_lambda"], one["row_noise_dn"]) == (1023, None, None)
    assert read["gain_law"] == {"segments": [[100.0, 1600.0], [3200.0, 25600.0]]}
    assert read["warnings"] == ["no dark frames at ISO 200"] and read["read_noise_pre_e"] is None


def test_keys_may_be_left_out(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"format": 1, "camera": "x", "isos": {"50": {"white_dn": 255}}}')
    assert read_profile(path) == Profile("x", None, None, {50.0: IsoProfile(white_dn=255.0)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "expected a noise profile of format 1"),
        ({"format": True}, "expected a noise profile of format 1"),
        ({"camera": None}, "camera"),
        ({"camera": 5}, "camera: expected text, got 5"),
        ({"cfa": "RGBG"}, "cfa: expected one of"),
        ({"bits": 10.5}, "bits: expected a whole number"),
        ({"isos": {}}, "isos: expected at least one ISO"),
        ({"isos": []}, r"isos: expected an object with one entry an ISO, got \[\]"),
        ({"isos": {"fast": {}}}, "isos: expected ISO speeds as keys, got 'fast'"),
        ({"isos": {"nan": {}}}, "isos: expected ISO speeds as keys, got 'nan'"),
        ({"isos": {"1": {"gain": 1}}}, "isos.1: unknown key 'gain'"),
        ({"isos": {"1": {"gain_dn_per_e": 1}}}, "isos.1.gain_dn_per_e: expected an object, got 1"),
        ({"isos": {"1": {"gain_dn_per_e": {"value": 1}}}}, "isos.1.gain_dn_per_e: expected the keys low, high"),
        ({"isos": {"1": {"prnu": {"value": 1, "low": 2, "high": 3}}}}, "expected low <= value <= high, got 2, 1, 3"),
        ({"isos": {"1": {"gain_dn_per_e": {"value": 0, "low": 0, "high": 3}}}}, "expected a value above 0"),
        ({"isos": {"1": {"prnu": {"value": "1", "low": 0, "high": 3}}}}, "isos.1.prnu.value: expected a finite number"),
        ({"isos": {"1": {"black_dn": [None]}}}, "isos.1.black_dn: expected 4 levels, got 1"),
        ({"isos": {"1": {"white_dn": True}}}, "isos.1.white_dn: expected a finite number, got true"),
        ({"gain_law": {"segments": [[1]]}}, r"gain_segments\[0\]: expected a list"),
        ({"gain_law": {"slope": 1}}, "gain_law: unknown key 'slope'"),
        ({"warnings": "none"}, "warnings: expected a list"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_malformed_profiles_are_refused_by_name(tmp_path, change, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content(tmp_path) | change))
    with pytest.raises(UserError, match=message) as caught:
        read_profile(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("text", ["", "[", "[1, 2]", '{"format": 1}', '{"isos": NaN}', "[" * 200_000, "\xff"])
def test_what_is_no_profile_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="expected a "):
        read_profile(tmp_path / "a.json")
    with pytest.raises(UserError, match="no such profile"):
        read_profile(tmp_path / "b.json")


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_profile(Profile("x", None, None, {1.0: IsoProfile(white_dn=math.inf)}), tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
