"""Which clusters of two runs are the same, and what became of the others."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import linear_sum_assignment

from gpucluster.errors import Cancelled, ConfigError, DuplicateIdsError, InputError, ShapeError
from gpucluster.events import CancelToken, Reporter
from gpucluster.identity import (
    KINDS,
    Lineage,
    Overlap,
    best_matching,
    by_centroids,
    by_documents,
    count_overlap,
    overlap,
    separation,
    shared_rows,
    similar_centroids,
    stable_ids,
)


def labels(*clusters: int) -> np.ndarray:
    """Repeat each number: ``labels(2, 1)`` is two documents of cluster 0 and one of cluster 1."""
    return np.repeat(np.arange(len(clusters), dtype=np.int32), clusters)


def relate(
    previous: np.ndarray, current: np.ndarray, n: tuple[int, int] | None = None, **shares
) -> Lineage:
    n_previous, n_current = n or (previous.max(initial=-1) + 1, current.max(initial=-1) + 1)
    return by_documents(count_overlap(previous, current, n_previous, n_current), **shares)


def moved(*flows: tuple[int, int, int]) -> Lineage:
    """Relate clusters by how many documents (third) went from where (first) to where (second)."""
    previous, current, counts = np.array(flows).T
    return relate(
        np.repeat(previous, counts).astype(np.int32), np.repeat(current, counts).astype(np.int32)
    )


def rows(lineage: Lineage) -> list[tuple[str, int, int]]:
    return list(
        zip(
            lineage.kind.tolist(),
            lineage.previous.tolist(),
            lineage.current.tolist(),
            strict=True,
        )
    )


def counted(**counts: int) -> dict[str, int]:
    return dict.fromkeys(KINDS, 0) | counts


labelings = st.integers(0, 60).flatmap(
    lambda n: st.tuples(
        *[arrays.arrays(np.int32, n, elements=st.integers(-1, 5)) for _ in range(2)],
    )
)


# the documents that both runs have


def test_shared_rows_are_those_of_equal_ids() -> None:
    previous = pa.array(["b", "x", "a", "", "é"])
    current = pa.chunked_array([["a", "y"], ["é", "b"], [], ["z", ""]])
    before, now = shared_rows(previous, current)
    assert before.tolist() == [0, 2, 3, 4]
    assert now.tolist() == [3, 0, 5, 2]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.int32()])
def test_ids_of_any_layout_are_compared_by_their_text(kind: pa.DataType) -> None:
    previous = pa.chunked_array([["3", "1"], ["2"]]).cast(kind)
    before, now = shared_rows(previous, pa.array(["2", "4", "3"]).dictionary_encode())
    assert (before.tolist(), now.tolist()) == ([0, 2], [2, 0])


@pytest.mark.parametrize("nothing", [pa.array([], pa.string()), pa.chunked_array([], pa.string())])
def test_a_run_without_documents_shares_none(nothing: pa.Array | pa.ChunkedArray) -> None:
    for pair in ((nothing, pa.array(["a"])), (pa.array(["a"]), nothing), (nothing, nothing)):
        assert [len(each) for each in shared_rows(*pair)] == [0, 0]


@given(
    ids=st.lists(st.tuples(st.text(max_size=3), st.booleans(), st.booleans()), max_size=40),
    bits=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_collisions_make_no_pairs(ids, bits, seed) -> None:
    unique = list({text: (text, *where) for text, *where in ids}.values())
    stream = np.random.default_rng(seed)
    sides = []
    for side in (1, 2):
        chosen = [each[0] for each in unique if each[side]]
        sides.append([chosen[at] for at in stream.permutation(len(chosen))])

    def few_bits(texts: pa.Array) -> np.ndarray:
        known = [hashlib.sha256(text.encode()).digest()[0] for text in texts.to_pylist()]
        return np.array(known, np.uint64) & np.uint64(2**bits - 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "hash_ids", few_bits)
        before, now = shared_rows(*(pa.array(side, pa.string()) for side in sides))
    assert before.tolist() == [at for at, text in enumerate(sides[0]) if text in sides[1]]
    assert [sides[0][at] for at in before] == [sides[1][at] for at in now]


def test_an_id_twice_is_an_error() -> None:
    once, twice = pa.array(["a", "b", "c"]), pa.array(["b", "c", "b"])
    with pytest.raises(DuplicateIdsError, match="'b' is twice among the ids of the previous run"):
        shared_rows(twice, once)
    with pytest.raises(DuplicateIdsError, match="current run"):
        shared_rows(once, twice)


def test_null_is_no_document() -> None:
    ids = pa.array([None, "a", None, ""])
    assert [each.tolist() for each in shared_rows(ids, ids)] == [[1, 3], [1, 3]]


def test_overlap_counts_pairs_and_noise() -> None:
    previous = np.array([0, 0, 0, 1, 1, -1, -1], np.int32)
    current = np.array([1, 1, -1, 1, 3, 3, -1], np.int32)
    found = count_overlap(previous, current, 3, 4)
    assert found.previous.tolist() == [0, 1, 1]
    assert found.current.tolist() == [1, 1, 3]
    assert found.num_shared.tolist() == [2, 1, 1]
    assert found.previous_sizes.tolist() == [3, 2, 0]  # members that are noise now count
    assert found.current_sizes.tolist() == [0, 3, 0, 2]
    assert found.n_documents == 7
    assert found.share_of_previous.tolist() == [2 / 3, 1 / 2, 1 / 2]
    assert found.share_of_current.tolist() == [2 / 3, 1 / 3, 1 / 2]
    assert found.jaccard.tolist() == [2 / 4, 1 / 4, 1 / 3]
    dtypes = [each.dtype for each in (found.previous, found.current, found.num_shared)]
    assert dtypes == [np.int32, np.int32, np.int64]


@given(labelings)
def test_overlap_is_the_contingency_table(pair) -> None:
    previous, current = pair
    found = count_overlap(previous, current, 6, 6)
    counts = Counter(
        (x, y) for x, y in zip(previous.tolist(), current.tolist(), strict=True) if min(x, y) >= 0
    )
    pairs = zip(found.previous.tolist(), found.current.tolist(), strict=True)
    assert dict(zip(pairs, found.num_shared.tolist(), strict=True)) == counts
    assert sorted(counts) == list(zip(found.previous.tolist(), found.current.tolist(), strict=True))


def test_labels_must_fit() -> None:
    with pytest.raises(ShapeError, match="labels of 2 and of 3 documents"):
        count_overlap(labels(2), labels(3), 1, 1)
    with pytest.raises(InputError, match="cluster 1 among 1 clusters"):
        count_overlap(labels(1, 1), labels(2), 1, 1)


# the best matching


@st.composite
def graphs(draw, largest: int = 7):
    shape = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    few = st.sampled_from([0.0, 0.0, 1.0, 2.0, 3.0])  # ties everywhere
    any_ = st.one_of(st.just(0.0), st.floats(1e-3, 1.0))
    return draw(arrays.arrays(np.float64, shape, elements=draw(st.sampled_from([few, any_]))))


@given(table=graphs(), seed=st.integers(0, 9))
@settings(max_examples=300)
def test_no_matching_is_heavier(table, seed) -> None:
    rows, cols = np.nonzero(table)
    order = np.random.default_rng(seed).permutation(len(rows))  # of the edges: none is needed
    rows, cols = rows[order].astype(np.int32), cols[order].astype(np.int32)
    matched, taken = best_matching(rows, cols, table[rows, cols], table.shape)
    assert len(set(taken.tolist())) == len(taken)
    assert (np.diff(matched) > 0).all()
    assert (table[matched, taken] > 0).all()
    assert matched.dtype == taken.dtype == np.int32
    best = table[linear_sum_assignment(table, maximize=True)].sum()
    assert table[matched, taken].sum() == pytest.approx(best, rel=1e-12)


def heaviest(table: np.ndarray) -> float:
    """Try every matching."""
    if not len(table):
        return 0.0
    taken = [
        weight + heaviest(np.delete(table[1:], col, axis=1)) for col, weight in enumerate(table[0])
    ]
    return max([heaviest(table[1:]), *taken])


@given(graphs(largest=4))
def test_it_is_the_heaviest_of_all(table) -> None:
    rows, cols = (each.astype(np.int32) for each in np.nonzero(table))
    matched, taken = best_matching(rows, cols, table[rows, cols], table.shape)
    assert table[matched, taken].sum() == pytest.approx(heaviest(table), rel=1e-12)


@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_a_large_graph_of_one_component(levels: int) -> None:
    stream = np.random.default_rng(0)
    shape = 300, 250
    table = np.where(stream.random(shape) < 0.03, stream.integers(1, levels + 1, shape), 0)
    rows, cols = (each.astype(np.int32) for each in np.nonzero(table))
    weights = table[rows, cols] / levels
    matched, taken = best_matching(rows, cols, weights, shape)
    best = table[linear_sum_assignment(table, maximize=True)].sum() / levels
    assert table[matched, taken].sum() / levels == pytest.approx(best, rel=1e-12)
    again = best_matching(rows, cols, weights, shape)
    np.testing.assert_array_equal(again, (matched, taken))
    turned = best_matching(cols, rows, weights, shape[::-1])
    assert table[turned[1], turned[0]].sum() == table[matched, taken].sum()


def test_equal_edges_go_to_the_lower_column() -> None:
    rows, cols = np.array([0, 0, 1, 1], np.int32), np.array([1, 0, 0, 1], np.int32)
    assert [each.tolist() for each in best_matching(rows, cols, np.ones(4), (2, 2))] == [[0, 1]] * 2


def test_a_graph_may_be_empty() -> None:
    nothing = np.empty(0, np.int32)
    for shape in ((0, 0), (3, 0), (0, 3), (3, 3)):
        assert [len(each) for each in best_matching(nothing, nothing, np.empty(0), shape)] == [0, 0]


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_weights_must_be_positive(weight: float) -> None:
    zero = np.zeros(1, np.int32)
    with pytest.raises(InputError, match="not positive and finite"):
        best_matching(zero, zero, np.array([weight]), (1, 1))


# fates


def test_a_cluster_that_stays_survives() -> None:
    found = moved((0, 1, 9), (0, -1, 1), (1, 0, 5), (-1, 0, 1))
    assert rows(found) == [("survived", 0, 1), ("survived", 1, 0)]
    assert found.num_shared.tolist() == [9, 5]
    assert found.share_of_previous.tolist() == [0.9, 1.0]
    assert found.share_of_current.tolist() == [1.0, 5 / 6]
    assert found.jaccard.tolist() == [0.9, 5 / 6]
    assert np.isnan(found.cosine).all()
    assert found.carried.tolist() == [1, 0]
    assert found.counts == counted(survived=2)


def test_a_cluster_that_loses_less_than_a_quarter_survives() -> None:
    found = moved((0, 0, 76), (0, 1, 24))
    assert rows(found) == [("survived", 0, 0), ("born", -1, 1)]


def test_a_quarter_is_a_part() -> None:
    found = moved((0, 0, 75), (0, 1, 25))
    assert rows(found) == [("split", 0, 0), ("split", 0, 1)]
    assert found.carried.tolist() == [0, -1]
    assert found.counts == counted(split=1)


def test_a_cluster_splits_into_parts_that_hold_half_of_it() -> None:
    found = moved((0, 2, 30), (0, 0, 28), (0, 1, 4), (0, -1, 38))
    # the 4 come from nowhere else, and no cluster holds half
    assert rows(found) == [("split", 0, 0), ("split", 0, 1), ("split", 0, 2)]
    assert found.carried.tolist() == [-1, -1, -1]  # no Jaccard index of a third


def test_many_small_parts_are_a_split() -> None:
    found = moved(*((0, part, 10) for part in range(8)))
    assert rows(found) == [("split", 0, part) for part in range(8)]
    assert found.counts == counted(split=1)


def test_small_parts_beside_a_large_one() -> None:
    largest = (0, 0, 40)
    found = moved(largest, *((0, part, 5) for part in range(1, 13)))
    assert rows(found) == [("split", 0, part) for part in range(13)]
    assert found.carried.tolist() == [0] + 12 * [-1]
    # where one holds half of it, small ones are no parts
    found = moved((0, 0, 60), *((0, part, 5) for part in range(1, 9)))
    assert rows(found) == [("survived", 0, 0), *(("born", -1, part) for part in range(1, 9))]


def test_clusters_that_go_into_one_are_merged() -> None:
    found = moved((0, 0, 60), (1, 0, 40), (2, 1, 10))
    assert rows(found) == [("merged", 0, 0), ("merged", 1, 0), ("survived", 2, 1)]
    assert found.carried.tolist() == [0, 2]
    assert found.counts == counted(merged=1, survived=1)


def test_a_large_cluster_that_takes_in_a_small_one_is_merged_and_goes_on() -> None:
    found = moved((0, 0, 1000), (1, 0, 3))
    assert rows(found) == [("merged", 0, 0), ("merged", 1, 0)]
    assert found.carried.tolist() == [0]


def test_a_part_that_is_merged_is_a_part() -> None:
    found = moved((0, 0, 70), (0, 1, 30), (1, 0, 20))
    assert rows(found) == [("split", 0, 0), ("split", 0, 1), ("merged", 1, 0)]
    assert found.carried.tolist() == [0, -1]
    assert found.counts == counted(split=1, merged=1)


def test_clusters_that_are_cut_anew_are_split() -> None:
    found = moved((0, 0, 60), (0, 1, 40), (1, 0, 60), (1, 2, 40))
    assert [row[0] for row in rows(found)] == ["split"] * 4
    assert found.counts == counted(split=2)  # no link says that cluster 0 is merged


def test_a_cluster_may_go_to_the_one_that_carries_another_on() -> None:
    # 1 carries on in 0 by its Jaccard index, though 0 took the smaller half of it
    found = moved((0, 0, 20), (1, 0, 45), (1, -1, 55))
    assert rows(found) == [("merged", 0, 0), ("merged", 1, 0)]
    assert found.carried.tolist() == [1]


def test_a_cluster_that_became_noise_died() -> None:
    found = moved((0, -1, 80), (0, 0, 20))
    assert rows(found) == [("died", 0, -1), ("born", -1, 0)]
    assert found.num_shared.tolist() == [0, 0]
    values = (found.share_of_previous, found.share_of_current, found.jaccard, found.cosine)
    assert np.isnan(values).all()
    assert found.carried.tolist() == [-1]
    assert found.counts == counted(died=1, born=1)


def test_a_cluster_that_is_scattered_died() -> None:
    found = moved(*((0, k, 10) for k in range(8)), *((k + 1, k, 90) for k in range(8)))
    assert rows(found)[0] == ("died", 0, -1)
    assert found.counts == counted(died=1, survived=8)


def test_a_cluster_that_is_few_among_others_died() -> None:
    found = moved((0, 0, 10), (-1, 0, 90))
    assert rows(found) == [("died", 0, -1), ("born", -1, 0)]


def test_clusters_without_shared_documents() -> None:
    found = relate(labels(4), labels(4), (3, 2))
    assert rows(found) == [("survived", 0, 0), ("died", 1, -1), ("died", 2, -1), ("born", -1, 1)]
    nothing = np.empty(0, np.int32)
    found = relate(nothing, nothing, (2, 1))
    assert rows(found) == [("died", 0, -1), ("died", 1, -1), ("born", -1, 0)]
    assert found.counts == counted(died=2, born=1)
    found = relate(nothing, nothing, (0, 0))
    assert rows(found) == []
    assert found.counts == counted()


def test_identity_needs_a_dice_coefficient_of_half() -> None:
    found = moved((0, 0, 1), (0, -1, 1), (-1, 0, 1))  # 2 * 1 / (2 + 2)
    assert rows(found) == [("survived", 0, 0)]
    assert found.jaccard.tolist() == [1 / 3]
    found = moved((0, 0, 49), (0, -1, 51), (-1, 0, 51))
    assert rows(found) == [("died", 0, -1), ("born", -1, 0)]


def test_one_pair_that_carries_on_is_better_than_two_that_do_not() -> None:
    # 0 and 0 have 0.4; 0 and 1 have 0.25, so have 1 and 0: more together, and no identity
    flows = ((0, 0, 40), (0, 1, 30), (1, 0, 30), (1, -1, 50), (-1, 1, 50))
    found = moved(*flows)
    assert found.carried.tolist() == [0, -1]


@pytest.mark.parametrize(
    "shares",
    [
        {"split_share": 0.0},
        {"split_share": 0.4},
        {"min_jaccard": 1.1},
        {"min_share": 0.4},
        {"min_share": 1.1},
    ],
)
def test_shares_must_tell_one_fate_for_each(shares) -> None:
    with pytest.raises(ConfigError, match="0 < split_share <= min_jaccard <= 1"):
        relate(labels(1), labels(1), **shares)


def test_shares_can_be_chosen() -> None:
    previous, current = labels(100), np.repeat(np.arange(2, dtype=np.int32), (85, 15))
    assert relate(previous, current).counts == counted(survived=1, born=1)
    assert relate(previous, current, split_share=0.1).counts == counted(split=1)
    assert relate(previous, current, min_jaccard=0.9).counts == counted(died=1, born=2)


@given(labelings, st.sampled_from([{}, {"split_share": 0.1}, {"min_share": 0.8}]))
@settings(max_examples=300)
def test_every_cluster_has_its_place(pair, shares) -> None:
    found = relate(*pair, (6, 6), **shares)
    table = Overlap.jaccard.fget(count := count_overlap(*pair, 6, 6))
    assert set(found.previous.tolist()) - {-1} == set(range(6))
    assert set(found.current.tolist()) - {-1} == set(range(6))
    assert set(found.kind.tolist()) <= set(KINDS)
    assert rows(found) == sorted(rows(found), key=lambda row: (row[1] < 0, row[1:]))
    assert len(set(rows(found))) == len(rows(found))
    by_previous, by_current = {}, {}
    for kind, x, y in rows(found):
        by_previous.setdefault(x, []).append(kind)
        by_current.setdefault(y, []).append(kind)
    alone = {"born": by_previous.pop(-1, []), "died": by_current.pop(-1, [])}
    for kind, these in alone.items():
        assert set(these) <= {kind}
    for kinds in by_previous.values():
        assert len(set(kinds)) == 1  # one fate
        assert len(kinds) == 1 or kinds[0] == "split"
    assert all(kinds == ["born"] for kinds in by_current.values() if "born" in kinds)
    fates = Counter(kinds[0] for kinds in by_previous.values())
    assert fates.total() == 6
    merged = sum("merged" in kinds for kinds in by_current.values())
    born = sum("born" in kinds for kinds in by_current.values())
    assert found.counts == counted(
        **{kind: fates[kind] for kind in ("survived", "split", "died")}, merged=merged, born=born
    )
    # identity goes along links, one to one, and of the pairs that may carry on the best ones do
    carried = [(x, y) for y, x in enumerate(found.carried.tolist()) if x >= 0]
    assert len({x for x, _ in carried}) == len(carried)
    assert set(carried) <= {row[1:] for row in rows(found)}
    assert {row[1:] for row in rows(found) if row[0] == "survived"} <= set(carried)
    dense = np.zeros((6, 6))
    dense[count.previous, count.current] = np.where(table >= 1 / 3, table, 0)
    best = dense[linear_sum_assignment(dense, maximize=True)].sum()
    assert sum(dense[pair] for pair in carried) == pytest.approx(best)


@given(arrays.arrays(np.int32, st.integers(0, 50), elements=st.integers(-1, 4)), st.randoms())
def test_a_run_is_its_own_next(run, random) -> None:
    numbers = np.unique(run[run >= 0], return_inverse=True)[1]
    run[run >= 0] = numbers
    n_clusters = int(run.max(initial=-1)) + 1
    new = np.arange(n_clusters, dtype=np.int32)
    random.shuffle(new)
    found = relate(run, np.append(new, np.int32(-1))[run])
    assert rows(found) == [("survived", x, y) for x, y in enumerate(new.tolist())]
    assert (found.jaccard == 1).all()
    assert (found.share_of_previous == 1).all()
    assert (new[found.carried] == np.arange(n_clusters)).all()
    assert found.counts == counted(survived=n_clusters)


@given(labelings, st.integers(0, 99))
def test_documents_of_one_run_alone_change_nothing(pair, seed) -> None:
    stream = np.random.default_rng(seed)
    ids = np.array([f"doc-{row}" for row in range(len(pair[0]))], object)
    runs = []
    for side, own in enumerate(pair):
        alone = np.array([f"only-{side}-{row}" for row in range(7)], object)
        names = np.concatenate((ids, alone))
        known = np.concatenate((own, stream.integers(-1, 6, 7).astype(np.int32)))
        order = stream.permutation(len(names))
        runs.append((pa.array(names[order].tolist(), pa.string()), known[order]))
    (previous_ids, previous), (current_ids, current) = runs
    before, now = shared_rows(previous_ids, current_ids)
    found = count_overlap(previous[before], current[now], 6, 6)
    expected = count_overlap(*pair, 6, 6)
    for name in ("previous", "current", "num_shared", "previous_sizes", "current_sizes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.n_documents == len(ids)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=6))
def test_a_refined_run_has_splits_and_back_it_has_merges(parts) -> None:
    """Exact where no part is below a quarter beside one of half or more."""
    parts = [
        sizes for sizes in parts if 4 * min(sizes) >= sum(sizes) or 2 * max(sizes) < sum(sizes)
    ]
    assume(parts)
    coarse = np.repeat(np.arange(len(parts), dtype=np.int32), [sum(sizes) for sizes in parts])
    fine = labels(*(size for sizes in parts for size in sizes))
    there, back = relate(coarse, fine), relate(fine, coarse)
    n_split = sum(len(sizes) > 1 for sizes in parts)
    assert there.counts == counted(split=n_split, survived=len(parts) - n_split)
    assert back.counts == counted(merged=n_split, survived=len(parts) - n_split)
    turned = {"split": "merged", "survived": "survived"}
    mirrored = sorted((turned[kind], y, x) for kind, x, y in rows(there))
    assert sorted(rows(back)) == mirrored


def test_a_run_may_come_back() -> None:
    """Ids go on through a split and the merge that undoes it."""
    coarse, fine = labels(50, 30), labels(30, 20, 30)
    first = stable_ids(np.full(2, -1), [], "run-1", ["cl_0", "cl_1"])
    split = stable_ids(relate(coarse, fine).carried, first, "run-2", ["cl_0", "cl_1", "cl_2"])
    assert split[0] == first[0]
    assert split[2] == first[1]
    assert stable_ids(relate(fine, coarse).carried, split, "run-3", ["cl_0", "cl_1"]) == first


def test_many_clusters_of_many_documents() -> None:
    stream = np.random.default_rng(0)
    n_documents, n_clusters = 300_000, 20_000
    previous = stream.integers(-1, n_clusters, n_documents).astype(np.int32)
    stays = stream.random(n_documents) < 0.8
    current = np.where(stays, previous, stream.integers(-1, n_clusters, n_documents))
    ids = pa.array([f"doc-{row}" for row in range(n_documents)])
    order = stream.permutation(n_documents)
    before, now = shared_rows(ids, ids.take(order))
    assert len(before) == n_documents
    overlap = count_overlap(
        previous[before], current.astype(np.int32)[order][now], n_clusters, n_clusters
    )
    found = by_documents(overlap)
    assert found.counts["survived"] > 0.8 * n_clusters
    assert len(set(found.previous.tolist()) - {-1}) == n_clusters
    rows, cols = best_matching(
        overlap.previous, overlap.current, overlap.jaccard, (n_clusters, n_clusters)
    )
    assert (rows == cols).mean() > 0.8
    numbers = [str(cluster) for cluster in range(n_clusters)]
    names = stable_ids(found.carried, numbers, "run", numbers)
    assert len(set(names)) == n_clusters


def test_it_can_be_stopped() -> None:
    token = CancelToken()
    token.cancel()
    reporter = Reporter(cancel=token)
    ids = pa.array(["a"])
    with pytest.raises(Cancelled):
        shared_rows(ids, ids, reporter)
    with pytest.raises(Cancelled):
        by_centroids(vectors(0, 90), vectors(0, 90), reporter=reporter)


# centroids


def unit(degrees: float) -> list[float]:
    angle = np.deg2rad(degrees)
    return [np.cos(angle), np.sin(angle)]


def vectors(*degrees: float) -> np.ndarray:
    return np.array([unit(each) for each in degrees], np.float32).reshape(-1, 2)


def test_similar_centroids_are_those_of_largest_cosine() -> None:
    stream = np.random.default_rng(0)
    previous, current = (stream.normal(size=(n, 24)).astype(np.float32) for n in (700, 5000))
    previous *= stream.uniform(0.1, 10, (700, 1)).astype(np.float32)
    previous[[3, 9]] = current[[2, 4]] = 0
    rows, cols, cosines = similar_centroids(previous, current, 5)
    assert rows.dtype == cols.dtype == np.int32
    exact = previous.astype(np.float64) @ current.T.astype(np.float64)
    norms = [np.linalg.norm(each.astype(np.float64), axis=1) for each in (previous, current)]
    with np.errstate(invalid="ignore"):
        exact = np.nan_to_num(exact / np.outer(*norms), nan=-2)
    kept = np.setdiff1d(np.arange(700), [3, 9])
    assert rows.tolist() == np.repeat(kept, 5).tolist()
    best = np.sort(exact[kept], axis=1)[:, :-6:-1]
    np.testing.assert_allclose(cosines.reshape(-1, 5), best, atol=1e-6)
    np.testing.assert_allclose(exact[rows, cols], cosines, atol=1e-6)


def test_separation_is_the_cosine_to_the_nearest_sibling() -> None:
    stream = np.random.default_rng(0)
    X = stream.normal(size=(900, 6)).astype(np.float32)
    X[[5, 800]] = 0
    X[7] = 3 * X[6]
    unit_rows = X.astype(np.float64)
    unit_rows /= np.maximum(np.linalg.norm(unit_rows, axis=1, keepdims=True), 1e-9)
    cosines = unit_rows @ unit_rows.T
    np.fill_diagonal(cosines, -1)
    cosines[[5, 800]] = cosines[:, [5, 800]] = -1
    found = separation(X)
    np.testing.assert_allclose(found, cosines.max(axis=1), atol=1e-6)
    assert found[6] == found[7] == pytest.approx(1)


@pytest.mark.parametrize("n_clusters", [0, 1])
def test_a_lone_cluster_is_near_to_nothing(n_clusters: int) -> None:
    lone = vectors(*range(n_clusters))
    assert separation(lone).tolist() == [-1] * n_clusters
    assert [len(each) for each in similar_centroids(lone, vectors())] == [0, 0, 0]
    assert [len(each) for each in similar_centroids(vectors(), lone)] == [0, 0, 0]
    assert rows(by_centroids(lone, vectors())) == [("died", 0, -1)] * n_clusters


def test_centroids_that_stay_survive_in_any_scale() -> None:
    previous, current = vectors(0, 90, 180), 7 * vectors(181, 2, 60)
    found = by_centroids(previous, current)
    assert rows(found) == [("survived", 0, 1), ("survived", 1, 2), ("survived", 2, 0)]
    assert found.carried.tolist() == [2, 0, 1]
    np.testing.assert_allclose(found.cosine, np.cos(np.deg2rad([2, 30, 1])), atol=1e-6)
    assert np.isnan(found.jaccard).all()
    assert found.num_shared.tolist() == [0, 0, 0]
    assert found.counts == counted(survived=3)
    # the same angles, were they a hundredth, would be told apart as well
    near = by_centroids(vectors(0, 0.9, 1.8), vectors(1.81, 0.02, 0.6))
    assert near.carried.tolist() == [2, 0, 1]


def test_a_centroid_nearer_to_its_sibling_is_another_cluster() -> None:
    found = by_centroids(vectors(0, 10), vectors(0, 25))  # 15 degrees apart, siblings 10
    assert rows(found) == [("survived", 0, 0), ("died", 1, -1), ("born", -1, 1)]


def test_a_centroid_has_a_least_cosine() -> None:
    lone, other = vectors(0), vectors(50)
    assert by_centroids(lone, other).counts == counted(survived=1)  # 0.64
    assert by_centroids(lone, other, 0.7).counts == counted(died=1, born=1)
    assert by_centroids(lone, vectors(170)).counts == counted(died=1, born=1)


def test_zero_vectors_are_nobodys() -> None:
    zero = np.zeros((1, 2), np.float32)
    previous, current = np.concatenate((zero, vectors(0))), np.concatenate((vectors(1), zero))
    found = by_centroids(previous, current)
    assert rows(found) == [("died", 0, -1), ("survived", 1, 0), ("born", -1, 1)]


@given(arrays.arrays(np.float32, (12, 3), elements=st.integers(-3, 3)), st.permutations(range(12)))
def test_the_same_centroids_are_the_same_clusters(X, order) -> None:
    directions = {}
    for row in X[np.abs(X).sum(axis=1) > 0]:
        directions[tuple(np.round(row / np.linalg.norm(row), 4))] = row
    X = np.array(list(directions.values()), np.float32).reshape(-1, 3)
    order = np.array([each for each in order if each < len(X)], np.int64)
    found = by_centroids(X, X[order])
    assert found.carried.tolist() == order.tolist()
    assert found.counts == counted(survived=len(X))
    assert (found.cosine == 1).all()


def test_centroids_must_be_of_one_space() -> None:
    with pytest.raises(ShapeError, match="centroids of 2 and of 3 features"):
        by_centroids(vectors(0), np.ones((1, 3), np.float32))
    for wrong in (0.0, 1.5):
        with pytest.raises(ConfigError, match="min_cosine"):
            by_centroids(vectors(0), vectors(0), wrong)


# names


def test_names_go_on_and_new_ones_are_minted() -> None:
    carried = np.array([1, -1, 0, -1], np.int32)
    names = stable_ids(carried, ["st_a", "st_b"], "run-7", ["cl_0", "cl_1", "cl_2", "cl_3"])
    expected = hashlib.sha256(b"run-7\0cl_1").hexdigest()[:16]
    assert names[0] == "st_b"
    assert names[1] == f"st_{expected}"
    assert names[2] == "st_a"
    assert len(set(names)) == 4
    other = stable_ids(carried, ["st_a", "st_b"], "run-8", ["cl_0", "cl_1", "cl_2", "cl_3"])
    assert [a == b for a, b in zip(names, other, strict=True)] == [True, False, True, False]


def test_a_cluster_before_may_have_no_name() -> None:
    names = stable_ids(np.array([0, 1]), [None, "st_b"], "run", ["cl_0", "cl_1"])
    assert names == [*stable_ids(np.array([-1]), [], "run", ["cl_0"]), "st_b"]


def test_no_name_is_given_twice() -> None:
    (minted,) = stable_ids(np.array([-1]), [], "run", ["cl_1"])
    # the name of a cluster that died, or that goes on elsewhere
    for carried in ([-1, -1], [0, -1]):
        names = stable_ids(np.array(carried), [minted, minted], "run", ["cl_0", "cl_1"])
        assert names[1] != minted
        assert names[1].startswith("st_")
        assert len(set(names)) == 2
    names = stable_ids(np.array([0, 1]), [minted, minted], "run", ["cl_0", "cl_1"])
    assert names[0] == minted
    assert names[1] != minted
    assert len(set(stable_ids(np.array([-1, -1]), [], "run", ["cl_0", "cl_0"]))) == 2


def test_each_cluster_needs_an_id() -> None:
    with pytest.raises(ShapeError, match="1 cluster ids for 2 clusters"):
        stable_ids(np.array([-1, -1]), [], "run", ["cl_0"])
