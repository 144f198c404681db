"""Compile every kernel for every architecture, and say what each takes of a processor.

``python -m tests.kernels.compiling`` prints the table of docs/gpu.md.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpucluster.device.kernels import KERNELS, OPTIONS, read_source

ARCHITECTURES = (75, 80, 86, 89, 90, 100)
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True)
class Compiled:
    """What the assembler said of a kernel."""

    kernel: str
    architecture: int
    registers: int
    spilled_bytes: int


def sources() -> list[str]:
    """Return the files that hold kernels."""
    return list(dict.fromkeys(spec.file for spec in KERNELS))


def by_nvcc(file: str) -> list[Compiled]:
    """Compile a file to machine code for all architectures.

    What is wrong is in the `subprocess.CalledProcessError`.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, file)
        code.write_text(read_source(file), encoding="utf-8")
        targets = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in ARCHITECTURES]
        command = ["nvcc", *OPTIONS, "-ftz=true", "-fatbin", "-Xptxas", "-v", *targets]
        done = subprocess.run(
            [*command, "-o", code.with_suffix(".fatbin"), code],
            check=True,
            capture_output=True,
            text=True,
        )
    return list(_read(done.stderr))


def _read(said: str) -> Iterator[Compiled]:
    _, *entries = _ENTRY.split(said)
    for name, of, about in zip(entries[::3], entries[1::3], entries[2::3], strict=True):
        registers, spills = _REGISTERS.search(about), _SPILLS.search(about)
        assert registers is not None
        assert spills is not None
        yield Compiled(name, int(of), int(registers[1]), sum(map(int, spills.groups())))


def nvrtc() -> ctypes.CDLL | None:
    """Return the run-time compiler that came with CuPy or CUDA, where there is one."""
    for folder in map(Path, sys.path):
        for found in sorted(folder.glob("nvidia/c*/lib/libnvrtc.so.*[0-9]")):
            for builtins in found.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins))  # it is looked for by name, but not beside itself
            return ctypes.CDLL(str(found))
    for name in ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def by_nvrtc(library: ctypes.CDLL, file: str, architecture: int) -> str:
    """Compile a file as CuPy does; return what the compiler said, nothing when all is well."""
    program = ctypes.c_void_p()
    text = read_source(file).encode()
    library.nvrtcCreateProgram(ctypes.byref(program), text, file.encode(), 0, None, None)
    options = [*OPTIONS, "-ftz=true", f"--gpu-architecture=sm_{architecture}"]
    given = (ctypes.c_char_p * len(options))(*[each.encode() for each in options])
    failed = library.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    said = log.value.decode().strip()
    return said or (f"error {failed}" if failed else "")


def table() -> str:
    """Return registers a thread of each kernel, by architecture; spills in brackets."""
    found = {(each.kernel, each.architecture): each for file in sources() for each in by_nvcc(file)}
    lines = [
        f"| kernel | {' | '.join(f'sm_{each}' for each in ARCHITECTURES)} |",
        f"|---|{'---:|' * len(ARCHITECTURES)}",
    ]
    for spec in KERNELS:
        cells = []
        for architecture in ARCHITECTURES:
            each = found[spec.name, architecture]
            spilled = f" ({each.spilled_bytes} B spilled)" if each.spilled_bytes else ""
            cells.append(f"{each.registers}{spilled}")
        lines.append(f"| `{spec.name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if shutil.which("nvcc") is None:
        raise SystemExit("nvcc is not there")
    sys.stdout.write(f"{table()}\n")
