"""SIDD trees: `Data/<instance>_<scene>_<camera>_<ISO>_<shutter>_<temperature>_<brightness>/…`.

The raw half has MAT frames in linear units with a metadata file each, the sRGB half 8-bit PNGs. Medium (two
frames an instance), Full (150) and simulated trees are one layout.

Reference: Abdelhamed, Lin, Brown, *A High-Quality Denoising Dataset for Smartphone Cameras*, CVPR 2018.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiseflow.datasets.base import UNCLIPPED, FramePair, Recorded
from noiseflow.datasets.decoded import decoded
from noiseflow.errors import DefectError, UserError
from noiseflow.raw.cfa import pack
from noiseflow.raw.matfile import MatFrame, Metadata, read_metadata

# fmt: off
PUBLISHED_TRAIN = frozenset((
    4, 11, 13, 17, 18, 20, 22, 23, 25, 27, 28, 29, 30, 34, 35, 39, 40, 42, 43, 44, 45, 47, 81, 86, 88, 90, 101,
    102, 104, 105, 110, 111, 115, 116, 125, 126, 127, 129, 132, 135, 138, 140, 175, 177, 178, 179, 180, 181, 185,
    186, 189, 192, 193, 194, 196, 197,
))
# fmt: on
"""Instances of the published training list (Maleky et al., *Noise2NoiseFlow*, CVPR 2022)."""

PUBLISHED_TEST = frozenset(
    (54, 55, 57, 59, 60, 62, 63, 66, 150, 151, 152, 154, 155, 159, 160, 161, 163, 164, 165, 166, 198, 199)
)
"""Instances of the published test list."""

Recording = Literal["codes", "pedestal", "continuous"]

_INSTANCE = re.compile(r"(\d+)_(\d+)_([A-Za-z0-9]+)_(\d+)_(\d+)_(\d+)_([A-Za-z0-9]+)")
_FILE = re.compile(r"(\d+)_(NOISY|GT|METADATA)_(RAW|SRGB)_(\d+)\.(MAT|PNG)", re.IGNORECASE)


@dataclass
class Half:
    """The raw or the sRGB half of a tree.

    Attributes:
        frames: its pairs, in the order of their names.
        problems: what each noisy frame lacks that is no pair.
        unused: clean frames that no noisy one goes with.
    """

    frames: list[FramePair] = field(default_factory=list)
    problems: list[DefectError] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)


def instance_number(frame: Recorded) -> int:
    """The instance of a SIDD frame: first field of its folder's name."""
    return int(frame.name.split("_", 1)[0])


def find_instances(root: Path) -> list[Path]:
    """Instance folders of `root/Data`, or of `root` itself; sorted by name."""
    for folder in (root / "Data", root):
        if folder.is_dir():
            found = sorted(p for p in folder.iterdir() if p.is_dir() and _INSTANCE.fullmatch(p.name))
            if found:
                return found
    return []


def tree_root(instances: list[Path]) -> Path:
    """The folder of the tree whose instance folders these are: what holds `Data`, else what holds them."""
    folder = instances[0].parent
    return folder.parent if folder.name == "Data" else folder


