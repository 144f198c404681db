"""The ways from samples to clusters: one matrix, each feature by itself, or equal attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.algorithms import canonical_labels
from gpucluster.definition import ClusterDefinition
from gpucluster.device.storage import like
from gpucluster.features import Overlap, columns, learn_weights, nested_levels, weigh
from gpucluster.grouping import group
from gpucluster.hierarchy import nested
from gpucluster.ledger import Ledger
from gpucluster.ops.nesting import flat, labels_at, node_levels
from gpucluster.ops.normalize import unit_rows
from gpucluster.sources import Source
from gpucluster.stages import Preparation, cluster, digest, divide, prepare, stage_key
from gpucluster.types import NOISE, Clustering, Hierarchy, Labels, Matrix, Samples

if TYPE_CHECKING:
    import pyarrow as pa

Blocks = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouped:
    """What a way found.

    Attributes
    ----------
    key : str
        Digest of the matrix that the stages saw.
    found : Clustering
        The clusters of the first level.
    nodes : Hierarchy
        And those that they were divided into.
    preparation : Preparation
    names : tuple of n_nodes str, or None
        What the nodes are called, where that is known.
    features : dict or None
        Weights, and how clusters of several features lie in each other.
    block_weights : tuple of float, or None
        By which the blocks of the matrix were weighted.
    prepared : ndarray of shape (n_samples, n_prepared), float32, or None
        The rows as the clusters were found in them, where that is another space.
    """

    key: str
    found: Clustering
    nodes: Hierarchy
    preparation: Preparation
    names: tuple[str, ...] | None = None
    features: Mapping[str, Any] | None = None
    block_weights: tuple[float, ...] | None = None
    prepared: Matrix | None = None


def group_rows(
    ledger: Ledger,
    definition: ClusterDefinition,
    source: Source,
    samples: Samples,
    key: str,
    weights: dict[str, Any] | None,
    attributes: pa.Table | None = None,
) -> Grouped:
    """Find the clusters of the samples, in the way that the definition asks for.

    Parameters
    ----------
    ledger : Ledger
    definition : ClusterDefinition
        Complete.
    source : Source
        Where the samples come from.
    samples : Samples
        In `one_space`.
    key : str
    weights : dict or None
        As `one_space` returned them.
    attributes : pyarrow.Table of n_samples rows, optional
        The columns that attribute clustering groups by.

    Returns
    -------
    Grouped
    """
    config, blocks = definition.vector_config, source.info.blocks
    if attributes is not None:
        return _by_attributes(ledger, definition, attributes, key)
    if blocks and config.multi_feature_strategy == "independent":
        return _each_feature(ledger, definition, samples.X, blocks, key)
    X, preparation = prepare(ledger, definition, samples.X, key)
    found = cluster(ledger, definition, X, preparation.key)
    return Grouped(
        key=key,
        found=found,
        nodes=divide(ledger, definition, samples.X, found, key),
        preparation=preparation,
        features=weights and {"strategy": config.multi_feature_strategy, **_named(blocks, weights)},
        block_weights=None if weights is None else tuple(weights["weights"]),
        prepared=None if X is samples.X else X,
    )


def one_space(
    ledger: Ledger,
    definition: ClusterDefinition,
    X: Matrix,
    blocks: Blocks,
    data_key: str,
    *,
    is_done: bool = False,
) -> tuple[str, dict[str, Any] | None]:
    """Weigh and scale the loaded matrix, in place; it is not to be written afterwards.

    Parameters
    ----------
    ledger : Ledger
    definition : ClusterDefinition
        Complete.
    X : ndarray of shape (n_samples, n_features), float32
        As `load` made it, for us.
    blocks : sequence of (str, int)
        Features that lie side by side; none for one feature.
    data_key : str
        Digest of the matrix as it was loaded.
    is_done : bool, default False
        Whether it was weighted and scaled before.

    Returns
    -------
    key : str
        Digest of the matrix as it is now.
    weights : dict or None
        ``weights`` of the blocks and how they came to be; None where nothing is weighted.
    """
    normalized = definition.vector_config.normalize_features
    weights = _weights(ledger, definition, X, blocks, data_key)
    if weights is not None and not is_done:
        weigh(X, blocks, weights["weights"])
    if normalized and not is_done:
        unit_rows(X, out=X)
    X.setflags(write=False)
    used = None if weights is None else weights["weights"]
    return digest(data_key, normalized=normalized, weights=used), weights


def _weights(
    ledger: Ledger, definition: ClusterDefinition, X: Matrix, blocks: Blocks, data_key: str
) -> dict[str, Any] | None:
    """Return the weight of each block, given or learned; None where nothing is weighted."""
    config = definition.vector_config
    if not blocks or config.multi_feature_strategy == "independent":
        return None
    if config.feature_weights is not None or config.multi_feature_strategy == "concatenate":
        given = config.feature_weights or {}
        return {"weights": [given.get(uri, 1.0) for uri, _ in blocks], "learned": False}
    settings = config.weight_learning(definition.random_state)
    n_clusters = config.weighing_clusters(min(len(X), settings.sample_size))
    with ledger.stage("weigh", backend="sklearn") as reporter:
        key = stage_key(data_key, "cpu", settings=settings.model_dump(), n_clusters=n_clusters)
        done = ledger.recall("weigh", key)
        if done is not None:
            return dict(done[1])
        learned = asdict(learn_weights(X, blocks, settings, n_clusters, reporter))
        info = {**learned, "weights": list(learned["weights"]), "learned": True}
        ledger.keep("weigh", key, {"weights": np.array(info["weights"])}, info)
        return info


def _named(blocks: Blocks, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights by feature, with what was learned of them."""
    by_uri = dict(zip((uri for uri, _ in blocks), weights["weights"], strict=True))
    named: dict[str, Any] = {"feature_weights": by_uri, "learned": weights["learned"]}
    if weights["learned"]:
        names = {"score": "learning_quality_score", "equal_score": "equal_weights_score"}
        named |= {name: weights[source] for source, name in names.items()}
        named["n_tried"] = weights["n_tried"]
    return named


