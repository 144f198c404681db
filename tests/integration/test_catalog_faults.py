"""Catalogs when disks are full, databases go away, and others hold what they need."""

from __future__ import annotations

import contextlib
import resource
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from gpucluster.errors import (
    ConfigError,
    InternalError,
    PermissionRefusedError,
    SchemaTooNewError,
    StoreError,
)
from gpucluster.service.catalog import connections, open_catalog, sqlite
from gpucluster.service.catalog import postgres as catalog_of_postgres
from gpucluster.service.catalog.port import Catalog, Full, NoRoom, Query
from gpucluster.service.catalog.schema import VERSION
from tests.helpers.catalogs import add, assert_whole, record
from tests.helpers.faults import end_of, fork


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "catalog.sqlite"


def test_a_newer_layout_is_refused_with_what_to_install(catalog_url):
    catalog = open_catalog(catalog_url)
    with catalog._begun(writes=True) as execute:
        execute("UPDATE gpucluster_catalog SET version = 99, written_by = '9.9.9'", {})
    catalog.close()
    with pytest.raises(SchemaTooNewError, match=f"layout 99, this version knows {VERSION}") as one:
        open_catalog(catalog_url)
    assert "install gpucluster 9.9.9 or newer" in one.value.hint


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_gone_takes_nothing_more(file, replaced):
    with closing(open_catalog(str(file))) as catalog:
        add(catalog, record("a"))
        for path in file.parent.glob("catalog.sqlite*"):
            path.unlink()
        if replaced:
            file.touch()
        with pytest.raises(StoreError, match="removed or replaced"):
            add(catalog, record("b"))
        with pytest.raises(StoreError, match="removed or replaced"), catalog.reading():
            pass


def test_an_error_of_a_statement_that_is_caught_undoes_the_transaction_nevertheless(catalog_url):
    catalog = open_catalog(catalog_url)
    with pytest.raises(InternalError), catalog.writing() as transaction:  # noqa: PT012
        transaction.create(record())
        with pytest.raises(InternalError):
            transaction._execute("SELECT nonsense", {})
    with catalog.reading() as transaction:
        assert transaction.get("n", "k", "a") is None
    catalog.close()


@pytest.mark.parametrize(
    "address", ["", "sqlite://x", "sqlite:///", "mysql://x/y", "http://a", "\0"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="catalog"):
        open_catalog(address)


def test_a_full_disk_leaves_what_was_there(file, monkeypatch):
    monkeypatch.setattr(sqlite, "SETTINGS", (*sqlite.SETTINGS, "PRAGMA max_page_count = 60"))
    catalog = open_catalog(str(file))
    n_written = fill_up(catalog)
    with pytest.raises(NoRoom, match="full"):
        add(catalog, record(body={"filler": "x" * 20_000}))
    with catalog.reading() as transaction:
        assert transaction.summary("n", "k", Query()).count == n_written
    with catalog.writing() as transaction:
        for n in range(5):  # pages of tables and indexes become free by several
            assert transaction.delete("n", "k", f"r{n}")
        transaction.create(record("r0", body={"filler": "x" * 1000}))
    catalog.close()
    assert_whole(str(file))


def test_a_disk_that_refuses_leaves_what_was_there(file):
    """A limit of the size of files: as on a full disk, writing to the log fails."""

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        catalog = open_catalog(str(file))
        n_written = fill_up(catalog)
        with catalog.reading() as transaction:
            assert transaction.summary("n", "k", Query()).count == n_written

    assert end_of(fork(fill)) == 0
    assert_whole(str(file))
    with closing(open_catalog(str(file))) as catalog:
        add(catalog, record("more"))
        with catalog.reading() as transaction:
            assert transaction.summary("n", "k", Query()).count > 10


def fill_up(catalog: Catalog) -> int:
    """Write until it is refused; return how many records were."""
    n_written = 0
    with contextlib.suppress(Full, StoreError):
        while n_written < 1000:
            add(catalog, record(f"r{n_written}", body={"filler": "x" * 2000}))
            n_written += 1
    assert 10 < n_written < 1000
    return n_written


def test_a_file_of_another_kind_is_left_alone(file):
    file.write_text("this is the diary of somebody\n" * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_catalog(str(file))
    assert file.read_text().startswith("this is the diary")
    with pytest.raises(StoreError, match=r"directory"):
        open_catalog(str(file.parent))


def test_others_cannot_read_the_file(file):
    add(open_catalog(f"sqlite:///{file}"), record())
    assert {each.stat().st_mode & 0o077 for each in file.parent.glob("catalog*")} == {0}


@pytest.mark.parametrize(
    ("kind", "is_refused"),
    [("nfs4", True), ("cifs", True), ("lustre", True), ("fuse.sshfs", True), ("9p", True),
     ("ext4", False), ("tmpfs", False), ("fuse.fuse-overlayfs", False), ("fuseblk", False)],
)  # fmt: skip
def test_a_network_file_system_is_refused(tmp_path, monkeypatch, kind, is_refused):
    shared = tmp_path / "with space" / "deep"
    mounted = str(tmp_path / "with space").replace(" ", r"\040")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/a / ext4 rw 0 0\nserver:/x {mounted} {kind} rw 0 0\nx /with y rw 0 0\n"
    )
    monkeypatch.setattr(sqlite, "MOUNTS", mounts)
    if is_refused:
        with pytest.raises(ConfigError, match=kind) as one:
            open_catalog(str(shared / "catalog.sqlite"))
        assert "GPUCLUSTER_STATE_DIR" in one.value.hint
        assert not shared.exists()
    else:
        open_catalog(str(shared / "catalog.sqlite")).close()


def test_a_writer_that_gets_no_turn_says_so(file, monkeypatch):
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.05)
    monkeypatch.setattr(connections, "PATIENCE_S", 0.05)
    catalog = open_catalog(str(file))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Full, match="locked"):
            add(catalog, record())
        other.execute("ROLLBACK")
    begun, end = threading.Event(), threading.Event()

    def keep() -> None:
        with catalog.writing():
            begun.set()
            end.wait(30)

    with ThreadPoolExecutor(1) as threads:
        kept = threads.submit(keep)
        begun.wait(30)
        with pytest.raises(Full, match="no turn"):
            add(catalog, record())
        end.set()
        kept.result()
    add(catalog, record())
    catalog.close()


