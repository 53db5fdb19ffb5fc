"""Several processes that score one data set together: each takes every n-th image, the first one sums up.

Started by torchrun, which sets RANK and WORLD_SIZE, on one machine or several; otherwise there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

Item = TypeVar("Item")


@dataclass(frozen=True)
class Crew:
    """The processes at work.

    Attributes:
        rank: number of this one; 0 sums up and writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> list[int]:
        """Which of the numbers below `count` are this process's."""
        return list(range(self.rank, count, self.size))

    def gather(self, mine: Item) -> list[Item]:
        """On the first process what every one has, in order; elsewhere nothing."""
        if self.size == 1:
            return [mine]
        everyone: list[Item | None] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(mine, everyone)
        return [item for item in everyone or [] if item is not None]

    def wait(self) -> None:
        """Until all have come so far."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def crew() -> Iterator[Crew]:
    """The processes that torchrun started, or this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Crew()
        return
    dist.init_process_group("gloo")
    try:
        yield Crew(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
