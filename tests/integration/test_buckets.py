"""Runs in a bucket, and rows that come from one, as on a disk."""

from __future__ import annotations

import gc
import gzip
import io
import itertools
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpucluster
from gpucluster.artifacts import Checkpoints, object_lease, open_store
from gpucluster.errors import (
    ArtifactError,
    BackendUnavailableError,
    Cancelled,
    ConfigError,
    CorruptArtifactError,
    GpuclusterError,
    RunNotFoundError,
    SourceError,
    SourceNotFoundError,
    StoreError,
)
from gpucluster.events import StageFinished
from gpucluster.labeling.fake_server import FakeServer
from gpucluster.places import ObjectPath, place
from gpucluster.places import bucket as requests
from gpucluster.sources import file_state, open_source
from tests.helpers.faults import ALL_KILLS
from tests.helpers.object_service import Proxy
from tests.helpers.runs import LABELS, manifest, publish_whole, tables

ROOT = Path(__file__).parents[2]
N_ROWS, N_FEATURES = 300, 8
SETTINGS = {
    "algorithm": "kmeans",
    "algorithm_params": {"n_clusters": 3},
    "preprocessing_steps": [{"method": "pca", "n_components": 4}],
    "device": "cpu",
}


def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = 6 * rng.normal(size=(3, N_FEATURES))
    return (centers.repeat(N_ROWS // 3, 0) + rng.normal(size=(N_ROWS, N_FEATURES))).astype("f4")


def documents() -> pa.Table:
    words = ["brass horn music", "garden rose water", "train rail bridge"]
    return pa.table(
        {
            "document_id": [f"doc-{row}" for row in range(N_ROWS)],
            "text": [words[row // (N_ROWS // 3)] for row in range(N_ROWS)],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors().ravel()), N_FEATURES),
        }
    )


def upload(address: str, content: bytes) -> str:
    path = place(address)
    assert isinstance(path, ObjectPath)
    path.bucket.write(path.key, io.BytesIO(content), len(content))
    return address


def parquet(table: pa.Table | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(documents() if table is None else table, sink)
    return sink.getvalue()


def cluster(data: object, out: object, **changes: object) -> gpucluster.Run:
    return gpucluster.cluster(data, out=out, **SETTINGS, **changes)


def objects(bucket: str) -> list[ObjectPath]:
    return [*place(bucket).rglob("*")]


def test_a_run_in_a_bucket_is_that_on_a_disk(bucket: str, tmp_path: Path):
    here, there = cluster(documents(), tmp_path), cluster(documents(), f"{bucket}/runs")
    assert there.manifest.content_sha256 == here.manifest.content_sha256
    assert str(there.path) == f"{bucket}/runs/{here.run_id}"
    again = gpucluster.open_run(str(there.path), verify=True)
    np.testing.assert_array_equal(again.labels_, here.labels_)
    assert again.members.equals(here.members)
    assert again.model.keys() == here.model.keys()
    assert gpucluster.open_run(f"{there.path}/manifest.json").run_id == here.run_id
    assert cluster(documents(), f"{bucket}/runs").manifest == there.manifest  # finished before
    assert not (there.path / ".lock").exists()
    assert not [each for each in objects(bucket) if each.name.startswith(".")]


def test_what_can_be_done_with_a_run_can_be_done_in_a_bucket(bucket: str, tmp_path: Path):
    out, rows = f"{bucket}/runs", upload(f"{bucket}/docs.parquet", parquet())
    first = cluster(rows, out, text_column="text")
    moved = documents().set_column(
        2, "embedding", pa.FixedSizeListArray.from_arrays(pa.array(vectors().ravel() * 1.5), 8)
    )
    second = cluster(moved, out)
    assert second.manifest.lineage["previous_run_id"] == first.run_id
    assert gpucluster.compare(str(first.path), str(second.path)).counts["survived"] == 3
    named = gpucluster.label(str(first.path))
    assert {name.split()[0].lower() for name in named.cluster_labels.values()} & {"brass", "horn"}
    assert gpucluster.open_run(str(first.path)).labeling == named.labeling
    joined = gpucluster.assign(
        documents().slice(0, 50), run=str(first.path), scope="all", device="cpu"
    )
    assert str(joined.path.parent) == out
    assert joined.manifest.base_run_id == first.run_id
    series = gpucluster.history(out).series
    assert sorted(run.run_id for each in series for run in each.runs) == sorted(
        run.run_id for run in (first, second, joined)
    )
    assert (
        gpucluster.assign(documents(), run=out, out=tmp_path, device="cpu").path.parent == tmp_path
    )


def test_what_a_model_was_asked_lies_beside_the_names(bucket: str):
    run = cluster(upload(f"{bucket}/docs.parquet", parquet()), f"{bucket}/runs")
    with FakeServer() as server:
        asked = {"provider": "openai_compatible", "model_name": "fake", "base_url": server.base_url}
        named = gpucluster.label(str(run.path), asked)
        assert named.labeling.counts["num_llm"] == 3
        calls = server.calls
        assert gpucluster.label(str(run.path), asked).labeling == named.labeling
        assert server.calls == calls
    audit = (run.path / "labels" / named.labeling.audit).read_text()
    assert len(audit.splitlines()) >= 3
    assert not [each for each in objects(bucket) if each.suffix == ".sqlite"]


def files_of(kind: str) -> dict[str, bytes]:
    """Return the rows as files of a format, by name; the first one is the one to read."""
    table, X = documents(), vectors()
    ids = np.array(table["document_id"].to_pylist())
    lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    sink = io.BytesIO()
    if kind == "docs.arrow":
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif kind == "docs.npy":
        np.save(sink, X)
        beside = io.BytesIO()
        np.save(beside, ids)
        return {kind: sink.getvalue(), "docs.ids.npy": beside.getvalue()}
    elif kind == "docs.npz":
        np.savez(sink, embedding=X, ids=ids)
    elif kind == "docs.fbin":
        return {kind: np.array(X.shape, "<u4").tobytes() + X.tobytes()}
    elif kind == "docs.jsonl":
        return {kind: lines}
    elif kind == "docs.jsonl.gz":
        return {kind: gzip.compress(lines)}
    elif kind == "docs.parquet":
        return {kind: parquet()}
    else:
        one, other = table.slice(0, 100), table.slice(100)
        return {
            "deep/a.parquet": parquet(one),
            "deep/er/b.parquet": parquet(other),
            "deep/_SUCCESS": b"",
            "deep/.hidden.parquet": b"no Parquet",
            "deep/run_x/members.parquet": b"no Parquet",
        }
    return {kind: sink.getvalue()}


@pytest.mark.parametrize(
    "kind",
    [
        *("docs.parquet", "docs.arrow", "docs.npy", "docs.npz", "docs.fbin"),
        *("docs.jsonl", "docs.jsonl.gz", "deep", "deep/", "deep/*.par?uet", "deep/**/[ab].parquet"),
    ],
)
def test_rows_in_a_bucket_are_those_on_a_disk(
    bucket: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    for name, content in files_of(kind).items():
        upload(f"{bucket}/in/{name}", content)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    here, there = open_source(str(tmp_path / kind)), open_source(f"{bucket}/in/{kind}")
    assert [each.removeprefix(f"{bucket}/in") for each in there.info.paths] == [
        each.removeprefix(str(tmp_path)) for each in here.info.paths
    ]
    assert there.info.n_rows == here.info.n_rows > 0
    assert there.info.columns == here.info.columns
    for source in (here, there):  # twice: what was read once can be read again
        for _ in range(2):
            rows = [(batch.vectors, batch.ids) for batch in source.batches(1 << 12)]
        X = np.concatenate([each for each, _ in rows])
        np.testing.assert_array_equal(X, vectors()[: len(X)])
    assert (there.ids() is None) == (here.ids() is None)
    assert there.ids() is None or there.ids().equals(here.ids())
    del here, there, source, rows
    gc.collect()
    assert [*(tmp_path / "temp").iterdir()] == []  # copies are gone with their source


def test_names_are_taken_as_they_are(bucket: str):
    for name in ("a [1]*+é%2F/docs.parquet", "a [2]/docs.parquet", "b/.c/docs.parquet"):
        upload(f"{bucket}/{name}", parquet())
    odd = f"{bucket}/a [1]*+é%2F"
    assert open_source(odd).info.paths == (f"{odd}/docs.parquet",)
    assert open_source(f"{odd}/docs.parquet").info.n_rows == N_ROWS
    run = cluster(f"{odd}/docs.parquet", odd)
    assert cluster(documents(), odd, fresh=True).manifest.lineage["previous_run_id"] == run.run_id
    assert open_source(f"{bucket}/a ?[2]?/*").info.paths == (f"{bucket}/a [2]/docs.parquet",)
    with pytest.raises(SourceNotFoundError):
        open_source(f"{bucket}/b/*/docs.parquet")


def test_a_collection_in_a_bucket(bucket: str, tmp_path: Path):
    uri = "mixpeek://text_extractor@v1/text_embedding"
    manifest = {
        "collection_id": "docs",
        "files": ["rows/*.parquet"],
        "features": {uri: {"column": "embedding", "dim": N_FEATURES}},
    }
    upload(f"{bucket}/c/rows/a.parquet", parquet())
    inside = upload(f"{bucket}/c/docs.collection.json", json.dumps(manifest).encode())
    manifest["files"] = [f"{bucket}/c/rows"]
    beside = tmp_path / "docs.collection.json"
    beside.write_text(json.dumps(manifest))
    for collection in (inside, beside):
        run = cluster(collection, tmp_path / "out")
        assert run.manifest.source["paths"] == [f"{bucket}/c/rows/a.parquet"]
        assert run.manifest.source["feature"] == uri


def test_a_file_is_told_from_what_it_was(bucket: str):
    address = upload(f"{bucket}/a.npy", b"1")
    before = file_state(address)
    assert file_state(address) == before
    upload(address, b"2")
    assert file_state(address) != before


def test_an_object_that_changes_while_it_is_read_is_refused(bucket: str):
    address = upload(f"{bucket}/docs.parquet", parquet())
    file = place(address).open()
    assert file.read(4) == b"PAR1"
    upload(address, parquet(documents().slice(1)))
    file.seek(2 << 20)  # away from what was fetched ahead
    file.seek(0)
    with pytest.raises(OSError, match="changed meanwhile"):
        file.read()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send no request twice, and take every lease for one that has run out."""
    monkeypatch.setitem(requests.PATIENCE, "max_retries", 0)
    monkeypatch.setattr(requests, "PAUSES_S", ())
    monkeypatch.setattr(requests, "_open", {})
    monkeypatch.setattr(object_lease, "EXPIRY_S", -1.0)


@pytest.mark.usefixtures("impatient")
def test_what_cannot_be_read_is_said_so(bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch):
    there = upload(f"{bucket}/docs.npy", b"no array")
    upload(f"{bucket}/texts/readme.md", b"")
    for data, error, said in (
        (f"{bucket}/none.parquet", SourceNotFoundError, "there is no such object or folder"),
        (f"{bucket}/*.parquet", SourceNotFoundError, "there is no such object or folder"),
        (f"{bucket}/texts", SourceNotFoundError, "no object there can be read"),
        ("s3://no-such-bucket/x.npy", SourceNotFoundError, "there is no such bucket"),
        (there, SourceError, "docs.npy"),
        ("s3://key:canary-secret@bucket/x.npy", ConfigError, "the name of a bucket alone"),
        ("s3:///x.npy", ConfigError, "the name of a bucket alone"),
        ("s3://bucket/../x.npy", ConfigError, "no name in an address"),
        ("gcs://bucket/x.npy", ConfigError, "expected a path, or text that begins with s3://"),
        ("S3://bucket/x.npy", ConfigError, "expected a path, or text that begins with s3://"),
        (Path("s3://bucket/x.npy"), ConfigError, "pathlib takes a / out of an address"),
    ):
        with pytest.raises(error, match=said) as caught:
            gpucluster.inspect(data)
        assert "canary" not in str(caught.value)
    for run, said in (
        (f"{bucket}/none", "there is no such object"),
        (f"{bucket}/texts", "it has no manifest.json"),
        ("s3://no-such-bucket/runs", "there is no such bucket"),
    ):
        with pytest.raises(RunNotFoundError, match=said):
            gpucluster.open_run(run)
    with pytest.raises(RunNotFoundError, match="no runs in"):
        gpucluster.history(f"{bucket}/none")
    with pytest.raises(RunNotFoundError, match="there is no such bucket"):
        gpucluster.history("s3://no-such-bucket")
    for status, said in (("403", "access is denied"), ("503", "the service fails")):
        proxy.decide = lambda n, method, path, status=status: status
        with pytest.raises(SourceError, match=said):
            gpucluster.inspect(there)
        with pytest.raises(ArtifactError, match=said):
            gpucluster.open_run(f"{bucket}/runs")
        with pytest.raises(ArtifactError, match=said):
            gpucluster.history(f"{bucket}/runs")
        with pytest.raises((StoreError, ArtifactError), match=said):
            cluster(documents(), f"{bucket}/runs")
    proxy.pass_on()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    monkeypatch.setattr(requests, "_open", {})
    with pytest.raises(BackendUnavailableError, match=r"pip install 'gpucluster\[s3\]'"):
        gpucluster.inspect(there)


@pytest.mark.usefixtures("impatient")
def test_other_services_are_asked_for_as_well(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match="no credentials; set AZURE_STORAGE_ACCOUNT_NAME"):
        open_store(place("az://container/runs")).exists("x")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "canary-secret")  # not in Base64
    with pytest.raises((StoreError, ArtifactError)) as caught:
        cluster(documents(), "az://container/runs")
    assert "canary" not in str(caught.value)
    key = {"type": "service_account", "private_key": "canary-secret", "client_email": "a@b.c"}
    account = tmp_path / "account.json"
    account.write_text(json.dumps(key | {"private_key_id": "1", "gcs_base_url": "http://[::1]:1"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    with pytest.raises((StoreError, ArtifactError)) as caught:
        cluster(documents(), "gs://bucket/runs")
    assert "canary" not in str(caught.value)


def test_who_stops_gives_the_lock_back(bucket: str):
    cancel = gpucluster.CancelToken()

    def stop(event: object) -> None:
        if isinstance(event, StageFinished) and event.record.name.startswith("prepare"):
            cancel.cancel()

    with pytest.raises(Cancelled):
        cluster(documents(), f"{bucket}/runs", observer=stop, cancel=cancel)
    assert {each.name for each in objects(bucket)} & {".lock", "manifest.json"} == set()
    assert "done.json" in {each.name for each in objects(bucket)}


def test_a_damaged_run_in_a_bucket_is_refused(bucket: str):
    run = cluster(documents(), f"{bucket}/runs")
    for name in ("members.parquet", "model/assignment/means.npy"):
        content = bytearray((run.path / name).read_bytes())
        content[len(content) // 2] ^= 255
        upload(f"{run.path}/{name}", bytes(content))
        with pytest.raises(CorruptArtifactError, match="is damaged"):
            gpucluster.open_run(str(run.path), verify=True)
    upload(f"{run.path}/members.parquet", b"short")
    with pytest.raises(CorruptArtifactError, match="its manifest says"):
        gpucluster.open_run(str(run.path))
    (run.path.bucket).delete(f"{run.path.key}/members.parquet")
    with pytest.raises(CorruptArtifactError, match="members.parquet is missing"):
        gpucluster.open_run(str(run.path))


def test_a_run_goes_on_after_its_last_finished_stage(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(requests, "PAUSES_S", ())
    proxy.decide = lambda n, method, path: "403" if path.endswith("members.parquet") else None
    with pytest.raises(StoreError, match="access is denied"):
        cluster(documents(), f"{bucket}/runs")
    with pytest.raises(RunNotFoundError, match="it has no manifest.json"):
        gpucluster.open_run(f"{bucket}/runs")
    proxy.pass_on()
    run = cluster(documents(), f"{bucket}/runs")
    assert {stage.name for stage in run.manifest.stages if stage.reused} >= {"cluster"}


FAULTS = ("lost reply", "500", "reset before")


def publish_a_run(out: str) -> str:
    """Keep a stage and publish a run, without a pipeline; return what identifies its results."""
    store = open_store(place(out))
    with store.lease("run_a"):
        Checkpoints(store, "run_a").put("fit", "c" * 64, {"labels": LABELS}, {"n_iter": 3})
        return publish_whole(store, manifest(), tables()).content_sha256


def cluster_rows(out: str) -> str:
    """Cluster rows of the same bucket; return what identifies the results."""
    rows = f"{out.rpartition('/')[0]}/in/docs.parquet"
    return cluster(rows, out).manifest.content_sha256


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("work", [publish_a_run, cluster_rows])
def test_whatever_request_fails_a_run_is_whole_or_not_there(
    bucket: str, proxy: Proxy, work: Callable[[str], str]
):
    """The n-th request goes wrong and is not sent again, for every n; of a run in one way each."""
    upload(f"{bucket}/in/docs.parquet", parquet())
    proxy.pass_on()
    reference = work(f"{bucket}/reference")
    n_failed = 0
    for at, fault in itertools.product(range(1, len(proxy.seen) + 1), FAULTS):
        if work is cluster_rows and not ALL_KILLS and fault != FAULTS[at % len(FAULTS)]:
            continue
        requests._open.clear()
        out = f"{bucket}/{at}-{fault[:4].strip()}"
        proxy.fail(at, fault)
        error = failure_of(lambda out=out: work(out))
        if error is not None:
            n_failed += 1
            assert "the service " in str(error) or "cannot read all runs" in str(error)
        proxy.pass_on()
        runs = [each.parent for each in place(out).glob("*/manifest.json")]
        assert len(runs) == 1 or error is not None
        assert all(gpucluster.open_run(each, verify=True) for each in runs)
        assert work(out) == reference
        hidden = [each.name for each in objects(out) if each.name.startswith(".")]
        # what tried the service out stays where it was its own removal that failed
        assert len(hidden) <= 1
        assert {each.partition("-")[0] for each in hidden} <= {".lock", ".probe", ".time"}
    assert n_failed > 10


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("name", "then"),
    [("labels.npy", "reset before"), ("centroids.parquet", "lost reply")]
    + [("manifest.json", then) for then in ("reset before", "lost reply")],
)
def test_who_is_killed_leaves_a_whole_run_or_none(bucket: str, proxy: Proxy, name: str, then: str):
    """Killed while it writes an object, before or after this is there."""
    reference = publish_a_run(f"{bucket}/reference")
    code = f"from tests.integration.test_buckets import publish_a_run as go; go({bucket + '/a'!r})"

    def decide(n: int, method: str, path: str) -> str | None:
        if method == "PUT" and path.endswith(name):
            worker.kill()
            return then
        return None

    proxy.decide = decide
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    assert worker.wait(60) == -signal.SIGKILL
    proxy.pass_on()
    there = place(f"{bucket}/a/run_a")
    assert (there / ".lock").exists()
    found = gpucluster.Run.if_finished(there)
    assert (found is not None) == ((name, then) == ("manifest.json", "lost reply"))
    assert found is None or found.verify() is None
    assert publish_a_run(f"{bucket}/a") == reference


def failure_of(act: Callable[[], object]) -> GpuclusterError | None:
    try:
        act()
    except GpuclusterError as error:
        return error
    return None


def test_no_secret_is_said_or_kept(bucket: str, proxy: Proxy):
    rows = upload(f"{bucket}/in/docs.parquet", parquet())
    command = [sys.executable, "-m", "gpucluster", "run", rows, "--out", f"{bucket}/runs"]
    command += ["--algorithm", "kmeans", "--param", "n_clusters=3", "--device", "cpu"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    run = json.loads(done.stdout)
    assert run["path"].startswith(f"{bucket}/runs/run_")
    for each in objects(bucket):
        content = each.read_bytes()
        assert b"canary" not in content.lower(), each
    proxy.decide = lambda n, method, path: "403"
    for extra in ([], ["--debug"]):
        refused = subprocess.run([*command, *extra], capture_output=True, text=True, check=False)
        assert refused.returncode == 5
        assert "access is denied (403); look at AWS_ACCESS_KEY_ID" in refused.stderr
        said += refused.stdout + refused.stderr
    assert "canary" not in said.lower()
