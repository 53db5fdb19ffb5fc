"""The command line: parses, calls, prints. Nothing heavy is imported before a command is known to run."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import sys
import warnings
from typing import Any, Literal, get_args, get_origin, get_type_hints

from noiseflow import __version__
from noiseflow.errors import UserError
from noiseflow.options import (
    CalibrateOptions,
    CheckOptions,
    DenoiseApplyOptions,
    DenoiseCompareOptions,
    DenoiseFitOptions,
    EvaluateOptions,
    ExportOptions,
    FitOptions,
    ImportOptions,
    SampleOptions,
    SimulateOptions,
    SynthesizeOptions,
)

_OPTIONS: dict[str, type] = {
    "simulate": SimulateOptions,
    "check": CheckOptions,
    "fit": FitOptions,
    "evaluate": EvaluateOptions,
    "sample": SampleOptions,
    "synthesize": SynthesizeOptions,
    "calibrate": CalibrateOptions,
    "import": ImportOptions,
    "export": ExportOptions,
    "denoise fit": DenoiseFitOptions,
    "denoise apply": DenoiseApplyOptions,
    "denoise compare": DenoiseCompareOptions,
}

_FRAMES = ("dark", "flat", "burst", "single", "ptc")

_DESCRIPTION = "Camera noise modelling: learn the noise of a camera, score it, make more of it."


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; default that of the process.

    Returns:
        0 on success, 1 on bad input, 130 on Ctrl-C; bad usage exits with 2.
    """
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    if not given:
        parser.print_help()
        return 0
    parsed = parser.parse_args(given)
    command, values = _chosen(parsed)
    missing = _missing(command, values)
    if missing:
        parser.error(f"noiseflow {command} needs {', '.join(missing)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("noiseflow").setLevel(logging.INFO)
    try:
        if (values.get("seed") or 0) < 0:
            raise UserError(f"--seed: expected 0 or more, got {values['seed']}")
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # what matters to users is logged in plain words
            return _dispatch(command, values, shlex.join(["noiseflow", *given]))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("NOISEFLOW_TRACEBACK"):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error: Exception) -> str:
    said = str(error)
    if "Original Traceback" in said:  # from a loader's worker process, whose last line is `type: sentence`
        said = said.rstrip().rsplit("\n", 1)[-1].partition(": ")[2]
    text = " ".join(said.split()) or type(error).__name__
    if isinstance(error, (UserError, ValueError, FloatingPointError)):
        return text
    if isinstance(error, OSError):
        return f"{error.filename or 'file'}: {error.strerror}" if error.strerror else text
    return f"{type(error).__name__}: {text} (NOISEFLOW_TRACEBACK=1 shows where)"


