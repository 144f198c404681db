"""Which column plays which role, when nobody said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from gpucluster.errors import ConfigError, CorruptInputError, DtypeError, SchemaMismatchError
from gpucluster.sources.base import MAX_COLUMNS, Columns
from gpucluster.sources.columns import (
    is_any_list,
    is_bytes,
    is_float_list,
    is_key,
    is_list,
    is_multi_vector,
    is_sparse,
    is_text,
)

if TYPE_CHECKING:
    import pyarrow as pa

ID_NAMES = ("document_id", "point_id", "id", "doc_id", "_id", "uuid", "key")
VECTOR_NAMES = ("embedding", "embeddings", "vector", "emb")
TEXT_NAMES = ("text", "content", "body", "document", "chunk", "page_content")

SHOWN = 20  # names in one message


def candidates(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the columns that may be id, vector and text, the likeliest first.

    Ids and texts have one of their usual names and a fitting type. Vectors are all columns of
    float lists; integer lists and bytes count when they are named like vectors. Where there is
    none, they are all columns of sparse vectors, or of several vectors a row.
    """

    def named(names: Iterable[str], fits: Callable[[pa.DataType], bool]) -> tuple[str, ...]:
        types = {field.name: field.type for field in schema}
        return tuple(name for name in names if name in types and fits(types[name]))

    def is_vector(field: pa.Field) -> bool:
        fits = is_list(field.type) or is_bytes(field.type) or is_nested(field)
        return (field.name in VECTOR_NAMES and fits) or is_float_list(field.type)

    def is_nested(field: pa.Field) -> bool:
        return is_sparse(field.type) or is_multi_vector(field.type)

    vectors = (
        filter(is_vector, schema) if any(map(is_vector, schema)) else filter(is_nested, schema)
    )
    return {
        "id": named(ID_NAMES, is_key),
        "vector": tuple(field.name for field in vectors),
        "text": named(TEXT_NAMES, is_text),
    }


def choose(schema: pa.Schema, asked: Columns, where: str) -> Columns:
    """Decide which column is the id, the vector and the text.

    What was asked for is taken. Else the id and the text are their first candidates, and
    the vector is the only one. Without an id, rows are known by their position. The truth
    is never guessed.

    Parameters
    ----------
    schema : pyarrow.Schema
    asked : Columns
        The names that the user gave.
    where : str
        The source, for messages.

    Returns
    -------
    Columns

    Raises
    ------
    SchemaMismatchError
        A named column is missing, or nothing looks like vectors.
    ConfigError
        Several columns may be the vector.
    CorruptInputError
        There are more columns than any table has.
    DtypeError
        The text that was named is a list.
    """
    if len(schema) > MAX_COLUMNS:
        raise CorruptInputError(
            f"{where}: {len(schema):,} columns, at most {MAX_COLUMNS:,} expected"
        )
    check_names({"id": asked.id, "vector": asked.vector, **asked.payload()}, schema.names, where)
    found = candidates(schema)
    types = {field.name: str(field.type) for field in schema}
    if asked.text and is_any_list(schema.field(asked.text).type):
        raise DtypeError(
            f"{where}: column {asked.text!r} is {types[asked.text]}, no text",
            hint="join each list into one text, or name another column",
        )
    return Columns(
        id=asked.id or next(iter(found["id"]), None),
        vector=asked.vector or only_vector(found["vector"], VECTOR_NAMES, types, where),
        text=asked.text or next(iter(found["text"]), None),
        truth=asked.truth,
    )


def only_vector(
    found: Sequence[str], usual: Iterable[str], types: Mapping[str, str], where: str
) -> str:
    """Return the only candidate with a usual name, or else the only candidate.

    Parameters
    ----------
    found : sequence of str
        The candidates.
    usual : iterable of str
        Names that vectors usually have.
    types : dict of str to str
        All columns with their types, for messages.
    where : str
        The source, for messages.
    """
    for only in ([name for name in found if name in usual], found):
        if len(only) == 1:
            return only[0]
    if not found:
        raise SchemaMismatchError(
            f"{where}: no column looks like vectors: {_listed(types, types)}",
            hint="name a column of number lists, or of bytes, with vector_column",
        )
    raise ConfigError(
        f"{where} has several columns that may hold the vectors: {_listed(found, types)}",
        path="vector_column",
        expected="the name of one of them",
        hint="name one of them",
    )


def check_names(roles: Mapping[str, str | None], names: Iterable[str], where: str) -> None:
    """Raise unless each column that `roles` names is there, and there once.

    Raises
    ------
    SchemaMismatchError
        With the nearest name that exists.
    """
    names = list(names)
    for role, name in roles.items():
        if name is None or names.count(name) == 1:
            continue
        if name in names:
            raise SchemaMismatchError(f"{where}: {names.count(name)} columns are called {name!r}")
        near = get_close_matches(name, names, n=1)
        raise SchemaMismatchError(
            f"{where}: {role}_column {name!r} is not among {_listed(names)}",
            hint=f"did you mean {near[0]!r}?" if near else None,
        )


def _listed(names: Iterable[str], types: Mapping[str, str] | None = None) -> str:
    words = [f"{name} ({types[name]})" if types else name for name in names]
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return (", ".join(words[:SHOWN]) or "no columns") + more
