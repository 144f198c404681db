"""Names of the clusters of a run in the making: reused, by keywords, or by a model level by level.

No two clusters of a level end under the same name, unless they are asked to be merged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.artifacts import Run
from gpucluster.artifacts.labels import LABELS, finished_labeling
from gpucluster.events import Reporter
from gpucluster.labeling.answer.replies import LABEL_LIMIT
from gpucluster.labeling.asking.asker import Asker
from gpucluster.labeling.collisions import Clashes, clashing, comparable, distinct, merged
from gpucluster.labeling.embedding import Embedder, NotEmbeddedError
from gpucluster.labeling.keywords.keyphrases import offline_label
from gpucluster.labeling.keywords.support import share_of_own
from gpucluster.labeling.settings import LabelingSettings
from gpucluster.labeling.text import plain
from gpucluster.naming.evidence import ClusterEvidence
from gpucluster.ops.nesting import node_levels
from gpucluster.succession import UNCHANGED
from gpucluster.types import NOISE

if TYPE_CHECKING:
    import pyarrow as pa

    from gpucluster.labeling.answer.replies import Answer
    from gpucluster.labeling.question.prompts import Evidence


@dataclass(slots=True)
class Named:
    """What a cluster is called, and why."""

    label: str
    source: str
    summary: str | None = None
    keywords: Sequence[str] | None = None
    confidence: float | None = None
    merged_from: str | None = None
    reused_from: str | None = None
    fields: str | None = None


@dataclass
class Naming:
    """The names of a run in the making.

    Attributes
    ----------
    run : Run
    settings : LabelingSettings
    evidence : ClusterEvidence
    named : dict of int to Named
        By node.
    problems : dict of int to str
        Why a node has no name of the model's.
    is_open : bool
        Whether something got no reply, so that naming once more may help.
    earlier : dict of str to Named
        Names by cluster that the run has from a model, for those that now get none.
    measured : dict of (str, str) to (float or None)
        Confidence by cluster and label, of an attempt before.
    """

    run: Run
    settings: LabelingSettings
    evidence: ClusterEvidence
    named: dict[int, Named] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    is_open: bool = False
    earlier: dict[str, Named] = field(default_factory=dict)
    measured: dict[tuple[str, str], float | None] = field(default_factory=dict)

    def labels(self, nodes: Sequence[int]) -> dict[int, str]:
        """Return the labels of nodes."""
        return {node: self.named[node].label for node in nodes}

    def question(self, node: int, forbidden: Sequence[str] = ()) -> Evidence:
        """Return what a model is shown of a node.

        Nothing in it was written by a model about another cluster, or stands in another one's
        documents but as a keyword.
        """
        parent = int(self.evidence.parents[node])
        around = [] if parent == NOISE else self.evidence.keywords[parent]
        return self.evidence.of(node, around, forbidden)


def attribute_names(run: Run) -> list[str | None] | None:
    """Return the values that clusters of attributes stand for, which are their names."""
    if run.manifest.definition["cluster_type"] != "attribute":
        return None
    found: list[str | None] = run.fitted_centroids["label"].to_pylist()
    return found


def reuse(naming: Naming, key: str, embedded_by: str | None) -> None:
    """Take the names of clusters that the run before had, and that have hardly changed.

    Parameters
    ----------
    naming : Naming
    key : str
        Digest of the settings: names that came about otherwise are not taken, nor are those
        that only stand in for one.
    embedded_by : str or None
        What embeds: confidence holds if that was the same, and no function of the user's.
    """
    run = naming.run
    previous = (run.manifest.lineage or {}).get("previous_run_id")
    before = previous and Run.if_finished(run.path.parent / str(previous))
    if not before or run.lineage is None:
        return
    labeling = finished_labeling(before.path)
    if labeling is None or labeling.settings_sha256 != key:
        return
    links = run.lineage.select(["cluster_id", "previous_cluster_id", "jaccard"]).to_pylist()
    same = {
        link["cluster_id"]: link["previous_cluster_id"]
        for link in links
        if link["jaccard"] is not None and link["jaccard"] >= UNCHANGED
    }
    columns = ["stable_id", *LABELS.names]
    known = {row["cluster_id"]: row for row in before.centroids.select(columns).to_pylist()}
    stable = run.fitted_centroids["stable_id"].to_pylist()
    for node, name in enumerate(naming.evidence.names):
        old = known.get(same.get(name))
        if old is None or old["stable_id"] != stable[node] or old["label_source"] == "fallback":
            continue
        if old["cluster_id"] in labeling.not_named:
            continue
        reused_from = old["label_reused_from"] or before.run_id
        named = replace(_from_row(old), reused_from=reused_from)
        is_measured = labeling.embedded_by == embedded_by == "model"
        naming.named[node] = named if is_measured else replace(named, confidence=None)


def names_in(table: pa.Table) -> dict[str, Named]:
    """Return the names that were published, by cluster."""
    return {row["cluster_id"]: _from_row(row) for row in table.to_pylist()}


def _from_row(row: Mapping[str, Any]) -> Named:
    return Named(
        label=row["label"],
        source=row["label_source"],
        summary=row["summary"],
        keywords=row["keywords"],
        confidence=row["label_confidence"],
        merged_from=row["label_merged_from"],
        reused_from=row["label_reused_from"],
        fields=row["label_fields"],
    )


def remember(naming: Naming, before: Mapping[str, Named], *, is_measured: bool) -> None:
    """Keep what the run has of a labelling before.

    Parameters
    ----------
    naming : Naming
    before : dict of str to Named
    is_measured : bool
        Whether its confidence holds, where names are the same.
    """
    naming.earlier = {
        name: replace(one, confidence=None)
        for name, one in before.items()
        if one.source == "llm" and not one.merged_from
    }
    if is_measured:
        naming.measured = {(name, one.label): one.confidence for name, one in before.items()}


def name_by_keywords(naming: Naming) -> None:
    """Name clusters without a model: by their keywords, and the headline of their medoid."""
    attributes = attribute_names(naming.run)
    for node in range(len(naming.evidence.names)):
        if node in naming.named:
            continue
        naming.named[node] = _by_keywords(naming, node, "keywords")
        if attributes is not None and attributes[node] is not None:
            naming.named[node].label = plain(str(attributes[node]), LABEL_LIMIT)
            naming.named[node].source = "attribute"
    for nodes, above in _levels(naming):
        _tell_apart(naming, nodes, above)


def _by_keywords(naming: Naming, node: int, source: str) -> Named:
    """Return the name of a cluster by its keywords; without any it only stands in for one."""
    evidence, settings = naming.evidence, naming.settings
    words = evidence.keywords[node]
    return Named(
        offline_label(words) if words else f"Cluster {evidence.names[node].removeprefix('cl_')}",
        source if words else "fallback",
        summary=evidence.headlines[node] if settings.include_summary else None,
        keywords=words if settings.include_keywords else None,
    )


def _levels(naming: Naming) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the nodes of each level from the top, and those above, whose labels are taken."""
    levels = node_levels(naming.evidence.parents)
    above: list[int] = []
    for level in range(int(levels.max(initial=NOISE)) + 1):
        nodes = np.flatnonzero(levels == level).tolist()
        yield nodes, above
        above = above + nodes


