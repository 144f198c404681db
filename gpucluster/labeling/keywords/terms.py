"""In how many documents of each group the words and phrases of texts occur."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpucluster.errors import ShapeError
from gpucluster.types import NOISE, Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

MAX_CHARACTERS = 2_000  # of a text; what comes later is hardly what it is about
MAX_WORD = 40  # characters; longer ones are links, keys and noise
SLICE_ROWS = 8_192
BLOCK_BYTES = 16 << 20  # of text that is split at a time
MERGE_ENTRIES = 4_000_000
MAX_ENTRIES = 16_000_000
LEAST_TERMS = 16  # of a group, however many groups there are
FORMS_OF_DO = ("did", "does", "doing")  # scikit-learn's stop words have only "do" and "done"
# and these, which texts may be about (Nothman et al. 2018, doi:10.18653/v1/W18-2502)
PARTICLES = ("down", "off", "out", "up")  # stop words that a phrase may end with: top up
NO_STOP_WORDS = (
    *("amount", "bill", "bottom", "call", "cry", "describe", "detail", "empty", "fill", "fire"),
    *("front", "full", "interest", "mill", "mine", "move", "name", "serious", "side", "sincere"),
    *("system", "thick", "thin", "top"),
)

# Scripts without spaces: each letter is a word, so phrases are pairs of letters
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}ー]"
_APOSTROPHE = "\u2019"  # as typographers set it
_BREAKS = rf"[^\p{{L}}\p{{M}}\p{{N}}'{_APOSTROPHE} \t\p{{Zs}}_-]+| -+ "
_BREAK = " . "
_SPACES = r"[ \t\p{Zs}_-]+"
_ALONE: Final = np.int64(0xFFFF_FFFF)  # in place of a second word
_BREAKING, _AT_END, _IN_PHRASES, _WORD = range(4)  # what a token may be part of


@cache
def stop_words() -> frozenset[str]:
    """Return the words of English that say nothing by themselves."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset({*ENGLISH_STOP_WORDS, *FORMS_OF_DO}.difference(NO_STOP_WORDS))


@dataclass(frozen=True, slots=True)
class TermCounts:
    """Words and phrases, and in how many documents of each group they occur.

    Attributes
    ----------
    terms : list of n_terms str
        Lower case, unique, sorted. A phrase is two words with a space between, or two letters of
        a script that has none.
    matrix : scipy.sparse.csr_matrix of shape (n_groups, n_terms), int32
        Documents of the group that contain the term; sorted indices, no stored zeros.
    documents : ndarray of shape (n_groups,), int64
        Documents of the group that were counted.
    """

    terms: list[str]
    matrix: csr_matrix
    documents: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Counted:
    """Counts by keys of terms: two word codes, 32 bits each."""

    keys: NDArray[np.int64]
    matrix: csr_matrix


