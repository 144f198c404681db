"""Catalogs with several servers at them, some of which die."""

from __future__ import annotations

import functools
import itertools
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from gpucluster.service.catalog import open_catalog, schema
from gpucluster.service.catalog.port import Changed, Query, Record, Taken
from gpucluster.sources.filters import Filters
from tests.helpers.catalogs import BEGIN, Clock, add, assert_whole, record, walk
from tests.helpers.faults import end_of, fork


def write(url: str, name: str, said: int) -> None:
    """Write for ever, two records at a time, and say so after each."""
    catalog = open_catalog(url)
    for n in itertools.count():
        with catalog.writing() as transaction:
            for half in "ab":
                body = {"n": n, "filler": "x" * 2000}
                transaction.create(record(f"{name}-{n}-{half}", body=body))
            transaction.counter("written", 2)
        os.write(said, b"%d\n" % n)


def claim(url: str, said: int) -> None:
    """Claim what is due by many threads, and say what."""

    def work(_: int) -> list[str]:
        found = []
        while True:
            with catalog.writing() as transaction:
                claimed = transaction.claim("k", hold=timedelta(hours=1), limit=3)
            if not claimed:
                return found
            found += [each.id for each in claimed]

    with closing(open_catalog(url)) as catalog, ThreadPoolExecutor(8) as threads:
        for found in threads.map(work, range(8)):
            os.write(said, "".join(f"{each}\n" for each in found).encode())


def open_one(url: str, said: int) -> None:
    with closing(open_catalog(url)) as catalog, catalog.writing() as transaction:
        os.write(said, b"%d\n" % transaction.counter("opened"))


def at_once(work: Callable[[str, int], None], url: str, n: int) -> list[str]:
    """Do work in some processes that begin together; return what they say."""
    ready, go = os.pipe()
    heard, said = os.pipe()

    def wait_and_work() -> None:
        os.close(go)
        os.read(ready, 1)  # ends when the last writer has closed its end
        work(url, said)

    children = [fork(wait_and_work) for _ in range(n)]
    os.close(go)
    os.close(said)
    with open(heard) as file:  # noqa: PTH123
        lines = file.read().split()
    os.close(ready)
    assert [end_of(child) for child in children] == [0] * n
    return lines


def test_what_was_acknowledged_is_there_after_a_kill(catalog_url):
    acknowledged: set[str] = set()
    for attempt in range(4):
        names = [f"{attempt}a", f"{attempt}b"]
        children, heard = [], []
        for name in names:
            ours, theirs = os.pipe()
            children.append(fork(functools.partial(write, catalog_url, name, theirs)))
            os.close(theirs)
            heard.append(os.fdopen(ours))
        lines = [[file.readline() for _ in range(5 + 7 * attempt)] for file in heard]
        for child in children:
            os.kill(child, signal.SIGKILL)
            assert end_of(child) == -signal.SIGKILL
        for name, known, file in zip(names, lines, heard, strict=True):
            with file:
                whole = [line for line in [*known, *file] if line.endswith("\n")]
            acknowledged |= {f"{name}-{line.strip()}-{half}" for line in whole for half in "ab"}
        assert_whole(catalog_url)
        with closing(open_catalog(catalog_url)) as catalog, catalog.writing() as transaction:
            found = {each.id for each in transaction.page("n", "k", Query(limit=100_000)).records}
            assert acknowledged <= found
            halves = Counter(each.rpartition("-")[0] for each in found)
            assert set(halves.values()) == {2}  # both of a transaction, or none
            assert transaction.counter("written", 0) == len(found)


def test_each_record_that_is_due_is_claimed_once_by_many_servers(catalog_url):
    with closing(open_catalog(catalog_url)) as catalog:
        add(catalog, *(record(f"r{n}", due_at=BEGIN) for n in range(300)))
    found = at_once(claim, catalog_url, 2)
    assert sorted(found) == sorted(f"r{n}" for n in range(300))


def test_servers_that_open_at_once_do_not_collide(catalog_url):
    assert sorted(at_once(open_one, catalog_url, 4)) == ["1", "2", "3", "4"]
    assert_whole(catalog_url)


