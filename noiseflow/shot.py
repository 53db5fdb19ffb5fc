"""What a noise model may be conditioned on: one frozen, batched record per set of images.

A `Shot` holds a batch of clean images with the camera, the ISO and the code grid of each. Every row has a
condition of its own; nothing is ever read from row 0 for the others. All pixel values are in linear units:
0 is the black level, 1 is the white level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CFA_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")

_PIXEL_MAPS = ("offset", "gain", "variance")


@dataclass(frozen=True, eq=False)
class Shot:
    """A batch of clean images and the conditions under which their noise was, or will be, recorded.

    Scalars and `(B,)` values are broadcast to the shapes below; numbers take clean's dtype and device.

    Attributes:
        clean: `(B, C, H, W)`, the signal before clipping and rounding, linear units, finite.
        iso: `(B,)`, ISO speed, > 0.
        camera: `(B,)`, index of each row's camera in `cameras`.
        cameras: names of the cameras. Models resolve them by *name*, so one batch can go to several models.
        lsb: `(B, C)`, width of one stored code in linear units, >= 0; 0 means continuous (not quantised).
        low: `(B, C)`, lowest value that the stored image can hold, linear units.
        high: `(B, C)`, highest value that the stored image can hold, linear units, > low.
        cfa: the sensor's colour filter pattern (RGGB, BGGR, GRBG or GBRG): one name for all rows, a name (or
            None) per row, or None where there is no mosaic. Packed channels are R G G B whatever it says.
        origin: `(B, 2)`, row and column of the patch in its frame, in pixels of `clean`; default 0, 0.
        srgb: `(B, 3, 2H, 2W)`, the clean picture at mosaic resolution, in [0, 1].
        offset: `(B, C, H, W)`, per-pixel offset of the sensor, linear units.
        gain: `(B, C, H, W)`, per-pixel relative gain of the sensor, > 0.
        variance: `(B, C, H, W)`, per-pixel read-noise variance of the sensor, squared linear units, >= 0.
        context: `(B, F, H, W)`, what a model derived from the rest for its own layers; set by models only.

    Raises:
        ValueError: a shape, range or value is wrong; the message says what was expected and what came.

    Examples:
        >>> shot = Shot.of(torch.full((1, 4, 8, 8), 0.5), camera="S6", iso=800, lsb=1 / 1023)
        >>> shot.iso, shot.camera_names, tuple(shot.lsb.shape)
        (tensor([800.]), ('S6',), (1, 4))
    """

    clean: Float[Tensor, "b c h w"]
    iso: Float[Tensor, "b"]
    camera: Int[Tensor, "b"]
    cameras: tuple[str, ...]
    lsb: Float[Tensor, "b c"] = dataclasses.field(default=0.0)  # type: ignore[assignment]
    low: Float[Tensor, "b c"] = dataclasses.field(default=0.0)  # type: ignore[assignment]
    high: Float[Tensor, "b c"] = dataclasses.field(default=1.0)  # type: ignore[assignment]
    cfa: str | tuple[str | None, ...] | None = None
    origin: Int[Tensor, "b 2"] | None = None
    srgb: Float[Tensor, "b 3 h2 w2"] | None = None
    offset: Float[Tensor, "b c h w"] | None = None
    gain: Float[Tensor, "b c h w"] | None = None
    variance: Float[Tensor, "b c h w"] | None = None
    context: Float[Tensor, "b f h w"] | None = None

    def __post_init__(self) -> None:
        clean = self.clean
        if not isinstance(clean, Tensor) or clean.ndim != 4 or not clean.is_floating_point():
            got = f"{clean.dtype} {tuple(clean.shape)}" if isinstance(clean, Tensor) else type(clean).__name__
            raise ValueError(f"clean: expected a floating-point tensor (B, C, H, W), got {got}")
        if not bool(torch.isfinite(clean).all()):
            raise ValueError("clean: expected finite values, got NaN or infinity")
        b = clean.shape[0]
        self._set("cameras", (self.cameras,) if isinstance(self.cameras, str) else tuple(self.cameras))
        self._set("iso", self._per_row("iso", self.iso))
        if not bool((torch.isfinite(self.iso) & (self.iso > 0)).all()):
            raise ValueError(f"iso: expected positive numbers, got {self.iso.tolist()}")
        camera = torch.as_tensor(self.camera, device=clean.device)
        if camera.is_floating_point() or camera.ndim > 1 or (camera.ndim == 1 and camera.shape[0] != b):
            raise ValueError(
                f"camera: expected {b} integer indices into cameras, got {camera.dtype} {tuple(camera.shape)}"
            )
        self._set("camera", camera.to(torch.int64).expand(b))
        if b and not bool(((self.camera >= 0) & (self.camera < len(self.cameras))).all()):
            raise ValueError(
                f"camera: expected indices from 0 to {len(self.cameras) - 1} into cameras {self.cameras}, "
                f"got {self.camera.tolist()}"
            )
        for name in ("lsb", "low", "high"):
            self._set(name, self._per_channel(name, getattr(self, name)))
        if bool((self.lsb < 0).any()):
            raise ValueError("lsb: expected code widths >= 0, got a negative one")
        if not bool((self.low < self.high).all()):
            raise ValueError("low, high: expected low < high in every row and channel")
        self._check_cfa()
        if self.origin is None:
            self._set("origin", torch.zeros(b, 2, dtype=torch.int64, device=clean.device))
        else:
            origin = torch.as_tensor(self.origin, device=clean.device)
            if origin.is_floating_point() or origin.ndim > 2 or origin.shape[-1:] != (2,):
                raise ValueError(f"origin: expected integers ({b}, 2), got {origin.dtype} {tuple(origin.shape)}")
            self._set("origin", origin.to(torch.int64).expand(b, 2))
        self._check_maps()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _per_row(self, name: str, value: object) -> Tensor:
        b = self.clean.shape[0]
        tensor = torch.as_tensor(value, dtype=self.clean.dtype, device=self.clean.device)
        if tensor.ndim > 1 or (tensor.ndim == 1 and tensor.shape[0] != b):
            raise ValueError(f"{name}: expected a number or ({b},), got {tuple(tensor.shape)}")
        return tensor.expand(b)

    def _per_channel(self, name: str, value: object) -> Tensor:
        b, c = self.clean.shape[:2]
        tensor = torch.as_tensor(value, dtype=self.clean.dtype, device=self.clean.device)
        if tensor.ndim == 1:
            tensor = tensor[:, None]
        if tensor.ndim not in (0, 2) or (tensor.ndim == 2 and (tensor.shape[0] != b or tensor.shape[1] not in (1, c))):
            raise ValueError(f"{name}: expected a number, ({b},) or ({b}, {c}), got {tuple(tensor.shape)}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")
        return tensor.expand(b, c)

    def _check_cfa(self) -> None:
        names = (self.cfa,) if isinstance(self.cfa, str) or self.cfa is None else tuple(self.cfa)
        if isinstance(self.cfa, Sequence) and not isinstance(self.cfa, str):
            if len(names) != self.clean.shape[0]:
                raise ValueError(f"cfa: expected one name or {self.clean.shape[0]} of them, got {len(names)}")
            self._set("cfa", names[0] if len(set(names)) == 1 else names)
        for name in names:
            if name is not None and name not in CFA_PATTERNS:
                raise ValueError(f"cfa: expected one of {', '.join(CFA_PATTERNS)} or None, got {name!r}")

    def _check_maps(self) -> None:
        shape = tuple(self.clean.shape)
        b, _, h, w = shape
        expected: dict[str, tuple[int | None, ...]] = dict.fromkeys(_PIXEL_MAPS, shape)
        expected["srgb"] = (b, 3, 2 * h, 2 * w)
        expected["context"] = (b, None, h, w)
        for name, want in expected.items():
            value = getattr(self, name)
            if value is None:
                continue
            got = tuple(value.shape)
            if len(got) != 4 or any(e is not None and e != g for e, g in zip(want, got, strict=True)):
                raise ValueError(f"{name}: expected {want}, got {got}")
            if name != "context" and not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: expected finite values, got NaN or infinity")
            self._set(name, value.to(device=self.clean.device, dtype=self.clean.dtype))
        if self.gain is not None and not bool((self.gain > 0).all()):
            raise ValueError("gain: expected values > 0")
        if self.variance is not None and not bool((self.variance >= 0).all()):
            raise ValueError("variance: expected values >= 0")

    @classmethod
    def of(cls, clean: Tensor, *, camera: str | Sequence[str], iso: float | Tensor, **rest: Any) -> Shot:
        """Build a Shot from camera *names*: one for all rows, or one per row.

        Args:
            clean: `(B, C, H, W)`, linear units.
            camera: a camera's name, or B of them.
            iso: ISO, one number or `(B,)`.
            rest: any other attribute of `Shot`.
        """
        names = [camera] * clean.shape[0] if isinstance(camera, str) else list(camera)
        if len(names) != clean.shape[0]:
            raise ValueError(f"camera: expected one name or {clean.shape[0]} of them, got {len(names)}")
        cameras = tuple(dict.fromkeys(names)) or ("unknown",)
        index = torch.tensor([cameras.index(name) for name in names], dtype=torch.int64)
        return cls(clean=clean, iso=iso, camera=index, cameras=cameras, **rest)  # type: ignore[arg-type]

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Name of each row's camera, B of them."""
        return tuple(self.cameras[i] for i in self.camera.tolist())

    @property
    def patterns(self) -> tuple[str, ...]:
        """Colour filter pattern of each row, B of them.

        Raises:
            ValueError: it is not known of every row.
        """
        patterns = self.cfa if isinstance(self.cfa, tuple) else (self.cfa,) * len(self)
        known = tuple(pattern for pattern in patterns if pattern is not None)
        if len(known) < len(patterns):
            raise ValueError(
                "cfa: expected the colour filter pattern of every row, got None; the published raw models need to know "
                "where in the mosaic each channel lies"
            )
        return known

    def __len__(self) -> int:
        return self.clean.shape[0]

    def replace(self, **changes: Any) -> Shot:
        """The same shot with some attributes replaced; validated again."""
        return dataclasses.replace(self, **changes)

    def rows(self, index: int | slice | Sequence[int] | Tensor) -> Shot:
        """The shot of some rows only, in the given order; an int keeps the batch dimension."""
        chosen = torch.arange(len(self), device=self.clean.device)
        chosen = chosen[torch.as_tensor(index, device=chosen.device)] if not isinstance(index, slice) else chosen[index]
        chosen = chosen.reshape(-1)
        picked: dict[str, object] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            picked[field.name] = value[chosen] if isinstance(value, Tensor) else value
        if isinstance(self.cfa, tuple):
            picked["cfa"] = tuple(self.cfa[i] for i in chosen.tolist())
        return Shot(**picked)  # type: ignore[arg-type]

    def crop(self, top: int, left: int, height: int, width: int) -> Shot:
        """A rectangle of every row's image, with everything that belongs to its pixels; its origin moves along."""
        rows, columns = slice(top, top + height), slice(left, left + width)
        cut: dict[str, object] = {}
        for name in ("clean", *_PIXEL_MAPS, "context"):
            value = getattr(self, name)
            cut[name] = None if value is None else value[..., rows, columns]
        if self.srgb is not None:
            cut["srgb"] = self.srgb[..., 2 * top : 2 * (top + height), 2 * left : 2 * (left + width)]
        assert self.origin is not None
        return self.replace(**cut, origin=self.origin + torch.tensor([top, left], device=self.origin.device))

    def join(self, *others: Shot) -> Shot:
        """This shot's rows and then those of others, which name the same cameras in the same order."""
        shots = (self, *others)
        if any(shot.cameras != self.cameras for shot in shots):
            raise ValueError(f"join: expected shots that all name the cameras {self.cameras}")
        joined: dict[str, object] = {}
        for field in dataclasses.fields(self):
            values = [getattr(shot, field.name) for shot in shots]
            if isinstance(values[0], Tensor):
                joined[field.name] = torch.cat(values)
        names: list[str | None] = []
        for shot in shots:
            names += list(shot.cfa) if isinstance(shot.cfa, tuple) else [shot.cfa] * len(shot)
        return self.replace(**joined, cfa=tuple(names))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Shot:
        """The same shot on another device or in another floating-point dtype."""
        moved: dict[str, object] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            moved[field.name] = value
        return Shot(**moved)  # type: ignore[arg-type]