class TermCounter:
    """Counts, by group, the documents that contain each word and each phrase of two words.

    Words are runs of letters, marks and digits of any language, without regard to case. A phrase
    does not cross punctuation, a number, or one of scikit-learn's English stop words; a hyphen
    joins as a space does. Numbers and single letters are no terms by themselves, and no word is
    longer than 40 characters. Endings behind an apostrophe are left out: ``card's`` is ``card``.
    Chinese, Japanese, Thai and other scripts without spaces give pairs of letters. Of a text,
    the first 2,000 characters count.

    Parameters
    ----------
    n_groups : int
        Groups are ``0..n_groups-1``.

    Notes
    -----
    It holds 8 bytes for each pair of a group and a term that occurs there, and 16 million pairs
    when it counts on: above that, each group keeps the terms that most of its documents have, and
    then the numbers of rare terms may be too low. With what it takes to merge the parts and to
    split 16 MB of text at a time, that is 1.2 GB at the most, beside the distinct words.
    """

    def __init__(self, n_groups: int) -> None:
        self._stop_words = pa.array(sorted(stop_words()), pa.large_string())
        self._documents = np.zeros(n_groups, np.int64)
        self._words = pa.array([], pa.large_string())
        self._texts: list[Any] = []
        self._groups: list[Labels] = []
        self._bytes = 0
        self._counted: list[_Counted] = []

    def add(self, texts: pa.Array | pa.ChunkedArray, groups: Labels) -> None:
        """Count texts; those that are null or belong to the group -1 are left out.

        Parameters
        ----------
        texts : pyarrow.Array or ChunkedArray of shape (n,), string or large_string
        groups : ndarray of shape (n,), int32

        Raises
        ------
        ShapeError
            There are not as many groups as texts, or a group is outside of the range.
        """
        n_groups = len(self._documents)
        if len(texts) != len(groups):
            raise ShapeError(f"{len(groups)} groups for {len(texts)} texts")
        if len(groups) and not NOISE <= groups.min() <= groups.max() < n_groups:
            raise ShapeError(f"groups {groups.min()}..{groups.max()}, expected -1..{n_groups - 1}")
        for start in range(0, len(texts), SLICE_ROWS):
            part = texts.slice(start, SLICE_ROWS)
            there = pc.is_valid(part).to_numpy(zero_copy_only=False)
            own = groups[start : start + SLICE_ROWS]
            counts = there & (own != NOISE)
            if counts.any():
                self._hold(part.filter(pa.array(counts)), own[counts])

    def counts(self) -> TermCounts:
        """Return what was counted so far; a phrase of a single document is no term.

        Extra memory: as much as the counts, and some 100 bytes for each term.
        """
        self._flush()
        self._merge()
        counted = self._counted[0] if self._counted else _empty(len(self._documents))
        occurring = np.bincount(
            counted.matrix.indices, counted.matrix.data, minlength=len(counted.keys)
        )
        kept = np.flatnonzero((occurring > 1) | (counted.keys & _ALONE == _ALONE))
        texts = self._spelled(counted.keys[kept])
        order = pc.sort_indices(texts).to_numpy()
        matrix = _with_columns(counted.matrix, kept[order])
        return TermCounts(texts.take(pa.array(order)).to_pylist(), matrix, self._documents.copy())

    def _hold(self, texts: Any, groups: Labels) -> None:
        """Keep a slice until there is a block of them."""
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        short = pc.utf8_slice_codeunits(texts.cast(pa.large_string()), 0, MAX_CHARACTERS)
        self._documents += np.bincount(groups, minlength=len(self._documents))
        self._texts.append(short)
        self._groups.append(groups)
        self._bytes += short.nbytes
        if self._bytes >= BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Count the texts that are held."""
        if not self._texts:
            return
        texts, groups = pa.concat_arrays(self._texts), np.concatenate(self._groups)
        self._texts, self._groups, self._bytes = [], [], 0
        self._counted.append(self._count(texts, groups))
        sizes = [each.matrix.nnz for each in self._counted]
        # to merge only what is not small beside the rest keeps the sum of all merges small
        if sum(sizes[1:]) > max(MERGE_ENTRIES, sizes[0] // 2):
            self._merge()

    def _count(self, texts: Any, groups: Labels) -> _Counted:
        """Return the counts of texts."""
        split = _split(texts)
        words, use, codes = self._coded(split.flatten())
        rows = np.repeat(np.arange(len(texts)), np.diff(split.offsets.to_numpy()))
        alone = use[codes] == _WORD
        pairs = (use[codes] > _AT_END)[:-1] & (use[codes] != _BREAKING)[1:]
        pairs &= rows[:-1] == rows[1:]
        word = words[codes]
        phrases = (word[:-1][pairs] << np.int64(32)) | word[1:][pairs]
        keys = np.concatenate(((word[alone] << np.int64(32)) | _ALONE, phrases))
        found = pa.array(keys).dictionary_encode()
        n_terms = len(found.dictionary)
        within = np.concatenate((rows[alone], rows[:-1][pairs])) * n_terms
        once = _unique(within + found.indices.to_numpy())  # a document counts once
        return _Counted(
            found.dictionary.to_numpy(),
            _summed(
                groups[once // max(n_terms, 1)],
                once % max(n_terms, 1),
                np.ones(len(once), np.int32),
                (len(self._documents), n_terms),
            ),
        )

    def _coded(self, tokens: Any) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.int32]]:
        """Return the code of the word and the use of each distinct token, and which each is."""
        encoded = tokens.dictionary_encode()
        tokens = pc.replace_substring(encoded.dictionary, _APOSTROPHE, "'")
        tokens = pc.utf8_trim(tokens, characters="'")
        negated = pc.ends_with(tokens, "n't")
        tokens = pc.replace_substring_regex(tokens, r"'\p{L}{1,2}$", "")
        tokens = pc.replace_substring_regex(tokens, r"^\p{L}{1,2}'", "")
        lengths = pc.utf8_length(tokens).to_numpy()
        lettered = pc.match_substring_regex(tokens, r"\p{L}")
        stopped = pc.or_(pc.is_in(tokens, self._stop_words), negated)
        use = np.where(lengths > 1, _WORD, _IN_PHRASES).astype(np.int8)
        breaking = pc.or_(pc.invert(lettered), stopped).to_numpy(zero_copy_only=False)
        use[breaking | (lengths > MAX_WORD)] = _BREAKING
        use[pc.is_in(tokens, pa.array(PARTICLES, tokens.type)).to_numpy(zero_copy_only=False)] = (
            _AT_END
        )
        words = np.zeros(len(tokens), np.int64)
        used = use != _BREAKING
        words[used] = self._interned(tokens.filter(pa.array(used)))
        return words, use, encoded.indices.to_numpy()

    def _interned(self, words: Any) -> NDArray[np.int32]:
        """Return the codes of words; new ones get the next."""
        unknown = words.filter(pc.invert(pc.is_in(words, self._words)))
        self._words = pa.concat_arrays([self._words, unknown.unique()])
        codes: NDArray[np.int32] = pc.index_in(words, self._words).to_numpy()
        return codes

    def _spelled(self, keys: NDArray[np.int64]) -> Any:
        """Return the terms of keys."""
        first, second = keys >> np.int64(32), keys & _ALONE
        is_phrase = second != _ALONE
        tight = pc.match_substring_regex(self._words, f"^{_UNSPACED}")
        tight = tight.to_numpy(zero_copy_only=False)
        second = np.where(is_phrase, second, first)
        spaced = is_phrase & ~(tight[first] & tight[second])
        end = pc.if_else(pa.array(is_phrase), self._words.take(pa.array(second)), "")
        space = pc.if_else(pa.array(spaced), " ", "")
        space, end = space.cast(pa.large_string()), end.cast(pa.large_string())
        return pc.binary_join_element_wise(
            self._words.take(pa.array(first)), space, end, pa.scalar("", pa.large_string())
        )

    def _merge(self) -> None:
        """Make one of the counts of several blocks."""
        if len(self._counted) > 1:
            self._counted = [_sum_of(self._counted)]
        if self._counted and self._counted[0].matrix.nnz > MAX_ENTRIES:
            kept = max(LEAST_TERMS, MAX_ENTRIES // 2 // len(self._documents))
            self._counted = [self._without_unused_words(_commonest(self._counted[0], kept))]

    def _without_unused_words(self, counted: _Counted) -> _Counted:
        """Forget the words of which no term is left."""
        first, second = counted.keys >> np.int64(32), counted.keys & _ALONE
        is_phrase = second != _ALONE
        used = np.unique(np.concatenate((first, second[is_phrase])))
        codes = np.zeros(len(self._words), np.int64)
        codes[used] = np.arange(len(used))
        self._words = self._words.take(pa.array(used))
        second = np.where(is_phrase, codes[np.where(is_phrase, second, 0)], _ALONE)
        return _Counted((codes[first] << np.int64(32)) | second, counted.matrix)


def _split(texts: Any) -> Any:
    """Return the tokens of each text; one without letters stands where a phrase ends."""
    texts = pc.utf8_lower(texts)
    if pc.any(pc.match_substring_regex(texts, _UNSPACED)).as_py():
        texts = pc.replace_substring_regex(texts, rf"({_UNSPACED}\p{{M}}*)", r" \1 ")
    texts = pc.replace_substring_regex(texts, _BREAKS, _BREAK)
    return pc.split_pattern_regex(texts, _SPACES)


def _empty(n_groups: int) -> _Counted:
    from scipy.sparse import csr_matrix

    return _Counted(np.zeros(0, np.int64), csr_matrix((n_groups, 0), dtype=np.int32))


def _unique(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return distinct values, sorted; in place, unlike numpy's."""
    values.sort()
    first = np.ones(len(values), bool)
    first[1:] = values[1:] != values[:-1]
    return values[first]


