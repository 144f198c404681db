"""What speaks for the clusters of a run: documents, keywords, and the clusters beside them.

Everything is read once and in the order of the input. What is kept for each cluster is bounded:
vectors of candidates and the documents that are shown lie in temporary files, not in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gpucluster.errors import SchemaMismatchError
from gpucluster.events import Reporter
from gpucluster.labeling.keywords.keyphrases import keyphrases
from gpucluster.labeling.question.prompts import Evidence
from gpucluster.labeling.representatives import Candidates, candidates, pick
from gpucluster.naming.documents import Documents, read_documents
from gpucluster.ops.normalize import unit_rows
from gpucluster.sources import Source, reopen
from gpucluster.sources.base import reading
from gpucluster.sources.reopening import Parts, changed, reread
from gpucluster.types import NOISE, Labels, Matrix, Rows

if TYPE_CHECKING:
    from gpucluster.artifacts import Run
    from gpucluster.labeling.settings import LabelingSettings

N_NEIGHBOURS = 4
MOST_TEXTS = 1_000_000  # from which keywords are counted: of more members, every n-th of a cluster
LEAST_TEXTS = 5  # of a cluster, however many there are
NAME_TEXTS = "name the column of texts, with text_column"


@dataclass(slots=True)
class ClusterEvidence:
    """What speaks for each node of a run.

    Attributes
    ----------
    parents : ndarray of shape (n_nodes,), int32
    names : list of n_nodes str
        Cluster ids.
    num_members : list of n_nodes int
    shown, edge, held_out : list of n_nodes lists of int
        Rows of the input: nearest first; farthest first; others, to test a name on.
    keywords : list of n_nodes lists of str
    headlines : list of n_nodes (str or None)
        Of the document nearest to the centroid.
    neighbours : list of n_nodes lists of int
        The nearest siblings.
    documents : Documents
    missing : Counter of str
        Input keys whose path led nowhere, by the documents where it did.
    texts : set of str
        The paths that words were taken from.
    """

    parents: Labels
    names: list[str]
    num_members: list[int]
    shown: list[list[int]]
    edge: list[list[int]]
    held_out: list[list[int]]
    neighbours: list[list[int]]
    documents: Documents
    keywords: list[list[str]]
    headlines: list[str | None]
    missing: Counter[str]
    texts: set[str]

    def of(self, node: int, around: Sequence[str], forbidden: Sequence[str] = ()) -> Evidence:
        """Return what a model is shown of a node."""
        return Evidence(
            cluster_id=self.names[node],
            samples=tuple(self.documents.get(self.shown[node])),
            boundary=tuple(self.documents.get(self.edge[node])),
            keywords=tuple(self.keywords[node]),
            neighbours=tuple(tuple(self.keywords[other]) for other in self.neighbours[node]),
            parent_keywords=tuple(around),
            forbidden=tuple(forbidden),
        )


def gather(
    run: Run,
    settings: LabelingSettings,
    *,
    source: Source | None,
    text_column: str | None,
    is_tested: bool,
    reporter: Reporter,
) -> ClusterEvidence:
    """Collect what speaks for the clusters of a run.

    Parameters
    ----------
    run : Run
    settings : LabelingSettings
    source : Source or None
        The rows of the run; None: where its manifest says they are.
    text_column : str or None
        Where keywords are taken from, if the settings map no text; None: where the run says.
    is_tested : bool
        Whether documents are held out.
    reporter : Reporter

    Returns
    -------
    ClusterEvidence

    Raises
    ------
    SourceError
        The documents cannot be read any more, or are others by now.
    SchemaMismatchError
        A named column is missing.

    Notes
    -----
    The vectors are read once, and the columns that are shown once. Memory: 50 bytes a member,
    a few hundred a cluster, and what `TermCounter` needs.
    """
    centroids = run.fitted_centroids
    parents = run.parents
    parts, hidden = _parts(run, source)
    chosen = _chosen(run, settings, parts, is_tested=is_tested, reporter=reporter)
    first = chosen.shown
    read = read_documents(
        parts,
        settings,
        shown=chosen.rows(),
        headlined={rows[0] for rows in first if rows},
        counted=chosen.counted,
        n_nodes=len(parents),
        text_column=text_column,
        hidden=hidden,
        reporter=reporter,
    )
    keywords = keyphrases(read.counter.counts(), parents)  # before what stays is there
    return ClusterEvidence(
        parents=parents,
        names=centroids["cluster_id"].to_pylist(),
        num_members=centroids["num_members"].to_pylist(),
        shown=first,
        edge=chosen.edge,
        held_out=chosen.held_out,
        neighbours=_neighbours(run.centroid_matrix, parents, reporter),
        documents=read.documents,
        keywords=keywords,
        headlines=[read.headlines.get(rows[0]) if rows else None for rows in first],
        missing=read.missing,
        texts=read.texts,
    )


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Rows of the input by node, as in `ClusterEvidence`, and the node that each is counted for."""

    shown: list[list[int]]
    edge: list[list[int]]
    held_out: list[list[int]]
    counted: Labels

    def rows(self) -> Rows:
        """Return all of them, rising."""
        lists = chain(self.shown, self.edge, self.held_out)
        return np.unique(np.fromiter(chain.from_iterable(lists), np.int64))


