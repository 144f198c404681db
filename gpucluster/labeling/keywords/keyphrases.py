"""What clusters are about, told from the words that set them apart: phrases, and names of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucluster.errors import ShapeError
from gpucluster.labeling.keywords.folding import fold, rows_of
from gpucluster.labeling.text import cut, visible
from gpucluster.types import NOISE, Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from gpucluster.labeling.keywords.terms import TermCounts

CANDIDATES = 50  # terms of a cluster among which its phrases are chosen
BLOCK_VALUES = 1 << 20  # that are scored at a time
PHRASE_SHARE = 1 / 2  # of the documents with a word; above it a phrase stands for the word
MAX_LABEL = 60  # characters
MAX_PHRASES, MAX_WORDS = 3, 4  # of a label, unless others have the same
STEM, ENDING = 4, 3  # letters that forms of a word share at least, and differ in at most

_SENTENCE = re.compile(r"(?<=.{12}[.!?])\s|(?<=[。！？])", re.DOTALL)  # noqa: RUF001 - they end sentences


def keyphrases(counts: TermCounts, parents: Labels, n_keywords: int = 5) -> list[list[str]]:
    """Return the phrases that say what each cluster is about, beside its siblings.

    A term scores by class-based TF-IDF (Grootendorst 2022, arXiv:2203.05794) on documents: the
    share of a cluster's documents that have it, times ``log(1 + n_clusters / n_effective)``.
    The effective number of clusters that have a term is the inverse of Simpson's index over its
    shares there (Simpson 1949, doi:10.1038/163688a0), which does not count a cluster in full for
    a single document. What is less than one document commoner than in the siblings is left out,
    unless nothing else is there.

    Singular and plural are one term, shown in the commoner form, where the same clusters have
    both. No two phrases share a word, and a phrase stands in for a word that is mostly part of it.

    Parameters
    ----------
    counts : TermCounts
        Of the rows that each node holds itself; those below it are added here.
    parents : ndarray of shape (n_nodes,), int32
        Parent of each node, which comes before it; -1 for roots, which are siblings.
    n_keywords : int, default 5
        At most as many are returned.

    Returns
    -------
    list of n_nodes lists of str
        Best first; ties by alphabet. Empty where no term is known.

    Raises
    ------
    ShapeError
        There are not as many groups as nodes.

    Notes
    -----
    Extra memory: about 100 bytes for each stored count.
    """
    if counts.matrix.shape[0] != len(parents):
        raise ShapeError(f"{counts.matrix.shape[0]} groups for {len(parents)} nodes")
    matrix, documents = _with_descendants(counts.matrix, counts.documents, parents)
    folded = fold(counts, matrix, documents)
    found: list[list[str]] = []
    for columns, numbers in _candidates(folded.matrix, documents, parents):
        chosen = _chosen([*map(folded.words, columns)], numbers, n_keywords)
        found.append([folded.shown[columns[at]] for at in chosen])
    return found


def offline_label(keywords: Sequence[str]) -> str:
    """Return a name made of the first phrases: ``exchange rate, currency``.

    Parameters
    ----------
    keywords : sequence of str
        As from `keyphrases`.

    Returns
    -------
    str
        One line of at most 60 characters; empty without keywords.
    """
    phrases = _saying_more(keywords)
    return cut(", ".join(phrases[: _usual(phrases)]), MAX_LABEL)


def headline(text: str, max_length: int = 120) -> str:
    """Return the first sentence or line of a text, as it may stand in one line.

    Parameters
    ----------
    text : str
    max_length : int, default 120
        In characters; longer ones are cut behind a word, with an ellipsis.

    Returns
    -------
    str
        Without control and direction characters; empty where nothing is left.
    """
    for line in text.lstrip()[: 20 * max_length].splitlines():
        if seen := visible(line):
            return cut(_SENTENCE.split(seen, maxsplit=1)[0], max_length)
    return ""


def _with_descendants(
    matrix: csr_matrix, documents: NDArray[np.int64], parents: Labels
) -> tuple[csr_matrix, NDArray[np.int64]]:
    """Return the counts of each node and all below it."""
    from scipy.sparse import coo_matrix

    if not (parents != NOISE).any():
        return matrix, documents
    nodes: Labels = np.arange(len(parents), dtype=np.int32)
    above, pairs = nodes, []
    while len(nodes):
        pairs.append((above, nodes))
        above = parents[above]
        nodes, above = nodes[above != NOISE], above[above != NOISE]
    rows, columns = (np.concatenate(each) for each in zip(*pairs, strict=True))
    shape = len(parents), len(parents)
    below = coo_matrix((np.ones(len(rows), np.int64), (rows, columns)), shape).tocsr()
    total = (below @ matrix).tocsr()
    total.sort_indices()
    return total, below @ documents


def _candidates(
    matrix: csr_matrix, documents: NDArray[np.int64], parents: Labels
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the best terms of each node, best first, and how many documents have them."""
    _, family, sizes = np.unique(parents, return_inverse=True, return_counts=True)
    places: Any = matrix.indices  # of a term in a family
    if len(sizes) > 1:
        keys = family[rows_of(matrix)] * np.int64(matrix.shape[1]) + matrix.indices
        places = np.unique(keys, return_inverse=True)[1]
    shares = matrix.data / documents[rows_of(matrix)]
    total = np.bincount(places, shares)
    squares = np.bincount(places, shares * shares)
    for first, last in _blocks(matrix.indptr):
        part = matrix[first:last]
        rows, terms, numbers = rows_of(part), part.indices, part.data
        held = slice(matrix.indptr[first], matrix.indptr[last])
        place, share = places[held], shares[held]
        siblings = sizes[family[first + rows]]
        expected = documents[first + rows] * (total[place] - share) / np.maximum(siblings - 1, 1)
        scores = share * np.log1p(siblings * squares[place] / total[place] ** 2)
        kept = numbers > 1 + expected
        kept |= (np.bincount(rows, kept, minlength=last - first) == 0)[rows]
        order = np.flatnonzero(kept)
        order = order[np.lexsort((terms[order], -scores[order], rows[order]))]
        ends = np.cumsum(np.bincount(rows[order], minlength=last - first))
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            best = order[start : min(end, start + CANDIDATES)]
            yield terms[best].tolist(), numbers[best].tolist()