def _summed(rows: Any, columns: Any, counts: Any, shape: tuple[int, int]) -> csr_matrix:
    from scipy.sparse import coo_matrix

    places = rows.astype(np.int32, copy=False), columns.astype(np.int32, copy=False)
    matrix = coo_matrix((counts, places), shape)
    return matrix.tocsr()  # which adds up what has one place


def _sum_of(parts: list[_Counted]) -> _Counted:
    """Return the sum of counts that have terms of their own each."""
    keys = pa.concat_arrays([pa.array(part.keys) for part in parts]).dictionary_encode()
    starts = np.cumsum([0] + [len(part.keys) for part in parts])
    columns = [
        keys.indices.to_numpy()[start : start + len(part.keys)][part.matrix.indices]
        for start, part in zip(starts, parts, strict=False)
    ]
    n_groups = parts[0].matrix.shape[0]
    groups = np.arange(n_groups, dtype=np.int32)
    rows = np.concatenate([np.repeat(groups, np.diff(part.matrix.indptr)) for part in parts])
    counts = np.concatenate([part.matrix.data for part in parts])
    found = keys.dictionary.to_numpy()
    matrix = _summed(rows, np.concatenate(columns), counts, (n_groups, len(found)))
    return _Counted(found, matrix)


def _commonest(counted: _Counted, n_terms: int) -> _Counted:
    """Return counts with the commonest terms of each group, and only the terms that are left."""
    from scipy.sparse import csr_matrix

    matrix = counted.matrix
    n_groups, sizes = matrix.shape[0], np.diff(matrix.indptr)
    ranks = np.repeat(np.arange(1, n_groups + 1, dtype=np.int64) << 32, sizes)
    ranks -= matrix.data
    order = ranks.argsort(kind="stable")  # by group, and there by falling number
    places = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], sizes)
    order = order[places < n_terms]
    order.sort()
    ends = np.concatenate(([0], np.cumsum(np.minimum(sizes, n_terms))))
    left, columns = np.unique(matrix.indices[order], return_inverse=True)
    parts = matrix.data[order], columns.astype(np.int32), ends.astype(np.int32)
    return _Counted(counted.keys[left], csr_matrix(parts, (n_groups, len(left))))


def _with_columns(matrix: csr_matrix, columns: NDArray[np.int64]) -> csr_matrix:
    """Return chosen columns in a new order, with sorted indices."""
    from scipy.sparse import csr_matrix

    place = np.full(matrix.shape[1], -1, np.int32)
    place[columns] = np.arange(len(columns), dtype=np.int32)
    indices = place[matrix.indices]
    kept = indices >= 0
    ends = np.concatenate(([0], np.cumsum(kept)))[matrix.indptr]
    shape = matrix.shape[0], len(columns)
    chosen = csr_matrix((matrix.data[kept], indices[kept], ends), shape)
    chosen.sort_indices()
    return chosen
