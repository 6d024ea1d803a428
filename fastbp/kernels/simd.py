"""Register tiles: the vector code under the matrix products and convolutions. The one place that emits it.

A processor adds and multiplies vectors of L numbers (8 float32 on AVX2), two vectors at a time, but can load only about
as many from its cache. A plain loop for c[m, n] = Σ_k a[m, k] b[k, n] loads two operands for every product, so it waits
for loads. A tile keeps a small block of c in registers for the whole sum over k, and uses everything it loads several times:

                     b[k, n : n+L]   b[k, n+L : n+2L]   b[k, n+2L : n+3L]      3 loads
        a[m,   k] →  c00             c01                c02
        a[m+1, k] →  c10             c11                c12                    4 loads, each number
        a[m+2, k] →  c20             c21                c22                    repeated L times
        a[m+3, k] →  c30             c31                c32

Twelve of the sixteen AVX2 registers hold c, three hold the row of b and one the number of a: 12 multiply–adds for 7 loads.
Only when k is through is c written to memory.

- `outer`: the tile above; vectors run along n. Rows of b are `bk` apart, or anywhere for `outer_at`, which takes tables of offsets.
- `dot`: c[m, n] = Σ_k a[m, k] b[n, k], both contiguous along k: the vectors run along the sum, and each
  accumulator is added up at the end. `dot_at` takes a table for the rows of b.

Each is an intrinsic: a function that Numba calls to emit LLVM code in the place of the call. Arrays are passed whole, with
offsets in elements, so they stay alive. A tile may have fewer rows and columns than the largest. Vectors at the end of a row
are loaded and stored under a mask: nothing outside an array is read. Sizes are run-time numbers, so there is one compiled
tile for each dtype, not one for each shape.

The number of lanes follows from the instruction set that Numba compiles for: 64-byte vectors with AVX-512, 32 with AVX, else 16.
`fmuladd` becomes one instruction where there is one, and a multiply and an add elsewhere (`fma` would call a library).
"""

from llvmlite import ir
from numba import config
from numba.core import cgutils, types
from numba.extending import intrinsic

I32, I64 = ir.IntType(32), ir.IntType(64)


def vector_bytes(context) -> int:
    """The width of a vector register of the processor that is compiled for."""
    features = context.codegen().magic_tuple()[2].split(",")
    if "+avx512f" in features:
        return 64
    return 32 if "+avx" in features else 16


@intrinsic
def lanes(typingctx, x):
    """The numbers of x's dtype that a vector holds."""

    def codegen(context, builder, signature, arguments):
        return I64(vector_bytes(context) * 8 // signature.args[0].dtype.bitwidth)

    return types.int64(x), codegen


class Emitter:
    """Emits vector instructions for arrays of one dtype."""

    def __init__(self, context, builder, dtype):
        self.context, self.builder = context, builder
        self.number = context.get_value_type(dtype)
        self.align = dtype.bitwidth // 8
        self.lanes = vector_bytes(context) // self.align
        self.vector = ir.VectorType(self.number, self.lanes)
        self.suffix = f"v{self.lanes}f{dtype.bitwidth}"

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

    def _call(self, name, kinds, result, arguments):
        name = f"{name}.{self.suffix}" + (".p0" if "masked" in name else "")
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, kinds), name)
        return self.builder.call(function, arguments)

    def zero(self):
        return ir.Constant(self.vector, [0.0] * self.lanes)

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

    def multiply_add(self, a, b, c):
        """a · b + c"""
        return self._call("llvm.fmuladd", [self.vector] * 3, self.vector, [a, b, c])

    def sum(self, value):
        """The sum of all lanes, by halves."""
        count = self.lanes
        while count > 1:
            half = count // 2
            low, high = (
                self.builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(I32, half), list(lane)))
                for lane in (range(half), range(half, count))
            )
            value, count = self.builder.fadd(low, high), half
        return self.builder.extract_element(value, I32(0))

    def accumulators(self, MR, NV):
        """MR × NV vectors of zeros; LLVM keeps them in registers."""
        rows = [[cgutils.alloca_once(self.builder, self.vector) for _ in range(NV)] for _ in range(MR)]
        for row in rows:
            for place in row:
                self.builder.store(self.zero(), place)
        return rows

    def add_product(self, place, a, b):
        self.builder.store(self.multiply_add(a, b, self.builder.load(place)), place)


