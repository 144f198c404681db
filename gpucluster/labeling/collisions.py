"""Names that tell clusters apart: which ones clash, and what becomes of those that still do."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gpucluster.labeling.replies import LABEL_LIMIT
from gpucluster.types import Matrix


def comparable(label: str) -> str:
    """Return what two labels have in common that people take for the same."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    words = "".join(c if c.isalnum() else " " for c in folded).split()
    return " ".join(words) or folded


def clashing(
    labels: Mapping[int, str],
    sizes: Sequence[int],
    fixed: Iterable[int] = (),
    taken: Iterable[str] = (),
) -> dict[int, str]:
    """Find the clusters that are called like another one.

    Parameters
    ----------
    labels : dict of int to str
        By node.
    sizes : sequence of int
        Members of each node.
    fixed : iterable of int
        Nodes that keep their label: it was theirs in an earlier run.
    taken : iterable of str
        Labels that no node may have, such as those of the level above.

    Returns
    -------
    dict of int to str
        The label that a node has to give up. Of several that share one the largest keeps it.
    """
    kept = set(fixed)
    owners = {comparable(label) for label in taken}
    found = {}
    for node in sorted(labels, key=lambda node: (node not in kept, -sizes[node], node)):
        name = comparable(labels[node])
        if name in owners and node not in kept:
            found[node] = labels[node]
        owners.add(name)
    return found


def distinct(
    labels: Mapping[int, str],
    clashes: Iterable[int],
    keywords: Sequence[Sequence[str]],
    names: Sequence[str],
    taken: Iterable[str] = (),
) -> dict[int, str]:
    """Tell nodes apart that still clash: by a keyword of their own, at last by their id.

    Parameters
    ----------
    labels : dict of int to str
        Of all nodes of the level.
    clashes : iterable of int
        Nodes whose label is another one's.
    keywords : sequence of sequences of str
        By node.
    names : sequence of str
        Cluster ids by node.
    taken : iterable of str
        Labels that no node may have.

    Returns
    -------
    dict of int to str
        New labels of the nodes that clash, such as ``Card fees (abroad)``.
    """
    owned = Counter(comparable(label) for label in (*labels.values(), *taken))
    found = {}
    for node in clashes:
        label = labels[node]
        endings = [word for word in keywords[node] if word.casefold() not in label.casefold()]
        for ending in (*endings, names[node]):
            longest = LABEL_LIMIT - len(ending) - 3
            longer = f"{label[:longest].rstrip()} ({ending})"
            if not owned[comparable(longer)]:
                break
        owned[comparable(longer)] += 1
        found[node] = longer
    return found


def merged(X: Matrix, sizes: Sequence[int], threshold: float, block_rows: int = 1024) -> list[int]:
    """Return for each label the one that stands for it, where labels mean the same.

    Parameters
    ----------
    X : ndarray of shape (n_labels, n_features), float32
        Embeddings of unit length.
    sizes : sequence of n_labels int
        Members of their clusters.
    threshold : float
        Least cosine similarity.
    block_rows : int
        Labels that are compared at a time.

    Returns
    -------
    list of n_labels int
        Itself, or the most similar one of a larger cluster that stands for itself.
    """
    order = sorted(range(len(X)), key=lambda i: (-sizes[i], i))
    Y = X[order]
    stands = list(range(len(X)))
    alone = np.ones(len(X), np.bool_)
    for start in range(0, len(Y), block_rows):
        similarity = Y[start : start + block_rows] @ Y.T
        for at, row in enumerate(similarity, start):
            before = np.where(alone[:at], row[:at], -np.inf)
            if at and before.max() >= threshold:
                stands[order[at]] = order[int(np.argmax(before))]
                alone[at] = False
    return stands
