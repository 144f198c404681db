"""The documents of a run, read once more: those that are shown, and the words of all."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import DiskFullError
from gpucluster.events import Reporter
from gpucluster.labeling.keywords.keyphrases import headline
from gpucluster.labeling.keywords.terms import TermCounter
from gpucluster.labeling.question.inputs import Medium, Sample, columns_needed, read_sample
from gpucluster.labeling.question.presigner import Presigner
from gpucluster.labeling.question.values import as_json, as_text, follow
from gpucluster.sources import Source, check_names, find, names_to_read
from gpucluster.types import NOISE, Labels, Rows

if TYPE_CHECKING:
    from gpucluster.labeling.settings import LabelingInputs, LabelingSettings

HEADLINES = ("headline", "title")  # columns that say in a line what a document is about


class Documents:
    """The documents that are shown, by row, in a temporary file. For one thread."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # on disk, nameless, gone when closed
        self._db.execute("CREATE TABLE documents (row INTEGER PRIMARY KEY, sample TEXT)")
        self._db.execute("BEGIN")

    def put(self, row: int, sample: Sample) -> None:
        """Keep a document."""
        text = json.dumps(asdict(sample))
        try:
            self._db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (row, text))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            raise DiskFullError(
                "no space is left for the documents that are shown",
                hint="free some, or let TMPDIR name a larger disk",
            ) from error

    def get(self, rows: Sequence[int]) -> list[Sample]:
        """Return documents in the order of `rows`, without those that have nothing to show."""
        found = []
        for row in rows:
            kept = self._db.execute("SELECT sample FROM documents WHERE row = ?", (row,)).fetchone()
            if kept is not None:
                plain = json.loads(kept[0])
                media = tuple(Medium(**medium) for medium in plain["media"])
                found.append(Sample(plain["fields"], media))
        return found

    def close(self) -> None:
        """Remove the file."""
        self._db.close()


@dataclass(slots=True)
class Reading:
    """What one reading of the documents gave.

    Attributes
    ----------
    documents : Documents
        Those that are shown.
    headlines : dict of int to str
        Of the rows that were asked for.
    counter : TermCounter
        The words of each node.
    missing : Counter of str
        Input keys whose path led nowhere, by the documents where it did.
    texts : set of str
        The paths that words were taken from.
    """

    documents: Documents
    headlines: dict[int, str]
    counter: TermCounter
    missing: Counter[str]
    texts: set[str]


def read_documents(
    parts: Sequence[tuple[int, Source, Mapping[str, Any]]],
    settings: LabelingSettings,
    *,
    shown: Rows,
    headlined: Collection[int],
    counted: Labels,
    n_nodes: int,
    text_column: str | None,
    hidden: Collection[str],
    reporter: Reporter,
) -> Reading:
    """Read the documents that are shown, and count the words of all.

    Parameters
    ----------
    parts : sequence of (int, Source, mapping)
        As `gpucluster.sources.reopen` gives them.
    settings : LabelingSettings
    shown : ndarray of shape (n_shown,), int64
        Rows of the input, rising.
    headlined : collection of int
        Those of them whose headline is wanted.
    counted : ndarray of shape (n_rows,), int32
        The node to which the words of each row count; -1: to none.
    n_nodes : int
    text_column : str or None
        Where words are taken from; None: from what the settings map to text, else from the
        column of texts that the source is known to have.
    hidden : collection of str
        Columns that no model sees, unless they are named: ids, vectors and the truth.
    reporter : Reporter

    Returns
    -------
    Reading

    Raises
    ------
    SchemaMismatchError
        There is no such column.
    """
    found = Reading(Documents(), {}, TermCounter(n_nodes), Counter(), set())
    presigner = Presigner(settings.presign_prefixes)
    for begin, source, columns in parts:
        row = begin
        own = {*hidden, *source.info.candidates.get("vector", ())}
        own |= {columns[role] for role in ("id", "vector", "truth")}
        texts = text_paths(settings.labeling_inputs, text_column, columns, source)
        found.texts.update(texts)
        lines = [name for name in HEADLINES if name in source.info.fields]
        lines = [name for name in lines if name != columns["truth"]]
        names = _names(settings, [*lines, *texts], source, own)
        for batch in source.columns(names) if names else ():
            first, last = np.searchsorted(shown, (row, row + batch.num_rows))
            here = shown[first:last]
            payloads = batch.take(pa.array(here - row)).to_pylist()
            for at, payload in zip(here.tolist(), payloads, strict=True):
                sample, missing = _sample(payload, settings, texts, own, presigner)
                found.missing.update(missing)
                if sample is not None:
                    found.documents.put(at, sample)
                if at in headlined and (line := _headline(payload, [*lines, *texts])):
                    found.headlines[at] = line
            if texts:
                nodes = np.full(batch.num_rows, NOISE, np.int32)  # rows that came after the run
                known = counted[row : row + batch.num_rows]
                nodes[: len(known)] = known
                found.counter.add(_joined(batch, texts, np.flatnonzero(nodes != NOISE)), nodes)
            row += batch.num_rows
            reporter.progress(row, len(counted))
    return found


