"""The emitter: vector instructions for arrays of one dtype, on the processor that Numba compiles for."""

import functools
import inspect
from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..numba_inside import processor

I32, I64 = ir.IntType(32), ir.IntType(64)


def vector_bytes(context=None) -> int:
    """The width of a vector register of the processor that is compiled for."""
    features = processor(context)[2].split(",")
    if "+avx512f" in features:
        return 64
    return 32 if "+avx" in features else 16


def registers(context) -> int:
    """How many vector registers that processor has."""
    triple, _, features = processor(context)
    return 32 if "+avx512f" in features.split(",") or triple.startswith(("aarch64", "arm64")) else 16


def known_when_compiled(size):
    """A function of x that gives size(context, x's dtype)"""

    @intrinsic
    def number(typingctx, x):
        def codegen(context, builder, signature, arguments):
            return I64(size(context, signature.args[0].dtype))

        return types.int64(x), codegen

    return number


# the numbers of x's dtype that a vector holds
lanes = known_when_compiled(lambda context, dtype: vector_bytes(context) * 8 // dtype.bitwidth)


def lanes_of(dtype) -> int:
    """The same, outside of kernels"""
    return vector_bytes() // dtype.itemsize


def emits(function: Callable) -> Callable:
    """The intrinsic that emits what `function` does: a call of it in a kernel is replaced by that code.

    `function` is given an Emitter for the dtype of its first array, and what the kernel passes: of an array the address
    of its first element, whole numbers as 64 bits, anything else as it is. It returns nothing."""
    names = [*inspect.signature(function).parameters][1:]

    def define(typingctx, *kinds):
        kinds = [types.unliteral(kind) for kind in kinds]
        kinds = [types.int64 if isinstance(kind, types.Integer) else kind for kind in kinds]

        def codegen(context, builder, signature, arguments):
            is_array = [isinstance(kind, types.Array) for kind in signature.args]
            e = Emitter(context, builder, signature.args[is_array.index(True)].dtype)
            given = zip(signature.args, arguments, is_array, strict=True)
            function(e, *(e.data(kind, value) if array else value for kind, value, array in given))
            return context.get_dummy_value()

        return types.void(*kinds), codegen

    functools.update_wrapper(define, function)
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("typingctx", *names)]
    define.__signature__ = inspect.Signature(parameters)
    return intrinsic(define)