def _kept(naming: Naming, nodes: Sequence[int]) -> list[int]:
    """Return nodes whose label nobody may change: it was theirs before, or is a value."""
    named = naming.named
    return [
        node
        for node in nodes
        if node in named and (named[node].reused_from or named[node].source == "attribute")
    ]


def _support(naming: Naming, node: int) -> float:
    """Return how far a label is made of the words of its cluster, which no single document is.

    What no model has said is made of them, or is a value.
    """
    one = naming.named[node]
    if one.source != "llm":
        return 1.0
    own = [comparable(word) for word in naming.evidence.keywords[node]]
    return share_of_own(comparable(one.label), own)


def _clashes(naming: Naming, nodes: Sequence[int], above: Sequence[int]) -> Clashes:
    """Return the labels that cannot stay, because others have them."""
    taken: dict[str, float] = {}
    for node in above:
        label = naming.named[node].label
        taken[label] = max(_support(naming, node), taken.get(label, 0.0))
    return clashing(
        naming.labels(nodes),
        naming.evidence.num_members,
        {node: _support(naming, node) for node in nodes},
        fixed=_kept(naming, nodes),
        taken=taken,
    )


def _tell_apart(naming: Naming, nodes: Sequence[int], above: Sequence[int]) -> None:
    """Give labels that clash an ending of their own."""
    evidence = naming.evidence
    clashes = _clashes(naming, nodes, above).all
    taken = naming.labels(above).values()
    new = distinct(naming.labels(nodes), clashes, evidence.keywords, evidence.names, taken)
    for node, label in new.items():
        naming.named[node].label = label


