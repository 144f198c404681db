"""What every store promises, on a disk and in a bucket of a server that is another process."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path

import pytest

from gpucluster.artifacts import Store, object_lease, open_store
from gpucluster.errors import PermissionRefusedError, RunLockedError, StoreError
from gpucluster.places import bucket as requests
from gpucluster.places import place
from tests.helpers.object_service import Proxy

WRITERS, ROUNDS = 16, 100


def put(store: Store, key: str, content: bytes, *, absent: bool = False):
    return store.put(key, methodcaller("write", content), absent=absent)


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "runs")
    return request.getfixturevalue("bucket") + "/some/runs"


@pytest.fixture
def store(folder: str) -> Store:
    return open_store(place(folder))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send no request twice."""
    monkeypatch.setitem(requests.PATIENCE, "max_retries", 0)
    monkeypatch.setattr(requests, "PAUSES_S", ())
    monkeypatch.setattr(requests, "_open", {})


@pytest.fixture
def run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every lease be one that has run out."""
    monkeypatch.setattr(object_lease, "EXPIRY_S", -1.0)


def test_what_is_put_is_there_whole(store: Store):
    content = random.Random(0).randbytes(9 << 20)  # in parts, where there are such
    stored = put(store, "run_a/members.parquet", content)
    assert stored == (len(content), hashlib.sha256(content).hexdigest())
    assert store.exists("run_a/members.parquet")
    assert store.read_bytes("run_a/members.parquet") == content
    with store.open("run_a/members.parquet") as file:
        assert file.seek(-10, 2) == len(content) - 10
        assert file.read() == content[-10:]
        assert file.seek(5 << 20) == 5 << 20
        assert file.read(3 << 20) == content[5 << 20 : 8 << 20]
        file.seek(0)
        assert hashlib.file_digest(file, "sha256").hexdigest() == stored.sha256


def test_what_is_put_again_is_replaced(store: Store):
    put(store, "a", b"old")
    put(store, "a", b"")
    assert store.read_bytes("a") == b""


def test_only_one_is_put_where_nothing_may_be(store: Store):
    put(store, "run_a/manifest.json", b"first", absent=True)
    for content in (b"first", b"second"):  # equal content is no excuse
        with pytest.raises(FileExistsError):
            put(store, "run_a/manifest.json", content, absent=True)
    assert store.read_bytes("run_a/manifest.json") == b"first"


def test_what_fails_while_it_is_written_is_not_there(store: Store):
    def write(file):
        file.write(b"half")
        raise KeyError("the writer's own")

    for absent in (False, True):
        with pytest.raises(KeyError, match="own"):
            store.put("run_a/x", write, absent=absent)
    assert not store.exists("run_a/x")
    assert store.list("run_a") == ()


def test_names_are_listed_and_hidden_ones_are_not(store: Store):
    assert store.list() == store.list("run_a") == ()
    for key in ("run_b/x", "run_a/model/step/a.npy", "run_a/y", "z"):
        put(store, key, b"")
    with store.lease("run_a"):
        assert store.list() == ("run_a", "run_b", "z")
        assert store.list("run_a") == ("model", "y")
        assert store.list("run_a/model") == ("step",)
    assert not store.exists("run_a")
    assert not store.exists("run_a/model/step")


def test_what_is_missing_is_said_so(store: Store):
    for read in (store.open, store.read_bytes):
        with pytest.raises(FileNotFoundError):
            read("run_a/nothing")
    store.delete("run_a/nothing")
    put(store, "run_a/x", b"")
    store.delete("run_a/x")
    assert not store.exists("run_a/x")


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/..", ".lock", "a/.x", "a b", "%2e"])
def test_what_is_no_key_is_refused(store: Store, key: str):
    with pytest.raises(StoreError, match="no place"):
        put(store, key, b"")
    with pytest.raises(StoreError, match="no place"):
        store.read_bytes(key)


def test_a_lease_is_one_writers_alone(store: Store, folder: str):
    other = open_store(place(folder))
    with store.lease("run_a"):
        with pytest.raises(RunLockedError, match="in use by process [0-9]+ on "):
            other.lease("run_a").__enter__()
        with other.lease("run_b"):
            put(store, "run_a/x", b"")
    with other.lease("run_a"):
        put(other, "run_a/x", b"mine")


def test_one_of_sixteen_writers_wins(
    store: Store,
    folder: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
):
    """Each round, also where a fifth of the replies are lost."""
    if folder.startswith("s3://"):
        monkeypatch.setattr(requests, "PAUSES_S", (0.01, 0.05))
        faults = random.Random(10)
        proxy: Proxy = request.getfixturevalue("proxy")
        put(store, "warm/up", b"", absent=True)
        proxy.decide = lambda n, method, path: (
            "lost reply" if method == "PUT" and faults.random() < 0.2 else None
        )
    stores = [open_store(place(folder)) for _ in range(WRITERS)]

    def attempt(number: int, each: int, start: threading.Barrier) -> bool:
        start.wait()
        try:
            put(stores[each], f"run_{number}/manifest.json", b"%d" % each, absent=True)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as threads:
        for number in range(ROUNDS):
            start = threading.Barrier(WRITERS)
            won = [*threads.map(attempt, [number] * WRITERS, range(WRITERS), [start] * WRITERS)]
            winner = store.read_bytes(f"run_{number}/manifest.json")
            assert [each for each in range(WRITERS) if won[each]] == [int(winner)], number


@pytest.mark.parametrize("fault", ["lost reply", "500 after", "reset before", "503"])
def test_a_reply_that_is_lost_is_no_failure(bucket: str, proxy: Proxy, fault: str):
    store = open_store(place(bucket))
    put(store, "warm/up", b"", absent=True)
    for at in (1, 2):
        proxy.fail(at, fault)
        put(store, f"run_{at}/manifest.json", b"mine", absent=True)
        with pytest.raises(FileExistsError):
            put(store, f"run_{at}/manifest.json", b"mine", absent=True)
        proxy.fail(at, fault)
        with store.lease(f"run_{at}"):
            pass
        proxy.fail(at, fault)
        assert store.read_bytes(f"run_{at}/manifest.json") == b"mine"


@pytest.mark.parametrize("ignored", ["unconditional", "no if-match"])
def test_a_bucket_that_ignores_conditions_is_refused(bucket: str, proxy: Proxy, ignored: str):
    proxy.decide = lambda n, method, path: ignored
    store = open_store(place(bucket))
    for write in (
        lambda: store.lease("run_a").__enter__(),
        lambda: put(store, "run_a/manifest.json", b"", absent=True),
    ):
        with pytest.raises(StoreError, match="ignores the condition of a write.*choose another"):
            write()
    assert [*place(bucket).rglob("*")] == []  # the probe is gone too


def test_a_bucket_without_conditional_writes_is_refused(
    bucket: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    with pytest.raises(StoreError, match="conditional writes are switched off"):
        put(open_store(place(bucket)), "run_a/manifest.json", b"", absent=True)


def test_a_lease_is_renewed(bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(object_lease, "RENEW_S", 0.05)
    lock = place(bucket) / "run_a/.lock"
    with open_store(place(bucket)).lease("run_a"):
        until = time.monotonic() + 20
        while json.loads(lock.read_bytes())["renewals"] < 3 and time.monotonic() < until:
            time.sleep(0.05)
        assert json.loads(lock.read_bytes())["renewals"] >= 3
    assert not lock.exists()


def test_whoever_lost_a_lease_writes_nothing_more(
    bucket: str, monkeypatch: pytest.MonkeyPatch, run_out: None
):
    late, other = open_store(place(bucket)), open_store(place(bucket))
    monkeypatch.setattr(object_lease, "TRUST_S", -1.0)  # it asks each time
    with late.lease("run_a"):
        put(late, "run_a/x", b"held up, and then still its own")
        with other.lease("run_a"):
            with pytest.raises(StoreError, match="another process has taken over"):
                put(late, "run_a/manifest.json", b"", absent=True)
            put(other, "run_a/y", b"")
            assert other.list("run_a") == ("x", "y")
    assert not (place(bucket) / "run_a/.lock").exists()


@pytest.mark.usefixtures("impatient")
def test_a_renewal_without_an_answer_loses_no_lease(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    """It was carried out, and then nothing was heard for a while, not even who wrote."""
    monkeypatch.setattr(object_lease, "TRUST_S", -1.0)
    store = open_store(place(bucket))
    with store.lease("run_a"):
        proxy.decide = lambda n, method, path: "lost reply" if method == "PUT" else "503"
        with pytest.raises(StoreError, match="the service "):
            put(store, "run_a/x", b"")
        proxy.pass_on()
        put(store, "run_a/x", b"mine")
    assert store.read_bytes("run_a/x") == b"mine"
    assert not (place(bucket) / "run_a/.lock").exists()


KILLED = """
import sys, time
from gpucluster.artifacts import open_store
from gpucluster.places import place
with open_store(place(sys.argv[1])).lease("run_a"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lease_outlives_its_holder_for_a_minute(bucket: str, monkeypatch: pytest.MonkeyPatch):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, bucket], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    store = open_store(place(bucket))
    expected = rf"in use by process {holder.pid} on .*if it was killed, try again in [56][0-9] s"
    with pytest.raises(RunLockedError, match=expected):
        store.lease("run_a").__enter__()
    monkeypatch.setattr(object_lease, "EXPIRY_S", -1.0)
    with store.lease("run_a"):
        put(store, "run_a/x", b"")


