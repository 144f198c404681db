"""Replies on disk: found again, aged, and written together with what they cost."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gpucluster.errors import StoreError
from gpucluster.labeling.asking.cache import ReplyCache, question_key
from gpucluster.labeling.asking.spending import Usage
from gpucluster.labeling.model.protocol import Question, Reply
from gpucluster.labeling.settings import Prices

REPLY = Reply('{"label": "Card fees"}', "stop", 12, 5)
PRICES = Prices(input=1e4, output=2e4, embedding=1e5)
USED = Usage.of(12, 5, PRICES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "label-cache.sqlite"


def opened(path: Path, name: str = "lab_1", ttl_s: float = 60, now: float = 1000) -> ReplyCache:
    return ReplyCache(path, name, ttl_s, now=lambda: now)


def test_a_reply_is_found_again_by_others_until_it_is_too_old(path: Path) -> None:
    first = opened(path)
    first.put("k", REPLY, USED)
    first.close()
    for now, found in ((1059, REPLY), (1061, None)):
        other = opened(path, "lab_2", now=now)
        assert other.get("k") == found
        other.close()


def test_its_own_labelling_finds_it_at_any_age(path: Path) -> None:
    cache = opened(path, ttl_s=0)
    cache.put("k", REPLY, USED)
    cache.close()
    again = opened(path, ttl_s=0, now=10**9)
    assert again.get("k") == REPLY
    again.close()


def test_a_labelling_without_a_cache_uses_nobody_elses(path: Path) -> None:
    cache = opened(path)
    cache.put("k", REPLY, USED)
    cache.close()
    other = opened(path, "lab_2", ttl_s=0)
    assert other.get("k") is None
    other.close()


def test_what_a_labelling_spent_is_the_sum_of_its_attempts(path: Path) -> None:
    for key in ("a", "b"):
        cache = opened(path)
        cache.put(key, REPLY, USED)
        cache.close()
    other = opened(path, "lab_2")
    other.put("c", REPLY, USED)
    assert other.spent(PRICES) == USED
    other.close()
    again = opened(path)
    assert again.spent(PRICES) == Usage(2, 24, 10, usd=pytest.approx(0.44))
    assert again.spent(None).usd is None
    again.close()


def test_what_led_to_no_name_is_asked_for_again(path: Path) -> None:
    cache = opened(path)
    cache.put("k", REPLY, USED)
    cache.drop(["k", "never there"])
    assert cache.get("k") is None
    assert cache.spent(PRICES).calls == 1  # it was paid all the same
    cache.close()


def test_a_fresh_attempt_asks_anew_and_is_handed_over_when_it_is_published(path: Path) -> None:
    cache = opened(path, ttl_s=0)
    cache.put("k", REPLY, USED)
    cache.put("old", REPLY, USED)
    cache.close()
    fresh = ReplyCache(path, "lab_2", 0, is_fresh=True, now=lambda: 1001)
    assert fresh.get("k") is None
    other = Reply("another", "stop", 1, 1)
    fresh.put("k", other, Usage.of(1, 1, PRICES))
    fresh.end("lab_1", is_finished=False)
    assert fresh.get("k") is None
    fresh.close()
    cache = opened(path, ttl_s=0, now=10**9)
    assert cache.get("k") == other
    assert cache.get("old") == REPLY
    assert cache.spent(PRICES) == Usage.of(1, 1, PRICES)
    cache.end("lab_1", is_finished=False)
    assert cache.get("k") == other
    cache.close()


def test_what_was_begun_for_a_request_goes_on_under_its_id(path: Path) -> None:
    assert ReplyCache.unfinished(path, "request", "lab_1") == "lab_1"
    assert ReplyCache.unfinished(path, "request", "lab_2") == "lab_1"
    assert ReplyCache.begun(path, "request") == "lab_1"
    cache = opened(path)
    cache.end("lab_0", is_finished=False)
    cache.close()
    assert ReplyCache.begun(path, "request") is None
    assert ReplyCache.unfinished(path, "request", "lab_2") == "lab_2"
    assert ReplyCache.begun(path.with_name("none"), "request") is None


def test_a_price_that_is_set_later_counts_for_what_was_spent_before(path: Path) -> None:
    cache = opened(path)
    cache.put("k", REPLY, Usage.of(12, 5, None))
    assert cache.spent(None).usd is None
    assert cache.spent(PRICES).usd == pytest.approx(0.22)
    cache.close()


def test_the_estimate_is_that_of_the_beginning(path: Path) -> None:
    first = opened(path)
    assert first.estimate(lambda: Usage(9, 90, 9, usd=None)) == Usage(9, 90, 9, usd=None)
    first.put("k", REPLY, USED)
    first.close()
    again = opened(path)
    assert again.estimate(lambda: Usage(1)) == Usage(9, 90, 9, usd=None)
    assert again.spent(PRICES) == USED
    again.close()


def test_two_that_ask_the_same_keep_their_own_replies(path: Path) -> None:
    first, second = opened(path, ttl_s=0), opened(path, "lab_2", ttl_s=0)
    other = Reply("another", "stop", 1, 1)
    first.put("k", REPLY, USED)
    second.put("k", other, USED)
    assert (first.get("k"), second.get("k")) == (REPLY, other)
    second.end("lab_3", is_finished=False)
    assert (first.get("k"), second.get("k")) == (REPLY, None)
    first.close()
    second.close()


def test_a_file_of_an_earlier_version_begins_anew(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT, created_at REAL)")
    db.close()
    cache = opened(path)
    cache.put("k", REPLY, USED)
    assert cache.get("k") == REPLY
    cache.close()


def test_embeddings_cost_and_leave_no_reply(path: Path) -> None:
    cache = opened(path)
    cache.note(Usage.of_embedding(7, PRICES))
    assert cache.spent(PRICES) == Usage.of_embedding(7, PRICES)
    cache.close()


def test_many_threads_write_at_once(path: Path) -> None:
    cache = opened(path)
    threads = [
        threading.Thread(
            target=lambda name=name: [cache.put(f"{name}-{i}", REPLY, USED) for i in range(20)]
        )
        for name in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.spent(PRICES).calls == 160
    cache.close()


def test_a_killed_process_leaves_reply_and_cost_or_neither(path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from gpucluster.labeling.asking.cache import ReplyCache
from gpucluster.labeling.model.protocol import Reply
from gpucluster.labeling.asking.spending import Usage
cache = ReplyCache(Path({str(path)!r}), "lab_1", 60)
for i in range(50):
    cache.put(f"k{{i}}", Reply("x", "stop", 1, 1), Usage(1, 1, 1, usd=0.0))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM replies").fetchone() == (50,)
        assert db.execute("SELECT calls FROM labelings").fetchone() == (50,)
    db.close()


def test_a_damaged_file_is_named_with_what_to_do(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(StoreError, match=r"label-cache.sqlite.*remove it"):
        opened(path)


def test_the_key_knows_the_content_of_documents_and_who_is_asked() -> None:
    def key(text: str = "a", tokens: int = 100, model: str = "m") -> str:
        question = Question(({"role": "user", "content": text},), {"type": "object"}, tokens)
        return question_key(question, {"model_name": model})

    assert key() == key()
    assert len({key(), key(text="b"), key(tokens=99), key(model="n")}) == 4
