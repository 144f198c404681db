"""The noise policy moves noise only, says what it moved, and can be undone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.assignment import ASSIGNED_BY, NoisePolicy
from gpucluster.definition import ClusterDefinition
from gpucluster.errors import ConfigError

rows = st.lists(
    st.tuples(st.integers(-1, 4), st.integers(-1, 4), st.floats(-1, 1, width=32, allow_nan=False)),
    max_size=60,
)


@given(rows, st.floats(-1, 1, allow_nan=False))
def test_only_near_noise_moves_and_it_can_be_undone(
    given_rows: list[tuple[int, int, float]], threshold: float
) -> None:
    columns = np.array(given_rows, float).reshape(-1, 3).T
    labels, nearest = columns[:2].astype(np.int32)
    similarity = columns[2].astype(np.float32)
    placed, assigned_by = NoisePolicy(threshold).apply(labels, nearest, similarity)
    moved = np.array(ASSIGNED_BY, object)[assigned_by] == "noise"
    np.testing.assert_array_equal(placed[~moved], labels[~moved])
    np.testing.assert_array_equal(placed[moved], nearest[moved])
    assert (labels[moved] == -1).all()
    assert (similarity[moved] >= threshold).all()
    left = (placed == -1) & (nearest >= 0)
    assert (similarity[left] < threshold).all()
    np.testing.assert_array_equal(np.where(moved, -1, placed), labels)


def test_keep_changes_nothing() -> None:
    labels = np.array([0, -1, 1], np.int32)
    placed, assigned_by = NoisePolicy.parse("keep").apply(labels, labels, np.ones(3, np.float32))
    np.testing.assert_array_equal(placed, labels)
    assert (assigned_by == 0).all()


@pytest.mark.parametrize(
    "text", ["drop", "assign_above", "assign_above:", "assign_above:2", "keep:1"]
)
def test_other_policies_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"noise_policy: got .*expected keep, assign_near, or assign_above:t"
    ):
        ClusterDefinition.parse(noise_policy=text)
