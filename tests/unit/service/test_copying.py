"""Documents of elsewhere are copied: told on the way, stopped, and gone on with."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpucluster.artifacts import open_store
from gpucluster.errors import Cancelled, DuplicateIdsError, InputError, ShapeError
from gpucluster.events import CancelToken, Reporter
from gpucluster.places import Place, place
from gpucluster.service.collections.copying import as_stored, copy_documents, part_of
from gpucluster.service.collections.creating import Draft
from gpucluster.service.collections.incoming import Limits
from gpucluster.service.collections.versions import Overtaken, Versions
from gpucluster.service.folders import remove_folder
from gpucluster.sources.collection import Feature
from tests.helpers.documents import DIM, TEXT, documents, ids, write_lines, write_table

FOLDER = "ns/default/collections/col_a"
TASK = "task_a"


class Copying:
    """A collection that is being made of files."""

    def __init__(self, root: Place, paths: list[Place], limits: Limits | None = None) -> None:
        self.store = open_store(root)
        self.versions = Versions(self.store, FOLDER)
        self.draft = Draft(collection_id="col_a", features={TEXT: Feature(dim=DIM)})
        self.data = root / FOLDER / "data" / TASK
        self.paths = paths
        self.limits = limits or Limits()
        self.seen: list[tuple[int, int]] = []

    def go(self, stop_at: float = 2.0):
        """Copy, and ask for a stop at some share of the whole."""
        paths, cancel = [str(path) for path in self.paths], CancelToken()
        checked: list[str] = []
        self.seen = []

        def note(event):
            self.seen.append((event.done, event.total))
            if event.done >= stop_at * event.total:
                cancel.cancel()

        return copy_documents(
            *(self.store, self.versions, as_stored(self.draft, paths)),
            [part_of(path, self.limits, checked.append) for path in paths],
            folder=TASK,
            unit="bytes",
            reporter=Reporter("import", note, cancel),
            details={"task_id": TASK},
        )

    def files(self) -> dict[str, tuple[int, int]]:
        """Return what lies there, hidden files too, and what changes when it is written anew."""
        found = self.data.iterdir() if self.data.exists() else ()
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def lines_of(path: Path, *numbers: int) -> Path:
    return write_lines(path, documents(*numbers))


@pytest.fixture
def three(tmp_path):
    """Three files of 2,000 documents."""
    paths = [
        lines_of(tmp_path / f"{n}.jsonl", *range(2_000 * n, 2_000 * (n + 1))) for n in range(3)
    ]
    return Copying(tmp_path / "root", paths)


@pytest.mark.parametrize("kind", ["parquet", "jsonl.gz"])
def test_progress_moves_within_one_file(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    n = 30_000
    if kind == "parquet":
        write_table(path, n)
    else:
        lines_of(path, *range(n))
    if kind == "jsonl.gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    copying = Copying(tmp_path / "root", [path])
    assert copying.go().n_rows == n
    done = [each for each, _ in copying.seen]
    total = path.stat().st_size * (1 if kind == "parquet" else 2)
    assert {each for _, each in copying.seen} == {total}
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)
    assert len(set(done)) >= 5


@pytest.mark.parametrize(("share", "n_kept"), [(0.1, 0), (0.4, 1), (0.8, 2), (0.9, 3)])
def test_what_was_finished_before_a_stop_is_kept(three, share, n_kept):
    with pytest.raises(Cancelled):
        three.go(stop_at=share)
    kept = three.files()
    assert len(kept) == n_kept
    assert not any(name.startswith(".") for name in kept)
    version = three.go()
    assert ids(three.versions) == [f"doc-{n}" for n in range(6_000)]
    assert kept.items() <= three.files().items()
    assert version.details == {"files": 3, "added": 6_000, "task_id": TASK}
    assert {file.name for file in version.files} == {f"../data/{TASK}/{n}" for n in three.files()}


def test_a_second_try_makes_what_an_undisturbed_one_makes(three, tmp_path):
    with pytest.raises(Cancelled):
        three.go(stop_at=0.4)
    one, other = three.go(), Copying(tmp_path / "other", three.paths).go()
    assert one.schema.equals(other.schema)
    assert one.files == other.files


def test_what_is_damaged_or_was_changed_is_copied_anew(three):
    with pytest.raises(Cancelled):
        three.go(stop_at=0.8)
    first, second = sorted(three.data.iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    lines_of(three.paths[1], *range(10_000, 10_010))
    version = three.go()
    assert version.n_rows == 4_010
    assert not second.exists()  # it was of other documents
    assert "doc-10009" in ids(three.versions)


def test_a_kill_leaves_a_half_file_which_the_next_try_removes(three):
    three.data.mkdir(parents=True)
    (three.data / ".00000-x.parquet.1-0.tmp").write_bytes(b"half")
    three.go()
    assert len(three.files()) == 3


def test_a_bad_row_in_the_third_file_publishes_nothing(three):
    with three.paths[2].open("a") as file:
        file.write('{"document_id": "x", "text_embedding": [1, 2]}\n')
    with pytest.raises(ShapeError, match=r"2\.jsonl.*2 values, 4 expected"):
        three.go()
    assert three.versions.numbers() == []


def test_an_id_in_two_files_and_files_beyond_the_limits_are_refused(three, tmp_path):
    three.paths.append(three.paths[0])
    with pytest.raises(DuplicateIdsError, match="2,000 ids"):
        three.go()
    for limits, said in ((Limits(upload_bytes=10), "at most 10"), (Limits(rows=10), "at most 10")):
        with pytest.raises(InputError, match=said):
            Copying(tmp_path / "limited", three.paths[:1], limits).go()


def test_files_of_another_collection_are_not_added_to(three):
    three.go()
    with pytest.raises(Overtaken):
        three.go()


@pytest.mark.parametrize("second", ["float16", "float32", "lines"])
def test_vectors_stay_float16_where_all_files_have_that(tmp_path, second):
    def table(name, dtype):
        vectors = pa.array(np.ones((3, DIM), dtype).tolist(), pa.list_(pa.from_numpy_dtype(dtype)))
        named = [f"{name}-{row}" for row in range(3)]
        pq.write_table(pa.table({"document_id": named, TEXT: vectors}), tmp_path / name)
        return tmp_path / name

    if second == "lines":
        other = lines_of(tmp_path / "b.jsonl", 1)
    else:
        other = table("b.parquet", np.dtype(second))
    copying = Copying(tmp_path / "root", [table("a.parquet", np.dtype("float16")), other])
    version = copying.go()
    expected = "float16" if second == "float16" else "float32"
    assert version.features[TEXT].dtype == expected
    stored = pq.read_schema(next(copying.data.iterdir())).field("text_embedding").type
    assert stored == pa.list_(pa.from_numpy_dtype(np.dtype(expected)), DIM)


def test_in_a_bucket_it_is_the_same(bucket, tmp_path):
    paths, given = [], open_store(place(f"{bucket}/given"))
    for n in range(3):
        content = lines_of(tmp_path / f"{n}.jsonl", *range(100 * n, 100 * (n + 1))).read_bytes()
        given.put(f"{n}.jsonl", lambda file, content=content: file.write(content))
        paths.append(place(f"{bucket}/given/{n}.jsonl"))
    copying = Copying(place(f"{bucket}/root"), paths)
    with pytest.raises(Cancelled):
        copying.go(stop_at=0.4)
    folder = f"{FOLDER}/data/{TASK}"
    (kept,) = copying.store.list(folder)
    written = (copying.data / kept).stat()
    version = copying.go()
    assert (copying.data / kept).stat() == written
    assert ids(copying.versions) == [f"doc-{n}" for n in range(300)]
    assert [file.name for file in version.files] == [
        f"../data/{TASK}/{name}" for name in copying.store.list(folder)
    ]
    remove_folder(copying.data)
    assert copying.store.list(folder) == ()
