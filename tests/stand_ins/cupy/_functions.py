"""CuPy's functions: numpy's, behind CuPy's signatures, with what CuPy does otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from cupy import _snapshot, stand_in
from cupy._array import POISON, call, ndarray, wrap

# These make arrays of what is no array, or speak of types; all others want one of the device.
WITHOUT_ARRAYS = {
    *("arange", "broadcast_shapes", "can_cast", "common_type", "diag_indices", "empty", "eye"),
    *("full", "identity", "indices", "isscalar", "linspace", "logspace", "ones", "promote_types"),
    *("result_type", "tri", "tril_indices", "triu_indices", "zeros"),
}
TRUTHS = {"allclose", "array_equal", "array_equiv"}  # numpy gives a bool, CuPy an array
AS_GIVEN = {"asfortranarray", "copy", "empty", "full", "ones", "zeros"}
ATOMIC = {
    "add": "int32 int64 uint32 uint64 float16 float32 float64",
    "subtract": "int32 uint32",
    "maximum": "int32 int64 uint32 uint64 float32 float64",
    "minimum": "int32 int64 uint32 uint64 float32 float64",
    "bitwise_and": "int32 int64 uint32 uint64",
    "bitwise_or": "int32 int64 uint32 uint64",
    "bitwise_xor": "int32 int64 uint32 uint64",
}


class ufunc:  # noqa: N801 - its name in CuPy
    """A function of numbers; it takes Python's and numpy's scalars, and arrays of the device."""

    def __init__(self, name: str) -> None:
        self.name, self._numpy = name, getattr(np, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _snapshot.check(f"cupy.{self.name}", args, kwargs)
        inputs, outputs = args[: self._numpy.nin], args[self._numpy.nin :]
        if outputs:
            kwargs["out"] = outputs[0]
        if kwargs.get("out") is not None and not isinstance(kwargs["out"], ndarray):
            raise TypeError("Output arguments type must be cupy.ndarray")
        for each in inputs:
            if isinstance(each, (list, tuple)):
                raise TypeError(f"Unsupported type {type(each)}")
        return call(self.name, self._numpy, inputs, kwargs)

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        """Add, or the like, as often as an index occurs."""
        if self.name not in ATOMIC:
            raise NotImplementedError(f"`cupy_{self.name}.at` is not supported yet")
        if a.dtype.name not in ATOMIC[self.name].split():
            raise TypeError(f"cupy.{self.name}.at only supports {ATOMIC[self.name]} as data type")
        call(self.name, self._numpy.at, (a, indices, b), {})

    def reduce(self, array: ndarray, *args: Any, **kwargs: Any) -> Any:
        """Sum or multiply; CuPy reduces by nothing else."""
        if self.name not in {"add", "multiply"}:
            raise NotImplementedError(f"`cupy_{self.name}.reduce` is not supported yet")
        _snapshot.check("cupy.ufunc.reduce", (array, *args), kwargs)
        return call(self.name, self._numpy.reduce, (array, *args), kwargs)

    def outer(self, A: ndarray, B: ndarray, **kwargs: Any) -> Any:
        """Apply to all pairs."""
        return call(self.name, self._numpy.outer, (A, B), kwargs)


def array(
    obj: Any, dtype: Any = None, copy: bool | None = True, order: Any = "K", ndmin: int = 0
) -> Any:
    """Copy to the device, where it is not there already."""
    if isinstance(obj, ndarray):
        host = np.array(obj._host, dtype, copy=copy, order=order or "K", ndmin=ndmin)
        return wrap(host, layout=True)
    if isinstance(obj, (list, tuple)) and any(isinstance(each, ndarray) for each in obj):
        obj = [each._host for each in obj]
    order = "C" if order in {None, "K", "A"} else order
    if isinstance(obj, np.ndarray) and obj.flags.f_contiguous and not obj.flags.c_contiguous:
        order = "F"
    host = np.array(obj, dtype, order=order, ndmin=ndmin)
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    return wrap(host, layout=True)


def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False
) -> Any:
    """Copy to the device where needed."""
    return array(a, dtype, copy, order)


def ascontiguousarray(a: Any, dtype: Any = None) -> Any:
    """Copy to the device, and to C order, where needed."""
    return wrap(np.ascontiguousarray(array(a, dtype, None)._host))


def asnumpy(
    a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True
) -> np.ndarray:
    """Copy to the host where needed."""
    if isinstance(a, ndarray):
        return a.get(stream, order, out)
    return np.asarray(a, order=order)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> Any:
    """Return memory that reads as NaN, or -1, until it is written to."""
    found = ndarray(shape, dtype, order)
    raw = found._host.reshape(-1, order="A").view(np.uint8)
    raw[...] = POISON if found.dtype != bool else 1
    return found


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", shape: Any = None) -> Any:
    """Return memory as `empty` does, in the layout of another array."""
    host = np.empty_like(prototype._host, dtype, order, shape=shape)
    return empty(host.shape, host.dtype, "C" if host.flags.c_contiguous else "F")


def lexsort(keys: ndarray) -> Any:
    """Sort by rows of a matrix, the last one first; there is no tuple of keys."""
    if keys.ndim == 1:
        return array(0)
    if keys.ndim > 2:
        raise NotImplementedError("Keys with the rank of three or more is not supported in lexsort")
    return wrap(np.lexsort(keys._host))


def sort(a: ndarray, axis: int | None = -1, kind: str | None = None) -> Any:
    """Sort stably."""
    found = a.flatten() if axis is None else a.copy()
    found.sort(-1 if axis is None else axis, kind)
    return found


def argsort(a: ndarray, axis: int | None = -1, kind: str | None = None) -> Any:
    """Sort stably."""
    return a.argsort(axis, kind)


def argpartition(a: ndarray, kth: Any, axis: int | None = -1) -> Any:
    """Part the smallest from the others."""
    return a.argpartition(kth, axis)


def bincount(x: ndarray, weights: Any = None, minlength: int | None = None) -> Any:
    """Count, or sum weights in float64."""
    if x.dtype.kind == "f":
        raise TypeError("x must be int array")
    if weights is not None and weights.shape != x.shape:
        raise ValueError("The weights and list don't have the same length.")
    return call("bincount", np.bincount, (x, weights, int(minlength or 0)), {})


def searchsorted(a: ndarray, v: Any, side: str = "left", sorter: Any = None) -> Any:
    """Find where values belong; both are of the device, but for numbers of Python."""
    if not isinstance(a, ndarray):
        raise NotImplementedError("Only int or ndarray are supported for a")
    if not isinstance(v, (ndarray, int, float, complex)):
        raise NotImplementedError("Only python scalars or ndarrays are supported for v")
    return call("searchsorted", np.searchsorted, (a, v, side, sorter), {})


def where(condition: ndarray, x: Any = None, y: Any = None) -> Any:
    """Choose."""
    if (x is None) != (y is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    given = (condition,) if x is None else (condition.astype(bool, copy=False), x, y)
    return call("where", np.where, given, {})


def einsum(subscripts: str, *operands: Any, dtype: Any = None, optimize: Any = False) -> Any:
    """Sum products; operands may be cast to less."""
    casting: dict[str, Any] = {} if dtype is None else {"dtype": dtype, "casting": "unsafe"}
    return call("einsum", np.einsum, (subscripts, *operands), {"optimize": optimize, **casting})


def cholesky(a: ndarray) -> Any:
    """Decompose; what is not positive definite becomes NaN, unless `cupyx.errstate` says raise."""
    try:
        return call("cholesky", np.linalg.cholesky, (a,), {})
    except np.linalg.LinAlgError:
        if stand_in.linalg_raises:
            raise
        return wrap(np.tril(np.full(a.shape, np.nan, np.result_type(a.dtype, np.float32))))


OTHERWISE: dict[str, Callable[..., Any]] = {
    f"cupy.{function.__name__}": function
    for function in (
        *(array, asarray, ascontiguousarray, asnumpy, empty, empty_like, lexsort, sort),
        *(argsort, argpartition, bincount, searchsorted, where, einsum),
    )
} | {"cupy.asanyarray": asarray, "cupy.linalg.cholesky": cholesky}


def _has_array(values: Any) -> bool:
    return any(
        _has_array(each) if isinstance(each, (list, tuple)) else isinstance(each, ndarray)
        for each in values
    )


@cache
def function(name: str) -> Any:
    """Return what CuPy calls `name`."""
    _snapshot.require(name)
    module, _, short = name.rpartition(".")
    found = getattr(np.linalg if module == "cupy.linalg" else np, short, None)
    if name in _snapshot.UFUNCS and isinstance(found, np.ufunc):
        return ufunc(short)
    if isinstance(found, type) or (found is not None and not callable(found)):
        return found  # a dtype or a constant, which CuPy has from numpy
    instead = OTHERWISE.get(name)
    if found is None and instead is None:
        raise NotImplementedError(f"the stand-in has no {name}")

    def checked(*args: Any, **kwargs: Any) -> Any:
        _snapshot.check(name, args, kwargs)
        if instead is not None:
            return instead(*args, **kwargs)
        if short not in WITHOUT_ARRAYS and not _has_array((*args, *kwargs.values())):
            raise TypeError(f"{name} takes arrays of the device")
        layout = short in AS_GIVEN or module == "cupy.linalg"
        result = call(name, found, args, kwargs, layout=layout)
        return wrap(np.asarray(result)) if short in TRUTHS else result

    checked.__name__ = short
    return checked
