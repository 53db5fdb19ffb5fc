"""Bad input to every command, through the command line on real files: one line, exit 1, nothing half-written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
import torch
import yaml

from noiseflow.cli import main
from noiseflow.datasets import hold_out, open_dataset
from noiseflow.raw.dng import write_dng
from noiseflow.raw.matfile import MatFrame, write_frame


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tree with both halves, one with pictures only, a raw and an sRGB model, and clean images to sample on."""
    root = tmp_path_factory.mktemp("world")
    assert run("simulate", root / "sim", "--cameras", "S6", "--isos", "100,800", "--scenes", 4, "--size", "64x96",
               "--srgb") == 0  # fmt: skip
    shutil.copytree(root / "sim", root / "pictures", ignore=shutil.ignore_patterns("*.MAT"))
    shutil.copytree(root / "sim", root / "mosaics", ignore=shutil.ignore_patterns("*.PNG"))
    assert run("fit", "--data", root / "sim", "--model", "nlf", "--out", root / "raw") == 0
    assert run("fit", "--data", root / "pictures", "--model", "nlf", "--out", root / "srgb") == 0
    rng = np.random.default_rng(0)
    np.save(root / "clean.npy", rng.random((16, 24), dtype=np.float32))
    np.save(root / "codes.npy", rng.integers(0, 1024, (16, 24), dtype=np.uint16))
    np.save(root / "picture.npy", rng.random((16, 24, 3), dtype=np.float32))
    write_frame(root / "clean.mat", rng.random((16, 24)))
    write_dng(root / "clean.dng", rng.integers(0, 1024, (64, 64), dtype=np.uint16), cfa="GRBG", black=0, white=1023,
              iso=100, camera="S6")  # fmt: skip
    return root


