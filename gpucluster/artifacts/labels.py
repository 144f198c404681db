"""The names of a run's clusters: a table beside the run, that a later naming replaces whole.

A run never changes. Its names lie in ``labels/``: ``labels.json``, written last, says which table
holds and how it came to be; the table and the audit file carry the id of their labelling, and the
table a part of its digest, so that the next attempt does not write over it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from gpucluster.artifacts.files import read_sealed, seal
from gpucluster.artifacts.manifest import FileEntry, FileName, RunId, Sha256
from gpucluster.errors import CorruptArtifactError

if TYPE_CHECKING:
    from gpucluster.artifacts.store import Store
    from gpucluster.places import Place

SCHEMA_VERSION = 1
FOLDER = "labels"
RECORD = "labels.json"
NOISE_LABEL = "Unclustered"  # noise is never named by a model
RELABEL = "label the run again"

LABELS = pa.schema(
    [
        pa.field("cluster_id", pa.string(), nullable=False),
        pa.field("cluster_index", pa.int32(), nullable=False),  # row in the centroids
        pa.field("label", pa.string()),
        pa.field("summary", pa.string()),
        pa.field("keywords", pa.list_(pa.string())),
        pa.field("label_source", pa.string(), nullable=False),  # SOURCES
        pa.field("label_confidence", pa.float32()),  # share of held-out members; null: not measured
        pa.field("label_merged_from", pa.string()),  # its own label, where it took a larger one's
        pa.field("label_reused_from", pa.string()),  # the run before that named this cluster
        pa.field("label_fields", pa.string()),  # JSON: what response_shape asks for besides
    ]
)
SOURCES = ("llm", "keywords", "fallback", "attribute")


class Labeling(BaseModel):
    """How the clusters of a run got their names: the content of ``labels.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    labeling_id: RunId
    run_id: RunId
    created_at: AwareDatetime
    completed_at: AwareDatetime
    gpucluster_version: str
    settings: dict[str, JsonValue]
    settings_sha256: Sha256
    source_key: Sha256 | None = None
    text_column: str | None = None
    embedded_by: str | None = None
    is_open: bool = Field(default=False, description="Whether something is left to be done.")
    provider: str
    model_name: str | None
    counts: dict[str, int]
    estimate: dict[str, JsonValue] | None = None
    usage: dict[str, JsonValue] | None = None
    missing_inputs: dict[str, int] = Field(default={})
    llm_labeling_errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    table: FileName
    file: FileEntry
    audit: FileName | None = None

    @property
    def not_named(self) -> set[str]:
        """The clusters that got no name, but keep an earlier one or another stands in for it."""
        return {name for text in self.llm_labeling_errors for name in json.loads(text)["clusters"]}


def write_labels(store: Store, labeling: Mapping[str, Any], table: pa.Table) -> Labeling:
    """Publish the names of a run, in place of those that it had.

    Parameters
    ----------
    store : Store
        The folder of runs; the caller holds the lease of the run.
    labeling : mapping
        The fields of `Labeling` but ``table`` and ``file``.
    table : pyarrow.Table
        `LABELS`, by ``cluster_index``.

    Returns
    -------
    Labeling

    Raises
    ------
    StoreError
        A file could not be written; the names of before still hold.
    """
    folder = f"{labeling['run_id']}/{FOLDER}"
    content = io.BytesIO()
    _write(table, content)
    sha256 = hashlib.sha256(content.getbuffer()).hexdigest()
    name = f"labels-{labeling['labeling_id']}-{sha256[:8]}.parquet"
    stored = store.put(f"{folder}/{name}", lambda file: file.write(content.getbuffer()))
    entry = FileEntry(**stored._asdict(), rows=table.num_rows)
    found = Labeling(**labeling, table=name, file=entry)
    text = seal(json.loads(found.model_dump_json()))
    store.put(f"{folder}/{RECORD}", lambda file: file.write(text))
    for other in store.list(folder):
        if other.startswith("labels-") and other != name:
            store.delete(f"{folder}/{other}")
    return found


def _write(table: pa.Table, file: Any) -> None:
    pq.write_table(
        table.cast(LABELS),
        file,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=1 << 17,
    )


def read_labeling(run: Place) -> Labeling | None:
    """Return how the clusters of a run were named; None where they were not.

    Raises
    ------
    CorruptArtifactError
        The record was altered, or is none.
    SchemaTooNewError
        A newer version of gpucluster wrote it.
    """
    path = run / FOLDER / RECORD
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CorruptArtifactError(f"cannot read {path}: {error.strerror}") from error
    try:
        return Labeling.model_validate_json(json.dumps(read_sealed(text, path, SCHEMA_VERSION)))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptArtifactError(
            f"{path} is damaged: {str(error).splitlines()[0]}", hint=RELABEL
        ) from error


def read_labels(run: Place, labeling: Labeling) -> pa.Table:
    """Return the table of names, after a look at whether it is the one that was written.

    Raises
    ------
    CorruptArtifactError
        It is not.
    """
    path = run / FOLDER / labeling.table
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptArtifactError(f"cannot read {path}: {error.strerror}", hint=RELABEL) from error
    if hashlib.sha256(content).hexdigest() != labeling.file.sha256:
        raise CorruptArtifactError(f"{path} is damaged: its sha256 is another one", hint=RELABEL)
    return pq.read_table(io.BytesIO(content))


def read_named(run: Place) -> tuple[Labeling, pa.Table] | None:
    """Return how the clusters of a run were named, and the names; None where they were not.

    Raises
    ------
    CorruptArtifactError, SchemaTooNewError
        See `read_labeling` and `read_labels`.
    """
    found = read_labeling(run)
    if found is None:
        return None
    try:
        return found, read_labels(run, found)
    except CorruptArtifactError:
        now = read_labeling(run)  # another naming may have ended since, and removed the table
        if now is None or now == found:
            raise
        return now, read_labels(run, now)


def sound_names(run: Place) -> tuple[Labeling, pa.Table] | None:
    """Return `read_named`; None also where record or table are damaged.

    Then the run has to be named again.

    Raises
    ------
    SchemaTooNewError
        A newer version of gpucluster wrote the record.
    """
    try:
        return read_named(run)
    except CorruptArtifactError:
        return None


def finished_labeling(run: Place) -> Labeling | None:
    """Return how the clusters of a run were named, if their names can still be read."""
    found = sound_names(run)
    return None if found is None else found[0]


def with_labels(centroids: pa.Table, labels: pa.Table) -> pa.Table:
    """Return centroids under their names: columns replaced, and those of the naming added."""
    if labels["cluster_id"].to_pylist() != centroids["cluster_id"].to_pylist():
        raise CorruptArtifactError("the labels of the run are of other clusters", hint=RELABEL)
    for name in LABELS.names[2:]:
        column = labels[name].combine_chunks()
        at = centroids.schema.get_field_index(name)
        if at >= 0:
            centroids = centroids.set_column(at, centroids.schema.field(at), column)
        else:
            centroids = centroids.append_column(LABELS.field(name), column)
    return centroids
