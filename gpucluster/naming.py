"""Names of the clusters of a run in the making: reused, by keywords, or by a model level by level.

No two clusters of a level end under the same name, unless they are asked to be merged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gpucluster.artifacts import Run
from gpucluster.artifacts.labels import LABELS
from gpucluster.documents import samples_as_text
from gpucluster.events import Reporter
from gpucluster.evidence import ClusterEvidence
from gpucluster.labeling.asking import Asker, estimate_question, identity
from gpucluster.labeling.cache import question_key
from gpucluster.labeling.collisions import clashing, distinct, merged
from gpucluster.labeling.confidence import Embed, confidence, embedded_in_turn
from gpucluster.labeling.keywords import distinct_labels, offline_label
from gpucluster.labeling.patience import GaveUp
from gpucluster.labeling.prompts import make_question
from gpucluster.labeling.settings import LabelingSettings
from gpucluster.labeling.shapes import Shape
from gpucluster.labeling.spending import Usage, known_prices
from gpucluster.ops.nesting import node_levels
from gpucluster.succession import UNCHANGED
from gpucluster.types import NOISE

if TYPE_CHECKING:
    from gpucluster.labeling.prompts import Evidence
    from gpucluster.labeling.replies import Answer


# tokens that a reply is expected to take
LABEL_TOKENS, SUMMARY_TOKENS, KEYWORDS_TOKENS, FIELD_TOKENS = 20, 60, 30, 30


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


@dataclass(slots=True)
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
    """

    run: Run
    settings: LabelingSettings
    evidence: ClusterEvidence
    named: dict[int, Named] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)

    @property
    def offline_labels(self) -> list[str]:
        """What each node is called by its keywords; empty where it has none."""
        return distinct_labels(self.evidence.keywords, self.evidence.parents)

    def labels(self, nodes: Sequence[int]) -> dict[int, str]:
        """Return the labels of nodes."""
        return {node: self.named[node].label for node in nodes}

    def parent_label(self, node: int) -> str | None:
        """Return what the cluster around a node is called."""
        parent = int(self.evidence.parents[node])
        return None if parent == NOISE else self.named[parent].label


def attribute_names(run: Run) -> list[str | None] | None:
    """Return the values that clusters of attributes stand for, which are their names."""
    if run.manifest.definition["cluster_type"] != "attribute":
        return None
    found: list[str | None] = run.fitted_centroids["label"].to_pylist()
    return found


def reuse(naming: Naming, key: str) -> None:
    """Take the names of clusters that the run before had, and that have hardly changed.

    Parameters
    ----------
    naming : Naming
    key : str
        Digest of the settings: names that came about otherwise are not taken, nor are those
        that only stand in for one.
    """
    run = naming.run
    previous = (run.manifest.lineage or {}).get("previous_run_id")
    before = previous and Run.if_finished(run.path.parent / str(previous))
    if not before or run.lineage is None or before.labeling is None:
        return
    if before.labeling.settings_sha256 != key:
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
        naming.named[node] = Named(
            label=old["label"],
            source=old["label_source"],
            summary=old["summary"],
            keywords=old["keywords"],
            confidence=old["label_confidence"],
            merged_from=old["label_merged_from"],
            reused_from=old["label_reused_from"] or before.run_id,
            fields=old["label_fields"],
        )


def name_by_keywords(naming: Naming) -> None:
    """Name clusters without a model: by their keywords, and the headline of their medoid."""
    evidence, settings = naming.evidence, naming.settings
    attributes = attribute_names(naming.run)
    labels = naming.offline_labels
    for node in range(len(evidence.names)):
        if node in naming.named:
            continue
        words = evidence.keywords[node]
        label, source = labels[node], "keywords"
        if not words:
            label, source = _placeholder(evidence.names[node]), "fallback"
        if attributes is not None and attributes[node] is not None:
            label, source = str(attributes[node]), "attribute"
        naming.named[node] = Named(
            label,
            source,
            summary=evidence.headlines[node] if settings.include_summary else None,
            keywords=words if settings.include_keywords else None,
        )


def name_by_model(naming: Naming, asker: Asker, embed: Embed | None, reporter: Reporter) -> None:
    """Name clusters by what a model answers, the highest level first."""
    levels = node_levels(naming.evidence.parents).tolist()
    for level in range(max(levels, default=NOISE) + 1):
        nodes = [node for node, own in enumerate(levels) if own == level]
        _name_level(naming, asker, nodes, embed, reporter)


