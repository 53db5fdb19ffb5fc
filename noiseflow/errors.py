"""The errors that users see: one sentence that says what was expected, what came and what to do."""

from __future__ import annotations

from typing import Literal

Defect = Literal[
    "missing half",
    "bad ISO",
    "damaged file",
    "wrong name",
    "missing levels",
    "sizes differ",
    "odd sides",
    "broken values",
    "swapped",
    "misaligned",
    "disagreement",
    "scene in both splits",
    "off the lattice",
    "bit depth",
    "no noise",
    "moved camera",
    "changed light",
    "flicker",
    "repeated frames",
    "denoised frames",
]
"""What can be wrong with a data set; `noiseflow check` reports each by its name."""


class UserError(Exception):
    """Bad input from outside (files, command line, configuration). The command line prints it and exits 1."""


class DefectError(UserError):
    """Data are wrong in a way that has a name.

    Attributes:
        kind: the name.
    """

    def __init__(self, sentence: str, kind: Defect = "damaged file") -> None:
        super().__init__(sentence)
        self.kind: Defect = kind
