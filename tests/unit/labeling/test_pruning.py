"""The limit of the replies on disk: who goes first, who never, and that no kill tears it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gpucluster.errors import ConfigError
from gpucluster.labeling.asking.cache import USES, ReplyCache
from gpucluster.labeling.asking.pruning import LIMIT, LIMIT_MB, RESUMABLE_S, most_bytes
from gpucluster.labeling.asking.spending import Usage
from gpucluster.labeling.model.protocol import Reply

REPLY = Reply("x" * 20_000, "stop", 1, 1)  # fifty of them are a megabyte, but for their keys
USED = Usage(1, 1, 1)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "label-cache.sqlite"


@pytest.fixture(autouse=True)
def a_megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "1")


def opened(path: Path, name: str, now: float = 0) -> ReplyCache:
    return ReplyCache(path, name, 10**9, now=lambda: now)


def finished(path: Path, name: str, keys: list[str], now: float = 0) -> None:
    with closing(opened(path, name, now)) as cache:
        cache.begin()
        for key in keys:
            cache.put(key, REPLY, USED)
        cache.end(name, is_finished=True)


def keys_of(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [key for (key,) in db.execute("SELECT key FROM replies ORDER BY key")]


def test_what_was_not_used_for_the_longest_time_goes_first(path: Path) -> None:
    for at, name in enumerate("abc"):
        finished(path, f"lab_{name}", [f"{name}{i}" for i in range(15)], now=at)
    with closing(opened(path, "lab_d", 9)) as cache:
        cache.begin()
        assert cache.get("a3") == REPLY
    finished(path, "lab_e", [f"e{i}" for i in range(15)], now=10)
    left = keys_of(path)
    assert len(left) == 49
    assert [key for key in left if key[0] == "a"] == ["a0", "a1", "a10", "a3"]
    assert [sum(key[0] == name for key in left) for name in "bce"] == [15, 15, 15]


def test_replies_below_the_limit_stay_however_old_they_are(path: Path) -> None:
    finished(path, "lab_a", ["a"])
    finished(path, "lab_b", ["b"], now=10**12)
    assert keys_of(path) == ["a", "b"]


@pytest.mark.parametrize("way", ["at work", "left something to be done", "fresh"])
def test_what_a_labelling_may_still_need_stays_for_thirty_days(
    path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv(LIMIT, "0")
    with closing(opened(path, "lab_1")) as cache:
        cache.begin()
        cache.put("k", REPLY, USED)
        if way == "left something to be done":
            cache.end("lab_1", is_finished=False)
        if way == "fresh":
            cache.end("lab_0", is_finished=False)
    finished(path, "lab_2", ["other"], now=RESUMABLE_S - 1)
    assert keys_of(path) == ["k"]
    finished(path, "lab_2", [], now=RESUMABLE_S + 1)
    assert keys_of(path) == []


def test_a_labelling_that_goes_on_needs_its_replies_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(path, "lab_1", ["k"])
    with closing(opened(path, "lab_1", 5)) as cache:
        cache.begin()
    monkeypatch.setenv(LIMIT, "0")
    finished(path, "lab_2", ["other"], now=6)
    assert keys_of(path) == ["k"]
    finished(path, "lab_1", [], now=7)
    assert keys_of(path) == []


def test_uses_are_noted_while_there_are_many_of_them(path: Path) -> None:
    with closing(opened(path, "lab_1")) as cache:
        cache.begin()
        cache.put("k", REPLY, USED)
        cache.put("l", REPLY, USED)
        cache.end("lab_1", is_finished=True)
    with closing(opened(path, "lab_2", 7)) as cache:
        cache._used = {(str(i), "lab_3") for i in range(USES)}
        assert cache.get("k") == REPLY
        with closing(sqlite3.connect(path)) as db:
            found = dict(db.execute("SELECT key, used_at FROM replies"))
    assert found == {"k": 7, "l": 0}


def test_emptying_keeps_what_is_needed_and_what_was_spent(path: Path) -> None:
    finished(path, "lab_1", [f"k{i}" for i in range(30)])
    with closing(ReplyCache(path, "lab_2", 0)) as cache:
        cache.begin()
        cache.put("mine", REPLY, USED)
        assert (cache.kept().replies, cache.kept().needed) == (31, 1)
        cache.empty()
        assert (cache.kept().replies, cache.kept().needed) == (1, 1)
        assert 20_000 < cache.kept().bytes < 21_000
    assert path.stat().st_size < 100_000  # of 700,000
    with closing(opened(path, "lab_1")) as cache:
        assert cache.spent(None).calls == 30


def test_a_file_of_an_earlier_version_gives_its_room_back(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE replies (key TEXT, reply TEXT)")
        db.execute("INSERT INTO replies VALUES ('k', ?)", ("x" * 1_000_000,))
        db.commit()
    opened(path, "lab_1").close()
    assert path.stat().st_size < 100_000


@pytest.mark.parametrize("text", ["much", "-1", "1.5", "5GB", "²"])
def test_a_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(LIMIT, text)
    with pytest.raises(ConfigError, match=f"^{LIMIT}: .*whole number of megabytes"):
        most_bytes()


def test_the_limit_is_that_of_the_environment_or_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert most_bytes() == 1_000_000
    for text in ("", " "):
        monkeypatch.setenv(LIMIT, text)
        assert most_bytes() == LIMIT_MB * 1_000_000


# Others at the same time, and kills

_KILLED = """
import os, signal, sys
from pathlib import Path
from gpucluster.labeling.asking.cache import ReplyCache

