"""Whatever ends an enrichment, readers see all of its fields or none, and doing it again is enough.

A reader reads by the manifest of a collection, or by the record of a folder.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster.artifacts import LocalStore
from gpucluster.artifacts.files import unseal
from gpucluster.artifacts.store import Durable
from gpucluster.errors import Cancelled, CorruptInputError, RunLockedError, StoreError
from gpucluster.events import CancelToken, Progress
from gpucluster.places import place
from gpucluster.sources.collection import collection_files, read_manifest
from gpucluster.writeback import publishing
from tests.helpers.faults import KILLS, REFUSALS, Faulty, due, is_killed, temporary_files
from tests.helpers.topics import documents, topic_run

MANIFEST = "docs.collection.json"
FIELDS = ("cluster_id", "member_count", "distance_to_centroid")


class Scene:
    """A folder with two files of documents, their manifest, and two runs of them.

    The first run has enriched the collection, and ``enriched/``, before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "scene"
        self.runs = [topic_run(folder, 60, algorithm_params={"n_clusters": k}) for k in (3, 5)]
        self.folder.mkdir()
        for part in range(2):
            table = documents(60).slice(30 * part, 30)
            pq.write_table(table, self.folder / f"docs-{part}.parquet")
        feature = {"mixpeek://text@v1/embedding": {"column": "embedding", "dim": 12}}
        body = {"collection_id": "docs", "files": ["docs-*.parquet"], "features": feature}
        (self.folder / MANIFEST).write_text(json.dumps(body))
        self.original = (self.folder / MANIFEST).read_bytes()
        for target in (None, "enriched"):
            enrich(self.folder, self.runs[0], target)

    def copy(self, to: Path) -> Path:
        """Return a copy to enrich by the second run."""
        return Path(shutil.copytree(self.folder, to))

    def seen(self, folder: Path, target: str | None) -> str:
        """Return what a reader finds: the fields of the first run, of the second, or none."""
        files = self.files(folder, target)
        found = {self.whose(path) for path in files}
        assert len(found) <= 1, "fields of two runs are read together"
        assert len(files) in {0, 2}
        return found.pop() if found else "none"

    def files(self, folder: Path, target: str | None) -> list[Path]:
        if target is None:
            manifest = folder / MANIFEST
            return [Path(path) for path in collection_files(manifest, read_manifest(manifest))]
        record = folder / target / "enrichment.json"
        if not record.exists():
            return []
        return [
            folder / target / f["name"] for f in unseal(json.loads(record.read_text()))["files"]
        ]

    def whose(self, path: Path) -> str:
        table = pq.read_table(path, page_checksum_verification=True)
        assert table.num_rows == 30
        if not set(FIELDS) & set(table.column_names):
            return "none"
        ids = table["document_id"].to_pylist()
        for name, run in zip(("first", "second"), self.runs, strict=True):
            own = dict(run.members.select(["document_id", "cluster_id"]).to_pandas().to_numpy())
            if table["cluster_id"].to_pylist() == [own[each] for each in ids]:
                assert set(FIELDS) <= set(table.column_names)
                assert not any(table[field].null_count for field in FIELDS)
                return name
        raise AssertionError("a file has fields of no run")


def enrich(
    folder: Path,
    run: gpucluster.Run,
    target: str | None,
    durable: Durable | None = None,
    **how: Any,
) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        if durable is not None:
            patch.setattr(publishing, "open_store", lambda root: LocalStore(root, durable))
        out = None if target is None else folder / target
        return run.enrich(folder / MANIFEST, fields=FIELDS, out=out, **how)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"))


@pytest.mark.parametrize("target", [None, "enriched"], ids=["in place", "a folder"])
@pytest.mark.parametrize("fault", KILLS)
def test_killed_at_every_durable_operation(
    scene: Scene, tmp_path: Path, fault: str, target: str | None
) -> None:
    counter = Faulty()
    enrich(scene.copy(tmp_path / "whole"), scene.runs[1], target, counter)
    seen: Counter[str] = Counter()
    for n in due(counter.operations, fault):
        folder = scene.copy(tmp_path / str(n))
        dying = functools.partial(enrich, folder, scene.runs[1], target, Faulty(n, fault))
        assert is_killed(dying), f"operation {n} was not reached"
        seen[scene.seen(folder, target)] += 1
        done = enrich(folder, scene.runs[1], target)
        assert (done.processed, done.enriched, done.failed) == (60, 60, 0)
        assert scene.seen(folder, target) == "second"
        assert not temporary_files(folder / "docs.enriched")
        if target is None:  # and all the way back
            for before in ("first", "none"):
                gpucluster.undo_enrichment(folder / MANIFEST)
                assert scene.seen(folder, None) == before
            assert (folder / MANIFEST).read_bytes() == scene.original
        shutil.rmtree(folder)
    print(f"\n{fault}, {target}: {dict(seen)}")  # noqa: T201 - shown by -s
    assert sum(seen.values()) > 3
    assert set(seen) <= {"first", "second", *(["none"] if target else [])}


