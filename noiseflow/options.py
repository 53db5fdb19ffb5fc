"""The options of every command, as plain dataclasses: what the command line parses and what run folders record.

Importing this module is cheap: no torch, no reading of data.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

Split = Literal["train", "test", "all"]


def _option(text: str, default: Any = MISSING) -> Any:
    """A field with the sentence that `--help` prints; required where it has no default."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(kw_only=True)
class SimulateOptions:
    """What to simulate."""

    cameras: str | None = _option("virtual phones, comma-separated: IP, GP, S6, N6, G4; default all", None)
    sensor: str | None = _option(
        "virtual sensors, comma-separated: a phone, night, heavy, rows, correlated, or a JSON file that describes "
        "one; alone, without the phones that --cameras has not named",
        None,
    )
    isos: str | None = _option("ISOs, comma-separated; default all that each sensor's table has", None)
    scenes: int = _option("number of scenes; every camera takes every scene at every ISO", 10)
    size: str = _option("height and width of the frames in mosaic pixels, as HxW; both even", "512x512")
    frames: int = _option("noisy frames per instance, numbered from 010", 1)
    srgb: bool = _option("also write every frame rendered as an 8-bit sRGB PNG", False)
    truth: Literal["exact", "mean"] = _option(
        "ground truth: the exact signal, or the mean of 150 recorded frames as SIDD's is", "exact"
    )
    seed: int = _option("equal seeds give equal bytes", 0)
    overwrite: bool = _option("replace a tree that is there already", False)


@dataclass(kw_only=True)
class CheckOptions:
    """How to read the data set that is checked."""

    black: float | None = _option("black level in codes, where the files do not say", None)
    white: float | None = _option("white level in codes, where the files do not say", None)


@dataclass(kw_only=True)
class DataOptions:
    """Which images of a data set to use, and how to read them."""

    data: str = _option("a SIDD tree, or a folder with pairs.csv or with SIDD's block files")
    domain: Literal["raw", "srgb"] | None = _option(
        "half of a SIDD tree; default: what the model works on, else raw where there is one", None
    )
    cameras: str | None = _option("only these cameras, comma-separated", None)
    isos: str | None = _option("only these ISOs, comma-separated", None)
    max_images: int | None = _option("use at most this many images", None)
    black: float | None = _option("black level in codes, where the files do not say", None)
    white: float | None = _option("white level in codes, where the files do not say", None)
    mean_truth: Literal["invert", "keep"] = _option(
        "raw ground truths that are a mean of recorded frames: take them back to the signal, or keep them as they are",
        "invert",
    )
    workers: int = _option("processes that read images; 0 reads in the main process", 0)
    device: str = _option("cpu, cuda or auto", "auto")
    seed: int = _option("seed of everything random", 0)
    overwrite: bool = _option("write into a folder that is not empty", False)


@dataclass(kw_only=True)
class FitOptions(DataOptions):
    """What to fit, to which data, and how. A run folder's `config.yaml` holds all of it."""

    model: str = _option(
        "gaussian, nlf, physics (raw), isotropic and full (sRGB), noise_flow, glow, or as published: noise_flow_paper, "
        "srgb_flow"
    )
    out: str = _option("the run folder to write")
    split: Split = _option("images to fit on", "train")
    condition: Literal["raw", "srgb"] = _option(
        "what tells a flow of raw noise how bright a pixel is: the clean raw frame, or its sRGB picture", "raw"
    )
    steps: int | None = _option("training steps; default: the architecture's own", None)
    batch: int = _option("patches per step", 12)
    patch: int | None = _option(
        "side of the patches, in packed pixels (raw) or pixels (sRGB); default 64, with --noisy-only 32", None
    )
    learning_rate: float | None = _option(
        "peak of the one-cycle schedule; default 4e-3. With --method published constant, default 1e-3", None
    )
    mean_weight: float | None = _option(
        "weight of the squared bias of the flow's own draws, by intensity, beside the mass; default 1 for srgb_flow, "
        "whose layers would draw too bright or too dark a noise without it, 0 for the others",
        None,
    )
    hidden: int | None = _option("channels of the couplings' hidden layers; default: the architecture's own", None)
    layers: str | None = _option("order of noise_flow's layers, such as sdn|unc|unc|gain|unc|unc", None)
    profile: str | None = _option(
        "start a flow of raw noise from this noise profile (a .json file or a built-in one) instead of from the data",
        None,
    )
    keep: Literal["last", "best"] = _option("save the last step, or the best one on the validation scenes", "last")
    noisy_only: bool = _option(
        "learn from bursts of noisy frames, without clean images; trains a denoiser beside the noise model", False
    )
    method: Literal["unbiased", "published"] = _option(
        "how --noisy-only learns: from differences between frames, or by the joint loss of Noise2NoiseFlow (with "
        "--model noise_flow_paper)",
        "unbiased",
    )
    denoiser: str = _option("the denoiser that --noisy-only trains: dncnn, unet, or a file to go on from", "dncnn")
    denoiser_steps: int | None = _option(
        "training steps of the denoiser before those of the noise model; default 4000, with --method published 0", None
    )
    weight: float = _option("weight of the squared error in the published loss", 262144.0)
    unfit: Literal["leave-out", "keep"] = _option(
        "bursts in which --noisy-only finds a moved camera, changed light, flicker, repeated or denoised frames: train "
        "without them, or with them all the same",
        "leave-out",
    )


