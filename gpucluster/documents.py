"""The documents of a run, read once more: those that are shown, and the words of all."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.events import Reporter
from gpucluster.labeling.inputs import Medium, Presigner, Sample, columns_needed, read_sample
from gpucluster.labeling.keywords import headline
from gpucluster.labeling.terms import TermCounter
from gpucluster.sources import Source, check_names, find, names_to_read

if TYPE_CHECKING:
    from gpucluster.labeling.settings import LabelingInputs, LabelingSettings
    from gpucluster.types import Labels, Rows

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
        self._db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (row, text))

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
    """

    documents: Documents
    headlines: dict[int, str]
    counter: TermCounter
    missing: Counter[str]


def read_documents(
    parts: Sequence[tuple[int, Source, Mapping[str, Any]]],
    settings: LabelingSettings,
    *,
    shown: Rows,
    headlined: Collection[int],
    counted: Labels,
    n_nodes: int,
    text_column: str | None,
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
    reporter : Reporter

    Returns
    -------
    Reading

    Raises
    ------
    SchemaMismatchError
        There is no such column.
    """
    found = Reading(Documents(), {}, TermCounter(n_nodes), Counter())
    presigner = Presigner(settings.presign_prefixes)
    for begin, source, columns in parts:
        row = begin
        texts = _text_paths(settings.labeling_inputs, text_column, columns, source)
        names, hidden = _names(settings, texts, source, columns)
        for batch in source.columns(names) if names else ():
            first, last = np.searchsorted(shown, (row, row + batch.num_rows))
            here = shown[first:last]
            payloads = batch.take(pa.array(here - row)).to_pylist()
            for at, payload in zip(here.tolist(), payloads, strict=True):
                sample, missing = _sample(payload, settings, texts, hidden, presigner)
                found.missing.update(missing)
                if sample is not None:
                    found.documents.put(at, sample)
                if at in headlined and (line := _headline(payload, texts)):
                    found.headlines[at] = line
            if texts:
                found.counter.add(_joined(batch, texts), counted[row : row + batch.num_rows])
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
        lines = [text for name in texts if isinstance(text := payload.get(name), str) and text]
        return (Sample({"text": "\n".join(lines)}) if lines else None), []
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


def _text_paths(
    inputs: LabelingInputs | None,
    text_column: str | None,
    columns: Mapping[str, Any],
    source: Source,
) -> list[str]:
    """Return the dot paths of the texts that keywords are taken from."""
    if text_column is not None:
        check_names({"text": text_column}, source.info.fields, source.info.where)
        return [text_column]
    mappings = inputs.input_mappings if inputs is not None else ()
    mapped = [
        str(mapping.path)
        for mapping in mappings
        if mapping.input_key == "text" and mapping.source_type == "payload"
    ]
    if mapped:
        return mapped
    known = columns["text"] or next(iter(source.info.candidates.get("text", ())), None)
    return [known] if known else []


def _names(
    settings: LabelingSettings,
    texts: Sequence[str],
    source: Source,
    columns: Mapping[str, Any],
) -> tuple[list[str], set[str]]:
    """Return the columns to read, and those of them that no model sees."""
    fields = source.info.fields
    beside = [name for name in HEADLINES if name in fields]
    names = [*names_to_read(texts), *beside]
    hidden = {
        columns["id"],
        columns["vector"],
        columns["truth"],
        *source.info.candidates.get("vector", ()),
    }
    if settings.labels_by != "keywords":
        needed = columns_needed(settings.labeling_inputs)
        names += [name for name in fields if name not in hidden] if needed is None else needed
    return list(dict.fromkeys(names)), {name for name in hidden if name}


def _joined(batch: pa.RecordBatch, paths: Sequence[str]) -> pa.Array:
    """Return one text a row: those at all paths, a line each; null where there is none."""
    found = []
    for path in paths:
        place = find(batch.schema, path)
        if place is None:
            continue
        (column, *inner), _ = place
        values = batch.column(column)
        values = pc.struct_field(values, inner) if inner else values
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        try:
            found.append(values.cast(pa.large_string()))
        except pa.ArrowException:  # lists and structs are no text
            continue
    if not found:
        return pa.nulls(batch.num_rows, pa.large_string())
    line = pa.scalar("\n", pa.large_string())
    return pc.binary_join_element_wise(*found, line, null_handling="skip")


def _headline(payload: Mapping[str, Any], texts: Sequence[str]) -> str | None:
    """Return what a document is about, in a line."""
    for name in (*HEADLINES, *texts):
        text = payload.get(name)
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
