"""Numbers out of a pickled NPY file without unpickling it: nothing that the file names is ever imported or called.

A pickle is a program for a stack machine, and some of its instructions call what they name. This reader knows the
instructions that build numbers, text, lists and dictionaries, and understands six names (numpy's arrays, scalars
and types, and the text encoding that protocol 2 uses for bytes) itself; whatever else a file contains is an error.
"""

from __future__ import annotations

import itertools
import pickletools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from noiseflow.errors import UserError

_LARGEST = 1 << 20  # bytes: parameters of a camera take two thousand
_PARTS = 100_000
_MARK = object()
_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_OBJECTS = ("O", "O8")


class _Name(NamedTuple):
    """Something that the pickle names; it stays a name."""

    name: str


class _Type:
    """A numpy type: its letter and size, and its byte order."""

    def __init__(self, code: str) -> None:
        if code not in (*_TYPES, *_OBJECTS):
            raise ValueError(f"expected numbers, found the type {code!r}")
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"unknown byte order {order!r}")
        self.order = order

    def values(self, data: Any, shape: tuple[int, ...]) -> Any:
        """The numbers in bytes, or the one object in a list."""
        if self.code in _OBJECTS:
            if shape != () or not isinstance(data, list) or len(data) != 1:
                raise ValueError("expected one object, found an array of objects")
            return data[0]
        if not isinstance(data, bytes):
            raise ValueError("expected the bytes of an array")
        stored = np.dtype(self.order + self.code)
        return np.frombuffer(data, stored).reshape(shape).astype(stored.newbyteorder("="))


class _Array:
    """An array that is being built."""

    def __init__(self) -> None:
        self.value: Any = None

    def build(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        value = kind.values(data, shape[::-1] if fortran else shape)
        self.value = value.T if fortran and isinstance(value, np.ndarray) else value


def load_plain(path: Path | str) -> Any:
    """Read the one object of a pickled NPY file: numbers, text, arrays, lists and dictionaries of them.

    Raises:
        UserError: the file is missing, too large, damaged, or holds anything else; nothing of it was run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected a file, got none")
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path}: expected at most 1 MB of parameters, got {path.stat().st_size} bytes")
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            _, _, kind = read(file)
            if not kind.hasobject:
                raise ValueError("its array holds plain numbers, no dictionary")
            return _plain(_run(file.read()))
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, RecursionError) as error:
        raise UserError(f"{path}: expected pickled numbers, found something else; nothing was run ({error})") from error


def _run(code: bytes) -> Any:
    """Go through the instructions; what they would call is understood here or refused."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        at = len(stack) - 1 - next(i for i, one in enumerate(reversed(stack)) if one is _MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for opcode, argument, _ in pickletools.genops(code):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BYTEARRAY8":
                stack.append(bytes(_of(argument, (bytes, bytearray))))
            case "BINPUT" | "LONG_BINPUT":
                memo[int(str(argument))] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[int(str(argument))])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[opcode.name])
            case "TUPLE":
                stack.append(tuple(marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "APPEND":
                item = stack.pop()
                _of(stack[-1], list).append(item)
            case "APPENDS":
                items = marked()
                _of(stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _of(stack[-1], dict)[_of(key, str)] = value
            case "SETITEMS":
                items = marked()
                _of(stack[-1], dict).update(zip(map(_text, items[::2]), items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_Name(str(argument)))
            case "STACK_GLOBAL":
                name, module = _of(stack.pop(), str), _of(stack.pop(), str)
                stack.append(_Name(f"{module} {name}"))
            case "REDUCE":
                arguments, name = stack.pop(), stack.pop()
                stack.append(_made(_of(name, _Name), _of(arguments, tuple)))
            case "BUILD":
                state = stack.pop()
                if not isinstance(stack[-1], (_Type, _Array)):
                    raise ValueError("it sets the state of an object that is no array")
                stack[-1].build(state)
            case other:
                raise ValueError(f"the instruction {other} is not one that numbers need")
    raise ValueError("it ends early")


def _made(name: _Name, arguments: tuple[Any, ...]) -> Any:
    """What the known names make of their arguments."""
    match name.name.replace("numpy._core", "numpy.core"):
        case "numpy.core.multiarray _reconstruct" if arguments[0] == _Name("numpy ndarray"):
            return _Array()
        case "numpy dtype":
            return _Type(_of(arguments[0], str))
        case "numpy.core.multiarray scalar":
            return _of(arguments[0], _Type).values(arguments[1], ()).item()
        case "numpy.core.numeric _frombuffer":
            data, kind, shape, order = arguments
            array = _Array()
            array.build((1, shape, _of(kind, _Type), order == "F", data))
            return array
        case "_codecs encode" if arguments[1:] == ("latin1",):
            return _of(arguments[0], str).encode("latin1")
        case other:
            raise ValueError(f"it calls {other!r}")


def _of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"an unexpected {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    return str(_of(value, str))


def _plain(value: Any, count: itertools.count[int] | None = None) -> Any:
    """The finished object, with arrays in place of what built them.

    Lists that share one list again and again are small in a file and endless when they are written out: counted.
    """
    count = itertools.count() if count is None else count
    if next(count) > _PARTS:
        raise ValueError(f"it holds more than {_PARTS} parts")
    if isinstance(value, _Array):
        return _plain(value.value, count)
    if isinstance(value, dict):
        return {key: _plain(one, count) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, count) for one in value]
    if value is None or isinstance(value, (bool, int, float, str, np.ndarray)):
        return value
    raise ValueError("it holds more than numbers and text")
