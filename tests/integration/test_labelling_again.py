"""Naming a run once more: what holds, what is asked again, and what is lost to nobody's fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster.errors import ConfigError, GpuclusterWarning
from gpucluster.labeling.fake_server import FakeServer
from gpucluster.labeling.fake_server.answers import embedding
from gpucluster.labeling.model.failures import CallError
from gpucluster.labeling.model.over_http import HttpModel
from tests.helpers.topics import by, documents, planted, topic_run
from tests.integration.test_labelling_faults import InterruptError, interrupting

PRICES = {"input": 1.0, "output": 2.0}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


def asked_by(server: FakeServer, **fields: Any) -> dict[str, Any]:
    """Return settings that map no inputs."""
    return {"base_url": server.base_url, "model_name": "fake", "prices": PRICES, **fields}


def test_a_column_that_was_named_holds_for_the_same_command_without_it(
    tmp_path: Path, server: FakeServer
) -> None:
    run = planted(tmp_path, 20)
    settings = asked_by(server, cache_ttl_seconds=0)
    first = gpucluster.label(
        run, **settings, text_column="text", budget_usd=0.01, concurrency=1
    ).labeling
    assert first.counts["num_fallback"] > 0
    n_billed = len(server.billed)
    again = gpucluster.label(run, budget_usd=0.01).labeling
    assert again.labeling_id == first.labeling_id
    assert len(server.billed) == n_billed
    assert again.usage["usd"] <= 0.01
    done = gpucluster.label(run).labeling
    assert done.counts["num_llm"] == 20
    assert len(server.billed) == 20


def test_vectors_that_came_to_nothing_are_tried_again_alone(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise CallError("there is no such model", "rejected")

    run = topic_run(tmp_path)
    settings = by(server, embedding_model="e", cache_ttl_seconds=0)
    with monkeypatch.context() as patched:
        patched.setattr(HttpModel, "embed", refuse)
        with pytest.warns(GpuclusterWarning, match="no confidence was measured"):
            named = gpucluster.label(run, settings)
    assert named.labeling.is_open
    assert named.centroids["label_confidence"].null_count == 6
    n_calls = server.calls
    again = gpucluster.label(run, settings)
    assert not again.labeling.is_open
    assert again.centroids["label_confidence"].null_count == 0
    assert again.labeling.usage["cached"] == 6
    assert server.calls - n_calls <= 2


def of_noise(texts: Any) -> Any:
    return np.array([np.random.default_rng(list(text.encode())).normal(size=8) for text in texts])


def of_words(texts: Any) -> Any:
    return np.array([embedding(text) for text in texts])


@pytest.mark.parametrize("settings", [{}, {"cache_ttl_seconds": 0}])
def test_another_function_measures_anew_and_asks_nobody(
    tmp_path: Path, server: FakeServer, settings: dict[str, Any]
) -> None:
    run = topic_run(tmp_path)
    first = gpucluster.label(run, by(server, **settings), embedder=of_noise)
    before = first.centroids  # read now
    n_calls = server.calls
    other = gpucluster.label(run, by(server, **settings), embedder=of_words)
    assert server.calls == n_calls
    assert other.centroids["label"].equals(before["label"])
    assert not other.centroids["label_confidence"].equals(before["label_confidence"])
    assert other.labeling.usage == first.labeling.usage


def test_an_embedder_of_keywords_may_be_changed_too(tmp_path: Path) -> None:
    run = topic_run(tmp_path)
    before = gpucluster.label(run, embedder=of_noise).centroids
    other = gpucluster.label(run, embedder=of_words)
    assert other.centroids["label"].equals(before["label"])
    assert not other.centroids["label_confidence"].equals(before["label_confidence"])


def test_names_that_were_paid_are_not_lost_to_a_server_that_fails(
    tmp_path: Path, server: FakeServer
) -> None:
    run = planted(tmp_path, 20)
    first = gpucluster.label(run, by(server)).centroids["label"]
    wrong = by(server) | {"base_url": server.base_url + "/wrong"}
    named = gpucluster.label(run, wrong, fresh=True)
    assert named.centroids["label"].equals(first)
    assert len(named.labeling.llm_labeling_errors) == 1
    assert named.labeling.counts["num_llm"] == 20


def test_rows_that_were_added_behind_do_no_harm(tmp_path: Path, server: FakeServer) -> None:
    run = topic_run(tmp_path)
    before = gpucluster.label(run, by(server)).centroids["label"]
    more = documents(30, seed=9)
    pq.write_table(pa.concat_tables([documents(), more]), tmp_path / "docs.parquet")
    for settings in (by(server), {"provider": "keywords"}):
        named = gpucluster.label(run, settings)
        assert named.labeling.llm_labeling_errors == ()
    assert gpucluster.label(run, by(server)).centroids["label"].equals(before)


def test_an_estimate_knows_what_is_done_and_what_was_begun(
    tmp_path: Path, server: FakeServer
) -> None:
    run = planted(tmp_path, 20)
    settings = by(server, cache_ttl_seconds=0)
    gpucluster.label(run, settings)
    assert gpucluster.estimate_labels(run, settings).calls == 0
    assert gpucluster.estimate_labels(run, settings, fresh=True).calls == 20
    with pytest.raises(InterruptError):
        gpucluster.label(run, settings, fresh=True, observer=interrupting(8), concurrency=1)
    left = gpucluster.estimate_labels(run, settings, fresh=True).calls
    n_calls = server.calls
    assert 0 < left < 13
    gpucluster.label(run, settings, fresh=True)
    assert server.calls - n_calls == left


def test_a_server_that_cannot_count_is_not_believed(tmp_path: Path) -> None:
    run = topic_run(tmp_path)
    with FakeServer() as server:
        bill = server._bill

        def absurd(*args: Any) -> Any:
            bill(*args)
            return {"prompt_tokens": 10**30, "completion_tokens": -5}

        server._bill = absurd  # type: ignore[method-assign]
        named = gpucluster.label(run, by(server)).labeling
    assert named.counts["num_llm"] == 6
    assert 100 < named.usage["input_tokens"] < 100_000


WRONG: dict[str, dict[str, Any]] = {
    "settings": {"settings": "keywords"},
    "settings.": {"settings": 5},
    "budget_usd": {"budget_usd": "1"},
    "budget_usd.": {"budget_usd": True},
    "concurrency": {"concurrency": "4"},
    "concurrency.": {"concurrency": 4.5},
    "text_column": {"text_column": 4},
    "text_column.": {"text_column": ["text"]},
    "embedder": {"embedder": "bge"},
    "llm_labeling.base_url": {"base_url": "http://localhost:1/v1?key=abc12345", "model_name": "m"},
    "llm_labeling.base_url.": {"base_url": "http://localhost:1/v1#abc12345", "model_name": "m"},
}


@pytest.mark.parametrize("path", WRONG)
def test_what_is_of_a_wrong_kind_is_said_by_its_name(tmp_path: Path, path: str) -> None:
    run = topic_run(tmp_path)
    with pytest.raises(ConfigError, match=f"^{path.rstrip('.')}: ") as caught:
        gpucluster.label(run, **WRONG[path])
    assert "abc12345" not in str(caught.value)
    assert "\n" not in str(caught.value)
