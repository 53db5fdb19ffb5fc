"""Simulated trees: SIDD's layout, the code lattice, equal bytes, and noise of the promised distribution."""

import dataclasses
import hashlib
import json
import logging

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
from scipy import stats

from noiseflow.cli import main
from noiseflow.datasets.dataset import open_dataset
from noiseflow.errors import UserError
from noiseflow.raw.matfile import read_metadata
from noiseflow.raw.render import render
from noiseflow.scenes import RAW_BALANCE, mosaic
from noiseflow.sensors import PHONES, SENSORS, SensorTruth, VirtualSensor
from noiseflow.shot import CFA_PATTERNS
from noiseflow.simulate import TRUTH_FRAMES, simulate


def hashes(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def stored(root, instance, kind, frame="010"):
    """A frame read with bare h5py, transposed as MATLAB's readers do."""
    (path,) = (root / "Data").glob(f"{instance:04d}_*/{instance:04d}_{kind}_RAW_{frame}.MAT")
    with h5py.File(path) as file:
        return file["x"][()].T


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree") / "new"
    count = simulate(root, cameras=["S6", "IP"], isos=[100, 800], scenes=2, size=(48, 64), frames=2, srgb=True, seed=3)
    assert count == 8
    return root


def test_layout_is_sidds(tree):
    folders = sorted(path.name for path in (tree / "Data").iterdir())
    assert folders[:5] == [
        "0001_001_S6_00100_00060_3200_L",
        "0002_001_S6_00800_00060_3200_L",
        "0003_001_IP_00100_00060_3200_L",
        "0004_001_IP_00800_00060_3200_L",
        "0005_002_S6_00100_00060_3200_L",
    ]
    assert len(folders) == 8
    names = {path.name for path in (tree / "Data" / folders[2]).iterdir()}
    assert names == {
        *(f"0003_{kind}_RAW_{frame}.MAT" for kind in ("NOISY", "GT", "METADATA") for frame in ("010", "011")),
        *(f"0003_{kind}_SRGB_{frame}.PNG" for kind in ("NOISY", "GT") for frame in ("010", "011")),
    }
    assert {path.name for path in tree.iterdir()} == {"Data", "sensor.json"}


def test_frames_lie_on_the_lattice_of_codes(tree):
    for instance, sensor in ((1, PHONES["S6"]), (4, PHONES["IP"])):
        noisy, clean = stored(tree, instance, "NOISY"), stored(tree, instance, "GT")
        for frame in (noisy, clean):
            assert frame.shape == (48, 64) and frame.dtype == np.float32
            assert frame.min() >= 0 and frame.max() <= 1
        level = noisy.astype(np.float64) * sensor.max_code
        assert np.abs(level - np.rint(level)).max() < 1e-3
        assert np.abs(clean.astype(np.float64) * sensor.max_code % 1).max() > 0.1  # the exact signal does not


def test_frames_are_stored_transposed(tree):
    (path,) = (tree / "Data").glob("0001_*/0001_GT_RAW_010.MAT")
    with h5py.File(path) as file:
        assert file["x"].shape == (64, 48)


def test_frames_of_an_instance_differ_and_their_truth_does_not(tree):
    assert np.array_equal(stored(tree, 2, "GT", "010"), stored(tree, 2, "GT", "011"))
    clean = stored(tree, 2, "GT").astype(np.float64)
    first, second = (stored(tree, 2, "NOISY", frame) - clean for frame in ("010", "011"))
    inside = (clean > 0.03) & (clean < 0.8)  # where neither end clips
    assert abs(stats.pearsonr(first[inside], second[inside]).statistic) < 5 / np.sqrt(inside.sum())


def test_noise_of_a_tree_has_the_sensors_distribution(tree):
    """The mean log mass of the stored codes is minus the entropy that the pmf has."""
    sensor = PHONES["S6"]
    clean = stored(tree, 2, "GT").astype(np.float64)[::2, ::2].reshape(-1)
    codes = np.rint(stored(tree, 2, "NOISY").astype(np.float64)[::2, ::2].reshape(-1) * sensor.max_code).astype(int)
    everything = sensor.log_pmf(np.arange(sensor.max_code + 1)[None, :], clean[:, None], 800)
    p = np.exp(everything)
    mean = (p * everything).sum(axis=1)
    variance = (p * everything**2).sum(axis=1) - mean**2
    score = (sensor.log_pmf(codes, clean, 800) - mean).sum() / np.sqrt(variance.sum())
    assert abs(score) < 4.5


def test_metadata_fields(tree):
    for instance, name, iso in ((2, "S6", 800), (3, "IP", 100)):
        (path,) = (tree / "Data").glob(f"{instance:04d}_*/*_METADATA_RAW_011.MAT")
        about, sensor = read_metadata(path), PHONES[name]
        assert (about.cfa, about.white, about.iso) == (sensor.cfa, sensor.white_dn, iso)
        assert about.black == (sensor.black_dn,) * 4
        assert about.noise_profile[:2] == pytest.approx(sensor.noise_level(iso))
        assert "metadata" in scipy.io.loadmat(path)


def test_the_dataset_reads_it_back(tree):
    data = open_dataset(tree)
    assert data.truth == "exact"
    truth = SensorTruth.from_dict(data.sensor)
    assert truth.sensors == {name: PHONES[name] for name in ("S6", "IP")}


def test_pictures_are_the_rendered_frames(tree):
    (path,) = (tree / "Data").glob("0003_*/0003_NOISY_SRGB_011.PNG")
    want = render(stored(tree, 3, "NOISY", "011"), "RGGB", RAW_BALANCE)
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], want)


