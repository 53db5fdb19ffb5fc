"""Batches of patches as Lightning data modules: every patch is a function of (seed, its number).

So a run does not depend on the number of workers, and one that is resumed goes on with the batches that come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Dataset, Subset

from noiseflow.datasets import Burst, BurstPatches, FramePair, Pair, PatchDataset, collate, collate_frames


class PatchDataModule(L.LightningDataModule):
    """Batches of patches, drawn uniformly over whole frames.

    Args:
        train: frames to train on.
        validation: frames of the held-out scenes; may be empty.
        patch: side of the patches, in packed pixels (raw) or pixels (sRGB).
        batch: patches per step.
        steps: number of training batches, those of earlier processes among them.
        first_step: batches that earlier processes of a resumed run have used.
        seed: seed of order and position.
        workers: reading processes; 0 reads in the main process.
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
        super().__init__()
        self.batch = batch
        self.workers = workers
        self.first_step = first_step
        self.train_patches = PatchDataset(train, patch, seed, batch * steps)
        self.validation_patches = (
            PatchDataset(validation, patch, seed + 1, batch * validation_batches, augment=False) if validation else None
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """The training batches, in the order of the patch numbers."""
        rest = range(self.first_step * self.batch, len(self.train_patches))
        return self._loader(Subset(self.train_patches, rest))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation batches; none where no scene could be held out."""
        return [] if self.validation_patches is None else self._loader(self.validation_patches)

    def _loader(self, patches: Dataset[Pair]) -> DataLoader[Any]:
        return DataLoader(patches, self.batch, num_workers=self.workers, collate_fn=collate)


class BurstDataModule(L.LightningDataModule):
    """Batches of patches of two frames, drawn uniformly over whole frames.

    Args:
        bursts: what to train on.
        patch: side of the patches, in pixels of the tensors.
        batch: patches per step.
        steps: number of batches, those of earlier processes among them.
        seed: seed of order and position.
        first_step: batches that earlier processes of a resumed run have used.
        workers: reading processes; 0 reads in the main process.
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
        super().__init__()
        self.batch, self.first_step, self.workers = batch, first_step, workers
        self.patches = BurstPatches(bursts, patch, seed, batch * steps)

    def train_dataloader(self) -> DataLoader[Any]:
        """The training batches, in the order of the patch numbers."""
        rest = range(self.first_step * self.batch, len(self.patches))
        return DataLoader(Subset(self.patches, rest), self.batch, num_workers=self.workers, collate_fn=collate_frames)
