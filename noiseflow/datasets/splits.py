"""Which images train and which test: always by scene, never by patch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

from noiseflow.datasets.base import Recorded
from noiseflow.datasets.sidd import PUBLISHED_TEST, PUBLISHED_TRAIN, instance_number

TEST_FRACTION = 0.2

RecordedT = TypeVar("RecordedT", bound=Recorded)


def hold_out(
    frames: Sequence[RecordedT], fraction: float, minimum: int = 1
) -> tuple[tuple[RecordedT, ...], tuple[RecordedT, ...]]:
    """Hold out whole scenes: the same ones on every machine, whatever order the frames come in.

    Scenes are taken in the order of the SHA-256 of their names until round(fraction · scenes), at least
    `minimum`, are held out. A scene whose loss would leave a camera and ISO with no frame at all stays, so
    fewer than asked for may be held out. One scene is never split.

    Args:
        frames: the frames to divide.
        fraction: part of the scenes to hold out, 0 to 1.
        minimum: fewest scenes to hold out where there are two or more.

    Returns:
        The frames kept and the frames held out, both in the order given.
    """
    scenes = sorted({frame.scene for frame in frames}, key=_digest)
    wanted = max(minimum, round(fraction * len(scenes))) if len(scenes) > 1 else 0
    conditions: dict[str, set[tuple[str, float]]] = {scene: set() for scene in scenes}
    for frame in frames:
        conditions[frame.scene].add((frame.camera, frame.iso))
    held: set[str] = set()
    for scene in scenes:
        if len(held) >= wanted:
            break
        remaining = set().union(*(conditions[other] for other in scenes if other not in held | {scene}))
        if conditions[scene] <= remaining:
            held.add(scene)
    kept = tuple(frame for frame in frames if frame.scene not in held)
    return kept, tuple(frame for frame in frames if frame.scene in held)


def assign(
    frames: Sequence[Recorded],
    *,
    column: Mapping[str, str] | None = None,
    table: str = "pairs.csv",
    published: bool = False,
) -> tuple[dict[str, str], str]:
    """Divide a data set into train and test.

    Args:
        frames: all its frames.
        column: frame name → "train" or "test", where the data set says so itself.
        table: the file that says so.
        published: whether the instance lists of SIDD apply if instances of both occur.

    Returns:
        Frame name → "train" or "test" (frames in neither are left out), and a sentence that says the rule.
    """
    if column is not None:
        return dict(column), f"split column of {table}"
    if published:
        instances = {instance_number(frame) for frame in frames}
        if instances & PUBLISHED_TRAIN and instances & PUBLISHED_TEST:
            lists = {"train": PUBLISHED_TRAIN, "test": PUBLISHED_TEST}
            chosen = {f.name: split for f in frames for split, ids in lists.items() if instance_number(f) in ids}
            return chosen, (
                f"published SIDD instance lists ({len(instances & PUBLISHED_TRAIN)} of 56 train and "
                f"{len(instances & PUBLISHED_TEST)} of 22 test instances present)"
            )
    train, test = hold_out(frames, TEST_FRACTION)
    chosen = {frame.name: "train" for frame in train} | {frame.name: "test" for frame in test}
    return chosen, (
        f"by scene: {len({f.scene for f in test})} of {len({f.scene for f in frames})} scenes held out in the order "
        "of the SHA-256 of their names, every camera and ISO kept in train"
    )


def _digest(scene: str) -> str:
    return hashlib.sha256(scene.encode()).hexdigest()
