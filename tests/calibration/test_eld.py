"""ELD's parameter files: the numbers against numpy's own unpickler, and pickles that would run something."""

import functools
import pickle
from pathlib import Path

import numpy as np
import pytest

from noiseflow.calibration.eld import read_eld
from noiseflow.calibration.plain_pickle import load_plain
from noiseflow.errors import UserError

ELD = Path(__file__).parents[3] / "shared" / "real" / "parameters" / "eld"
needs_eld = pytest.mark.skipif(not ELD.exists(), reason="the real parameter files are not on this machine")


def law(slope, bias, sigma):
    return {"slope": np.float64(slope), "bias": np.float64(bias), "sigma": np.float64(sigma)}


def parameters(**changes):
    return {
        "Kmin": np.float64(0.1),
        "Kmax": np.float64(0.8),
        "Profile-1": {"G_scale": law(0.5, 0.3, 0.2), "g_scale": law(0.6, 0.7, 0.2), "R_scale": law(0.4, -1.0, 0.1)},
        "G_shape": np.array([0.1, 0.0, -0.2]),
        "color_bias": np.arange(8, dtype=">f4").reshape(2, 4),
    } | changes


def saved(path, value):
    np.save(path, np.array(value, dtype=object), allow_pickle=True)
    return path


def same(a, b):
    if isinstance(b, dict):
        assert list(a) == list(b)
        for key in b:
            same(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)
        assert not isinstance(b, np.ndarray) or a.dtype == b.dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read_as_numpy_reads_it(tmp_path, protocol):
    value = parameters(more=[1, -5, 2**40, True, None, "text"], turned=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(value, dtype=object), file, protocol=protocol)
    same(load_plain(tmp_path / "a.npy"), np.load(tmp_path / "a.npy", allow_pickle=True).item())


def test_a_profile_follows_the_laws(tmp_path):
    profile = read_eld(saved(tmp_path / "Camera_params.npy", parameters()))
    assert (profile.camera, profile.cfa, profile.bits) == ("Camera", "RGGB", 14)
    assert list(profile.isos) == [100, 200, 400, 800]
    for iso, one in profile.isos.items():
        gain = 0.1 * iso / 100
        assert one.gain_dn_per_e.value == pytest.approx(gain, rel=1e-12)
        assert one.read_noise_dn.value == pytest.approx(np.exp(0.3) * gain**0.5, rel=1e-12)
        # 95 % of a log-normal spread
        assert one.read_noise_dn.high / one.read_noise_dn.value == pytest.approx(np.exp(1.96 * 0.2), rel=1e-4)
        assert one.row_noise_dn.value == pytest.approx(np.exp(-1.0) * gain**0.4, rel=1e-12)
        assert one.tukey_lambda.value == pytest.approx(-0.1 / 3, rel=1e-12)
        assert (one.white_dn, [level.value for level in one.black_dn]) == (16383, [800] * 4)
    assert any("no ISO" in warning for warning in profile.warnings) and "Wei" in profile.source


class Runs:
    """What a hostile pickle holds: something to call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(kind, trace):
    values = {
        "call": Runs(eval, f"__import__('os').mkdir({str(trace)!r})"),
        "path": Runs(Path.touch, trace),
        "inside": parameters(Kmin=Runs(exec, f"__import__('os').mkdir({str(trace)!r})")),
        "build": parameters(Kmin=pytest.approx(1)),
        "codec": Runs(__import__("codecs").encode, "text", "rot13"),
        "huge": parameters(color_bias=np.zeros(1 << 18)),
        "objects": np.array([{}, {}], dtype=object),
        "laughs": parameters(more=functools.reduce(lambda inner, _: [inner, inner], range(60), [])),
        "complex": parameters(Kmin=np.complex128(1j)),
    }
    return values[kind]


@pytest.mark.parametrize("kind", ["call", "path", "inside", "build", "codec", "huge", "objects", "laughs", "complex"])
def test_hostile_files_are_refused_and_nothing_is_run(tmp_path, kind):
    trace = tmp_path / "ran"
    path = saved(tmp_path / "a.npy", hostile(kind, trace))
    assert not trace.exists()  # saving runs nothing
    with pytest.raises(UserError, match=r"nothing was run|at most 1 MB") as caught:
        load_plain(path)
    assert str(caught.value).startswith(str(path))
    assert not trace.exists()
    if kind in ("call", "inside"):
        np.load(path, allow_pickle=True)
        assert trace.exists()  # so that the test could fail


@pytest.mark.parametrize("n", [0, 5, 60, 200, 700])
def test_cut_files_are_refused(tmp_path, n):
    path = saved(tmp_path / "a.npy", parameters())
    path.write_bytes(path.read_bytes()[:n])
    with pytest.raises(UserError, match=r"a\.npy: expected pickled numbers"):
        read_eld(path)


@pytest.mark.parametrize(
    "value",
    [
        {"Kmin": 1.0},
        [1.0],
        parameters(Kmin=np.float64(2)),
        parameters(Kmax=np.float64("nan")),
        parameters(Kmin="text"),
        parameters(G_shape=np.zeros((2, 2))),
        parameters(**{"Profile-1": {"G_scale": 1.0}}),
    ],
)
def test_what_is_not_a_camera_is_refused(tmp_path, value):
    path = tmp_path / "a.npy"
    saved(path, value) if isinstance(value, dict) else np.save(path, np.array([*value, None], dtype=object))
    with pytest.raises(UserError, match=r"a\.npy: expected"):
        read_eld(path)


@needs_eld
@pytest.mark.parametrize("path", sorted(ELD.glob("*.npy")), ids=lambda path: path.stem)
def test_the_real_files(path):
    same(load_plain(path), np.load(path, allow_pickle=True).item())
    profile = read_eld(path)
    assert list(profile.isos) == [100.0 * 2**n for n in range(7)]
    assert profile.isos[6400].gain_dn_per_e.value == pytest.approx(load_plain(path)["Kmax"], rel=1e-12)
