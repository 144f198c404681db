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
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

OPTIONS = ("--std=c++17",)
BLOCK_THREADS = 256
GRID_BLOCKS = 1 << 16  # of grid-stride kernels at most: enough for all processors of any GPU
_SCALARS = {"int32": np.int32, "int64": np.int64}
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
    arguments : tuple of (str, str, str)
        Name, type and size of each, in order. The type is numpy's name of a dtype, with ``*``
        for an array. The size of an array is the product of what it names: numbers, and other
        arguments; empty where it follows from nothing else.
    n_blocks : callable
        Blocks of a launch, from the arguments by name: numbers, and the sizes of arrays.
    n_bytes : callable
        Bytes that must pass through device memory, from the same: what its time is held against.
    threads : int
        Of a block; whole warps.
    """

    file: str
    name: str
    arguments: tuple[tuple[str, str, str], ...]
    n_blocks: Callable[[dict[str, int]], int]
    n_bytes: Callable[[dict[str, int]], int]
    threads: int = BLOCK_THREADS

    def numbers(self, values: tuple[Any, ...]) -> dict[str, int]:
        """Return the numbers among the arguments, and the sizes of the arrays, by name.

        Raises
        ------
        TypeError
            An array has another dtype than the kernel reads, or is not C-contiguous.
        ValueError
            It has another size than the numbers say.
        """
        found = {
            name: int(value.size if kind.endswith("*") else value)
            for (name, kind, _), value in zip(self.arguments, values, strict=True)
        }
        for (name, kind, size), value in zip(self.arguments, values, strict=True):
            if not kind.endswith("*"):
                continue
            if value.dtype.name != kind[:-1] or not value.flags.c_contiguous:
                raise TypeError(
                    f"{self.name}: {name} is {value.dtype}, "
                    f"{'' if value.flags.c_contiguous else 'not '}contiguous; "
                    f"expected {kind[:-1]}, C order"
                )
            expected = prod(found[n] if n in found else int(n) for n in size.split())
            if size and found[name] != expected:
                raise ValueError(f"{self.name}: {name} has {found[name]} values, not {expected}")
        return found


def _rows_a_warp(numbers: dict[str, int]) -> int:
    rows = numbers.get("n_rows", numbers.get("n_pairs", 0))
    return min(GRID_BLOCKS, -(-rows // (BLOCK_THREADS // 32)))


def _scan_blocks(numbers: dict[str, int]) -> int:
    return -(-numbers["n_rows"] // numbers["rows_per_block"])


BY_ROW = 2**31 - 1  # for an exponent of the scan: that of each row's norm

SCAN_CAST = KernelSpec(
    "scan_cast.cu",
    "scan_cast_f32",
    (
        ("X", "float32*", "n_rows n_features"),
        ("shift", "float32*", "n_features"),
        ("n_rows", "int64", ""),
        ("n_features", "int32", ""),
        ("rows_per_block", "int32", ""),
        ("exponent", "int32", ""),
        ("with_sums", "int32", ""),
        ("cast", "float16*", "n_rows n_features"),
        ("scales", "float32*", "n_rows"),
        ("norms", "float32*", "n_rows"),
        ("residuals", "float32*", "n_rows"),
        ("flags", "uint8*", "n_rows"),
        ("column_sums", "float32*", ""),
    ),
    n_blocks=_scan_blocks,
    n_bytes=lambda of: (
        of["n_rows"] * (6 * of["n_features"] + 13)
        + of["with_sums"] * 4 * _scan_blocks(of) * of["n_features"]
    ),
)
FOLD_NEAREST = KernelSpec(
    "fold_nearest.cu",
    "fold_nearest_f32",
    (
        ("dots", "float32*", "n_rows n_cols"),
        ("first_row", "int64", ""),
        ("n_rows", "int64", ""),
        ("n_cols", "int32", ""),
        ("first_col", "int32", ""),
        ("n_centers", "int32", ""),
        ("columns", "float32*", "5 n_centers"),
        ("scales", "float32*", ""),
        ("norms", "float32*", "scales"),
        ("residuals", "float32*", "scales"),
        ("skip", "int32*", "scales"),
        ("best", "float32*", "scales"),
        ("second", "float32*", "scales"),
        ("floor", "float32*", "scales"),
        ("label", "int32*", "scales"),
    ),
    n_blocks=_rows_a_warp,
    n_bytes=lambda of: of["n_rows"] * (4 * of["n_cols"] + 48),
)
MOST_NEIGHBORS = 128  # that the kernel keeps
FOLD_NEIGHBORS = KernelSpec(
    "fold_neighbors.cu",
    "fold_neighbors_f32",
    (
        ("dots", "float32*", "n_rows n_cols"),
        ("first_row", "int64", ""),
        ("n_rows", "int64", ""),
        ("n_cols", "int32", ""),
        ("first_col", "int32", ""),
        ("n_others", "int32", ""),
        ("columns", "float32*", "5 n_others"),
        ("scales", "float32*", ""),
        ("norms", "float32*", "scales"),
        ("residuals", "float32*", "scales"),
        ("skip", "int32*", "scales"),
        ("n_kept", "int32", ""),
        ("bounds", "float32*", "scales n_kept"),
        ("found", "int32*", "scales n_kept"),
    ),
    n_blocks=_rows_a_warp,
    n_bytes=lambda of: of["n_rows"] * (4 * of["n_cols"] + 16 * of["n_kept"] + 16),
)


def _pair_sqdist(dtype: str, suffix: str) -> KernelSpec:
    return KernelSpec(
        "pair_sqdist.cu",
        f"pair_sqdist_{suffix}",
        (
            ("X", "float32*", ""),
            ("centers", f"{dtype}*", ""),
            ("rows", "int32*", "n_pairs"),
            ("labels", "int32*", "n_pairs"),
            ("n_pairs", "int64", ""),
            ("n_features", "int32", ""),
            ("sqdist", "float64*", "n_pairs"),
        ),
        n_blocks=_rows_a_warp,
        n_bytes=lambda of: of["n_pairs"] * (4 * of["n_features"] + 16),
    )


PAIR_SQDIST = {"float32": _pair_sqdist("float32", "f32"), "float64": _pair_sqdist("float64", "f64")}


def _finish_rows(dtype: str, suffix: str, itemsize: int) -> KernelSpec:
    return KernelSpec(
        "finish_rows.cu",
        f"finish_rows_{suffix}",
        (
            ("product", "float32*", "n_rows n_features"),
            ("first_row", "int64", ""),
            ("scales", "float32*", ""),
            ("column_scales", "float32*", "n_features"),
            ("n_rows", "int64", ""),
            ("n_features", "int32", ""),
            ("to_unit_length", "int32", ""),
            ("out", f"{dtype}*", "scales n_features"),
            ("norms", "float32*", "scales"),
        ),
        n_blocks=_rows_a_warp,
        n_bytes=lambda of: of["n_rows"] * ((4 + itemsize) * of["n_features"] + 8),
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
            ("X", f"{dtype}*", ""),
            ("order", "int32*", ""),
            ("starts", "int64*", ""),
            ("n_parts", "int32", ""),
            ("n_features", "int32", ""),
            ("sums", "float64*", "n_parts n_features"),
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
    FOLD_NEAREST,
    FOLD_NEIGHBORS,
    *PAIR_SQDIST.values(),
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
    ValueError
        It has another size than the numbers say.
    """
    kinds = (kind for _, kind, _ in spec.arguments)
    numbers = [value for value, kind in zip(values, kinds, strict=True) if not kind.endswith("*")]
    prepared(spec, *values)(*numbers)


def prepared(spec: KernelSpec, *values: Any) -> Callable[..., None]:
    """Look at the arguments of a kernel once, and return what launches it many times a second.

    Parameters
    ----------
    spec : KernelSpec
    *values : cupy.ndarray or int
        Its arguments.

    Returns
    -------
    callable
        Launches the kernel with these arrays and other numbers, which it takes in their order and
        does not look at.

    Raises
    ------
    TypeError, ValueError
        As `launch`.
    """
    import cupy

    sizes = spec.numbers(values)
    kernel, threads = _function(spec.file, spec.name, cupy.cuda.Device().id), (spec.threads,)
    given = list(values)
    places = [
        (place, name, _SCALARS[kind])
        for place, (name, kind, _) in enumerate(spec.arguments)
        if not kind.endswith("*")
    ]

    def go(*numbers: int) -> None:
        for (place, name, scalar), number in zip(places, numbers, strict=True):
            given[place], sizes[name] = scalar(number), number
        n_blocks = spec.n_blocks(sizes)
        if n_blocks > 0:
            kernel((n_blocks,), threads, tuple(given))

    return go