def test_equal_seeds_give_equal_bytes_and_others_do_not(tree, tmp_path):
    again = {"cameras": ["S6", "IP"], "isos": [100, 800], "scenes": 2, "size": (48, 64), "frames": 2, "srgb": True}
    simulate(tmp_path / "same", **again, seed=3)
    assert hashes(tmp_path / "same") == hashes(tree)
    simulate(tmp_path / "other", **again, seed=4)
    assert not np.array_equal(stored(tmp_path / "other", 1, "GT"), stored(tree, 1, "GT"))


def test_an_instance_does_not_depend_on_the_others(tree, tmp_path):
    simulate(tmp_path, cameras=["IP"], isos=[800], scenes=1, size=(48, 64), seed=3)
    assert np.array_equal(stored(tmp_path, 1, "NOISY"), stored(tree, 4, "NOISY"))


def test_noise_differs_between_scenes_cameras_and_isos(tree):
    ranks = []
    for instance in range(1, 9):
        clean = stored(tree, instance, "GT").astype(np.float64)
        ranks.append(np.where((clean > 0.02) & (clean < 0.8), stored(tree, instance, "NOISY") - clean, 0.0).reshape(-1))
    correlation = np.corrcoef(ranks) - np.eye(8)
    assert np.abs(correlation).max() < 0.2  # independent draws scatter by about 1/√1000


def test_mean_truth_is_the_mean_of_other_recorded_frames(tmp_path):
    simulate(tmp_path / "exact", cameras=["S6"], isos=[1600], scenes=1, size=(48, 48), seed=1)
    simulate(tmp_path / "mean", cameras=["S6"], isos=[1600], scenes=1, size=(48, 48), seed=1, truth="mean")
    clean = stored(tmp_path / "exact", 1, "GT").astype(np.float64)[::2, ::2]
    mean = stored(tmp_path / "mean", 1, "GT").astype(np.float64)[::2, ::2]
    sensor = PHONES["S6"]
    level = mean * sensor.max_code * TRUTH_FRAMES
    assert np.abs(level - np.rint(level)).max() < 0.02  # a mean of 150 integers, in float32
    # m(x) = E[code]·lsb, exactly from the pmf; the mean of 150 frames scatters around it by sd/√150.
    p = np.exp(sensor.log_pmf(np.arange(sensor.max_code + 1)[None, :], clean.reshape(-1)[:, None], 1600))
    value = np.arange(sensor.max_code + 1) * sensor.lsb
    want = p @ value
    sd = np.sqrt(np.maximum(p @ value**2 - want**2, 1e-12) / TRUTH_FRAMES)
    score = (mean.reshape(-1) - want) / sd
    busy = sd * TRUTH_FRAMES > sensor.lsb  # elsewhere almost every frame has the same code: not normal
    assert abs(np.mean(score[busy] ** 2) - 1) < 6 * np.sqrt(2 / busy.sum())
    assert np.array_equal(stored(tmp_path / "mean", 1, "NOISY"), stored(tmp_path / "exact", 1, "NOISY"))
    assert json.loads((tmp_path / "mean" / "sensor.json").read_text())["truth"] == "mean"


def test_a_camera_goes_without_an_iso_it_lacks(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        count = simulate(tmp_path / "some", cameras=["G4", "S6"], isos=[1600], scenes=1, size=(16, 16))
    assert count == 1 and "G4" in caplog.text
    with pytest.raises(UserError, match="G4: 100 to 800"):
        simulate(tmp_path / "none", cameras=["G4"], isos=[1600], scenes=1, size=(16, 16))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"cameras": ["X9"]}, "X9"),
        ({"size": (31, 32)}, "31x32"),
        ({"size": (2, 2)}, "16"),
        ({"scenes": 0}, "scenes"),
        ({"frames": 0}, "frames"),
        ({"truth": "guess"}, "guess"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, change, match):
    with pytest.raises(UserError, match=match):
        simulate(tmp_path / "out", **{"scenes": 1, "size": (16, 16), **change})
    assert not (tmp_path / "out").exists()