@pytest.mark.parametrize("target", [None, "enriched"], ids=["in place", "a folder"])
@pytest.mark.parametrize("fault", REFUSALS)
def test_refused_at_every_durable_operation(
    scene: Scene, tmp_path: Path, fault: str, target: str | None
) -> None:
    for n in itertools.count(1):
        folder = scene.copy(tmp_path / str(n))
        try:
            enrich(folder, scene.runs[1], target, Faulty(n, fault), parallelism=2)
        except StoreError:
            pass
        else:
            break
        assert scene.seen(folder, target) in {"first", "second", *(["none"] if target else [])}
        enrich(folder, scene.runs[1], target)
        assert scene.seen(folder, target) == "second"
        shutil.rmtree(folder)
    assert n > 10


def test_killed_while_it_is_undone(scene: Scene, tmp_path: Path) -> None:
    counter = Faulty()

    def undo(folder: Path, durable: Durable) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publishing, "open_store", lambda root: LocalStore(root, durable))
            gpucluster.undo_enrichment(folder / MANIFEST)

    undo(scene.copy(tmp_path / "whole"), counter)
    for n in due(counter.operations, "killed before", every=True):
        folder = scene.copy(tmp_path / str(n))
        assert is_killed(functools.partial(undo, folder, Faulty(n, "killed before")))
        assert scene.seen(folder, None) in {"first", "none"}


def test_cancelled(scene: Scene, tmp_path: Path) -> None:
    folder, token = scene.copy(tmp_path / "scene"), CancelToken()

    def observe(event: object) -> None:
        if isinstance(event, Progress) and event.done >= 40:
            token.cancel()

    with pytest.raises(Cancelled):
        enrich(folder, scene.runs[1], None, batch_rows=10, observer=observe, cancel=token)
    assert scene.seen(folder, None) == "first"
    assert not temporary_files(folder)
    done = enrich(folder, scene.runs[1], None)
    assert [file.reused for file in done.files] == [True, False]


def test_one_file_that_fails_ends_all(scene: Scene, tmp_path: Path) -> None:
    folder, token = scene.copy(tmp_path / "scene"), CancelToken()
    shutil.copy(folder / "docs-1.parquet", folder / "docs-2.parquet")
    content = bytearray((folder / "docs-1.parquet").read_bytes())
    content[60] ^= 255
    (folder / "docs-1.parquet").write_bytes(content)
    (folder / MANIFEST).write_bytes(scene.original)
    with pytest.raises(CorruptInputError):
        enrich(folder, scene.runs[1], None, parallelism=3, cancel=token)
    assert not token.cancelled
    assert (folder / MANIFEST).read_bytes() == scene.original


def test_two_at_a_time(scene: Scene, tmp_path: Path) -> None:
    folder = scene.copy(tmp_path / "scene")
    store = LocalStore(folder)
    with store.lease("docs.enriched"), pytest.raises(RunLockedError):
        enrich(folder, scene.runs[1], None)
    with store.lease("enriched"), pytest.raises(RunLockedError):
        enrich(folder, scene.runs[1], "enriched")


def test_a_manifest_of_before_that_was_altered(scene: Scene, tmp_path: Path) -> None:
    folder = scene.copy(tmp_path / "scene")
    enriched = (folder / MANIFEST).read_bytes()
    kept = folder / json.loads(enriched)["enrichment"]["before"]
    kept.write_text(kept.read_text() + " ")
    with pytest.raises(CorruptInputError, match="not what was written"):
        gpucluster.undo_enrichment(folder / MANIFEST)
    kept.unlink()
    with pytest.raises(gpucluster.GpuclusterError, match="manifest of before is missing"):
        gpucluster.undo_enrichment(folder / MANIFEST)
    assert (folder / MANIFEST).read_bytes() == enriched


def test_in_a_bucket(scene: Scene, bucket: str, tmp_path: Path) -> None:
    """Read, enrich, enrich by another run, undo: all of it without a disk."""
    import io

    folder = scene.copy(tmp_path / "scene")
    (folder / MANIFEST).write_bytes(scene.original)
    for path in [folder / MANIFEST, *folder.glob("docs-*.parquet")]:
        content = path.read_bytes()
        target = place(f"{bucket}/data/{path.name}")
        target.bucket.write(target.key, io.BytesIO(content), len(content))
    manifest = f"{bucket}/data/{MANIFEST}"
    first = scene.runs[0].enrich(manifest, fields=FIELDS)
    assert str(first.before).startswith(f"{bucket}/data/docs.enriched/before-")
    done = scene.runs[1].enrich(manifest, fields=FIELDS, parallelism=2)
    assert (done.processed, done.enriched) == (60, 60)
    with pq.ParquetFile(
        (place(f"{bucket}/data/docs.enriched") / done.files[0].name).open()
    ) as file:
        assert file.read()["cluster_id"].null_count == 0
    assert gpucluster.undo_enrichment(manifest) == scene.runs[1].run_id
    assert gpucluster.undo_enrichment(manifest) == scene.runs[0].run_id
    assert place(manifest).read_bytes() == scene.original
    out = scene.runs[0].enrich(f"{bucket}/data/docs-*.parquet", fields=FIELDS, out=f"{bucket}/e/o")
    assert [file.name for file in out.files] == ["docs-0.parquet", "docs-1.parquet"]
    assert unseal(json.loads(place(f"{bucket}/e/o/enrichment.json").read_bytes()))
    again = scene.runs[0].enrich(f"{bucket}/data", fields=FIELDS, out=tmp_path / "here")
    assert again.processed == 60
