"""Random numbers that depend on nothing but a seed and a place in the frame.

Every number is a pure function of (seed, stream, channel, row, column): a counter-based generator
(SplitMix64, Steele, Lea and Flood 2014, its state started afresh by hashing on every image row). Bytes
therefore do not depend on batch, tile, thread, worker or process. Rows of a batch that share seed and origin
share their numbers: give each row its own seed where they must differ. Normals come from the inverse CDF in
float64, one scalar routine for every element, so that no vectorised code path can round differently.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

SAMPLE, PROPOSAL, INITIALISE = 1, 2, 3
"""Streams: what a number is drawn for, so that equal seeds do not couple different purposes."""

_BLOCK = 1 << 16
"""Numbers that are mixed at a time."""

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MUL1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MUL2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of the 64-bit integers. Overwrites x."""
    for bits, factor in ((30, _MUL1), (27, _MUL2)):
        x.bitwise_xor_(_shift(x, bits)).mul_(factor)
    return x.bitwise_xor_(_shift(x, 31))


def combine(seed: int | Int[Tensor, "b"], *parts: int | Int[Tensor, "b"]) -> Int[Tensor, "b"]:
    """Hash a seed with further integers (a step, an image number, …) into a new seed.

    Args:
        seed: an integer or `(B,)` integers.
        parts: integers or `(B,)` integers.

    Returns:
        int64, `()` or `(B,)`.
    """
    state = _mix(torch.as_tensor(seed, dtype=torch.int64) + _GAMMA)
    for part in parts:
        state = _mix(state + _mix(torch.as_tensor(part, dtype=torch.int64) + _GAMMA) * _GAMMA)
    return state


def seed_of(content: bytes) -> int:
    """A seed from bytes, the same in every process: the first 56 bits of their SHA-256."""
    return int.from_bytes(hashlib.sha256(content).digest()[:7], "big")


def uniform(
    seed: int | Int[Tensor, "b"],
    shape: tuple[int, int, int, int],
    *,
    stream: int,
    origin: Int[Tensor, "b 2"] | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "b c h w"]:
    """Uniform numbers in the open interval (0, 1), float64, odd multiples of 2^-53.

    Args:
        seed: an integer, the same for every row, or `(B,)` integers.
        shape: B, C, H, W.
        stream: what the numbers are for (`SAMPLE`, `PROPOSAL`, …).
        origin: `(B, 2)`, row and column of element (0, 0) in its frame; default 0, 0.
        device: where to put them.
    """
    b, c, h, w = shape
    key = combine(torch.as_tensor(seed, dtype=torch.int64, device=device), stream).expand(b)
    start = torch.zeros(b, 2, dtype=torch.int64) if origin is None else origin
    start = start.to(key.device)
    channel = torch.arange(c, device=key.device)
    row = torch.arange(h, device=key.device) + start[:, :1]
    column = torch.arange(w, device=key.device) + start[:, 1:]
    state = _mix(key[:, None] + _mix((channel + 1) * _GAMMA))  # (B, C)
    state = _mix(state[:, :, None] + _mix((row + 1) * _GAMMA)[:, None, :])  # (B, C, H)
    out = torch.empty(b, c * h, w, dtype=torch.float64, device=key.device)
    steps = (column + 1) * _GAMMA  # (B, W)
    at_once = _BLOCK // max(w, 1) + 1
    for i in range(b):
        # A few rows at a time, so that a dozen passes over them stay in the cache.
        for first in range(0, c * h, at_once):
            rows = state[i].reshape(-1)[first : first + at_once]
            numbers = _shift(_mix(rows[:, None] + steps[i]), 12)
            out[i, first : first + at_once].copy_(numbers).add_(0.5).mul_(2.0**-52)
    return out.reshape(b, c, h, w)


def normal(
    seed: int | Int[Tensor, "b"],
    shape: tuple[int, int, int, int],
    *,
    stream: int,
    origin: Int[Tensor, "b 2"] | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "b c h w"]:
    """Standard normal numbers, float64; arguments as in `uniform`."""
    z: Tensor = torch.special.ndtri(uniform(seed, shape, stream=stream, origin=origin, device=device))
    return z
