"""A version is whole or not there, whoever is killed, and whoever else promotes."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import gpucluster
from gpucluster.artifacts import LocalStore
from gpucluster.errors import ConfigError, RunLockedError, StoreError, TaxonomyNotFoundError
from gpucluster.events import Reporter
from gpucluster.taxonomy import list_taxonomies, shelf
from tests.helpers.faults import (
    ALL_KILLS,
    KILLS,
    REFUSALS,
    Faulty,
    due,
    end_of,
    fork,
    temporary_files,
)

K, D = 4, 8
N_WRITERS = 5
CENTERS = np.random.default_rng(7).normal(size=(K, D))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> gpucluster.Run:
    return gpucluster.cluster(
        rows(200, 1),
        algorithm="kmeans",
        algorithm_params={"n_clusters": K, "n_init": 1},
        preprocessing_steps=[{"method": "whitening"}],
        out=tmp_path_factory.mktemp("taxonomy"),
        device="cpu",
    )


def rows(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = CENTERS[rng.integers(0, K, n)] + 0.2 * rng.normal(size=(n, D))
    return X.astype(np.float32)


@pytest.fixture
def durable(monkeypatch: pytest.MonkeyPatch) -> list[Faulty]:
    """What stores of taxonomies write with, where there is one."""
    given: list[Faulty] = []
    usual = shelf.open_store

    def opened(folder: Path) -> object:
        return LocalStore(folder, given[0]) if given else usual(folder)

    monkeypatch.setattr(shelf, "open_store", opened)
    return given


def promoted(base: gpucluster.Run, out: Path, *clusters: str) -> gpucluster.Taxonomy:
    return base.promote("topics", out=out, cluster_ids=clusters or None)


@pytest.mark.parametrize(
    ("number", "fault"), [*((1, fault) for fault in KILLS + REFUSALS), *((2, f) for f in KILLS)]
)
def test_a_fault_at_every_operation_of_a_promotion(
    tmp_path: Path, base: gpucluster.Run, durable: list[Faulty], fault: str, number: int
) -> None:
    watching = Faulty()
    ways = [(), ("cl_1", "cl_3")]
    for way in ways[: number - 1]:
        promoted(base, tmp_path / "watched", *way)
    durable.append(watching)
    promoted(base, tmp_path / "watched", *ways[number - 1])
    durable.clear()
    at = due(watching.operations, fault)
    assert at
    for n in at:
        out = tmp_path / str(n)
        for way in ways[: number - 1]:
            promoted(base, out, *way)
        durable.append(Faulty(n, fault))
        work = functools.partial(promoted, base, out, *ways[number - 1])
        if "killed" in fault:
            assert end_of(fork(work)) == -9
        else:
            with pytest.raises(StoreError):
                work()
        durable.clear()
        for taxonomy in list_taxonomies(out):  # what is there is whole
            for version in taxonomy.versions:
                taxonomy.at(version).run.verify()
            assert taxonomy.versions in ((1,), (1, 2))[:number]
        again = work()
        assert again.version == number
        assert again.versions == tuple(range(1, number + 1))
        assert not temporary_files(out)
        again.run.verify()
        assert again.nodes.equals(gpucluster.open_taxonomy(tmp_path / "watched").nodes)


@pytest.mark.parametrize("fault", ["killed before", "killed after"])
def test_a_deletion_that_is_killed_goes_on(
    tmp_path: Path, base: gpucluster.Run, durable: list[Faulty], fault: str
) -> None:
    def begun(out: Path) -> gpucluster.Taxonomy:
        promoted(base, out)
        return promoted(base, out, "cl_0")

    watching = Faulty()
    taxonomy = begun(tmp_path / "watched")
    durable.append(watching)
    taxonomy.delete()
    durable.clear()
    names = [n for n, name in enumerate(watching.operations, 1) if name == "unlink"]
    assert names
    for n in names if ALL_KILLS else {names[0], *names[1::5], names[-1]}:
        out = tmp_path / str(n)
        taxonomy = begun(out)
        durable.append(Faulty(n, fault))
        assert end_of(fork(taxonomy.delete)) == -9
        durable.clear()
        known = list_taxonomies(out)
        if known:
            assert known[0].versions == (1, 2)
            known[0].delete()
        assert promoted(base, out, "cl_2").versions == (1,)
        gpucluster.open_taxonomy(out).run.verify()


def test_each_of_those_who_promote_at_once_gets_a_number(
    tmp_path: Path, base: gpucluster.Run
) -> None:
    def write(writer: int) -> None:
        base.promote("topics", out=tmp_path, threshold=writer / 10)

    writers = [fork(functools.partial(write, writer)) for writer in range(N_WRITERS)]
    assert [end_of(writer) for writer in writers] == [0] * N_WRITERS
    taxonomy = gpucluster.open_taxonomy(tmp_path)
    assert taxonomy.versions == tuple(range(1, N_WRITERS + 1))
    thresholds = set()
    for version in taxonomy.versions:
        one = taxonomy.at(version)
        one.run.verify()
        thresholds |= {round(value, 4) for value in one.nodes["threshold"].to_pylist()}
    assert thresholds == {writer / 10 for writer in range(N_WRITERS)}


def test_a_name_that_several_give_at_once_is_given_to_one(
    tmp_path: Path, base: gpucluster.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two renames, a clone and a promotion: all of them have seen that the name is free."""
    ready, usual = threading.Barrier(4), shelf.Shelf.id_of
    began = threading.local()

    def slow(self: shelf.Shelf, name: str) -> str:
        found = usual(self, name)
        if not hasattr(began, "is_so"):
            began.is_so = True
            ready.wait(60)
        return found

    first, second, third = (base.promote(name, out=tmp_path) for name in ("a", "b", "c"))
    monkeypatch.setattr(shelf.Shelf, "id_of", slow)
    with ThreadPoolExecutor(4) as threads:
        work = [threads.submit(each.patch, name="same") for each in (first, second)]
        work.append(threads.submit(third.clone, "same"))
        work.append(threads.submit(base.promote, "same", out=tmp_path))
    errors = [each.exception() for each in work]
    assert {type(each) for each in errors} == {type(None), ConfigError}
    names = Counter(each.name for each in list_taxonomies(tmp_path))
    assert set(names.values()) == {1}
    assert names.keys() >= {"c", "same"}