statement, moment = sys.argv[2], int(sys.argv[3])
seen = []

def step():
    if seen:
        seen.append(None)
    if len(seen) > moment:
        os.kill(os.getpid(), signal.SIGKILL)

def hear(text):
    if text.strip().startswith(statement):
        seen.append(text)
        step()

cache = ReplyCache(Path(sys.argv[1]), "lab_3", 60)
cache._db.set_progress_handler(step, 10)
cache._db.set_trace_callback(hear)
cache.empty()
"""


@pytest.mark.parametrize(
    ("statement", "moment", "n_left"),
    [
        ("WITH", 1, 31),
        ("WITH", 100, 31),
        ("WITH", 250, 31),
        ("COMMIT", 1, 31),
        ("VACUUM", 1, 1),
        ("VACUUM", 20, 1),
    ],
)
def test_killed_at_any_moment_replies_are_there_or_gone_and_the_needed_ones_stay(
    path: Path, statement: str, moment: int, n_left: int
) -> None:
    finished(path, "lab_1", [f"k{i}" for i in range(30)])
    with closing(ReplyCache(path, "lab_2", 0)) as cache:
        cache.begin()
        cache.put("mine", REPLY, USED)
    command = [sys.executable, "-c", _KILLED, str(path), statement, str(moment)]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == -signal.SIGKILL
    with closing(ReplyCache(path, "lab_2", 0)) as cache:
        assert cache.get("mine") == REPLY
        assert cache.spent(None).calls == 1
        assert cache.kept().replies == n_left
        cache.empty()
    assert keys_of(path) == ["mine"]


_AT_WORK = """
import sys
from contextlib import closing
from pathlib import Path
from gpucluster.labeling.asking.cache import ReplyCache
from gpucluster.labeling.asking.spending import Usage
from gpucluster.labeling.model.protocol import Reply
name = sys.argv[2]
for turn in range(8):
    with closing(ReplyCache(Path(sys.argv[1]), f"lab_{name}{turn}", 10**9)) as cache:
        cache.begin()
        for i in range(5):
            cache.put(f"{name}{turn}-{i}", Reply("x" * 20_000, "stop", 1, 1), Usage(1, 1, 1))
        for i in range(5):
            assert cache.get(f"{name}{turn}-{i}") is not None, "a reply that is needed is gone"
            for other in "abc":
                cache.get(f"{other}{turn}-{i}")
        cache.end(f"lab_{name}{turn}", is_finished=turn != 7)
"""


def test_several_processes_keep_the_limit_and_lose_nothing_that_is_needed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "0")
    command = [sys.executable, "-c", _AT_WORK, str(path)]
    running = [
        subprocess.Popen([*command, name], cwd=ROOT, env=os.environ, stderr=subprocess.PIPE)
        for name in "abc"
    ]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
    assert keys_of(path) == [f"{name}7-{i}" for name in "abc" for i in range(5)]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT COUNT(*), SUM(calls) FROM labelings").fetchone() == (24, 120)
