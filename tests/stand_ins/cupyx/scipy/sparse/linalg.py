"""Eigenvectors of operators of the device, by ARPACK; CuPy's own method tells of no failure."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import scipy.sparse.linalg
from cupy import _snapshot
from cupy._array import wrap


class LinearOperator:
    """A matrix by its products with vectors of the device."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _snapshot.check("cupyx.scipy.sparse.linalg.LinearOperator", args, kwargs)
        given = dict(zip(("shape", "matvec"), args, strict=False)) | kwargs
        self.shape, self.matvec = given["shape"], given["matvec"]
        self.dtype = np.dtype(given["dtype"])


def eigsh(a: Any, k: int = 6, **kwargs: Any) -> Any:
    """Return eigenvalues, rising, and eigenvectors."""
    _snapshot.check("cupyx.scipy.sparse.linalg.eigsh", (a, k), kwargs)
    if kwargs.get("which", "LM") not in {"LM", "LA", "SA"}:
        raise ValueError("which must be 'LM','LA'or'SA'")
    if isinstance(a, cupy.ndarray):
        a = LinearOperator(a.shape, a.dot, dtype=a.dtype)

    def product(vector: np.ndarray) -> np.ndarray:
        found = a.matvec(cupy.asarray(vector.ravel()))
        if not isinstance(found, cupy.ndarray):
            raise TypeError(f"Unsupported type {type(found)}")
        return found.get().ravel()

    operator = scipy.sparse.linalg.LinearOperator(a.shape, matvec=product, dtype=a.dtype)
    first = kwargs.pop("v0", None)
    first = None if first is None else first.get().ravel()
    values, vectors = scipy.sparse.linalg.eigsh(operator, k, v0=first, **kwargs)
    order = np.argsort(values)
    return wrap(values[order]), wrap(np.asfortranarray(vectors[:, order]), layout=True)