class Emitter:
    """Emits vector instructions for arrays of one dtype, on vectors as wide as the processor's or of fewer `lanes`."""

    def __init__(self, context, builder, dtype, lanes=None):
        self.context, self.builder, self.dtype, self.registers = context, builder, dtype, registers(context)
        self.number = context.get_value_type(dtype)
        self.align = dtype.bitwidth // 8
        self.lanes = lanes or vector_bytes(context) // self.align
        self.vector = ir.VectorType(self.number, self.lanes)
        self.suffix = f"v{self.lanes}{'f' if isinstance(dtype, types.Float) else 'i'}{dtype.bitwidth}"

    def data(self, kind, value):
        """The address of an array's first element."""
        return self.context.make_array(kind)(self.context, self.builder, value).data

    def at(self, *terms):
        """The sum of offsets; a pair is a product."""
        total = None
        for term in terms:
            value = self.builder.mul(*term) if isinstance(term, tuple) else term
            total = value if total is None else self.builder.add(total, value)
        return total

    def number_at(self, base, offset):
        return self.builder.load(self.builder.gep(base, [offset]))

    def load(self, base, offset, mask=None):
        pointer = self.builder.bitcast(self.builder.gep(base, [offset]), self.vector.as_pointer())
        if mask is not None:
            kinds = [pointer.type, I32, mask.type, self.vector]
            return self._call("llvm.masked.load", kinds, self.vector, [pointer, I32(self.align), mask, self.zero()])
        value = self.builder.load(pointer)
        value.align = self.align
        return value

    def store(self, value, base, offset, mask=None):
        pointer = self.builder.bitcast(self.builder.gep(base, [offset]), self.vector.as_pointer())
        if mask is not None:
            kinds = [self.vector, pointer.type, I32, mask.type]
            self._call("llvm.masked.store", kinds, ir.VoidType(), [value, pointer, I32(self.align), mask])
        else:
            self.builder.store(value, pointer).align = self.align

    def fetch(self, base, offset, write=True):
        """Ask for this number's cache line, to write it or to read it: a hint, which may point outside an array."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        address = self.builder.bitcast(self.builder.gep(base, [offset]), byte)
        caches = I32(3 if write else 2)  # all, or the second
        self.builder.call(function, [address, I32(int(write)), caches, I32(1)])

    def _call(self, name, kinds, result, arguments):
        name = f"{name}.{self.suffix}" + (".p0" if "masked" in name else "")
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, kinds), name)
        return self.builder.call(function, arguments)

    def zero(self):
        return ir.Constant(self.vector, None)

    def repeat(self, x):
        """x in every lane."""
        kind = ir.VectorType(x.type, self.lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), x, I32(0))
        lane = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lane)

    def first(self, count):
        """The mask of the first `count` lanes."""
        numbers = ir.Constant(ir.VectorType(I32, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self.repeat(self.builder.trunc(count, I32)))

    def add(self, a, b):
        """a + b in this order: Numba lets LLVM reorder sums, but for those that have a flag of their own"""
        return self.builder.fadd(a, b, flags=("nsz",))

    def multiply_add(self, a, b, c):
        """a · b + c"""
        return self._call("llvm.fmuladd", [self.vector] * 3, self.vector, [a, b, c])

    def shuffle(self, x, y, lanes):
        """A vector of these lanes of x, numbered from 0, and of y, numbered on from there."""
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))

    def sums(self, a, b, c, d):
        """A vector of four: the sum of each vector's lanes, by halves.

        One vector holds the halves of two, then the quarters of four: 12 instructions on AVX2, one by one it is 24."""

        def halves(x, y, width):
            """x and y hold numbers of `width` lanes each: the sums of their halves, of x and of y in turn"""
            starts = [start + side for start in range(0, self.lanes, width) for side in (0, self.lanes)]
            low, high = ([s + at + i for s in starts for i in range(width // 2)] for at in (0, width // 2))
            return self.add(self.shuffle(x, y, low), self.shuffle(x, y, high))

        even, odd, width = halves(a, c, self.lanes), halves(b, d, self.lanes), self.lanes // 2
        if width == 1:
            return self.shuffle(even, odd, (0, 2, 1, 3))
        value, width = halves(even, odd, width), width // 2
        while width > 1:
            starts = range(0, 4 * width, width)
            low, high = ([s + at + i for s in starts for i in range(width // 2)] for at in (0, width // 2))
            value, width = self.add(self.shuffle(value, value, low), self.shuffle(value, value, high)), width // 2
        return value

    def loop(self, count, values, step):
        """values = step(i, values) for i < count; they stay in registers"""
        b = self.builder
        before, head, body, after = b.block, *(b.append_basic_block(name) for name in ("loop", "step", "done"))
        b.branch(head)
        b.position_at_end(head)
        i, *places = (b.phi(kind) for kind in (I64, *(value.type for value in values)))
        b.cbranch(b.icmp_signed("<", i, count), body, after)
        b.position_at_end(body)
        results = [*step(i, places), b.add(i, I64(1))]
        for place, first, result in zip([*places, i], [*values, I64(0)], results, strict=True):
            place.add_incoming(first, before)
            place.add_incoming(result, b.block)
        b.branch(head).set_metadata("llvm.loop", self._not_unrolled())
        b.position_at_end(after)
        return places

    def _not_unrolled(self):
        """Keeps LLVM from unrolling a loop: a tile's step is long enough, and copies take time to compile."""
        module = self.builder.module
        mark = ir.MDValue(module, (), name=str(len(module.metadata)))
        mark.operands = mark, module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
        return mark

    def when(self, condition, values, step):
        """step(values) where the condition holds, else the values as they are"""
        b, before = self.builder, self.builder.block
        with b.if_then(condition):
            results, end = step(values), b.block
        merged = [b.phi(value.type) for value in values]
        for place, value, result in zip(merged, values, results, strict=True):
            place.add_incoming(value, before)
            place.add_incoming(result, end)
        return merged

    def indices(self, body, count, doubtful=1):
        """0, 1, … for a body of that many rows. The last `doubtful` may lie beyond `count`: they repeat its last row.

        So a body serves several counts. What it computes twice it stores twice, the same number to the same place."""
        last = self.builder.sub(count, I64(1))
        sure = body - doubtful
        return [I64(i) if i < sure else self.least(I64(i), last) for i in range(body)]

    def least(self, a, b):
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)
