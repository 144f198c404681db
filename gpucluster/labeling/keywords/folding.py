"""Singular and plural as one term, by what the texts themselves have; no dictionary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from gpucluster.labeling.keywords.terms import TermCounts

PLURALS = (("s", ""), ("es", ""), ("ies", "y"))
ALIKE = 0.2  # cosine over the clusters, from which on two forms mean the same


def rows_of(matrix: csr_matrix) -> NDArray[np.int64]:
    """Return the row of each stored value."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


@dataclass(frozen=True, slots=True)
class Folded:
    """Terms without regard to singular and plural.

    Attributes
    ----------
    terms : list of n_terms str
        Words as far as they are one term in the singular.
    singular : dict of str to str
        Of words that seem to be plurals.
    shown : list of n_terms str
        The form that occurs in more documents; of equal ones the first in the alphabet.
    matrix : scipy.sparse.csr_matrix of shape (n_nodes, n_terms)
        Documents that have the term; those with two forms count twice, up to all there are.
    """

    terms: list[str]
    singular: dict[str, str]
    shown: list[str]
    matrix: csr_matrix

    def words(self, column: int) -> tuple[str, ...]:
        """Return a term in the singular, even where the forms are terms of their own."""
        return tuple(self.singular.get(word, word) for word in self.terms[column].split(" "))


def fold(counts: TermCounts, matrix: csr_matrix, documents: NDArray[np.int64]) -> Folded:
    """Make one term of singular and plural where the same clusters have both.

    Parameters
    ----------
    counts : TermCounts
        They tell which form is commoner.
    matrix : scipy.sparse.csr_matrix of shape (n_nodes, n_terms)
        Documents of each node, those below it too, that have each term of `counts`.
    documents : ndarray of shape (n_nodes,), int64
        Of each node, those below it too.

    Returns
    -------
    Folded

    Notes
    -----
    Memory: 130 bytes a term beside the matrix; words of terms are split as they are asked for.
    """
    from scipy.sparse import csr_matrix

    terms = counts.terms
    singular = _singulars(terms)
    alike = _alike(terms, singular, matrix, documents)
    columns: dict[str, int] = {}
    place = np.empty(len(terms), np.int32)
    for at, term in enumerate(terms):
        words = term.split(" ")
        folded = term  # and no copy of it
        if any(word in alike for word in words):
            folded = " ".join([alike.get(word, word) for word in words])
        place[at] = columns.setdefault(folded, len(columns))
    occurring = np.bincount(counts.matrix.indices, counts.matrix.data, minlength=len(terms))
    shown = [""] * len(columns)
    for at in np.argsort(-occurring, kind="stable")[::-1].tolist():
        shown[place[at]] = terms[at]
    parts = matrix.data, place[matrix.indices], matrix.indptr
    one = csr_matrix(parts, (len(documents), len(columns)), copy=True)
    one.sum_duplicates()
    np.minimum(one.data, documents[rows_of(one)], out=one.data, casting="unsafe")
    return Folded([*columns], singular, shown, one)


def _singulars(terms: list[str]) -> dict[str, str]:
    """Return the singular of each word that seems to be a plural: the texts have both."""
    known = {term for term in terms if " " not in term}
    found: dict[str, str] = {}
    for word in known:
        for plural, ending in PLURALS:
            short = word.removesuffix(plural) + ending
            if word.endswith(plural) and short in known and len(short) > 2 and short[-1] != "s":
                found[word] = short
                break
    return found


def _alike(
    terms: list[str], singular: dict[str, str], matrix: csr_matrix, documents: NDArray[np.int64]
) -> dict[str, str]:
    """Return those forms that clusters have together, as ``news`` and ``new`` they have not."""
    position = {term: at for at, term in enumerate(terms)}
    pairs = sorted(singular.items())
    forms = []
    for words in zip(*pairs, strict=True):
        form = matrix[:, [position[word] for word in words]].astype(np.float64)
        form.data /= documents[rows_of(form)]
        forms.append(form)
    if not pairs:
        return {}
    first, second = forms
    product = np.asarray(first.multiply(second).sum(axis=0)).ravel()
    squares = [np.asarray(form.multiply(form).sum(axis=0)).ravel() for form in forms]
    together = product >= ALIKE * np.sqrt(squares[0] * squares[1])
    return {word: short for (word, short), kept in zip(pairs, together, strict=True) if kept}
