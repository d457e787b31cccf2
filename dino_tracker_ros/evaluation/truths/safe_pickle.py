"""Reads pickles of NumPy arrays and plain containers, and cannot run what a pickle says.

A pickle is a program for a stack machine whose instructions call any function it names. Here is
such a machine without that power: what a pickle names stays a name, and the few calls that
arrays are made of are looked up in a table of our own. Nothing of a pickle reaches
`object.__reduce__`, `__setstate__` or NumPy's own unpickling, which trusts its input.

Read are protocols 2 to 5, written by Python 2 (its strings as latin-1) or 3, with NumPy 1 or 2.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruthError


class _RefusedError(Exception):
    """The pickle asks for more than data."""


def load_plain(stream: IO[bytes], source: object) -> Any:
    """Numbers, strings, bytes, lists, tuples, dicts, NumPy arrays and scalars from a pickle.

    Arrays share the memory of what was read and cannot be written to.

    Args:
        stream: a pickle; read up to its end mark.
        source: its name, for the message.

    Raises:
        GroundTruthError: the pickle is damaged, or holds anything else. Nothing was run.
    """
    try:
        return _plain(_interpret(stream), {})
    except _RefusedError as error:
        raise GroundTruthError(f"'{source}' {error}") from None
    except MemoryError:
        raise GroundTruthError(f"'{source}' asks for more memory than there is") from None
    except RecursionError:
        raise GroundTruthError(f"'{source}' is nested too deeply to be read") from None
    except Exception as error:  # a damaged pickle may trip over anything
        raise GroundTruthError(f"'{source}' is not a whole pickle: {error}") from error


# What stands for arrays while the pickle is read ----------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle may mention."""

    text: str


class _Dtype:
    """numpy.dtype(code, align, copy), then told its byte order."""

    _CODE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,9}")

    def __init__(self, code: str, align: object = False, copy: object = True) -> None:
        if type(code) is not str or not self._CODE.fullmatch(code):
            raise _RefusedError(
                f"holds an array of dtype {code!r}: only truth values, numbers and strings are read"
            )
        self.value = np.dtype(code)

    def set_state(self, state: Any) -> None:
        _, order, subdtype, names, fields = state[:5]
        if subdtype is not None or names is not None or fields is not None:
            raise _RefusedError("holds an array of records: only plain arrays are read")
        if order not in ("<", ">", "=", "|"):
            raise _RefusedError(f"holds an array of byte order {order!r}")
        self.value = self.value.newbyteorder(order)


class _Array:
    """An array that is made empty, then told its content."""

    value: NDArray[Any] | None = None

    def set_state(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    if type(data) is str:  # Python 2
        data = data.encode("latin-1")
    if not isinstance(dtype, _Dtype) or type(data) not in (bytes, bytearray):
        raise _RefusedError("holds an array that is not made of plain bytes")
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        raise _RefusedError(f"holds an array of shape {shape!r}")
    if len(data) != math.prod(shape) * dtype.value.itemsize:
        raise _RefusedError(f"has {len(data)} bytes for an array {dtype.value} {shape}")
    if dtype.value == np.bool_:  # bytes other than 0 and 1 make no truth values
        return np.ndarray(shape, np.uint8, data, order="F" if order == "F" else "C") != 0
    return np.ndarray(shape, dtype.value, data, order="F" if order == "F" else "C")


# The calls that a pickle may make -------------------------------------------------------------


def _reconstruct(kind: Any, shape: object, code: object) -> _Array:
    if kind != _Name("numpy.ndarray"):
        raise _RefusedError("calls numpy.core.multiarray._reconstruct for something but an array")
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    array.value = _array(data, dtype, shape, order)
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"calls _codecs.encode with {encoding!r}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encode,  # how protocol 2 writes bytes
    "builtins.bytes": _no_bytes,
}
_NAMES = {*_CALLS, "numpy.ndarray"}


def _name(module: Any, attribute: Any) -> _Name:
    text = f"{module}.{attribute}"
    old = text.replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins.")
    if old not in _NAMES:
        raise _RefusedError(
            f"holds {text}: only NumPy arrays and plain containers are read, because other "
            "classes could run code"
        )
    return _Name(old)


def _kind(value: object) -> str:
    """What something is called in a message."""
    names = {_Array: "an unfinished array", _Dtype: "numpy.dtype"}
    return value.text if isinstance(value, _Name) else names.get(type(value), type(value).__name__)


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Name) or function.text not in _CALLS:
        raise _RefusedError(f"calls {_kind(function)}")
    if type(arguments) is not tuple:
        raise _RefusedError(f"calls {function.text} without arguments")
    return _CALLS[function.text](*arguments)


# The machine ----------------------------------------------------------------------------------

_PUSH_ARGUMENT = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_PUSH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_STARTS = [("PROTO", version) for version in range(2, 6)]
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpret(stream: IO[bytes]) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_from(start: int) -> list[Any]:
        if not 0 <= start <= len(stack):
            raise _RefusedError("takes more from its stack than it put there")
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, position in pickletools.genops(stream):
        name = opcode.name
        if position == 0 and (name, argument) not in _STARTS:
            raise _RefusedError("is not a pickle of protocol 2 to 5")
        if name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _PUSH:
            stack.append(_PUSH[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _TUPLES:
            stack.append(tuple(pop_from(len(stack) - _TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(pop_from(marks.pop())))
        elif name in ("APPEND", "APPENDS"):
            items = pop_from(len(stack) - 1 if name == "APPEND" else marks.pop())
            _target(stack, list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = pop_from(len(stack) - 2 if name == "SETITEM" else marks.pop())
            _target(stack, dict).update(zip(items[::2], items[1::2]))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_name(*pop_from(len(stack) - 2)))
        elif name == "REDUCE":
            stack.append(_call(*pop_from(len(stack) - 2)))
        elif name == "BUILD":
            (state,) = pop_from(len(stack) - 1)
            if not isinstance(stack[-1], (_Array, _Dtype)):
                raise _RefusedError(f"sets the state of {_kind(stack[-1])}")
            stack[-1].set_state(state)
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise _RefusedError(
                f"uses the pickle instruction {name}, which arrays and plain containers do not need"
            )
    raise AssertionError("genops ends with STOP or raises")


def _target(stack: list[Any], kind: type[Any]) -> Any:
    if type(stack[-1]) is not kind:
        raise _RefusedError(f"adds items to {_kind(stack[-1])}")
    return stack[-1]


_READING = object()


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with its stand-ins replaced. `done` holds results by the id of what was read."""
    if value is None or isinstance(value, (bool, int, float, str, bytes, np.generic)):
        return value
    if id(value) in done:
        if done[id(value)] is _READING:
            raise _RefusedError("holds a container that contains itself")
        return done[id(value)]
    done[id(value)] = _READING
    result: Any
    if isinstance(value, _Array) and value.value is not None:
        result = value.value
    elif isinstance(value, (list, tuple)):
        result = type(value)(_plain(item, done) for item in value)
    elif isinstance(value, dict):
        result = {_plain(key, done): _plain(item, done) for key, item in value.items()}
    else:
        raise _RefusedError(f"holds {_kind(value)} where data should be")
    done[id(value)] = result
    return result
