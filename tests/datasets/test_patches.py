"""Patches: uniform over the frame, pure in (seed, g), mirrored as the mosaic is."""

import logging
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from sidd_tree import write_sidd
from torch.utils.data import DataLoader

from noiseflow.datasets import FramePair, PatchDataset, collate, open_dataset, tiles
from noiseflow.errors import UserError
from noiseflow.raw.cfa import unpack


class Synthetic(FramePair):
    """A frame whose mosaic (or single plane) numbers its pixels: noisy = 1000·row + column of the mosaic."""

    def __init__(self, number=0, size=(9, 12), cfa="GRBG", nans=()):
        super().__init__(name=f"frame {number}", scene=f"{number}", camera="S6", iso=100.0, files=("n", "c"))
        self._size, self._cfa, self._nans = size, cfa, nans
        self.asked = []

    @property
    def cfa(self):
        return self._cfa

    @property
    def channels(self):
        return 4 if self._cfa else 1

    @property
    def size(self):
        return self._size

    def _declared(self):
        return torch.zeros(self.channels, dtype=torch.float64), (-1e6, 1e6)

    def _cut(self, which, top, left, height, width):
        step = 2 if self._cfa else 1
        rows = torch.arange(step * top, step * (top + height), dtype=torch.float64)
        columns = torch.arange(step * left, step * (left + width), dtype=torch.float64)
        plane = (1000 * rows[:, None] + columns) * (1 if which == 0 else 2)
        for row, column in self._nans:
            if which == 0:
                plane[(rows == row)[:, None] & (columns == column)] = torch.nan
        if self._cfa is None:
            return plane[None]
        from noiseflow.raw.cfa import pack

        return pack(plane, self._cfa)


