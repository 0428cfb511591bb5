"""Machine instructions that numba does not offer, for use in kernels: unaligned and vector loads, trailing zeros.

Each function receives the numba types of its arguments. It returns the signature, and a function that emits the LLVM
code of a call, as `numba.extending.intrinsic` requires. A kernel calls it without the first argument, the context.
The loads check no bounds: the caller needs readable bytes after the text (`words.PADDING`).
"""

from collections.abc import Callable

import numba as nb
from llvmlite.ir import Constant, IntType, IRBuilder, Type, Value, VectorType  # type: ignore[import-untyped]
from numba.core.base import BaseContext
from numba.core.typing.context import BaseContext as TypingContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numba.types import Type as NumbaType

CodeGenerator = Callable[[BaseContext, IRBuilder, Signature, list[Value]], Value]


@intrinsic  # type: ignore[untyped-decorator]
def load64(context: TypingContext, data: NumbaType, position: NumbaType) -> tuple[Signature, CodeGenerator]:
    """data[position : position + 8] as a little-endian uint64. `position` need not be a multiple of 8."""

    def generate(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        return _load(context, builder, signature, args, IntType(64))

    return nb.uint64(data, nb.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def classes64(context: TypingContext, data: NumbaType, position: NumbaType) -> tuple[Signature, CodeGenerator]:
    """Two bit masks of the 64 bytes from data[position]: bytes of words or of non-ASCII characters; non-ASCII bytes.

    Bit i stands for byte i. LLVM compiles the comparison of 64 bytes to a few vector instructions (AVX2, NEON).
    """

    def generate(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        vector = VectorType(IntType(8), 64)
        block = _load(context, builder, signature, args, vector)

        def repeat(value: int) -> Value:
            return Constant(vector, [value] * 64)

        def is_in_range(values: Value, low: int, count: int) -> Value:
            # One unsigned comparison suffices: a value below `low` wraps around to a large number.
            return builder.icmp_unsigned("<", builder.sub(values, repeat(low)), repeat(count))

        letter = is_in_range(builder.or_(block, repeat(0x20)), ord("a"), 26)  # | 0x20: upper to lower case
        digit = is_in_range(block, ord("0"), 10)
        non_ascii = builder.icmp_unsigned(">=", block, repeat(0x80))
        underscore = builder.icmp_unsigned("==", block, repeat(ord("_")))
        word = builder.or_(builder.or_(letter, digit), builder.or_(non_ascii, underscore))
        masks = [builder.bitcast(mask, IntType(64)) for mask in (word, non_ascii)]
        return context.make_tuple(builder, signature.return_type, masks)

    return nb.types.UniTuple(nb.uint64, 2)(data, nb.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(context: TypingContext, value: NumbaType) -> tuple[Signature, CodeGenerator]:
    """The number of zero bits below the lowest one bit; 64 for 0."""

    def generate(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value]) -> Value:
        return builder.cttz(args[0], Constant(IntType(1), 0))  # 0: the result for 0 is defined

    return nb.int64(nb.uint64), generate


def _load(context: BaseContext, builder: IRBuilder, signature: Signature, args: list[Value], kind: Type) -> Value:
    """Emit the load of one value of type `kind` from the array args[0] at the index args[1]."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    address = builder.bitcast(builder.gep(array.data, [args[1]]), kind.as_pointer())
    return builder.load(address, align=1)  # align=1: the address may be any; without it, LLVM may assume multiples of 8
