"""What every catalog promises, in a SQLite file and in a PostgreSQL that is another process."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from gpucluster.errors import ConfigError, InternalError
from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import Catalog, Changed, Query, Record, Taken
from gpucluster.service.jobs.host import ON_CPU
from gpucluster.sources.filters import Filters
from tests.helpers.catalogs import BEGIN, Clock, add, assert_whole, record, undone, walk

MINUTE = timedelta(minutes=1)
Open = Callable[[], Catalog]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def another(catalog_url: str, clock: Clock) -> Iterator[Open]:
    """Open the catalog once more, as another server does."""
    opened = []

    def open_one() -> Catalog:
        opened.append(open_catalog(catalog_url, clock=clock))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def catalog(another: Open) -> Catalog:
    return another()


def get(catalog: Catalog, key: str) -> Record | None:
    with catalog.reading() as transaction:
        return transaction.get("n", "k", key)


def test_a_record_is_there_for_every_server(catalog, another, clock):
    given = record(
        name="Näme", status="PENDING", parent="p", text="what it is about", due_at=BEGIN,
        body={"a": {"b": [1, 2.5, None, True, 'qu"ote']}, "ü": "\\"},
    )  # fmt: skip
    (created,) = add(catalog, given)
    assert created == replace(given, created_at=BEGIN, updated_at=BEGIN, version=1)
    other = another()
    assert get(other, "a") == created
    with other.reading() as transaction:
        assert transaction.find("n", "k", "Näme") == created
        assert transaction.find("n", "k", "näme") is None
        assert transaction.get("m", "k", "a") is None
        assert transaction.get("n", "l", "a") is None
        assert transaction.get("n", "k", "A") is None


def test_an_id_and_a_name_are_taken_once(catalog):
    add(catalog, record("a", name="x"))
    with catalog.writing() as transaction:
        with pytest.raises(Taken):
            transaction.create(record("a"))
        with pytest.raises(Taken):
            transaction.create(record("b", name="x"))
        transaction.create(record("a", kind="l", name="x"))
        transaction.create(record("a", ns="m", name="x"))
        transaction.create(record("c"))
        kept = transaction.create(record("b", name="X"))
        with pytest.raises(Taken):
            transaction.replace(replace(kept, name="x"))
    assert get(catalog, "b") == kept
    assert get(catalog, "c").name is None


def test_what_is_replaced_keeps_when_it_was_made(catalog, clock):
    (old,) = add(catalog, record(name="x", body={"a": 1}, due_at=BEGIN))
    clock.advance()
    with catalog.writing() as transaction:
        new = transaction.replace(
            replace(old, name="y", body={"b": 2}, status="DONE", due_at=None, text="t", parent="p")
        )
        assert transaction.find("n", "k", "x") is None
        transaction.create(record("b", name="x"))
    assert get(catalog, "a") == new
    assert (new.created_at, new.updated_at, new.version) == (BEGIN, clock.now, 2)
    assert (new.body, new.due_at, new.status) == ({"b": 2}, None, "DONE")


def test_a_change_of_what_has_changed_is_refused(catalog, another):
    (old,) = add(catalog, record(body={"n": 0}))
    with another().writing() as transaction:
        transaction.replace(replace(old, body={"n": 1}))
    with catalog.writing() as transaction, pytest.raises(Changed):
        transaction.replace(replace(old, body={"n": 2}))
    assert get(catalog, "a").body == {"n": 1}
    with catalog.writing() as transaction:
        assert transaction.delete("n", "k", "a")
        assert not transaction.delete("n", "k", "a")
        with pytest.raises(Changed):
            transaction.replace(replace(old, version=2))


def test_an_exception_undoes_all_of_it(catalog):
    (old,) = add(catalog, record("old", name="x"))
    with undone(catalog) as transaction:
        transaction.create(record("new"))
        transaction.replace(replace(old, body={"a": 1}, name="y"))
        transaction.counter("events", 5)
        transaction.delete("n", "k", "old")
    assert get(catalog, "new") is None
    assert get(catalog, "old") == old
    with catalog.writing() as transaction:
        assert transaction.counter("events") == 1


def test_a_reader_sees_one_state(catalog, another):
    add(catalog, record("a", status="A"))
    other = another()
    with other.reading() as reader:
        assert reader.summary("n", "k", Query()).count == 1
        add(catalog, record("b", status="A"))
        assert reader.summary("n", "k", Query()).count == 1
        assert reader.get("n", "k", "b") is None
    assert get(other, "b") is not None


def test_who_reads_may_not_write(catalog):
    with catalog.reading() as transaction:
        for work in (
            lambda: transaction.create(record()),
            lambda: transaction.replace(record()),
            lambda: transaction.delete("n", "k", "a"),
            lambda: transaction.claim("k", hold=MINUTE),
            lambda: transaction.counter("events"),
        ):
            with pytest.raises(InternalError):
                work()
    with (
        catalog.writing() as transaction,
        pytest.raises(InternalError, match="within another"),
        catalog.writing(),
    ):
        pass


def test_those_who_write_take_turns(catalog, another):
    add(catalog, record(body={"n": 0}))
    servers = [catalog, another()]
    barrier = threading.Barrier(8)

    def add_up(n: int) -> int:
        barrier.wait()
        for _ in range(10):
            with servers[n % 2].writing() as transaction:
                known = transaction.get("n", "k", "a")
                transaction.replace(replace(known, body={"n": known.body["n"] + 1}))
                transaction.counter("events")
        with servers[n % 2].writing() as transaction:
            if not transaction.page("n", "single", Query(limit=1)).records:
                transaction.create(record(f"{n}", kind="single"))
                return 1
            return 0

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(add_up, range(8))) == 1
    assert get(catalog, "a").body == {"n": 80}
    with catalog.writing() as transaction:
        assert transaction.counter("events", 0) == 80


def test_of_those_who_change_what_they_read_one_does(catalog, another):
    (read,) = add(catalog, record())
    servers = [catalog, another()]
    barrier = threading.Barrier(8)

    def change(n: int) -> bool:
        barrier.wait()
        try:
            with servers[n % 2].writing() as transaction:
                transaction.replace(replace(read, body={"by": n}))
        except Changed:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(change, range(8))) == 1


def test_pages_hold_each_record_once_while_others_come(catalog, clock):
    for n in range(30):
        add(catalog, record(f"r{n:02}", body={"n": n % 4}))
        clock.advance() if n % 3 else None
    for sort in ("created_at", "id", "body", "n", "name"):
        for direction in ("asc", "desc"):
            seen, query = [], Query(sort=sort, direction=direction, limit=7)
            with undone(catalog) as transaction:
                for n, ids in enumerate(walk(transaction, query)):
                    seen += [key for key in ids if key.startswith("r")]
                    if n < 9:
                        transaction.create(record(f"new{n}", body={"n": 0}))
                        transaction.create(record(f"a new{n}", body={"n": 9}, name="x" * n))
            assert sorted(seen) == [f"r{n:02}" for n in range(30)], (sort, direction)


def test_a_page_may_be_of_a_part(catalog):
    add(
        catalog,
        record("a", status="A", parent="p", text="Über topics"),
        record("b", status="A", name="Über"),
        record("c", status="B", parent="p"),
        record("d", ns="m", status="A"),
        record("e", kind="l", status="A"),
    )
    with catalog.reading() as transaction:

        def ids(**given):
            query = Query(sort="id", direction="asc", **given)
            page = transaction.page("n", "k", query)
            assert transaction.summary("n", "k", query).count >= len(page.records)
            return "".join(each.id for each in page.records)

        assert ids() == "abc"
        assert ids(status="A") == "ab"
        assert ids(status="a") == ids(status="\0") == ids(parent="q") == ""
        assert ids(parent="p") == "ac"
        assert ids(parent="p", status="B") == "c"
        assert ids(search="üBER") == "ab"
        assert ids(search="topic", parent="p") == "a"
        assert ids(offset=1, limit=1) == "b"
        assert ids(offset=5) == ""
        with pytest.raises(ConfigError):
            ids(limit=0)
        with pytest.raises(ConfigError):
            ids(offset=-1)


def test_a_summary_counts_and_adds_up(catalog):
    add(
        catalog,
        record("a", status="A", body={"x": {"n": 1}, "cost": 0.5}),
        record("b", status="A", body={"x": {"n": 2}, "cost": "1"}),
        record("c", status="B", body={"x": {"n": True}}),
        record("d", body={"cost": 0.25}),
    )
    with catalog.reading() as transaction:
        found = transaction.summary("n", "k", Query(limit=1), ["x.n", "cost", "name", "none"])
        nothing = transaction.summary("n", "none", Query(), ["x.n"])
    assert (found.count, found.by_status) == (4, {"A": 2, "B": 1})
    assert found.sums == {"x.n": 3.0, "cost": 0.75, "name": 0.0, "none": 0.0}
    assert (nothing.count, nothing.by_status, nothing.sums) == (0, {}, {"x.n": 0.0})


def test_what_is_due_is_taken_up_by_one_until_its_hold_ends(catalog, another, clock):
    add(
        catalog,
        record("late", due_at=BEGIN - MINUTE),
        record("later", ns="m", due_at=BEGIN, status="A"),
        record("future", due_at=BEGIN + timedelta(microseconds=1)),
        record("never"),
        record("other", kind="l", due_at=BEGIN),
    )
    other = another()
    with catalog.writing() as transaction:
        assert transaction.next_due("k") == BEGIN - MINUTE
        assert transaction.claim("k", hold=MINUTE, status="none") == []
        (first,) = transaction.claim("k", hold=MINUTE)
    assert (first.id, first.due_at, first.version) == ("late", BEGIN + MINUTE, 2)
    assert get(catalog, "late") == first
    with other.writing() as transaction:
        assert [each.id for each in transaction.claim("k", hold=MINUTE, limit=5)] == ["later"]
        assert transaction.next_due("k") == BEGIN + timedelta(microseconds=1)
    clock.advance(60)
    with other.writing() as transaction:  # whoever had it is dead
        taken = transaction.claim("k", hold=MINUTE, limit=5)
        assert [each.id for each in taken] == ["future", "late", "later"]
        assert transaction.claim("k", hold=MINUTE, limit=5) == []
    with catalog.writing() as transaction, pytest.raises(Changed):  # it is not, and finds out
        transaction.replace(replace(first, status="DONE"))
    with other.writing() as transaction:
        transaction.replace(replace(taken[1], status="DONE", due_at=None))
        assert transaction.next_due("none") is None
    clock.advance(60)
    with catalog.writing() as transaction:
        taken = transaction.claim("k", hold=MINUTE, limit=5)
        assert [each.id for each in taken] == ["later", "future"]  # due at once: as they came


def test_only_what_filters_mean_is_taken_up(catalog):
    on_gpu = {"job": {"args": {"device": "auto"}}}
    add(
        catalog,
        record("gpu", due_at=BEGIN, body=on_gpu),
        record("cpu", due_at=BEGIN, body={"job": {"args": {"device": "cpu"}}}),
        record("neither", due_at=BEGIN, body={"job": {"args": {}}}),
    )
    with catalog.writing() as transaction:
        taken = transaction.claim("k", hold=MINUTE, limit=5, filters=ON_CPU)
        assert [each.id for each in taken] == ["cpu", "neither"]
        assert [each.id for each in transaction.claim("k", hold=MINUTE, limit=5)] == ["gpu"]


def test_what_is_to_be_done_is_counted_in_all_namespaces(catalog):
    def to_do(key, verb, status, **changes):
        return record(key, due_at=BEGIN, status=status, body={"job": {"verb": verb}}, **changes)

    add(
        catalog,
        to_do("a", "cluster", "PENDING"),
        to_do("b", "cluster", "PENDING", ns="m"),
        to_do("c", "assign", "IN_PROGRESS"),
        to_do("d", "cluster", "PENDING", kind="l"),
        record("e", due_at=BEGIN),
        record("f", status="PENDING", body={"job": {"verb": "cluster"}}),
    )
    with catalog.reading() as transaction:
        assert transaction.count_due("none", "job.verb") == {}
        assert transaction.count_due("k", "job.verb") == {
            ("PENDING", "cluster"): 2,
            ("IN_PROGRESS", "assign"): 1,
            (None, None): 1,
        }


def test_what_is_old_goes_the_oldest_first_and_leaves_nothing(catalog, clock, catalog_url):
    for n in range(5):
        add(catalog, record(f"old{n}", ns=f"n{n}", status="DONE", body={"n": n}))
        clock.advance(1)
    add(catalog, record("live", status="PENDING"), record("other", kind="l", status="DONE"))
    before = clock.advance(1)
    add(catalog, record("new", status="DONE"))

    def prune(limit, keep=("PENDING", "IN_PROGRESS")):
        with catalog.writing() as transaction:
            return transaction.prune("k", before=before, limit=limit, keep=keep)

    def left():
        with catalog.reading() as transaction:
            return [n for n in range(5) if transaction.get(f"n{n}", "k", f"old{n}") is not None]

    assert (prune(2), left()) == (2, [2, 3, 4])
    with catalog.writing() as transaction:  # what is changed is not old
        third = transaction.get("n2", "k", "old2")
        transaction.replace(replace(third, body={"n": 20}))
    assert (prune(2), left()) == (2, [2])
    assert prune(2) == 0
    assert {each for each in ("live", "new") if get(catalog, each)} == {"live", "new"}
    assert prune(2, keep=()) == 1
    assert get(catalog, "live") is None
    with catalog.reading() as transaction:
        assert transaction.get("n", "l", "other") is not None
        with pytest.raises(InternalError, match="only reads"):
            transaction.prune("k", before=before, limit=1)
    assert_whole(catalog_url)


@pytest.mark.parametrize("field", ["ns", "kind", "id", "name", "status", "parent"])
def test_keys_that_cannot_be_kept_are_refused(catalog, field):
    with catalog.writing() as transaction:
        for key in ("a\0", "\ud800", "x" * 501, "ü" * 251):
            with pytest.raises(ConfigError, match=field):
                transaction.create(replace(record(), **{field: key}))
            if field not in {"status", "parent", "name"}:
                where = {"ns": "n", "kind": "k", "id": "a", field: key}
                assert transaction.get(**where) is None
        assert transaction.find("n", "k", "\0") is None
        transaction.create(replace(record(), **{field: "ü" * 250}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, -(10**400)])
def test_values_that_are_no_json_are_refused(catalog, value):
    with catalog.writing() as transaction, pytest.raises(ConfigError):
        transaction.create(record(body={"a": [value]}))


def test_what_is_nested_too_deeply_is_refused(catalog):
    def nested(depth: int):
        return record(
            f"{depth}", body=functools.reduce(lambda inner, _: {"a": inner}, range(depth), 1)
        )

    add(catalog, nested(100), record(body={"many": [{}] * 500}))
    for depth in (101, 500, 100_000):
        with catalog.writing() as transaction, pytest.raises(ConfigError):
            transaction.create(nested(depth))
    with catalog.reading() as transaction:
        filters = Filters.model_validate({"field": "a.a.a", "operator": "exists"})
        found = transaction.page("n", "k", Query(filters=filters)).records
    assert [each.id for each in found] == ["100"]


def test_what_is_closed_can_be_closed_again_and_opened_again(catalog, another):
    add(catalog, record())
    catalog.close()
    catalog.close()
    assert get(another(), "a").version == 1
