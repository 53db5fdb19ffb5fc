"""Bursts: from trees without ground truth and from tables, drawn purely in (seed, number), maps in linear units."""

import pickle
from collections import Counter

import cv2
import numpy as np
import pytest
import scipy.stats
import torch
from sidd_tree import PATTERNS, write_sidd
from torch.utils.data import DataLoader

from noiseflow.datasets import BurstPatches, NoisyPair, collate_frames, collate_pairs, open_bursts
from noiseflow.errors import UserError
from noiseflow.raw.cfa import pack

INSTANCES = [(1, 1, "S6", 100), (2, 1, "IP", 400), (3, 2, "GP", 800)]
FRAMES = ("010", "011", "012", "013")


@pytest.fixture
def tree(tmp_path):
    written = write_sidd(tmp_path / "sidd", INSTANCES, frames=FRAMES, srgb=True)
    for path in [*written.root.rglob("*_GT_*"), *written.root.rglob("0001_METADATA_RAW_01[123].MAT")]:
        path.unlink()
    return written


def write_table(root, row="b/*.npy,lab,100", header="frames,camera,iso", frames=4, size=(6, 8), dtype=np.uint16):
    (root / "b").mkdir(parents=True, exist_ok=True)
    codes = np.random.default_rng(0).integers(100, 1000, (frames, *size)).astype(dtype)
    for i, frame in enumerate(codes):
        np.save(root / "b" / f"f{8 + i}.npy", frame)  # f8, f9, f10, f11: the order is that of the numbers
    (root / "bursts.csv").write_text(f"{header}\n{row}\n")
    return codes


def test_a_tree_needs_no_ground_truth(tree):
    dataset = open_bursts(tree.root)
    assert [(b.name[:4], b.scene, b.camera, b.iso, len(b)) for b in dataset.bursts] == [
        ("0001", "001", "S6", 100.0, 4),
        ("0002", "001", "IP", 400.0, 4),
        ("0003", "002", "GP", 800.0, 4),
    ]
    for burst in dataset.bursts:
        _, black, white = PATTERNS[burst.camera]
        assert (burst.channels, burst.size) == (4, (12, 20))
        assert torch.equal(burst.lsb, torch.full((4,), 1 / (white - black), dtype=torch.float64))
        got = burst.read((3, 1), 2, 3, 5, 7)
        assert got.dtype == torch.float32
        for i, number in enumerate(("013", "011")):
            codes = tree.codes[f"{burst.name}/{number}"]
            expected = pack(torch.from_numpy(codes / (white - black)), burst.cfa)[:, 2:7, 3:10]
            assert torch.equal(got[i], expected.float())
    assert open_bursts(tree.root, domain="srgb").bursts[0].channels == 3


def test_selecting_and_the_hash(tree):
    dataset = open_bursts(tree.root)
    assert dataset.conditions == (("GP", 800.0), ("IP", 400.0), ("S6", 100.0))
    assert [b.camera for b in dataset.select(cameras=["IP"]).bursts] == ["IP"]
    assert len(dataset.select(max_images=2).bursts) == 2
    assert dataset.select(isos=[800.0]).root_hash() == dataset.root_hash()
    splits = {split: {b.scene for b in dataset.select(split).bursts} for split in ("train", "all")}
    assert splits["all"] == {"001", "002"}
    with pytest.raises(UserError, match="expected cameras among GP, IP, S6, got N6"):
        dataset.select(cameras=["N6"])


def test_a_table_is_read_in_the_order_of_the_numbers(tmp_path):
    codes = write_table(tmp_path, "b/*.npy,lab,100,90,1090,dark", "frames,camera,iso,black,white,scene")
    (burst,) = open_bursts(tmp_path).bursts
    assert (burst.scene, burst.channels, burst.size, burst.cfa) == ("dark", 1, (6, 8), None)
    assert torch.equal(burst.read()[:, 0], torch.from_numpy((codes.astype(float) - 90) / 1000).float())
    assert float(burst.lsb[0]) == 1 / 1000
    assert torch.equal(pickle.loads(pickle.dumps(burst)).read((2,)), burst.read((2,)))


def test_pictures_and_mosaics_from_a_table(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / "p").mkdir()
    pictures = rng.integers(0, 256, (2, 6, 8, 3)).astype(np.uint8)
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / "p" / f"{i}.png"), picture[..., ::-1])
    (tmp_path / "bursts.csv").write_text("frames,camera,iso\np/*.png,x,100\n")
    dataset = open_bursts(tmp_path)
    assert dataset.domain == "srgb"
    expected = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(float) / 255).float()
    assert torch.equal(dataset.bursts[0].read(), expected)

    codes = write_table(tmp_path / "m", "b/*.npy,lab,100,0,1023,GRBG", "frames,camera,iso,black,white,cfa")
    (burst,) = open_bursts(tmp_path / "m").bursts
    assert torch.equal(burst.read(), pack(torch.from_numpy(codes / 1023.0), "GRBG").float())


