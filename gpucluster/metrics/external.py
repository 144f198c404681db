"""Agreement of a clustering with known labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucluster.ops.nesting import labels_at, node_levels
from gpucluster.types import Hierarchy, Labels


def compare_with_truth(labels: Labels, truth: Any) -> dict[str, Any]:
    """Compare cluster labels with a truth column.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int32
        Noise is -1, and counts as one group.
    truth : pyarrow.Array of shape (n_samples,)
        Known labels of any type; rows without one are left out.

    Returns
    -------
    dict of str to float
        ``ami``, ``ari``, ``nmi``, ``v_measure`` over all labelled rows; ``purity`` over the
        clustered ones, ``purity_noise_as_error`` over all of them; ``num_labelled``.
        Empty when no row has a label.
    """
    from sklearn import metrics
    from sklearn.metrics.cluster import contingency_matrix

    encoded = truth.dictionary_encode()
    known = np.asarray(encoded.is_valid())
    if not known.any():
        return {}
    codes = np.asarray(encoded.indices.drop_null())
    found = labels[known]
    clustered = found >= 0
    majority = 0.0
    if clustered.any():
        table = contingency_matrix(codes[clustered], found[clustered], sparse=True)
        majority = float(table.max(axis=0).sum())
    return {
        "ami": float(metrics.adjusted_mutual_info_score(codes, found)),
        "ari": float(metrics.adjusted_rand_score(codes, found)),
        "nmi": float(metrics.normalized_mutual_info_score(codes, found)),
        "v_measure": float(metrics.v_measure_score(codes, found)),
        "purity": majority / max(1, int(clustered.sum())),
        "purity_noise_as_error": majority / len(found),
        "num_labelled": float(len(found)),
    }


def compare_levels(hierarchy: Hierarchy, truth: Any) -> dict[str, float]:
    """Return the agreement of each level below the roots with a truth column.

    Parameters
    ----------
    hierarchy : Hierarchy
        At each level, rows without a deeper node keep the one that they have.
    truth : pyarrow.Array of shape (n_samples,)
        Known labels of any type; rows without one are left out.

    Returns
    -------
    dict of str to float
        ``ami_level_1``, ``ami_level_2``, ...; that of level 0 is ``ami``.
    """
    found: dict[str, float | None] = {}
    for level in range(1, int(node_levels(hierarchy.parents).max(initial=0)) + 1):
        labels = labels_at(hierarchy.labels, hierarchy.parents, level)
        found |= {f"ami_level_{level}": compare_with_truth(labels, truth).get("ami")}
    return {name: ami for name, ami in found.items() if ami is not None}