def refusals(store: Store) -> Iterator[StoreError]:
    for act in (
        lambda: put(store, "run_a/x", b""),
        lambda: put(store, "run_a/x", b"", absent=True),
        lambda: store.lease("run_a").__enter__(),
        lambda: store.read_bytes("run_a/x"),
        lambda: store.exists("run_a/x"),
        lambda: store.list("run_a"),
        lambda: store.delete("run_a/x"),
    ):
        with pytest.raises(StoreError) as caught:
            act()
        assert "canary" not in str(caught.value).lower()
        yield caught.value


@pytest.mark.usefixtures("impatient")
def test_refusals_say_what_to_look_at(bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch):
    store = open_store(place(bucket))
    proxy.decide = lambda n, method, path: "403"
    for error in refusals(store):
        assert isinstance(error, PermissionRefusedError)
        assert "access is denied (403" in str(error)
        assert "AWS_ACCESS_KEY_ID" in str(error)
    proxy.decide = lambda n, method, path: "503"
    for error in refusals(store):
        assert "the service fails (503" in str(error)
    proxy.decide = lambda n, method, path: "delay 0.5"
    monkeypatch.setenv("AWS_TIMEOUT", "100ms")
    for error in itertools.islice(refusals(open_store(place(bucket))), 2):
        assert "does not answer in time; a slow line needs AWS_TIMEOUT=300s" in str(error)
    monkeypatch.delenv("AWS_TIMEOUT")
    proxy.pass_on()
    for error in itertools.islice(refusals(open_store(place("s3://no-such-bucket"))), 3):
        assert "there is no such bucket" in str(error)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for error in refusals(store):
        assert "the service does not answer; look at AWS_ENDPOINT_URL" in str(error)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    for error in refusals(store):
        assert isinstance(error, PermissionRefusedError)
        assert "no credentials; set AWS_ACCESS_KEY_ID" in str(error)
