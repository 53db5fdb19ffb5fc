"""The camera and ISO pairs that a model knows, and how a batch's rows find their place among them.

Every conditional table in the package has one row per known (camera, ISO) pair. Rows of a `Shot` are resolved by
camera *name*. A pair that was not in the training data is an error that lists the known ones; with `allow_unseen`
an ISO between two known ones of the same camera is interpolated on the logarithm of ISO. Nothing is extrapolated.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from noiseflow.shot import Shot


class UnknownConditionError(ValueError):
    """A camera or an ISO that the model was not fitted on."""


class Place(NamedTuple):
    """Where each row of a batch lies in a table: between two rows, and how far along.

    Attributes:
        lower: `(B,)`, table row of the next lower (or equal) known ISO.
        upper: `(B,)`, table row of the next higher (or equal) known ISO.
        weight: `(B,)`, share of `upper`, in [0, 1]; 0 where the ISO is known.
        camera: `(B,)`, index of the camera in `Conditions.cameras`.
    """

    lower: Int[Tensor, "b"]
    upper: Int[Tensor, "b"]
    weight: Float[Tensor, "b"]
    camera: Int[Tensor, "b"]

    def read(self, table: Float[Tensor, "k c"]) -> Float[Tensor, "b c"]:
        """Interpolate a table with one row per known pair, linearly (store logarithms where that is meant)."""
        weight = self.weight.to(table.dtype)[:, None]
        return torch.lerp(table[self.lower], table[self.upper], weight)


class Conditions:
    """The known (camera, ISO) pairs of a model, sorted by camera and ISO.

    Args:
        pairs: camera name and ISO of every known pair; repeated ones count once.

    Attributes:
        pairs: the sorted pairs.
        cameras: the sorted camera names.
        rows: the pairs that a table with one row per condition has a row for, here the known ones.
        allow_unseen: interpolate an unknown ISO between known ones of its camera instead of raising.
    """

    def __init__(self, pairs: Iterable[tuple[str, float]]) -> None:
        self.pairs = tuple(sorted({(str(camera), float(iso)) for camera, iso in pairs}))
        if not self.pairs:
            raise ValueError("conditions: expected at least one (camera, ISO) pair, got none")
        self.cameras = tuple(dict.fromkeys(camera for camera, _ in self.pairs))
        self.rows = self.pairs
        self.allow_unseen = False
        self._rows = {c: [i for i, (name, _) in enumerate(self.pairs) if name == c] for c in self.cameras}

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"{len(self.cameras)} cameras, {len(self.pairs)} pairs"

    def isos(self, camera: str) -> tuple[float, ...]:
        """Known ISOs of a camera, rising."""
        return tuple(self.pairs[i][1] for i in self._rows[camera])

    def locate(self, shot: Shot) -> Place:
        """Resolve the camera and ISO of every row.

        Raises:
            UnknownConditionError: a camera is unknown; or an ISO is, and interpolation is off or cannot reach it.
        """
        # Python looks at each distinct pair once, however many rows there are.
        isos, iso_of_row = torch.unique(shot.iso, return_inverse=True)
        distinct, row_of = torch.unique(iso_of_row * len(shot.cameras) + shot.camera, return_inverse=True)
        keys = [(shot.cameras[n % len(shot.cameras)], float(isos[n // len(shot.cameras)])) for n in distinct.tolist()]
        found = [(*self._find(*key), self.cameras.index(key[0])) for key in keys]
        lower, upper, weight, camera = (
            torch.tensor(found, dtype=torch.float64, device=shot.clean.device).reshape(-1, 4).T
        )
        return Place(
            lower=lower.long()[row_of], upper=upper.long()[row_of], weight=weight[row_of], camera=camera.long()[row_of]
        )

    def _find(self, camera: str, iso: float) -> tuple[int, int, float]:
        if camera not in self._rows:
            raise UnknownConditionError(f"camera {camera!r} is unknown; known: {', '.join(self.cameras)}")
        rows, isos = self._rows[camera], self.isos(camera)
        for row, known in zip(rows, isos, strict=True):
            if math.isclose(iso, known, rel_tol=1e-6):
                return row, row, 0.0
        listed = ", ".join(f"{known:g}" for known in isos)
        if not self.allow_unseen:
            raise UnknownConditionError(
                f"ISO {iso:g} of camera {camera!r} is unknown; known: {listed} (--allow-unseen interpolates)"
            )
        above = bisect_left(isos, iso)
        if above in (0, len(isos)):
            raise UnknownConditionError(
                f"ISO {iso:g} of camera {camera!r} lies outside the known {listed}; nothing is extrapolated"
            )
        low, high = isos[above - 1], isos[above]
        return rows[above - 1], rows[above], math.log(iso / low) / math.log(high / low)


class CrossedConditions(Conditions):
    """The known pairs of a model whose parameters belong to a camera or to an ISO, and never to a pair.

    Its tables have a row for every known camera at every known ISO. A pair that was not in the training data is an
    error all the same; with `allow_unseen` a known camera may be combined with an ISO that other cameras were seen at.

    Args:
        pairs: camera name and ISO of every known pair.
    """

    def __init__(self, pairs: Iterable[tuple[str, float]]) -> None:
        super().__init__(pairs)
        isos = sorted({iso for _, iso in self.pairs})
        self.rows = tuple((camera, iso) for camera in self.cameras for iso in isos)

    def _find(self, camera: str, iso: float) -> tuple[int, int, float]:
        for row, (name, known) in enumerate(self.rows):
            seen = (name, known) in self.pairs
            if name == camera and math.isclose(iso, known, rel_tol=1e-6) and (seen or self.allow_unseen):
                return row, row, 0.0
        listed = "; ".join(f"{name} at ISO {', '.join(f'{i:g}' for i in self.isos(name))}" for name in self.cameras)
        raise UnknownConditionError(
            f"camera {camera!r} at ISO {iso:g} is unknown; known: {listed} "
            "(--allow-unseen combines a known camera with a known ISO)"
        )
