"""Confidence is the share of unseen documents that lie nearest to their own label."""

from __future__ import annotations

import numpy as np

from gpucluster.labeling.confidence import confidence

X = np.eye(3, dtype=np.float32)


def test_it_counts_the_documents_that_are_nearest_to_their_own_label() -> None:
    documents = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.5, 0.5, 0]], np.float32)
    assert confidence(documents, X[0], X[1:]) == 0.5  # a tie is no success


def test_without_documents_or_others_nothing_is_known() -> None:
    assert confidence(X[:0], X[0], X[1:]) is None
    assert confidence(X, X[0], X[:0]) is None
