"""Our CUDA kernels: what each one takes, where its source lies, and how it is launched.

A kernel is described once, by a `KernelSpec`. The launcher here, and the emulator and the
compile test in `tests/kernels`, read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

OPTIONS = ("--std=c++17",)
BLOCK_THREADS = 256
GRID_BLOCKS = 1 << 16  # of grid-stride kernels at most: enough for all processors of any GPU
_INCLUDE = re.compile(r'^#include "(.+)"\n', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """A kernel.

    Attributes
    ----------
    file : str
        The source, in the folder of kernels.
    name : str
        Of the function; it ends in the dtype of what it reads.
    arguments : tuple of (str, str)
        Name and type of each, in order: numpy's name of a dtype, with ``*`` for an array.
    n_blocks : callable
        Blocks of a launch, from the arguments by name: numbers, and the sizes of arrays.
    n_bytes : callable
        Bytes that must pass through device memory, from the same: what its time is held against.
    threads : int
        Of a block; whole warps.
    """

    file: str
    name: str
    arguments: tuple[tuple[str, str], ...]
    n_blocks: Callable[[dict[str, int]], int]
    n_bytes: Callable[[dict[str, int]], int]
    threads: int = BLOCK_THREADS

    def numbers(self, values: tuple[Any, ...]) -> dict[str, int]:
        """Return the numbers among the arguments, and the sizes of the arrays, by name.

        Raises
        ------
        TypeError
            An array has another dtype than the kernel reads, or is not C-contiguous.
        """
        found = {}
        for (name, kind), value in zip(self.arguments, values, strict=True):
            if not kind.endswith("*"):
                found[name] = int(value)
                continue
            found[name] = int(value.size)
            if value.dtype.name != kind[:-1] or not value.flags.c_contiguous:
                raise TypeError(
                    f"{self.name}: {name} is {value.dtype}, "
                    f"{'' if value.flags.c_contiguous else 'not '}contiguous; "
                    f"expected {kind[:-1]}, C order"
                )
        return found


def _rows_a_warp(numbers: dict[str, int]) -> int:
    return min(GRID_BLOCKS, -(-numbers["n_rows"] // (BLOCK_THREADS // 32)))


SCAN_CAST = KernelSpec(
    "scan_cast.cu",
    "scan_cast_f32",
    (
        ("X", "float32*"),
        ("shift", "float32*"),
        ("n_rows", "int64"),
        ("n_features", "int32"),
        ("rows_per_block", "int32"),
        ("cast", "float16*"),
        ("norms", "float32*"),
        ("residuals", "float32*"),
        ("flags", "uint8*"),
        ("column_sums", "float32*"),
    ),
    n_blocks=lambda of: -(-of["n_rows"] // of["rows_per_block"]),
    n_bytes=lambda of: (
        of["n_rows"] * (6 * of["n_features"] + 9)
        + 4 * -(-of["n_rows"] // of["rows_per_block"]) * of["n_features"]
    ),
)
FOLD_TOP2 = KernelSpec(
    "fold_top2.cu",
    "fold_top2_f32",
    (
        ("dots", "float32*"),
        ("n_rows", "int64"),
        ("n_cols", "int32"),
        ("first_col", "int32"),
        ("half_sqnorms", "float32*"),
        ("best", "float32*"),
        ("second", "float32*"),
        ("label", "int32*"),
    ),
    n_blocks=_rows_a_warp,
    n_bytes=lambda of: of["n_rows"] * (4 * of["n_cols"] + 24),
)
FOLD_OTHERS = KernelSpec(
    "fold_others.cu",
    "fold_others_f32",
    (
        ("dots", "float32*"),
        ("n_rows", "int64"),
        ("n_cols", "int32"),
        ("first_col", "int32"),
        ("half_sqnorms", "float32*"),
        ("label", "int32*"),
        ("own", "float32*"),
        ("other", "float32*"),
        ("other_label", "int32*"),
    ),
    n_blocks=_rows_a_warp,
    n_bytes=lambda of: of["n_rows"] * (4 * of["n_cols"] + 28),
)


def _finish_rows(dtype: str, suffix: str, itemsize: int) -> KernelSpec:
    return KernelSpec(
        "finish_rows.cu",
        f"finish_rows_{suffix}",
        (
            ("product", "float32*"),
            ("bias", "float32*"),
            ("n_rows", "int64"),
            ("n_features", "int32"),
            ("to_unit_length", "int32"),
            ("out", f"{dtype}*"),
            ("norms", "float32*"),
        ),
        n_blocks=_rows_a_warp,
        n_bytes=lambda of: of["n_rows"] * ((4 + itemsize) * of["n_features"] + 4),
    )


FINISH_ROWS = {
    "float32": _finish_rows("float32", "f32", 4),
    "float16": _finish_rows("float16", "f16", 2),
}


def _segment_sums(dtype: str, suffix: str, itemsize: int) -> KernelSpec:
    return KernelSpec(
        "segment_sums.cu",
        f"segment_sums_{suffix}",
        (
            ("X", f"{dtype}*"),
            ("order", "int32*"),
            ("starts", "int64*"),
            ("n_parts", "int32"),
            ("n_features", "int32"),
            ("sums", "float64*"),
        ),
        n_blocks=lambda of: min(GRID_BLOCKS, of["n_parts"]),
        n_bytes=lambda of: (
            of["n_features"] * (itemsize * of["order"] + 8 * of["n_parts"]) + 4 * of["order"]
        ),
    )


SEGMENT_SUMS = {
    "float32": _segment_sums("float32", "f32", 4),
    "float16": _segment_sums("float16", "f16", 2),
    "float64": _segment_sums("float64", "f64", 8),
}
KERNELS = (
    SCAN_CAST,
    FOLD_TOP2,
    FOLD_OTHERS,
    *FINISH_ROWS.values(),
    *SEGMENT_SUMS.values(),
)


def folder() -> Any:
    """Return where the sources lie: inside a wheel's package, or at the top of a checkout."""
    packaged = files("gpucluster") / "_kernels"
    if packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parents[2] / "kernels"


def read_source(file: str) -> str:
    """Return a kernel's source with what it includes in place, each file once.

    CuPy keeps what it compiled by the text that it was given and the options: it would not
    see that an included file has changed.
    """
    seen: set[str] = set()

    def spliced(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (folder() / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda found: spliced(found[1]), text)

    return spliced(file)


@cache
def _function(file: str, name: str, _device: int) -> Any:
    import cupy

    return cupy.RawModule(code=read_source(file), options=OPTIONS).get_function(name)


def launch(spec: KernelSpec, *values: Any) -> None:
    """Launch a kernel on the current stream of the current device.

    Parameters
    ----------
    spec : KernelSpec
    *values : cupy.ndarray or int
        Its arguments.

    Raises
    ------
    TypeError
        An array has another dtype than the kernel reads, or is not C-contiguous.
    """
    import cupy
    import numpy as np

    n_blocks = spec.n_blocks(spec.numbers(values))
    if n_blocks == 0:
        return
    given = [
        value if kind.endswith("*") else np.dtype(kind).type(value)
        for (_, kind), value in zip(spec.arguments, values, strict=True)
    ]
    kernel = _function(spec.file, spec.name, cupy.cuda.Device().id)
    kernel((n_blocks,), (spec.threads,), tuple(given))