ROWS, VECTORS = 4, 3  # of the largest tile: 12 accumulators, 3 vectors of b and one of a fill the 16 registers of AVX2


def outer_tile(tables: bool):
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k·ak] · b[b0 + k·bk + n] for m < rows ≤ 4 and n < columns ≤ 3 vectors

    With `tables`, ak and bk are int64 arrays of offsets: a[a0 + m·am + ak[k]] and b[b0 + bk[k] + n]. One body is emitted for
    each number of rows and vectors; the last vector is masked, but for the whole tile."""

    @intrinsic
    def tile(typingctx, a, a0, am, ak, b, b0, bk, K, c, c0, cm, rows, columns):
        i64 = types.int64
        ak, bk = (ak, bk) if tables else (i64, i64)
        signature = types.void(a, i64, i64, ak, b, i64, bk, i64, c, i64, i64, i64, i64)

        def codegen(context, builder, signature, arguments):
            e = Emitter(context, builder, signature.args[0].dtype)
            A, B, C = (e.data(signature.args[i], arguments[i]) for i in (0, 4, 8))
            _, a0, am, ak, _, b0, bk, K, _, c0, cm, rows, columns = arguments
            if tables:
                ak, bk = e.data(signature.args[3], ak), e.data(signature.args[6], bk)

            def body(MR, NV, last):
                masks = [None] * (NV - 1) + [last]
                sums = e.accumulators(MR, NV)
                with cgutils.for_range(builder, K, intp=I64) as loop:
                    k = loop.index
                    in_a = e.at(a0, e.number_at(ak, k) if tables else (k, ak))
                    in_b = e.at(b0, e.number_at(bk, k) if tables else (k, bk))
                    vectors = [e.load(B, e.at(in_b, I64(v * e.lanes)), mask) for v, mask in enumerate(masks)]
                    for m, row in enumerate(sums):
                        number = e.repeat(e.number_at(A, e.at(in_a, (I64(m), am))))
                        for place, vector in zip(row, vectors, strict=True):
                            e.add_product(place, number, vector)
                for m, row in enumerate(sums):
                    for v, (place, mask) in enumerate(zip(row, masks, strict=True)):
                        e.store(builder.load(place), C, e.at(c0, (I64(m), cm), I64(v * e.lanes)), mask)

            for MR in range(1, ROWS + 1):
                with builder.if_then(builder.icmp_signed("==", rows, I64(MR))):
                    for NV in range(1, VECTORS + 1):
                        low, high = I64((NV - 1) * e.lanes), I64(NV * e.lanes)
                        here = builder.and_(builder.icmp_signed(">", columns, low), builder.icmp_signed("<=", columns, high))
                        with builder.if_then(here):
                            last = e.first(builder.sub(columns, low))
                            if NV < VECTORS:
                                body(MR, NV, last)
                                continue
                            with builder.if_else(builder.icmp_signed("==", columns, high)) as (whole, part):
                                with whole:
                                    body(MR, NV, None)
                                with part:
                                    body(MR, NV, last)
            return context.get_dummy_value()

        return signature, codegen

    return tile


def dot_tile(tables: bool):
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k] · b[b0 + n·bn + k] for m < rows ≤ 4 and n < columns ≤ 3, + c with `add`

    With `tables`, bn is an int64 array of offsets and b0 the place in it: b[bn[b0 + n] + k]."""

    @intrinsic
    def tile(typingctx, a, a0, am, b, b0, bn, K, c, c0, cm, rows, columns, add):
        i64 = types.int64
        signature = types.void(a, i64, i64, b, i64, bn if tables else i64, i64, c, i64, i64, i64, i64, types.boolean)

        def codegen(context, builder, signature, arguments):
            e = Emitter(context, builder, signature.args[0].dtype)
            A, B, C = (e.data(signature.args[i], arguments[i]) for i in (0, 3, 7))
            _, a0, am, _, b0, bn, K, _, c0, cm, rows, columns, add = arguments
            table = e.data(signature.args[5], bn) if tables else None
            whole = builder.sdiv(K, I64(e.lanes))
            done = builder.mul(whole, I64(e.lanes))

            def body(MR, NV):
                starts = [e.number_at(table, e.at(b0, I64(n))) if tables else e.at(b0, (I64(n), bn)) for n in range(NV)]
                sums = e.accumulators(MR, NV)

                def step(k, mask):
                    vectors = [e.load(B, e.at(start, k), mask) for start in starts]
                    for m, row in enumerate(sums):
                        value = e.load(A, e.at(a0, (I64(m), am), k), mask)
                        for place, vector in zip(row, vectors, strict=True):
                            e.add_product(place, value, vector)

                with cgutils.for_range(builder, whole, intp=I64) as loop:
                    step(builder.mul(loop.index, I64(e.lanes)), None)
                with builder.if_then(builder.icmp_signed("<", done, K)):
                    step(done, e.first(builder.sub(K, done)))
                for m, row in enumerate(sums):
                    for n, place in enumerate(row):
                        where = builder.gep(C, [e.at(c0, (I64(m), cm), I64(n))])
                        before = builder.select(add, builder.load(where), ir.Constant(e.number, 0.0))
                        builder.store(builder.fadd(e.sum(builder.load(place)), before), where)

            for MR in range(1, ROWS + 1):
                with builder.if_then(builder.icmp_signed("==", rows, I64(MR))):
                    for NV in range(1, VECTORS + 1):
                        with builder.if_then(builder.icmp_signed("==", columns, I64(NV))):
                            body(MR, NV)
            return context.get_dummy_value()

        return signature, codegen

    return tile


