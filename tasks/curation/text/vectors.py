"""Three instructions that Python has no words for, for use inside kernels: wide unaligned loads and a bit count."""

from typing import Any

import numba as nb
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def load64(context: Any, data: Any, position: Any) -> Any:
    """data[position : position + 8] as a little-endian uint64, wherever it starts."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(context, builder, signature, args, ir.IntType(64))

    return nb.uint64(data, nb.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def classes64(context: Any, data: Any, position: Any) -> Any:
    """Two masks of data[position : position + 64]: bytes that are in words or not ASCII; bytes that are not ASCII."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), 64)
        block = _load(context, builder, signature, args, kind)

        def same(value: int) -> Any:
            return ir.Constant(kind, [value] * 64)

        def between(values: Any, low: int, count: int) -> Any:
            return builder.icmp_unsigned("<", builder.sub(values, same(low)), same(count))

        letter = between(builder.or_(block, same(0x20)), ord("a"), 26)
        digit = between(block, ord("0"), 10)
        foreign = builder.icmp_unsigned(">=", block, same(0x80))
        underscore = builder.icmp_unsigned("==", block, same(ord("_")))
        word = builder.or_(builder.or_(letter, digit), builder.or_(foreign, underscore))
        masks = [builder.bitcast(mask, ir.IntType(64)) for mask in (word, foreign)]
        return context.make_tuple(builder, signature.return_type, masks)

    return nb.types.UniTuple(nb.uint64, 2)(data, nb.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(context: Any, value: Any) -> Any:
    """The number of zero bits below the lowest one bit; 64 for 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return nb.int64(nb.uint64), generate


def _load(context: Any, builder: Any, signature: Any, args: Any, kind: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    address = builder.bitcast(builder.gep(array.data, [args[1]]), kind.as_pointer())
    return builder.load(address, align=1)
