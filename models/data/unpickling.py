"""Reads pickles of plain values and NumPy arrays; no function or class that a file names is ever looked up.

Official archives come as pickles. What they name of NumPy is replaced by `Kept` objects, which hold what they are given
and do nothing with it; `numbers` and `values` then make arrays and lists of them, after checking every part.
"""

import math
import re
from pathlib import Path
from pickle import Unpickler
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import UserError

Scalar = str | int | float | None


class Kept:
    """Stands in for something of NumPy that a pickle names: keeps what it is given and does nothing with it."""

    arguments: tuple[object, ...] = ()
    state: object = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class KeptArray(Kept):
    """`numpy.core.multiarray._reconstruct`; the state is version, shape, type, whether columns come first, contents."""


class KeptBuffer(Kept):
    """`numpy.core.numeric._frombuffer` of protocol 5; the arguments are contents, type, shape, memory order."""


class KeptType(Kept):
    """`numpy.dtype`; the arguments begin with the code, the state has the byte order in second place."""


class KeptScalar(Kept):
    """`numpy.core.multiarray.scalar`; the arguments are type and contents."""


class _Encode:
    """`_codecs.encode`, by which Python 3 writes bytes in the old pickle protocols; `bytes`, called without arguments,
    is how it writes none of them."""

    __slots__ = ()

    def __call__(self, text: str = "", encoding: str = "latin1") -> bytes:
        if encoding != "latin1":
            raise ValueError(f"bytes are encoded as {encoding!r} instead of latin1")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise ValueError("a function is given a state")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Kept,
    ("numpy", "dtype"): KeptType,
    ("_codecs", "encode"): _Encode(),
    ("__builtin__", "bytes"): _Encode(),
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = KeptArray
    _ADMITTED[f"{_core}.multiarray", "scalar"] = KeptScalar
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = KeptBuffer


class _PlainUnpickler(Unpickler):
    """Reads plain values and `Kept` objects."""

    def __init__(self, stream: IO[bytes], path: Path, what: str) -> None:
        super().__init__(stream, encoding="bytes")
        self.path, self.what = path, what

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            asked = f"{module}.{name}"
            raise UserError(
                f"{self.path}: asks for {asked!r}, which no {self.what} file needs and which may run code, so "
                "nothing was; download it again from a place you trust"
            )
        return _ADMITTED[module, name]


def load_plain(stream: IO[bytes], path: Path, what: str) -> Any:
    """The value of a pickle: plain values, and `Kept` objects in the place of NumPy's. Strings of Python 2 are bytes.

    `path` and `what`, the kind of file, are for the errors. Raises UserError for a pickle that names anything else, is
    malformed or is cut short.
    """
    try:
        return _PlainUnpickler(stream, path, what).load()
    except UserError:
        raise
    except Exception as error:  # a malformed pickle can raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: is no pickle of {what} or is cut short ({reason}); download it again") from None


def numbers(value: object) -> NDArray[Any]:
    """The array of numbers or strings that a pickled value is, as a view of its bytes, so possibly read-only.

    Raises ValueError for anything else, an array of objects among it.
    """
    order: Literal["C", "F"]
    match value:
        case KeptArray(state=(_, tuple(shape), KeptType() as kind, bool(columns_first), bytes(contents))):
            order = "F" if columns_first else "C"
        case KeptBuffer(
            arguments=(bytes() | bytearray() as contents, KeptType() as kind, tuple(shape), "C" | "F" as order)
        ):
            pass
        case _:
            raise ValueError("is no array of numbers")
    dtype = _dtype(kind)
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError("is an array whose shape is malformed")
    if math.prod(shape) * dtype.itemsize != len(contents):
        raise ValueError(f"is an array of shape {shape} and type {dtype} in {len(contents)} bytes")
    return np.frombuffer(contents, dtype).reshape(shape, order=order)


def _dtype(kind: KeptType) -> np.dtype[Any]:
    code = _text(kind.arguments[0] if kind.arguments else None)
    order = _text(kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "|")
    if not re.fullmatch(r"[biuf][1248]|[US][1-9]\d{0,5}", code) or order not in ("<", ">", "|", "="):
        raise ValueError(f"is an array of type {order + code!r} instead of numbers")
    try:
        return np.dtype(order + code)
    except TypeError:
        raise ValueError(f"is an array of type {order + code!r} instead of numbers") from None


def _text(value: object) -> str:
    """A string, which Python 2 wrote as bytes; ValueError for anything else."""
    match value:
        case str():
            return value
        case bytes():
            return value.decode()  # a UnicodeDecodeError is a ValueError
        case _:
            raise ValueError(f"is of type {type(value).__name__} instead of a string")


def values(value: object) -> list[Scalar]:
    """The plain values of a pickled list, tuple or 1-D array, of objects too. Raises ValueError for anything else."""
    match value:
        case list() | tuple():
            return [_scalar(item) for item in value]
        case KeptArray(state=(_, (int(count),), KeptType(arguments=("O" | "O8" | b"O" | b"O8", *_)), _, list(items))):
            if len(items) != count:
                raise ValueError(f"is an array of {count} objects that holds {len(items)}")
            return [_scalar(item) for item in items]
        case _:
            array = numbers(value)
            if array.ndim != 1:
                raise ValueError(f"is an array of shape {array.shape} instead of one dimension")
            return [_scalar(item) for item in array.tolist()]


def _scalar(value: object) -> Scalar:
    match value:
        case None | str() | int() | float():
            return value
        case bytes():
            return value.decode()
        case KeptScalar(arguments=(KeptType() as kind, bytes(contents))):
            dtype = _dtype(kind)
            if len(contents) != dtype.itemsize:
                raise ValueError(f"is a number of type {dtype} in {len(contents)} bytes")
            return _scalar(np.frombuffer(contents, dtype)[0].item())
        case _:
            raise ValueError(f"holds a {type(value).__name__}; expected plain strings and numbers")
