"""A browser that is driven, and collections for a server to cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpucluster.service.refusals import NotFoundError
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


class Libraries:
    """Collections that are files with a manifest, in the place of the service's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[Path, int]] = {}

    def add(self, name: str, data: Path, dim: int) -> None:
        """Make a collection of a Parquet file."""
        manifest = self._folder / f"{name}.collection.json"
        feature = {URI: {"column": "embedding", "dim": dim}}
        fields = {"collection_id": name, "files": [str(data)], "features": feature}
        fields |= {"id_column": "document_id", "text_column": "text"}
        manifest.write_text(json.dumps(fields))
        self._known[name] = (manifest, dim)

    def features(self, tx: Any, ns: str, collection_id: str) -> Mapping[str, Any]:
        """Return dimensions by feature."""
        return {URI: {"dim": self._found(collection_id)[1]}}

    def manifest(self, ns: str, collection_id: str) -> tuple[str, int]:
        """Return where the manifest is, and its number."""
        return str(self._found(collection_id)[0]), 1

    def _found(self, name: str) -> tuple[Path, int]:
        if name not in self._known:
            raise NotFoundError(f"there is no collection {name}")
        return self._known[name]

    def lend_to(self, service: Any) -> None:
        """Let a service cluster these collections."""
        service.definitions._libraries = self
        service.executions._collections = self


def create(client: Any, body: Mapping[str, Any]) -> str:
    """Keep a definition; return its id."""
    answer = client.post("/v1/clusters", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["cluster_id"]


def make(client: Any, name: str, *, components: int = 2, noise: bool = False) -> str:
    """Define a clustering by topic, with coordinates; return its id."""
    vector = {
        "feature_uri": URI,
        "clustering_method": "dbscan" if noise else "kmeans",
        "algorithm_params": {"eps": 0.37} if noise else {"n_clusters": len(TOPICS)},
        "dimension_reduction": {"method": "pca", "components": components},
    }
    labels = {"provider": "keywords"}
    fields = {"cluster_name": name, "collection_ids": ["topics"], "cluster_type": "vector"}
    return create(client, fields | {"vector_config": vector, "llm_labeling": labels})


def execute(client: Any, cluster_id: str, **body: Any) -> str:
    """Run a definition to its end; return the name of the run."""
    answer = client.post(f"/v1/clusters/{cluster_id}/execute", json=body)
    assert answer.status_code == 200, answer.text
    task = ended(client, answer.json()["task_id"])
    assert task["status"].startswith("COMPLETED"), task
    return task["additional_data"]["run_id"]
