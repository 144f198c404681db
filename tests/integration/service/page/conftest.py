"""A server with runs of a few hundred documents, and a browser that may talk to it alone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.browsing import browser, collect, create, execute, make
from tests.helpers.hostile import NAMES, TEXTS
from tests.helpers.serving import TOKEN, serving
from tests.helpers.topics import documents


@pytest.fixture(scope="module")  # it keeps an event loop, beside which no other test can run one
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A server with a definition that was run in both modes, and one that was not."""
    folder = tmp_path_factory.mktemp("page")
    pq.write_table(documents(240), folder / "topics.parquet")
    pq.write_table(_with_hostile_names(), folder / "hostile.parquet")
    with serving(folder / "service", import_roots=(str(folder),)) as (client, _):
        made = SimpleNamespace(client=client, url=str(client.base_url).rstrip("/"))
        made.topics = collect(client, "topics", folder / "topics.parquet")
        made.texts = collect(client, NAMES[1], folder / "hostile.parquet")
        made.deep = make(client, "in depth", made.topics, components=3, noise=True)
        make(client, "never run", made.topics)
        made.full = execute(client, made.deep)
        made.joined = execute(
            client, made.deep, mode="assign", scope="all", assignment_threshold=0.9999
        )
        attributes = {"cluster_type": "attribute", "attribute_config": {"attributes": ["topic"]}}
        made.hostile = create(
            client, {"cluster_name": NAMES[0], "collection_ids": [made.texts], **attributes}
        )
        made.hostile_run = execute(client, made.hostile)
        yield made


def _with_hostile_names() -> pa.Table:
    table = documents(2 * len(TEXTS))
    table = table.set_column(0, "document_id", [[f"{i} {t}" for i, t in enumerate(TEXTS * 2)]])
    return table.set_column(2, "topic", [list(TEXTS * 2)])


@pytest.fixture
def page(chromium, world):
    """A tab without a token. Nothing that is loaded may come from elsewhere, or go wrong."""
    tab = chromium.new_page()
    tab.set_viewport_size({"width": 1280, "height": 860})
    tab.set_default_timeout(15_000)
    asked, wrong = [], []

    def note(request):
        asked.append(request)

    tab.on("request", note)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    tab.on("console", lambda said: wrong.append(said.text) if _is_wrong(said) else None)
    tab.asked = asked
    yield tab
    tab.close()
    assert {r.url for r in asked if not r.url.startswith((f"{world.url}/", "data:"))} == set()
    assert [r.url for r in asked if TOKEN in r.url] == []
    assert wrong == []


def _is_wrong(said) -> bool:
    """What refused requests leave there is no mistake of the page."""
    return said.type == "error" and "server responded with a status of" not in said.text


@pytest.fixture
def inside(page, world):
    """A tab that is signed in."""
    kept = json.dumps({"token": TOKEN, "namespace": "default"})
    page.add_init_script(f"sessionStorage.gpucluster ??= {json.dumps(kept)};")
    page.goto(f"{world.url}/")
    page.wait_for_selector("table")
    return page


@pytest.fixture
def run_page(inside, world):
    """A tab that shows a run with its whole map."""
    inside.goto(f"{world.url}/#/clusters/{world.deep}/runs/{world.full}")
    inside.wait_for_selector("[data-done]")
    return inside
