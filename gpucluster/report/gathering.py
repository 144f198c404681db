"""What goes into a report: points, documents and facts, within a number of bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpucluster.report.contents import clusters, describe, name_of
from gpucluster.report.documents import (
    Examples,
    Payload,
    examples,
    in_order,
    read_payload,
    taken,
    with_medoids,
)
from gpucluster.report.numbers import amount
from gpucluster.report.page import as_json, make_page, packed
from gpucluster.report.points import Cloud, curve_order, encode
from gpucluster.report.sample import few_of_each, sample
from gpucluster.report.words import words_of
from gpucluster.types import NOISE

if TYPE_CHECKING:
    import pyarrow as pa

    from gpucluster.artifacts import Run
    from gpucluster.events import Reporter
    from gpucluster.sources.reopening import Parts
    from gpucluster.types import Labels, Rows, Vector

REPORT: Final = "report.js"
MAP: Final = "report_map.js"
FILE_BYTES: Final = 10_000_000  # of a whole page, as far as documents decide it
LEAST_BYTES: Final = 500_000  # of documents, however large the rest is
COLUMNS: Final = ("document_id", "row", "cluster_index", "cosine_similarity_to_centroid")
_JOINED = "Documents that join clusters get no coordinates, so there is no map of them."
_NO_MAP = (
    "This run has no coordinates. With --map umap, or dimension_reduction in its definition, such "
    'as {"dimension_reduction": {"method": "umap"}}, it gets them.'
)
SHRINK = 0.97  # of the documents that should fit, for what compresses worse


@dataclass(frozen=True, slots=True)
class Manner:
    """How much is shown.

    Attributes
    ----------
    entry : str
        The browser's module that fills the page: `REPORT`, or the map alone.
    max_points : int
        On the map; of more a sample.
    has_texts : bool
        Whether texts of documents are shown.
    text_column : str or None
        Where they are; None: found.
    file_bytes : int
        What documents may fill a page up to.
    """

    entry: str
    max_points: int
    has_texts: bool = True
    text_column: str | None = None
    file_bytes: int = FILE_BYTES


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a run, and which of them are drawn.

    Attributes
    ----------
    ids : pyarrow.ChunkedArray of shape (n_members,)
    rows : ndarray of shape (n_members,), int64
    labels : ndarray of shape (n_members,), int32
    similarity : ndarray of shape (n_members,), float32
    drawn : ndarray of shape (n_drawn,), int64
        Places of those on the map, in the order in which they are stored.
    cloud : Cloud
        The same, as points.
    n_placed : int
        Members that have coordinates.
    few : int
        How many of each cluster are drawn in any case.
    """

    ids: pa.ChunkedArray
    rows: Rows
    labels: Labels
    similarity: Vector
    drawn: Rows
    cloud: Cloud
    n_placed: int
    few: int


def read_members(run: Run, max_points: int) -> Members:
    """Read the members of a run and choose those that are drawn."""
    table = run.member_columns([*COLUMNS, *"xyz"])
    ids, rows, labels, similarity, *axes = (
        column if name == "document_id" else column.to_numpy()
        for name, column in zip(table.column_names, table.columns, strict=True)
    )
    coordinates = np.stack(axes[: 3 if np.isfinite(axes[2]).any() else 2], axis=1)
    placed = np.flatnonzero(np.isfinite(coordinates).all(axis=1))
    drawn = placed
    if len(placed) > max_points:
        drawn = placed[sample(labels[placed], coordinates[placed], max_points)]
    drawn = drawn[curve_order(labels[drawn], coordinates[drawn])]
    cloud = Cloud(labels[drawn], coordinates[drawn], similarity[drawn])
    few = few_of_each(labels[placed], max_points)
    return Members(ids, rows, labels, similarity, drawn, cloud, len(placed), few)


