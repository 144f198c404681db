"""Reports of small runs, and a browser that opens them from the disk."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

import gpucluster
from tests.helpers.browsing import browser
from tests.helpers.topics import TOPICS, documents

DEEP = {"dimension_reduction": {"method": "pca", "components": 3}}


@pytest.fixture(scope="module")  # it keeps an event loop, beside which no other test can run one
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A run with noise, truth, names and depth, one that follows it, and one that joined it."""
    folder = tmp_path_factory.mktemp("report")
    data = folder / "docs.parquet"
    pq.write_table(documents(240), data)
    columns = {"text_column": "text", "truth_column": "topic", "device": "cpu"}
    settings = {
        "cluster_name": "topics",
        "algorithm": "dbscan",
        "algorithm_params": {"eps": 0.37},
        **DEEP,
    }
    made = SimpleNamespace(folder=folder, data=data)
    made.before = gpucluster.cluster(data, settings, out=folder / "out", **columns).label()
    more = pq.read_table(data)
    pq.write_table(more.slice(20), folder / "later.parquet")
    made.run = gpucluster.cluster(
        folder / "later.parquet", settings, out=folder / "out", **columns
    ).label()
    made.joined = made.run.assign(data, text_column="text", scope="all")
    made.bare = gpucluster.cluster(
        data, algorithm="kmeans", algorithm_params={"n_clusters": len(TOPICS)}, out=folder / "bare"
    )
    made.file = made.run.report(folder / "report.html")
    return made


@pytest.fixture
def tab(chromium):
    """A tab in which nothing may go wrong, and which may ask for no address but files."""
    page = chromium.new_page()
    page.set_viewport_size({"width": 1280, "height": 860})
    page.set_default_timeout(15_000)
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)

    def show(file):
        page.goto(file.as_uri())
        page.wait_for_selector("[data-done]")
        return page

    page.show, page.asked = show, asked
    yield page
    page.close()
    assert [url for url in asked if not url.startswith("file://")] == []
    assert len(asked) == len(set(asked))  # each file once: itself
    assert wrong == []


@pytest.fixture
def opened(tab, world):
    """The report of the run."""
    return tab.show(world.file)