def test_who_waits_too_long_is_told(
    tmp_path: Path, base: gpucluster.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "WAIT_S", 0.0)
    taxonomy = promoted(base, tmp_path)
    held = shelf.Shelf(tmp_path).held(taxonomy.taxonomy_id, Reporter())
    with held, pytest.raises(RunLockedError, match="in use"):
        promoted(base, tmp_path, "cl_0")
    assert promoted(base, tmp_path, "cl_0").version == 2


def test_a_number_is_written_once(
    tmp_path: Path, base: gpucluster.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by whoever believes that it holds the taxonomy, as where a lease was lost."""
    first = promoted(base, tmp_path)
    content = (first.run.path / "manifest.json").read_bytes()
    monkeypatch.setattr(shelf.Shelf, "versions", lambda *_: [])
    monkeypatch.setattr(shelf.Shelf, "_sweep", lambda *_: None)
    with pytest.raises(RunLockedError, match="version 1 of .* written by another"):
        promoted(base, tmp_path, "cl_0")
    assert (first.run.path / "manifest.json").read_bytes() == content


def test_what_is_unfinished_is_no_taxonomy(tmp_path: Path, base: gpucluster.Run) -> None:
    taxonomy = promoted(base, tmp_path)
    (taxonomy.run.path / "manifest.json").unlink()
    assert list_taxonomies(tmp_path) == []
    with pytest.raises(TaxonomyNotFoundError, match="unfinished"):
        gpucluster.open_taxonomy(taxonomy.folder)
    assert promoted(base, tmp_path).version == 1


def test_taxonomies_in_a_bucket(bucket: str, base: gpucluster.Run, tmp_path: Path) -> None:
    here = promoted(base, tmp_path, "cl_1", "cl_2")
    promoted(base, f"{bucket}/out")
    there = promoted(base, f"{bucket}/out", "cl_1", "cl_2")
    assert there.versions == (1, 2)
    assert there.nodes.equals(here.nodes)
    opened = gpucluster.open_taxonomy(f"{bucket}/out")
    assert opened.version == 2
    X = rows(100, 2)
    np.testing.assert_array_equal(
        opened.apply(X, device="cpu").labels_, here.apply(X, device="cpu").labels_
    )
    copy = opened.clone("copy").patch(description="of another")
    copy.run.verify()
    assert [each.name for each in list_taxonomies(f"{bucket}/out")].count("copy") == 1
    opened.delete()
    assert [each.name for each in list_taxonomies(f"{bucket}/out")] == ["copy"]
