"""Keywords that set clusters apart, and the names made of them."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.errors import ShapeError
from gpucluster.labeling.keywords import keyphrases as keywords
from gpucluster.labeling.keywords.keyphrases import (
    headline,
    keyphrases,
    offline_label,
)
from gpucluster.labeling.keywords.terms import TermCounter, TermCounts


def count(*groups: list[str]) -> TermCounts:
    """Count the texts of each group."""
    counter = TermCounter(len(groups))
    for group, texts in enumerate(groups):
        counter.add(pa.array(texts, pa.string()), np.full(len(texts), group, np.int32))
    return counter.counts()


def phrases(*groups: list[str], parents: list[int] | None = None, n: int = 5) -> list[list[str]]:
    nodes = [-1] * len(groups) if parents is None else parents
    return keyphrases(count(*groups), np.array(nodes, np.int32), n)


def roots(number: int) -> np.ndarray:
    return np.full(number, -1, np.int32)


def test_scores_are_those_of_the_formula():
    """Single words that are no forms of each other, so that nothing but the score decides."""
    drawn = np.random.default_rng(3)
    vocabulary = ["".join(drawn.choice(list("bcdfgklm"), 6)) for _ in range(12)]
    groups = [
        [". ".join(drawn.choice(vocabulary, 5, p=drawn.dirichlet(np.ones(12)))) for _ in range(20)]
        for _ in range(4)
    ]
    shares = [
        {word: sum(word in text for text in texts) / len(texts) for word in vocabulary}
        for texts in groups
    ]
    for group, found in enumerate(phrases(*groups, n=12)):
        scores = {}
        for word in vocabulary:
            each = [of[word] for of in shares]
            own = each[group]
            effective = sum(each) ** 2 / sum(share**2 for share in each)
            if 20 * own > 1 + 20 * (sum(each) - own) / 3:
                scores[word] = own * math.log(1 + 4 / effective)
        assert found == sorted(scores, key=lambda word: (-scores[word], word))


def test_keywords_are_what_others_have_not():
    rates, cards, both = phrases(
        ["help me: exchange rate", "help me: rate of exchange", "help: exchange rate today"],
        ["help me: lost card", "help me: card was stolen", "help: a new card"],
        ["help me", "help", "help please"],
    )
    assert rates[0] == "exchange rate"
    assert cards == ["card"]
    assert both == ["help"]  # commoner nowhere, but all that is there


def test_a_phrase_stands_in_for_its_words():
    often = ["apple pay"] * 4 + ["apple", "pay"]
    seldom = ["google search", "google search"] + ["google"] * 6
    first, second = phrases(often, seldom)
    assert first == ["apple pay"]
    assert second == ["google", "search"]


def test_singular_and_plural_are_one():
    [found, _] = phrases(["rates"] * 3 + ["rate"] * 2 + ["currency"] * 2, ["card"] * 4)
    assert found == ["rates", "currency"]
    [found, _] = phrases(["new rates"] * 2 + ["new rate"] * 3, ["card"] * 4)
    assert found == ["new rate"]
    [found, _] = phrases(["policies", "policy"] * 2 + ["boxes", "box", "box"], ["card"] * 4)
    assert found == ["policies", "box"]


def test_words_that_only_look_like_plurals_stay_apart():
    press, shop = phrases(["news"] * 8, ["new shoes"] * 8 + ["a new hat"] * 8)
    assert press[0] == "news"
    assert shop[0] == "new"
    [found, _] = phrases(["glass of water"] * 3, ["glas"] * 3)
    assert found == ["glass", "water"]


def test_children_say_what_sets_them_apart_within_their_parent():
    cards = [["card, lost"] * 4, ["card, declined"] * 4]
    found = phrases([], ["holiday beach"] * 8, *cards, parents=[-1, -1, 0, 0])
    assert found[0][0] == "card"
    assert found[1] == ["holiday beach"]
    assert found[2:] == [["lost"], ["declined"]]


def test_a_node_counts_its_own_rows_and_all_below():
    deep = phrases(["card"], ["card"], ["card"], ["sun"] * 3, parents=[-1, 0, 1, -1])
    flat = phrases(["card"] * 3, ["sun"] * 3)
    assert [deep[0], deep[3]] == flat
    assert deep[1] == deep[2] == ["card"]  # only children, by what is common


def test_a_single_cluster_has_its_commonest_terms():
    assert phrases(["card, payment"] * 3 + ["card, refund"])[0] == ["card", "payment"]
    assert phrases(["refund, card"])[0] == ["card", "refund"]


def test_without_terms_there_are_no_keywords():
    assert phrases(["the", "of"], []) == [[], []]
    assert keyphrases(TermCounter(0).counts(), roots(0)) == []
    assert phrases(["card"], n=0) == [[]]


def test_every_node_needs_its_counts():
    with pytest.raises(ShapeError, match="1 groups for 2 nodes"):
        keyphrases(count(["card"]), roots(2))


WORDS = st.sampled_from(
    ["card", "cards", "rate", "rates", "exchange", "new", "policy", "policies", "é", "東京"]
)
TEXTS = st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=6)


@given(st.lists(TEXTS, min_size=1, max_size=6), st.data())
def test_keywords_repeat_no_word_and_do_not_depend_on_the_way(groups, data):
    parents = [data.draw(st.integers(-1, node - 1)) for node in range(len(groups))]
    found = phrases(*groups, parents=parents)
    singular = {"cards": "card", "rates": "rate", "policies": "policy"}
    for node in found:
        words = [{singular.get(word, word) for word in phrase.split(" ")} for phrase in node]
        assert sum(map(len, words)) == len(set().union(*words))
        assert len(node) <= 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keywords, "BLOCK_VALUES", 3)
        assert phrases(*groups, parents=parents) == found
    backwards = [texts[::-1] for texts in groups]
    assert phrases(*backwards, parents=parents) == found


@pytest.mark.parametrize(
    ("given", "label"),
    [
        (["exchange rate", "currency"], "exchange rate, currency"),
        (["card", "lost", "stolen", "new"], "card, lost, stolen"),
        (["apple pay", "google pay", "watch"], "apple pay, google pay"),
        (["charge", "charged twice", "fee", "refund"], "charge, fee, refund"),
        (["charge", "charges"], "charge, charges"),
        (["x" * 40, "y" * 40], "x" * 40),
        (["x" * 40 + " " + "y" * 40], "x" * 40 + "…"),
        ([], ""),
    ],
)
def test_offline_label(given, label):
    assert offline_label(given) == label


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("I lost my card. What now?", "I lost my card."),
        ("Is it there? Tell me", "Is it there? Tell me"),  # too short to be all
        ("\n\n  Title \t here \nand more", "Title here"),
        ("カードをなくしました。どうすれば", "カードをなくしました。"),
        ("a\x00b\x07\u202ec\u2066d\ufeff", "abcd"),
        ("\u0646\u0645\u06cc\u200c\u062f\u0646", "\u0646\u0645\u06cc\u200c\u062f\u0646"),
        ("version 2.5 is out", "version 2.5 is out"),
        ("", ""),
        (" \n\u200b\n ", ""),
    ],
)
def test_headline(text, line):
    assert headline(text) == line


def test_long_headlines_end_behind_a_word():
    assert headline("one two three four", 12) == "one two…"
    assert headline("x" * 200) == "x" * 119 + "…"


@given(st.text(), st.integers(1, 150))
def test_headlines_are_short_single_lines(text, length):
    line = headline(text, length)
    assert len(line) <= length
    assert line == " ".join(line.split())
    assert headline(line, length) == line or "…" in line or line[-1] in ".!?"


def test_memory_is_bounded_by_the_number_of_terms() -> None:
    words = [[f"w{chr(97 + i % 26)}{chr(97 + i // 26)}{x}" for x in "abcdefgh"] for i in range(500)]
    counts = count(*([" ".join(own)] * 2 for own in words))
    keyphrases(counts, roots(500))
    tracemalloc.start()
    keyphrases(counts, roots(500))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(counts.terms) > 7_000
    assert peak < 160 * len(counts.terms)  # 128; words of each term alone would be 100 more
