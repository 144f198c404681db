"""Names tell clusters apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.labeling.answer.replies import LABEL_LIMIT
from gpucluster.labeling.collisions import Clashes, clashing, comparable, distinct, merged
from gpucluster.labeling.keywords.keyphrases import offline_label
from gpucluster.labeling.keywords.support import share_of_own

words = st.sampled_from(["Card", "card ", "CARD", "Card fees", "card-fees", "Top up", "Ünïcode"])


def test_case_and_punctuation_do_not_tell_labels_apart() -> None:
    assert comparable("Top-Up  Failed!") == comparable("top up failed")
    assert comparable("Straße") == comparable("STRASSE")
    assert comparable("C++") != comparable("Java")
    assert comparable("!!") != comparable("??")
    assert comparable("Card fees + limits") == comparable("Card fees limits")
    assert comparable("#1 cards") == comparable("1 cards")
    assert comparable("\u2764\ufe0f Love") == comparable("Love")
    assert comparable("می\u200cروم") == comparable("میروم")
    assert comparable("Cafe\u0301") == comparable("Caf\u00e9")


def test_signs_and_vowels_that_make_a_name_another_one_count() -> None:
    names = ["C", "C+", "C++", "C#", "F", "F#", "कर", "किर", "कार", "กา", "กี", "Cafe", "Café"]
    assert len({comparable(name) for name in names}) == len(names)
    assert comparable("F# Scripts") == comparable("f#: scripts")


def of_own_words(labels: dict[int, str], sizes: list[int], **more: Any) -> dict[int, str]:
    """Return the clashes of labels that are all made of their clusters' own words."""
    return clashing(labels, sizes, dict.fromkeys(labels, 1.0), **more).all


def test_the_largest_keeps_the_label_unless_another_one_had_it_before() -> None:
    labels = {0: "Card", 1: "card", 2: "Fees"}
    assert of_own_words(labels, [5, 9, 1]) == {0: "Card"}
    assert of_own_words(labels, [5, 9, 1], fixed=[0]) == {1: "card"}
    assert of_own_words(labels, [5, 9, 1], taken={"FEES": 1.0}) == {0: "Card", 2: "Fees"}


def test_names_that_were_there_before_are_never_taken_away() -> None:
    assert of_own_words({0: "A", 1: "A"}, [1, 2], fixed=[0, 1]) == {}


def test_a_label_is_kept_by_the_cluster_whose_own_words_carry_it() -> None:
    labels, sizes = {0: "Lost Cards", 1: "lost cards", 2: "Fees"}, [99, 2, 1]
    right = clashing(labels, sizes, {0: 0.0, 1: 1.0, 2: 0.0})
    assert right == Clashes(theirs={0: "Lost Cards"})
    assert clashing(labels, sizes, {0: 0.0, 1: 0.5, 2: 0.0}) == Clashes(nobodys={0: "Lost Cards"})


def test_a_label_that_no_words_carry_is_nobodys_and_nobody_is_called_otherwise() -> None:
    labels, sizes = {0: "Theft", 1: "theft", 2: "theft"}, [99, 2, 1]
    assert clashing(labels, sizes, {0: 0.5, 1: 0.5, 2: 0.0}) == Clashes(nobodys=labels)
    before = clashing(labels, sizes, {0: 0.5, 1: 0.5, 2: 0.0}, fixed=[1])
    assert before == Clashes(nobodys={0: "Theft", 2: "theft"})
    above = clashing({0: "Theft"}, [9], {0: 0.5}, taken={"Theft": 0.5, "theft": 0.0})
    assert above == Clashes(nobodys={0: "Theft"})


@given(st.lists(st.tuples(words, st.sampled_from([0, 0.5, 1])), min_size=1, max_size=9))
def test_no_name_of_own_words_is_given_up_to_one_that_is_not(
    names: list[tuple[str, float]],
) -> None:
    labels = {node: name for node, (name, _) in enumerate(names)}
    support = {node: share for node, (_, share) in enumerate(names)}
    found = clashing(labels, [9 - node for node in labels], support)
    for node, label in labels.items():
        same = [other for other in labels if comparable(labels[other]) == comparable(label)]
        rivals = [support[other] for other in same if other != node]
        if rivals and support[node] > max(rivals):
            assert node not in found.all
        if node in found.theirs:
            assert max(rivals) == 1


