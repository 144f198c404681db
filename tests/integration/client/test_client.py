"""The clients against a server on a socket."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
from pydantic import SecretStr

from gpucluster.client import AsyncClient, Client
from gpucluster.client.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
)
from gpucluster.errors import ClientError, ConfigError, GpuclusterError
from tests.helpers.serving import TOKEN

DEFINITION = {"algorithm": "kmeans"}


def test_a_thing_is_made_shown_listed_and_removed(client):
    made = client.templates.create(template_name="usual", definition=DEFINITION)
    assert client.templates.get("usual") == made
    assert [each.template_id for each in client.templates.list(search="usual")] == [
        made.template_id
    ]
    assert client.templates.delete("usual").success
    with pytest.raises(NotFoundError, match="there is no template usual") as caught:
        client.templates.get("usual")
    error = caught.value
    assert (error.status, error.code) == (404, "not_found")
    assert error.request_id in str(error)
    assert isinstance(error, GpuclusterError)


def test_a_list_goes_over_all_pages(client, monkeypatch):
    monkeypatch.setattr("gpucluster.client.endpoints.PAGE", 7)
    made = {
        client.templates.create(template_name=f"page {number}", definition={}).template_id
        for number in range(20)
    }
    found = [each.template_id for each in client.templates.list(search="page ")]
    assert len(found) == 20
    assert set(found) == made
    assert len(list(islice(client.templates.list(search="page "), 3))) == 3


def test_names_with_any_character_stay_one_part_of_the_path(client):
    name = "a?b=c#d %2e ü ..;+&"
    made = client.templates.create(template_name=name, definition={})
    assert client.templates.get(name).template_id == made.template_id
    for empty in ("", ".", ".."):
        with pytest.raises(InvalidRequestError):
            client.templates.get(empty)


def test_what_is_wrong_is_said_by_field(client):
    with pytest.raises(InvalidRequestError, match="template_name") as caught:
        client.templates.create(definition={})
    assert caught.value.status is None  # it was not even sent
    assert [problem["loc"] for problem in caught.value.problems] == [["body", "template_name"]]
    with pytest.raises(InvalidRequestError, match="at least one collection") as caught:
        client.clusters.create(cluster_name="a", vector_config={"clustering_method": "kmeans"})
    assert caught.value.status == 422
    assert caught.value.problems[0]["loc"] == ["body", "collection_ids"]


def test_a_name_that_is_taken(client):
    client.templates.create(template_name="taken", definition={})
    with pytest.raises(ConflictError):
        client.templates.create(template_name="taken", definition={})


def test_tokens_open_what_they_say(client, url):
    client.namespaces.create(namespace_id="team-a")
    assert "team-a" in {each.namespace_id for each in client.namespaces.list()}
    issued = client.tokens.issue(namespace="team-a", scopes=("read",), token_name="reader")
    with Client(url, issued.token) as reader:
        assert [each.namespace_id for each in reader.namespaces.list()] == ["team-a"]
        with pytest.raises(ForbiddenError, match="needs the scope run"):
            reader.templates.create(template_name="x", definition={})
        with pytest.raises(NotFoundError):
            list(reader.in_namespace("default").templates.list())
    client.in_namespace("team-a").templates.create(template_name="theirs", definition={})
    assert [t.template_name for t in client.in_namespace("team-a").templates.list()] == ["theirs"]
    rotated = client.tokens.rotate(issued.token_id, overlap_s=0)
    assert rotated.token != issued.token
    client.tokens.revoke(issued.token_id)
    with Client(url, rotated.token) as reader, pytest.raises(UnauthorizedError):
        list(reader.templates.list())


def test_the_same_key_in_a_hundred_threads_makes_one_thing(client):
    """And all of them get the same answer."""
    n_threads = 100
    barrier = threading.Barrier(n_threads)
    keyed = client.under_key("only-once")

    def make(_):
        barrier.wait()
        return keyed.templates.create(template_name="one of a hundred", definition=DEFINITION)

    with ThreadPoolExecutor(n_threads) as pool:
        made = list(pool.map(make, range(n_threads)))
    assert len(made) == n_threads
    assert all(each == made[0] for each in made)
    assert len(list(client.templates.list(search="one of a hundred"))) == 1


def test_a_key_is_for_one_body(client):
    keyed = client.under_key("for-one-body")
    keyed.templates.create(template_name="first body", definition={})
    with pytest.raises(InvalidRequestError, match="was used for another body"):
        keyed.templates.create(template_name="second body", definition={})


def test_two_hundred_at_a_time(client, url):
    made = client.templates.create(template_name="asked for by many", definition=DEFINITION)

    async def ask():
        async with AsyncClient(url, TOKEN) as many:
            found = await asyncio.gather(
                *(many.templates.get(made.template_id) for _ in range(200))
            )
            listed = [each async for each in many.templates.list(search="asked for by many")]
            return found, listed

    found, listed = asyncio.run(ask())
    assert len(found) == 200
    assert all(each == made for each in found)
    assert listed == [made]


def test_errors_are_raised_where_they_are_awaited(url):
    async def ask():
        async with AsyncClient(url, "gpc_no_token") as client:
            await client.tasks.get("task_none")

    with pytest.raises(UnauthorizedError):
        asyncio.run(ask())


def test_address_and_token_out_of_the_environment(url, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="GPUCLUSTER_URL"):
        Client()
    with pytest.raises(ConfigError, match="base_url"):
        Client("localhost:8765")
    monkeypatch.setenv("GPUCLUSTER_URL", url + "/")
    monkeypatch.setenv("GPUCLUSTER_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="GPUCLUSTER_TOKEN_FILE"):
        Client()
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setenv("GPUCLUSTER_TOKEN_FILE", str(tmp_path / "token"))
    with Client() as client:
        assert list(client.namespaces.list())
    monkeypatch.setenv("GPUCLUSTER_TOKEN", "gpc_wrong_one")
    with Client() as client, pytest.raises(UnauthorizedError):
        list(client.namespaces.list())


def test_the_token_is_shown_nowhere(url, caplog):
    caplog.set_level(0)
    secret = "gpc_canary_0123456789"
    with Client(url, SecretStr(secret)) as client:
        shown = [repr(client), repr(vars(client)), repr(client._session), repr(client.clusters)]
        with pytest.raises(ClientError) as caught:
            client.tasks.get("task_a")
        shown += [repr(caught.value), str(caught.value), repr(vars(caught.value)), caplog.text]
    assert not [text for text in shown if secret in text]
    assert "**********" in shown[0]


def test_methods_look_like_functions(url):
    with Client(url) as client:
        execute = client.clusters.execute
        assert execute.__doc__.startswith("Execute a definition")
        parameters = inspect.signature(execute).parameters
        assert list(parameters)[:3] == ["cluster", "mode", "assignment_threshold"]
        assert parameters["mode"].default == "full"
        assert list(inspect.signature(client.clusters.get).parameters) == ["cluster"]


def test_without_its_library_it_says_what_to_install():
    code = "import sys; sys.modules['httpx2'] = None; import gpucluster.client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'gpucluster[client]'" in done.stderr


TYPED = """
from typing import Any, assert_type, AsyncIterator, Iterator
from gpucluster.client import AsyncClient, Client
from gpucluster.wire.clusters import ClusterDetail, ClusterMetadata
from gpucluster.wire.collections import DocumentsAdded
from gpucluster.wire.executions import ExecutionResult
from gpucluster.wire.tasks import TaskResponse

