"""Blocks of rows over threads: nothing is lost, nothing depends on how they are cut."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from gpucluster.ops import normalize
from gpucluster.ops.blocks import read_ahead


class Pages:
    """Numbers, read one after the other."""

    def __init__(self, *, fails: bool = False) -> None:
        self.closed, self.fails = False, fails

    def __iter__(self) -> Iterator[int]:
        try:
            yield from range(3)
            if self.fails:
                raise OSError("page 3 is torn")
        finally:
            self.closed = True


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("gpucluster-read")]


def test_what_is_read_ahead_comes_in_order_and_once() -> None:
    pages = Pages()
    assert list(read_ahead(pages)) == [0, 1, 2]
    assert list(read_ahead([])) == []
    assert pages.closed
    assert not readers()


def test_an_error_comes_after_what_was_read_before_it() -> None:
    pages, seen = Pages(fails=True), []
    with pytest.raises(OSError, match="page 3 is torn"):
        seen.extend(read_ahead(pages))
    assert seen == [0, 1, 2]
    assert pages.closed


def test_an_error_keeps_nothing_of_its_caller_alive() -> None:
    class Matrix:
        pass

    def load() -> weakref.ref[Matrix]:
        matrix = Matrix()
        known = weakref.ref(matrix)
        try:
            for _ in read_ahead(Pages(fails=True)):
                pass
        except OSError:
            pass
        return known

    gc.disable()
    try:
        assert load()() is None
    finally:
        gc.enable()


def test_who_stops_early_leaves_no_reader() -> None:
    pages = Pages()
    reading = read_ahead(pages)
    assert next(reading) == 0
    reading.close()
    gc.collect()
    assert pages.closed
    assert not readers()


def test_rows_are_the_same_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = np.random.default_rng(0)
    X = (stream.normal(size=(1001, 7)) + 5).astype(np.float32)
    X[3] = 0
    norms, unit, mean = normalize.row_norms(X), normalize.unit_rows(X), normalize.spread(X)
    centred = normalize.without_offset(X)
    monkeypatch.setattr(normalize, "CACHED_BYTES", 7 * 8 * 10)
    np.testing.assert_array_equal(normalize.row_norms(X), norms)
    np.testing.assert_array_equal(normalize.unit_rows(X), unit)
    np.testing.assert_allclose(normalize.spread(X)[0], mean[0], rtol=1e-12)
    assert normalize.spread(X)[1] == pytest.approx(mean[1], rel=1e-9)
    np.testing.assert_array_equal(normalize.without_offset(X), centred)
    np.testing.assert_allclose(centred, X - X.mean(axis=0), atol=1e-5)
    in_place = X.copy()
    assert normalize.unit_rows(in_place, out=in_place) is in_place
    np.testing.assert_array_equal(in_place, unit)
    assert not unit[3].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(unit, 3, axis=0), axis=1), 1, atol=1e-6)
