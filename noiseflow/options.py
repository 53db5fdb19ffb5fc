"""The options of every command, as plain dataclasses: what the command line parses and what run folders record.

Importing this module is cheap: no torch, no reading of data.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(kw_only=True)
class SimulateOptions:
    """What to simulate.

    Attributes:
        cameras: virtual phones, comma-separated: IP, GP, S6, N6, G4; default all.
        isos: ISOs, comma-separated; default all that each phone's table has.
        scenes: number of scenes; every camera takes every scene at every ISO.
        size: height and width of the frames in mosaic pixels, as HxW; both even.
        frames: noisy frames per instance, numbered from 010.
        srgb: also write the rendered 8-bit sRGB PNG of every frame.
        truth: ground truth: the exact signal, or the mean of 150 recorded frames as SIDD's is.
        seed: equal seeds give equal bytes.
        overwrite: replace a folder that is not empty.
    """

    cameras: str | None = None
    isos: str | None = None
    scenes: int = 10
    size: str = "512x512"
    frames: int = 1
    srgb: bool = False
    truth: Literal["exact", "mean"] = "exact"
    seed: int = 0
    overwrite: bool = False


@dataclass(kw_only=True)
class DataOptions:
    """Which images of a data set to use. Extended by the commands that read one.

    Attributes:
        data: a SIDD tree, or a folder with pairs.csv.
        domain: raw or srgb half of a SIDD tree; default: what the model needs, else raw where there is one.
        cameras: only these cameras, comma-separated.
        isos: only these ISOs, comma-separated.
        max_images: use at most this many images.
        black: black level in codes, where the files do not say.
        white: white level in codes, where the files do not say.
        workers: processes that read patches during training; 0 reads in the main process.
        device: cpu, cuda or auto.
        seed: seed of everything random.
        overwrite: replace an output folder that is not empty.
    """

    data: str
    domain: Literal["raw", "srgb"] | None = None
    cameras: str | None = None
    isos: str | None = None
    max_images: int | None = None
    black: float | None = None
    white: float | None = None
    workers: int = 0
    device: str = "auto"
    seed: int = 0
    overwrite: bool = False


@dataclass(kw_only=True)
class FitOptions(DataOptions):
    """What to fit, to which data, and how. A run folder's `config.yaml` holds all of it.

    Attributes:
        data: a SIDD tree, or a folder with pairs.csv.
        model: gaussian, nlf, noise_flow or glow.
        out: the run folder to write.
        split: images to fit on.
        steps: training steps; default: the architecture's own.
        batch: patches per step.
        patch: side of the patches, in packed pixels (raw) or pixels (sRGB).
        learning_rate: peak of the one-cycle schedule.
        hidden: channels of the hidden layers of the couplings; default: the architecture's own.
        layers: order of the layers of noise_flow, as in sdn|unc|unc|gain|unc.
        keep: save the final step, or the step that is best on the validation scenes.
        domain: raw or srgb half of a SIDD tree; default raw where there is one.
        cameras: only these cameras, comma-separated.
        isos: only these ISOs, comma-separated.
        max_images: use at most this many images.
        black: black level in codes, where the files do not say.
        white: white level in codes, where the files do not say.
        workers: processes that read patches; 0 reads in the main process.
        device: cpu, cuda or auto.
        seed: seed of everything random.
        overwrite: replace an output folder that is not empty.
    """

    model: str
    out: str
    split: Literal["train", "test", "all"] = "train"
    steps: int | None = None
    batch: int = 12
    patch: int = 64
    learning_rate: float = 4e-3
    hidden: int | None = None
    layers: str | None = None
    keep: Literal["last", "best"] = "last"


@dataclass(kw_only=True)
class EvaluateOptions(DataOptions):
    """Which models to score on which images.

    Attributes:
        data: a SIDD tree, or a folder with pairs.csv.
        out: the folder for results.json, results.csv and report.html.
        split: images to score.
        baseline_data: what baselines given by name are fitted on; default: the first model's training data.
        baseline_split: split of baseline_data to fit on; default: the one the first model was trained on, else train.
        allow_unseen: interpolate ISOs between those that a model knows.
        samples: draw noise from every model for the curves and pictures of the page.
        domain: raw or srgb half of a SIDD tree; default: what the first model needs.
        cameras: only these cameras, comma-separated.
        isos: only these ISOs, comma-separated.
        max_images: use at most this many images.
        black: black level in codes, where the files do not say.
        white: white level in codes, where the files do not say.
        workers: processes that read patches; 0 reads in the main process.
        device: cpu, cuda or auto.
        seed: seed of everything random.
        overwrite: replace an output folder that is not empty.
    """

    out: str
    split: Literal["train", "test", "all"] = "test"
    baseline_data: str | None = None
    baseline_split: Literal["train", "test", "all"] | None = None
    allow_unseen: bool = False
    samples: bool = True


@dataclass(kw_only=True)
class SampleOptions:
    """How to make noise for clean images.

    Attributes:
        camera: name of the camera.
        iso: ISO speed.
        out: the folder for the noisy images.
        seed: equal seeds give equal bytes, whatever else is on the command line.
        format: npy, mat, png or dng; default: the clean image's own.
        count: noisy images per clean image.
        cfa: colour filter pattern of a mosaic, where the file does not say: RGGB, BGGR, GRBG or GBRG.
        black: black level in codes, where the file does not say.
        white: white level in codes, where the file does not say.
        lsb: width of one stored code in linear units; default: the file's, else the model's for this camera.
        low: lowest value that can be stored, linear units; default as lsb.
        high: highest value that can be stored, linear units; default as lsb.
        allow_unseen: interpolate ISOs between those that the model knows.
        device: cpu, cuda or auto.
        overwrite: replace an output folder that is not empty.
    """

    camera: str
    iso: float
    out: str
    seed: int = 0
    format: Literal["npy", "mat", "png", "dng"] | None = None
    count: int = 1
    cfa: str | None = None
    black: float | None = None
    white: float | None = None
    lsb: float | None = None
    low: float | None = None
    high: float | None = None
    allow_unseen: bool = False
    device: str = "auto"
    overwrite: bool = False


def as_dict(options: Any) -> dict[str, Any]:  # noqa: ANN401 (any of the dataclasses above)
    """The options by name."""
    return {field.name: getattr(options, field.name) for field in fields(options)}


def listed(text: str | None) -> list[str] | None:
    """The items of a comma-separated option; None where it was not given."""
    return None if text is None else [item.strip() for item in text.split(",") if item.strip()]
