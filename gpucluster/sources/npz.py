"""Archives of NumPy arrays, .npz."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gpucluster.errors import CorruptInputError
from gpucluster.sources.arrays import ArraySource, Part, check_matrix
from gpucluster.sources.base import Columns, Source, SourceInfo, check_claims, reading
from gpucluster.sources.columns import to_text
from gpucluster.sources.detect import check_names, only_vector
from gpucluster.sources.raw import array_keys, npy_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

VECTOR_NAMES = ("embeddings", "embedding", "vectors", "X")
ID_NAME = "ids"


def open_npz(paths: Sequence[str], asked: Columns) -> Source:
    """Open .npz files; the arrays that are used are held in memory.

    Vectors are the array that was asked for, else the one of a usual name, else the only
    two-dimensional one. Ids are the array that was asked for, else ``ids``.

    Parameters
    ----------
    paths : sequence of str
        In reading order.
    asked : Columns
        The names that the user gave.

    Returns
    -------
    Source

    Raises
    ------
    ConfigError
        Several arrays may be the vectors.
    SchemaMismatchError
        An array is missing.
    CorruptInputError
        An array claims another size than the archive says, or far more than is stored.
    """
    columns = asked
    types: dict[str, str] = {}
    parts: list[Part] = []
    for path in paths:
        with reading(path), zipfile.ZipFile(path) as archive:
            if not parts:
                columns, types = _choose(path, archive, asked)
            roles = {"vector": columns.vector, "id": columns.id, **asked.payload()}
            check_names(roles, (name.removesuffix(".npy") for name in archive.namelist()), path)
            arrays = {role: _read(path, archive, name) for role, name in roles.items() if name}
            check_matrix(path, arrays["vector"].shape, arrays["vector"].dtype)
            ids = array_keys(path, arrays["id"]) if "id" in arrays else None
            payload = {}
            if "text" in arrays:
                payload["text"] = to_text(pa.array(arrays["text"]))
            if "truth" in arrays:
                payload["truth"] = array_keys(path, arrays["truth"])
            parts.append(Part(path, arrays["vector"], ids, payload=payload))
    return ArraySource(SourceInfo("npz", tuple(paths), columns=columns, fields=types), parts)


def _choose(path: str, archive: zipfile.ZipFile, asked: Columns) -> tuple[Columns, dict[str, str]]:
    """Return which array plays which role, and the type of each array."""
    types, matrices = {}, []
    for member in archive.namelist():
        name = member.removesuffix(".npy")
        if name != member:
            with archive.open(member) as file:
                shape, _, dtype = npy_header(file)
            types[name] = f"{dtype} {list(shape)}"
            if len(shape) == 2:
                matrices.append(name)
    check_names({"vector": asked.vector}, types, path)
    columns = Columns(
        id=asked.id or (ID_NAME if ID_NAME in types else None),
        vector=asked.vector or only_vector(matrices, VECTOR_NAMES, types, path),
        text=asked.text,
        truth=asked.truth,
    )
    return columns, types


def _read(path: str, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read an array after its header was found to agree with the archive's directory."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        shape, _, dtype = npy_header(file)
        expected_bytes = file.tell() + math.prod(shape) * dtype.itemsize
    if member.file_size != expected_bytes:
        raise CorruptInputError(
            f"{path}: array {name!r} stands for {expected_bytes:,} bytes, "
            f"the archive has {member.file_size:,}"
        )
    check_claims(path, claimed_bytes=expected_bytes, stored_bytes=Path(path).stat().st_size)
    with archive.open(member) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