def name_by_model(
    naming: Naming, asker: Asker, embedder: Embedder | None, reporter: Reporter
) -> None:
    """Name clusters by what a model answers, the highest level first."""
    for nodes, above in _levels(naming):
        _ask(naming, asker, {node: () for node in nodes if node not in naming.named}, reporter)
        _ask_otherwise(naming, asker, _clashes(naming, nodes, above).theirs, reporter)
        is_merging = naming.settings.use_embedding_dedup and embedder is not None
        if is_merging:
            _ask_otherwise(naming, asker, _alike(naming, nodes, embedder, reporter), reporter)
        _tell_apart(naming, nodes, above)
        if is_merging:
            for node, larger in _alike(naming, nodes, embedder, reporter).items():
                naming.named[node].merged_from = naming.named[node].label
                naming.named[node].label = naming.named[larger].label


def _ask_otherwise(naming: Naming, asker: Asker, nodes: Iterable[int], reporter: Reporter) -> None:
    """Ask once more about nodes whose label is like another one's: not for this label again."""
    own = [node for node in nodes if naming.named[node].source == "llm"]
    _ask(naming, asker, {node: (naming.named[node].label,) for node in own}, reporter)


def _ask(
    naming: Naming, asker: Asker, forbidden: Mapping[int, tuple[str, ...]], reporter: Reporter
) -> None:
    """Ask about nodes; one that has a label keeps it where no better answer comes."""
    total, n_mute = len(naming.evidence.names), 0

    def shown() -> Iterator[tuple[int, Evidence]]:
        nonlocal n_mute
        for node, labels in forbidden.items():
            one = naming.question(node, labels)
            if says_nothing(one):
                _fall_back(naming, node)
                n_mute += 1
            else:
                yield node, one

    for asked in asker.ask_all(shown()):
        if asked.answer is not None:
            naming.named[asked.node] = _from_answer(asked.answer)
        elif asked.node not in naming.named:
            naming.problems[asked.node] = asked.problem or ""
            _fall_back(naming, asked.node)
        naming.is_open |= asked.is_open
        reporter.progress(len(naming.named), total, "clusters")
    if n_mute:
        reporter.warn(
            "nothing_to_show",
            f"{n_mute:,} clusters have no document that says anything: nobody was asked about them",
        )


def _from_answer(answer: Answer) -> Named:
    return Named(
        answer.label,
        "llm",
        summary=answer.summary,
        keywords=answer.keywords,
        fields=json.dumps(dict(answer.fields), sort_keys=True) if answer.fields else None,
    )


def _fall_back(naming: Naming, node: int) -> None:
    """Name a cluster as it was called before, or by its keywords, because the model did not."""
    earlier = naming.earlier.get(naming.evidence.names[node])
    if earlier is not None:
        naming.named[node] = earlier
        return
    naming.named[node] = _by_keywords(naming, node, "fallback")


def says_nothing(shown: Evidence) -> bool:
    """Return whether there is nothing that a name could be made of."""
    return not shown.samples and not shown.keywords


def _alike(
    naming: Naming, nodes: Sequence[int], embedder: Embedder | None, reporter: Reporter
) -> dict[int, int]:
    """Return for nodes that the model named like a larger one, that one."""
    own = [node for node in nodes if naming.named[node].source == "llm"]
    if embedder is None or not own:
        return {}
    try:
        X = embedder.labels([naming.named[node].label for node in own])
    except NotEmbeddedError as error:
        naming.is_open = True
        reporter.warn("labels_not_merged", f"labels that are alike were not merged: {error}")
        return {}
    sizes = [naming.evidence.num_members[node] for node in own]
    stands = merged(X, sizes, naming.settings.embedding_similarity_threshold)
    kept = set(_kept(naming, own))
    return {own[at]: own[to] for at, to in enumerate(stands) if at != to and own[at] not in kept}
