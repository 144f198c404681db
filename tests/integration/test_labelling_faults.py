"""Labelling when much goes wrong at once: it ends, within its budget, and counts what it cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster import Run
from gpucluster.errors import GpuclusterWarning
from gpucluster.events import CancelToken, Event, Progress
from gpucluster.labeling.asking.asker import Asker
from gpucluster.labeling.asking.audit import Audit
from gpucluster.labeling.asking.cache import ReplyCache
from gpucluster.labeling.asking.spending import Budget, Usage
from gpucluster.labeling.fake_server import FakeServer
from gpucluster.labeling.model.client import open_model
from gpucluster.labeling.question.presigner import Presigner
from gpucluster.labeling.question.prompts import asked_shape
from gpucluster.labeling.settings import LabelingSettings
from tests.helpers.topics import by, documents, planted, topic_run

PRICES = {"input": 1.0, "output": 2.0}


def billed_usd(server: FakeServer) -> float:
    return sum(sent * 1.0 + answered * 2.0 for _, sent, answered in server.billed) / 1e6


@pytest.mark.parametrize("seed", range(3))
def test_rate_limits_timeouts_and_a_budget_leave_nobody_waiting(tmp_path: Path, seed: int) -> None:
    run = planted(tmp_path, 40)
    faults = {"rate_limited": 0.3, "timeout": 0.3}
    found: list[Run] = []
    with FakeServer(faults=faults, seed=seed, hang_s=3, retry_after_s=0.2) as server:
        settings = by(server, prices=PRICES, timeout_s=0.5)
        cancel = CancelToken()
        work = threading.Thread(
            target=lambda: found.append(
                gpucluster.label(run, settings, budget_usd=0.03, concurrency=8, cancel=cancel)
            ),
            daemon=True,
        )
        work.start()
        work.join(60)
        cancel.cancel()
        work.join(20)
    assert found, "it waits for ever"
    assert found[0].labeling.usage["usd"] <= 0.03
    assert billed_usd(server) <= 0.03


def test_a_longer_question_that_is_too_dear_leaves_the_others_alone(tmp_path: Path) -> None:
    run = planted(tmp_path, 60)
    with FakeServer(faults={"truncated": 0.25}, seed=1) as server:
        named = gpucluster.label(run, by(server, prices=PRICES), budget_usd=0.05, concurrency=1)
    assert named.labeling.counts["num_llm"] >= 50
    assert named.labeling.usage["usd"] <= 0.05
    assert "budget of 0.05 USD" in str(named.labeling.llm_labeling_errors)


class InterruptError(Exception):
    """What an observer ends a labelling with."""


def interrupting(after: int) -> Callable[[Event], None]:
    """Return an observer that fails once so many clusters have names."""

    def observer(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "label.ask" and event.done > after:
            raise InterruptError

    return observer


def test_prices_that_are_set_later_count_for_what_was_spent_before(tmp_path: Path) -> None:
    run = planted(tmp_path, 30)
    with FakeServer() as server:
        with pytest.raises(InterruptError):
            gpucluster.label(run, by(server), observer=interrupting(10))
        assert len(server.billed) >= 10
        dear = {name: 1000 * price for name, price in PRICES.items()}
        named = gpucluster.label(run, by(server, prices=dear), budget_usd=1e6).labeling
        assert len(server.billed) == 30
    assert named.usage["usd"] == pytest.approx(1000 * billed_usd(server))


def test_answers_that_are_thrown_away_are_counted(tmp_path: Path) -> None:
    run = planted(tmp_path, 30)
    with FakeServer(faults={"garbled": 0.4}, seed=2) as server:
        named = gpucluster.label(run, by(server, prices=PRICES)).labeling
    assert named.counts["num_llm"] == 30
    assert named.usage["late"] == server.faults["garbled"] > 5
    assert named.usage["usd"] >= billed_usd(server)


@pytest.mark.parametrize("seed", range(3))
def test_texts_that_were_embedded_are_not_embedded_again(tmp_path: Path, seed: int) -> None:
    with (
        FakeServer(faults={"server_error": 0.5}, seed=seed) as server,
        Audit(tmp_path / "audit") as audit,
        closing(ReplyCache(tmp_path / "cache", "lab", 0)) as cache,
    ):
        settings = LabelingSettings(
            base_url=server.base_url,
            model_name="m",
            embedding_model="e",
            prices={"input": 1, "output": 1},
        )
        model, budget = open_model(settings), Budget(1.0, Usage())
        asker = Asker(
            settings=settings,
            shape=asked_shape(settings),
            model=model,
            cache=cache,
            budget=budget,
            audit=audit,
            presigner=Presigner(()),
            concurrency=1,
            cancel=CancelToken(),
            on_wait=lambda *_: None,
        )
        texts = [f"text number {i} of some length" for i in range(300)]
        assert asker.embed(texts).shape == (300, 256)
        model.close()
    assert len(server.billed) == 4
    assert asker.embed([]).shape == (0, 0)
    assert budget.spent.embedding_tokens == pytest.approx(
        sum(sent for _, sent, _ in server.billed), rel=0.2
    )


def mute(tmp_path: Path) -> Run:
    """Return a run with a cluster of which no document has a text."""
    rows = documents()
    texts = [
        None if topic == "play music" else text
        for topic, text in zip(rows["topic"].to_pylist(), rows["text"].to_pylist(), strict=True)
    ]
    pq.write_table(rows.set_column(1, "text", pa.array(texts)), tmp_path / "docs.parquet")
    return topic_run(tmp_path)


def test_a_cluster_without_texts_is_no_failure_of_the_model(tmp_path: Path) -> None:
    run = mute(tmp_path)
    with FakeServer() as server, pytest.warns(GpuclusterWarning, match="nobody was asked"):
        named = gpucluster.label(run, by(server)).labeling
    assert named.llm_labeling_errors == ()
    assert named.counts["num_fallback"] == 1


def test_a_labelling_that_came_to_its_end_is_asked_anew_by_fresh(tmp_path: Path) -> None:
    run = topic_run(tmp_path)
    counts = []
    with FakeServer(faults={"refused": 1.0}) as server:
        for fresh in (False, True, True):
            before = server.calls
            named = gpucluster.label(run, by(server), fresh=fresh).labeling
            assert named.counts["num_fallback"] == 6
            assert len(named.llm_labeling_errors) == 1
            counts.append(server.calls - before)
    assert counts == [18, 18, 18]


def test_the_estimate_is_that_of_the_first_attempt(tmp_path: Path) -> None:
    run = topic_run(tmp_path)
    with FakeServer() as server:
        settings = by(server, prices=PRICES)
        told = gpucluster.estimate_labels(run, settings).to_json()
        first = gpucluster.label(run, settings, budget_usd=0.004, concurrency=1).labeling
        assert first.counts["num_fallback"] > 0
        again = gpucluster.label(run, settings).labeling
    assert again.counts["num_fallback"] == 0
    assert first.estimate == again.estimate == told


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    run = planted(tmp_path, 40, at=dict.fromkeys(range(240), "the very same words"))
    with FakeServer(latency_s=0.1) as server:
        gpucluster.label(run, by(server), concurrency=8)
        assert server.paid_repeats == 0


def test_an_observer_that_fails_ends_it_at_once(tmp_path: Path) -> None:
    """Nobody waits for the pauses that the server has asked others for."""
    run, failed = planted(tmp_path, 60), []
    interrupt = interrupting(3)

    def observer(event: Event) -> None:
        try:
            interrupt(event)
        except InterruptError:
            failed.append(time.monotonic())
            raise

    with FakeServer(faults={"rate_limited": 0.5}, retry_after_s=5, seed=1) as server:
        with pytest.raises(InterruptError):
            gpucluster.label(run, by(server), observer=observer, concurrency=16)
        assert time.monotonic() - failed[0] < 4
        assert server.calls < 60


def test_the_arguments_of_a_command_are_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\ncat > /dev/null\necho "{\\"label\\": \\"Name $$\\"}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("GPUCLUSTER_LABEL_COMMAND", f"{program} --api-key sk-abcdef1234567890")
    run = topic_run(tmp_path)
    settings: dict[str, Any] = {"include_summary": False, "include_keywords": False}
    named = gpucluster.label(run, provider="command", **settings)
    assert named.labeling.counts["num_llm"] == 6
    files = [file for file in run.path.parent.rglob("*") if file.is_file()]
    assert not [file for file in files if b"sk-abcdef1234567890" in file.read_bytes()]