def every(root, kind, spoil):
    for path in sorted((root / "Data").glob(f"*/*_{kind}_*")):
        spoil(path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def rename_variable(path):
    with h5py.File(path, "r+") as file:
        file.move("x", "y")


def change(path, how):
    frame = MatFrame(path).read()
    path.unlink()
    write_frame(path, how(frame))


def with_nan(frame):
    frame[np.random.default_rng(0).random(frame.shape) < 0.05] = np.nan
    return frame


def without_levels(path):
    content = scipy.io.loadmat(path, simplify_cells=True)["metadata"]
    scipy.io.savemat(path, {"metadata": {k: v for k, v in content.items() if "Level" not in k}}, appendmat=False)


def iso_zero(root):
    for folder in sorted((root / "Data").iterdir()):
        folder.rename(folder.with_name(folder.name.replace("_00100_", "_00000_")))


SPOILT = {
    "no ground truth": lambda root: every(root, "GT_RAW", Path.unlink),
    "no metadata": lambda root: every(root, "METADATA_RAW", Path.unlink),
    "truncated MAT": lambda root: every(root, "NOISY_RAW", truncate),
    "truncated clean MAT": lambda root: every(root, "GT_RAW", truncate),
    "empty MAT": lambda root: every(root, "NOISY_RAW", empty),
    "empty metadata": lambda root: every(root, "METADATA_RAW", empty),
    "another variable": lambda root: every(root, "NOISY_RAW", rename_variable),
    "NaN": lambda root: every(root, "NOISY_RAW", lambda path: change(path, with_nan)),
    "NaN in the clean frame": lambda root: every(root, "GT_RAW", lambda path: change(path, with_nan)),
    "two sizes": lambda root: every(root, "GT_RAW", lambda path: change(path, lambda frame: frame[:-2])),
    "odd sides": lambda root: [every(root, kind, lambda path: change(path, lambda frame: frame[:-1]))
                               for kind in ("NOISY_RAW", "GT_RAW")],
    "no levels": lambda root: every(root, "METADATA_RAW", without_levels),
    "ISO 0": iso_zero,
}  # fmt: skip


def is_one_line(capsys, code, out):
    """Whether a command ended as bad input shall: exit 1, one line of error without a traceback, nothing written."""
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 1
    assert len(err) == 1, err
    assert "NOISEFLOW_TRACEBACK" not in err[0], err
    assert "Traceback" not in err[0], err
    assert not out.exists() or not any(out.iterdir()), list(out.iterdir())
    return err[0]


def as_table(root, **columns):
    """Two 16-bit mosaics of one scene and their `pairs.csv`; columns replace or add to the usual ones."""
    rng = np.random.default_rng(0)
    row = {"camera": "S6", "iso": "100", "cfa": "GRBG", "white": "1023", "black": "0"} | columns
    lines = [",".join(["noisy", "clean", *row])]
    for number in range(2):
        for kind in ("noisy", "clean"):
            np.save(root / f"{number}_{kind}.npy", rng.integers(0, 1024, (32, 48), dtype=np.uint16))
        lines.append(",".join([f"{number}_noisy.npy", f"{number}_clean.npy", *row.values()]))
    (root / "pairs.csv").write_text("\n".join(lines) + "\n")


def save(root, kind, values):
    for number in range(2):
        np.save(root / f"{number}_{kind}.npy", values)


# name → how to spoil a folder with the table of `as_table`
TABLES = {
    "no clean file": lambda root: (root / "1_clean.npy").unlink(),
    "ISO 0": lambda root: as_table(root, iso="0"),
    "ISO below 0": lambda root: as_table(root, iso="-100"),
    "no levels": lambda root: as_table(root, white="", black=""),
    "black above white": lambda root: as_table(root, black="2000"),
    "unknown pattern": lambda root: as_table(root, cfa="RGBW"),
    "truncated NPY": lambda root: truncate(root / "0_noisy.npy"),
    "empty NPY": lambda root: empty(root / "0_clean.npy"),
    "no picture": lambda root: (root / "0_clean.npy").write_text("hello"),
    "two sizes": lambda root: save(root, "clean", np.zeros((30, 48), np.uint16)),
    "odd sides": lambda root: [save(root, kind, np.zeros((31, 48), np.uint16)) for kind in ("noisy", "clean")],
    "NaN": lambda root: save(root, "noisy", with_nan(np.ones((32, 48), np.float32))),
    "NaN in the clean frame": lambda root: save(root, "clean", with_nan(np.ones((32, 48), np.float32))),
    "no rows": lambda root: (root / "pairs.csv").write_text("noisy,clean,camera,iso\n"),
    "empty table": lambda root: empty(root / "pairs.csv"),
    "no table but bytes": lambda root: (root / "pairs.csv").write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("name", TABLES)
def test_spoilt_tables(world, tmp_path, capsys, name):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    as_table(data)
    TABLES[name](data)
    for command in (
        ("fit", "--data", data, "--out", out, "--model", "nlf", "--split", "all"),
        ("evaluate", world / "raw", "--data", data, "--out", out, "--split", "all"),
    ):
        assert str(data) in is_one_line(capsys, run(*command), out)
    assert run("check", data) == 1


def black(path, shape, kind=np.uint8):
    cv2.imwrite(str(path), np.zeros(shape, kind))


# name → how to spoil the pictures of a tree
PICTURES = {
    "no ground truth": lambda root: every(root, "GT_SRGB", Path.unlink),
    "truncated PNG": lambda root: every(root, "NOISY_SRGB", truncate),
    "empty PNG": lambda root: every(root, "GT_SRGB", empty),
    "two sizes": lambda root: every(root, "GT_SRGB", lambda path: black(path, (8, 8, 3))),
    "16 bits": lambda root: every(root, "GT_SRGB", lambda path: black(path, (64, 96, 3), np.uint16)),
    "grey": lambda root: every(root, "GT_SRGB", lambda path: black(path, (64, 96))),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_spoilt_pictures(world, tmp_path, capsys, name):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(world / "pictures", data)
    PICTURES[name](data)
    for command in (
        ("fit", "--data", data, "--out", out, "--model", "nlf"),
        ("evaluate", world / "srgb", "--data", data, "--out", out),
    ):
        assert str(data) in is_one_line(capsys, run(*command), out)
    assert run("check", data) == 1


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_trees(world, tmp_path, capsys, name):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(world / "mosaics", data)
    SPOILT[name](data)
    fit = ("fit", "--data", data, "--out", out, "--device", "cpu", "--patch", 8, "--steps", 2, "--model")
    for command in (
        (*fit, "nlf"),
        (*fit, "noise_flow"),
        ("evaluate", world / "raw", "--data", data, "--out", out, "--split", "all"),
        ("evaluate", "nlf", world / "raw", "--data", world / "sim", "--baseline-data", data, "--out", out),
    ):
        sentence = is_one_line(capsys, run(*command), out)
        assert str(data) in sentence
    assert run("check", data) == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A tree with enough scenes for validation, and the instance folders that validate."""
    root = tmp_path_factory.mktemp("large")
    assert run("simulate", root, "--cameras", "S6", "--isos", "100", "--scenes", 8, "--size", "64x64") == 0
    _, validation = hold_out(open_dataset(root).select("train").frames, 0.1, 0)
    assert validation
    return root, {frame.files[0].parent.name for frame in validation}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["truncated MAT", "truncated clean MAT", "NaN", "two sizes"])
def test_spoilt_validation_scene(large, tmp_path, capsys, name, workers):
    root, validation = large
    data, out, alone = tmp_path / "data", tmp_path / "out", tmp_path / "alone"
    shutil.copytree(root, data)
    (alone / "Data").mkdir(parents=True)
    for folder in validation:
        (data / "Data" / folder).rename(alone / "Data" / folder)
    SPOILT[name](alone)
    for folder in validation:
        (alone / "Data" / folder).rename(data / "Data" / folder)
    code = run("fit", "--data", data, "--out", out, "--device", "cpu", "--patch", 8, "--steps", 2, "--workers", workers,
               "--model", "noise_flow")  # fmt: skip
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 1
    assert len(err) == 1
    assert "Traceback" not in err[0], err
    assert err[0].startswith(f"error: {data}"), err
    assert not (out / "model.safetensors").exists()


def newer(world, tmp_path):
    """A model file of a format that is not known yet."""
    content = (world / "raw" / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    described = json.loads(header["__metadata__"]["noiseflow"]) | {"format": 2}
    header["__metadata__"]["noiseflow"] = json.dumps(described)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    (tmp_path / "newer.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + content[8 + length :])
    return tmp_path / "newer.safetensors"


def spoilt_file(world, tmp_path, name, spoil, rename=None):
    path = tmp_path / (rename or Path(name).name)
    shutil.copyfile(world / name, path)
    spoil(path)
    return path


def image(world, tmp_path, name, values):
    np.save(tmp_path / name, values)
    return tmp_path / name


def occupied(tmp_path):
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "kept.txt").write_text("mine")
    return tmp_path / "occupied"


def sample(world, *images, model="raw", camera="S6", iso=100):
    return ("sample", world / model, *images, "--camera", camera, "--iso", iso)


# name → command, from the world, a folder to make things in; --out is added where it is not given
COMMANDS = {
    "fit: no such camera": lambda w, t: ("fit", "--data", w / "sim", "--model", "nlf", "--cameras", "N6"),
    "fit: no such ISO": lambda w, t: ("fit", "--data", w / "sim", "--model", "nlf", "--isos", "3200"),
    "fit: ISO 0": lambda w, t: ("fit", "--data", w / "sim", "--model", "nlf", "--isos", "0"),
    "fit: negative steps": lambda w, t: ("fit", "--data", w / "sim", "--model", "noise_flow", "--steps", -1),
    "fit: raw half of pictures": lambda w, t: ("fit", "--data", w / "pictures", "--model", "nlf", "--domain", "raw"),
    "fit: out not empty": lambda w, t: ("fit", "--data", w / "sim", "--model", "nlf", "--out", occupied(t)),
    "evaluate: no such camera": lambda w, t: ("evaluate", w / "raw", "--data", w / "sim", "--cameras", "N6"),
    "evaluate: no such ISO": lambda w, t: ("evaluate", w / "raw", "--data", w / "sim", "--isos", "3200"),
    "evaluate: ISO below 0": lambda w, t: ("evaluate", w / "raw", "--data", w / "sim", "--isos=-100"),
    "evaluate: raw model on pictures": lambda w, t: ("evaluate", w / "raw", "--data", w / "pictures"),
    "evaluate: picture model on mosaics": lambda w, t: ("evaluate", w / "srgb", "--data", w / "mosaics"),
    "evaluate: models of two kinds": lambda w, t: ("evaluate", w / "raw", w / "srgb", "--data", w / "sim"),
    "evaluate: baselines on pictures": lambda w, t: ("evaluate", w / "raw", "nlf", "--data", w / "sim",
                                                     "--baseline-data", w / "pictures"),
    "evaluate: newer format": lambda w, t: ("evaluate", newer(w, t), "--data", w / "sim"),
    "evaluate: truncated model": lambda w, t: ("evaluate", spoilt_file(w, t, "raw/model.safetensors", truncate),
                                               "--data", w / "sim"),
    "evaluate: a folder that is no run": lambda w, t: ("evaluate", w / "sim", "--data", w / "sim"),
    "evaluate: out not empty": lambda w, t: ("evaluate", w / "raw", "--data", w / "sim", "--out", occupied(t)),
    "sample: truncated MAT": lambda w, t: sample(w, spoilt_file(w, t, "clean.mat", truncate)),
    "sample: empty MAT": lambda w, t: sample(w, spoilt_file(w, t, "clean.mat", empty)),
    "sample: another variable": lambda w, t: sample(w, spoilt_file(w, t, "clean.mat", rename_variable)),
    "sample: truncated NPY": lambda w, t: sample(w, spoilt_file(w, t, "clean.npy", truncate)),
    "sample: empty NPY": lambda w, t: sample(w, spoilt_file(w, t, "clean.npy", empty)),
    "sample: empty picture": lambda w, t: sample(w, spoilt_file(w, t, "picture.npy", empty, "p.png"), model="srgb"),
    "sample: empty DNG": lambda w, t: sample(w, spoilt_file(w, t, "clean.dng", empty)),
    "sample: truncated DNG": lambda w, t: sample(w, spoilt_file(w, t, "clean.dng", truncate)),
    "sample: second image damaged": lambda w, t: sample(w, w / "clean.npy", spoilt_file(w, t, "clean.dng", truncate)),
    "sample: NaN": lambda w, t: sample(w, image(w, t, "n.npy", with_nan(np.ones((16, 24), np.float32)))),
    "sample: odd sides": lambda w, t: sample(w, image(w, t, "o.npy", np.ones((15, 24), np.float32))),
    "sample: no levels": lambda w, t: sample(w, w / "codes.npy"),
    "sample: no such camera": lambda w, t: sample(w, w / "clean.npy", camera="N6"),
    "sample: no such ISO": lambda w, t: sample(w, w / "clean.npy", iso=200),
    "sample: ISO 0": lambda w, t: sample(w, w / "clean.npy", iso=0),
    "sample: ISO below 0": lambda w, t: ("sample", w / "raw", w / "clean.npy", "--camera", "S6", "--iso=-100"),
    "sample: picture to a raw model": lambda w, t: sample(w, w / "picture.npy"),
    "sample: mosaic to a picture model": lambda w, t: sample(w, w / "clean.npy", model="srgb"),
    "sample: camera raw to a picture model": lambda w, t: sample(w, w / "clean.dng", model="srgb"),
    "sample: newer format": lambda w, t: ("sample", newer(w, t), w / "clean.npy", "--camera", "S6", "--iso", 100),
    "sample: out not empty": lambda w, t: (*sample(w, w / "clean.npy"), "--out", occupied(t)),
    "sample: out is a file": lambda w, t: (*sample(w, w / "clean.npy"), "--out", w / "clean.npy"),
    "info: newer format": lambda w, t: ("info", newer(w, t)),
    "info: truncated MAT": lambda w, t: ("info", spoilt_file(w, t, "clean.mat", truncate)),
    "info: empty DNG": lambda w, t: ("info", spoilt_file(w, t, "clean.dng", empty)),
    "info: empty folder": lambda w, t: ("info", (t / "nothing").mkdir() or t / "nothing"),
    "check: no data": lambda w, t: ("check", t / "nothing"),
    "check: a file": lambda w, t: ("check", w / "clean.npy"),
    "simulate: ISO 0": lambda w, t: ("simulate", t / "out", "--isos", "0"),
    "simulate: no such camera": lambda w, t: ("simulate", t / "out", "--cameras", "X9"),
    "simulate: odd sides": lambda w, t: ("simulate", t / "out", "--size", "33x64"),
    "simulate: out not empty": lambda w, t: ("simulate", occupied(t)),
    "demo: out not empty": lambda w, t: ("demo", "--out", occupied(t)),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(world, tmp_path, capsys, name):
    command, out = COMMANDS[name](world, tmp_path), tmp_path / "out"
    if command[0] in ("fit", "evaluate", "sample") and "--out" not in command:
        command = (*command, "--out", out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    is_one_line(capsys, run(*command), out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# name → command without its folder, and the bytes that any file may grow to
FULL_DISK = {
    "simulate": (("simulate", "{out}", "--cameras", "S6", "--isos", "100", "--scenes", "1", "--size", "64x96",
                  "--srgb"), (0, 1000, 4000)),
    "fit nlf": (("fit", "--data", "{world}/sim", "--model", "nlf", "--out", "{out}"), (0, 300, 700)),
    "fit noise_flow": (("fit", "--data", "{world}/sim", "--model", "noise_flow", "--steps", "3", "--patch", "8",
                        "--out", "{out}"), (0, 50, 1000, 20000)),
    "evaluate": (("evaluate", "{world}/raw", "--data", "{world}/sim", "--out", "{out}"), (0, 1000, 30000)),
    **{
        f"sample {kind}": (("sample", "{world}/raw", "{world}/clean.npy", "--camera", "S6", "--iso", "100", "--format",
                            kind, "--out", "{out}"), (0, 200))
        for kind in ("npy", "mat", "png", "dng")
    },
    "demo": (("demo", "--out", "{out}"), (0,)),
}  # fmt: skip

LIMITED = """
import contextlib, io, json, resource, sys
from noiseflow.cli import main
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for line in sys.stdin:
    limit, arguments = json.loads(line)
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        code = main(arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(json.dumps([code, err.getvalue()]), flush=True)
"""


def whole(path, reference):
    """Whether a file that a failed command left is what a command that succeeds writes."""
    if path.name == "metrics.csv":
        return all(line.count(",") == 3 and line.endswith("\n") for line in path.read_text().splitlines(keepends=True))
    if path.name == "last.ckpt":
        return bool(torch.load(path, weights_only=True))
    if path.name == "config.yaml":
        theirs, ours = (yaml.safe_load(file.read_text()) | {"out": None} for file in (reference, path))
        return theirs == ours
    if path.name == "environment.json":
        return bool(json.loads(path.read_text()))
    return path.read_bytes() == reference.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
def test_full_disk(world, tmp_path):
    cases = [
        (f"{name} {limit}", limit, arguments) for name, (arguments, limits) in FULL_DISK.items() for limit in limits
    ]
    cases += [(f"{name} whole", -1, arguments) for name, (arguments, _) in FULL_DISK.items() if name != "demo"]
    lines = [
        json.dumps([limit, [part.format(out=tmp_path / name, world=world) for part in arguments]])
        for name, limit, arguments in cases
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    for (name, limit, _), (code, err) in zip(cases, results, strict=True):
        said = [line for line in err.splitlines() if line.startswith("error:")]
        if limit < 0:
            assert code == 0, (name, err)
            continue
        assert code == 1, (name, code, err)
        assert len(said) == 1, (name, err)
        assert "NOISEFLOW_TRACEBACK" not in said[0], (name, said)
        assert "Traceback" not in err, (name, err)
        assert said[0].startswith(f"error: {tmp_path / name}"), (name, said)  # which file it was
        for path in (tmp_path / name).rglob("*"):
            reference = tmp_path / f"{name.rsplit(' ', 1)[0]} whole" / path.relative_to(tmp_path / name)
            assert path.is_dir() or whole(path, reference), (name, path)
