"""Reading pickles of plain data, as CIFAR-10's Python version is made of, without ever running what they say.

A pickle is a little program. Python's unpickler carries it out, and with it any function that the file names. Here the
standard library only takes the file apart into operations. Those that build numbers, bytes, texts, lists, tuples and
dictionaries are carried out; a call of one of the few names that NumPy's arrays need makes a `Call`, a note of what was
to be called, from which `array` takes the numbers. Nothing is imported, looked up or called, and every other name or
operation is an error.
"""

import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError

MOST_BYTES = 1 << 26  # a batch of CIFAR-10 has 31 million
MOST_OPERATIONS = 1 << 18  # and 30,000 of these; each makes at most one small object
RECONSTRUCT, FROM_BUFFER = "numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer"
NAMES = {"numpy.ndarray", "numpy.dtype", RECONSTRUCT, FROM_BUFFER, "_codecs.encode"}
DAMAGED = (ValueError, LookupError, TypeError, OverflowError, Warning)  # a warning about a text, made an error

# The operations of pickletools that stand for what they carry
NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
TEXTS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
VALUES = NUMBERS | TEXTS | BYTES
STRINGS = {"STRING", "SHORT_BINSTRING", "BINSTRING"}  # Python 2's str, which is bytes
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
GETS = {"GET", "BINGET", "LONG_BINGET"}


@dataclass(frozen=True)
class Name:
    """The name of a function or class; nothing but the name."""

    text: str


@dataclass
class Call:
    """What a file wants to have called, and the state that the result is to get; never called."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


def read_pickle(data: bytes | bytearray, where: object) -> Any:
    """The value in a pickle of plain data; texts of Python 2 are bytes.

    DataError, which begins with `where`, for data that is no whole pickle, or holds anything but numbers, bytes, texts,
    lists, tuples, dictionaries and NumPy arrays.
    """
    if len(data) > MOST_BYTES:
        raise DataError(f"{where}: expected a pickle of at most {MOST_BYTES} bytes, found more")
    try:
        return _value(data)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except DAMAGED as error:
        raise DataError(f"{where}: expected a whole pickle, found it damaged ({error})") from error


def _value(data: bytes | bytearray) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # what lies under each mark
    memo: dict[int, Any] = {}
    left = MOST_BYTES  # that calls may make out of what the file holds once
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if count == MOST_OPERATIONS:
            raise DataError(f"expected a pickle of at most {MOST_OPERATIONS} operations, found more")
        match operation.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in VALUES:
                stack.append(argument)
            case name if name in STRINGS:
                stack.append(argument.encode("latin-1"))
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case name if name in PUTS:
                memo[argument] = stack[-1]
            case name if name in GETS:
                stack.append(memo[argument])
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "MARK":
                below.append(stack)
                stack = []
            case "LIST" | "TUPLE" | "DICT" | "APPENDS" | "SETITEMS" as name:
                items, stack = stack, below.pop()
                if name == "LIST":
                    stack.append(items)
                elif name == "TUPLE":
                    stack.append(tuple(items))
                elif name == "APPENDS":
                    _only(list, stack[-1]).extend(items)
                else:
                    stack.extend([{}] if name == "DICT" else [])
                    _set(stack[-1], items)
            case name if name in TUPLES:
                items = [stack.pop() for _ in range(TUPLES[name])]
                stack.append(tuple(reversed(items)))
            case "APPEND":
                item = stack.pop()
                _only(list, stack[-1]).append(item)
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                _set(stack[-1], [key, item])
            case "GLOBAL":
                stack.append(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_name(_only(str, module), _only(str, name)))
            case "REDUCE":
                arguments, name = _only(tuple, stack.pop()), _only(Name, stack.pop())
                made = _called(name.text, arguments)
                left -= len(made) if isinstance(made, bytes) else 0
                if left < 0:
                    raise DataError(f"expected at most {MOST_BYTES} bytes in a pickle, found more")
                stack.append(made)
            case "BUILD":
                state = stack.pop()
                _only(Call, stack[-1]).state = state
            case name:
                raise DataError(f"expected plain data, found the operation {name}; nothing of it was run")
    raise ValueError("no end")


def _called(name: str, arguments: tuple[Any, ...]) -> bytes | Call:
    match name, arguments:
        case "_codecs.encode", (str() as characters, "latin1"):  # bytes, as Python 3 writes them in protocol 2
            return characters.encode("latin-1")
    return Call(name, arguments)


def _only(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {kind.__name__} belongs where a {type(value).__name__} is")
    return value


def _set(target: Any, items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, bytes, int):  # hashing deep tuples could take for ever, or end Python
            raise TypeError(f"a key is a {type(key).__name__}")
        _only(dict, target)[key] = value


def _name(module: str, name: str) -> Name:
    full = f"{module}.{name}"
    if full.startswith("numpy._core."):  # NumPy 2's name of numpy.core
        full = "numpy.core." + full.removeprefix("numpy._core.")
    if full not in NAMES:
        raise DataError(f"expected plain data, found the name {full[:80]!r}; nothing of it was run")
    return Name(full)


def array(value: Any, what: str) -> np.ndarray:
    """The array of integers that a value out of read_pickle stands for, read-only.

    DataError, which begins with `what`, for anything else, and for a size that is wrong.
    """
    match value:
        case Call(name, (Name("numpy.ndarray"), _, _), (int(), shape, kind, fortran, content)) if name == RECONSTRUCT:
            order = "F" if fortran else "C"
        case Call(name, (content, kind, shape, order), None) if name == FROM_BUFFER:
            pass
        case _:
            raise DataError(f"{what}: expected an array of integers, found something else")
    dtype = _dtype(kind)
    if dtype is None or type(content) not in (bytes, bytearray) or order not in ("C", "F"):
        raise DataError(f"{what}: expected an array of integers, found another kind")
    if type(shape) is not tuple or len(shape) > 2 or not all(type(size) is int and 0 < size < 2**31 for size in shape):
        raise DataError(f"{what}: expected an array of one or two dimensions of at least one element, found another")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise DataError(f"{what}: expected an array of shape {shape}, found {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _dtype(value: Any) -> np.dtype | None:
    """The dtype that a call stands for, if it is one of integers."""
    match value:
        case Call("numpy.dtype", (code, _, _), (int(), order, None, None, None, *_)):
            code, order = text(code), text(order)
            if code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8") and order in ("|", "<", ">", "="):
                return np.dtype(order + code)
    return None


def text(value: Any) -> str | None:
    """A text out of read_pickle, whichever Python wrote it; None for anything else."""
    match value:
        case str():
            return value
        case bytes():
            return value.decode("utf-8", "replace")
    return None
