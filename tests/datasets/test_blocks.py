"""SIDD's block files, written with bare scipy and h5py: read, scored by the command line, refused where damaged."""

import json
import pickle

import h5py
import numpy as np
import pytest
import scipy.io

from noiseflow.cli import main
from noiseflow.datasets import open_dataset
from noiseflow.errors import UserError
from noiseflow.raw.blockfile import block_array, block_shape
from noiseflow.raw.cfa import pack
from noiseflow.simulate import simulate

IMAGES, BLOCKS, SIDE = 2, 3, 32
TABLE = "image,camera,iso,cfa,black,white\n1,S6,800,GRBG,0,1023\n2,N6,100,gbrg,42,1023\n"


def write(path, array, version):
    if version == 5:
        scipy.io.savemat(path, {path.stem: array}, do_compression=True)
        return
    with h5py.File(path, "w", userblock_size=512) as file:  # MATLAB stores the axes the other way round
        data = file.create_dataset(path.stem, data=np.ascontiguousarray(array.T), chunks=True, compression="gzip")
        data.attrs["MATLAB_class"] = np.bytes_({"uint8": b"uint8"}.get(array.dtype.name, b"single"))
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM")


def write_blocks(root, version=5, table=TABLE):
    """Both halves; returns the arrays by file name."""
    rng = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    shape, arrays = (IMAGES, BLOCKS, SIDE, SIDE), {}
    clean = rng.random(shape) ** 2
    levels = np.array([1023, 981])[:, None, None, None]
    noisy = np.clip(np.rint((clean + 0.02 * rng.normal(size=shape)) * levels), 0, levels) / levels
    arrays["ValidationGtBlocksRaw"], arrays["ValidationNoisyBlocksRaw"] = np.float32(clean), np.float32(noisy)
    for kind in ("Gt", "Noisy"):
        arrays[f"Validation{kind}BlocksSrgb"] = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    for name, array in arrays.items():
        write(root / f"{name}.mat", array, version)
    if table:
        (root / "blocks.csv").write_text(table)
    return arrays


@pytest.mark.parametrize("version", [5, 7.3])
def test_every_block_is_where_it_belongs(tmp_path, version):
    arrays = write_blocks(tmp_path, version)
    data = open_dataset(tmp_path)
    assert (data.domain, data.truth, len(data.frames)) == ("raw", "mean", IMAGES * BLOCKS)
    assert data.conditions == (("N6", 100.0), ("S6", 800.0))
    assert set(data.split_of.values()) == {"test"}
    for n, frame in enumerate(data.frames):
        i, j = divmod(n, BLOCKS)
        assert frame.scene == f"validation {i + 1:02d}"
        frame = pickle.loads(pickle.dumps(frame))
        pair = frame.read(1, 2, 5, 6)
        lsb = 1 / (1023, 981)[i]
        assert pair.lsb.tolist() == pytest.approx([lsb] * 4)
        for got, kind in ((pair.noisy, "Noisy"), (pair.clean, "Gt")):
            expected = pack(arrays[f"Validation{kind}BlocksRaw"][i, j], ("GRBG", "GBRG")[i])[:, 1:6, 2:8]
            assert got.numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("version", [5, 7.3])
def test_pictures(tmp_path, version):
    arrays = write_blocks(tmp_path, version)
    pair = open_dataset(tmp_path, domain="srgb").frames[4].read(3, 0, 9, 8)
    assert np.array_equal((pair.noisy * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0),
                          arrays["ValidationNoisyBlocksSrgb"][1, 1, 3:12, 0:8])  # fmt: skip
    raw = open_dataset(tmp_path, condition="srgb").frames[4].read(1, 0, 2, 3)
    assert np.array_equal((raw.srgb * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0),
                          arrays["ValidationGtBlocksSrgb"][1, 1, 2:6, 0:6])  # fmt: skip


def test_scored_through_the_command_line(tmp_path):
    write_blocks(tmp_path / "blocks")
    simulate(tmp_path / "sim", cameras=["S6", "N6"], isos=[100, 800], scenes=3, size=(64, 64))
    evaluate = ["evaluate", "nlf", "gaussian", "--data", str(tmp_path / "blocks"), "--baseline-data",
                str(tmp_path / "sim"), "--out", str(tmp_path / "e")]  # fmt: skip
    assert main(evaluate) == 0
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert (results["data"]["images"], results["data"]["scenes"]) == (IMAGES * BLOCKS, IMAGES)
    assert results["data"]["truth"] == "mean"
    assert {(s["camera"], s["iso"]) for s in results["models"][0]["by_shot"]} == {("S6", 800), ("N6", 100)}
    assert main(["info", str(tmp_path / "blocks")]) == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "camera, ISO and levels"),
        ("image,camera,iso\n1,S6,800\n", "image 2 has none"),
        ("image,camera,iso\n1,S6,800\n2,S6,800\n", "expected cfa, black and white"),
        ("image,camera\n1,S6\n", "none called iso"),
        (TABLE.replace("800", "much"), "line 2: expected numbers"),
        (TABLE.replace("GRBG", "GRRB"), "line 2: .*GRRB"),
        (TABLE.replace("2,N6", "1,N6"), "named once"),
    ],
)
def test_a_table_that_says_too_little(tmp_path, table, message):
    write_blocks(tmp_path, table=table)
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path, domain="raw")


def test_levels_from_the_command_line_and_none_for_pictures(tmp_path):
    write_blocks(tmp_path, table="image,camera,iso,cfa\n1,S6,800,GRBG\n2,S6,800,GRBG\n")
    frame = open_dataset(tmp_path, black=0, white=1023).frames[0]
    assert frame.lsb[0] == 1 / 1023
    assert open_dataset(tmp_path, domain="srgb").frames[0].cfa is None


def test_halves_that_are_missing(tmp_path):
    write_blocks(tmp_path)
    (tmp_path / "ValidationGtBlocksRaw.mat").unlink()
    with pytest.raises(UserError, match="ground truth"):
        open_dataset(tmp_path)
    (tmp_path / "ValidationNoisyBlocksRaw.mat").rename(tmp_path / "BenchmarkNoisyBlocksRaw.mat")
    with pytest.raises(UserError, match=r"found BenchmarkNoisyBlocksRaw\.mat"):
        open_dataset(tmp_path, domain="raw")


def test_damaged_files_are_refused(tmp_path):
    write_blocks(tmp_path)
    path = tmp_path / "ValidationNoisyBlocksRaw.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="ValidationNoisyBlocksRaw"):
        open_dataset(tmp_path).frames[0].read()
    path.write_bytes(b"")
    with pytest.raises(UserError, match="could not read it"):
        open_dataset(tmp_path)
    write(path, np.zeros((2, 3, 32), np.float32), 7.3)
    with pytest.raises(UserError, match="images×blocks"):
        block_shape(path)
    write(path, np.zeros((2, 3, 8, 8), np.int32), 5)
    with pytest.raises(UserError, match="single or double"):
        block_shape(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("bomb", (40, 32, 1 << 14, 1 << 14), "f8", chunks=(1, 1, 8, 8))
    with pytest.raises(UserError, match="at most 2048 MiB"):
        block_array(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("hollow", (40, 32, 64, 64), "f4", chunks=(1, 1, 64, 64))
    with pytest.raises(UserError, match="cut off or damaged"):
        block_array(path)
    with h5py.File(path, "w") as file:
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(UserError, match="link to somewhere else"):
        block_shape(path)
