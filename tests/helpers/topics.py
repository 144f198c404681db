"""Documents of known topics: texts, vectors that lie by topic, and a run of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import gpucluster
from gpucluster.labeling.fake_server import FakeServer

TOPICS = {
    "lost card": ("my card is lost", "I lost my bank card", "where is the lost card"),
    "exchange rate": ("what is the exchange rate", "exchange rate for euros", "rates of exchange"),
    "account balance": ("show the account balance", "balance of my account", "account balance now"),
    "order pizza": ("order a pizza", "I want pizza delivered", "pizza order for two"),
    "book flight": ("book a flight", "cheap flight to Rome", "flight booking please"),
    "play music": ("play some music", "music by Bach", "play loud music"),
}


def documents(n_rows: int = 240, seed: int = 0, topics: int = len(TOPICS)) -> pa.Table:
    """Return rows with id, text, topic, a nested payload, blobs, and a vector near the topic's."""
    rng = np.random.default_rng(seed)
    names = list(TOPICS)[:topics]
    topic = rng.integers(0, len(names), n_rows)
    X = 3 * np.eye(len(names), 12)[topic] + rng.normal(size=(n_rows, 12)) * 0.3
    texts = [TOPICS[names[t]][rng.integers(0, 3)] + f", case {row}" for row, t in enumerate(topic)]
    return pa.table(
        {
            "document_id": [f"d{seed}-{row}" for row in range(n_rows)],
            "text": texts,
            "topic": [names[t] for t in topic],
            "metadata": [{"title": text.title(), "source": "test"} for text in texts],
            "document_blobs": [[{"url": f"https://a.example/{row}.png"}] for row in range(n_rows)],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(X.astype(np.float32).ravel()), 12
            ),
        }
    )


def topic_run(folder: Path, n_rows: int = 240, **fields: Any) -> gpucluster.Run:
    """Return a run of these documents, one cluster a topic, below `folder`."""
    path = folder / "docs.parquet"
    if not path.exists():
        pq.write_table(documents(n_rows), path)
    settings = {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 6, "random_state": 1}}
    return gpucluster.cluster(
        path, settings | fields, out=folder / "out", device="cpu", text_column="text"
    )


def planted(folder: Path, n_clusters: int, per_cluster: int = 6, **texts: Any) -> gpucluster.Run:
    """Return a run of one cluster for each topic, with words of its own."""
    rng = np.random.default_rng(0)
    topics = np.repeat(np.arange(n_clusters), per_cluster)
    X = np.random.default_rng(1).normal(size=(n_clusters, 16))[topics]
    X += 0.05 * rng.normal(size=X.shape)
    words = [f"word{chr(97 + t % 26)}{chr(97 + t // 26 % 26)}{chr(97 + t // 676)}" for t in topics]
    lines = [f"about {word} and {word}s, number {row}" for row, word in enumerate(words)]
    for row, text in texts.get("at", {}).items():
        lines[row] = text
        X[row] = np.random.default_rng(1).normal(size=(n_clusters, 16))[topics[row]]
    table = pa.table(
        {
            "document_id": [f"d{row}" for row in range(len(topics))],
            "text": lines,
            "topic": topics,
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(X.astype(np.float32).ravel()), 16
            ),
        }
    )
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "docs.parquet")
    return gpucluster.cluster(
        folder / "docs.parquet",
        cluster_type="attribute",
        attribute_config={"attributes": ["topic"]},
        out=folder / "out",
        device="cpu",
    )


def by(server: FakeServer, **fields: Any) -> dict[str, Any]:
    """Return settings that ask a server."""
    text = {"input_key": "text", "source_type": "payload", "path": "text"}
    return {
        "base_url": server.base_url,
        "model_name": "fake",
        "labeling_inputs": {"input_mappings": [text]},
        **fields,
    }
