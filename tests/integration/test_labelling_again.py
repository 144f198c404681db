"""Naming a run once more: what holds, what is asked again, and what is lost to nobody's fault."""

from __future__ import annotations

import functools
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster.artifacts import LocalStore, Run
from gpucluster.errors import ConfigError, DiskFullError, GpuclusterWarning
from gpucluster.events import Event, StageStarted
from gpucluster.labeling.fake_server import FakeServer
from gpucluster.labeling.fake_server.answers import embedding
from gpucluster.labeling.model.failures import CallError
from gpucluster.labeling.model.over_http import HttpModel
from gpucluster.naming import label_run
from tests.helpers.faults import KILLS, Faulty, due, is_killed, temporary_files
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
    counted = ("calls", "input_tokens", "output_tokens", "usd")
    assert [other.labeling.usage[name] for name in counted] == [
        first.labeling.usage[name] for name in counted
    ]


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


def test_documents_that_change_while_they_are_named_are_named_anew(
    tmp_path: Path, server: FakeServer
) -> None:
    run = topic_run(tmp_path)
    rows = documents()
    texts = pa.array([f"{text} edited" for text in rows["text"].to_pylist()])

    def observer(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "label.write":
            pq.write_table(rows.set_column(1, "text", texts), tmp_path / "docs.parquet")

    gpucluster.label(run, by(server), observer=observer)
    n_calls = server.calls
    gpucluster.label(run, by(server))
    assert server.calls >= n_calls + 6  # clusters that clash are asked about twice


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


@pytest.mark.parametrize("fault", ["rejected", "malformed", "refused"])
@pytest.mark.parametrize("ttl_s", [0, 86_400])
def test_a_cluster_that_is_never_named_costs_the_others_nothing(
    tmp_path: Path, fault: str, ttl_s: int
) -> None:
    run = planted(tmp_path, 12)
    with FakeServer(faults={fault: 0.5}, seed=3) as server:
        settings = by(server, prices=PRICES, cache_ttl_seconds=ttl_s)
        usd = 0.0
        for _ in range(3):
            named = gpucluster.label(run, settings, budget_usd=0.02).labeling
            assert named.usage["usd"] >= usd
            usd = named.usage["usd"]
        billed = sum(sent + 2 * answered for _, sent, answered in server.billed) / 1e6
        assert billed <= usd + 1e-9 <= 0.02
        answered = [body for body in server.billed if body[2] > 20]
        assert named.counts["num_llm"] <= 12
        assert len(answered) <= 3 * 12


def test_what_was_paid_survives_when_nothing_can_be_published(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise DiskFullError("no space is left")

    run = planted(tmp_path, 10)
    settings = by(server, cache_ttl_seconds=0)
    for fresh, expected in ((False, 10), (True, 20)):
        with monkeypatch.context() as patched:
            patched.setattr("gpucluster.naming.label_run.write_labels", full)
            with pytest.raises(DiskFullError):
                gpucluster.label(run, settings, fresh=fresh)
        gpucluster.label(run, settings, fresh=fresh)
        assert len(server.billed) == expected
    assert server.paid_repeats == 10  # by the fresh one, once


def test_names_that_were_paid_once_are_not_paid_by_any_later_command(
    tmp_path: Path, server: FakeServer
) -> None:
    run = planted(tmp_path, 10)
    settings = by(server, cache_ttl_seconds=0)
    gpucluster.label(run, settings, fresh=True)
    gpucluster.label(run, settings)
    gpucluster.label(run, settings, embedder=of_words)
    with pytest.warns(GpuclusterWarning, match="no confidence was measured"):
        gpucluster.label(run, settings, embedder=lambda _: 1 / 0)
    gpucluster.label(run, settings, embedder=of_words)
    gpucluster.label(run, settings)
    (tmp_path / "docs.parquet").touch()
    gpucluster.label(run, settings)
    assert len(server.billed) == 10


def test_a_fresh_labelling_that_came_to_its_end_is_followed_by_another(
    tmp_path: Path, server: FakeServer
) -> None:
    run = planted(tmp_path, 10)
    settings = by(server)
    for _ in range(3):
        with pytest.warns(GpuclusterWarning, match="no confidence was measured"):
            gpucluster.label(run, settings, embedder=lambda _: 1 / 0, fresh=True)
    assert len(server.billed) == 30
    cheap = by(server, prices=PRICES)
    stopped = gpucluster.label(run, cheap, fresh=True, budget_usd=0.003, concurrency=1).labeling
    assert stopped.llm_labeling_errors
    n_billed = len(server.billed)
    assert n_billed > 30
    left = gpucluster.label(run, cheap).labeling  # without it: what was paid at any time will do
    assert left.llm_labeling_errors == ()
    assert len(server.billed) == n_billed


def test_names_that_were_kept_are_no_names_of_the_model_that_failed(
    tmp_path: Path, server: FakeServer
) -> None:
    first = topic_run(tmp_path)
    gpucluster.label(first, by(server))
    other = by(server) | {"model_name": "another"}
    kept = gpucluster.label(first, other | {"base_url": server.base_url + "/wrong"}).labeling
    assert kept.counts["num_llm"] == 6
    assert len(kept.not_named) == 6
    settings = other | {"base_url": server.base_url + "/wrong"}
    pq.write_table(documents(246), tmp_path / "docs.parquet")
    later = topic_run(tmp_path)
    assert later.run_id != first.run_id
    named = gpucluster.label(later, settings).labeling
    assert named.counts["num_reused"] == 0
    assert named.counts["num_fallback"] == 6


def test_equal_clusters_share_what_becomes_of_their_question(tmp_path: Path) -> None:
    same = dict.fromkeys(range(120), "the very same words")
    run = planted(tmp_path, 30, at=same)
    with FakeServer(faults={"malformed": 0.9}, seed=2) as server:
        gpucluster.label(run, by(server), concurrency=4)
        asked = {digest for digest, *_ in server.billed}
        assert len(server.billed) <= 3 * len(asked)
    with FakeServer(faults={"server_error": 0.3}, seed=2) as server:
        named = gpucluster.label(run, by(server), concurrency=4, fresh=True).labeling
        assert named.counts["num_fallback"] == 0


def test_missing_credentials_are_said_before_anything_is_asked(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    image = {"input_key": "image_url", "source_type": "blob", "path": "0.url"}
    settings = by(server) | {"presign_prefixes": ["s3://my-bucket/x"]}
    settings["labeling_inputs"] = {
        "input_mappings": [*settings["labeling_inputs"]["input_mappings"], image]
    }
    run = topic_run(tmp_path)
    with pytest.raises(ConfigError, match=r"presign_prefixes: addresses in the bucket my-bucket"):
        gpucluster.label(run, settings)
    assert server.calls == 0


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


@pytest.mark.parametrize("fault", KILLS)
def test_killed_at_every_durable_operation_a_run_has_its_old_names_or_the_new_ones(
    tmp_path: Path, fault: str
) -> None:
    """Offline, so that nothing but the store is met."""
    before = gpucluster.label(topic_run(tmp_path))
    mapped = {"input_key": "text", "source_type": "payload", "path": "metadata.source"}
    titles = {"input_mappings": [mapped]}

    def name(out: Path, durable: Faulty | None = None) -> Run:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(label_run, "open_store", lambda root: LocalStore(root, durable))
            return gpucluster.label(out / before.run_id, labeling_inputs=titles)

    def names(run: Run) -> list[list[str]]:
        return run.centroids["keywords"].to_pylist()

    def copied(out: Path) -> Path:
        return Path(shutil.copytree(before.path.parent, out))

    counter = Faulty()
    after = name(copied(tmp_path / "whole"), counter)
    assert names(after) != names(before)
    numbers, seen = due(counter.operations, fault), Counter[str]()
    for n in numbers:
        out = copied(tmp_path / str(n))
        assert is_killed(functools.partial(name, out, Faulty(n, fault)))
        found = Run.open(out / before.run_id, verify=True)
        assert found.manifest.content_sha256 == before.manifest.content_sha256
        assert names(found) in (names(before), names(after))
        seen["old" if names(found) == names(before) else "new"] += 1
        assert names(name(out)) == names(after)
        assert len(list((out / before.run_id / "labels").glob("labels-*.parquet"))) <= 2
        assert len(temporary_files(out)) <= 1
    print(f"\n{fault}: {len(numbers)} of {len(counter.operations)} operations, {dict(seen)}")  # noqa: T201
    assert seen["old"]