@dataclass(kw_only=True)
class DenoiserOptions(DataOptions):
    """Which denoiser to train, on which images, and how."""

    out: str = _option("the folder to write")
    network: Literal["dncnn", "unet", "nafnet-small"] = _option("the network", "dncnn")
    split: Split = _option("images to train on; with train, the test images are scored at the end", "train")
    steps: int = _option("training steps", 10000)
    batch: int = _option("patches per step", 32)
    patch: int = _option("side of the patches, in packed pixels (raw) or pixels (sRGB)", 64)
    learning_rate: float = _option("peak of the one-cycle schedule", 1e-3)
    width: int | None = _option("channels of the hidden layers; default: the network's own (dncnn, nafnet-small)", None)
    depth: int | None = _option("number of convolutions; default 9 (dncnn)", None)
    noise_cameras: str | None = _option(
        "cameras to draw noise of, separated by commas; default: those of --cameras, else all of the noise model",
        None,
    )
    noise_isos: str | None = _option("ISOs to draw noise of, likewise; default: those of --isos, else all", None)


@dataclass(kw_only=True)
class DenoiseFitOptions(DenoiserOptions):
    """A denoiser and the noise that it is trained on. A run folder's `config.yaml` holds all of it."""

    noise: str = _option(
        "where the noise comes from: a noise model (a .safetensors file, a run folder or a noise profile) or a "
        "baseline fitted to the data (gaussian, nlf, physics, isotropic, full), drawn anew at every step for a random "
        "camera and ISO that it knows; sensor, the same with the virtual sensor of simulated data; or real, the "
        "recorded noise"
    )


@dataclass(kw_only=True)
class DenoiseApplyOptions:
    """How to denoise files."""

    out: str = _option("the folder for the denoised images")
    format: Literal["npy", "mat", "png", "dng"] | None = _option("default: the noisy image's own", None)
    camera: str = _option("camera, whose colour filter pattern the network's file may know; default: its only one", "")
    cfa: str | None = _option("pattern of a mosaic where the file does not say: RGGB, BGGR, GRBG or GBRG", None)
    black: float | None = _option("black level in codes, where the file does not say", None)
    white: float | None = _option("white level in codes, where the file does not say", None)
    iso: float | None = _option("ISO speed to write into DNG files, where the noisy file does not say", None)
    tile: int | None = _option(
        "side of the tiles, in pixels of the planes; default 256, more for networks that see far", None
    )
    device: str = _option("cpu, cuda or auto", "auto")
    overwrite: bool = _option("write into a folder that is not empty", False)


@dataclass(kw_only=True)
class DenoiseCompareOptions(DenoiserOptions):
    """Which sources of noise to train the same denoiser on."""

    noise: str = _option("sources of noise, comma-separated, each as for denoise fit; the first one is compared with")
    seeds: int = _option("number of seeds: initial weights, crops and noise; --seed is the first", 3)


@dataclass(kw_only=True)
class EvaluateOptions(DataOptions):
    """Which models to score on which images."""

    out: str = _option("the folder for results.json, results.csv and report.html")
    split: Split = _option("images to score", "test")
    baseline_data: str | None = _option(
        "data to fit baselines on that are given by name; default: the first model's training data", None
    )
    baseline_split: Split | None = _option(
        "split of that data to fit on; default: the one the first model was trained on, else train", None
    )
    samples: str | None = _option(
        "folders, comma-separated, of noisy images made by somebody else's models, named as the data's noisy files; "
        "they get every score that needs no density",
        None,
    )
    allow_unseen: bool = _option(
        "interpolate ISOs between those that a model knows; the published raw flows: combine a camera and an ISO", False
    )
    classifier: bool = _option("also let a small network try to tell the models' noise from the data's", False)
    no_samples: bool = _option("draw no noise from the models: no divergences, no curves and no pictures", False)


@dataclass(kw_only=True)
class SampleOptions:
    """How to make noise for clean images."""

    camera: str = _option("name of the camera; default: the only one that the model knows", "")
    iso: float = _option("ISO speed")
    out: str = _option("the folder for the noisy images")
    seed: int = _option("equal seeds give equal bytes, whatever else is on the command line", 0)
    format: Literal["npy", "mat", "png", "dng"] | None = _option("default: the clean image's own", None)
    count: int = _option("noisy images per clean image", 1)
    cfa: str | None = _option("pattern of a mosaic where the file does not say: RGGB, BGGR, GRBG or GBRG", None)
    black: float | None = _option("black level in codes, where the file does not say", None)
    white: float | None = _option("white level in codes, where the file does not say", None)
    raw: str | None = _option("clean raw frame of the picture, for models that are conditioned on pictures", None)
    lsb: float | None = _option("width of a stored code in linear units; default: the file's, else the model's", None)
    low: float | None = _option("lowest value that can be stored, linear units; default as lsb", None)
    high: float | None = _option("highest value that can be stored, linear units; default as lsb", None)
    allow_unseen: bool = _option(
        "interpolate ISOs between those that the model knows; the published raw flows: combine a camera and an ISO",
        False,
    )
    device: str = _option("cpu, cuda or auto", "auto")
    overwrite: bool = _option("write into a folder that is not empty", False)