def _chosen(
    run: Run,
    settings: LabelingSettings,
    parts: Parts,
    *,
    is_tested: bool,
    reporter: Reporter,
) -> _Chosen:
    """Choose which documents speak for clusters; what is known of all members goes with this."""
    table = run.member_columns(
        ["document_id", "row", "cluster_index", "cosine_similarity_to_centroid"]
    )
    labels = table["cluster_index"].to_numpy()
    rows = table["row"].to_numpy()
    found = candidates(
        labels,
        table["cosine_similarity_to_centroid"].to_numpy(zero_copy_only=False),
        rows,
        run.parents,
        n_shown=settings.max_samples_per_cluster,
    )
    shown = _pick(found, table, parts, run, settings.max_samples_per_cluster, reporter)
    nothing = [np.empty(0, np.int64)] * len(run.parents)
    edge = found.edge if settings.contrast else nothing
    held_out = found.spread if is_tested else nothing
    edges = [_beside(places, own) for places, own in zip(edge, shown, strict=True)]
    held = [
        _beside(places, {*own, *others})
        for places, own, others in zip(held_out, shown, edges, strict=True)
    ]
    first, *lists = [[rows[places].tolist() for places in each] for each in (shown, edges, held)]
    counted = _counted(labels, rows, run.manifest.counts.num_rows)
    return _Chosen(first, lists[0], lists[1], counted)


def _beside(places: Rows, shown: Collection[int]) -> list[int]:
    """Return places that are not shown anyway."""
    return [place for place in places.tolist() if place not in shown]


def _parts(run: Run, source: Source | None) -> tuple[Parts, set[str]]:
    """Return what is read, and the columns that no model sees: ids, vectors and the truth.

    Columns play the roles that they played when the run was made, where the rows have them.
    """
    described = run.manifest.source
    known = [part.get("columns") or {} for part in _all_parts(described)]
    if source is None:
        parts: Parts = list(reopen(described))
    else:
        own = asdict(source.info.columns)
        known += [own, *(each["columns"] for _, _, each in source.info.collections)]
        theirs = {role: name for role, name in known[0].items() if name in source.info.fields}
        parts = [(0, source, own | theirs)]
    names = {each.get(role) for each in known for role in ("id", "vector", "truth")}
    return parts, {name for name in names if name is not None}


