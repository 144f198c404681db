from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from gpucluster.artifacts.files import seal
from gpucluster.artifacts.manifest import FileEntry, Manifest
from gpucluster.device.select import Decision
from gpucluster.errors import CorruptArtifactError, SchemaTooNewError
from gpucluster.events import StageRecord, Warned
from tests.helpers.runs import manifest

STAGE = StageRecord("fit", "cpu", "sklearn", "local", "asked for", 1.5, 1000)


@pytest.fixture(scope="module")
def whole() -> Manifest:
    return manifest(files={"members.parquet": FileEntry(sha256="2" * 64, bytes=10, rows=1)})


def test_what_is_written_is_read(whole):
    read = Manifest.from_json(whole.to_json(), "m")
    assert read == whole
    assert read.stages == (STAGE,)
    assert read.warnings == (Warned("small", "few rows"),)
    assert read.device == Decision("auto", "cpu", "cupy is not installed")
    assert read.content_sha256 == whole.content_sha256
    assert json.loads(whole.to_json())["content_sha256"] == whole.content_sha256


@pytest.mark.parametrize(
    "change",
    [
        {"created_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"completed_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"versions": {"numpy": "9"}},
        {"source": {"paths": ["elsewhere.parquet"], "bytes": 3}},
        {"device": Decision("cpu", "cpu", "asked for")},
        {
            "stages": (
                StageRecord("fit", "cpu", "sklearn", "local", "x", 9, 9, 9, 9.5, "exact", True),
            )
        },
    ],
    ids=lambda change: next(iter(change)),
)
def test_circumstances_are_not_content(change):
    assert manifest(**change).content_sha256 == manifest().content_sha256


@pytest.mark.parametrize(
    "change",
    [
        {"definition": {"algorithm": {"name": "kmeans", "n_clusters": 6}}},
        {"definition_sha256": "3" * 64},
        {"data_sha256": "3" * 64},
        {"random_state": 1},
        {"metrics": {"silhouette_score": 0.2500000000000001}},
        {"stages": (StageRecord("fit", "gpu", "cuml", "local", "asked for", 1.5, 1000),)},
        {"warnings": ()},
        {"reproducible": "statistical"},
        {"not_run": ("labeling",)},
        {"files": {"members.parquet": {"sha256": "3" * 64, "bytes": 10, "rows": 1}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_results_are_content(change):
    assert manifest(**change).content_sha256 != manifest().content_sha256


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"surprise": 1}, "surprise"),
        ({"run_id": "../run"}, "run_id"),
        ({"created_at": datetime(2020, 1, 1)}, "created_at"),  # noqa: DTZ001
        ({"data_sha256": "short"}, "data_sha256"),
        ({"metrics": {"x": object()}}, "metrics"),
        ({"files": {"../x": {"sha256": "3" * 64, "bytes": 1}}}, "files"),
        ({"files": {"/etc/passwd": {"sha256": "3" * 64, "bytes": 1}}}, "files"),
        ({"files": {"x": {"sha256": "3" * 64, "bytes": -1}}}, "files"),
        ({"reproducible": "maybe"}, "reproducible"),
    ],
)
def test_a_manifest_is_checked(change, where):
    with pytest.raises(ValidationError, match=where):
        manifest(**change)


def test_a_manifest_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        manifest().run_id = "run_b"


def test_a_newer_schema_is_named_before_anything_else():
    text = json.dumps({"schema_version": 2, "gpucluster_version": "7.1", "new": 1}).encode()
    with pytest.raises(SchemaTooNewError, match=r"m has schema version 2.*install gpucluster 7\.1"):
        Manifest.from_json(text, "m")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"[1]",
        b"null",
        b"7",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        seal({"run_id": "run_a"}),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_manifest(text):
    with pytest.raises(CorruptArtifactError, match="m is no manifest, or a damaged one"):
        Manifest.from_json(text, "m")


def test_no_flipped_bit_is_believed(whole):
    text = whole.to_json()
    for position in range(len(text)):
        damaged = bytearray(text)
        damaged[position] ^= 1 << position % 8
        try:
            read = Manifest.from_json(bytes(damaged), "m")
        except (CorruptArtifactError, SchemaTooNewError):
            continue
        assert read == whole  # white space
