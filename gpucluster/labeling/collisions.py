"""Names that tell clusters apart: which ones clash, and what becomes of those that still do.

A model may have been told a name by a document, in order to take it from another cluster. What can
be checked is whether a cluster's own words carry its name: they are counted over all its members.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gpucluster.labeling.answer.replies import LABEL_LIMIT
from gpucluster.labeling.text import without_joiners
from gpucluster.types import Matrix

ENDING_LIMIT = LABEL_LIMIT // 2  # characters of a keyword that tells a label apart


def comparable(label: str) -> str:
    """Return what two labels have in common that people take for the same."""
    folded = unicodedata.normalize("NFKC", without_joiners(label)).casefold()
    kept = ""
    for c in folded:
        before = kept[-1:]
        is_sign = c in "+#" and (before.isalpha() or before in {"+", "#"})  # as in C++
        # vowels of many scripts are marks
        is_mark = unicodedata.category(c)[0] == "M" and before not in {"", " "}
        kept += c if c.isalnum() or is_sign or is_mark else " "
    return " ".join(kept.split()) or folded


@dataclass(frozen=True, slots=True)
class Clashes:
    """Labels by node that cannot stay as they are.

    Attributes
    ----------
    theirs : dict of int to str
        They are another node's by right: all their words are its own.
    nobodys : dict of int to str
        None that has it can show that: no other name is due for these, only something that tells
        them apart.
    """

    theirs: dict[int, str] = field(default_factory=dict)
    nobodys: dict[int, str] = field(default_factory=dict)

    @property
    def all(self) -> dict[int, str]:
        """Both."""
        return self.theirs | self.nobodys


def clashing(
    labels: Mapping[int, str],
    sizes: Sequence[int],
    support: Mapping[int, float],
    *,
    fixed: Iterable[int] = (),
    taken: Mapping[str, float] | None = None,
) -> Clashes:
    """Find the clusters that are called like another one.

    Parameters
    ----------
    labels : dict of int to str
        By node.
    sizes : sequence of int
        Members of each node.
    support : dict of int to float
        By node, the share of the label's words that are the cluster's own.
    fixed : iterable of int
        Nodes that keep their label: it was theirs in an earlier run.
    taken : dict of str to float, optional
        Labels that no node may have, such as those of the level above, with their support there.

    Returns
    -------
    Clashes
        Of several that share a label the one keeps it whose own words carry it most, of equals
        that they carry wholly the largest; of other equals none.
    """
    kept = set(fixed)
    owners: dict[str, float] = {}
    for label, share in (taken or {}).items():
        name = comparable(label)
        owners[name] = max(share, owners.get(name, 0.0))
    groups: dict[str, list[int]] = {}

    def rank(node: int) -> tuple[bool, float, int, int]:
        return node not in kept, -support[node], -sizes[node], node

    for node in sorted(labels, key=rank):
        groups.setdefault(comparable(labels[node]), []).append(node)
    found = Clashes()
    for name, nodes in groups.items():
        right = owners.get(name)
        first, others = nodes[0], [node for node in nodes if node not in kept]
        if right is None:
            right = support[first]
            is_tie = first not in kept and len(nodes) > 1 and support[nodes[1]] == right < 1
            others = others if is_tie else [node for node in others if node != first]
        into = found.theirs if right >= 1 else found.nobodys
        into.update((node, labels[node]) for node in others)
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
        New labels of the nodes that clash, of `LABEL_LIMIT` characters at most: ``Card fees
        (abroad)``, or ``card, fees, abroad`` where a label is a list of keywords anyway.
    """
    owned = Counter(comparable(label) for label in (*labels.values(), *taken))
    found = {}
    for node in clashes:
        for longer in _longer(labels[node], keywords[node], names[node]):
            if not owned[comparable(longer)]:
                break
        owned[comparable(longer)] += 1
        found[node] = longer
    return found


def _longer(label: str, keywords: Sequence[str], name: str) -> Iterator[str]:
    """Yield a label with each keyword that it does not have, then with the id of its cluster."""
    is_list = {*label.split(", ")} <= {*keywords}
    words = [word for word in keywords if word.casefold() not in label.casefold()]
    endings = [word[:ENDING_LIMIT].rstrip() for word in words]
    # an id says at its end which one it is
    for ending in (*endings, name[3 - LABEL_LIMIT :]):
        start = label[: LABEL_LIMIT - len(ending) - 3].rstrip()
        listed = is_list and ending in endings
        yield f"{start}, {ending}" if listed else f"{start} ({ending})".lstrip()


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