def _all_parts(described: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a source as a manifest describes it, and each of its collections."""
    return [described, *(described.get("collections") or ())]


def _pick(
    found: Candidates,
    table: pa.Table,
    parts: Parts,
    run: Run,
    n_shown: int,
    reporter: Reporter,
) -> list[list[int]]:
    """Choose the members that are shown, by their vectors."""
    near = np.unique(np.concatenate(found.near)) if found.near else np.empty(0, np.int64)
    if not len(near):
        return [[] for _ in found.near]
    rows = table["row"].to_numpy()[near]
    ids = table["document_id"].take(pa.array(near)).combine_chunks()
    n_rows = sum(source.info.n_rows for _, source, _ in parts)
    if not run.has_ids and n_rows != run.manifest.counts.num_rows:
        raise changed(parts[0][1])
    X = _vectors(rows, ids if run.has_ids else None, parts, reporter)
    relevance = table["cosine_similarity_to_centroid"].to_numpy(zero_copy_only=False)
    centroids, divided = run.centroid_matrix, set(run.parents.tolist())
    shown = []
    for node, places in enumerate(found.near):
        own = unit_rows(np.asarray(X[np.searchsorted(near, places)], np.float32))
        score = relevance[places]
        if node in divided and own.shape[1] == centroids.shape[1]:
            # what the members know is their similarity to a centroid further down
            length = float(np.linalg.norm(centroids[node])) or 1.0
            score = own @ (centroids[node] / length)
        order = pick(own, score, n_shown)
        shown.append(places[order].tolist())
        reporter.progress(node + 1, len(found.near), "clusters")
    return shown


def _vectors(
    rows: Rows,
    ids: pa.Array | None,
    parts: Parts,
    reporter: Reporter,
) -> Any:
    """Return vectors of about unit length, float16, in a temporary file.

    Without ids a row is known by its number, whatever the data call it.
    """
    shape = (len(rows), max(1, parts[0][1].info.n_features))
    with tempfile.TemporaryFile(prefix="gpucluster-") as file:
        with reading(parts[0][1].info.where):
            # a full disk is found here, not at a page of the mapping, which ends the process
            os.posix_fallocate(file.fileno(), 0, 2 * shape[0] * shape[1])
        X: Any = np.memmap(file, np.float16, "r+", shape=shape)
    for places, vectors in reread(parts, rows, ids, reporter):
        X[places] = unit_rows(vectors.astype(np.float32))
    return X


def _neighbours(centroids: Matrix, parents: Labels, reporter: Reporter) -> list[list[int]]:
    """Return the nearest siblings of each node by the cosine of their centroids."""
    from gpucluster.ops.neighbors import nearest_neighbors

    unit = unit_rows(np.ascontiguousarray(centroids))
    found: list[list[int]] = [[] for _ in parents]
    order = np.argsort(parents, kind="stable")
    ends = np.flatnonzero(np.diff(parents[order])) + 1
    for nodes in np.split(order, ends):
        count = min(N_NEIGHBOURS + 1, len(nodes))
        if count < 2:
            continue
        near = nearest_neighbors(unit[nodes], count, reporter=reporter).rows
        for node, others in zip(nodes.tolist(), nodes[near].tolist(), strict=True):
            found[node] = [other for other in others if other != node][:N_NEIGHBOURS]
    return found


def _counted(labels: Labels, rows: Rows, n_rows: int) -> Labels:
    """Return the node for whose keywords each row of the input is read; -1: it is not."""
    nodes = np.full(n_rows, NOISE, np.int32)
    n_texts = int(np.count_nonzero(labels != NOISE))
    if n_texts <= MOST_TEXTS:
        nodes[rows] = labels
        return nodes
    step = -(-n_texts // MOST_TEXTS)
    order = np.argsort(labels, kind="stable")[len(labels) - n_texts :]
    ends = np.searchsorted(labels[order], np.arange(int(labels.max()) + 2)).tolist()
    is_read = np.zeros(n_texts, np.bool_)
    for start, stop in pairwise(ends):
        is_read[start:stop:step] = True
        is_read[start : min(stop, start + LEAST_TEXTS)] = True
    kept = order[is_read]
    nodes[rows[kept]] = labels[kept]
    return nodes


def need_texts(evidence: ClusterEvidence, source: str) -> None:
    """Raise where nothing was found that names could be made of."""
    if evidence.names and not any(evidence.keywords):
        where = f" in {', '.join(sorted(evidence.texts))}" if evidence.texts else ""
        raise SchemaMismatchError(
            f"{source}: no words were found{where} to name clusters by", hint=NAME_TEXTS
        )