outer, outer_at = outer_tile(tables=False), outer_tile(tables=True)
dot, dot_at = dot_tile(tables=False), dot_tile(tables=True)


@intrinsic
def pool_pairs(typingctx, x, top, low, y, argmax, out, first, width, columns):
    """y[out + j] = the first maximum of x[top + 2j], x[top + 2j + 1], x[low + 2j], x[low + 2j + 1] for j < columns, and
    argmax[out + j] its number: first + 2j, first + 2j + 1, or `width` more. A NaN is a maximum.

    Even and odd pixels of two vectors are shuffled apart; comparing and choosing is done for all lanes at once, where branches on
    random data would be mispredicted every second time."""
    i64 = types.int64
    signature = types.void(x, i64, i64, y, argmax, i64, i64, i64, i64)

    def codegen(context, builder, signature, arguments):
        e = Emitter(context, builder, signature.args[0].dtype)
        X, Y, AT = (e.data(signature.args[i], arguments[i]) for i in (0, 3, 4))
        _, top, low, _, _, out, first, width, columns = arguments
        L = e.lanes
        whole_numbers = ir.VectorType(I32, L)
        even, odd = (ir.Constant(whole_numbers, list(range(start, 2 * L, 2))) for start in (0, 1))
        counting = ir.Constant(whole_numbers, list(range(0, 2 * L, 2)))

        def step(j, left):
            """The columns from j on: all lanes, or `left` of them"""
            masks = (None, None)
            if left is not None:
                pixels = builder.mul(left, I64(2))
                masks = (e.first(pixels), e.first(builder.sub(pixels, I64(L))))
            candidates = []
            for row in (top, low):
                pair = [e.load(X, e.at(row, (j, I64(2)), I64(h * L)), mask) for h, mask in enumerate(masks)]
                candidates += [builder.shuffle_vector(*pair, lanes) for lanes in (even, odd)]
            steps = [I64(0), I64(1), width, builder.add(width, I64(1))]
            best, number = candidates[0], e.repeat(I32(0))
            for candidate, step in zip(candidates[1:], steps[1:], strict=True):
                larger, nan = builder.fcmp_ordered(">", candidate, best), builder.fcmp_unordered("uno", candidate, candidate)
                take = builder.or_(larger, nan)
                best = builder.select(take, candidate, best)
                number = builder.select(take, e.repeat(builder.trunc(step, I32)), number)
            start = e.repeat(builder.trunc(e.at(first, (j, I64(2))), I32))
            number = builder.add(builder.add(number, start), counting)
            where, last = e.at(out, j), None if left is None else e.first(left)
            e.store(best, Y, where, last)
            place = builder.bitcast(builder.gep(AT, [where]), whole_numbers.as_pointer())
            if last is None:
                builder.store(number, place).align = 4
            else:
                kinds = [whole_numbers, place.type, I32, last.type]
                function = ir.FunctionType(ir.VoidType(), kinds)
                store = cgutils.get_or_insert_function(builder.module, function, f"llvm.masked.store.v{L}i32.p0")
                builder.call(store, [number, place, I32(4), last])

        full = builder.sdiv(columns, I64(L))
        with cgutils.for_range(builder, full, intp=I64) as loop:
            step(builder.mul(loop.index, I64(L)), None)
        done = builder.mul(full, I64(L))
        with builder.if_then(builder.icmp_signed("<", done, columns)):
            step(done, builder.sub(columns, done))
        return context.get_dummy_value()

    return signature, codegen


