"""MAT files: round trips, a real metadata file, files written by hand, and hostile files."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from noiseflow.errors import UserError
from noiseflow.raw.matfile import MatFrame, Metadata, read_metadata, write_frame, write_metadata
from noiseflow.shot import CFA_PATTERNS

REAL = Path(__file__).parents[3] / "shared" / "real" / "parameters" / "0001_METADATA_RAW_010.MAT"


def frame(height=6, width=10, seed=0):
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def test_round_trip_is_exact_in_whole_and_in_part(tmp_path):
    expected = frame(300, 170)
    write_frame(tmp_path / "f.MAT", expected)
    read = MatFrame(tmp_path / "f.MAT")
    assert read.shape == (300, 170)
    np.testing.assert_array_equal(read.read(), expected)
    np.testing.assert_array_equal(read.read(131, 7, 40, 150), expected[131:171, 7:157])
    np.testing.assert_array_equal(read.read(top=290), expected[290:])
    assert read.read().dtype == np.float32


def test_what_is_written_is_what_matlab_writes(tmp_path):
    expected = frame()
    write_frame(tmp_path / "f.MAT", expected)
    head = (tmp_path / "f.MAT").read_bytes()[:512]
    assert head.startswith(b"MATLAB 7.3 MAT-file") and head[124:128] == b"\x00\x02IM"
    with h5py.File(tmp_path / "f.MAT") as file:
        assert file.userblock_size == 512
        assert file["x"].attrs["MATLAB_class"] == b"single"
        np.testing.assert_array_equal(file["x"][()], expected.T)
    # scipy tells v7.3 from v5 by the same bytes as MATLAB
    with pytest.raises(NotImplementedError, match="HDF"):
        scipy.io.loadmat(tmp_path / "f.MAT")


def test_equal_content_is_equal_bytes_and_replaces(tmp_path):
    path = tmp_path / "f.MAT"
    write_frame(path, frame(seed=1))
    first = path.read_bytes()
    np.testing.assert_array_equal(MatFrame(path).read(), frame(seed=1))
    write_frame(path, frame(seed=2))  # while the reader's pool has it open
    np.testing.assert_array_equal(MatFrame(path).read(), frame(seed=2))
    write_frame(path, frame(seed=1))
    assert path.read_bytes() == first


def test_a_frame_is_pickled_without_its_handle_and_read_by_a_forked_child(tmp_path):
    write_frame(tmp_path / "f.MAT", frame())
    original = MatFrame(tmp_path / "f.MAT")
    original.read()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(original)).read(), frame())
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    from noiseflow.raw import matfile

    parents = matfile._opened(original.path)[0].id.id
    child = os.fork()
    if child == 0:
        same = matfile._opened(original.path)[0].id.id == parents
        correct = np.array_equal(original.read(), frame())
        os._exit(0 if correct and not same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(original.read(), frame())


@pytest.mark.parametrize("ending", ["", "1 / 0", "os.fork() or sys.exit(0); assert os.wait()[1] == 0"])
def test_a_process_that_has_frames_open_ends_as_it_should(tmp_path, ending):
    if "fork" in ending and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    write_frame(tmp_path / "f.MAT", frame())
    code = (
        "import os, sys; from noiseflow.raw import matfile; "
        f"opened = matfile._opened(matfile.Path(sys.argv[1])); {ending}"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f.MAT")], capture_output=True, text=True)
    assert done.returncode == (1 if "/" in ending else 0), done.stderr
    assert ("ZeroDivisionError" in done.stderr) == ("/" in ending)


def test_a_rectangle_outside_is_a_mistake(tmp_path):
    write_frame(tmp_path / "f.MAT", frame())
    with pytest.raises(ValueError, match="inside 6×10"):
        MatFrame(tmp_path / "f.MAT").read(4, 0, 4, 4)
    with pytest.raises(ValueError, match="inside 6×10"):
        MatFrame(tmp_path / "f.MAT").read(-2, 0, 4, 4)
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        write_frame(tmp_path / "g.MAT", np.zeros((2, 3, 4)))


def hostile(path, kind):
    """Write a file that must be refused."""
    with h5py.File(path, "w") as file:
        if kind == "bomb":
            file.create_dataset("x", (10**6, 10**6), "f4", chunks=(64, 64), compression="gzip")
        elif kind == "hollow":
            file.create_dataset("x", (10**4, 10**4), "f4", chunks=(64, 64), compression="gzip")[:2, :2] = 1
        elif kind == "chunk bomb":
            file.create_dataset("x", (4, 4), "f4", chunks=(2**15, 2**14), maxshape=(None, None))
        elif kind == "external link":
            file["x"] = h5py.ExternalLink("other.mat", "x")
        elif kind == "soft link":
            file["y"] = frame()
            file["x"] = h5py.SoftLink("/y")
        elif kind == "external storage":
            file.create_dataset("x", (4, 4), "f4", external=[("secret.bin", 0, 64)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4, 4), "f4")
            layout[:] = h5py.VirtualSource("other.mat", "x", (4, 4))
            file.create_virtual_dataset("x", layout)
        elif kind == "group":
            file.create_group("x")
        elif kind == "integers":
            file["x"] = np.zeros((4, 4), np.int32)
        elif kind == "strings":
            file["x"] = [["a", "b"]]
        elif kind == "cube":
            file["x"] = np.zeros((4, 4, 4), np.float32)
        elif kind == "empty":
            file["x"] = np.zeros((0, 4), np.float32)
        elif kind == "null":
            file["x"] = h5py.Empty("f4")
        elif kind == "other name":
            file["y"] = frame()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bomb", "at most 2048 MiB"),
        ("hollow", "data for the declared shape"),
        ("chunk bomb", "at most 2048 MiB|data for the declared"),
        ("external link", "link to somewhere else"),
        ("soft link", "link to somewhere else"),
        ("external storage", "stored in other files"),
        ("virtual", "stored in other files"),
        ("group", "to be an array, got group"),
        ("integers", "got int32"),
        ("strings", "single or double"),
        ("cube", "two-dimensional"),
        ("empty", "two-dimensional"),
        ("null", "two-dimensional"),
        ("other name", "variable 'x', got y"),
    ],
)
def test_hostile_files_are_refused_before_anything_is_read(tmp_path, kind, message):
    hostile(tmp_path / "bad.MAT", kind)
    with pytest.raises(UserError, match=message) as caught:
        MatFrame(tmp_path / "bad.MAT").read()
    assert "bad.MAT" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 600, 3000, -40])
def test_truncated_files_are_refused(tmp_path, keep):
    write_frame(tmp_path / "f.MAT", frame(100, 100))
    (tmp_path / "f.MAT").write_bytes((tmp_path / "f.MAT").read_bytes()[:keep])
    with pytest.raises(UserError, match=r"f\.MAT"):
        MatFrame(tmp_path / "f.MAT").read()


def test_damaged_data_are_refused(tmp_path):
    write_frame(tmp_path / "f.MAT", frame(100, 100))
    content = bytearray((tmp_path / "f.MAT").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    (tmp_path / "f.MAT").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        MatFrame(tmp_path / "f.MAT").read()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.MAT.*No such file"):
        MatFrame(tmp_path / "none.MAT").read()
    with pytest.raises(UserError, match=r"none\.MAT.*got none"):
        read_metadata(tmp_path / "none.MAT")


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_metadata_round_trip(tmp_path, cfa):
    path = tmp_path / "m.MAT"
    arguments = {"camera": "N6", "make": "motorola", "model": "Nexus 6", "cfa": cfa, "black": 64.5}
    arguments |= {"white": 1023, "iso": 3200, "noise_profile": (1.5e-3, 2e-6)}
    write_metadata(path, **arguments)
    first = path.read_bytes()
    assert read_metadata(path) == Metadata(cfa, (64.5,) * 4, 1023.0, 3200.0, "motorola", "Nexus 6", (1.5e-3, 2e-6) * 3)
    write_metadata(path, **arguments)
    assert path.read_bytes() == first


@pytest.mark.skipif(not REAL.exists(), reason="the real metadata file is not on this machine")
def test_real_metadata_file_and_ours_have_the_same_layout(tmp_path):
    real = read_metadata(REAL)
    assert (real.cfa, real.black, real.white, real.iso) == ("GRBG", (0.0,) * 4, 1023.0, 100.0)
    assert (real.make, real.model) == ("samsung", "SM-G925I")
    # tag 51041 of this file, as listed beside it
    assert real.noise_profile is not None and len(real.noise_profile) == 6
    np.testing.assert_allclose(real.noise_profile[::2], 4.7946e-4, rtol=1e-4)

    write_metadata(
        tmp_path / "m.MAT",
        camera="S6",
        make="samsung",
        model="SM-G925I",
        cfa="GRBG",
        black=0,
        white=1023,
        iso=100,
        noise_profile=real.noise_profile[:2],
    )
    theirs = scipy.io.loadmat(REAL)["metadata"]
    ours = scipy.io.loadmat(tmp_path / "m.MAT")["metadata"]
    assert ours.shape == theirs.shape == (1, 1)
    assert set(ours.dtype.names) <= set(theirs.dtype.names)
    for name in set(ours.dtype.names) - {"UnknownTags", "UniqueCameraModel"}:
        np.testing.assert_array_equal(ours[name][0, 0], theirs[name][0, 0], err_msg=name)
    tags = {int(t["ID"].item()): t["Value"] for t in theirs["UnknownTags"][0, 0].flat}
    ours_tags = ours["UnknownTags"][0, 0]
    assert ours_tags.ndim == 2 and ours_tags.shape[1] == 1 and ours_tags.dtype.names == ("ID", "Offset", "Value")
    for tag in ours_tags.flat:
        np.testing.assert_array_equal(tag["Value"], tags[int(tag["ID"].item())])


def tag_struct(tags):
    rows = np.empty((len(tags), 1), dtype=[("ID", object), ("Offset", object), ("Value", object)])
    for row, (number, value) in enumerate(tags.items()):
        rows[row, 0] = (number, 0, np.asarray(value))
    return rows


def test_tags_of_a_sub_image_are_found_and_preferred(tmp_path):
    raw = {
        "BlackLevel": [[60.0, 61.0], [62.0, 63.0]],
        "WhiteLevel": [1023.0],
        "UnknownTags": tag_struct({33422: [2, 1, 1, 0]}),
    }
    cell = np.empty((1, 2), object)
    cell[0, 0], cell[0, 1] = raw, {"Width": 3}
    top = {"Make": "LG ", "BlackLevel": 5.0, "WhiteLevel": 255.0, "SubIFDs": cell}
    top["DigitalCamera"] = {"ISOSpeedRatings": [800.0, 0.0]}
    scipy.io.savemat(tmp_path / "m.mat", {"metadata": top})
    # BGGR: the cell is B 60, G 61 / G 62, R 63; packed is R, G beside R, G beside B, B
    assert read_metadata(tmp_path / "m.mat") == Metadata(
        cfa="BGGR", black=(63.0, 62.0, 61.0, 60.0), white=1023.0, iso=800.0, make="LG"
    )


def test_what_metadata_do_not_say_is_none(tmp_path):
    scipy.io.savemat(tmp_path / "m.mat", {"metadata": {"Width": 4, "BlackLevel": []}})
    assert read_metadata(tmp_path / "m.mat") == Metadata()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"BlackLevel": [1.0, 2.0, 3.0]}, "--black"),
        ({"BlackLevel": [1.0, 2.0, 3.0, 4.0]}, "--black"),
        ({"WhiteLevel": [1.0, 2.0]}, "--white"),
        ({"WhiteLevel": np.nan}, "finite"),
        ({"WhiteLevel": "high"}, "numbers in WhiteLevel"),
        ({"UnknownTags": tag_struct({33422: [0, 1, 2, 1]})}, "Bayer pattern in tag 33422"),
        ({"UnknownTags": tag_struct({33422: [0, 1, 7, 2]})}, "Bayer pattern in tag 33422"),
    ],
)
def test_metadata_that_contradict_themselves_are_refused(tmp_path, metadata, message):
    scipy.io.savemat(tmp_path / "m.mat", {"metadata": metadata})
    with pytest.raises(UserError, match=message):
        read_metadata(tmp_path / "m.mat")


@pytest.mark.parametrize("content", [b"", b"not a MAT file at all" * 40])
def test_other_files_are_not_metadata(tmp_path, content):
    (tmp_path / "m.mat").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.mat.*MAT v5"):
        read_metadata(tmp_path / "m.mat")
    scipy.io.savemat(tmp_path / "m.mat", {"other": 3})
    with pytest.raises(UserError, match="struct 'metadata'"):
        read_metadata(tmp_path / "m.mat")