def test_a_catalog_of_an_older_layout_becomes_one_of_this(catalog_url, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        patch.setattr(schema, "VERSION", 1)
        with closing(open_catalog(catalog_url)) as old:
            (kept,) = add(old, record("a", status="DONE"))
    for _ in range(2):
        with closing(open_catalog(catalog_url)) as catalog, catalog.reading() as transaction:
            ((version,),) = transaction._execute("SELECT version FROM gpucluster_catalog", {})
            assert version == schema.VERSION
            query = Query(filters=Filters.model_validate({"status": "done"}))
            assert transaction.page("n", "k", query).records == [kept]


@pytest.mark.parametrize("case_sensitive", [False, True])
def test_postgres_finds_those_of_a_status_by_an_index(postgres, case_sensitive):
    """Both the page, in its order, and the count of all."""
    index = "gpucluster_by_status" if case_sensitive else "gpucluster_by_folded_status"
    given = {"AND": [{"field": "status", "value": "FAILED"}], "case_sensitive": case_sensitive}
    query = Query(filters=Filters.model_validate(given))
    plans = []
    with closing(open_catalog(postgres.make_place())) as catalog:
        with catalog.writing() as transaction:
            transaction._execute(
                "INSERT INTO gpucluster_records"
                " (ns, kind, id, status, text, searched, created_at, updated_at, version)"
                " SELECT 'n', 'k', 'r' || n, CASE mod(n, 12) WHEN 0 THEN 'FAILED' ELSE 'DONE' END,"
                " '', '', n, n, 1 FROM generate_series(1, 12000) n",
                {},
            )
            transaction._execute(
                "INSERT INTO gpucluster_bodies (key, body)"
                " SELECT key, '{}' FROM gpucluster_records",
                {},
            )
            transaction._execute("ANALYZE gpucluster_records, gpucluster_bodies", {})
        with catalog.reading() as transaction:
            execute = transaction._execute

            def explaining(statement, values):
                plans.append("\n".join(line for (line,) in execute(f"EXPLAIN {statement}", values)))
                return execute(statement, values)

            transaction._execute = explaining
            page = transaction.page("n", "k", query)
            assert transaction.summary("n", "k", query).count == 1000
    assert [each.id for each in page.records[:2]] == ["r12000", "r11988"]
    listed, counted = plans
    assert re.search(rf"Limit .*\n +-> +Index Scan Backward using {index} ", listed), listed
    assert re.search(rf"(using|on) {index} ", counted), counted


def test_operations_in_any_order_do_what_a_dictionary_does(catalog_url):
    """Two servers in turn; `model` has what is there."""
    chance, clock = random.Random(7), Clock()
    model: dict[str, Record] = {}
    old: list[Record] = []
    servers = [open_catalog(catalog_url, clock=clock) for _ in range(2)]
    hold = timedelta(seconds=5)
    claims = events = 0
    for n in range(1000):
        key = f"r{chance.randrange(25)}"
        name = chance.choice([None, f"n{chance.randrange(12)}"])
        due = chance.choice([None, clock.now + timedelta(seconds=chance.randrange(-5, 5))])
        given = record(key, name=name, due_at=due, status=chance.choice("AB"), body={"n": n})
        is_taken = any(each.name == name and each.id != key for each in model.values() if name)
        with servers[n % 2].writing() as transaction:
            what = chance.randrange(8)
            if what < 2:
                if key in model or is_taken:
                    with pytest.raises(Taken):
                        transaction.create(given)
                else:
                    model[key] = transaction.create(given)
            elif what < 4 and old:
                read = chance.choice([*old[-5:], *model.values()])
                given = replace(given, id=read.id, version=read.version)
                is_taken = any(
                    each.name == name and each.id != read.id for each in model.values() if name
                )
                if model.get(read.id, record()).version != read.version:
                    with pytest.raises(Changed):
                        transaction.replace(given)
                elif is_taken:
                    with pytest.raises(Taken):
                        transaction.replace(given)
                else:
                    model[read.id] = transaction.replace(given)
            elif what == 4:
                assert transaction.delete("n", "k", key) == (model.pop(key, None) is not None)
            elif what == 5:
                ready = [r for r in model.values() if r.due_at and r.due_at <= clock.now]
                claimed = transaction.claim("k", hold=hold, limit=3)
                claims += len(claimed)
                assert len(claimed) == min(3, len(ready))
                assert (
                    sorted(model[r.id].due_at for r in claimed)
                    == sorted(r.due_at for r in ready)[: len(claimed)]
                )
                for each in claimed:
                    known = model[each.id]
                    expected = replace(known, due_at=clock.now + hold, version=known.version + 1)
                    assert each == expected
                    model[each.id] = each
            else:
                events += 1
                assert transaction.counter("events") == events
        old += [model[key]] if key in model else []
        clock.advance(chance.choice([0, 1]))
        with servers[(n + 1) % 2].reading() as transaction:
            assert transaction.get("n", "k", key) == model.get(key)
            named = [each for each in model.values() if name and each.name == name]
            assert transaction.find("n", "k", name or "") == (named[0] if named else None)
            dues = [each.due_at for each in model.values() if each.due_at]
            assert transaction.next_due("k") == min(dues, default=None)
            if n % 50 == 0:
                seen = [one for page in walk(transaction, Query(limit=4)) for one in page]
                newest = sorted(model.values(), key=lambda r: (r.created_at, r.id), reverse=True)
                assert seen == [each.id for each in newest]
                by_status = Counter(each.status for each in model.values())
                assert transaction.summary("n", "k", Query()).by_status == by_status
    assert claims > 50
    assert len(model) > 5
    for each in servers:
        each.close()
    assert_whole(catalog_url)
