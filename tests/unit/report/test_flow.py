"""How clusters flow from run to run, before anything is drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.report.flow import LEAST, MOST_BARS, Column, arrange, most_documents, ribbons


def column(sizes: np.ndarray, n_noise: int) -> Column:
    n = len(sizes)
    return Column(
        title="",
        names=[f"cl_{i}" for i in range(n)],
        sizes=sizes,
        n_noise=n_noise,
        identity=np.arange(n, dtype=np.int32),
        was_born=np.zeros(n, bool),
        dies=np.zeros(n, bool),
    )


def runs_of(documents: int, n_before: int, n_now: int, seed: int):
    """Return two runs of the same documents, and what their clusters share."""
    rng = np.random.default_rng(seed)
    labels = [rng.integers(-1, n, documents) for n in (n_before, n_now)]
    pairs, counts = np.unique(np.column_stack(labels), axis=0, return_counts=True)
    columns = [
        column(np.bincount(own[own >= 0], minlength=n), int((own < 0).sum()))
        for own, n in zip(labels, (n_before, n_now), strict=True)
    ]
    return columns, np.column_stack((pairs, counts))


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_every_document_is_in_one_bar_of_each_run_and_in_one_ribbon(documents, before, now, seed):
    columns, links = runs_of(documents, before, now, seed)
    bars, (flow,) = arrange(columns, [links])
    assert flow.sum() == documents
    np.testing.assert_array_equal(flow.sum(axis=1), bars[0].sizes)
    np.testing.assert_array_equal(flow.sum(axis=0), bars[1].sizes)
    for own, n_clusters in zip(bars, (before, now), strict=True):
        assert sorted(own.order) == list(range(len(own.sizes)))
        assert own.order[-2:] == [own.others, own.noise]
        assert len(own.sizes) == min(n_clusters, MOST_BARS + 1 if n_clusters == 37 else 36) + 2
        clusters = [own.cluster_of(bar) for bar in range(own.others)]
        smallest = own.column.sizes[clusters].min()
        left_out = np.setdiff1d(np.arange(n_clusters), clusters)
        assert (own.column.sizes[left_out] <= smallest).all()


@given(st.integers(1, 300), st.integers(1, 60), st.integers(0, 9))
def test_ribbons_have_the_colour_of_where_they_lead(documents, n_clusters, seed):
    columns, links = runs_of(documents, n_clusters, n_clusters, seed)
    (before, now), (flow,) = arrange(columns, [links])
    found = list(ribbons(before, now, flow, most_documents((before, now))))
    assert {(bar, other) for bar, other, _ in found} == set(
        zip(*(each.tolist() for each in np.nonzero(flow >= LEAST * documents)), strict=True)
    )
    for bar, other, colour in found:
        assert colour == (-1 if bar >= before.others else now.cluster_of(other))
    places = [(before.order.index(bar), now.order.index(other)) for bar, other, _ in found]
    assert places == sorted(places)


@given(st.permutations(range(12)))
def test_what_moves_as_a_whole_crosses_nothing(moved):
    sizes = np.full(12, 7)  # else their order by size would cross nothing
    columns = [column(sizes, 0), column(sizes, 0)]
    bars, _ = arrange(columns, [np.column_stack((np.arange(12), moved, sizes))])
    before, now = ([each.cluster_of(bar) for bar in each.order[:-2]] for each in bars)
    assert [moved[cluster] for cluster in before] == now
