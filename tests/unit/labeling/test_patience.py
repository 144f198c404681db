"""When a failed call is made again: by a clock that the tests turn, and by real threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from gpucluster.errors import Cancelled
from gpucluster.events import CancelToken
from gpucluster.labeling.asking.patience import (
    ATTEMPTS,
    MAX_BACKOFF_S,
    MAX_RETRY_AFTER_S,
    MAX_STRAIGHT,
    MOST_ATTEMPTS,
    RATE_LIMIT_S,
    GaveUp,
    Patience,
    Stopped,
)
from gpucluster.labeling.model.failures import FATAL, RETRYABLE, CallError


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Script:
    """Fails as told, then answers."""

    def __init__(self, *failures):
        self.left = list(failures)

    def __call__(self):
        if self.left:
            raise self.left.pop(0)
        return "answer"


def failing(kind, n=1, after=None):
    return [CallError(f"it is {kind}", kind, after) for _ in range(n)]


def always(kind, after=None):
    def attempt():
        raise CallError(f"it is {kind}", kind, after)

    return attempt


@contextmanager
def suppress_gave_up():
    """Let pass what ends one call, but not what ends all."""
    try:
        yield
    except Stopped:
        raise
    except GaveUp:
        pass


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def patience(clock, waits):
    def on_wait(seconds, why):
        waits.append((seconds, why))

    return Patience(on_wait=on_wait, clock=clock, sleep=clock.sleep)


class TestLadder:
    @pytest.mark.parametrize("kind", sorted(RETRYABLE))
    def test_what_may_pass_is_tried_again(self, patience, clock, kind):
        assert patience.call(Script(*failing(kind, 3))) == "answer"
        assert (patience.calls, patience.retries) == (4, 3)
        assert 0 < clock.now - 100 <= 0.5 + 1 + 2
        assert patience.waited_s == pytest.approx(clock.now - 100)

    def test_it_ends_after_so_many_attempts(self, patience, clock):
        with pytest.raises(GaveUp, match="it is timeout") as caught:
            patience.call(always("timeout"))
        assert not isinstance(caught.value, Stopped)
        assert patience.calls == ATTEMPTS
        assert caught.value.__cause__.kind == "timeout"
        assert clock.now - 100 <= 0.5 + 1 + 2 + 4 + 8 + 16 + 20

    def test_rate_limits_are_no_attempts_of_the_call(self, patience):
        script = Script(*failing("rate_limited", 3), *failing("timeout", ATTEMPTS - 1))
        assert patience.call(script) == "answer"
        assert patience.calls == 3 + ATTEMPTS

    def test_a_question_that_is_rejected_ends_alone(self, patience):
        with pytest.raises(GaveUp) as caught:
            patience.call(Script(*failing("rejected")))
        assert not isinstance(caught.value, Stopped)
        assert patience.call(Script()) == "answer"
        assert patience.calls == 2

    @pytest.mark.parametrize("kind", sorted(FATAL))
    def test_what_is_fatal_ends_all(self, patience, kind):
        for _ in range(3):
            with pytest.raises(Stopped, match=f"^it is {kind}$"):
                patience.call(always(kind))
        assert patience.calls == 1

    def test_other_errors_pass(self, patience):
        with pytest.raises(ZeroDivisionError):
            patience.call(lambda: 1 / 0)
        assert patience.call(Script()) == "answer"

    def test_jitter_is_seeded(self):
        found = []
        for seed in (0, 0, 1):
            clock = Clock()
            patience = Patience(seed=seed, clock=clock, sleep=clock.sleep)
            patience.call(Script(*failing("timeout", 5)))
            found.append(clock.now)
        assert found[0] == found[1] != found[2]


class TestRetryAfter:
    def test_all_wait_as_long_as_the_server_asks(self, patience, clock, waits):
        began = []

        def attempt():
            began.append(clock.now)
            if len(began) == 1:
                raise CallError("too many", "rate_limited", 30.0)

        patience.call(attempt)
        assert began[1] - began[0] == pytest.approx(30, abs=0.6)
        assert waits == [(30.0, "too many")]

    def test_but_no_longer_than_two_minutes(self, patience, clock, waits):
        patience.call(Script(*failing("rate_limited", after=86_400.0)))
        assert MAX_RETRY_AFTER_S <= clock.now - 100 <= MAX_RETRY_AFTER_S + 1

    def test_one_pause_is_said_once_to_real_threads(self, waits):
        patience = Patience(on_wait=lambda seconds, why: waits.append(seconds))
        together = threading.Barrier(4)
        first, refused, answered = [True] * 4, [], []

        def attempt():
            if first:
                first.pop()
                together.wait()
                refused.append(time.monotonic())
                raise CallError("too many", "rate_limited", 0.5)
            answered.append(time.monotonic())

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: patience.call(attempt), range(12)))
        assert waits == [0.5]
        since = [when - max(refused) for when in answered]
        assert sum(when >= 0.49 for when in since) >= 4  # who was refused
        assert not [when for when in since if 0.2 < when < 0.49]

    def test_few_at_a_time_after_a_rate_limit(self):
        """A server that takes 5 calls in 0.3 s answers all 60, from 16 threads."""
        patience = Patience()
        lock = threading.Lock()
        state = {"since": time.monotonic(), "taken": 0, "refused": 0}

        def attempt():
            with lock:
                now = time.monotonic()
                if now - state["since"] > 0.3:
                    state["since"], state["taken"] = now, 0
                if state["taken"] >= 5:
                    state["refused"] += 1
                    raise CallError("too many", "rate_limited", state["since"] + 0.3 - now + 0.01)
                state["taken"] += 1

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: patience.call(attempt), range(60)))
        assert state["refused"] < 60


class TestCircuit:
    def test_it_opens_after_failures_of_any_calls_and_for_good_after_probes(
        self, patience, clock, waits
    ):
        outcomes = []
        for _ in range(600):
            with pytest.raises(GaveUp) as caught:
                patience.call(always("unavailable"))
            outcomes.append(caught.value)
        assert patience.calls == MAX_STRAIGHT + 3
        assert [seconds for seconds, _ in waits] == [2.0, 4.0, 8.0]
        assert isinstance(outcomes[-1], Stopped)
        assert str(outcomes[-1]) == "the server keeps failing: it is unavailable"
        assert clock.now - 100 < 60

    def test_an_answer_closes_it(self, patience, waits):
        for _ in range(3):
            with pytest.raises(GaveUp):
                patience.call(Script(*failing("timeout", ATTEMPTS)))
            assert patience.call(Script(*failing("timeout", 4))) == "answer"
        assert [seconds for seconds, _ in waits] == [2.0, 4.0, 8.0] * 3

    def test_rate_limits_never_open_it(self, clock, waits):
        patience = Patience(
            on_wait=lambda *_: waits.append(_), rate_limit_s=1e9, clock=clock, sleep=clock.sleep
        )
        with pytest.raises(GaveUp) as caught:
            patience.call(always("rate_limited"))
        assert not isinstance(caught.value, Stopped)
        assert patience.calls == MOST_ATTEMPTS
        pauses = [seconds for seconds, _ in waits]
        assert pauses[:3] == [0.1, 0.2, 0.4]
        assert pauses == sorted(pauses)
        assert pauses[-1] == MAX_BACKOFF_S
        assert patience.call(Script()) == "answer"

    def test_a_server_that_is_busy_for_a_minute_loses_nobody(self):
        """One that refuses all calls for 60 s without a word how long, on a fast clock."""
        start = time.monotonic()

        def clock():
            return (time.monotonic() - start) * 40

        patience = Patience(clock=clock, sleep=lambda seconds: time.sleep(seconds / 40))

        def attempt():
            if clock() < 60:
                raise CallError("too many", "rate_limited")
            return "answer"

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda _: patience.call(attempt), range(200)))
        assert found == ["answer"] * 200

    def test_one_probe_at_a_time(self):
        patience = Patience(clock=lambda: time.monotonic() * 20)
        lock = threading.Lock()
        state = {"probes": 0, "probing": 0, "most": 0}

        def attempt():
            is_probe = patience._is_open
            with lock:
                state["probes"] += is_probe
                state["probing"] += is_probe
                state["most"] = max(state["most"], state["probing"])
                fails = state["probes"] < 3
            time.sleep(0.02)
            with lock:
                state["probing"] -= is_probe
            if fails:
                raise CallError("down", "unavailable")
            return True

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: patience.call(attempt), range(8)))
        assert all(found)
        assert state["probes"] == 3
        assert state["most"] == 1

    def test_a_server_that_always_fails_costs_seconds(self):
        """600 calls of 16 threads, on a clock that runs twenty times as fast."""
        start = time.monotonic()

        def clock():
            return (time.monotonic() - start) * 20

        patience = Patience(clock=clock, sleep=lambda seconds: time.sleep(seconds / 20))

        def call(_):
            try:
                patience.call(always("unavailable"))
            except GaveUp as error:
                return type(error)

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(call, range(600)))
        assert clock() < 60
        assert found.count(Stopped) >= 580
        assert patience.calls <= MAX_STRAIGHT + 16 + 3


class TestNothingButRateLimits:
    @pytest.mark.parametrize(("after", "most"), [(None, 60), (0.0, 600), (30.0, 6), (86_400.0, 2)])
    def test_they_end_all_after_two_minutes(self, patience, clock, after, most):
        outcomes = []
        for _ in range(100):
            with pytest.raises(GaveUp) as caught:
                patience.call(always("rate_limited", after))
            outcomes.append(caught.value)
        assert clock.now - 100 <= RATE_LIMIT_S + 51
        assert patience.calls <= most
        assert isinstance(outcomes[-1], Stopped)
        assert "answered nothing for 120 s: it is rate_limited" in str(outcomes[-1])

    def test_other_failures_between_them_are_no_answer(self, patience):
        kinds = ["rate_limited", "timeout"] * 400
        script = Script(*(CallError("no", kind) for kind in kinds))
        why = None
        while why is None:
            try:
                with suppress_gave_up():
                    patience.call(script)
            except Stopped as error:
                why = str(error)
        assert "answered nothing" in why

    @pytest.mark.parametrize("answer", [[], failing("rejected")])
    def test_an_answer_begins_anew(self, patience, clock, answer):
        for _ in range(20):
            patience.call(Script(*failing("rate_limited", 3, 20.0)))
            with suppress_gave_up():
                patience.call(Script(*answer))
        assert clock.now - 100 > 5 * RATE_LIMIT_S

    def test_a_long_answer_on_its_way_is_waited_for(self, clock):
        patience = Patience(clock=clock, sleep=clock.sleep)
        began, ends = threading.Event(), threading.Event()

        def long():
            began.set()
            ends.wait(10)
            return "answer"

        with ThreadPoolExecutor(2) as pool:
            on_way = pool.submit(patience.call, long)
            began.wait(10)
            script = Script(*failing("rate_limited", 1, MAX_RETRY_AFTER_S))
            limited = pool.submit(patience.call, script)
            while clock.now - 100 < MAX_RETRY_AFTER_S:
                time.sleep(0.01)
            time.sleep(0.3)
            assert not limited.done()  # one at a time, after a rate limit
            ends.set()
            assert on_way.result(10) == limited.result(10) == "answer"
        assert patience.call(Script()) == "answer"

    def test_they_end_many_threads_too(self):
        start = time.monotonic()

        def clock():
            return (time.monotonic() - start) * 100

        patience = Patience(clock=clock, sleep=lambda seconds: time.sleep(seconds / 100))

        def call(_):
            with pytest.raises(GaveUp) as caught:
                patience.call(always("rate_limited", 20.0))
            return caught.type

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(call, range(200)))
        assert found[-1] is Stopped
        assert clock() < 3 * RATE_LIMIT_S


class TestStop:
    def test_it_ends_waits_and_lets_nothing_begin(self):
        patience = Patience()
        ended = []

        def work():
            with pytest.raises(Stopped, match="^another question failed$"):
                patience.call(always("rate_limited", 60.0))
            ended.append(time.monotonic())

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while patience.calls == 0:
            time.sleep(0.01)
        asked = time.monotonic()
        patience.stop("another question failed")
        patience.stop("the first reason stays")
        for thread in threads:
            thread.join(5)
        assert len(ended) == 4
        assert max(ended) - asked < 1
        with pytest.raises(Stopped, match="^another question failed$"):
            patience.call(pytest.fail)

    def test_an_answer_on_its_way_is_taken(self, patience):
        def attempt():
            patience.stop("no more")
            return "paid"

        assert patience.call(attempt) == "paid"
        with pytest.raises(Stopped, match="no more"):
            patience.call(Script())


class TestCancel:
    @pytest.mark.parametrize("after", [None, 60.0])
    def test_a_wait_ends_at_once(self, after):
        cancel = CancelToken()
        patience = Patience(cancel=cancel)
        ended = []

        def work():
            with pytest.raises(Cancelled):
                patience.call(always("rate_limited", after))
            ended.append(time.monotonic())

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        asked = time.monotonic()
        cancel.cancel()
        for thread in threads:
            thread.join(5)
        assert len(ended) == 4
        assert max(ended) - asked < 1

    def test_nothing_is_called_after_it(self):
        cancel = CancelToken()
        cancel.cancel()
        with pytest.raises(Cancelled):
            Patience(cancel=cancel).call(pytest.fail)

    def test_what_is_fatal_ends_the_waits_of_others(self):
        patience = Patience()
        ended = []

        def work():
            with pytest.raises(Stopped):
                patience.call(always("rate_limited", 60.0))
            ended.append(True)

        waiting = threading.Thread(target=work)
        waiting.start()
        while patience.calls == 0:
            time.sleep(0.01)
        patience.stop("no")
        waiting.join(2)
        assert ended