def _blocks(starts: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that hold few values, or are single."""
    first, n_rows = 0, len(starts) - 1
    while first < n_rows:
        reach = int(np.searchsorted(starts, starts[first] + BLOCK_VALUES, side="right")) - 1
        last = min(max(reach, first + 1), n_rows)
        yield first, last
        first = last


def _chosen(terms: list[tuple[str, ...]], numbers: list[int], n_keywords: int) -> list[int]:
    """Return the positions of terms that have no word in common."""
    chosen: list[int] = []
    said: set[str] = set()
    for at, words in enumerate(terms):
        if len(chosen) == n_keywords:
            break
        if not said.isdisjoint(words):
            continue
        best = at
        if len(words) == 1:
            enough = PHRASE_SHARE * numbers[at]
            for other, phrase in enumerate(terms):
                stands_in = len(phrase) > 1 and words[0] in phrase and numbers[other] > enough
                if stands_in and said.isdisjoint(phrase):
                    best = other
                    break
        chosen.append(best)
        said.update(terms[best])
    return chosen


def _saying_more(keywords: Sequence[str]) -> list[str]:
    """Return phrases with those last that have another form of a word before them."""
    said: list[str] = []
    new: list[str] = []
    again: list[str] = []
    for phrase in keywords:
        words = phrase.split(" ")
        repeats = any(are_forms(word, other) for word in words for other in said)
        (again if repeats else new).append(phrase)
        said += words
    return new + again


def are_forms(first: str, second: str) -> bool:
    """Whether two words are the same but for a short ending: ``charge`` and ``charged``."""
    short, long = sorted((first, second), key=len)
    return len(short) >= STEM and long.startswith(short) and len(long) - len(short) <= ENDING


def _usual(keywords: Sequence[str]) -> int:
    """Return how many phrases make a name of a few words."""
    n_words = 0
    for count, phrase in enumerate(keywords[:MAX_PHRASES]):
        n_words += phrase.count(" ") + 1
        if n_words > MAX_WORDS or len(", ".join(keywords[: count + 1])) > MAX_LABEL:
            return max(count, 1)
    return min(len(keywords), MAX_PHRASES)
