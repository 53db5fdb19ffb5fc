"""The named architectures: plain functions that return a model."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from noiseflow.conditions import Conditions
from noiseflow.intensity import SrgbIntensity
from noiseflow.models.flow import Flow
from noiseflow.noise_level import NoiseLevel
from noiseflow.transforms import (
    ActNorm,
    AffineCoupling,
    Chain,
    Conv1x1LU,
    Gain,
    SignalDependentScale,
    Squeeze,
    Transform,
    Unsqueeze,
)

NOISE_FLOW_LAYERS = "sdn|unc|unc|unc|unc|gain|unc|unc|unc|unc"
"""The published order of layers of Noise Flow (Abdelhamed et al. 2019, section 4.3)."""


def noise_flow(
    pairs: Iterable[tuple[str, float]],
    channels: int = 4,
    *,
    layers: str = NOISE_FLOW_LAYERS,
    hidden: int = 16,
    condition: str = "raw",
) -> Flow:
    """Noise Flow: signal-dependent scale, gain, and steps of 1×1 convolution and coupling, without squeeze.

    A single channel has nothing to be mixed with: there every step works on the four channels that 2×2 pixels make.
    The couplings see the clean image and the predicted log standard deviation beside half of the noise. They start as
    the identity and the 1×1 convolutions as fixed random rotations, which leave standard normal noise what it is: the
    flow starts as the noise level function it is given (`Flow.start_from`). With the identity in place of rotations it
    would start on a saddle: noise that is independent between channels but not normal gives a coupling nothing to see
    until it has been mixed.

    Args:
        pairs: the (camera, ISO) pairs.
        channels: 4 for packed raw, 3 for sRGB, 1 for mono.
        layers: the papers' string: `sdn` signal-dependent scale, `gain`, `unc` a 1×1 convolution and a coupling,
            joined by `|`, from noise to base space.
        hidden: channels of the couplings' hidden layers.
        condition: what tells how bright a pixel is: "raw", the clean image, or "srgb", a clean picture of it.

    Source: Abdelhamed, Brubaker and Brown 2019.
    """
    conditions = Conditions(pairs)
    shared = channels if channels == 3 else 1
    mixing = channels if channels > 1 else 4
    stack: list[Transform] = []
    for i, name in enumerate(layers.split("|")):
        if name == "sdn":
            stack.append(SignalDependentScale(NoiseLevel(conditions, shared)))
        elif name == "gain":
            stack.append(Gain(conditions))
        elif name == "unc":
            mixed = Conv1x1LU(mixing, torch.Generator().manual_seed(i))
            coupling = AffineCoupling(mixing, hidden, context=2 * mixing, swap=i % 2 == 1)
            stack += [mixed, coupling] if channels > 1 else [Squeeze(2), mixed, coupling, Unsqueeze(2)]
        else:
            raise ValueError(f"layers: expected sdn, gain or unc joined by |, got {name!r} in {layers!r}")
    flow = Flow(Chain(stack), NoiseLevel(conditions, shared), channels, _intensity(conditions, channels, condition))
    arguments = _arguments(conditions, channels, layers=layers, hidden=hidden, condition=condition)
    flow.architecture = ("noise_flow", arguments)
    return flow


def glow(
    pairs: Iterable[tuple[str, float]],
    channels: int = 3,
    *,
    steps: int = 8,
    hidden: int = 48,
    condition: str = "raw",
) -> Flow:
    """Conditional Glow for noise: signal-dependent scale, squeeze, steps of actnorm, 1×1 convolution and coupling.

    The squeeze turns 2×2 pixels into channels, which lets the couplings learn how neighbouring pixels vary together:
    the choice for sRGB, whose noise is smeared by demosaicking and denoising. Starts as the noise level function it is
    given (`Flow.start_from`).

    Args:
        pairs: the (camera, ISO) pairs.
        channels: 3 for sRGB, 4 for packed raw, 1 for mono.
        steps: number of flow steps.
        hidden: channels of the couplings' hidden layers.
        condition: as in `noise_flow`.

    Source: Kingma and Dhariwal 2018.
    """
    conditions = Conditions(pairs)
    shared = channels if channels == 3 else 1
    squeezed = 4 * channels
    stack: list[Transform] = [SignalDependentScale(NoiseLevel(conditions, shared)), Squeeze(2)]
    for i in range(steps):
        stack.append(ActNorm(squeezed))
        stack.append(Conv1x1LU(squeezed))
        stack.append(AffineCoupling(squeezed, hidden, context=4 * 2 * channels, swap=i % 2 == 1))
    stack.append(Unsqueeze(2))
    flow = Flow(Chain(stack), NoiseLevel(conditions, shared), channels, _intensity(conditions, channels, condition))
    flow.architecture = ("glow", _arguments(conditions, channels, steps=steps, hidden=hidden, condition=condition))
    return flow


def _intensity(conditions: Conditions, channels: int, condition: str) -> SrgbIntensity | None:
    if condition not in ("raw", "srgb"):
        raise ValueError(f"condition: expected raw or srgb, got {condition!r}")
    if condition == "srgb" and channels != 4:
        raise ValueError(f"condition srgb: expected a model of raw noise (4 channels), got {channels} channels")
    return SrgbIntensity(conditions) if condition == "srgb" else None


def _arguments(conditions: Conditions, channels: int, **rest: str | int) -> dict[str, object]:
    return {"pairs": [list(pair) for pair in conditions.pairs], "channels": channels, **rest}
