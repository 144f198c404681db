"""What tests of the service share."""

from __future__ import annotations

import pytest

from tests.helpers.deliveries import House
from tests.helpers.receivers import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def house(authority, tmp_path):
    house = House(authority, tmp_path)
    yield house
    house.close()
