"""Hostile values for the fuzzer: of every kind, and nearly right ones made from a good one."""

import array
import contextlib
import decimal
import enum
import fractions
import functools
import io
import pathlib
import random
import tempfile
import warnings
from collections.abc import Callable

import numpy as np
from fuzz_good import floats, network, nothing

import fastbp
from fastbp import graph, sweeps


class Broken:
    """An object whose special methods fail."""

    def _fail(self, *arguments, **options):
        raise ZeroDivisionError("broken on purpose")

    __repr__ = __str__ = __len__ = __iter__ = __array__ = __index__ = __float__ = __int__ = __bool__ = _fail
    __getitem__ = __fspath__ = __contains__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = _fail
    __mul__ = __format__ = _fail
    __hash__ = object.__hash__


class BrokenRepr:
    def __repr__(self):
        raise ZeroDivisionError("broken on purpose")


class Lengthy:
    """A sequence that says it is longer than it is."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise KeyError(index)


class ArrayOf:
    """What NumPy takes for an array: of objects, or of the wrong size."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value)


class Sub(np.ndarray):
    """A subclass of the array that changes nothing."""


class Color(enum.Enum):
    RED = 1


class OwnLayer(fastbp.Layer):
    """A layer without forward."""


class OwnLoss(fastbp.Loss):
    """A loss without forward."""


VALUES: list[tuple[str, Callable[[], object]]] = [
    ("None", lambda: None),
    ("Ellipsis", lambda: ...),
    ("NotImplemented", lambda: NotImplemented),
    ("object()", object),
    *((repr(v), lambda v=v: v) for v in (True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**32, 2**63, -(2**63), 10**30)),
    *(
        (repr(v), lambda v=v: float(v))
        for v in ("nan", "inf", "-inf", "-0.0", "0.5", "1.5", "-1.5", "1e308", "5e-324", "3.0")
    ),
    *((repr(v), lambda v=v: v) for v in (1j, complex("nan"), 2 + 0j)),
    *((ascii(v), lambda v=v: v) for v in ("", "a", "0.1", "3", "nan", "relu", "\ud800", "a\0b", "None", "ä/ö", "~")),
    # -- no name of a folder outside of the one that the fuzzer works in: doors that write would write there
    ("a long str", lambda: "x" * 5000),
    *(
        (repr(v), lambda v=v: v)
        for v in (b"", b"3", b"\xff", (), (1,), (1, 2), (1, 2, 3), (-1, -1), (2.0, 3.0), ("a", "b"))
    ),
    ("(2**63, 2**63)", lambda: (2**63, 2**63)),
    ("(2**31, 2**31)", lambda: (2**31, 2**31)),
    ("(10**30,)", lambda: (10**30,)),
    ("bytearray", lambda: bytearray(b"abc")),
    ("memoryview", lambda: memoryview(b"abc")),
    ("array.array", lambda: array.array("d", [1.0, 2.0])),
    *((repr(v), lambda v=v: type(v)(v)) for v in ([], [1], [1.0, 2.0], ["a"], [None], [[1, 2], [3]], [[[]]], [[1], 2])),
    ("[nan]", lambda: [float("nan")]),
    ("a deep list", lambda: functools.reduce(lambda inner, _: [inner], range(100), 0)),
    ("a list in itself", lambda: (lambda a: a.append(a) or a)([])),
    *((repr(v), lambda v=v: type(v)(v)) for v in ({}, {"a": 1}, {1: 2}, {None: None})),
    ("set()", set),
    ("{1, 2}", lambda: {1, 2}),
    ("frozenset", lambda: frozenset([1])),
    ("a generator", lambda: (i for i in range(3))),
    ("an iterator", lambda: iter([1, 2])),
    ("range(3)", lambda: range(3)),
    ("range(10**12)", lambda: range(10**12)),
    ("slice", lambda: slice(0, 2)),
    ("int", lambda: int),
    ("object", lambda: object),
    ("np.ndarray", lambda: np.ndarray),
    ("fastbp.ReLU", lambda: fastbp.ReLU),
    ("fastbp.SGD", lambda: fastbp.SGD),
    ("ReLU()", fastbp.ReLU),
    ("OwnLayer()", OwnLayer),
    ("OwnLoss()", OwnLoss),
    ("Optimizer(0.1)", lambda: fastbp.Optimizer(0.1)),
    ("a network", network),
    ("a lambda", lambda: lambda *arguments, **options: None),
    ("a function", lambda: nothing),
    ("a module", lambda: np),
    ("Decimal", lambda: decimal.Decimal("0.1")),
    ("Decimal(nan)", lambda: decimal.Decimal("nan")),
    ("Decimal(snan)", lambda: decimal.Decimal("snan")),
    ("Fraction", lambda: fractions.Fraction(1, 3)),
    ("a large Fraction", lambda: fractions.Fraction(10**400, 3)),
    ("an Enum", lambda: Color.RED),
    ("an exception", lambda: ValueError("a")),
    ("a Path", lambda: pathlib.Path("nowhere")),
    ("a file", lambda: io.BytesIO(b"abc")),
    ("Broken()", Broken),
    ("BrokenRepr()", BrokenRepr),
    ("Lengthy()", Lengthy),
    ("a TensorNode", lambda: graph.TensorNode(floats(4, 3))),
    ("a sweeps.Run", lambda: sweeps.Run({}, None, 0.0)),
    *(
        (f"np.{t.__name__}", t)
        for t in (np.bool_, np.int8, np.uint64, np.float16, np.float32, np.float64, np.longdouble)
    ),
    ("np.complex64", np.complex64),
    ("np.float32(nan)", lambda: np.float32("nan")),
    ("np.uint64(2**64 - 1)", lambda: np.uint64(2**64 - 1)),
    ("np.str_", lambda: np.str_("a")),
    ("np.bytes_", lambda: np.bytes_(b"a")),
    ("np.void", lambda: np.void(b"abc")),
    ("np.datetime64", lambda: np.datetime64("2020-01-01")),
    ("NaT", lambda: np.datetime64("NaT")),
    ("np.timedelta64", lambda: np.timedelta64(1, "s")),
    ("a dtype", lambda: np.dtype("float16")),
    ("a structured dtype", lambda: np.dtype([("a", "f4")])),
    *(
        (f"np.{name}", make)
        for name, make in {
            "array(1.0)": lambda: np.array(1.0),
            "array('a')": lambda: np.array("a"),
            "zeros(0)": lambda: np.zeros(0),
            "zeros((0, 3))": lambda: np.zeros((0, 3), np.float32),
            "zeros((3, 0))": lambda: np.zeros((3, 0), np.float32),
            "zeros(1)": lambda: np.zeros(1, np.float32),
            "zeros((1,) * 32)": lambda: np.zeros((1,) * 32, np.float32),
            "zeros((2**31, 0))": lambda: np.zeros((2**31, 0), np.float32),
            "broadcast (10**7, 3)": lambda: np.broadcast_to(np.float32(1), (10**7, 3)),
            "arange(4)": lambda: np.arange(4),
            "an object array": lambda: np.array([None, "a", 1], object),
            "a ragged array": lambda: np.array([[1, 2], [3]], object),
            "a structured array": lambda: np.zeros(3, [("a", "f4"), ("b", "i4")]),
            "dates": lambda: np.array(["2020-01-01"] * 4, "M8[D]"),
            "a recarray": lambda: np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        }.items()
    ),
]


