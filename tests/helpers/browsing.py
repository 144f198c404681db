"""A browser that is driven, and what a server is to show in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.serving import ended
from tests.helpers.topics import TOPICS

URI = "mixpeek://text_extractor@v1/text_embedding"
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-default-apps", "--no-default-browser-check", "--no-pings"),
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Yield a headless Chromium with an empty profile; without one the test fails."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.fail(
            "these tests drive a browser, and there is no Chromium: apt-get install chromium",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=program, headless=True, args=list(OPTIONS)
        )
        try:
            yield context
        finally:
            context.close()


def collect(client: Any, name: str, path: Path) -> str:
    """Make a collection of a Parquet file; return its id."""
    fields = {"collection_name": name, "id_column": "document_id", "text_column": "text"}
    fields |= {
        "source": {"paths": [str(path)]},
        "features": {URI: {"column": "embedding", "dim": 12}},
    }
    answer = client.post("/v1/collections", json=fields)
    assert answer.status_code == 201, answer.text
    return answer.json()["collection_id"]


def create(client: Any, body: Mapping[str, Any]) -> str:
    """Keep a definition; return its id."""
    answer = client.post("/v1/clusters", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["cluster_id"]


def make(
    client: Any, name: str, collection_id: str, *, components: int = 2, noise: bool = False
) -> str:
    """Define a clustering by topic, with coordinates; return its id."""
    vector = {
        "feature_uri": URI,
        "clustering_method": "dbscan" if noise else "kmeans",
        "algorithm_params": {"eps": 0.37} if noise else {"n_clusters": len(TOPICS)},
        "dimension_reduction": {"method": "pca", "components": components},
    }
    labels = {"provider": "keywords"}
    fields = {"cluster_name": name, "collection_ids": [collection_id], "cluster_type": "vector"}
    return create(client, fields | {"vector_config": vector, "llm_labeling": labels})


def execute(client: Any, cluster_id: str, **body: Any) -> str:
    """Run a definition to its end; return the name of the run."""
    answer = client.post(f"/v1/clusters/{cluster_id}/execute", json=body)
    assert answer.status_code == 200, answer.text
    task = ended(client, answer.json()["task_id"])
    assert task["status"].startswith("COMPLETED"), task
    return task["additional_data"]["run_id"]
