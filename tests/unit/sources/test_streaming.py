"""Rows stream once, in order, and can be taken up anywhere."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucluster.errors import BadRowsError, TooFewSamplesError
from gpucluster.events import Muted
from gpucluster.sources import Filters, KnownIds, open_source, stream, stream_key

N, D = 200, 5
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
IDS = [f"d{row}" for row in range(N)]
BATCH = 7 * D * 4


def streamed(data: object, **options: object) -> dict[str, object]:
    source = open_source(data)
    options = {"batch_bytes": BATCH, **options}
    found = list(stream(source, reporter=Muted("assign"), **options))
    return {
        "rows": [row for one in found for row in one.rows.tolist()],
        "ids": [name for one in found for name in one.ids.to_pylist()],
        "X": np.concatenate([one.X for one in found]) if found else np.empty((0, D)),
        "rejected": [row for one in found for row in one.rejected["row"].to_pylist()],
        "known": sum(one.num_known for one in found),
        "filtered": sum(one.num_filtered for one in found),
        "stops": [one.stop for one in found],
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, N), st.integers(1, 60))
def test_what_was_dealt_with_before_is_left_out_wherever_it_ends(start: int, rows: int) -> None:
    found = streamed((IDS, X), start=start, batch_bytes=rows * D * 4)
    assert found["rows"] == list(range(start, N))
    assert found["ids"] == IDS[start:]
    np.testing.assert_array_equal(found["X"], X[start:])


def test_known_and_filtered_rows_are_counted_apart() -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), D)
    kind = ["a", "b"] * (N // 2)
    table = pa.table({"document_id": IDS, "embedding": vectors, "kind": kind})
    known = KnownIds.of(pa.chunked_array([IDS[:50], ["other"]]))
    only_a, only_c = (
        Filters.model_validate({"field": "kind", "operator": "eq", "value": value})
        for value in ("a", "c")
    )
    found = streamed(table, known=known, filters=only_a)
    assert found["rows"] == list(range(50, N, 2))
    assert (found["known"], found["filtered"]) == (25, N // 2)
    with pytest.raises(TooFewSamplesError, match="no row matches the filter"):
        streamed(table, filters=only_c)


@given(st.lists(st.text(max_size=12), unique=True, max_size=40), st.integers(0, 40))
def test_known_ids_are_exactly_those(names: list[str], cut: int) -> None:
    known = KnownIds.of(pa.chunked_array([names[:cut]], pa.string()))
    assert known.include(pa.array(names, pa.string())).tolist() == [
        place < cut for place in range(len(names))
    ]
    more = known.and_of(pa.chunked_array([names[cut:]], pa.string()))
    assert more.include(pa.array(names, pa.string())).all()
    assert not KnownIds.none().include(pa.array(names, pa.string())).any()


def test_bad_rows_are_told_from_the_first_one_too_many() -> None:
    bad = X.copy()
    bad[[3, 90]] = np.nan
    found = streamed((IDS, bad))
    assert found["rejected"] == [3, 90]
    assert found["rows"] == [row for row in range(N) if row not in {3, 90}]
    bad[91] = 0
    with pytest.raises(BadRowsError, match="3 of 200 rows cannot be clustered"):
        streamed((IDS, bad))
    with pytest.raises(BadRowsError):
        streamed((IDS, bad), on_bad_rows="error")


def test_a_key_tells_inputs_apart(tmp_path: object) -> None:
    def key(data: object) -> str:
        return stream_key(open_source(data))

    assert key((IDS, X)) == key((IDS, X.copy()))
    whole = np.arange(40, dtype=np.int8).reshape(8, 5)
    names = IDS[:8]
    keys = {
        key((IDS, X)),
        key((IDS[::-1], X)),
        key((IDS, X[::-1])),
        key(X),
        key((names, whole)),
        key((names, whole.view(np.uint8))),
    }
    assert len(keys) == 6
    np.save(tmp_path / "x.npy", X)
    alone = key(tmp_path / "x.npy")
    (tmp_path / "x.ids.txt").write_text("\n".join(IDS))
    named = key(tmp_path / "x.npy")
    (tmp_path / "x.ids.txt").write_text("\n".join(IDS[::-1]))
    assert len({alone, named, key(tmp_path / "x.npy")}) == 3