def make(
    run: Run,
    members: Members,
    manner: Manner,
    *,
    open_parts: Callable[[], Parts],
    is_named: bool,
    reporter: Reporter,
) -> bytes:
    """Return the page of a run.

    Parameters
    ----------
    run : Run
    members : Members
    manner : Manner
    open_parts : callable
        Opens the source of the rows.
    is_named : bool
        Whether that was named, so that it is an error where it cannot be read.
    reporter : Reporter
        Told how far the documents are read.

    Raises
    ------
    SourceError
        A source or a column that was named cannot be read.
    """
    shown = with_medoids(examples(members.labels, members.similarity), run, members.ids)
    told = in_order(shown, members.drawn, len(members.labels))
    payload = read_payload(
        run,
        open_parts,
        ids=members.ids,
        rows=members.rows,
        told=told,
        drawn=members.drawn,
        text_column=manner.text_column,
        has_texts=manner.has_texts,
        is_named=is_named,
        reporter=reporter,
    )
    head, points = encode(replace(members.cloud, truth=payload.truth))
    known = clusters(run)
    has_own_words = not any({"label", "keywords"} & row.keys() for row in known)
    if has_own_words and payload.texts:
        found = words_of(payload.texts, members.rows, members.labels, run.parents)
        known = [row | {"keywords": words} for row, words in zip(known, found, strict=True)]
    contents = describe(run, members.similarity) if manner.entry == REPORT else {}
    contents["has_own_words"] = has_own_words and bool(payload.texts)
    contents["map"] = head | _map_facts(run, members) | {"classes": list(payload.classes)}
    blocks = {"clusters": packed(as_json(known).encode("utf-8", "replace"))}
    if len(members.drawn):
        blocks["points"] = packed(points)
    title = f"{name_of(run)}: {amount(run.num_clusters)} clusters"
    rest = len(make_page(manner.entry, title, contents, blocks))
    budget = max(LEAST_BYTES, manner.file_bytes - rest) * 3 // 4  # base64 takes a third more
    count, blocks["documents"] = _fitting(members, shown, told, payload, budget)
    told = told[:count]
    contents["documents"] = {
        "count": len(told),
        "num_texts": sum(row in payload.texts for row in members.rows[told].tolist()),
        "has_texts": manner.has_texts,
        "reason": payload.reason,
    }
    return make_page(manner.entry, title, contents, blocks)


def _map_facts(run: Run, members: Members) -> dict[str, Any]:
    """Return how the points were chosen, and why there are none."""
    facts: dict[str, Any] = {"placed": members.n_placed, "few": members.few, "reason": None}
    facts["unplaced"] = len(members.labels) - members.n_placed
    if not members.n_placed and len(members.labels):
        facts["reason"] = _NO_MAP if run.manifest.base_run_id is None else _JOINED
    return facts


def _fitting(
    members: Members, shown: Examples, told: Rows, payload: Payload, budget: int
) -> tuple[int, bytes]:
    """Return how many of the first documents fit, and what they are stored as."""
    count = len(told)
    while True:
        content = as_json(_documents(members, shown, told[:count], payload))
        found = packed(content.encode("utf-8", "replace"), level=6)
        if len(found) <= budget or not count:
            return count, found
        count = int(count * SHRINK * budget / len(found))


def _documents(members: Members, shown: Examples, told: Rows, payload: Payload) -> dict[str, Any]:
    """Return documents in the order of the points, then those that are no point."""
    place = np.full(len(members.labels), NOISE)
    place[members.drawn] = np.arange(len(members.drawn))
    at = place[told]
    order = np.lexsort((told, np.where(at < 0, len(place), at)))
    told, at = told[order], at[order]
    points = at[at >= 0]
    number = np.full(len(members.labels), NOISE)
    number[told] = np.arange(len(told))
    is_told = number[shown.members] >= 0
    own = shown.members[is_told]
    of = shown.clusters[is_told]
    rows = members.rows[told].tolist()
    texts = [payload.texts.get(row) for row in rows]
    return {
        "steps": np.diff(points, prepend=0).tolist(),
        "undrawn": members.labels[told[at < 0]].tolist(),
        "ids": taken(members.ids, told).to_pylist(),
        "texts": texts if any(texts) else None,
        "examples": {
            "clusters": of.tolist(),
            "documents": number[own].tolist(),
            "central": shown.is_central[is_told].astype(np.int8).tolist(),
        },
    }
