"""``cupy.ndarray``: a wrapper around a numpy array that behaves as if its values were far away."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from cupy import _snapshot, stand_in

AS_GIVEN = {"astype", "copy", "view", "transpose", "swapaxes"}  # their layout is that of numpy
POISON = 0xFF  # of memory that nobody wrote to: NaN, and -1


def wrap(value: Any, *, layout: bool = False) -> Any:
    """Return what a function gives, with arrays and scalars on the device.

    CuPy's results are C-contiguous where numpy's follow their operands; `layout` keeps those.
    """
    if isinstance(value, tuple):
        return tuple(wrap(each, layout=layout) for each in value)
    if isinstance(value, list):
        return [wrap(each, layout=layout) for each in value]
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    host = np.asarray(value)
    if host.base is None and not layout:
        host = np.ascontiguousarray(host).reshape(host.shape)
    stand_in.allocate(host)
    array = object.__new__(ndarray)
    array._host = host
    return array


def unwrap(value: Any) -> Any:
    """Return what a function of numpy takes; arrays of the host are refused, as by CuPy."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (tuple, list)):
        return type(value)(unwrap(each) for each in value)
    return value


def call(name: str, function: Callable[..., Any], args: Any, kwargs: Any, **options: Any) -> Any:
    """Call numpy in place of the function of CuPy's that is called `name`."""
    with np.errstate(all="ignore"):  # a GPU warns of nothing
        found = function(*unwrap(args), **{key: unwrap(each) for key, each in kwargs.items()})
    out = kwargs.get("out")
    return out if isinstance(out, ndarray) else wrap(found, **options)


def index(given: Any) -> Any:
    """Return an index for numpy: arrays of either side, and an end that makes views of scalars."""
    parts = given if isinstance(given, tuple) else (given,)
    host = tuple(part._host if isinstance(part, ndarray) else part for part in parts)
    return host if any(part is Ellipsis for part in host) else (*host, Ellipsis)


def is_advanced(given: Any) -> bool:
    """Whether an index selects by an array."""
    parts = given if isinstance(given, tuple) else (given,)
    return any(isinstance(part, (ndarray, np.ndarray, list)) for part in parts)


class ndarray(NDArrayOperatorsMixin):  # noqa: N801 - its name in CuPy
    """An array of the device."""

    __slots__ = ("__weakref__", "_host")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape: Any, dtype: Any = float, order: str = "C") -> None:
        self._host = np.empty(shape, dtype, order)
        stand_in.allocate(self._host)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        full = f"cupy.ndarray.{name}"
        _snapshot.require(full)
        found = getattr(self._host, name)
        if not callable(found):
            return found if isinstance(found, tuple) else wrap(found)

        def method(*args: Any, **kwargs: Any) -> Any:
            _snapshot.check(full, args, kwargs)
            return call(full, found, args, kwargs, layout=name in AS_GIVEN)

        return method

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._host.__array_interface__, "version": 3}

    @property
    def data(self) -> SimpleNamespace:
        """Where the values are."""
        return SimpleNamespace(ptr=self._host.ctypes.data, device_id=0, mem=self)

    @property
    def device(self) -> Any:
        """The only one."""
        from cupy.cuda import Device

        return Device(0)

    def get(
        self, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True
    ) -> np.ndarray:
        """Copy to the host."""
        if out is None:
            return self._host.copy("C" if order == "A" else order)
        if not isinstance(out, np.ndarray) or out.dtype != self._host.dtype:
            raise TypeError(f"cannot be obtained from {self._host.dtype} array")
        if out.shape != self._host.shape:
            raise ValueError("Shape mismatch")
        out[...] = self._host
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        """Copy from the host."""
        if not isinstance(arr, np.ndarray) or arr.dtype != self._host.dtype:
            raise TypeError(f"cannot be set to {self._host.dtype} array")
        if arr.shape != self._host.shape:
            raise ValueError("Shape mismatch")
        if not (self._host.flags.c_contiguous or self._host.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        self._host[...] = arr

    def fill(self, value: Any) -> None:
        """Set all to one value."""
        self[...] = value

    def argsort(self, axis: int | None = -1, kind: str | None = None) -> Any:
        """Sort stably, the only way there is."""
        if kind not in {None, "stable"}:
            raise ValueError("kind can only be None or 'stable'")
        return wrap(self._host.argsort(axis, kind="stable"))

    def sort(self, axis: int = -1, kind: str | None = None) -> None:
        """Sort in place, stably."""
        if kind not in {None, "stable"}:
            raise ValueError("kind can only be None or 'stable'")
        if not self._host.flags.c_contiguous:
            raise NotImplementedError("Sorting non-contiguous array is not supported.")
        self._host.sort(axis, kind="stable")

    def argpartition(self, kth: Any, axis: int | None = -1) -> Any:
        """Part the smallest from the others; a count must be Python's."""
        if isinstance(kth, np.integer):
            raise TypeError(f"{type(kth).__name__!r} object is not iterable")
        return wrap(np.argpartition(self._host, kth, axis))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        import cupy

        function = getattr(cupy, ufunc.__name__, None)
        if method != "__call__":
            function = getattr(function, method, None)
        if function is None:
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        return function(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        import cupy

        path = [*func.__module__.split(".")[1:], func.__name__]
        try:
            function = functools.reduce(getattr, path, cupy)
        except AttributeError:
            return NotImplemented
        return function(*args, **kwargs)

    def __getitem__(self, given: Any) -> Any:
        found = self._host[index(given)]
        if is_advanced(given):  # numpy may give the transpose of what it gathered
            found = np.ascontiguousarray(found).reshape(found.shape)
        return wrap(found)

    def __setitem__(self, given: Any, value: Any) -> None:
        at, advanced = index(given), is_advanced(given)
        if isinstance(value, ndarray):
            value = value._host
        elif not advanced and np.ndim(value) > 0:  # CuPy fills, and copies to arrays of indices
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        with np.errstate(all="ignore"):
            self._host[at] = value
            if not advanced:
                return
            kept, wanted = self._host[at], np.asarray(value).astype(self._host.dtype)
        if not np.array_equal(kept, np.broadcast_to(wanted, kept.shape), equal_nan=True):
            raise RuntimeError("an index occurs twice, with two values: which stays is undefined")

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __complex__(self) -> complex:
        return complex(self._host)

    def __format__(self, spec: str) -> str:
        return format(self._host, spec)

    def __repr__(self) -> str:
        return repr(self._host)

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Any:
        return self.copy()

    def __reduce__(self) -> Any:
        import cupy

        return cupy.array, (self.get(),)

    def __imatmul__(self, other: Any) -> Any:  # CuPy has none: Python makes a product anew
        return operator.matmul(self, other)
