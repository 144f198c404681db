"""Names and an embedder of the user's: what it decides, and what its mistakes do not cost."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

import gpucluster
from gpucluster.errors import BackendUnavailableError, ConfigError, GpuclusterWarning
from gpucluster.labeling.fake_server import FakeServer
from tests.helpers.topics import TOPICS, by, documents, topic_run

PRICES = {"input": 1.0, "output": 2.0}
WORDS = [word for topic in TOPICS for word in topic.split()]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


def by_words(texts: list[str]) -> np.ndarray:
    return np.array([[word in text.casefold() for word in WORDS] for text in texts], float) + 1e-3


def sparse(texts: list[str]) -> Any:
    return TfidfVectorizer().fit_transform(texts)


def as_wide_as_its_words(texts: list[str]) -> np.ndarray:
    return TfidfVectorizer().fit_transform(texts).toarray()


def telling(texts: list[str]) -> np.ndarray:
    raise RuntimeError("refused\nthe key sk-abcdefghijkl")


# Mistakes


@pytest.mark.parametrize(
    ("embedder", "said"),
    [
        (sparse, "csr_matrix that is no array of numbers"),
        (as_wide_as_its_words, "numbers for a text, and"),
        (telling, "RuntimeError: refused the key [redacted]"),
    ],
)
def test_no_mistake_of_an_embedder_costs_a_name(
    tmp_path: Path, server: FakeServer, embedder: Callable[[list[str]], Any], said: str
) -> None:
    asked = by(server, use_embedding_dedup=True)
    with pytest.warns(GpuclusterWarning):
        run = gpucluster.label(topic_run(tmp_path), asked, embedder=embedder)
    assert run.labeling.counts["num_llm"] == 6
    assert run.centroids["label_confidence"].null_count == 6
    kept = json.loads((run.path / "labels" / "labels.json").read_text())["warnings"]
    assert any(said in text for text in kept), kept
    assert not any("\n" in text or "sk-" in text for text in kept)


# Merging


def test_a_function_merges_labels_in_place_of_a_model(tmp_path: Path, server: FakeServer) -> None:
    rows = documents()
    pq.write_table(rows.set_column(1, "text", rows["topic"]), tmp_path / "docs.parquet")
    asked: Counter[str] = Counter()

    def embedder(texts: list[str]) -> np.ndarray:
        asked.update(texts)
        return by_words(texts)

    run = topic_run(tmp_path, algorithm_params={"n_clusters": 12, "random_state": 1})
    settings = by(server, use_embedding_dedup=True, embedding_similarity_threshold=0.9)
    named = gpucluster.label(run, settings, embedder=embedder)
    rows = named.centroids.to_pylist()
    merged = [row for row in rows if row["label_merged_from"]]
    assert merged
    assert not named.labeling.warnings
    assert {row["label"] for row in merged} <= {
        row["label"] for row in rows if row["label_merged_from"] is None
    }
    # labels of two clusters are no rivals where they are the same
    assert all(row["label_confidence"] > 0.5 for row in rows), rows
    labels = {row["label_merged_from"] or row["label"] for row in rows}
    assert all(asked[label] == 1 for label in labels)


def test_a_name_that_all_share_has_no_confidence(tmp_path: Path, server: FakeServer) -> None:
    settings = by(server, use_embedding_dedup=True)
    named = gpucluster.label(
        topic_run(tmp_path), settings, embedder=lambda texts: np.ones((len(texts), 2))
    )
    assert len(set(named.centroids["label"].to_pylist())) == 1
    assert named.centroids["label_confidence"].null_count == 6


def test_merging_without_anything_that_embeds_is_refused_before_work(
    tmp_path: Path, server: FakeServer
) -> None:
    settings = by(server, use_embedding_dedup=True)
    with pytest.raises(ConfigError, match="use_embedding_dedup: labels of a model are merged, by"):
        topic_run(tmp_path, llm_labeling=settings)
    assert not list(tmp_path.glob("out/*/manifest.json"))
    run = topic_run(tmp_path)
    for ask in (gpucluster.label, gpucluster.estimate_labels):
        with pytest.raises(ConfigError, match="use_embedding_dedup"):
            ask(run, settings)
    assert server.calls == 0


# Estimates


def test_an_estimate_is_of_the_labelling_with_the_same_embedder(
    tmp_path: Path, server: FakeServer
) -> None:
    run = topic_run(tmp_path)
    settings = by(server, prices=PRICES, cache_ttl_seconds=0)
    limit = gpucluster.estimate_labels(run, settings).usd / 2 + 0.0025  # reserved for a reply
    partly = gpucluster.label(run, settings, embedder=by_words, budget_usd=limit, concurrency=4)
    assert 0 < partly.labeling.counts["num_llm"] < 6
    left = gpucluster.estimate_labels(run, settings, embedder=by_words)
    assert left.calls == 6 - partly.labeling.counts["num_llm"]
    assert gpucluster.estimate_labels(run, settings).calls == left.calls


def test_embeddings_cost_nothing_where_a_function_takes_the_place_of_the_model(
    tmp_path: Path, server: FakeServer
) -> None:
    run = topic_run(tmp_path)
    settings = by(server, embedding_model="embed", prices=PRICES)
    assert gpucluster.estimate_labels(run, settings).embedding_tokens > 0
    assert gpucluster.estimate_labels(run, settings, embedder=by_words).embedding_tokens == 0
    named = gpucluster.label(run, settings, embedder=by_words)
    assert named.labeling.estimate["embedding_tokens"] == 0
    assert named.labeling.usage["embedding_tokens"] == 0
    by_model = gpucluster.label(run, settings)  # what the function measured does not stand for it
    assert by_model.labeling.usage["calls"] == named.labeling.usage["calls"]
    assert by_model.labeling.usage["embedding_tokens"] > 0


# What is known before


@pytest.mark.parametrize("hides", ["prefix", "library", "credentials"])
def test_addresses_that_could_not_be_signed_are_known_before_the_fit(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch, hides: str
) -> None:
    image = {"input_key": "image_url", "source_type": "blob", "path": "0.url"}
    settings = by(server, labeling_inputs={"input_mappings": [image]})
    settings["presign_prefixes"] = ["bucket" if hides == "prefix" else "s3://bucket"]
    error: type[Exception] = ConfigError
    if hides == "library":
        error = BackendUnavailableError
        monkeypatch.setitem(sys.modules, "obstore", None)
    else:
        pytest.importorskip("obstore")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "only")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(error, match=r"presign_prefixes|gpucluster\[s3\]"):
        topic_run(tmp_path, llm_labeling=settings)
    assert not list(tmp_path.glob("out/*/manifest.json"))
    if hides == "library":  # nothing that is shown would be signed
        topic_run(tmp_path, llm_labeling=by(server, presign_prefixes=["s3://bucket"]))


def test_paths_that_lead_nowhere_are_counted_offline_too(
    tmp_path: Path, server: FakeServer
) -> None:
    rows = documents()
    texts = [None if row % 5 == 0 else text for row, text in enumerate(rows["text"].to_pylist())]
    pq.write_table(rows.set_column(1, "text", pa.array(texts)), tmp_path / "docs.parquet")
    run = topic_run(tmp_path)
    inputs = by(server)["labeling_inputs"]
    offline = gpucluster.label(run, labeling_inputs=inputs).labeling.missing_inputs
    asked = gpucluster.label(run, by(server)).labeling.missing_inputs
    assert offline == asked
    assert offline["text"] > 0