def _name_level(
    naming: Naming,
    asker: Asker,
    nodes: Sequence[int],
    embed: Embed | None,
    reporter: Reporter,
) -> None:
    """Name the clusters of one level, and ask again for names that are another's."""
    evidence = naming.evidence
    reused = [node for node in nodes if node in naming.named]
    here = set(nodes)
    taken = [named.label for node, named in naming.named.items() if node not in here]
    _ask(naming, asker, {node: () for node in nodes if node not in naming.named}, reporter)
    sizes = evidence.num_members
    clashes = clashing(naming.labels(nodes), sizes, reused, taken)
    again = [node for node in clashes if naming.named[node].source == "llm"]
    _ask(naming, asker, _forbidding(naming, again, clashes), reporter)
    clashes = clashing(naming.labels(nodes), sizes, reused, taken)
    new = distinct(naming.labels(nodes), clashes, evidence.keywords, evidence.names, taken)
    for node, label in new.items():
        naming.named[node].label = label
    if naming.settings.use_embedding_dedup:
        _merge_alike(naming, asker, nodes, embed, reporter)


def _forbidding(
    naming: Naming, nodes: Sequence[int], labels: Mapping[int, str]
) -> dict[int, tuple[str, ...]]:
    """Return what nodes must not be called: as they were, nor as those around them."""
    found = {}
    for node in nodes:
        around = [naming.named[other].label for other in naming.evidence.neighbours[node]]
        found[node] = tuple(dict.fromkeys([labels[node], *around]))
    return found


def _ask(
    naming: Naming, asker: Asker, forbidden: Mapping[int, tuple[str, ...]], reporter: Reporter
) -> None:
    """Ask about nodes; one that has a label keeps it where no better answer comes."""
    evidence = naming.evidence
    total = len(evidence.names)

    def shown() -> Iterator[tuple[int, Evidence]]:
        for node, labels in forbidden.items():
            one = evidence.of(node, naming.parent_label(node), labels)
            if says_nothing(one):
                _fall_back(naming, node, "no document of it says anything")
            else:
                yield node, one

    for asked in asker.ask_all(shown()):
        if asked.answer is not None:
            naming.named[asked.node] = _from_answer(asked.answer)
        elif asked.node not in naming.named:
            _fall_back(naming, asked.node, asked.problem or "")
        reporter.progress(len(naming.named), total, "clusters")


def _from_answer(answer: Answer) -> Named:
    return Named(
        answer.label,
        "llm",
        summary=answer.summary,
        keywords=answer.keywords,
        fields=json.dumps(dict(answer.fields), sort_keys=True) if answer.fields else None,
    )


def _fall_back(naming: Naming, node: int, problem: str) -> None:
    """Name a cluster by its keywords, because the model did not."""
    evidence, settings = naming.evidence, naming.settings
    words = evidence.keywords[node]
    naming.problems[node] = problem
    naming.named[node] = Named(
        offline_label(words) if words else _placeholder(evidence.names[node]),
        "fallback",
        summary=evidence.headlines[node] if settings.include_summary else None,
        keywords=words if settings.include_keywords else None,
    )


def _placeholder(name: str) -> str:
    """Return the label of a cluster of which nothing is known."""
    return f"Cluster {name.removeprefix('cl_')}"


def says_nothing(shown: Evidence) -> bool:
    """Return whether there is nothing that a name could be made of."""
    return not shown.samples and not shown.keywords


def _merge_alike(
    naming: Naming,
    asker: Asker,
    nodes: Sequence[int],
    embed: Embed | None,
    reporter: Reporter,
) -> None:
    """Let clusters share the label of a larger one, where a second question found no other."""
    if embed is None or not nodes:
        return
    try:
        found = _alike(naming, nodes, embed)
        again = [node for node in found if naming.named[node].source == "llm"]
        old = {node: naming.named[node].label for node in found.values()}
        _ask(naming, asker, {n: (old[found[n]], naming.named[n].label) for n in again}, reporter)
        for node, larger in _alike(naming, nodes, embed).items():
            naming.named[node].merged_from = naming.named[node].label
            naming.named[node].label = naming.named[larger].label
    except GaveUp as error:
        reporter.warn("labels_not_merged", f"labels that are alike were not merged: {error}")