def unaligned(good: np.ndarray) -> np.ndarray:
    raw = np.zeros(good.nbytes + 1, np.uint8)[1:]
    copy = raw.view(good.dtype).reshape(good.shape)
    copy[...] = good
    return copy


def read_only(good: np.ndarray) -> np.ndarray:
    copy = good.copy()
    copy.flags.writeable = False
    return copy


def memmap(good: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        copy = np.memmap(file, good.dtype, "w+", shape=good.shape or (1,))
    copy[...] = good
    return copy


def with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(good):
        copy = good.copy()
        copy.flat[:1] = value
        return copy

    return change


OF_ARRAYS: list[tuple[str, Callable[[np.ndarray], object]]] = [
    *(
        (f"as {name}", lambda a, name=name: a.astype(name))
        for name in ("bool", "int8", "int64", "uint64", "float16", "float32")
    ),
    *((f"as {name}", lambda a, name=name: a.astype(name)) for name in ("float64", "longdouble", "complex64", "U", "S")),
    *((f"as {name}", lambda a, name=name: a.astype(name)) for name in (object, ">f4", ">f8", ">i8")),
    *((f"with {v}", with_one(v)) for v in (-1, 1e30, 100)),
    ("with nan", lambda a: a if a.dtype.kind != "f" else with_one(np.nan)(a)),
    ("with inf", lambda a: a if a.dtype.kind != "f" else with_one(np.inf)(a)),
    ("all nan", lambda a: np.full_like(a, np.nan) if a.dtype.kind == "f" else a),
    ("masked", lambda a: np.ma.masked_array(a, np.zeros(a.shape, bool))),
    ("masked in part", lambda a: np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) % 2)),
    ("a matrix", lambda a: np.matrix(a.reshape(len(a), -1) if a.ndim else a)),
    ("a subclass", lambda a: a.view(Sub)),
    ("a memmap", memmap),
    ("a read-only one", read_only),
    ("an unaligned one", unaligned),
    ("a Fortran one", np.asfortranarray),
    ("reversed", lambda a: a[::-1] if a.ndim else a),
    ("every second", lambda a: np.repeat(a, 2, axis=0)[::2] if a.ndim else a),
    ("broadcast", lambda a: np.broadcast_to(a.flat[0], a.shape)),
    ("transposed", lambda a: a.T),
    ("a list", lambda a: a.tolist()),
    ("a list of arrays", list),
    ("an __array__", ArrayOf),
    ("one axis more", lambda a: a[..., None]),
    ("flat", lambda a: a.reshape(-1)),
    ("shorter", lambda a: a[:-1] if a.ndim else a),
    ("longer", lambda a: np.concatenate([a, a]) if a.ndim else a),
    ("empty", lambda a: a[:0] if a.ndim else a),
    ("one", lambda a: a[:1] if a.ndim else a),
    ("narrower", lambda a: a[..., :-1] if a.ndim else a),
    ("wider", lambda a: np.concatenate([a, a], axis=-1) if a.ndim else a),
    ("structured", lambda a: np.zeros(a.shape, [("a", a.dtype)])),
    ("void", lambda a: np.ascontiguousarray(a).view(f"V{a.itemsize}") if a.size else a),
]
OF_NUMBERS: list[tuple[str, Callable[[float], object]]] = [
    ("as str", str),
    ("as bytes", lambda v: str(v).encode()),
    ("as np.str_", lambda v: np.str_(str(v))),
    ("as Decimal", lambda v: decimal.Decimal(str(v))),
    ("as Fraction", lambda v: fractions.Fraction(v)),
    ("as float", float),
    ("as complex", complex),
    ("as np.float16", np.float16),
    ("as np.longdouble", np.longdouble),
    ("as np.int64", np.int64),
    ("as a 0-d array", np.array),
    ("as an array", lambda v: np.array([v])),
    ("as a list", lambda v: [v]),
    ("as a pair", lambda v: (v, v)),
    ("negative", lambda v: -v),
    ("large", lambda v: v * 1e300),
    ("as bool", bool),
]
OF_SEQUENCES: list[tuple[str, Callable[[list], object]]] = [
    ("as a list", list),
    ("as a tuple", tuple),
    ("as an array of objects", lambda v: np.array([*v, None], object)[:-1]),
    ("as a generator", lambda v: (x for x in list(v))),
    ("as a dict", lambda v: dict(enumerate(v))),
    ("backwards", lambda v: v[::-1]),
    ("one more", lambda v: [*v, *v[:1]]),
    ("one less", lambda v: v[:-1]),
    ("twice", lambda v: [*v, *v]),
    ("nested", lambda v: [v]),
    ("a pair of it", lambda v: (v, v)),
]
OF_ITEMS = ("an item", "the last item")  # of a sequence or a dictionary: replaced by a hostile value of its own