SPARSE_ROWS = 12  # accumulators of add_weighted_rows; with the repeated number and the loads they fill the registers


@intrinsic
def add_weighted_rows(typingctx, numbers, places, count, x, offsets, r0, c, c0, rows):
    """c[c0 + r·L + j] += Σ_{s<count} numbers[s] · x[places[s] + offsets[r0 + r] + j] for r < rows ≤ 12 and all L lanes j

    One vector of c for each row stays in a register while the sum runs. x must reach L − 1 numbers beyond the last place."""
    i64 = types.int64
    signature = types.void(numbers, places, i64, x, offsets, i64, c, i64, i64)

    def codegen(context, builder, signature, arguments):
        e = Emitter(context, builder, signature.args[0].dtype)
        NUMBERS, PLACES, X, OFFSETS, C = (e.data(signature.args[i], arguments[i]) for i in (0, 1, 3, 4, 6))
        _, _, count, _, _, r0, _, c0, rows = arguments

        def body(R):
            offsets = [e.number_at(OFFSETS, e.at(r0, I64(r))) for r in range(R)]
            (sums,) = e.accumulators(1, R)
            with cgutils.for_range(builder, count, intp=I64) as loop:
                number, place = e.repeat(e.number_at(NUMBERS, loop.index)), e.number_at(PLACES, loop.index)
                for total, offset in zip(sums, offsets, strict=True):
                    e.add_product(total, number, e.load(X, e.at(place, offset)))
            for r, total in enumerate(sums):
                where = e.at(c0, I64(r * e.lanes))
                e.store(builder.fadd(builder.load(total), e.load(C, where)), C, where)

        for R in range(1, SPARSE_ROWS + 1):
            with builder.if_then(builder.icmp_signed("==", rows, I64(R))):
                body(R)
        return context.get_dummy_value()

    return signature, codegen


if config.DISABLE_JIT:  # an intrinsic exists only in compiled code
    from .plain import add_weighted_rows, dot, dot_at, lanes, outer, outer_at, pool_pairs  # noqa: F401
