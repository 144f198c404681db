"""Run kernels on the CPU: g++ compiles them with cuda_cpu.hpp, and ctypes calls them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpucluster.device.kernels import KernelSpec, read_source

HEADER = Path(__file__).parent / "cuda_cpu.hpp"
SCHEDULES = range(4)
DIVERGENT = 1
C_TYPES = {
    "float16": "half_bits",
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
}


class DivergentBarrierError(Exception):
    """Threads of a block wait at a barrier that others never reach."""


def launcher(spec: KernelSpec) -> str:
    """Return a function in C that calls a kernel with the arguments behind an array of pointers."""
    given = [
        f"*({C_TYPES[kind.rstrip('*')]}{'*' if kind.endswith('*') else ''}*)values[{i}]"
        for i, (_, kind, _) in enumerate(spec.arguments)
    ]
    return (
        f'extern "C" int run_{spec.name}(unsigned n_blocks, unsigned n_threads, int schedule, '
        "void** values) {\n"
        f"  return cuda_cpu::run(n_blocks, n_threads, schedule, [=] {{ {spec.name}(\n      "
        + ",\n      ".join(given)
        + "); });\n}\n"
    )


def build(spec: KernelSpec, folder: Path, source: str | None = None) -> ctypes.CDLL:
    """Compile a kernel, or another source of it, into `folder`, and load it."""
    text = f'#include "{HEADER}"\n{source or read_source(spec.file)}\n{launcher(spec)}'
    name = hashlib.sha256((text + HEADER.read_text()).encode()).hexdigest()[:16]
    library = folder / f"{spec.name}-{name}.so"
    if not library.exists():
        code = folder / f"{spec.name}-{name}-{os.getpid()}.cpp"
        code.write_text(text)
        made = folder / f"{spec.name}-{name}-{os.getpid()}.so"  # processes may share the folder
        subprocess.run(
            ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-o", made, code],
            check=True,
            capture_output=True,
            text=True,
        )
        made.replace(library)
    return ctypes.CDLL(str(library))


def run(library: ctypes.CDLL, spec: KernelSpec, *values: Any, schedule: int = 0) -> None:
    """Run a kernel; arrays are numpy's, and changed in place.

    Raises
    ------
    DivergentBarrierError
        It would hang on a GPU, or do something that is not defined.
    """
    n_blocks = spec.n_blocks(spec.numbers(values))
    if n_blocks > 0:
        launch(library, spec, n_blocks, spec.threads, values, schedule)


def launch(
    library: ctypes.CDLL,
    spec: KernelSpec,
    n_blocks: int,
    n_threads: int,
    values: Sequence[Any],
    schedule: int = 0,
) -> None:
    """Run a kernel in so many blocks and threads, as `run` does."""
    kept = [  # what the pointers point at
        ctypes.c_void_p(value.ctypes.data)
        if kind.endswith("*")
        else np.ctypeslib.as_ctypes_type(kind)(value)
        for (_, kind, _), value in zip(spec.arguments, values, strict=True)
    ]
    pointers = (ctypes.c_void_p * len(kept))(*[ctypes.addressof(each) for each in kept])
    function = getattr(library, f"run_{spec.name}")
    if function(n_blocks, n_threads, schedule, pointers) == DIVERGENT:
        raise DivergentBarrierError(spec.name)