def variants(good) -> list[tuple[str, Callable[[], object]]]:
    """Hostile values that are nearly right, from the good one."""
    if isinstance(good, np.ndarray):
        table = OF_ARRAYS
    elif isinstance(good, (int, float)) and not isinstance(good, bool):
        table = OF_NUMBERS
    elif isinstance(good, (list, tuple)):
        table = OF_SEQUENCES
    else:
        return []
    return [(label, functools.partial(make, good)) for label, make in table]


def hostile(chance: random.Random, good, depth: int = 0) -> tuple[str, object]:
    """A hostile value in the place of a good one, and what it is called."""
    if isinstance(good, (list, tuple)) and good and depth < 2 and chance.random() < 0.5:
        at = chance.randrange(len(good))
        label, value = hostile(chance, good[at], depth + 1)
        changed = [*good[:at], value, *good[at + 1 :]]
        kept = type(good) in (list, tuple)
        return f"[{at}] {label}", type(good)(changed) if kept else changed
    if isinstance(good, dict) and good and depth < 2 and chance.random() < 0.5:
        at = chance.choice(list(good))
        label, value = hostile(chance, good[at], depth + 1)
        return f"[{at!r}] {label}", {**good, at: value}
    near = variants(good)
    for _ in range(10):
        label, make = chance.choice(near) if near and chance.random() < 0.6 else chance.choice(VALUES)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            with contextlib.suppress(Exception):  # of a variant that this good value has not
                return label, make()
    return "None", None
