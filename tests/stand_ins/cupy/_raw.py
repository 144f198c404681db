"""``cupy.RawModule``: kernels on the emulator, and only those that the package describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cupy import _snapshot, stand_in
from cupy._array import ndarray


class RawModule:
    """The source of kernels; see `tests.kernels.emulator` for how they run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _snapshot.check("cupy.RawModule", args, kwargs)
        self.code = args[0] if args else kwargs["code"]
        if not isinstance(kwargs.get("options", ()), tuple):
            raise TypeError("options must be a tuple of strings")

    def get_function(self, name: str) -> Callable[..., None]:
        """Return a kernel; it is compiled when it is called first."""
        from gpucluster.device.kernels import KERNELS
        from tests.kernels import emulator

        (spec,) = (each for each in KERNELS if each.name == name)

        def kernel(grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
            if shared_mem:
                raise NotImplementedError("the emulator has no dynamic shared memory")
            if len(grid) != 1 or len(block) != 1 or not 0 < grid[0] < 2**31 or block[0] > 1024:
                raise ValueError(f"CUDA_ERROR_INVALID_VALUE: grid {grid}, block {block}")
            given = [
                _argument(name, each, value)
                for each, value in zip(spec.arguments, args, strict=True)
            ]
            stand_in.KERNELS.mkdir(mode=0o700, exist_ok=True)
            library = emulator.build(spec, stand_in.KERNELS, self.code)
            emulator.launch(library, spec, int(grid[0]), int(block[0]), given)

        return kernel


def _argument(kernel: str, declared: tuple[str, ...], value: Any) -> Any:
    """Return an argument for the emulator; a GPU would take any bits for the declared ones."""
    name, kind = declared[:2]
    if kind.endswith("*"):
        fits = isinstance(value, ndarray) and value.dtype == kind[:-1]
        if fits and value.flags.c_contiguous:
            return value._host
    elif isinstance(value, np.generic) and value.dtype == kind:
        return value
    raise TypeError(f"{kernel}: {name} is a {kind}, got {type(value).__name__} {value!r:.80}")
