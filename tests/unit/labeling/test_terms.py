"""Counts of words and phrases, beside a reference that goes through the texts one by one."""

from __future__ import annotations

import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from gpucluster.errors import ShapeError
from gpucluster.labeling.keywords import terms
from gpucluster.labeling.keywords.terms import FORMS_OF_DO, NO_STOP_WORDS, TermCounter, TermCounts

STOP_WORDS = {*ENGLISH_STOP_WORDS, *FORMS_OF_DO}.difference(NO_STOP_WORDS)


def count(texts: list[str | None], groups: list[int] | None = None) -> TermCounts:
    groups = [0] * len(texts) if groups is None else groups
    counter = TermCounter(max(groups, default=0) + 1)
    counter.add(pa.array(texts, pa.string()), np.array(groups, np.int32))
    return counter.counts()


def table(counts: TermCounts) -> dict[tuple[int, str], int]:
    entries = counts.matrix.tocoo()
    return {
        (int(group), counts.terms[term]): int(number)
        for group, term, number in zip(*entries.coords, entries.data, strict=True)
    }


def found(*texts: str) -> set[str]:
    """Return the terms of texts that each come twice, so that all phrases count."""
    return set(count([*texts, *texts]).terms)


def tokens(text: str) -> list[str | None]:
    """Return the words of a text without apostrophes and scripts without spaces; None: a break."""
    split: list[str | None] = []
    word = ""
    for character in f"{text[:2000].lower().replace(' - ', '.')} ":
        if unicodedata.category(character)[0] in "LMN":
            word += character
            continue
        if word:
            usable = len(word) <= 40 and word not in STOP_WORDS
            split.append(word if usable and any(map(str.isalpha, word)) else None)
        word = ""
        if character not in " \t-_":
            split.append(None)
    return split


def reference(texts: list[str | None], groups: list[int]) -> dict[tuple[int, str], int]:
    numbers: Counter[tuple[int, str]] = Counter()
    for text, group in zip(texts, groups, strict=True):
        if text is None or group < 0:
            continue
        words = tokens(text)
        once = {word for word in words if word and len(word) > 1}
        once |= {f"{a} {b}" for a, b in pairwise(words) if a and b}
        numbers.update((group, term) for term in once)
    everywhere: Counter[str] = Counter()
    for (_, term), number in numbers.items():
        everywhere[term] += number
    return {
        key: number
        for key, number in numbers.items()
        if " " not in key[1] or everywhere[key[1]] > 1
    }


PIECES = st.sampled_from(
    [
        *("the", "of", "Bank", "rate", "rates", "é", "straße", "x", "42", "b2b", "ключ"),
        *(" ", " ", " ", "-", " - ", "_", ". ", ", ", "\n", "a" * 41, "e\u0301t\u0301"),
    ]
)
TEXTS = st.lists(st.lists(PIECES, max_size=14).map(" ".join) | st.none(), max_size=12)


@given(TEXTS, st.data())
def test_counts_are_those_of_the_reference(texts, data):
    group = st.integers(-1, 3)
    groups = data.draw(st.lists(group, min_size=len(texts), max_size=len(texts)))
    counter = TermCounter(4)
    counter.add(pa.array(texts, pa.string()), np.array(groups, np.int32))
    counts = counter.counts()
    assert table(counts) == reference(texts, groups)
    assert counts.terms == sorted(counts.terms, key=str.encode)
    read = [group for text, group in zip(texts, groups, strict=True) if text is not None]
    assert counts.documents.tolist() == [read.count(group) for group in range(4)]
    assert counts.matrix.has_sorted_indices
    assert (counts.matrix.data > 0).all()


@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_text_can_be_counted(texts):
    counts = count([*texts, *texts])
    assert all(term == term.strip() and 1 < len(term) <= 81 for term in counts.terms)
    assert len(set(counts.terms)) == len(counts.terms)
    assert (counts.matrix.data <= 2 * len(texts)).all()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("n_parts", [1, 3, 7])
def test_parts_are_the_same_as_the_whole(monkeypatch, kind, n_parts):
    monkeypatch.setattr(terms, "SLICE_ROWS", 5)
    monkeypatch.setattr(terms, "BLOCK_BYTES", 200)
    monkeypatch.setattr(terms, "MERGE_ENTRIES", 40)
    drawn = np.random.default_rng(0)
    vocabulary = [f"word{n}" for n in range(30)]
    texts = [" ".join(drawn.choice(vocabulary, 8)) for _ in range(200)]
    groups = drawn.integers(-1, 6, len(texts)).astype(np.int32)
    counter = TermCounter(6)
    for part in np.array_split(np.arange(len(texts)), n_parts):
        column = pa.chunked_array([pa.array([texts[row]], kind) for row in part], kind)
        counter.add(column, groups[part])
    counts = counter.counts()
    assert table(counts) == reference(texts, groups.tolist())
    counter.add(pa.array(["word1 afterwards"]), np.array([2], np.int32))
    later = counter.counts()
    assert later.documents[2] == counts.documents[2] + 1
    assert table(later)[2, "word1"] == table(counts)[2, "word1"] + 1


