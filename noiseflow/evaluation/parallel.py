"""Several processes that work on one data set together: each takes every n-th image, the first one sums up.

Started by torchrun, which sets RANK and WORLD_SIZE, on one machine or several; otherwise there is one process.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeVar

from torch.distributed.rendezvous import rendezvous

Item = TypeVar("Item")

_PIECE = 4 * 2**20
"""Bytes that are put into the store under one key; it takes 8 MiB at most."""

_PATIENCE = timedelta(days=30)
"""How long the first process waits for another; torchrun ends all of them where one fails."""


class Store(Protocol):
    """The part of torch's key-value stores that is used here."""

    def set(self, key: str, value: bytes, /) -> None:
        """Put a value under a key."""

    def get(self, key: str, /) -> bytes:
        """The value of a key, once it is there."""


@dataclass(frozen=True)
class Crew:
    """The processes at work.

    Attributes:
        rank: number of this one; 0 sums up and writes.
        size: how many there are.
        store: where they leave things for each other; None of one process alone.
    """

    rank: int = 0
    size: int = 1
    store: Store | None = None

    def share(self, count: int) -> list[int]:
        """Which of the numbers below `count` are this process's."""
        return list(range(self.rank, count, self.size))

    def gather(self, mine: Item, name: str) -> list[Item]:
        """On the first process what every one has, in order; elsewhere nothing.

        Args:
            mine: what this process has; anything that can be pickled.
            name: tells one gathering from another; the same on all processes.
        """
        if self.store is None:
            return [mine]
        if self.rank == 0:
            return [mine, *(self._take(f"noiseflow/{name}/{rank}") for rank in range(1, self.size))]
        self._leave(f"noiseflow/{name}/{self.rank}", mine)
        return []

    def after_first(self, work: Callable[[], Item], name: str) -> Item:
        """Have the first process do something; the others wait for it. What it gave, on all of them.

        Args:
            work: done by the first process only.
            name: as in `gather`.
        """
        if self.store is None:
            return work()
        if self.rank == 0:
            result = work()
            self._leave(f"noiseflow/{name}/0", result)
            return result
        return self._take(f"noiseflow/{name}/0")

    def _leave(self, key: str, item: object) -> None:
        assert self.store is not None
        content = pickle.dumps(item)
        starts = range(0, len(content), _PIECE)
        for number, start in enumerate(starts):
            self.store.set(f"{key}/{number}", content[start : start + _PIECE])
        self.store.set(key, str(len(starts)).encode())

    def _take(self, key: str) -> Item:  # type: ignore[type-var]
        assert self.store is not None
        pieces = [self.store.get(f"{key}/{number}") for number in range(int(self.store.get(key)))]
        return pickle.loads(b"".join(pieces))  # type: ignore[no-any-return]


@contextmanager
def crew() -> Iterator[Crew]:
    """The processes that torchrun started, or this one alone.

    They only meet to hand over their sums: torchrun's store is enough for that, without a process group and its
    threads.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Crew()
        return
    store, rank, size = next(iter(rendezvous("env://")))
    store.set_timeout(_PATIENCE)
    yield Crew(rank, size, store)
