"""What clusters without names are about, told from the texts that a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gpucluster.labeling.keywords.keyphrases import keyphrases
from gpucluster.labeling.keywords.terms import TermCounter

if TYPE_CHECKING:
    from gpucluster.types import Labels, Rows


def words_of(
    texts: Mapping[int, str], rows: Rows, labels: Labels, parents: Labels
) -> list[list[str]]:
    """Return the keywords of each cluster, best first, as `keyphrases` finds them.

    Parameters
    ----------
    texts : mapping of int to str
        By row of the input.
    rows : ndarray of shape (n_members,), int64
        The row of each member.
    labels : ndarray of shape (n_members,), int32
        Its cluster.
    parents : ndarray of shape (n_clusters,), int32
        Those that clusters are part of; -1: none.
    """
    counter = TermCounter(len(parents))
    own = np.isin(rows, np.fromiter(texts, np.int64, len(texts)))
    lines = [texts[row] for row in rows[own].tolist()]
    counter.add(pa.array(lines, pa.string()), labels[own])
    return keyphrases(counter.counts(), parents)