def test_prnu_is_one_fixed_map_that_the_ground_truth_has(tmp_path):
    """A map of its own for every camera, the same in every scene; the noise around the ground truth has none of it."""
    flat = VirtualSensor("flat", "RGGB", 10, 0, 1023, ((100, 1e-4), (400, 4e-4)))
    uneven = dataclasses.replace(flat, prnu=0.05)
    size = (32, 48)
    for name, sensor in (("flat", flat), ("uneven", uneven)):
        simulate(tmp_path / name, sensors=[sensor], isos=[100, 400], scenes=2, size=size, seed=5)
    ratios = [stored(tmp_path / "uneven", i, "GT") / stored(tmp_path / "flat", i, "GT") for i in (1, 2, 3, 4)]
    for ratio in ratios:  # float32
        np.testing.assert_allclose(ratio, uneven.sensitivity(*size), rtol=3e-7)
    n = ratios[0].size
    assert abs(ratios[0].mean() - 1) < 4 * 0.05 / np.sqrt(n)
    assert abs(ratios[0].std() / 0.05 - 1) < 4 / np.sqrt(2 * n)
    other = dataclasses.replace(uneven, name="other").sensitivity(*size)
    assert abs(np.corrcoef(other.ravel(), ratios[0].ravel())[0, 1]) < 4 / np.sqrt(n)
    clean = stored(tmp_path / "uneven", 2, "GT").astype(np.float64)
    a, b = uneven.noise_level(400)
    score = (stored(tmp_path / "uneven", 2, "NOISY") - clean) / np.sqrt(a * clean + b + uneven.lsb**2 / 12)
    inside = (clean > 0.05) & (clean < 0.9)
    assert abs((score[inside] ** 2).mean() - 1) < 5 * np.sqrt(2 / inside.sum())


def test_descriptions_of_sensors_are_read_from_files(tmp_path, capsys):
    old = {"name": "mine", "cfa": "BGGR", "bits": 10, "black_dn": 64, "white_dn": 1023, "slopes": [[100, 0.001]]}
    path = tmp_path / "mine.json"  # without kind and every field that has a default
    path.write_text(json.dumps(old))
    small = ["--scenes", "1", "--size", "16x16"]
    assert main(["simulate", str(tmp_path / "out"), "--sensor", f"{path},correlated", *small]) == 0
    written = json.loads((tmp_path / "out" / "sensor.json").read_text())["sensors"]
    assert SensorTruth.from_dict({"format": 1, "sensors": written}).sensors == {
        "mine": VirtualSensor("mine", "BGGR", 10, 64, 1023, ((100.0, 0.001),)),
        "correlated": SENSORS["correlated"],
    }
    for content, words in (
        ({**old, "gian": 1}, "gian"),
        ({**old, "kind": "rolling"}, "rolling"),
        ({**old, "slopes": None}, "description"),
        ([old], "list"),
        ("}", "JSON"),
    ):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        assert main(["simulate", str(tmp_path / "bad"), "--sensor", str(path), *small]) == 1
        error = capsys.readouterr().err
        assert words in error and "mine.json" in error
    assert main(["simulate", str(tmp_path / "bad"), "--sensor", "nigth", *small]) == 1
    error = capsys.readouterr().err
    assert "'nigth'" in error and "night" in error and "correlated" in error
    assert not (tmp_path / "bad").exists()


def test_sensors_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="S6"):
        simulate(tmp_path / "out", cameras=["S6"], sensors=[dataclasses.replace(PHONES["S6"], cfa="RGGB")])


def test_unknown_fields_in_sensor_json_are_refused(tree):
    description = json.loads((tree / "sensor.json").read_text())
    description["sensors"]["S6"]["gian"] = 1
    with pytest.raises(UserError, match="gian"):
        SensorTruth.from_dict(description)


def test_folders_in_use_are_kept(tmp_path):
    small = {"cameras": ["S6"], "isos": [100], "scenes": 1, "size": (16, 16)}
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        simulate(tmp_path, **small)
    simulate(tmp_path, **small, overwrite=True)
    simulate(tmp_path, **{**small, "isos": [400]}, overwrite=True)
    assert [path.name[:15] for path in (tmp_path / "Data").iterdir()] == ["0001_001_S6_004"]
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "sensor.json").unlink()  # now these could be a real camera's frames
    with pytest.raises(UserError, match="not a simulated tree"):
        simulate(tmp_path, **small, overwrite=True)
    assert len(list((tmp_path / "Data").iterdir())) == 1


def test_a_cut_off_run_leaves_no_tree(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("noiseflow.simulate.write_frame", full_disk)
    with pytest.raises(UserError, match="No space left"):
        simulate(tmp_path / "out", cameras=["S6"], isos=[100], scenes=1, size=(16, 16))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_render_puts_colours_where_they_belong(cfa):
    rgb = np.broadcast_to(np.array([0.1, 0.5, 0.025], np.float32), (8, 8, 3))
    picture = render(mosaic(rgb, cfa), cfa, (0.5, 1.0, 0.5))
    linear = np.array([0.2, 0.5, 0.05])
    want = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(picture - want).max() <= 0.51  # rounding, and 16 bits before it


def test_render_interpolates_linearly_between_like_pixels():
    frame = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (16, 1))
    picture = render(frame, "RGGB", (1.0, 1.0, 1.0)).astype(float)
    want = render(np.full((16, 16), frame[8, 7]), "RGGB", (1.0, 1.0, 1.0))[8, 7]
    # A ramp is its own bilinear interpolation away from the border.
    assert np.abs(picture[4:12, 7] - want).max() <= 1
