"""Reads take turns in few threads, which are gone while nothing is read."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from gpucluster.service import readers
from gpucluster.service.readers import Readers
from gpucluster.service.refusals import UnavailableError

SECONDS = 30


def readers_now() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("reader")}


def test_so_many_read_at_a_time_and_all_get_their_turn(monkeypatch):
    monkeypatch.setattr(readers, "REST_S", 0.0)
    rested = threading.Event()
    monkeypatch.setattr(readers, "give_back", rested.set)
    lock, now, most = threading.Lock(), 0, 0

    def read() -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.001)
        with lock:
            now -= 1
        return threading.current_thread().name

    async def all_read() -> list[str]:
        turns = Readers(3)
        found = await asyncio.gather(*(turns.run(read) for _ in range(60)))
        assert await asyncio.to_thread(rested.wait, SECONDS)  # when the threads have ended
        assert readers_now() <= before
        rested.clear()
        assert await turns.run(read) in found  # and others begin
        assert await asyncio.to_thread(rested.wait, SECONDS)
        return found

    before = readers_now()  # of tests that ended just now
    found = asyncio.run(all_read())
    assert 1 < most <= 3
    assert len(set(found)) <= 3


def test_who_would_wait_too_long_is_told_to_come_again(monkeypatch):
    monkeypatch.setattr(readers, "MOST_WAITING", 2)
    go = threading.Event()

    async def all_read() -> None:
        turns = Readers(2)
        held = [asyncio.ensure_future(turns.run(lambda: go.wait(SECONDS))) for _ in range(6)]
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="4 reads of documents wait") as refused:
            await turns.run(go.is_set)
        assert refused.value.status == 503
        assert refused.value.after_s > 0
        go.set()
        assert all(await asyncio.gather(*held))
        assert await turns.run(go.is_set)

    asyncio.run(all_read())


def test_a_stream_takes_a_turn_for_each_part_and_holds_none_between():
    async def read() -> None:
        turns = Readers(1)
        slow = turns.each(iter([b"a", b"b"]))
        assert await anext(slow) == b"a"
        assert await turns.run(lambda: "another") == "another"
        assert [part async for part in slow] == [b"b"]

        def broken():
            yield b"a"
            raise ValueError("cut")

        with pytest.raises(ValueError, match="cut"):
            [part async for part in turns.each(broken())]

    asyncio.run(read())