@dataclass(kw_only=True)
class SynthesizeOptions:
    """How to make pairs of a folder of clean images."""

    model: str = _option("a .safetensors file, a run folder, or a noise profile")
    count: int = _option("noisy images per clean image, each with a camera and an ISO of its own", 1)
    cameras: str | None = _option("cameras to draw from, comma-separated; default: all that the model knows", None)
    isos: str | None = _option(
        "ISOs to draw from, comma-separated, or a range such as 100-3200; default: all that the model knows", None
    )
    srgb: bool = _option("with a model of raw noise: render clean and noisy frames alike, and write pictures", False)
    size: str | None = _option(
        "height and width of the results, as HxW, both even: pictures are shrunk by a whole factor, then the middle "
        "is cut; default: the clean images' own",
        None,
    )
    seed: int = _option("equal seeds give equal bytes, whatever the number of workers", 0)
    cfa: str | None = _option(
        "pattern of mosaics whose file does not say, and of those made of pictures: RGGB, BGGR, GRBG or GBRG; "
        "default: the camera's",
        None,
    )
    black: float | None = _option("black level in codes, where the files do not say", None)
    white: float | None = _option("white level in codes, where the files do not say", None)
    allow_unseen: bool = _option("interpolate ISOs between those that the model knows", False)
    workers: int = _option("processes that work; 0 works in the main process", 0)
    device: str = _option("cpu, cuda or auto", "auto")
    overwrite: bool = _option("begin anew in a folder that is not empty", False)


@dataclass(kw_only=True)
class CalibrateOptions:
    """What frames of one's own camera are, and what their files do not say."""

    out: str = _option("the profile to write, a .json file")
    report: str | None = _option("also write a page with the pictures of every check, a .html file", None)
    dark: list[str] | None = _option(
        "frames with the lens capped: files, or patterns in quotes such as 'dark*.dng'", None
    )
    flat: list[str] | None = _option("frames of an evenly lit surface, two of each level or more", None)
    burst: list[str] | None = _option(
        "frames of a scene in which nothing moves; the frames of one pattern, or of one file that holds several, are "
        "a burst",
        None,
    )
    single: list[str] | None = _option("pictures of anything, for a rough estimate from their flattest blocks", None)
    ptc: str | None = _option(
        "photon-transfer points that are measured already, and no frames: a CSV with the columns iso, mean, sigma", None
    )
    black: str | None = _option(
        "black level in codes, where the files do not say: one, or four, comma-separated, of R, G on R rows, G on B "
        "rows, B",
        None,
    )
    white: float | None = _option("white level in codes, where the files do not say", None)
    iso: float | None = _option("ISO speed of all frames, where the files do not say", None)
    exposure: float | None = _option("exposure time of all frames in seconds, where the files do not say", None)
    camera: str | None = _option("name of the camera, where the files do not say", None)
    cfa: str | None = _option(
        "colour filter pattern, where the files do not say: RGGB, BGGR, GRBG, GBRG, or mono for none", None
    )
    size: str | None = _option("height and width of bare pixels without a header, as HxW", None)
    dtype: str | None = _option("type of bare pixels: uint16le, uint16be, uint8, float32le, …", None)
    overwrite: bool = _option("replace files that are there already", False)


@dataclass(kw_only=True)
class ImportOptions:
    """Where a published checkpoint's models go."""

    out: str = _option(
        "the .safetensors file to write, the denoiser's where the checkpoint holds nothing else; for ELD's parameters "
        "the .json file of a noise profile"
    )
    denoiser: str | None = _option("also write the checkpoint's denoiser, to this .safetensors file", None)
    overwrite: bool = _option("replace files that are there already", False)


@dataclass(kw_only=True)
class ExportOptions:
    """What a model is written as."""

    out: str = _option(
        "the file to write: .csv or .txt, a table of noise level functions, one for each camera and ISO; "
        ".onnx, the network of a denoiser"
    )
    overwrite: bool = _option("replace a file that is there already", False)


def as_dict(options: Any) -> dict[str, Any]:
    """The options by name."""
    return {field.name: getattr(options, field.name) for field in fields(options)}


def listed(text: str | None) -> list[str] | None:
    """The items of a comma-separated option; None where it was not given."""
    return None if text is None else [item.strip() for item in text.split(",") if item.strip()]
