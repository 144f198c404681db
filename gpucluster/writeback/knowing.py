"""What a run knows of documents, read from its tables and those of the runs it has joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gpucluster.artifacts import Run
from gpucluster.artifacts.files import digest
from gpucluster.enrichment.columns import Knowledge
from gpucluster.enrichment.fields import find_field
from gpucluster.enrichment.membership import Membership
from gpucluster.enrichment.settings import FieldMapping
from gpucluster.ops.nesting import node_paths

OF_CLUSTERS = ("label", "summary", "keywords", "label_fields")  # what a labelling says


@dataclass(frozen=True, slots=True)
class Known:
    """A run, as documents are enriched by it.

    Attributes
    ----------
    run_id : str
    key : str
        Digest of all that the new columns depend on, beside the documents.
    has_ids : bool
        Whether it knows documents by their ids; otherwise by their rows.
    n_rows : int
        Rows of its input.
    id_column : str or None
        Where its input had them.
    knowledge : Knowledge
    """

    run_id: str
    key: str
    has_ids: bool
    n_rows: int
    id_column: str | None
    knowledge: Knowledge


def what_is_known(run: Run, mappings: Sequence[FieldMapping]) -> Known:
    """Read what is asked for.

    Parameters
    ----------
    run : Run
        Where it has joined the clusters of another one, and left out the documents of that one,
        those are known too.
    mappings : sequence of FieldMapping

    Raises
    ------
    ConfigError
        The run has no value of a field.
    ArtifactError
        A table cannot be read.
    """
    runs = list(_joined(run))
    fields = [find_field(mapping.source_field) for mapping in mappings]
    wanted = {field.column for field in fields if field.origin == "member"}
    names = [*(["document_id"] if run.has_ids else []), "row", "cluster_index", *sorted(wanted)]
    tables = [one.member_columns(names) for one in runs]
    members = pa.concat_tables(tables)
    rows = members["row"].to_numpy()
    if len(runs) > 1:  # rows of other inputs say nothing
        rows = np.where(np.arange(len(rows)) < len(tables[0]), rows, -1)
    ids = members["document_id"] if run.has_ids else None
    named = next((one for one in runs if one.labeling is not None), run)
    clusters = _clusters(run, named)
    labeling = named.labeling
    facts: dict[str, Any] = {
        "runs": [(one.run_id, one.manifest.content_sha256) for one in runs],
        "labels": None if labeling is None else labeling.file.sha256,
        "mappings": [mapping.model_dump() for mapping in mappings],
    }
    columns: Any = run.manifest.source.get("columns") or {}
    return Known(
        run_id=run.run_id,
        key=digest(facts),
        has_ids=run.has_ids,
        n_rows=run.manifest.counts.num_rows,
        id_column=columns.get("id"),
        knowledge=Knowledge.of(Membership(ids, rows), members, clusters, mappings, run.run_id),
    )


def _joined(run: Run) -> Iterator[Run]:
    """Yield a run, and those whose documents it has left out because they were known."""
    yield run
    while run.has_ids and run.manifest.counts.num_known and run.manifest.base_run_id:
        before = Run.if_finished(run.path.parent / run.manifest.base_run_id)
        if before is None:  # what the run itself knows can be said all the same
            return
        run = before
        yield run


def _clusters(run: Run, named: Run) -> pa.Table:
    """Return the clusters of a run under the names that it, or the one it has joined, has got."""
    table = run.centroids
    if named is not run and named.centroids["cluster_id"].equals(table["cluster_id"]):
        for name in set(OF_CLUSTERS) & set(named.centroids.column_names):
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, named.centroids[name])
    paths = pa.array(list(node_paths(run.parents)), pa.list_(pa.string()))
    return table.append_column("cluster_path", pa.chunked_array([paths]))