def test_a_lock_that_is_not_released_in_time_is_said(postgres, monkeypatch):
    url = postgres.make_place()
    catalog = open_catalog(url)
    begin = catalog_of_postgres.BEGIN[True].replace("30000", "50")
    monkeypatch.setitem(catalog_of_postgres.BEGIN, True, begin)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(f"SELECT pg_advisory_lock({catalog_of_postgres.LOCK})")
        with pytest.raises(Full):
            add(catalog, record())
    add(catalog, record())
    catalog.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_postgres_that_is_started_again_is_found_again(postgres, monkeypatch, how):
    catalog = open_catalog(postgres.make_place())
    add(catalog, record("before"))
    with pytest.raises(StoreError) as lost, catalog.writing() as transaction:  # noqa: PT012
        transaction.create(record("half"))
        postgres.stop(how)
        postgres.start()
        transaction.create(record("other half"))
    assert lost.value.retryable
    postgres.stop(how)
    starting = threading.Thread(target=postgres.start)
    starting.start()
    add(catalog, record("after"))  # waits for it
    starting.join()
    with catalog.reading() as transaction:
        found = {each.id for each in transaction.page("n", "k", Query()).records}
    assert found == {"before", "after"}
    monkeypatch.setattr(catalog, "_return_s", 0.2)
    postgres.stop(how)
    try:
        with pytest.raises(StoreError, match="postgres"):
            add(catalog, record("never"))
        with pytest.raises(StoreError, match="postgres"):
            open_catalog(postgres.url)
    finally:
        postgres.start()
    catalog.close()


@pytest.mark.parametrize(
    ("error", "meaning"),
    [(psycopg.errors.DiskFull, NoRoom), (psycopg.errors.QueryCanceled, Full),
     (psycopg.errors.TooManyConnections, Full), (psycopg.errors.AdminShutdown, StoreError),
     (psycopg.errors.InsufficientPrivilege, PermissionRefusedError),
     (psycopg.errors.UndefinedColumn, InternalError)],
)  # fmt: skip
def test_errors_of_postgres_have_a_meaning(error, meaning):
    database = catalog_of_postgres.Postgres("postgresql://u:secret@h:5/name")
    found = database.refusal(error("what happened"))
    assert type(found) is meaning
    assert "what happened" in str(found)
    assert "secret" not in str(found)