def _parser() -> Any:
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog="noiseflow", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"noiseflow {__version__}")
    commands = parser.add_subcommands(dest="command", required=True)

    def command(name: str, text: str, options: type | None = None, positional: dict[str, str] | None = None) -> Any:
        sub = jsonargparse.ArgumentParser(description=text)
        for argument, about in (positional or {}).items():
            if argument.endswith("s?"):
                sub.add_argument(argument[:-1], nargs="*", type=str, metavar=argument[:-2].upper(), help=about)
            elif argument.endswith("s"):
                sub.add_argument(argument, nargs="+", type=str, metavar=argument[:-1].upper(), help=about)
            else:
                sub.add_argument(argument, type=str, metavar=argument.upper(), help=about)
        if options is not None:
            _add_options(sub, options)
        commands.add_subcommand(name, sub, help=text)
        return sub

    demo = command("demo", "simulate, fit, evaluate and report, in a few minutes and without any data")
    demo.add_argument("--out", type=str, default="noiseflow-demo", help="the folder to write")
    demo.add_argument("--overwrite", action="store_true", help="replace a folder that is not empty")
    command("simulate", "write a SIDD tree of virtual phones", SimulateOptions, {"out": "the folder to write"})
    about = "a SIDD tree, or a folder with pairs.csv"
    command("check", "read a whole data set; say what it holds and what is damaged", CheckOptions, {"root": about})
    fit = command("fit", "fit a noise model to noisy and clean images, or go on with a run", FitOptions)
    fit.add_argument("--resume", type=str, metavar="RUN", help="a run folder to go on with, beside nothing but what "
                     "changes: --steps may grow, --data may have moved, --workers and --device may differ")  # fmt: skip
    fit.add_argument("--config", action="config", help="read options from a YAML file; a run folder's config.yaml fits")
    models = (
        "a .safetensors file, a run folder, a noise profile (a .json file or a built-in one, such as eld-sony-a7s2), "
        "or a baseline: gaussian, nlf, physics, isotropic, full"
    )
    command("evaluate", "score noise models and write a report", EvaluateOptions, {"models?": models})
    result = "a results.json, or the folder that evaluate wrote"
    command("compare", "say what differs between two evaluations", None, {"first": result, "second": result})
    sample = {
        "model": "a .safetensors file, a run folder, or a noise profile: a .json file, or a built-in one's name",
        "images": "clean images: MAT, NPY, PNG, TIFF, JPEG, WebP, camera raw",
    }
    command("sample", "add a model's noise to clean images", SampleOptions, sample)
    folders = {"source": "folder of clean images or photographs", "out": "the folder to write, or to go on with"}
    command("synthesize", "make noisy and clean pairs of a folder of clean images", SynthesizeOptions, folders)
    frames = "frames of any kind, which are told apart: camera raw, TIFF, NPY, MAT or, with --size, bare pixels"
    command("calibrate", "find the noise parameters of your own camera", CalibrateOptions, {"frames?": frames})
    _add_denoise(commands)
    about = (
        "a published checkpoint: .pth, .npz of TensorFlow variables, or the prefix of a TensorFlow checkpoint; or "
        "noise parameters: ELD's .npy, a table of noise level functions (.txt, .csv), a .dng with a NoiseProfile"
    )
    command(
        "import",
        "convert a published checkpoint or noise parameters to a model file",
        ImportOptions,
        {"checkpoint": about},
    )
    about = "a .safetensors file, a run folder, or a noise profile"
    command("export", "write a model for other programs", ExportOptions, {"model": about})
    command("info", "describe a model, a run, a data set or an image", None, {"target": "file or folder"})
    return parser


def _add_denoise(commands: Any) -> None:
    """The commands of `noiseflow denoise`."""
    import jsonargparse

    about = "train denoisers on any noise, use them, and compare what noise they are trained on"
    group = jsonargparse.ArgumentParser(description=about)
    commands.add_subcommand("denoise", group, help=about)
    inner = group.add_subcommands(dest="command", required=True)

    about = "train a denoiser on noise that is drawn while it trains, or go on with a run"
    fit = jsonargparse.ArgumentParser(description=about)
    _add_options(fit, DenoiseFitOptions)
    fit.add_argument("--resume", type=str, metavar="RUN", help="a run folder to go on with, beside nothing but what "
                     "changes: --steps may grow, --data and --noise may have moved, --workers and --device may "
                     "differ")  # fmt: skip
    fit.add_argument("--config", action="config", help="read options from a YAML file; a run folder's config.yaml fits")
    inner.add_subcommand("fit", fit, help=about)

    about = "denoise files, or all the images in folders"
    apply = jsonargparse.ArgumentParser(description=about)
    apply.add_argument("network", type=str, metavar="NETWORK", help="a denoiser's .safetensors file, or its run folder")
    apply.add_argument("images", nargs="+", type=str, metavar="IMAGE",
                       help="noisy images or folders of them: MAT, NPY, PNG, TIFF, JPEG, WebP, camera raw")  # fmt: skip
    _add_options(apply, DenoiseApplyOptions)
    inner.add_subcommand("apply", apply, help=about)

    about = "train the same denoiser on the noise of several sources and compare the results"
    compare = jsonargparse.ArgumentParser(description=about)
    _add_options(compare, DenoiseCompareOptions)
    inner.add_subcommand("compare", compare, help=about)


def _add_options(parser: Any, options: type) -> None:
    """One `--option` per field of a dataclass, its help beside the field."""
    types = get_type_hints(options)
    for field in dataclasses.fields(options):
        flag, text = "--" + field.name.replace("_", "-"), field.metadata["help"]
        if types[field.name] is bool:
            parser.add_argument(flag, action="store_true", help=text)
        elif list[str] in get_args(types[field.name]):
            parser.add_argument(flag, type=str, nargs="+", metavar="GLOB", help=text)
        elif field.default is dataclasses.MISSING:
            # Not required as far as the parser knows: it would not name the option, and --resume does without.
            kind, text = types[field.name] | None, f"{text} (required)"
            parser.add_argument(flag, type=kind, default=None, metavar=field.name.upper(), help=text)
        else:
            kind = types[field.name]
            parser.add_argument(flag, type=kind, default=field.default, metavar=_metavar(field.name, kind), help=text)


