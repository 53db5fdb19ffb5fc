"""A SIDD tree written with bare h5py, scipy and OpenCV, independent of the package's own writers."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
import numpy as np
import scipy.io

PATTERNS = {"IP": ([0, 1, 1, 2], 528, 4095), "GP": ([2, 1, 1, 0], 64, 1023), "S6": ([1, 0, 2, 1], 0, 1023)}
PATTERNS["N6"] = ([1, 2, 0, 1], 42, 1023)


@dataclass
class Written:
    """What went into the files, by frame name: codes and clean mosaics, or pictures."""

    root: Path
    codes: dict = field(default_factory=dict)
    clean: dict = field(default_factory=dict)


def write_mat(path, mosaic):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        data = file.create_dataset("x", data=np.ascontiguousarray(mosaic.T), chunks=True, compression="gzip")
        data.attrs["MATLAB_class"] = np.bytes_(b"single")


def write_metadata(path, cfa, black, white, iso, make="maker", model="model"):
    tags = np.empty((2, 1), dtype=[("ID", object), ("Offset", object), ("Value", object)])
    tags[0, 0] = (33421, 0, np.array([2, 2], np.uint8))
    tags[1, 0] = (33422, 0, np.array(cfa, np.uint8))
    content = {"Make": make, "Model": model, "ISOSpeedRatings": iso, "UnknownTags": tags}
    content |= {} if black is None else {"BlackLevel": np.full(4, black), "WhiteLevel": white}
    scipy.io.savemat(path, {"metadata": content})


def write_sidd(root, instances, *, size=(24, 40), frames=("010", "011"), srgb=False, seed=0):
    """Instances: (instance, scene, camera, iso) each."""
    rng = np.random.default_rng(seed)
    written = Written(root)
    for instance, scene, camera, iso in instances:
        folder = f"{instance:04d}_{scene:03d}_{camera}_{iso:05d}_00060_3200_L"
        cfa, black, white = PATTERNS[camera]
        for number in frames:
            name, stem = f"{folder}/{number}", root / "Data" / folder / f"{instance:04d}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            codes = rng.integers(0, white - black + 1, size)  # black-subtracted
            clean = rng.normal(0.3, 0.4, size).astype(np.float32)  # partly outside [0, 1]
            written.codes[name], written.clean[name] = codes, clean
            write_mat(Path(f"{stem}_NOISY_RAW_{number}.MAT"), (codes / (white - black)).astype(np.float32))
            write_mat(Path(f"{stem}_GT_RAW_{number}.MAT"), clean)
            write_metadata(Path(f"{stem}_METADATA_RAW_{number}.MAT"), cfa, black, white, iso)
            if srgb:
                for kind in ("NOISY", "GT"):
                    picture = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
                    written.codes[f"{name}/{kind}"] = picture
                    cv2.imwrite(f"{stem}_{kind}_SRGB_{number}.PNG", picture[..., ::-1])
    return written