@pytest.mark.parametrize("cfa", ["", "BGGR"])
def test_maps_are_put_in_linear_units(tmp_path, cfa):
    """An offset in codes is a black level, a variance in squared codes; a gain is relative to its median."""
    rng = np.random.default_rng(2)
    maps = {
        "offset": rng.normal(90, 5, (6, 8)),
        "gain": rng.uniform(1.5, 2.5, (6, 8)),
        "variance": rng.uniform(1, 9, (6, 8)),
    }
    header = "frames,camera,iso,black,white,cfa,offset,gain,variance"
    write_table(tmp_path, f"b/*.npy,lab,100,90,1090,{cfa},b/offset.npy,b/gain.npy,b/variance.npy", header)
    for name, values in maps.items():
        np.save(tmp_path / "b" / f"{name}.npy", values)  # among the frames, and no frames
    (burst,) = open_bursts(tmp_path).bursts
    assert len(burst) == 4
    linear = {"offset": (maps["offset"] - 90) / 1000, "variance": maps["variance"] / 1e6}
    linear["gain"] = maps["gain"] / torch.from_numpy(maps["gain"]).median().item()
    got = burst.read_maps(1, 1, 2, 2)
    for name, expected in linear.items():
        planes = pack(torch.from_numpy(expected), cfa) if cfa else torch.from_numpy(expected)[None]
        assert torch.equal(got[name], planes.float()[:, 1:3, 1:3])
    frames, shot = collate_frames([BurstPatches([burst], 2, seed=0, length=1)[0]])
    assert torch.equal(shot.clean, frames.double().mean(1).float())
    shot = burst.shot(torch.zeros(2, burst.channels, 2, 2), 1, 1)
    assert torch.equal(shot.variance[1], got["variance"])
    assert shot.origin.tolist() == [[1, 1], [1, 1]]


def test_patches_cover_every_place_and_every_consecutive_pair(tmp_path):
    """Frames hold 100·(their number) + 10·row + column, so that a patch says where it is from."""
    (tmp_path / "b").mkdir()
    rows, columns = np.mgrid[:6, :8]
    for i in range(5):
        np.save(tmp_path / "b" / f"{i}.npy", 100.0 * i + 10 * rows + columns + 0.5)
    (tmp_path / "bursts.csv").write_text("frames,camera,iso\nb/*.npy,lab,100\n")
    (burst,) = open_bursts(tmp_path).bursts
    count = 3000
    patches = BurstPatches([burst], 4, seed=3, length=count, augment=False)
    seen = Counter()
    for g in range(count):
        pair = patches[g]
        first, place = divmod(float(pair.noisy1[0, 0, 0]) - 0.5, 100)
        assert divmod(place, 10) == pair.origin
        assert torch.equal(pair.noisy2, pair.noisy1 + 100)
        seen[first, *pair.origin] += 1
    counts = [seen[i, r, c] for i in range(4) for r in range(3) for c in range(5)]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3

    three = BurstPatches([burst], 4, seed=3, length=20, count=3)
    frames, shot = collate_frames([three[g] for g in range(20)])
    assert frames.shape == (20, 3, 1, 4, 4)
    assert torch.equal(frames[:, 2], frames[:, 0] + 200)
    assert torch.equal(shot.origin, torch.tensor([three[g].origin for g in range(20)]))


@pytest.mark.parametrize("cfa", [None, "RGGB"])
def test_mirrored_frames_and_maps_stay_together(tmp_path, cfa):
    codes = np.arange(96, dtype=np.uint16).reshape(8, 12)
    (tmp_path / "b").mkdir()
    for i in range(2):
        np.save(tmp_path / "b" / f"{i}.npy", codes)
    np.save(tmp_path / "v.npy", codes.astype(float))
    (tmp_path / "bursts.csv").write_text(
        f"frames,camera,iso,white,variance,cfa\nb/*.npy,lab,100,1000,v.npy,{cfa or ''}\n"
    )
    patches = BurstPatches([open_bursts(tmp_path).bursts[0]], 3, seed=1, length=40)
    drawn = [patches[g] for g in range(40)]
    for pair in drawn:
        assert torch.equal(pair.noisy1, pair.noisy2)
        assert torch.allclose(pair.variance, pair.noisy1 / 1000)  # codes/1000 against codes/1000²
    turned = {bool(pair.noisy1[0, 0, 0] > pair.noisy1[0, -1, 0]) for pair in drawn}
    assert turned == {True, False}


