"""Splits: the published lists, the hash rule against a second writing of it, and selections."""

import hashlib
import json

import pytest
from sidd_tree import write_sidd

from noiseflow.datasets import hold_out, open_dataset
from noiseflow.datasets.base import FramePair
from noiseflow.datasets.sidd import PUBLISHED_TEST, PUBLISHED_TRAIN
from noiseflow.errors import UserError


class Named(FramePair):
    """A frame of which only the name matters here."""

    cfa, channels, size = None, 1, (1, 1)

    def __init__(self, scene, camera="S6", iso=100.0):
        super().__init__(name=f"{scene}/{camera}/{iso}", scene=scene, camera=camera, iso=iso, files=())

    def _declared(self):
        raise NotImplementedError

    def _cut(self, which, top, left, height, width):
        raise NotImplementedError


def by_hash(names):
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


@pytest.mark.parametrize(("scenes", "held"), [(1, 0), (2, 1), (5, 1), (10, 2), (13, 3), (50, 10)])
def test_a_fifth_of_the_scenes_is_held_out_in_hash_order(scenes, held):
    frames = [Named(f"scene {n}", camera) for n in range(scenes) for camera in ("S6", "IP")]
    kept, out = hold_out(frames, 0.2, 1)
    assert {f.scene for f in out} == set(by_hash({f.scene for f in frames})[:held])
    assert [f for f in frames if f in out or f in kept] == frames and not set(kept) & set(out)
    backwards = hold_out(frames[::-1], 0.2, 1)
    assert {f.scene for f in backwards[1]} == {f.scene for f in out}


def test_every_condition_keeps_a_training_image():
    names = by_hash([f"scene {n}" for n in range(10)])
    # the first scene in hash order is the only one with a camera; the second has nothing special
    frames = [Named(name) for name in names] + [Named(names[0], "IP")]
    kept, out = hold_out(frames, 0.2, 1)
    assert {f.scene for f in out} == {names[1], names[2]}
    assert {(f.camera, f.iso) for f in kept} == {("S6", 100.0), ("IP", 100.0)}
    # two scenes that are each other's only twin: one of them may go, not both
    frames = [Named(names[0], "GP"), Named(names[1], "GP"), *(Named(name) for name in names[2:4])]
    assert {f.scene for f in hold_out(frames, 0.5, 1)[1]} == {names[0], names[2]}
    assert hold_out([Named("a"), Named("b", "IP")], 0.2, 1)[1] == ()


def test_the_minimum_is_kept():
    frames = [Named(f"scene {n}") for n in range(4)]
    assert len(hold_out(frames, 0.1, 1)[1]) == 1
    assert len(hold_out(frames, 0.1, 0)[1]) == 0
    assert hold_out([], 0.2, 1) == ((), ())


def test_published_lists_are_complete_and_disjoint():
    assert (len(PUBLISHED_TRAIN), len(PUBLISHED_TEST)) == (56, 22)
    assert not PUBLISHED_TRAIN & PUBLISHED_TEST


def names(dataset):
    return {frame.name[:4] for frame in dataset.frames}


def test_published_lists_divide_a_real_tree(tmp_path):
    instances = [(4, 1, "S6", 100), (11, 1, "S6", 800), (54, 1, "S6", 100), (7, 2, "S6", 100)]
    written = write_sidd(tmp_path, instances, size=(4, 4), frames=("010",))
    dataset = open_dataset(tmp_path)
    assert names(dataset.select("train")) == {"0004", "0011"}
    assert names(dataset.select("test")) == {"0054"}
    assert names(dataset.select("all")) == {"0004", "0011", "0054", "0007"}
    assert "published" in dataset.split_protocol and "2 of 56" in dataset.split_protocol
    # a simulated tree's instance numbers mean nothing
    (written.root / "sensor.json").write_text(json.dumps({"truth": "exact"}))
    assert "by scene" in open_dataset(tmp_path).split_protocol


def test_other_trees_are_divided_by_scene(tmp_path):
    instances = [(n, n, "S6", 100) for n in range(200, 205)]
    write_sidd(tmp_path, instances, size=(4, 4))
    dataset = open_dataset(tmp_path)
    train, test = dataset.select("train"), dataset.select("test")
    assert {f.scene for f in test.frames} == {by_hash(str(n) for n in range(200, 205))[0]}
    assert len(test.frames) == 2 and len(train.frames) == 8
    assert not {f.scene for f in train.frames} & {f.scene for f in test.frames}
    assert "1 of 5 scenes" in dataset.split_protocol


def test_selecting_cameras_does_not_move_the_split(tmp_path):
    instances = [(200 + n, n, camera, 100) for n in range(5) for camera in ("S6", "IP")]
    write_sidd(tmp_path, instances, size=(4, 4), frames=("010",))
    dataset = open_dataset(tmp_path)
    whole = dataset.select("test")
    assert {f.name for f in dataset.select("test", cameras=["IP"]).frames} == {
        f.name for f in whole.frames if f.camera == "IP"
    }
    assert {f.name for f in dataset.select(cameras=["IP"]).select("test").frames} == {
        f.name for f in whole.frames if f.camera == "IP"
    }


def test_select_by_camera_iso_and_count(four_phones):
    dataset = open_dataset(four_phones.root)
    assert dataset.select(cameras=["S6", "IP"]).conditions == (("IP", 400.0), ("S6", 100.0))
    assert dataset.select(isos=[800, 3200]).conditions == (("GP", 800.0), ("N6", 3200.0))
    assert [f.name[:4] for f in dataset.select(max_images=5).frames] == ["0001", "0001", "0002", "0003", "0005"]
    assert len(dataset.select(max_images=99).frames) == 8
    with pytest.raises(UserError, match="cameras among GP, IP, N6, S6, got G4"):
        dataset.select(cameras=["G4"])
    with pytest.raises(UserError, match="ISOs among 100, 400, 800, 3200, got 50"):
        dataset.select(isos=[50])
    with pytest.raises(UserError, match=r"cameras S6 at ISOs 400, found none; there are GP 800"):
        dataset.select(cameras=["S6"], isos=[400])
    with pytest.raises(UserError, match="1 or more"):
        dataset.select(max_images=0)
    with pytest.raises(UserError, match="train, test, all"):
        dataset.select("val")


def test_an_empty_split_says_why(tmp_path):
    write_sidd(tmp_path, [(1, 1, "S6", 100)], size=(4, 4))
    with pytest.raises(UserError, match=r"test split.*0 of 1 scenes.*--split all"):
        open_dataset(tmp_path).select("test")
