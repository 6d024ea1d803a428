"""Tiles of matrix products: `outer` and `dot`, with and without tables of offsets."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .emitter import I32, I64, Emitter

ROWS, VECTORS = 4, 3  # of the largest tile: with 12 accumulators, 3 vectors and one more fill the 16 registers of AVX2


def outer_tile(tables: bool):
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k·ak] · b[b0 + k·bk + n] for m < rows ≤ 4, n < columns ≤ 3 vectors; + c with `add`

    With `tables`, ak and bk are int64 arrays of offsets: a[a0 + m·am + ak[k]] and b[b0 + bk[k] + n]. One body is emitted for
    each number of rows and vectors; the last vector is masked, but for the whole tile."""

    @intrinsic
    def tile(typingctx, a, a0, am, ak, b, b0, bk, K, c, c0, cm, rows, columns, add):
        i64 = types.int64
        ak, bk = (ak, bk) if tables else (i64, i64)
        signature = types.void(a, i64, i64, ak, b, i64, bk, i64, c, i64, i64, i64, i64, types.boolean)

        def codegen(context, builder, signature, arguments):
            e = Emitter(context, builder, signature.args[0].dtype)
            A, B, C = (e.data(signature.args[i], arguments[i]) for i in (0, 4, 8))
            _, a0, am, ak, _, b0, bk, K, _, c0, cm, rows, columns, add = arguments
            if tables:
                ak, bk = e.data(signature.args[3], ak), e.data(signature.args[6], bk)

            def body(MR, NV, last):
                masks = [None] * (NV - 1) + [last]
                sums = e.accumulators(MR, NV)
                with builder.if_then(add):
                    for m, row in enumerate(sums):
                        for v, (place, mask) in enumerate(zip(row, masks, strict=True)):
                            builder.store(e.load(C, e.at(c0, (I64(m), cm), I64(v * e.lanes)), mask), place)
                # the next tile's, where c is too large for the cache: 80 instead of 74 GFlop/s (128 3072, K 512)
                for m in range(MR):
                    for v in range(NV):
                        e.fetch(C, e.at(c0, (I64(m + MR), cm), I64(v * e.lanes)))
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
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k] · b[b0 + n·bn + k] for m < rows ≤ 3 and n < columns ≤ 4, + c with `add`

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
            zero, four = ir.Constant(e.number, 0.0), ir.VectorType(e.number, 4)

            def body(MR, NC):
                starts = [e.number_at(table, e.at(b0, I64(n))) if tables else e.at(b0, (I64(n), bn)) for n in range(NC)]
                sums = e.accumulators(MR, NC)

                def step(k, mask):
                    values = [e.load(A, e.at(a0, (I64(m), am), k), mask) for m in range(MR)]
                    for n, start in enumerate(starts):
                        vector = e.load(B, e.at(start, k), mask)
                        for value, row in zip(values, sums, strict=True):
                            e.add_product(row[n], value, vector)

                with cgutils.for_range(builder, whole, intp=I64) as loop:
                    step(builder.mul(loop.index, I64(e.lanes)), None)
                with builder.if_then(builder.icmp_signed("<", done, K)):
                    step(done, e.first(builder.sub(K, done)))
                for m, row in enumerate(sums):
                    total = e.sums(*[builder.load(place) for place in row], *[e.zero()] * (ROWS - NC))
                    first = e.at(c0, (I64(m), cm))
                    if NC == ROWS:
                        place = builder.bitcast(builder.gep(C, [first]), four.as_pointer())
                        before = builder.load(place)
                        before.align = e.align
                        before = builder.select(add, before, ir.Constant(four, [0.0] * 4))
                        builder.store(e.add(total, before), place).align = e.align
                        continue
                    for n in range(NC):
                        place = builder.gep(C, [e.at(first, I64(n))])
                        before = builder.select(add, builder.load(place), zero)
                        builder.store(e.add(builder.extract_element(total, I32(n)), before), place)

            for MR in range(1, VECTORS + 1):
                with builder.if_then(builder.icmp_signed("==", rows, I64(MR))):
                    for NC in range(1, ROWS + 1):
                        with builder.if_then(builder.icmp_signed("==", columns, I64(NC))):
                            body(MR, NC)
            return context.get_dummy_value()

        return signature, codegen

    return tile


@intrinsic
def pack(typingctx, b, b0, bk, K, panel, p0, columns):
    """panel[p0 + k·3L + n] = b[b0 + k·bk + n] for k < K, n < columns ≤ 3L, three vectors of L numbers, and 0 beyond

    Numba's loop over 24 numbers takes them one by one: LLVM unrolls it to 32."""
    i64 = types.int64

    def codegen(context, builder, signature, arguments):
        e = Emitter(context, builder, signature.args[0].dtype)
        B, P = (e.data(signature.args[i], arguments[i]) for i in (0, 4))
        _, b0, bk, K, _, p0, columns = arguments
        masks = [e.first(builder.sub(columns, I64(v * e.lanes))) for v in range(VECTORS)]
        with cgutils.for_range(builder, K, intp=I64) as loop:
            for v, mask in enumerate(masks):
                vector = e.load(B, e.at(b0, (loop.index, bk), I64(v * e.lanes)), mask)
                e.store(vector, P, e.at(p0, (loop.index, I64(VECTORS * e.lanes)), I64(v * e.lanes)))
        return context.get_dummy_value()

    return types.void(b, i64, i64, i64, panel, i64, i64), codegen


@intrinsic
def add_rows(typingctx, a, a0, ak, rows, b, b0, bk, c, c0, columns):
    """c[c0 + n] += Σ_{k<rows} a[a0 + k·ak] · b[b0 + k·bk + n] for n < columns, rows ≤ 4, one after the other as in `outer`"""
    i64 = types.int64

    def codegen(context, builder, signature, arguments):
        e = Emitter(context, builder, signature.args[0].dtype)
        A, B, C = (e.data(signature.args[i], arguments[i]) for i in (0, 4, 7))
        _, a0, ak, rows, _, b0, bk, _, c0, columns = arguments
        whole = builder.sdiv(columns, I64(e.lanes))
        done = builder.mul(whole, I64(e.lanes))
        for R in range(1, ROWS + 1):
            with builder.if_then(builder.icmp_signed("==", rows, I64(R))):
                numbers = [e.repeat(e.number_at(A, e.at(a0, (I64(k), ak)))) for k in range(R)]

                def step(n, mask, numbers=numbers):
                    total = e.load(C, e.at(c0, n), mask)
                    for k, number in enumerate(numbers):
                        total = e.multiply_add(number, e.load(B, e.at(b0, (I64(k), bk), n), mask), total)
                    e.store(total, C, e.at(c0, n), mask)

                with cgutils.for_range(builder, whole, intp=I64) as loop:
                    step(builder.mul(loop.index, I64(e.lanes)), None)
                with builder.if_then(builder.icmp_signed("<", done, columns)):
                    step(done, e.first(builder.sub(columns, done)))
        return context.get_dummy_value()

    return types.void(a, i64, i64, i64, b, i64, i64, c, i64, i64), codegen


outer, outer_at = outer_tile(tables=False), outer_tile(tables=True)
dot, dot_at = dot_tile(tables=False), dot_tile(tables=True)
