"""The values that cross the pipe between the grader and a submission's process.

Arrays, NumPy scalars, numbers, bool, None, strings, tuples, lists, dicts and handles, as bytes that cannot execute code
when read: every value is a tag of one byte and what the tag says, every length is checked against the bytes that are
there before anything is allocated, and nesting, the number of values and the size of dicts are limited. Both sides use
this module; the child loads it by path, so it imports nothing but the standard library and NumPy.

A message is a header (a mark, the number of the call, the length of the rest) and values one after the other.

An array keeps its shape, its dtype (bool, int, uint, float16 to 64, complex; in the machine's byte order) and the
kind of its layout: C order, Fortran order, or strided. A strided one arrives as every second element of a larger
array, whatever its strides were.
"""

import math
import struct

import numpy as np

MARK = b"fbp1"
HEADER = struct.Struct("<4sIQ")  # the mark, the number of the call, the bytes that follow
DEPTH = 32  # lists in lists
VALUES = 100_000  # values in a message, those inside lists included
KEYS = 1_000  # entries of a dict. Few: a crafted dict of colliding keys takes quadratic time to build.
DIMENSIONS = 32
INT_BYTES = 64

DTYPES = tuple(map(np.dtype, ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")))
C_ORDER, FORTRAN, STRIDED = range(3)

# Own references, for the child: a submission may replace those in numpy's namespace.
_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
_ndarray, _generic, _frombuffer = np.ndarray, np.generic, np.frombuffer
_empty, _asarray, _contiguous = np.empty, np.asarray, np.ascontiguousarray
_uint8, _prod, _array_error = np.dtype("u1"), math.prod, ValueError
_TEXT, _FLOAT, _COMPLEX = struct.Struct("<cI"), struct.Struct("<cd"), struct.Struct("<cdd")
_ARRAY, _SCALAR, _SMALL, _NUMBER = (struct.Struct(f) for f in ("<cBBB", "<cB", "<cB", "<cQ"))
_SHAPES = tuple(struct.Struct(f"<{n}Q") for n in range(DIMENSIONS + 1))


class MessageError(ValueError):
    """A value that cannot cross, or bytes that are no message."""


class Handle:
    """Stands for a value that stays in the child."""

    __slots__ = ("number",)

    def __init__(self, number: int):
        self.number = number


class Opaque:
    """Stands for a value that could not cross: only its type's name did."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str):
        self.type_name = type_name

    def __repr__(self) -> str:
        return f"<{self.type_name}>"


class Writer:
    """Collects values; `message` gives the bytes. MessageError past `limit` bytes, before the bytes are copied.

    With `opaque`, a value that cannot cross becomes an Opaque; without, it is a MessageError.
    `handles` lists the handles met.
    """

    def __init__(self, limit: int, opaque: bool = False):
        self.parts: list = []
        self.handles: list[Handle] = []
        self.opaque, self.size = opaque, 0
        self._limit, self._values = limit, VALUES

    def message(self, number: int) -> bytes:
        return b"".join((HEADER.pack(MARK, number, self.size), *self.parts))

    def body(self) -> bytes:
        return b"".join(self.parts)

    def write(self, value, depth: int = 0) -> None:
        self._values -= 1
        if self._values < 0:
            raise MessageError(f"more than {VALUES} values")
        if depth > DEPTH:
            raise MessageError(f"nested deeper than {DEPTH} levels")
        writer = _WRITERS.get(type(value)) or _writer_of(value)
        if writer is None:
            if not self.opaque:
                raise MessageError(f"an object of type {type(value).__name__[:100]}")
            value, writer = Opaque(type(value).__name__[:100]), Writer._write_opaque
        writer(self, value, depth)

    def _add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size > self._limit:
            raise MessageError("too large")
        self.parts.append(part)

    def _write_none(self, value, depth) -> None:
        self._add(b"N")

    def _write_bool(self, value, depth) -> None:
        self._add(b"T" if value else b"F")

    def _write_int(self, value, depth) -> None:
        value = int(value)
        size = value.bit_length() // 8 + 1
        if size > INT_BYTES:
            raise MessageError(f"an integer of more than {INT_BYTES} bytes")
        self._add(_SMALL.pack(b"i", size) + value.to_bytes(size, "little", signed=True))

    def _write_float(self, value, depth) -> None:
        self._add(_FLOAT.pack(b"d", value))

    def _write_complex(self, value, depth) -> None:
        self._add(_COMPLEX.pack(b"c", value.real, value.imag))

    def _write_str(self, value, depth) -> None:
        text = value.encode("utf-8", "backslashreplace")
        self._add(_TEXT.pack(b"s", len(text)) + text)

    def _write_scalar(self, value, depth) -> None:
        value = _asarray(value)
        self._add(_SCALAR.pack(b"n", _code(value.dtype)) + value.astype(DTYPES[_code(value.dtype)]).tobytes())

    def _write_array(self, value, depth) -> None:
        value = _asarray(value)  # a subclass's array
        code, dtype = _code(value.dtype), value.dtype
        if value.ndim > DIMENSIONS:
            raise MessageError(f"an array of more than {DIMENSIONS} dimensions")
        if self.size + value.nbytes > self._limit:
            raise MessageError(f"an array of shape {value.shape}, {dtype}: too large")
        if not dtype.isnative:
            value = value.astype(DTYPES[code])
        flags = value.flags
        if flags.c_contiguous:
            layout, data = C_ORDER, value
        elif flags.f_contiguous:
            layout, data = FORTRAN, value.T
        else:
            layout, data = STRIDED, _contiguous(value)
        self._add(_ARRAY.pack(b"a", code, layout, value.ndim) + _SHAPES[value.ndim].pack(*value.shape))
        if value.size:
            self.size += value.nbytes
            self.parts.append(data.data)

    def _write_sequence(self, value, depth) -> None:
        tag = b"t" if isinstance(value, tuple) else b"l"
        self._add(_TEXT.pack(tag, len(value)))
        for item in value:
            self.write(item, depth + 1)

    def _write_dict(self, value, depth) -> None:
        if len(value) > KEYS:
            raise MessageError(f"a dict of more than {KEYS} entries")
        self._add(_TEXT.pack(b"m", len(value)))
        for key, item in value.items():
            if not isinstance(key, (str, int, float, type(None))):
                raise MessageError(f"a dict with a key of type {type(key).__name__[:100]}")
            self.write(key, depth + 1)
            self.write(item, depth + 1)

    def _write_handle(self, value, depth) -> None:
        self.handles.append(value)
        self._add(_NUMBER.pack(b"h", value.number))

    def _write_opaque(self, value, depth) -> None:
        text = value.type_name.encode("utf-8", "backslashreplace")
        self._add(_TEXT.pack(b"o", len(text)) + text)


_WRITERS = {
    type(None): Writer._write_none,
    bool: Writer._write_bool,
    int: Writer._write_int,
    float: Writer._write_float,
    complex: Writer._write_complex,
    str: Writer._write_str,
    np.ndarray: Writer._write_array,
    tuple: Writer._write_sequence,
    list: Writer._write_sequence,
    dict: Writer._write_dict,
    Handle: Writer._write_handle,
    Opaque: Writer._write_opaque,
}
_SUBCLASSES = tuple((kind, _WRITERS[kind]) for kind in (_ndarray, str, int, float, complex, tuple, list, dict, Handle))


def _writer_of(value):
    """The writer for a subclass of what can be written, as a named tuple, and for NumPy's scalars; None for others."""
    if isinstance(value, _generic) and value.dtype.kind in "biufc":
        return Writer._write_scalar
    for kind, writer in _SUBCLASSES:
        if isinstance(value, kind):
            return writer
    return None


def _code(dtype) -> int:
    code = _CODES.get(dtype)
    if code is None and dtype.kind in "biufc":
        code = _CODES.get(dtype.newbyteorder("="))
    if code is None:
        raise MessageError("an array of objects" if dtype.kind == "O" else f"an array of dtype {str(dtype)[:100]}")
    return code


class Reader:
    """Reads values from a message's body. MessageError for anything that Writer does not write.

    `handle` turns a handle's number into what stands for it.
    """

    def __init__(self, data, handle=Handle):
        self.data, self.position = memoryview(data), 0
        self._size, self._handle, self._values = len(self.data), handle, VALUES

    def end(self) -> None:
        if self.position != self._size:
            raise MessageError("bytes after the last value")

    def read(self, depth: int = 0):
        self._values -= 1
        if self._values < 0:
            raise MessageError(f"more than {VALUES} values")
        if depth > DEPTH:
            raise MessageError(f"nested deeper than {DEPTH} levels")
        if self.position >= self._size:
            raise MessageError("cut short")
        reader = _READERS.get(self.data[self.position])
        if reader is None:
            raise MessageError("an unknown tag")
        return reader(self, depth)

    def _take(self, layout: struct.Struct) -> tuple:
        start = self.position
        self.position = start + layout.size
        if self.position > self._size:
            raise MessageError("cut short")
        return layout.unpack_from(self.data, start)

    def _take_bytes(self, size: int) -> memoryview:
        start = self.position
        self.position = start + size
        if self.position > self._size:
            raise MessageError("cut short")
        return self.data[start : self.position]

    def _read_none(self, depth):
        self.position += 1

    def _read_true(self, depth):
        self.position += 1
        return True

    def _read_false(self, depth):
        self.position += 1
        return False

    def _read_int(self, depth):
        _, size = self._take(_SMALL)
        if size > INT_BYTES:
            raise MessageError(f"an integer of more than {INT_BYTES} bytes")
        return int.from_bytes(self._take_bytes(size), "little", signed=True)

    def _read_float(self, depth):
        return self._take(_FLOAT)[1]

    def _read_complex(self, depth):
        _, real, imaginary = self._take(_COMPLEX)
        return complex(real, imaginary)

    def _read_str(self, depth):
        try:
            return str(self._take_bytes(self._take(_TEXT)[1]), "utf-8")
        except UnicodeDecodeError:
            raise MessageError("a string that is not UTF-8") from None

    def _read_scalar(self, depth):
        dtype = self._dtype(self._take(_SCALAR)[1])
        data = self._take_bytes(dtype.itemsize)
        return _frombuffer(data, _uint8)[0] != 0 if dtype.kind == "b" else _frombuffer(data, dtype)[0]

    def _read_array(self, depth):
        _, code, layout, ndim = self._take(_ARRAY)
        dtype = self._dtype(code)
        if ndim > DIMENSIONS or layout > STRIDED:
            raise MessageError("an array of an unknown layout")
        shape = self._take(_SHAPES[ndim])
        start = self.position
        self.position = start + _prod(shape) * dtype.itemsize
        if self.position > self._size:
            raise MessageError("cut short")
        try:
            view = _ndarray(shape, dtype, self.data, start, None, "F" if layout == FORTRAN else "C")
            if dtype.kind == "b":
                view = _asarray(view.view(_uint8) != 0)  # other bytes than 0 and 1 are no valid bool
            if layout != STRIDED:
                return view.copy("K")
            array = _empty((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
            array[...] = view
            return array
        except (_array_error, OverflowError, IndexError, TypeError):
            raise MessageError(f"an array of shape {shape}") from None

    def _read_sequence(self, depth):
        tag, size = self._take(_TEXT)
        if size > self._size - self.position:
            raise MessageError("cut short")
        items = [self.read(depth + 1) for _ in range(size)]
        return tuple(items) if tag == b"t" else items

    def _read_dict(self, depth):
        _, size = self._take(_TEXT)
        if size > KEYS:
            raise MessageError(f"a dict of more than {KEYS} entries")
        result = {}
        for _ in range(size):
            key = self.read(depth + 1)
            if not isinstance(key, (str, int, float, type(None))):
                raise MessageError("a dict's key")
            result[key] = self.read(depth + 1)
        return result

    def _read_handle(self, depth):
        return self._handle(self._take(_NUMBER)[1])

    def _read_opaque(self, depth):
        return Opaque(self._read_str(depth))

    def _dtype(self, code: int) -> np.dtype:
        if code >= len(DTYPES):
            raise MessageError("an unknown dtype")
        return DTYPES[code]


_READERS = {
    ord(tag): reader
    for tag, reader in {
        "N": Reader._read_none,
        "T": Reader._read_true,
        "F": Reader._read_false,
        "i": Reader._read_int,
        "d": Reader._read_float,
        "c": Reader._read_complex,
        "s": Reader._read_str,
        "n": Reader._read_scalar,
        "a": Reader._read_array,
        "t": Reader._read_sequence,
        "l": Reader._read_sequence,
        "m": Reader._read_dict,
        "h": Reader._read_handle,
        "o": Reader._read_opaque,
    }.items()
}