def scan(
    root: Path,
    *,
    black: float | None = None,
    white: float | None = None,
    pictures: bool = False,
    truth: bool = True,
) -> dict[str, Half]:
    """Find the frame pairs of a tree by their names; no frame is opened.

    Args:
        root: the tree.
        black: black level in codes, in place of what the metadata files say.
        white: white level in codes, likewise.
        pictures: give every raw frame the clean picture of the sRGB half.
        truth: False leaves ground truths alone: every noisy frame is paired with itself.

    Returns:
        The halves "raw" and "srgb".
    """
    raw, srgb = Half(), Half()
    for folder in find_instances(root):
        _, scene, camera, iso = folder.name.split("_")[:4]
        files = _files(folder)
        for half, kind in ((raw, "RAW"), (srgb, "SRGB")):
            cleans, metadata = files.get(("GT", kind), {}), files.get(("METADATA", kind), {})
            noisies = files.get(("NOISY", kind), {})
            if truth and (len(cleans) > 1 or not noisies):
                half.unused += [path for number, path in cleans.items() if number not in noisies]
            for number, noisy in sorted(noisies.items()):
                name = f"{folder.name}/{number}"
                clean = _matching(cleans, number) if truth else noisy
                about = _matching(metadata, number)
                picture = _matching(files.get(("GT", "SRGB"), {}), number)
                if float(iso) <= 0:
                    sentence = f"{folder}: expected an ISO above 0 in the folder's name, got {iso}"
                    half.problems.append(DefectError(sentence, "bad ISO"))
                elif clean is None:
                    half.problems.append(_missing(noisy, "GT", "the clean frame"))
                elif half is srgb:
                    half.frames.append(SiddSrgbFrame(name, scene, camera, float(iso), noisy, clean))
                elif about is None:
                    half.problems.append(_missing(noisy, "METADATA", "the metadata"))
                elif pictures and picture is None:
                    sentence = (
                        f"{folder}: expected the clean picture of {noisy.name} (…_GT_SRGB_{number}.PNG), found none; "
                        "--condition srgb needs both halves of the tree in one place"
                    )
                    half.problems.append(DefectError(sentence, "missing half"))
                else:
                    half.frames.append(
                        SiddRawFrame(
                            name,
                            scene,
                            camera,
                            float(iso),
                            noisy,
                            clean,
                            about,
                            black,
                            white,
                            picture if pictures else None,
                        )
                    )
    return {"raw": raw, "srgb": srgb}


def _missing(noisy: Path, kind: str, what: str) -> DefectError:
    path = noisy.with_name(re.sub("NOISY", kind, noisy.name, flags=re.IGNORECASE))
    return DefectError(f"{path}: expected {what} of {noisy.name}, found none; fetch it again", "missing half")


def _files(folder: Path) -> dict[tuple[str, str], dict[str, Path]]:
    """Frame number → file, by what the file is; in the folder, or one level down as Full's archives unpack."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for path in sorted([*folder.iterdir(), *folder.glob("*/*")]):
        match = _FILE.fullmatch(path.name)
        if match:
            key = (match[2].upper(), match[3].upper())
            found.setdefault(key, {}).setdefault(match[4], path)
    return found


def _matching(files: dict[str, Path], number: str) -> Path | None:
    """The file of a frame's own number, or the only one that the instance has."""
    if number not in files and len(files) == 1:
        return next(iter(files.values()))
    return files.get(number)


