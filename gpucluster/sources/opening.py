"""One door for all data: files by their names, everything else by what it is."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, cast

from gpucluster.device.child import Child
from gpucluster.errors import DtypeError, SchemaMismatchError, SourceNotFoundError
from gpucluster.places import ObjectPath, is_address, place
from gpucluster.sources.arrow import open_arrow
from gpucluster.sources.base import Columns, Source, reading
from gpucluster.sources.copies import STREAMED, copies_of
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

ENRICHED = ".enriched"  # ends the name of a folder with the files of a collection, enriched

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
        Files of one format, read in the given order, those of a folder or glob by name; on a
        disk, or as addresses such as ``s3://bucket/folder/*.parquet``.
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
    Arrow IPC files are converted at once, in another process, and JSON lines are counted. Of
    objects in a bucket, all but Parquet and JSON lines are copied first.
    """
    asked = Columns(id_column, vector_column, text_column, truth_column)
    items = data if isinstance(data, list | tuple) else [data]
    if not items or not all(isinstance(item, str | os.PathLike) for item in items):
        return open_memory(data, asked, vector_dtype=vector_dtype)
    paths = [path for item in items for path in expand(os.fspath(item))]
    format_ = common_format(paths)
    if format_ in STREAMED or not any(map(is_address, paths)):
        return _open_files(format_, paths, asked, vector_dtype, child)
    copies = copies_of(paths)
    here = [
        path if copy is None else str(copy.path) for path, copy in zip(paths, copies, strict=True)
    ]
    source: Any = _open_files(format_, here, asked, vector_dtype, child)
    source.info = replace(source.info, paths=tuple(paths))
    source.copies = copies  # they are there as long as the source is
    return cast("Source", source)


def _open_files(
    format_: str,
    paths: Sequence[str],
    asked: Columns,
    vector_dtype: str | None,
    child: Child | None,
) -> Source:
    match format_:
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
    path = place(item)
    with reading(item):  # names that no disk takes, and folders that are closed
        return _expand_address(path) if isinstance(path, ObjectPath) else _expand_path(item, path)


def _expand_path(item: str, path: Path) -> list[str]:
    """Return the files that a path, a folder or a glob on a disk stands for."""
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        inside = sorted(path.rglob("*"))
        files = [f for f in inside if f.is_file() and _is_data(f.relative_to(path))]
        if not files:
            raise SourceNotFoundError(
                f"{item}: the folder holds no file that can be read",
                hint=HINT,
            )
    else:
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = [f for f in matches if f.is_file() and _is_data(Path(f.name))]
        files = [f for f in files if ENRICHED in item or not _is_copy(f)]
        if not files:
            raise SourceNotFoundError(f"{item}: there is no such file or folder")
    return [str(file) for file in files]


def _expand_address(path: ObjectPath) -> list[str]:
    """Return the addresses of the objects that one, a folder or a glob stands for."""
    if path.is_file():
        return [str(path)]
    if below := list(path.rglob("*")):
        start = len(path.key) + 1 if path.key else 0
        files = [each for each in below if _is_data(PurePosixPath(each.key[start:]))]
        if not files:
            raise SourceNotFoundError(f"{path}: no object there can be read", hint=HINT)
    else:
        found = ObjectPath(path.scheme, path.container).glob(path.key)
        named = [each for each in found if "/." not in each.key.removeprefix(path.parent.key)]
        files = [each for each in named if _is_data(PurePosixPath(each.name))]
        files = [each for each in files if ENRICHED in path.key or not _is_copy(each)]
        if not files:
            raise SourceNotFoundError(f"{path}: there is no such object or folder")
    return [str(each) for each in files]


def _is_data(inside: PurePath) -> bool:
    """Whether a file that was not named itself is meant.

    No marker, hidden file, ids, run, or enriched copy is.
    """
    hidden = any(part.startswith((".", "_", "run_")) for part in inside.parts[:-1])
    hidden |= any(part.endswith(ENRICHED) for part in inside.parts[:-1])
    hidden |= inside.name.startswith((".", "_"))
    ids = Path(inside.stem).suffix == ".ids"
    return not hidden and not ids and inside.name.lower().endswith(tuple(FORMATS))


def _is_copy(path: Path | ObjectPath) -> bool:
    return any(part.endswith(ENRICHED) for part in PurePosixPath(str(path)).parts[:-1])


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
