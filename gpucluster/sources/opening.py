"""One door for all data: files by their names, everything else by what it is."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpucluster.device.child import Child
from gpucluster.errors import DtypeError, SchemaMismatchError, SourceNotFoundError
from gpucluster.sources.arrow import open_arrow
from gpucluster.sources.base import Columns, Source
from gpucluster.sources.jsonl import open_jsonl
from gpucluster.sources.memory import open_memory
from gpucluster.sources.npz import open_npz
from gpucluster.sources.parquet import open_parquet
from gpucluster.sources.raw import BINS, VECS, open_raw

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    **{
        f".{text}{packed}": "jsonl"
        for text in ("jsonl", "ndjson")
        for packed in ("", ".gz", ".zst")
    },
    ".npz": "npz",
    ".npy": "npy",
    **{f".{name}": name for name in (*VECS, *BINS)},
}

_PICKLE = "it can run code when it is read; save the array with numpy.save(..., allow_pickle=False)"
_TEXT = "text loses values and types; write Parquet, for instance with duckdb or polars"
REFUSED = {
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".joblib": _PICKLE,
    ".pt": _PICKLE,
    ".pth": _PICKLE,
    ".csv": _TEXT,
    ".tsv": _TEXT,
    ".json": "write one object a line, as .jsonl",
}

HINT = f"files that are read end in {', '.join(FORMATS)}"


def open_source(
    data: Any,
    *,
    id_column: str | None = None,
    vector_column: str | None = None,
    text_column: str | None = None,
    truth_column: str | None = None,
    vector_dtype: str | None = None,
    child: Child | None = None,
) -> Source:
    """Open vectors wherever they are; nothing but headers, or one vector, is read yet.

    Parameters
    ----------
    data : path, glob, folder, list of these, or data in memory
        Files of one format, read in the given order, those of a folder or glob by name.
        In memory: see `gpucluster.sources.memory.open_memory`.
    id_column, vector_column : str, optional
        By default they are found by type and usual names.
    text_column, truth_column : str, optional
        What to read beside the vectors; neither is read unless named.
    vector_dtype : {"float16", "float32", "float64", "int8", "uint8"}, optional
        What the bytes of a binary column are; float32 by default.
    child : Child, optional
        The process that reads Arrow IPC files; by default one is started for it.

    Returns
    -------
    Source

    Raises
    ------
    SourceNotFoundError
        Nothing lies at a path.
    DtypeError
        Data of that kind are not read; the message says what is.
    ConfigError, SchemaMismatchError
        A column cannot be chosen, or is missing.
    CorruptInputError
        A file is damaged, truncated or hostile.

    Notes
    -----
    Arrow IPC files are converted at once, in another process, and JSON lines are counted.
    """
    asked = Columns(id_column, vector_column, text_column, truth_column)
    items = data if isinstance(data, list | tuple) else [data]
    if not items or not all(isinstance(item, str | os.PathLike) for item in items):
        return open_memory(data, asked, vector_dtype=vector_dtype)
    paths = [path for item in items for path in expand(os.fspath(item))]
    match common_format(paths):
        case "parquet":
            return open_parquet(paths, asked, vector_dtype=vector_dtype)
        case "arrow":
            return open_arrow(paths, asked, vector_dtype=vector_dtype, child=child)
        case "jsonl":
            return open_jsonl(paths, asked)
        case "npz":
            return open_npz(paths, asked)
        case raw:
            return open_raw(paths, asked, raw)


def expand(item: str) -> list[str]:
    """Return the files that a path, a folder or a glob stands for."""
    path = Path(item).expanduser()
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        inside = sorted(path.rglob("*"))
        files = [file for file in inside if _is_data(file, file.relative_to(path))]
        if not files:
            raise SourceNotFoundError(
                f"{item}: the folder holds no file that can be read",
                hint=HINT,
            )
    else:
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = [file for file in matches if _is_data(file, Path(file.name))]
        if not files:
            raise SourceNotFoundError(f"{item}: there is no such file or folder")
    return [str(file) for file in files]


def _is_data(file: Path, inside: Path) -> bool:
    """Whether a file that was not named itself is meant: no marker, hidden file, ids, or run."""
    hidden = any(part.startswith((".", "_", "run_")) for part in inside.parts[:-1])
    hidden |= inside.name.startswith((".", "_"))
    ids = Path(file.stem).suffix == ".ids"
    return file.is_file() and not hidden and not ids and file.name.lower().endswith(tuple(FORMATS))


def common_format(paths: Sequence[str]) -> str:
    """Return the format of the files, by their names."""
    first: dict[str, str] = {}
    for path in paths:
        if (suffix := Path(path).suffix.lower()) in REFUSED:
            raise DtypeError(f"{path}: {suffix} files are not read", hint=REFUSED[suffix])
        known = [format_ for end, format_ in FORMATS.items() if path.lower().endswith(end)]
        if not known:
            raise DtypeError(f"{path}: files of this kind are not read", hint=HINT)
        first.setdefault(known[0], path)
    if len(first) > 1:
        raise SchemaMismatchError(
            f"{' and '.join(list(first.values())[:2])} are of different formats",
            hint="give files of one format",
        )
    return next(iter(first))
