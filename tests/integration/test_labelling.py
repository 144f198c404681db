"""Names for the clusters of a run: offline, by a model, and when the model fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster import Run
from gpucluster.artifacts.labels import LABELS
from gpucluster.errors import (
    BackendUnavailableError,
    Cancelled,
    ConfigError,
    CorruptArtifactError,
    RunLockedError,
    SchemaMismatchError,
    SourceError,
    SourceNotFoundError,
)
from gpucluster.events import CancelToken, Progress
from gpucluster.labeling.fake_server import FakeServer
from tests.helpers.topics import TOPICS, by, documents, topic_run

PRICES = {"input": 1.0, "output": 2.0}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


def topic_of(run: Run) -> dict[str, str]:
    """Return the topic of each cluster."""
    truth = dict(
        zip(*documents().select(["document_id", "topic"]).to_pydict().values(), strict=True)
    )
    medoids = run.centroids.select(["cluster_id", "medoid_document_id"]).to_pylist()
    return {row["cluster_id"]: truth[row["medoid_document_id"]] for row in medoids}


def lines(run: Run) -> list[dict[str, Any]]:
    """Return the audit file."""
    text = (run.path / "labels" / run.labeling.audit).read_text()
    return [json.loads(line) for line in text.splitlines()]


# Offline


def test_offline_names_say_the_topic(tmp_path: Path) -> None:
    run = gpucluster.label(topic_run(tmp_path))
    for cluster, topic in topic_of(run).items():
        label = run.cluster_labels[cluster].casefold()
        assert any(word in label for word in topic.split()), (label, topic)
    assert run.cluster_labels["-1"] == "Unclustered"
    counts = run.labeling.counts
    assert (counts["num_clusters"], counts["num_keywords"], counts["num_llm"]) == (6, 6, 0)
    assert run.labeling.usage is None


def test_names_lie_beside_the_run_which_stays_as_it_is(tmp_path: Path) -> None:
    run = topic_run(tmp_path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    unnamed = run.centroids
    named = run.label()
    assert all(path.read_bytes() == content for path, content in before.items())
    assert unnamed["label"].null_count == 6
    assert named.centroids["label"].null_count == 0
    assert set(LABELS.names) <= set(named.centroids.column_names)
    table = pq.read_table(named.path / "labels" / named.labeling.table)
    assert table.schema.equals(LABELS)
    Run.open(run.path, verify=True)


def test_naming_again_returns_what_is_finished(tmp_path: Path) -> None:
    run = gpucluster.label(topic_run(tmp_path))
    again = gpucluster.label(run.path)
    assert again.labeling == run.labeling
    other = gpucluster.label(run.path, include_summary=False)
    assert other.labeling.labeling_id != run.labeling.labeling_id
    assert other.centroids["summary"].null_count == 6
    files = sorted(path.name for path in (run.path / "labels").iterdir())
    assert files == [other.labeling.table, "labels.json"]


def test_a_definition_with_the_block_is_named_at_once(tmp_path: Path) -> None:
    run = topic_run(tmp_path, llm_labeling={})
    assert run.centroids["label"].null_count == 0
    other = topic_run(tmp_path)
    assert other.run_id == run.run_id  # names decide no cluster


def test_inherited_names_come_back_when_a_run_follows_another(tmp_path: Path) -> None:
    first = topic_run(tmp_path, cluster_name="topics", llm_labeling={})
    rows = pa.concat_tables([documents(), documents(30, seed=5)])
    pq.write_table(rows, tmp_path / "docs.parquet")
    second = topic_run(tmp_path, cluster_name="topics", llm_labeling={})
    assert second.manifest.lineage["previous_run_id"] == first.run_id
    assert second.labeling.counts["num_reused"] == 6
    assert set(second.centroids["label_reused_from"].to_pylist()) == {first.run_id}
    by_stable = [
        dict(zip(*run.centroids.select(["stable_id", "label"]).to_pydict().values(), strict=True))
        for run in (first, second)
    ]
    assert by_stable[0] == by_stable[1]


def test_rows_that_join_come_under_the_names(tmp_path: Path) -> None:
    base = gpucluster.label(topic_run(tmp_path))
    pq.write_table(documents(30, seed=7), tmp_path / "new.parquet")
    joined = base.assign(tmp_path / "new.parquet")
    assert joined.centroids["label"].to_pylist() == base.centroids["label"].to_pylist()
    with pytest.raises(ConfigError, match="has joined the clusters of"):
        gpucluster.label(joined)


def test_a_damaged_table_of_names_is_said(tmp_path: Path) -> None:
    run = gpucluster.label(topic_run(tmp_path))
    path = run.path / "labels" / run.labeling.table
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptArtifactError, match="label the run again"):
        _ = Run.open(run.path).centroids
    with pytest.raises(CorruptArtifactError):
        Run.open(run.path, verify=True)


def test_moved_data_are_named_and_others_are_refused(tmp_path: Path) -> None:
    run = topic_run(tmp_path)
    moved = (tmp_path / "docs.parquet").rename(tmp_path / "moved.parquet")
    with pytest.raises(SourceNotFoundError):
        gpucluster.label(run)
    named = gpucluster.label(run, data=moved)
    assert named.labeling.counts["num_keywords"] == 6
    pq.write_table(documents(seed=3), tmp_path / "docs.parquet")
    with pytest.raises(SourceError, match="does not hold the documents of the run any more"):
        gpucluster.label(run, fresh=True)


def test_data_in_memory_are_given_once_more(tmp_path: Path) -> None:
    rows = documents()
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 6}}
    run = gpucluster.cluster(rows, settings, out=tmp_path, device="cpu", llm_labeling={})
    assert run.labeling.counts["num_keywords"] == 6
    with pytest.raises(SourceNotFoundError, match="were in memory"):
        gpucluster.label(run, fresh=True)
    assert gpucluster.label(run, data=rows, fresh=True).labeling.counts["num_keywords"] == 6


def test_vectors_alone_cannot_be_named(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 3}}
    with pytest.raises(SchemaMismatchError, match="nothing beside the vectors"):
        gpucluster.cluster(X, settings, out=tmp_path, llm_labeling={})
    assert not list(tmp_path.glob("*/manifest.json"))
    run = gpucluster.cluster(X, settings, out=tmp_path)
    with pytest.raises(SchemaMismatchError):
        gpucluster.label(run, data=X)


def test_a_column_of_texts_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SchemaMismatchError, match="did you mean 'text'"):
        gpucluster.label(topic_run(tmp_path), text_column="txt")


def test_hierarchies_are_named_level_by_level(tmp_path: Path, server: FakeServer) -> None:
    fields = {"hierarchical": True, "algorithm_params": {"n_clusters": 2}, "min_split_size": 20}
    run = topic_run(tmp_path, **fields)
    assert run.manifest.hierarchy["levels"] > 1
    offline = gpucluster.label(run)
    known = offline.centroids["keywords"].to_pylist()
    for named in (offline, gpucluster.label(run, by(server))):
        rows = named.centroids.select(["label", "hierarchy_level"]).to_pylist()
        assert all(row["label"] for row in rows)
        labels = [row["label"].casefold() for row in rows]
        assert len(set(labels)) == len(labels)
    sent = [
        json.loads(
            line["messages"][1]["content"][0]["text"]
            if isinstance(line["messages"][1]["content"], list)
            else line["messages"][1]["content"]
        )
        for line in lines(named)
        if line["event"] == "sent"
    ]
    around = [question["part_of"] for question in sent if "part_of" in question]
    assert around
    assert all(words in known for words in around)


def test_a_cluster_without_words_is_no_name_for_its_parts(
    tmp_path: Path, server: FakeServer
) -> None:
    rows = documents()
    mute = pa.array(["?!"] * len(rows))
    pq.write_table(rows.set_column(1, "text", mute), tmp_path / "docs.parquet")
    fields = {"hierarchical": True, "algorithm_params": {"n_clusters": 2}, "min_split_size": 20}
    run = gpucluster.label(topic_run(tmp_path, **fields), by(server))
    assert max(run.centroids["hierarchy_level"].to_pylist()) > 0
    assert "documents" in sent(run)
    assert "part_of" not in sent(run)


def test_attributes_are_their_own_names(tmp_path: Path) -> None:
    pq.write_table(documents(), tmp_path / "docs.parquet")
    run = gpucluster.cluster(
        tmp_path / "docs.parquet",
        cluster_type="attribute",
        attribute_config={"attributes": ["topic"]},
        out=tmp_path / "out",
    )
    before = run.centroids["label"].to_pylist()
    named = gpucluster.label(run)
    assert named.centroids["label"].to_pylist() == before
    assert set(named.centroids["label_source"].to_pylist()) == {"attribute"}
    assert named.centroids["keywords"].null_count == 0


# By a model


def test_a_model_names_every_cluster_and_the_audit_says_how(
    tmp_path: Path, server: FakeServer
) -> None:
    run = gpucluster.label(topic_run(tmp_path), by(server, prices=PRICES))
    rows = run.centroids.to_pylist()
    assert {row["label_source"] for row in rows} == {"llm"}
    assert all(row["label"] and row["summary"] and row["keywords"] for row in rows)
    assert not run.labeling.llm_labeling_errors
    usage, estimate = run.labeling.usage, run.labeling.estimate
    assert usage["calls"] == server.calls == len(server.billed)
    assert usage["input_tokens"] == sum(sent for _, sent, _ in server.billed)
    assert usage["usd"] > 0
    assert estimate["calls"] == 6
    assert 0.5 < estimate["input_tokens"] / usage["input_tokens"] * usage["calls"] / 6 < 2
    events = [line["event"] for line in lines(run)]
    assert events.count("sent") == events.count("answered") == usage["calls"]


def test_what_is_answered_is_never_asked_again(tmp_path: Path, server: FakeServer) -> None:
    run = gpucluster.label(topic_run(tmp_path), by(server))
    calls = server.calls
    again = gpucluster.label(run, by(server, include_summary=True))
    assert (server.calls, again.labeling) == (calls, run.labeling)
    gpucluster.label(run, provider="keywords")  # in between
    back = gpucluster.label(run, by(server))
    assert server.calls == calls
    assert back.labeling.usage["cached"] >= 6
    gpucluster.label(run, by(server), fresh=True)
    assert server.calls == 2 * calls


def test_a_cache_of_no_seconds_still_holds_for_its_own_labelling(
    tmp_path: Path, server: FakeServer
) -> None:
    run = gpucluster.label(topic_run(tmp_path), by(server, cache_ttl_seconds=0))
    calls = server.calls
    gpucluster.label(run, provider="keywords")
    gpucluster.label(run, by(server, cache_ttl_seconds=0))
    assert server.calls == calls  # its own replies hold at any age


def test_an_edited_document_is_asked_about_again(tmp_path: Path, server: FakeServer) -> None:
    run = gpucluster.label(topic_run(tmp_path), by(server))
    calls = server.calls
    rows = documents()
    texts = [f"{text} edited" for text in rows["text"].to_pylist()]
    pq.write_table(rows.set_column(1, "text", pa.array(texts)), tmp_path / "docs.parquet")
    gpucluster.label(run, by(server))
    assert server.calls > calls


def test_an_estimate_asks_nobody_and_leaves_nothing(tmp_path: Path, server: FakeServer) -> None:
    run = topic_run(tmp_path)
    found = gpucluster.estimate_labels(run, by(server, prices=PRICES))
    assert (found.calls, server.calls) == (6, 0)
    assert found.usd == pytest.approx((found.input_tokens + 2 * found.output_tokens) / 1e6)
    assert not (run.path / "labels").exists()
    assert not list(run.path.parent.glob("*.sqlite*"))
    assert gpucluster.estimate_labels(run, by(server)).usd is None
    gpucluster.label(run, by(server))
    gpucluster.label(run, provider="keywords")
    assert gpucluster.estimate_labels(run, by(server)).calls == 0


def test_a_budget_is_kept_and_the_rest_gets_fallback_labels(
    tmp_path: Path, server: FakeServer
) -> None:
    run = topic_run(tmp_path)
    expected = gpucluster.estimate_labels(run, by(server, prices=PRICES))
    limit = expected.usd / 2 + 0.0025  # what a reply may cost at most is reserved
    named = gpucluster.label(run, by(server, prices=PRICES), budget_usd=limit, concurrency=4)
    assert 0 < named.labeling.usage["usd"] <= limit
    sources = named.centroids["label_source"].to_pylist()
    assert set(sources) == {"llm", "fallback"}
    [text] = named.labeling.llm_labeling_errors
    problem = json.loads(text)
    assert "budget" in problem["error"]
    assert len(problem["clusters"]) == sources.count("fallback")
    calls = server.calls
    done = gpucluster.label(run, by(server, prices=PRICES))  # with more, only the rest is paid
    assert set(done.centroids["label_source"].to_pylist()) == {"llm"}
    assert server.calls - calls < 6
    assert server.paid_repeats == 0


def test_names_that_clash_are_asked_for_again_and_told_apart_at_last(tmp_path: Path) -> None:
    pq.write_table(documents(topics=1), tmp_path / "docs.parquet")  # six clusters of one topic
    with FakeServer() as server:
        run = gpucluster.label(topic_run(tmp_path), by(server))
    labels = [label.casefold() for label in run.centroids["label"].to_pylist()]
    assert len(set(labels)) == 6
    forbidden = [
        line
        for line in lines(run)
        if line["event"] == "sent" and "forbidden_labels" in json.dumps(line["messages"])
    ]
    assert server.calls > 6
    assert forbidden


def test_alike_labels_are_merged_and_say_so(tmp_path: Path, server: FakeServer) -> None:
    settings = by(
        server,
        embedding_model="embed",
        use_embedding_dedup=True,
        embedding_similarity_threshold=0.5,
    )
    pq.write_table(documents(topics=2), tmp_path / "docs.parquet")
    run = gpucluster.label(topic_run(tmp_path), settings)
    rows = run.centroids.to_pylist()
    assert len({row["cluster_id"] for row in rows}) == 6
    merged = [row for row in rows if row["label_merged_from"]]
    assert merged
    assert run.labeling.counts["num_merged"] == len(merged)
    largest = {}
    for row in rows:
        largest.setdefault(row["label"], row)
    assert all(largest[row["label"]]["label_merged_from"] is None for row in merged)


def test_confidence_is_measured_by_held_out_members(tmp_path: Path, server: FakeServer) -> None:
    run = gpucluster.label(topic_run(tmp_path), by(server, embedding_model="embed"))
    sure = run.centroids["label_confidence"].to_pylist()
    assert np.mean(sure) > 0.8
    plain = gpucluster.label(run, by(server))
    assert plain.centroids["label_confidence"].null_count == 6

    def embedder(texts: list[str]) -> np.ndarray:
        words = [word for topic in TOPICS for word in topic.split()]
        return np.array([[word in text.casefold() for word in words] for text in texts], float)

    offline = gpucluster.label(run, provider="keywords", embedder=embedder)
    assert np.mean(offline.centroids["label_confidence"].to_pylist()) > 0.8


def test_images_and_blobs_reach_the_model(tmp_path: Path, server: FakeServer) -> None:
    mappings = [
        {"input_key": "text", "source_type": "payload", "path": "metadata.title"},
        {"input_key": "text", "source_type": "literal", "override": "Category: test"},
        {"input_key": "image_url", "source_type": "blob", "path": "0.url"},
        {"input_key": "image_url", "source_type": "blob", "path": "source_blobs.0.url"},
    ]
    run = gpucluster.label(
        topic_run(tmp_path), by(server, labeling_inputs={"input_mappings": mappings})
    )
    sent = next(line for line in lines(run) if line["event"] == "sent")
    parts = sent["messages"][1]["content"]
    assert "Category: test" in parts[0]["text"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert len(urls) == 5
    assert all(url.startswith("https://a.example/") for url in urls)
    assert run.labeling.missing_inputs["image_url"] >= 30


def test_without_mappings_the_payload_is_shown_but_no_vector_and_no_truth(
    tmp_path: Path, server: FakeServer
) -> None:
    pq.write_table(documents(), tmp_path / "docs.parquet")
    run = gpucluster.cluster(
        tmp_path / "docs.parquet",
        {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 6}},
        truth_column="topic",
        out=tmp_path / "out",
    )
    named = gpucluster.label(run, base_url=server.base_url, model_name="fake")
    text = json.dumps([line["messages"][1] for line in lines(named) if line["event"] == "sent"])
    assert "metadata" in text
    assert "embedding" not in text
    assert "topic" not in text


def test_a_shape_of_ones_own_is_kept_with_each_cluster(tmp_path: Path, server: FakeServer) -> None:
    shape = {"label": "string", "sentiment": "positive | negative | neutral", "audience": "string"}
    run = gpucluster.label(topic_run(tmp_path), by(server, response_shape=shape))
    for text in run.centroids["label_fields"].to_pylist():
        found = json.loads(text)
        assert set(found) == {"sentiment", "audience"}
        assert found["sentiment"] in {"positive", "negative", "neutral"}


# When it fails


@pytest.mark.parametrize("seed", [1, 2])
def test_a_faulty_server_costs_no_name_and_no_cent_twice(tmp_path: Path, seed: int) -> None:
    with FakeServer(faults=0.6, seed=seed, hang_s=3) as server:
        run = gpucluster.label(topic_run(tmp_path), by(server, timeout_s=1))
        assert server.faults
        assert server.paid_repeats == 0
    assert run.labeling.counts["num_llm"] == 6


def test_a_server_that_always_fails_leaves_fallback_labels(tmp_path: Path) -> None:
    with FakeServer(faults={"server_error": 1.0}) as server:
        begun = time.monotonic()
        run = gpucluster.label(topic_run(tmp_path), by(server))
        assert time.monotonic() - begun < 60
    assert set(run.centroids["label_source"].to_pylist()) == {"fallback"}
    assert run.centroids["label"].null_count == 0
    assert run.labeling.llm_labeling_errors
    for text in run.labeling.llm_labeling_errors:
        assert set(json.loads(text)) == {"error", "clusters"}


@pytest.mark.parametrize("kind", ["quota", "unauthorized"])
def test_what_no_patience_helps_is_said_at_once(tmp_path: Path, kind: str) -> None:
    with FakeServer(faults={kind: 1.0}) as server:
        run = gpucluster.label(topic_run(tmp_path), by(server), concurrency=1)
        assert server.calls == 1
    assert set(run.centroids["label_source"].to_pylist()) == {"fallback"}


def test_failed_names_are_asked_for_again_and_others_not(tmp_path: Path) -> None:
    run = topic_run(tmp_path)
    with FakeServer(faults={"server_error": 1.0}) as server:
        port = int(server.base_url.split(":")[2].split("/")[0])
        gpucluster.label(run, by(server))
    with FakeServer(port=port) as server:
        named = gpucluster.label(run, by(server))
    assert set(named.centroids["label_source"].to_pylist()) == {"llm"}


def test_nothing_runs_without_key_library_or_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    run = topic_run(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        gpucluster.label(run, model_name="gpt-4o")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        topic_run(tmp_path, llm_labeling={"model_name": "gpt-4o"}, random_state=9)
    assert len(list(run.path.parent.glob("*/manifest.json"))) == 1
    with pytest.raises(ConfigError, match="prices"):
        gpucluster.label(run, by(server), budget_usd=1)
    for wrong in ({"budget_usd": 0}, {"concurrency": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            gpucluster.label(run, by(server, prices=PRICES), **wrong)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(BackendUnavailableError, match=r"gpucluster\[llm\]"):
        gpucluster.label(run, by(server))
    monkeypatch.setenv("GPUCLUSTER_LABEL_COMMAND", "cat")
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(BackendUnavailableError, match=r"jsonschema.*\n?.*gpucluster\[llm\]"):
        gpucluster.label(run, provider="command")
    assert server.calls == 0


def test_cancelling_keeps_what_was_paid(tmp_path: Path) -> None:
    run = topic_run(tmp_path)
    cancel = CancelToken()

    def stop(event: object) -> None:
        if isinstance(event, Progress) and event.stage == "label.ask" and event.done:
            cancel.cancel()

    with FakeServer() as server:
        with pytest.raises(Cancelled):
            gpucluster.label(run, by(server), concurrency=1, observer=stop, cancel=cancel)
        assert Run.open(run.path).labeling is None
        assert 0 < server.calls < 6
        named = gpucluster.label(run, by(server))
        assert named.labeling.counts["num_llm"] == 6
        assert server.paid_repeats == 0


def test_one_run_is_labelled_by_one_process_at_a_time(tmp_path: Path) -> None:
    from gpucluster.artifacts import LocalStore

    run = topic_run(tmp_path)
    with LocalStore(run.path.parent).lease(run.run_id), pytest.raises(RunLockedError):
        gpucluster.label(run)


def test_a_kill_costs_no_more_than_what_was_on_its_way(tmp_path: Path) -> None:
    run = topic_run(tmp_path)
    concurrency = 2
    with FakeServer(latency_s=0.15) as server:
        command = [
            *(sys.executable, "-m", "gpucluster", "label", str(run.path)),
            *("--base-url", server.base_url, "--model", "fake", "--quiet"),
            *("--concurrency", str(concurrency), "--text-column", "text"),
        ]
        for calls in (2, 4):
            process = subprocess.Popen(command, env=os.environ | {"NO_PROXY": "*"})
            while server.calls < calls and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert subprocess.run(command, check=False).returncode == 0
        assert server.paid_repeats <= 2 * concurrency
    named = Run.open(run.path)
    assert named.labeling.counts["num_llm"] == 6


# Evidence

KMEANS = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 6, "random_state": 1}}
TITLES = {
    "input_mappings": [{"input_key": "text", "source_type": "payload", "path": "metadata.title"}]
}


def embedder(texts: list[str]) -> np.ndarray:
    words = [word for topic in TOPICS for word in topic.split()]
    return np.array([[word in text.casefold() for word in words] for text in texts], float) + 1e-3


def sent(run: Run) -> str:
    """Return what the model was shown."""
    return json.dumps([line["messages"][1] for line in lines(run) if line["event"] == "sent"])


@pytest.mark.parametrize("name", ["table", "record"])
@pytest.mark.parametrize("fresh", [False, True])
def test_damaged_names_are_mended_by_naming_again(tmp_path: Path, name: str, fresh: bool) -> None:
    run = gpucluster.label(topic_run(tmp_path))
    path = run.path / "labels" / (run.labeling.table if name == "table" else "labels.json")
    path.write_bytes(path.read_bytes()[:-9])
    again = gpucluster.label(run.path, fresh=fresh)
    assert again.centroids["label"].to_pylist() == run.centroids["label"].to_pylist()
    Run.open(run.path, verify=True)


def test_a_run_in_hand_keeps_its_names(tmp_path: Path) -> None:
    run = gpucluster.label(topic_run(tmp_path))
    assert run.labeling.counts["num_keywords"] == 6
    gpucluster.label(run.path, include_summary=False)
    assert run.centroids["summary"].null_count == 0


def test_columns_of_moved_data_are_those_of_the_run(tmp_path: Path, server: FakeServer) -> None:
    rows = documents()
    notes = pa.array([f"internal note {row % 7}" for row in range(len(rows))])
    rows = rows.append_column("words", rows["text"]).set_column(1, "text", notes)
    pq.write_table(rows, tmp_path / "docs.parquet")
    run = gpucluster.cluster(
        tmp_path / "docs.parquet",
        KMEANS,
        text_column="words",
        truth_column="topic",
        out=tmp_path / "out",
    )
    labels = gpucluster.label(run).cluster_labels
    moved = (tmp_path / "docs.parquet").rename(tmp_path / "moved.parquet")
    assert gpucluster.label(run, data=moved, fresh=True).cluster_labels == labels
    asked = gpucluster.label(run, data=moved, base_url=server.base_url, model_name="fake")
    assert "internal note" in sent(asked)
    assert "topic" not in sent(asked)


def test_the_truth_of_data_in_memory_is_not_shown(tmp_path: Path, server: FakeServer) -> None:
    rows = documents()
    asked = {"base_url": server.base_url, "model_name": "fake"}
    run = gpucluster.cluster(
        rows, KMEANS, truth_column="topic", out=tmp_path / "out", llm_labeling=asked
    )
    assert "metadata" in sent(run)
    assert "topic" not in sent(run)
    again = gpucluster.label(run, asked, data=rows, fresh=True)
    assert "topic" not in sent(again)


def test_a_truth_that_looks_like_texts_names_nothing(tmp_path: Path) -> None:
    rows = documents().drop_columns(["text"]).rename_columns({"topic": "text"})
    pq.write_table(rows, tmp_path / "docs.parquet")
    with pytest.raises(SchemaMismatchError, match="no column of texts"):
        gpucluster.cluster(
            tmp_path / "docs.parquet",
            KMEANS,
            truth_column="text",
            out=tmp_path / "out",
            llm_labeling={},
        )


def test_rows_that_cannot_be_named_are_refused_before_they_are_clustered(tmp_path: Path) -> None:
    rows = documents()
    with pytest.raises(ConfigError, match="a stream is read once"):
        gpucluster.cluster(
            rows.to_reader(), KMEANS, text_column="text", out=tmp_path, llm_labeling={}
        )
    bare = rows.select(["document_id", "metadata", "embedding"])
    with pytest.raises(SchemaMismatchError, match="no column of texts"):
        gpucluster.cluster(bare, KMEANS, out=tmp_path, llm_labeling={})
    assert not list(tmp_path.glob("*/manifest.json"))
    named = gpucluster.cluster(bare, KMEANS, out=tmp_path, llm_labeling={"labeling_inputs": TITLES})
    assert named.labeling.counts["num_keywords"] == 6
    with pytest.raises(ConfigError, match="data: a stream is read once"):
        gpucluster.label(named, data=bare.to_reader())
    with pytest.raises(ConfigError, match="data: a stream is read once"):
        gpucluster.estimate_labels(named, data=bare.to_reader())


def test_texts_without_words_are_said_to_be_so(tmp_path: Path) -> None:
    rows = documents()
    mute = rows.set_column(
        rows.column_names.index("text"), "text", pa.array(["?!"] * len(rows), pa.string())
    )
    run = gpucluster.cluster(mute, KMEANS, text_column="text", out=tmp_path)
    with pytest.raises(SchemaMismatchError, match="no words were found in text to name"):
        gpucluster.label(run, data=mute)


def test_other_texts_than_the_first_can_be_named(tmp_path: Path) -> None:
    rows = documents()
    bare = rows.select(["document_id", "metadata", "embedding"])
    other = bare.append_column("words", rows["text"])
    assert gpucluster.cluster(
        other, KMEANS, out=tmp_path, text_column="words", llm_labeling={}
    ).labeling


def test_clusters_of_attributes_need_no_texts(tmp_path: Path) -> None:
    pq.write_table(documents().drop_columns(["text"]), tmp_path / "docs.parquet")
    run = gpucluster.cluster(
        tmp_path / "docs.parquet",
        cluster_type="attribute",
        attribute_config={"attributes": ["topic"]},
        out=tmp_path / "out",
        llm_labeling={},
    )
    assert set(run.centroids["label_source"].to_pylist()) == {"attribute"}


def test_a_folder_whose_clusters_were_moved_stands_for_the_run_that_found_them(
    tmp_path: Path,
) -> None:
    base = topic_run(tmp_path)
    pq.write_table(documents(60, seed=7), tmp_path / "new.parquet")
    moved = base.assign(tmp_path / "new.parquet", update=True)
    assert gpucluster.label(tmp_path / "out").run_id == base.run_id
    for named in (moved, moved.path, moved.path / "manifest.json"):
        with pytest.raises(ConfigError, match="has joined the clusters of"):
            gpucluster.label(named)
    assert gpucluster.label(base.path / "manifest.json").run_id == base.run_id


@pytest.mark.parametrize("kind", ["struct", "json", "list"])
def test_paths_into_columns_give_words_headlines_and_tests(tmp_path: Path, kind: str) -> None:
    rows = documents()
    texts = rows["text"].to_pylist()
    column = {
        "struct": [{"title": text} for text in texts],
        "json": [json.dumps({"title": text}) for text in texts],
        "list": [[{"title": text}] for text in texts],
    }[kind]
    rows = rows.drop_columns(["text", "metadata"]).append_column("metadata", pa.array(column))
    pq.write_table(rows, tmp_path / "docs.parquet")
    run = gpucluster.cluster(tmp_path / "docs.parquet", KMEANS, out=tmp_path / "out")
    path = "metadata.0.title" if kind == "list" else "metadata.title"
    mapping = {"input_key": "text", "source_type": "payload", "path": path}
    named = gpucluster.label(run, labeling_inputs={"input_mappings": [mapping]}, embedder=embedder)
    for cluster, topic in topic_of(named).items():
        label = named.cluster_labels[cluster].casefold()
        assert any(word in label for word in topic.split()), (label, topic)
    assert named.centroids["summary"].null_count == 0
    assert min(named.centroids["label_confidence"].to_pylist()) > 0.5


def test_documents_without_a_text_are_passed_over(tmp_path: Path) -> None:
    rows = documents()
    texts = [None if row % 5 == 0 else text for row, text in enumerate(rows["text"].to_pylist())]
    pq.write_table(rows.set_column(1, "text", pa.array(texts)), tmp_path / "docs.parquet")
    named = gpucluster.label(topic_run(tmp_path))
    assert named.labeling.counts["num_keywords"] == 6