class SiddRawFrame(FramePair):
    """A pair of the raw half: values are (code − black)/(white − black), clipped to [0, 1].

    Attributes:
        recording: "codes" as above; "pedestal": codes below the black level are kept, down to 0; "continuous": neither
            rounded nor clipped. Simulated trees have the latter two, and say so in their `sensor.json`.
    """

    channels = 4
    recording: Recording = "codes"

    def __init__(
        self,
        name: str,
        scene: str,
        camera: str,
        iso: float,
        noisy: Path,
        clean: Path,
        metadata: Path,
        black: float | None = None,
        white: float | None = None,
        picture: Path | None = None,
    ) -> None:
        files = (noisy, clean, metadata) if picture is None else (noisy, clean, metadata, picture)
        super().__init__(name=name, scene=scene, camera=camera, iso=iso, files=files)
        self.picture = picture
        self._mats = MatFrame(noisy), MatFrame(clean)
        self._given = black, white

    @cached_property
    def metadata(self) -> Metadata:
        """What the metadata file says."""
        return read_metadata(self.files[2])

    @property
    def cfa(self) -> str:
        """Pattern of the top-left cell."""
        if self.metadata.cfa is None:
            raise UserError(f"{self.files[2]}: expected a CFA pattern (tag 33422), got none; fetch it again")
        return self.metadata.cfa

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the packed frame."""
        noisy, clean = (mat.shape for mat in self._mats)
        if noisy != clean:
            raise DefectError(
                f"{self.files[1]}: expected the size of {self.files[0].name}, {noisy[0]}×{noisy[1]}, "
                f"got {clean[0]}×{clean[1]}",
                "sizes differ",
            )
        if noisy[0] % 2 or noisy[1] % 2:
            raise DefectError(
                f"{self.files[0]}: expected a mosaic with even sides, got {noisy[0]}×{noisy[1]}", "odd sides"
            )
        return noisy[0] // 2, noisy[1] // 2

    @property
    def levels(self) -> tuple[tuple[float, ...], float]:
        """Black level of each packed channel and white level, in codes.

        Raises:
            UserError: neither the metadata nor the caller says them, or black is not below white.
        """
        black, white = self._given
        blacks = self.metadata.black if black is None else (black,) * 4
        level = self.metadata.white if white is None else white
        missing = [name for name, value in (("--black", blacks), ("--white", level)) if value is None]
        if blacks is None or level is None:
            raise DefectError(
                f"{self.files[2]}: expected levels in the metadata; give {' and '.join(missing)}", "missing levels"
            )
        if not all(0 <= n < level for n in blacks):
            raise UserError(f"{self.files[2]}: expected 0 <= black < white, got {blacks} and {level}")
        return blacks, level

    def _declared(self) -> tuple[Float[Tensor, "c"], tuple[float, float] | None]:
        blacks, white = self.levels
        lsb = 1 / (white - torch.tensor(blacks, dtype=torch.float64))
        if self.recording == "continuous":
            return torch.zeros_like(lsb), (-UNCLIPPED, UNCLIPPED)
        return lsb, (-blacks[0] * float(lsb[0]), 1.0) if self.recording == "pedestal" else None

    def _cut(self, which: int, top: int, left: int, height: int, width: int) -> Float[Tensor, "c h w"]:
        mosaic = self._mats[which].read(2 * top, 2 * left, 2 * height, 2 * width)
        return pack(torch.from_numpy(mosaic.astype(np.float64)), self.cfa)

    def _cut_picture(self, top: int, left: int, height: int, width: int) -> Float[Tensor, "3 h2 w2"] | None:
        if self.picture is None:
            return None
        image, (rows, columns) = decoded(self.picture), self.size
        if image.dtype != np.uint8 or image.shape != (2 * rows, 2 * columns, 3):
            raise UserError(
                f"{self.picture}: expected an 8-bit colour picture of the mosaic's size, {2 * rows}×{2 * columns}, got "
                f"{image.dtype} {tuple(image.shape)}; a picture that was turned or cropped shows another place"
            )
        part = image[2 * top : 2 * (top + height), 2 * left : 2 * (left + width)]
        return torch.from_numpy(part.transpose(2, 0, 1).astype(np.float32) / 255)


class SiddSrgbFrame(FramePair):
    """A pair of the sRGB half: 8-bit pictures, values k/255."""

    channels = 3
    cfa = None

    def __init__(self, name: str, scene: str, camera: str, iso: float, noisy: Path, clean: Path) -> None:
        super().__init__(name=name, scene=scene, camera=camera, iso=iso, files=(noisy, clean))

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        noisy, clean = (decoded(path) for path in self.files)
        for path, image in zip(self.files, (noisy, clean), strict=True):
            if image.ndim != 3 or image.dtype != np.uint8:
                raise UserError(f"{path}: expected an 8-bit colour picture, got {image.dtype} {tuple(image.shape)}")
        if noisy.shape != clean.shape:
            raise DefectError(
                f"{self.files[1]}: expected the size of {self.files[0].name}, {noisy.shape[0]}×{noisy.shape[1]}, "
                f"got {clean.shape[0]}×{clean.shape[1]}",
                "sizes differ",
            )
        return int(noisy.shape[0]), int(noisy.shape[1])

    def _declared(self) -> tuple[Float[Tensor, "c"], tuple[float, float] | None]:
        return torch.full((3,), 1 / 255, dtype=torch.float64), (0.0, 1.0)

    def _cut(self, which: int, top: int, left: int, height: int, width: int) -> Float[Tensor, "c h w"]:
        codes = decoded(self.files[which])[top : top + height, left : left + width]
        return torch.from_numpy(codes.transpose(2, 0, 1).astype(np.float64)) / 255