def test_items_do_not_depend_on_workers(tree):
    bursts = open_bursts(tree.root).bursts
    patches = BurstPatches(bursts, 6, seed=5, length=24, patches_per_burst=4, window=2)
    alone = [patches[g] for g in reversed(range(24))][::-1]
    loader = DataLoader(
        BurstPatches(bursts, 6, seed=5, length=24, patches_per_burst=4, window=2),
        batch_size=4,
        num_workers=2,
        collate_fn=collate_pairs,
    )
    for start, (noisy1, noisy2, shot) in zip(range(0, 24, 4), loader, strict=True):
        some = alone[start : start + 4]
        assert torch.equal(noisy1, torch.stack([p.noisy1 for p in some]))
        assert torch.equal(noisy2, torch.stack([p.noisy2 for p in some]))
        assert shot.camera_names == tuple(p.camera for p in some)
        assert shot.patterns == tuple(p.cfa for p in some)
    assert len({p.name for p in alone[:8]}) > 1  # frames are mixed


@pytest.mark.parametrize(
    ("row", "header", "message"),
    [
        ("b/*.npy,lab,0", "frames,camera,iso", "expected an iso above 0"),
        ("b/f8.npy,lab,100", "frames,camera,iso", r"expected frames to match two or more .* which matches 1"),
        ("b/*.npy,lab,100", "frame,camera,iso", "expected a header with frames,camera,iso"),
        ("b/*.npy,lab,100,x.txt", "frames,camera,iso,gain", "expected an NPY file for gain"),
        ("b/*.npy,lab,100,x.npy", "frames,camera,iso,gain", r"x\.npy: expected a file, as bursts\.csv lists it"),
        ("b/*.npy,lab,100,up", "frames,camera,iso,split", "expected split train or test"),
    ],
)
def test_bad_tables(tmp_path, row, header, message):
    write_table(tmp_path, row, header)
    with pytest.raises(UserError, match=message):
        open_bursts(tmp_path)


def test_frames_that_do_not_belong_together(tmp_path):
    write_table(tmp_path, "b/*.npy,lab,100,0,1000", "frames,camera,iso,black,white")
    np.save(tmp_path / "b" / "f10.npy", np.zeros((6, 6), np.uint16))
    (burst,) = open_bursts(tmp_path).bursts
    with pytest.raises(UserError, match=r"f10\.npy: expected the size of f8\.npy, 1×6×8, got 1×6×6"):
        burst.read()
    with pytest.raises(ValueError, match="expected frames from 0 to 3"):
        burst.read((4,))
    with pytest.raises(UserError, match="expected 5 frames or more, got 4"):
        BurstPatches([burst], 2, seed=0, length=1, count=5)
    with pytest.raises(UserError, match="expected levels for uint16"):
        write_table(tmp_path / "n")
        open_bursts(tmp_path / "n").bursts[0].read()


@pytest.mark.parametrize(("name", "value"), [("offset", np.nan), ("gain", 0.0), ("variance", -1.0)])
def test_bad_maps(tmp_path, name, value):
    write_table(tmp_path, "b/*.npy,lab,100,1000,m.npy", f"frames,camera,iso,white,{name}")
    for content, message in (
        (np.full((6, 8), value), "expected finite values"),
        (np.ones((3, 3)), "frames' shape, 6×8"),
    ):
        np.save(tmp_path / "m.npy", content)
        with pytest.raises(UserError, match=message):
            open_bursts(tmp_path).bursts[0].read_maps()


def test_a_batch_has_a_map_with_every_pair_or_with_none():
    zeros = torch.zeros(1, 2, 2)
    end = torch.ones(1, dtype=torch.float64)

    def pair(**maps):
        return NoisyPair(zeros, zeros, "x", 100.0, 0 * end, -end, end, None, (0, 0), "b", "s", **maps)

    with pytest.raises(UserError, match="map variance with every pair"):
        collate_pairs([pair(), pair(variance=zeros)])


def test_broken_values_are_dropped_and_many_are_an_error(tmp_path):
    write_table(tmp_path, frames=2, size=(40, 40), dtype=np.float64)
    frame = np.random.default_rng(0).normal(0.5, 0.1, (40, 40))
    frame[10, 10] = np.nan
    np.save(tmp_path / "b" / "f9.npy", frame)
    (burst,) = open_bursts(tmp_path).bursts
    patches = BurstPatches([burst], 20, seed=0, length=60)
    assert all(patches[g].is_finite for g in range(60))
    assert patches.dropped > 0
    frame[0, :4] = np.nan
    np.save(tmp_path / "b" / "f9.npy", frame)
    (burst,) = open_bursts(tmp_path).bursts
    with pytest.raises(UserError, match=r"got NaN or infinity in 0\.313 %"):
        burst.read()