def _metavar(name: str, kind: Any) -> str:
    """What `--help` shows for a value: the choices where they are few, else the option's name."""
    choices = [c for part in (kind, *get_args(kind)) if get_origin(part) is Literal for c in get_args(part)]
    return "{" + ",".join(choices) + "}" if choices else name.upper()


def _chosen(parsed: Any) -> tuple[str, dict[str, Any]]:
    """The command, such as `fit` or `denoise fit`, and the values of its arguments."""
    command, given = parsed.command, parsed[parsed.command].as_dict()
    if command == "denoise":
        inner = given["command"]
        return f"{command} {inner}", given[inner]
    return command, given


def _dispatch(name: str, given: dict[str, Any], line: str) -> int:
    if name == "demo":
        from noiseflow.commands import demo

        return demo.run(given["out"], overwrite=given["overwrite"])
    if name == "simulate":
        from noiseflow.commands import simulate

        return simulate.run(given["out"], SimulateOptions(**_of(SimulateOptions, given)))
    if name == "check":
        from noiseflow.commands import check

        return check.run(given["root"], CheckOptions(**_of(CheckOptions, given)))
    if name == "fit":
        from noiseflow.commands import fit

        if given["resume"] is not None:
            return fit.resume(given["resume"], _changed(FitOptions, given))
        return fit.run(FitOptions(**_of(FitOptions, given)))
    if name == "evaluate":
        from noiseflow.commands import evaluate

        return evaluate.run(given["models"], EvaluateOptions(**_of(EvaluateOptions, given)), line)
    if name == "compare":
        from noiseflow.commands import compare

        return compare.run(given["first"], given["second"])
    if name == "sample":
        from noiseflow.commands import sample

        return sample.run(given["model"], given["images"], SampleOptions(**_of(SampleOptions, given)))
    if name == "synthesize":
        from noiseflow.commands import synthesize

        return synthesize.run(given["source"], given["out"], SynthesizeOptions(**_of(SynthesizeOptions, given)))
    if name == "calibrate":
        from noiseflow.commands import calibrate

        return calibrate.run(given["frames"], CalibrateOptions(**_of(CalibrateOptions, given)), line)
    if name == "import":
        from noiseflow.commands import import_model

        return import_model.run(given["checkpoint"], ImportOptions(**_of(ImportOptions, given)))
    if name == "export":
        from noiseflow.commands import export

        return export.run(given["model"], ExportOptions(**_of(ExportOptions, given)))
    if name == "denoise fit":
        from noiseflow.commands import denoise

        if given["resume"] is not None:
            return denoise.resume(given["resume"], _changed(DenoiseFitOptions, given))
        return denoise.fit(DenoiseFitOptions(**_of(DenoiseFitOptions, given)))
    if name == "denoise apply":
        from noiseflow.commands import denoise

        options = DenoiseApplyOptions(**_of(DenoiseApplyOptions, given))
        return denoise.apply(given["network"], given["images"], options)
    if name == "denoise compare":
        from noiseflow.commands import denoise

        return denoise.compare(DenoiseCompareOptions(**_of(DenoiseCompareOptions, given)))
    from noiseflow.commands import info

    return info.run(given["target"])


def _missing(command: str, given: dict[str, Any]) -> list[str]:
    """The required options that were not given."""
    if command not in _OPTIONS or given.get("resume") is not None:
        return []
    required = [f.name for f in dataclasses.fields(_OPTIONS[command]) if f.default is dataclasses.MISSING]
    missing = ["--" + name.replace("_", "-") for name in required if given[name] is None]
    if command == "evaluate" and not given["models"] and given["samples"] is None:
        missing.append("a MODEL or --samples")
    if command == "calibrate" and not given["frames"] and not any(given[kind] for kind in _FRAMES):
        missing.append("FRAMES, --dark, --flat, --burst, --single or --ptc")
    return missing


def _changed(options: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options that differ from their defaults."""
    values = {field.name: (given[field.name], field.default) for field in dataclasses.fields(options)}
    return {name: value for name, (value, default) in values.items() if value is not None and value != default}


def _of(options: type, given: dict[str, Any]) -> dict[str, Any]:
    """The part of the parsed arguments that belongs to a dataclass."""
    return {field.name: given[field.name] for field in dataclasses.fields(options)}