def _each_feature(
    ledger: Ledger, definition: ClusterDefinition, X: Matrix, blocks: Blocks, key: str
) -> Grouped:
    """Cluster each feature by itself; those of later ones divide those that hold them."""
    config = definition.vector_config
    found: list[Clustering] = []
    model: dict[str, Any] = {}
    learned: list[Mapping[str, Any]] = []
    for position, ((uri, _), cols) in enumerate(zip(blocks, columns(blocks), strict=True)):
        block = like(X, (len(X), cols.stop - cols.start))
        np.copyto(block, X[:, cols])
        if config.normalize_features:
            unit_rows(block, out=block)  # the whole row was scaled, not its parts
        block.setflags(write=False)
        prefix = f"feature.{position}."
        prepared, fitted = prepare(ledger, definition, block, digest(key, feature=uri), prefix)
        found.append(cluster(ledger, definition, prepared, fitted.key, prefix))
        model |= {f"{prefix}{step}": value for step, value in fitted.model.items()}
        learned += [{"feature_uri": uri, **info} for info in fitted.learned]
    levels, detected = nested_levels([one.labels_ for one in found], config.overlap_threshold)
    nodes = nested(levels[0], list(levels[1:]), len(blocks), least_parts=1, max_noise=1)
    return Grouped(
        key=key,
        found=replace(found[0], layers_=None, tree_=None),  # they would be those of one feature
        nodes=nodes,
        preparation=Preparation(key, model, tuple(learned)),
        features={
            "strategy": "independent",
            "clusters": {uri: one.n_clusters_ for (uri, _), one in zip(blocks, found, strict=True)},
            "overlaps": [
                _as_json(pair, blocks, position)
                for position, pairs in enumerate(detected)
                for pair in pairs
            ],
        },
    )


def _as_json(pair: Overlap, blocks: Blocks, position: int) -> dict[str, Any]:
    return {
        "parent_feature": blocks[position][0],
        "child_feature": blocks[position + 1][0],
        **asdict(pair),
    }


def _by_attributes(
    ledger: Ledger, definition: ClusterDefinition, attributes: pa.Table, key: str
) -> Grouped:
    """Group by the values of columns."""
    config = definition.attribute_config
    assert config is not None  # noqa: S101 - the definition was checked
    with ledger.stage("cluster", backend="pyarrow"):
        grouping = group(attributes, config)
        roots = canonical_labels(grouping.levels[0])
        nodes = flat(roots)
        if len(grouping.levels) > 1:
            finer = list(grouping.levels[1:])
            nodes = nested(roots, finer, len(grouping.levels), max_noise=1)
        found = Clustering(
            labels_=roots,
            probabilities_=None,
            n_clusters_=int(roots.max(initial=NOISE)) + 1,
            backend="pyarrow",
            info={"num_null": grouping.num_null},
        )
    return Grouped(
        key=key,
        found=found,
        nodes=nodes,
        preparation=Preparation(key, {}, ()),
        names=_common_names(nodes, grouping.levels, grouping.names),
    )


def _common_names(
    nodes: Hierarchy, levels: Labels, names: Sequence[Sequence[str]]
) -> tuple[str, ...]:
    """Return the name of each node: of the deepest group that holds all of its rows."""
    n_nodes, own = len(nodes.parents), node_levels(nodes.parents)
    found = [""] * n_nodes
    for level in range(int(own.max(initial=-1)) + 1):
        holder = labels_at(nodes.labels, nodes.parents, level)
        for groups, known in zip(levels, names, strict=True):
            least = np.full(n_nodes, len(known))
            largest = np.full(n_nodes, -1)
            np.minimum.at(least, holder, groups)
            np.maximum.at(largest, holder, groups)
            for node in np.flatnonzero((own == level) & (least == largest)):
                found[node] = known[least[node]]
    return tuple(found)