def _sample(
    payload: Mapping[str, Any],
    settings: LabelingSettings,
    texts: Sequence[str],
    hidden: Collection[str],
    presigner: Presigner,
) -> tuple[Sample | None, list[str]]:
    """Return what is shown of a document; without a model to show it to, its text."""
    if settings.labels_by == "keywords":
        found = [_text(payload, path) for path in texts]
        lines = [text for text in found if text is not None]
        missing = ["text"] * (len(found) - len(lines))
        return (Sample({"text": "\n".join(lines)}) if lines else None), missing
    sample, missing = read_sample(
        payload,
        settings.labeling_inputs,
        max_length=settings.sample_text_max_length,
        leave_out=hidden,
    )
    if sample is None or all(presigner.allows(medium.url) for medium in sample.media):
        return sample, missing
    media = tuple(medium for medium in sample.media if presigner.allows(medium.url))
    missing += [medium.kind for medium in sample.media if medium not in media]
    return (replace(sample, media=media) if media or sample.fields else None), missing


def text_paths(
    inputs: LabelingInputs | None,
    text_column: str | None,
    columns: Mapping[str, Any],
    source: Source,
) -> list[str]:
    """Return the dot paths of the texts that keywords are taken from.

    Parameters
    ----------
    inputs : LabelingInputs or None
        What the settings map.
    text_column : str or None
        The column that was named.
    columns : mapping
        The name of the column of each role.
    source : Source

    Raises
    ------
    SchemaMismatchError
        There is no such column.
    """
    if text_column is not None:
        check_names({"text": text_column}, source.info.fields, source.info.where)
        return [text_column]
    mappings = inputs.input_mappings if inputs is not None else ()
    mapped = [
        str(mapping.path).strip()
        for mapping in mappings
        if mapping.input_key == "text" and mapping.source_type == "payload"
    ]
    if mapped:
        return mapped
    known = [columns["text"], *source.info.candidates.get("text", ())]
    return [name for name in known if name and name != columns["truth"]][:1]


def _names(
    settings: LabelingSettings,
    paths: Sequence[str],
    source: Source,
    hidden: Collection[str],
) -> list[str]:
    """Return the columns to read."""
    fields = source.info.fields
    names = names_to_read(paths)
    if settings.labels_by != "keywords":
        needed = columns_needed(settings.labeling_inputs)
        names += [name for name in fields if name not in hidden] if needed is None else needed
    return list(dict.fromkeys(names))


def _joined(batch: pa.RecordBatch, paths: Sequence[str], rows: Rows) -> pa.Array:
    """Return one text a row: those at all paths, a line each; null where there is none.

    Those of other rows than `rows` need not be there.
    """
    found = []
    for path in paths:
        values = _column(batch, path)
        if values is None:
            values = _row_by_row(batch, path, rows)
        if values is not None:
            found.append(values)
    if not found:
        return pa.nulls(batch.num_rows, pa.large_string())
    line = pa.scalar("\n", pa.large_string())
    # pyarrow 26 drops rows without any text where nulls are to be skipped
    joined = pc.binary_join_element_wise(*found, line, null_handling="replace", null_replacement="")
    is_there = reduce(pc.or_, map(pc.is_valid, found))
    return pc.if_else(is_there, joined, pa.scalar(None, pa.large_string()))


def _column(batch: pa.RecordBatch, path: str) -> pa.Array | None:
    """Return the texts at a path, where they are a column or the field of one."""
    place = find(batch.schema, path)
    if place is None:
        return None
    (column, *inner), _ = place
    values = batch.column(column)
    values = pc.struct_field(values, inner) if inner else values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        return values.cast(pa.large_string())
    except pa.ArrowException:  # lists and structs
        return None


def _row_by_row(batch: pa.RecordBatch, path: str, rows: Rows) -> pa.Array | None:
    """Return the texts at a path into lists, or into texts of JSON."""
    columns = {
        name: batch.column(name) for name in names_to_read([path]) if name in batch.schema.names
    }
    if not columns:
        return None
    texts: list[str | None] = [None] * batch.num_rows
    for row in rows.tolist():
        texts[row] = _text({name: values[row].as_py() for name, values in columns.items()}, path)
    return pa.array(texts, pa.large_string())


def _text(payload: Mapping[str, Any], path: str) -> str | None:
    """Return the text at a path; lists and structs as JSON."""
    value = as_json(follow(payload, path.split(".")), None)
    if value is None or value in ("", [], {}):
        return None
    return value if isinstance(value, str) else as_text(json.dumps(value, ensure_ascii=False))


def _headline(payload: Mapping[str, Any], paths: Sequence[str]) -> str | None:
    """Return what a document is about, in a line."""
    for path in paths:
        text = follow(payload, path.split("."))
        if isinstance(text, str) and text.strip():
            return headline(text)
    return None


def samples_as_text(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield the text of each document that has one."""
    for sample in samples:
        text = sample.fields.get("text")
        if isinstance(text, str):
            yield text
        elif sample.fields:
            yield json.dumps(sample.fields, ensure_ascii=False)