def _alike(naming: Naming, nodes: Sequence[int], embed: Embed) -> dict[int, int]:
    """Return for each node whose label is like that of a larger one, that one."""
    own = ((node, [naming.named[node].label]) for node in nodes)
    X = np.concatenate([found for _, found in embedded_in_turn(own, embed, 1)])
    sizes = [naming.evidence.num_members[node] for node in nodes]
    stands = merged(X, sizes, naming.settings.embedding_similarity_threshold)
    return {nodes[at]: nodes[to] for at, to in enumerate(stands) if at != to}


def expected_usage(naming: Naming, is_there: Callable[[str], bool]) -> Usage:
    """Return what the questions of a first round are expected to cost."""
    settings, evidence = naming.settings, naming.evidence
    shape, prices, who = Shape.of(settings), known_prices(settings), identity(settings)
    asked = shape.schema.get("properties", {})
    answer = LABEL_TOKENS + FIELD_TOKENS * len(shape.extra)
    answer += SUMMARY_TOKENS * ("summary" in asked)
    answer += KEYWORDS_TOKENS * ("keywords" in asked)
    offline = naming.offline_labels
    total = Usage(usd=None if prices is None else 0.0)
    for node in range(len(evidence.names)):
        if node in naming.named:
            continue
        parent = int(evidence.parents[node])
        shown = evidence.of(node, None if parent == NOISE else offline[parent])
        question = make_question(shown, settings, shape)
        if says_nothing(shown) or is_there(question_key(question, who)):
            continue
        total = total + Usage.of(estimate_question(question), answer, prices)
    return total


def measure_confidence(
    naming: Naming, embed: Embed | None, n_threads: int, reporter: Reporter
) -> None:
    """Measure whether documents that nobody was shown lie nearer to their label than to others."""
    if embed is None:
        return
    evidence = naming.evidence
    nodes = range(len(evidence.names))
    try:
        own = ((node, [naming.named[node].label]) for node in nodes)
        labels = [X[0] for _, X in embedded_in_turn(own, embed, n_threads)]
        tested = (
            (node, list(samples_as_text(evidence.documents.get(evidence.held_out[node]))))
            for node in nodes
            if naming.named[node].reused_from is None
        )
        for node, held_out in embedded_in_turn(tested, embed, n_threads):
            others = [labels[other] for other in evidence.neighbours[node]]
            naming.named[node].confidence = confidence(held_out, labels[node], others)
            reporter.progress(node + 1, len(nodes), "clusters")
    except GaveUp as error:
        reporter.warn("confidence_not_measured", f"no confidence was measured: {error}")


def counts(naming: Naming) -> dict[str, int]:
    """Return how many clusters got their name which way."""
    named = list(naming.named.values())
    by_source = Counter(one.source for one in named if one.reused_from is None)
    return {
        "num_clusters": len(named),
        **{f"num_{source}": by_source[source] for source in sorted(by_source)},
        "num_reused": sum(one.reused_from is not None for one in named),
        "num_merged": sum(one.merged_from is not None for one in named),
    }


def errors(naming: Naming) -> Iterator[str]:
    """Yield each problem with the clusters that it left without a name."""
    clusters: dict[str, list[str]] = {}
    for node in sorted(naming.problems):
        clusters.setdefault(naming.problems[node], []).append(naming.evidence.names[node])
    for problem, names in clusters.items():
        yield json.dumps({"error": problem, "clusters": names})


def table(naming: Naming) -> pa.Table:
    """Return the names, `LABELS`."""
    ordered = [naming.named[node] for node in range(len(naming.evidence.names))]
    return pa.table(
        {
            "cluster_id": naming.evidence.names,
            "cluster_index": list(range(len(ordered))),
            "label": [one.label for one in ordered],
            "summary": [one.summary for one in ordered],
            "keywords": [None if one.keywords is None else list(one.keywords) for one in ordered],
            "label_source": [one.source for one in ordered],
            "label_confidence": [one.confidence for one in ordered],
            "label_merged_from": [one.merged_from for one in ordered],
            "label_reused_from": [one.reused_from for one in ordered],
            "label_fields": [one.fields for one in ordered],
        },
        schema=LABELS,
    )
