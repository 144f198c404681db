"""Plain columns beside the vectors, named by dot paths: what filters and groups are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import CorruptInputError, SchemaMismatchError
from gpucluster.sources.base import Source, reading

Place = tuple[tuple[str, ...], pa.DataType]  # the way to a field from the column on, and its type


def names_to_read(paths: Iterable[str]) -> list[str]:
    """Return every column that may hold one of the paths: ``a``, ``a.b`` and ``a.b.c``."""
    names: dict[str, None] = {}
    for path in paths:
        parts = path.split(".")
        names |= dict.fromkeys(".".join(parts[:cut]) for cut in range(1, len(parts) + 1))
    return list(names)


def find(schema: pa.Schema, path: str) -> Place | None:
    """Find a dot path: the column of that very name, or else a field of struct columns.

    Parameters
    ----------
    schema : pyarrow.Schema
    path : str

    Returns
    -------
    tuple of names, pyarrow.DataType, or None
        None when nothing is there.
    """
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        name, inner = ".".join(parts[:cut]), parts[cut:]
        if schema.names.count(name) != 1:
            continue
        type_ = schema.field(name).type
        while inner and pa.types.is_struct(type_) and type_.get_field_index(inner[0]) >= 0:
            type_ = type_.field(inner.pop(0)).type
        if not inner:
            return (name, *parts[cut:]), type_
    return None


def absent(path: str, schema: pa.Schema, known: Iterable[str], where: str) -> SchemaMismatchError:
    """Return the error for a path that leads nowhere, with the nearest one that does."""
    paths = dict.fromkeys([*_paths(schema), *known])
    near = get_close_matches(path, paths, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join([*paths][:20])}"
    return SchemaMismatchError(f"{where}: there is no field {path!r}", hint=hint)


def _paths(fields: Iterable[pa.Field], lead: str = "") -> list[str]:
    found = []
    for field in fields:
        found.append(lead + field.name)
        if pa.types.is_struct(field.type):
            found += _paths(field.type, f"{lead}{field.name}.")
    return found


def is_elsewhere(path: str, schema: pa.Schema, known: Mapping[str, str]) -> bool:
    """Whether other files of the source have the column that this one lacks: it is null here."""
    return any(name in known and name not in schema.names for name in names_to_read([path]))


def read_attributes(source: Source, names: Sequence[str]) -> pa.Table:
    """Read plain columns of all rows.

    Parameters
    ----------
    source : Source
    names : sequence of str
        Columns, or dot paths into struct columns.

    Returns
    -------
    pyarrow.Table
        A column for each name, of the source's own type (lists stay lists; views do not stay
        views), in the order of the input, so aligned with its ids. Null in the files that lack
        the column.

    Raises
    ------
    SchemaMismatchError
        A name leads nowhere, the files differ in its type, or the format has no columns.
    CorruptInputError
        The source has not as many rows as before.

    Notes
    -----
    Memory: the columns that are read, for all rows.
    """
    info = source.info
    tables = []
    for batch in source.columns(names_to_read(names)):
        columns = {}
        for name in names:
            place = find(batch.schema, name)
            if place is not None:
                (column, *inner), _ = place
                values = batch.column(column)
                columns[name] = without_views(pc.struct_field(values, inner) if inner else values)
            elif is_elsewhere(name, batch.schema, info.fields):
                columns[name] = pa.nulls(batch.num_rows)
            else:
                raise absent(name, batch.schema, info.fields, info.where)
        tables.append(pa.table(columns))
    if not tables:
        return pa.table({name: pa.nulls(0) for name in names})
    try:
        with reading(info.where):
            table = pa.concat_tables(tables, promote_options="permissive")
    except CorruptInputError as error:
        raise SchemaMismatchError(
            f"{info.where}: the files differ in the type of {' or '.join(names)}",
            hint="convert them to one schema",
        ) from error
    check_rows(source, table.num_rows)
    return table


def without_views(column: pa.Array) -> pa.Array:
    """Return a column of views as one that everything can be done with."""
    kind = column.type
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        # the cast of pyarrow 26 reads offsets that were never written
        column = pa.array(column.to_pylist(), pa.large_list(kind.value_type))
    elif pa.types.is_string_view(kind):
        column = column.cast(pa.large_string())
    elif pa.types.is_binary_view(kind):
        column = column.cast(pa.large_binary())
    return column


def check_rows(source: Source, n_rows: int) -> None:
    """Raise `CorruptInputError` when another reading found another number of rows."""
    if n_rows != source.info.n_rows:
        raise CorruptInputError(
            f"{source.info.where}: {source.info.n_rows:,} rows at first, {n_rows:,} when its "
            "columns were read",
            hint="does something write to it?",
        )