def test_a_document_counts_once():
    assert table(count(["rate rate rate", "rate"])) == {(0, "rate"): 2}
    assert table(count(["exchange rate, exchange rate", "exchange rate"]))[0, "exchange rate"] == 2


def test_a_phrase_of_a_single_document_is_no_term():
    counts = count(["exchange rate", "bank transfer", "bank transfer"], [0, 1, 1])
    assert counts.terms == ["bank", "bank transfer", "exchange", "rate", "transfer"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exchange rate", {"exchange", "rate", "exchange rate"}),
        ("exchange-rate exchange_rate", {"exchange", "rate", "exchange rate", "rate exchange"}),
        ("exchange - rate", {"exchange", "rate"}),
        ("exchange. rate", {"exchange", "rate"}),
        ("exchange\nrate", {"exchange", "rate"}),
        ("exchange 100 rate", {"exchange", "rate"}),
        ("exchange of the rate", {"exchange", "rate"}),
        ("exchange doesn't rate", {"exchange", "rate"}),
        ("exchange\u00a0\u2003rate", {"exchange", "rate", "exchange rate"}),
        ("vitamin c", {"vitamin", "vitamin c"}),
        ("John's card", {"john", "card", "john card"}),
        ("john\u2019s 'card'", {"john", "card", "john card"}),
        ("l'eau", {"eau"}),
        ("401k", {"401k"}),
        ("the bill is full", {"bill", "full"}),
        ("2024 100 3", set()),
        ("i can't don't we've", set()),
        ("e\u0301te\u0301", {"e\u0301te\u0301"}),
    ],
)
def test_what_is_a_term(text, expected):
    assert found(text) == expected


def test_scripts_without_spaces_give_pairs_of_letters():
    assert found("東京タワー。京都") == {"東京", "京タ", "タワ", "ワー", "京都"}
    assert max(map(len, found("สวัสดีครับทุกคน", "ສະບາຍດີ", "မင်္ဂလာပါ"))) <= 8
    assert "東 api" in found("東api")


def test_what_comes_late_or_is_too_long_is_left_out():
    assert found("early " + "." * 2000 + " late") == {"early"}
    assert found("a" * 41 + " word " + "b" * 40) == {"word", "b" * 40, "word " + "b" * 40}


def test_without_texts_there_are_no_terms():
    for counts in (TermCounter(3).counts(), count([None, "the", ""], [0, 1, 2])):
        assert counts.terms == []
        assert counts.matrix.shape == (3, 0)
    assert counts.documents.tolist() == [0, 1, 1]
    assert TermCounter(0).counts().matrix.shape == (0, 0)


def test_too_many_terms_leave_the_commonest_of_each_group(monkeypatch):
    monkeypatch.setattr(terms, "SLICE_ROWS", 50)
    monkeypatch.setattr(terms, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(terms, "MERGE_ENTRIES", 100)
    monkeypatch.setattr(terms, "MAX_ENTRIES", 300)
    counter = TermCounter(4)
    for start in range(0, 2000, 100):
        rows = range(start, start + 100)
        texts = pa.array([f"topic{row % 4} subject{row % 4} rare{row}" for row in rows])
        counter.add(texts, np.arange(100, dtype=np.int32) % 4)
    counts = counter.counts()
    assert len(counter._words) < 500
    assert counts.matrix.nnz <= 300
    assert counts.documents.tolist() == [500] * 4
    for group in range(4):
        for term in (f"topic{group}", f"subject{group}", f"topic{group} subject{group}"):
            assert table(counts)[group, term] == 500


def test_groups_must_fit():
    counter = TermCounter(2)
    with pytest.raises(ShapeError, match="1 groups for 2 texts"):
        counter.add(pa.array(["a", "b"]), np.zeros(1, np.int32))
    for group in (-2, 2):
        with pytest.raises(ShapeError, match="expected -1..1"):
            counter.add(pa.array(["a"]), np.array([group], np.int32))


def test_a_phrase_may_end_with_a_particle_that_is_no_term() -> None:
    counter = TermCounter(1)
    counter.add(pa.array(["top up now", "please top up", "up there"]), np.zeros(3, np.int32))
    counts = counter.counts()
    assert "top up" in counts.terms
    assert not {"up", "up there"} & set(counts.terms)
