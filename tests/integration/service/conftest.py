"""What tests of the service share."""

from __future__ import annotations

import pytest

from tests.helpers import postgres
from tests.helpers.deliveries import House
from tests.helpers.receivers import Authority


@pytest.fixture(scope="session")
def postgres_server():
    with postgres.serving() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def catalog_options(request):
    """Options of ``gpucluster serve`` for either catalog; the one of a server begins empty."""
    if request.param == "sqlite":
        return ()
    server = request.getfixturevalue("postgres_server")
    name = f"catalog_{abs(hash(request.node.name))}"
    return "--catalog", server.new_database(name)


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def house(authority, tmp_path):
    house = House(authority, tmp_path)
    yield house
    house.close()
