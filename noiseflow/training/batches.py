"""Batches of patches as Lightning data modules: every patch is a function of (seed, its number).

So a run does not depend on the number of workers, and one that is resumed goes on with the batches that come next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Dataset, Subset

from noiseflow.datasets import Burst, BurstPatches, FramePair, PatchDataset, collate, collate_frames
from noiseflow.datasets.patches import Patches


class Batches(L.LightningDataModule):
    """Training batches in the order of the patch numbers.

    Args:
        train_patches: the patches, all of the run's.
        collate_fn: makes a batch of some.
        batch: patches per step.
        first_step: batches that earlier processes of a resumed run have used.
        workers: reading processes; 0 reads in the main process.
    """

    def __init__(
        self,
        train_patches: Patches[Any, Any],
        collate_fn: Callable[[Sequence[Any]], Any],
        *,
        batch: int,
        first_step: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.train_patches, self.collate_fn = train_patches, collate_fn
        self.batch, self.first_step, self.workers = batch, first_step, workers

    def train_dataloader(self) -> DataLoader[Any]:
        """The batches that earlier processes have not used."""
        rest = range(self.first_step * self.batch, len(self.train_patches))
        return self.loader(Subset(self.train_patches, rest))

    def loader(self, patches: Dataset[Any]) -> DataLoader[Any]:
        """Batches of some patches, in their order."""
        return DataLoader(patches, self.batch, num_workers=self.workers, collate_fn=self.collate_fn)


class PatchDataModule(Batches):
    """Batches of patches, drawn uniformly over whole frames.

    Args:
        train: frames to train on.
        validation: frames of the held-out scenes; may be empty.
        patch: side of the patches, in packed pixels (raw) or pixels (sRGB).
        batch: patches per step.
        steps: number of training batches, those of earlier processes among them.
        seed: seed of order and position.
        first_step, workers: as in `Batches`.
        validation_batches: number of validation batches, always the same ones.
    """

    def __init__(
        self,
        train: Sequence[FramePair],
        validation: Sequence[FramePair],
        *,
        patch: int,
        batch: int,
        steps: int,
        seed: int,
        first_step: int = 0,
        workers: int = 0,
        validation_batches: int = 8,
    ) -> None:
        patches = PatchDataset(train, patch, seed, batch * steps)
        super().__init__(patches, collate, batch=batch, first_step=first_step, workers=workers)
        self.validation_patches = (
            PatchDataset(validation, patch, seed + 1, batch * validation_batches, augment=False) if validation else None
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation batches; none where no scene could be held out."""
        return [] if self.validation_patches is None else self.loader(self.validation_patches)


class BurstDataModule(Batches):
    """Batches of patches of two frames, drawn uniformly over whole frames.

    Args:
        bursts: what to train on.
        patch: side of the patches, in pixels of the tensors.
        batch: patches per step.
        steps: number of batches, those of earlier processes among them.
        seed: seed of order and position.
        first_step, workers: as in `Batches`.
    """

    def __init__(
        self,
        bursts: Sequence[Burst],
        *,
        patch: int,
        batch: int,
        steps: int,
        seed: int,
        first_step: int = 0,
        workers: int = 0,
    ) -> None:
        patches = BurstPatches(bursts, patch, seed, batch * steps)
        super().__init__(patches, collate_frames, batch=batch, first_step=first_step, workers=workers)
