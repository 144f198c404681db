"""Whether a name is made of a cluster's own words, as they were counted over its members."""

from __future__ import annotations

from collections.abc import Iterable

from gpucluster.labeling.keywords.keyphrases import are_forms
from gpucluster.labeling.keywords.terms import stop_words


def share_of_own(label: str, keywords: Iterable[str]) -> float:
    """Return the share of a label's words that are among the keywords, in this or another form.

    Parameters
    ----------
    label : str
        Lower case, with spaces between words. Stop words do not count.
    keywords : iterable of str
        Of the cluster, written likewise.

    Returns
    -------
    float
        In [0, 1]; 0 where no word counts.
    """
    own = {word for keyword in keywords for word in keyword.split()}
    words = {word for word in label.split() if word not in stop_words()}
    carried = sum(any(_is_same(word, other) for other in own) for word in words)
    return carried / len(words) if words else 0.0


def _is_same(word: str, other: str) -> bool:
    return word.removesuffix("s") == other.removesuffix("s") or are_forms(word, other)
