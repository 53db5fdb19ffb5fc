"""`noiseflow check`: every finding fires on a tree made to trigger it, and none on sound ones."""

import csv
import shutil

import cv2
import h5py
import numpy as np
import pytest
from sidd_tree import write_mat, write_metadata

from noiseflow.cli import main
from noiseflow.datasets.checking import WARNINGS, check
from noiseflow.raw.matfile import MatFrame
from noiseflow.simulate import simulate

CFA, BLACK, WHITE = [1, 0, 2, 1], 0, 1023  # S6's


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Three scenes by one phone, both halves."""
    root = tmp_path_factory.mktemp("sound") / "tree"
    simulate(root, cameras=["S6"], isos=[800], scenes=3, size=(256, 256), srgb=True, seed=3)
    return root


@pytest.fixture
def tree(sound, tmp_path):
    """A copy to be spoilt, and its first instance, `0001_001_S6_00800_…`."""
    shutil.copytree(sound, tmp_path / "tree")
    return tmp_path / "tree", next((tmp_path / "tree" / "Data").glob("0001_*"))


def part(folder, kind, half="RAW"):
    return folder / f"0001_{kind}_{half}_010.{'MAT' if half == 'RAW' else 'PNG'}"


def rewrite(path, change):
    frame = change(MatFrame(path).read())
    path.unlink()
    write_mat(path, np.asarray(frame, np.float32))


def swap(first, second):
    first.rename(first.with_suffix(".tmp"))
    second.rename(first)
    first.with_suffix(".tmp").rename(second)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rename_variable(path):
    with h5py.File(path, "r+") as file:
        file.move("x", "y")


def odd(folder):
    for kind in ("NOISY", "GT"):
        rewrite(part(folder, kind), lambda frame: frame[:-1])


def with_nan(frame):
    frame = frame.copy()
    frame[:2] = np.nan  # 0.8 %
    return frame


def eight_bits(frame):
    return np.round(np.round(frame * 255) / 255 * 1023) / 1023


def metadata(folder, cfa=CFA, black=BLACK, iso=800.0, model="virtual S6"):
    write_metadata(part(folder, "METADATA"), cfa, black, WHITE, iso, "noiseflow", model)


# name → what is found, and how to spoil the first instance of a sound tree
SPOILT = {
    "noisy without clean": ("missing half", lambda f: part(f, "GT").unlink()),
    "clean without noisy": ("missing half", lambda f: part(f, "NOISY").unlink()),
    "no metadata": ("missing half", lambda f: part(f, "METADATA").unlink()),
    "picture without clean": ("missing half", lambda f: part(f, "GT", "SRGB").unlink()),
    "ISO 0": ("bad ISO", lambda f: f.rename(f.with_name(f.name.replace("_00800_", "_00000_")))),
    "truncated MAT": ("damaged file", lambda f: truncate(part(f, "NOISY"))),
    "truncated clean MAT": ("damaged file", lambda f: truncate(part(f, "GT"))),
    "empty MAT": ("damaged file", lambda f: part(f, "GT").write_bytes(b"")),
    "truncated metadata": ("damaged file", lambda f: truncate(part(f, "METADATA"))),
    "truncated PNG": ("damaged file", lambda f: truncate(part(f, "NOISY", "SRGB"))),
    "empty PNG": ("damaged file", lambda f: part(f, "GT", "SRGB").write_bytes(b"")),
    "wrong name": ("wrong name", lambda f: rename_variable(part(f, "NOISY"))),
    "no levels": ("missing levels", lambda f: metadata(f, black=None)),
    "sizes differ": ("sizes differ", lambda f: rewrite(part(f, "GT"), lambda frame: frame[:-2])),
    "pictures of two sizes": (
        "sizes differ",
        lambda f: cv2.imwrite(str(part(f, "GT", "SRGB")), np.zeros((254, 256, 3), np.uint8)),
    ),
    "odd sides": ("odd sides", odd),
    "NaN": ("broken values", lambda f: rewrite(part(f, "NOISY"), with_nan)),
    "NaN in the clean frame": ("broken values", lambda f: rewrite(part(f, "GT"), with_nan)),
    "swapped": ("swapped", lambda f: swap(part(f, "NOISY"), part(f, "GT"))),
    "swapped pictures": ("swapped", lambda f: swap(part(f, "NOISY", "SRGB"), part(f, "GT", "SRGB"))),
    "two columns apart": ("misaligned", lambda f: rewrite(part(f, "GT"), lambda frame: np.roll(frame, 2, 1))),
    "a row and a column apart": ("misaligned", lambda f: rewrite(part(f, "GT"), lambda g: np.roll(g, (2, 1), (0, 1)))),
    "pictures a row apart": (
        "misaligned",
        lambda f: cv2.imwrite(
            str(part(f, "GT", "SRGB")), np.roll(cv2.imread(str(part(f, "GT", "SRGB"))), 1, 0)
        ),
    ),
    "another ISO": ("disagreement", lambda f: metadata(f, iso=100.0)),
    "another phone": ("disagreement", lambda f: metadata(f, model="virtual N6")),
    "another pattern": ("disagreement", lambda f: metadata(f, cfa=[0, 1, 1, 2])),
    "off the lattice": ("off the lattice", lambda f: rewrite(part(f, "NOISY"), lambda frame: frame + 0.3 / 1023)),
    "one file twice": ("no noise", lambda f: shutil.copy(part(f, "GT"), part(f, "NOISY"))),
    "one picture twice": ("no noise", lambda f: shutil.copy(part(f, "GT", "SRGB"), part(f, "NOISY", "SRGB"))),
    "8 bits": ("bit depth", lambda f: rewrite(part(f, "NOISY"), eight_bits)),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_each_finding_fires(name, tree, capsys):
    root, folder = tree
    kind, spoil = SPOILT[name]
    spoil(folder)
    code = main(["check", str(root)])
    out = capsys.readouterr().out
    assert code == (0 if kind in WARNINGS else 1), out
    _, findings = check(root)
    assert kind in {finding.kind for finding in findings}, findings
    assert all("0001_" in finding.where for finding in findings), findings  # the sound instances stay silent
    damaged = sum(finding.severity == "damaged" for finding in findings)
    assert f"{damaged} damaged, {len(findings) - damaged} warnings" in out


def test_displacement_is_measured(tree):
    root, folder = tree
    rewrite(part(folder, "GT"), lambda frame: np.roll(frame, (2, -4), (0, 1)))
    _, findings = check(root)
    assert [f.kind for f in findings] == ["misaligned"]
    assert "2 rows and -4 columns" in findings[0].sentence


def test_both_damaged_files_of_a_pair_are_named(tree):
    root, folder = tree
    truncate(part(folder, "NOISY"))
    truncate(part(folder, "GT"))
    _, findings = check(root)
    assert {f.where.rsplit("/", 1)[1] for f in findings} == {"0001_NOISY_RAW_010.MAT", "0001_GT_RAW_010.MAT"}


def write_table(root, split=None, **levels):
    """Four 16-bit mosaics of two scenes and their `pairs.csv`."""
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for index in range(4):
        clean = np.full((64, 64), 300.0) + 100 * (index // 2)
        np.save(root / f"{index}_clean.npy", clean.astype(np.uint16))
        np.save(root / f"{index}_noisy.npy", rng.normal(clean, 20).astype(np.uint16))
        row = {"noisy": f"{index}_noisy.npy", "clean": f"{index}_clean.npy", "camera": "X", "iso": 100}
        rows.append(row | {"scene": index // 2, "cfa": "RGGB"} | levels | ({"split": split[index]} if split else {}))
    with (root / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.mark.parametrize(
    ("split", "levels", "kind"),
    [
        (["train", "train", "test", "test"], {"white": 1023, "black": 0}, None),
        (["train", "test", "test", "test"], {"white": 1023, "black": 0}, "scene in both splits"),
        (None, {}, "missing levels"),
    ],
)
def test_tables(tmp_path, capsys, split, levels, kind):
    root = write_table(tmp_path / "table", split, **levels)
    _, findings = check(root)
    assert {f.kind for f in findings} == ({kind} if kind else set())
    assert main(["check", str(root)]) == (1 if kind == "missing levels" else 0)
    if kind == "missing levels":
        assert main(["check", str(root), "--white", "1023", "--black", "0"]) == 0


def test_files_missing_from_a_table(tmp_path):
    root = write_table(tmp_path / "table", white=1023)
    (root / "1_clean.npy").unlink()
    parts, findings = check(root)
    assert [(f.kind, f.where) for f in findings] == [("missing half", "1_clean.npy")]
    assert parts[0].pairs == 3


def test_summary(sound, capsys):
    assert main(["check", str(sound)]) == 0
    out = capsys.readouterr().out
    for words in ("domain: raw", "domain: srgb", "pairs: 3 of 3 scenes", "ground truth: exact", "frame sizes: 256×256",
                  "2 train, 1 test", "ISO 800", "GRBG", "0 to 1023", "255 codes",
                  "6 pairs: 0 damaged, 0 warnings"):  # fmt: skip
        assert words in out, words


def test_nothing_to_check(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


PHONES = (None, ["IP", "G4"], ["GP", "S6", "N6"], ["N6"], ["S6", "G4"])
SIZES = ((64, 64), (128, 96))


@pytest.mark.parametrize("truth", ["exact", "mean"])
@pytest.mark.parametrize("seed", range(10))
def test_nothing_fires_on_sound_trees(tmp_path, seed, truth):
    cameras, size = PHONES[seed % 5], SIZES[seed % 2]
    isos = None if seed < 5 else [[100], [3200, 100], [400, 1600]][seed % 3]
    simulate(
        tmp_path, cameras=cameras, isos=isos, scenes=1 + seed % 2, size=size, frames=1 + seed % 3 // 2,
        srgb=seed % 4 < 2, truth=truth, seed=100 + seed,
    )  # fmt: skip
    parts, findings = check(tmp_path)
    assert findings == []
    assert sum(part.pairs for part in parts) > 0