def test_places_are_uniform_over_the_whole_frame():
    frame = Synthetic(size=(9, 12))
    count = 3000
    patches = PatchDataset([frame], 4, seed=7, length=count)
    counts = Counter(patches[g].origin for g in range(count))
    # 6 rows × 9 columns of places, both ends included
    assert set(counts) == {(top, left) for top in range(6) for left in range(9)}
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize("cfa", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_mirrored_patches_are_mirrored_mosaics(cfa):
    patches = PatchDataset([Synthetic(cfa=cfa)], 4, seed=1, length=400)
    turns = Counter()
    for g in range(400):
        pair = patches[g]
        assert torch.equal(pair.clean, 2 * pair.noisy)
        mosaic = unpack(pair.noisy, cfa)
        down, across = mosaic.diff(dim=0).unique(), mosaic.diff(dim=1).unique()
        # neighbours in the patch are neighbours in the sensor, everywhere
        assert down.tolist() in ([1000.0], [-1000.0]) and across.tolist() in ([1.0], [-1.0])
        # every colour is in its place: rows and columns keep their parity
        corner = round(mosaic[0, 0].item())
        assert (corner // 1000) % 2 == 0 and corner % 2 == 0
        turns[down.item() < 0, across.item() < 0] += 1
        # and the patch lies where it says, give or take the line that the mirror costs
        top, left = mosaic.amin().item() // 1000, mosaic.amin().item() % 1000
        assert abs(top - 2 * pair.origin[0]) <= 1 and abs(left - 2 * pair.origin[1]) <= 1
    assert scipy.stats.chisquare([turns[v, h] for v in (0, 1) for h in (0, 1)]).pvalue > 0.001


def test_pictures_are_flipped_and_nothing_is_without_augmentation():
    patches = PatchDataset([Synthetic(cfa=None)], 4, seed=1, length=200)
    slopes = Counter()
    for g in range(200):
        pair = patches[g]
        plane = pair.noisy[0]
        slopes[(plane[1, 0] - plane[0, 0]).item(), (plane[0, 1] - plane[0, 0]).item()] += 1
        assert plane.amin() == 1000 * pair.origin[0] + pair.origin[1]
    assert set(slopes) == {(a, b) for a in (-1000.0, 1000.0) for b in (-1.0, 1.0)}
    plain = PatchDataset([Synthetic()], 4, seed=1, length=50, augment=False)
    for g in range(50):
        mosaic = unpack(plain[g].noisy, "GRBG")
        assert mosaic[0, 0] == 2000 * plain[g].origin[0] + 2 * plain[g].origin[1]
        assert (mosaic.diff(dim=1) == 1).all()


def test_a_patch_as_large_as_the_frame_stays_as_it_is():
    patches = PatchDataset([Synthetic(size=(4, 4))], 4, seed=0, length=20)
    assert all(torch.equal(patches[g].noisy, patches[0].noisy) for g in range(20))
    with pytest.raises(UserError, match="9×12 pixels, got 10×10"):
        PatchDataset([Synthetic()], 10, seed=0, length=1)


def test_every_epoch_serves_each_frame_alike_in_windows():
    frames = [Synthetic(n) for n in range(7)]
    patches = PatchDataset(frames, 4, seed=3, length=10**6, patches_per_frame=5, window=3)
    epochs = []
    for epoch in range(3):
        served = [patches.frame_of(35 * epoch + g).name for g in range(35)]
        assert Counter(served) == {frame.name: 5 for frame in frames}
        windows = [set(served[:15]), set(served[15:30]), set(served[30:])]
        assert [len(window) for window in windows] == [3, 3, 1]
        assert served[:15] != sorted(served[:15])
        epochs.append(served)
    assert epochs[0] != epochs[1] != epochs[2]


def same(a, b):
    return torch.equal(a.noisy, b.noisy) and torch.equal(a.clean, b.clean) and (a.origin, a.name) == (b.origin, b.name)


def test_an_item_depends_on_seed_and_number_only():
    def fresh(seed=5):
        return PatchDataset([Synthetic(n) for n in range(5)], 4, seed=seed, length=64, patches_per_frame=4, window=2)

    forward, backward = fresh(), fresh()
    in_order = [forward[g] for g in range(64)]
    reversed_ = [backward[g] for g in reversed(range(64))][::-1]
    assert all(same(a, b) for a, b in zip(in_order, reversed_, strict=True))
    assert all(same(fresh()[g], in_order[g]) for g in (0, 17, 63))
    assert not all(same(fresh(6)[g], in_order[g]) for g in range(64))
    assert len({(p.name, p.origin) for p in in_order}) > 50
    with pytest.raises(IndexError):
        forward[64]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_batches(tmp_path, context):
    written = write_sidd(tmp_path, [(1, 1, "S6", 100), (2, 2, "IP", 400)], srgb=True)
    for domain in ("raw", "srgb") if context == "fork" else ("raw",):  # starting afresh takes seconds
        frames = open_dataset(written.root, domain=domain).frames
        patches = PatchDataset(frames, 8, seed=2, length=24, patches_per_frame=3, window=2)
        alone = [collate([patches[g] for g in range(start, start + 6)]) for start in range(0, 24, 6)]
        loader = DataLoader(patches, batch_size=6, num_workers=2, collate_fn=collate, multiprocessing_context=context)
        for (noisy, shot), (expected, expected_shot) in zip(loader, alone, strict=True):
            assert torch.equal(noisy, expected) and torch.equal(shot.clean, expected_shot.clean)
            assert shot.camera_names == expected_shot.camera_names and shot.cfa == expected_shot.cfa
            assert torch.equal(shot.origin, expected_shot.origin) and torch.equal(shot.lsb, expected_shot.lsb)


def test_patches_with_nan_are_dropped_counted_and_drawn_anew(caplog):
    frame = Synthetic(size=(30, 30), nans=[(20, 20)])  # one of 3600 values
    patches = PatchDataset([frame], 8, seed=0, length=200)
    with caplog.at_level(logging.WARNING):
        assert all(patches[g].is_finite for g in range(200))
    assert patches.dropped > 0 and "dropped a patch" in caplog.text
    again = PatchDataset([frame], 8, seed=0, length=200)
    assert all(same(again[g], patches[g]) for g in range(199, 150, -1))
    bad = Synthetic(size=(30, 30), nans=[(20, n) for n in range(8)])  # 8 of 3600: 0.2 %
    with pytest.raises(UserError, match=r"0\.222 %"):
        list(PatchDataset([bad], 8, seed=0, length=200))
    whole = Synthetic(size=(30, 30), nans=[(20, 20)])
    with pytest.raises(UserError, match="choose a smaller patch"):
        PatchDataset([whole], 30, seed=0, length=1)[0]


def test_nonsense_is_refused():
    for name in ("patch", "patches_per_frame", "window"):
        with pytest.raises(UserError, match=f"{name}: expected 1 or more"):
            PatchDataset([Synthetic()], **{"patch": 4, "seed": 0, "length": 1, name: 0})
    with pytest.raises(UserError, match="at least one frame"):
        PatchDataset([], 4, seed=0, length=1)


@pytest.mark.parametrize(("size", "tile"), [((9, 12), 4), ((5, 5), 8), ((8, 8), 4), ((1, 7), 3)])
def test_tiles_cover_each_pixel_once(size, tile):
    seen = np.zeros(size, int)
    for top, left, height, width in tiles(size, tile):
        assert 1 <= height <= tile and 1 <= width <= tile
        seen[top : top + height, left : left + width] += 1
    assert (seen == 1).all()
    with pytest.raises(ValueError, match="1 or more"):
        tiles(size, 0)
