"""Arithmetic on cache lines of float32, as vectors.

Written out as such, because a compiler that is given loops asks before each of them whether what
is read overlaps with what is written; between lines that takes longer than the arithmetic. Lines
are given by their addresses, and nobody promises that they begin where a line of the cache does.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpucluster.ops.lines import LANES, LINE_BYTES

GROUP = 4  # lines whose sums wait for each other no longer than they take
FLAGS = ("reassoc", "nsz", "contract", "arcp")

# numba has no types, and its cgutils are called as they are
_NUMBER = ir.FloatType()
_LINE = ir.VectorType(_NUMBER, LANES)
_INTO_ONE = f"llvm.vector.reduce.fadd.v{LANES}f32"


def _load(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, _LINE.as_pointer()), align=4)


def _add(builder: Any, address: Any, line: Any) -> None:
    """Add a line to the one at an address."""
    total = builder.fadd(_load(builder, address), line, flags=FLAGS)
    builder.store(total, builder.inttoptr(address, _LINE.as_pointer()), align=4)


def _everywhere(builder: Any, number: Any) -> Any:
    """Return a line of equal numbers."""
    index = ir.IntType(32)
    line = builder.insert_element(ir.Constant(_LINE, ir.Undefined), number, index(0))
    return builder.shuffle_vector(line, line, ir.Constant(ir.VectorType(index, LANES), [0] * LANES))


@intrinsic
def line_sqdist(_context, _here, _there):
    """Return the squared distance of two lines."""

    def generate(_context, builder, _signature, args):
        here, there = (_load(builder, address) for address in args)
        gap = builder.fsub(there, here, flags=FLAGS)
        kind = ir.FunctionType(_NUMBER, [_NUMBER, _LINE])
        reduce = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, kind, _INTO_ONE
        )
        square = builder.fmul(gap, gap, flags=FLAGS)
        return builder.call(reduce, [ir.Constant(_NUMBER, 0.0), square], fastmath=FLAGS)

    return types.float32(types.intp, types.intp), generate


@intrinsic
def add_way(_context, _total, _here, _there, _share):
    """Add to a line a share of the way from one line to another."""

    def generate(context, builder, _signature, args):
        total, here, there, share = args
        way = builder.fsub(_load(builder, there), _load(builder, here), flags=FLAGS)
        _add(builder, total, builder.fmul(_everywhere(builder, share), way, flags=FLAGS))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.float32), generate


@intrinsic
def sqdists(_context, _rows, _point, _n_features, _found):
    """Write the squared distances of a point to `GROUP` lines of rows that lie side by side.

    ``rows`` is the address of (n_features, GROUP * LANES) float32, ``point`` that of (n_features,),
    ``found`` that of (GROUP * LANES,).
    """

    def generate(context, builder, _signature, args):
        rows, point, n_features, found = args
        totals = [  # they become registers
            cgutils.alloca_once(builder, _LINE)  # type: ignore[no-untyped-call]
            for _ in range(GROUP)
        ]
        for total in totals:
            builder.store(ir.Constant(_LINE, [0.0] * LANES), total)
        size = n_features.type
        with cgutils.for_range(builder, n_features) as loop:
            place = builder.add(point, builder.mul(loop.index, size(LINE_BYTES // LANES)))
            number = builder.load(builder.inttoptr(place, _NUMBER.as_pointer()), align=4)
            line = builder.add(rows, builder.mul(loop.index, size(GROUP * LINE_BYTES)))
            for part, total in enumerate(totals):
                at = builder.add(line, size(part * LINE_BYTES))
                gap = builder.fsub(_load(builder, at), _everywhere(builder, number), flags=FLAGS)
                square = builder.fmul(gap, gap, flags=FLAGS)
                builder.store(builder.fadd(builder.load(total), square, flags=FLAGS), total)
        for part, total in enumerate(totals):
            at = builder.add(found, size(part * LINE_BYTES))
            builder.store(builder.load(total), builder.inttoptr(at, _LINE.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), generate