def test_words_are_a_clusters_own_in_any_form() -> None:
    own = ["lost card", "fee", "charged"]
    assert share_of_own("lost cards", own) == 1
    assert share_of_own("the fees for a charge", own) == 1
    assert share_of_own("stolen card", own) == 0.5
    assert share_of_own("pizza", own) == 0
    assert share_of_own("the", own) == share_of_own("", own) == 0
    assert share_of_own("card", []) == 0


def test_a_keyword_of_its_own_tells_a_cluster_apart_and_at_last_its_id() -> None:
    labels = {0: "Card fees", 1: "card fees", 2: "CARD FEES"}
    keywords = [["card"], ["card", "abroad"], []]
    found = distinct(labels, [1, 2], keywords, ["cl_0", "cl_1", "cl_2"])
    assert found == {1: "card fees (abroad)", 2: "CARD FEES (cl_2)"}


def test_a_list_of_keywords_gets_a_further_one_and_at_last_the_id() -> None:
    same = ["card", "lost", "stolen"]
    keywords = [same, [*same, "phone"], [*same, "phone", "app"], same, ["charge", "charges"]]
    labels = dict(enumerate(map(offline_label, keywords)))
    assert [*labels.values()] == ["card, lost, stolen"] * 4 + ["charge, charges"]
    clashes = of_own_words(labels, [9, 8, 7, 6, 5])
    found = distinct(labels, clashes, keywords, [f"cl_{node}" for node in labels])
    assert found == {
        1: "card, lost, stolen, phone",
        2: "card, lost, stolen, app",
        3: "card, lost, stolen (cl_3)",
    }


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "a (1)", "x" * 70]), min_size=1, max_size=6),
        max_size=9,
    )
)
def test_names_of_keywords_are_told_apart(keywords: list[list[str]]) -> None:
    labels = dict(enumerate(map(offline_label, keywords)))
    sizes = [1] * len(labels)
    ids = [f"cl_{node}" for node in labels]
    labels |= distinct(labels, of_own_words(labels, sizes), keywords, ids)
    assert not of_own_words(labels, sizes)
    assert max(map(len, labels.values()), default=0) <= LABEL_LIMIT


def test_a_long_label_makes_room_for_what_tells_it_apart() -> None:
    long = "x" * LABEL_LIMIT
    [found] = distinct({0: long, 1: long}, [1], [[], ["fees"]], ["cl_0", "cl_1"]).values()
    assert found.endswith("x (fees)")
    assert len(found) <= LABEL_LIMIT


def test_an_ending_is_never_longer_than_a_label() -> None:
    long = "x" * LABEL_LIMIT
    for ending in ("y" * 76, "y" * 77, "y" * 78, "y" * 500, "ÿ " * 60):
        for label in ("Card", long, "x " * 40):
            labels = {0: label, 1: label, 2: label}
            ids = ["cl_0", f"cl_{ending}_1", f"cl_{ending}_2"]
            for keywords in ([[]] * 3, [[ending]] * 3):
                found = distinct(labels, [1, 2], keywords, ids)
                assert max(map(len, found.values())) <= LABEL_LIMIT
                assert all(name == name.strip() for name in found.values())
                assert not of_own_words(labels | found, [1] * 3)
                assert len({*found.values(), label}) == 3


@given(st.lists(words, min_size=1, max_size=12), st.randoms())
def test_after_all_no_two_are_alike(names: list[str], random: object) -> None:
    labels = dict(enumerate(names))
    sizes = [random.randint(1, 9) for _ in names]
    support = {node: random.choice([0, 0.5, 1]) for node in labels}
    clashes = clashing(labels, sizes, support).all
    ids = [f"cl_{node}" for node in labels]
    labels |= distinct(labels, clashes, [["fees"]] * len(names), ids)
    assert not of_own_words(labels, sizes)


def test_labels_that_mean_the_same_stand_behind_the_largest() -> None:
    X = np.array([[1, 0], [0.99, 0.14], [0, 1], [0.6, 0.8]], np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    assert merged(X, [1, 5, 3, 2], 0.9) == [1, 1, 2, 3]
    assert merged(X, [1, 5, 3, 2], 0.75, block_rows=2) == [1, 1, 2, 2]
    assert merged(X[:0], [], 0.9) == []


def test_what_stands_behind_another_one_has_nobody_behind_it() -> None:
    angles = np.deg2rad(np.arange(0, 60, 10))
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    stands = merged(X, [9, 8, 7, 6, 5, 4], np.cos(np.deg2rad(11)))
    assert all(stands[to] == to for to in stands)
    assert len(set(stands)) == 3