def blocking(client: Client) -> None:
    assert_type(client.clusters.get("a"), ClusterDetail)
    assert_type(client.clusters.execute("a", mode="assign", assignment_threshold="auto"),
                TaskResponse)
    assert_type(client.clusters.run("a"), ExecutionResult)
    assert_type(client.clusters.list(search="a"), Iterator[ClusterMetadata])
    assert_type(client.tasks.wait("task_a", timeout_s=1), TaskResponse)
    assert_type(client.in_namespace("a"), Client)
    assert_type(client.documents.list("a", fields=["b"]), Iterator[dict[str, Any]])
    assert_type(client.documents.add("a", [{"document_id": "b"}]), DocumentsAdded)
    assert_type(client.webhooks.delete("a"), None)

async def awaited(client: AsyncClient) -> None:
    assert_type(await client.clusters.get("a"), ClusterDetail)
    assert_type(await client.clusters.execute("a", mode="full"), TaskResponse)
    assert_type(client.clusters.list(search="a"), AsyncIterator[ClusterMetadata])
    assert_type(client.under_key("a"), AsyncClient)

def wrong(client: Client) -> None:
    client.clusters.get()  # type: ignore[call-arg]
    client.clusters.get(1)  # type: ignore[arg-type]
    client.clusters.execute("a", mod="full")  # type: ignore[call-arg]
    client.clusters.execute("a", mode="half")  # type: ignore[arg-type]
    client.clusters.nothing("a")  # type: ignore[attr-defined]
"""


def test_type_checkers_see_answers_and_arguments(tmp_path):
    path = tmp_path / "usage.py"
    path.write_text(TYPED)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml",
               "--follow-imports=silent", str(path)]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
