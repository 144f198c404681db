"""Points survive their coding, but for what half a step takes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpucluster.report.points import LEVELS, NO_CLASS, Cloud, curve_order, encode, hilbert
from tests.helpers.clouds import decode

FLOATS = st.floats(-1e6, 1e6, width=32)


@st.composite
def clouds(draw):
    n = draw(st.integers(0, 60))
    axes = draw(st.integers(2, 3))
    labels = draw(arrays(np.int32, n, elements=st.integers(-1, 5)))
    coordinates = draw(arrays(np.float32, (n, axes), elements=FLOATS))
    similarity = draw(arrays(np.float32, n, elements=st.floats(0, 1, width=32) | st.just(np.nan)))
    truth = draw(st.none() | arrays(np.int32, n, elements=st.integers(-1, 300)))
    cloud = Cloud(labels, coordinates, similarity, truth)
    return cloud.take(curve_order(labels, coordinates))


@given(clouds())
def test_what_is_read_is_what_was_written(cloud):
    head, content = encode(cloud)
    found = decode(head, content)
    np.testing.assert_array_equal(found.labels, cloud.labels)
    assert (np.diff(cloud.labels) >= 0).all()
    for axis, levels in zip(range(found.coordinates.shape[1]), (65535, 65535, 254), strict=False):
        within_half_a_step(found.coordinates[:, axis], cloud.coordinates[:, axis], levels)
    within_half_a_step(found.similarity, cloud.similarity, LEVELS - 1)
    if cloud.truth is None:
        assert found.truth is None
    else:
        np.testing.assert_array_equal(found.truth, cloud.truth)


def within_half_a_step(found, given_, levels):
    there = np.isfinite(given_)
    if not there.any():
        return
    np.testing.assert_array_equal(np.isfinite(found), there)
    step = np.ptp(given_[there].astype(np.float64)) / levels
    slack = 1e-6 * np.abs(given_[there]).max()  # of float32
    assert np.abs(found[there].astype(np.float64) - given_[there]).max() <= step / 2 + slack


def test_the_curve_goes_from_neighbour_to_neighbour():
    side = np.arange(0, 1 << 16, 1 << 11)
    x, y = (each.ravel() for each in np.meshgrid(side, side))
    along = hilbert(x.astype(np.uint16), y.astype(np.uint16))
    assert len(set(along.tolist())) == len(x)
    order = np.argsort(along)
    steps = np.abs(np.diff(x[order])) + np.abs(np.diff(y[order]))
    assert set(steps.tolist()) == {1 << 11}


def test_a_code_is_left_for_what_is_missing():
    labels, coordinates = np.zeros(2, np.int32), np.zeros((2, 2), np.float32)
    cloud = Cloud(labels, coordinates, np.float32([np.nan, 1]), np.int32([-1, 3]))
    head, content = encode(cloud)
    assert len(content) == 2 * (4 + 1 + 2)
    assert content[8] == LEVELS
    assert content[10] | content[12] << 8 == NO_CLASS
    assert head["runs"] == [[0, 2]]
