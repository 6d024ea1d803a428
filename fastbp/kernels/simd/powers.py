"""A power of two as a floating-point number's exponent: a few integer instructions, of which loops can make vectors."""

from llvmlite import ir
from numba.extending import intrinsic


@intrinsic
def power_of_two(typingctx, n):
    """2ⁿ in n's own type, for a whole number n that keeps it a normal number; any number for NaN"""
    signature = n(n)

    def codegen(context, builder, signature, arguments):
        (n,) = arguments
        bits, bias, mantissa = (32, 127, 23) if signature.args[0].bitwidth == 32 else (64, 1023, 52)
        integer = ir.IntType(bits)
        exponent = builder.add(builder.fptosi(n, integer), integer(bias))
        return builder.bitcast(builder.shl(exponent, integer(mantissa)), n.type)

    return signature, codegen
