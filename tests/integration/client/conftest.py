from __future__ import annotations

import pytest

from gpucluster.client import Client, Retries
from tests.helpers.faulty import faulty
from tests.helpers.serving import TOKEN, serving

QUICK = Retries(first_s=0.01, longest_s=5)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service")) as (http, service):
        yield str(http.base_url).rstrip("/"), service


@pytest.fixture(scope="module")
def url(server):
    return server[0]


@pytest.fixture
def client(url):
    with Client(url, TOKEN, retries=QUICK) as made:
        yield made


@pytest.fixture
def broken(url):
    """The same service behind a server that breaks what it is told to break."""
    with faulty(url) as control:
        yield control


@pytest.fixture
def unlucky(broken):
    with Client(broken.url, TOKEN, retries=QUICK) as made:
        yield made
