"""A root belongs to one catalog, of either kind, on a disk or in a bucket."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

import pytest

from gpucluster.errors import ConfigError
from gpucluster.places import place
from gpucluster.service.catalog import open_catalog
from gpucluster.service.ownership import MARK, claim_root
from gpucluster.service.server import serve
from gpucluster.service.settings import ServiceSettings
from gpucluster.service.wiring import Service

REFUSED = "belongs to another catalog"


@pytest.fixture(params=["disk", "bucket"])
def root(request, tmp_path):
    where = str(tmp_path / "root")
    return place(where if request.param == "disk" else request.getfixturevalue("bucket"))


def claim(root, url):
    with closing(open_catalog(url)) as catalog:
        claim_root(root, catalog)


def test_a_root_belongs_to_the_catalog_that_comes_first(root, catalog_url, tmp_path):
    other = str(tmp_path / "other.sqlite")
    for _ in range(2):
        claim(root, catalog_url)
        with pytest.raises(ConfigError, match=REFUSED) as refused:
            claim(root, other)
    assert f"remove {MARK} there" in refused.value.hint


def test_a_root_of_a_lost_catalog_is_given_to_another(tmp_path, catalog_url):
    claim(tmp_path, str(tmp_path / "lost.sqlite"))
    (tmp_path / MARK).write_text("half of it")
    with pytest.raises(ConfigError, match=REFUSED):
        claim(tmp_path, catalog_url)
    (tmp_path / MARK).unlink()
    claim(tmp_path, catalog_url)


def test_a_catalog_that_was_moved_or_restored_is_the_same(tmp_path):
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    claim(tmp_path / "root", str(old))
    shutil.copy(old, new)
    claim(tmp_path / "root", str(new))


def test_servers_that_start_at_once_agree(root, catalog_url, tmp_path):
    """On a fresh root, where all have one catalog, and where some have another."""
    urls = [catalog_url, str(tmp_path / "other.sqlite")]
    barrier = Barrier(8)

    def begin(n, where, urls):
        barrier.wait()
        try:
            claim(where, urls[n % len(urls)])
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        same = list(pool.map(lambda n: begin(n, root / "same", urls[:1]), range(8)))
        some = list(pool.map(lambda n: begin(n, root / "some", urls), range(8)))
    assert same == [True] * 8
    assert some in ([True, False] * 4, [False, True] * 4)


def test_a_root_without_an_id_is_adopted(tmp_path):
    """As those of servers of before are."""
    root = tmp_path / "root"
    (root / "ns" / "default").mkdir(parents=True)
    claim(root, str(root / "catalog.sqlite"))
    assert list(json.loads((root / MARK).read_text())) == ["catalog_id"]


def test_a_server_does_not_start_on_a_root_of_another_catalog(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other.sqlite"
    Service(ServiceSettings(root=str(root), device="cpu")).catalog.close()
    settings = ServiceSettings(root=str(root), port=0, device="cpu", catalog=str(other))
    with pytest.raises(ConfigError, match=REFUSED):
        serve(settings, print)
    with closing(open_catalog(str(other))) as catalog, catalog.reading() as tx:
        assert tx.get("", "namespace", "default") is None  # it wrote nothing there
