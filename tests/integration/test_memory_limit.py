"""Too little memory: a run ends on disk with the same result, or is refused before any work.

Each in a process of its own, with 60 % of what the plan wants, as a flag or as a control group.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpucluster import open_run

N_ROWS, N_FEATURES = 80_000, 512
KMEANS = (
    *("--algorithm", "kmeans", "--param", "n_clusters=20", "--param", "n_init=1"),
    *("--param", "max_iter=5", "--steps", "whitening"),
)
AVERAGE = ("--algorithm", "agglomerative", "--param", "linkage=average", "--param", "n_clusters=9")
SHARE = 0.6  # of the memory that the plan wants
GROUPS = Path("/sys/fs/cgroup/memory")  # the first version


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a matrix that is large beside the process."""
    path = tmp_path_factory.mktemp("data") / "docs.parquet"
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((20, N_FEATURES), np.float32)
    X = centers[rng.integers(0, 20, N_ROWS)]
    X += rng.standard_normal(X.shape, np.float32)
    vectors = pa.array(X.astype(np.float16).ravel())
    columns = {
        "document_id": np.arange(N_ROWS).astype(str),
        "embedding": pa.FixedSizeListArray.from_arrays(vectors, N_FEATURES),
    }
    pq.write_table(pa.table(columns), path, row_group_size=8192)
    return path


def gpucluster(
    command: str, *options: object, before: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "gpucluster", command, *map(str, options), "--device", "cpu"]
    return subprocess.run(words, capture_output=True, text=True, check=False, preexec_fn=before)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wanted(data: Path, *options: str) -> int:
    """Return the bytes that a plan in memory wants."""
    planned = gpucluster("plan", data, *options, "--storage", "memory", "--json")
    return int(answer(planned)["peak_bytes"])


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the run that has all the memory it wants."""
    out = tmp_path_factory.mktemp("whole")
    run = answer(gpucluster("run", data, *KMEANS, "--out", out, "--json"))
    assert {stage["storage"] for stage in run["stages"]} == {"memory"}
    return run


def check_is_same(run: dict[str, Any], whole: dict[str, Any], limit: int) -> None:
    assert {stage["storage"] for stage in run["stages"]} == {"disk"}
    found, expected = open_run(run["path"], verify=True), open_run(whole["path"])
    assert found.manifest.content_sha256 == expected.manifest.content_sha256
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    assert max(stage["peak_bytes"] for stage in run["stages"]) < limit
    assert max(stage["peak_bytes"] for stage in whole["stages"]) > limit


def test_with_less_memory_a_run_goes_to_the_disk(
    data: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    limit = int(SHARE * wanted(data, *KMEANS))
    options = (*KMEANS, "--out", tmp_path, "--memory-limit", limit, "--json")
    check_is_same(answer(gpucluster("run", data, *options)), whole, limit)


def test_what_no_disk_helps_is_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    options = (*AVERAGE, "--sample-size", "15000")
    limit = int(SHARE * wanted(data, *options))
    out = tmp_path / "out"
    refused = gpucluster("run", data, *options, "--out", out, "--memory-limit", limit)
    assert refused.returncode == 3
    assert re.search(r"the cluster stage needs about [\d.]+ GB of memory", refused.stderr)
    assert f"{limit / 1e9:.1f} GB are allowed" in refused.stderr
    assert "load" not in refused.stderr
    assert not list(tmp_path.rglob("*"))


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group of memory."""
    made = GROUPS / f"gpucluster-test-{os.getpid()}"
    try:
        made.mkdir()
        (made / "memory.limit_in_bytes").write_text(str(1 << 40))
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    yield made
    made.rmdir()


def test_a_control_group_is_a_limit_without_a_flag(
    data: Path, whole: dict[str, Any], group: Path, tmp_path: Path
) -> None:
    limit = int(SHARE * wanted(data, *KMEANS))
    (group / "memory.limit_in_bytes").write_text(str(limit))

    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    planned = answer(gpucluster("plan", data, *KMEANS, "--json", before=join))
    assert planned["available_bytes"] < limit
    assert planned["storage"] == "disk"
    run = answer(gpucluster("run", data, *KMEANS, "--out", tmp_path, "--json", before=join))
    check_is_same(run, whole, limit)
    assert int((group / "memory.max_usage_in_bytes").read_text()) <= limit


@pytest.mark.parametrize("limit_mb", [1200, 2000, 3500])
def test_a_limit_of_addresses_is_a_limit_without_a_flag(
    data: Path, tmp_path: Path, limit_mb: int
) -> None:
    limit = limit_mb << 20
    out = tmp_path / "out"
    run = gpucluster(
        *("run", data, *KMEANS, "--out", out),
        before=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert run.returncode == (0 if limit_mb == 3500 else 3), run.stderr
    if run.returncode == 3:
        assert re.search(r"needs about [\d.]+ GB of memory, [\d.]+ [GM]B are free", run.stderr)
        assert not out.exists()


PLANNED = {
    "kmeans": KMEANS,
    "on disk": (*KMEANS, "--storage", "disk"),
    "hdbscan in a layout": (
        *("--algorithm", "hdbscan", "--steps", "umap", "--sample-size", "20000"),
        *("--step-param", "umap.n_components=8"),
    ),
    "mixture": (
        *("--algorithm", "gaussian_mixture", "--param", "n_components=5"),
        *("--param", "covariance_type=diag", "--steps", "pca"),
    ),
}


@pytest.mark.parametrize("name", PLANNED)
def test_stages_take_about_what_was_planned(
    data: Path, whole: dict[str, Any], tmp_path: Path, name: str
) -> None:
    options = (*PLANNED[name], "--storage", "memory", "--out", tmp_path, "--json")
    if name == "on disk":
        options = (*PLANNED[name], "--out", tmp_path, "--json")
    run = whole if name == "kmeans" else answer(gpucluster("run", data, *options))
    shares = {
        stage["name"]: round(stage["peak_bytes"] / stage["planned_bytes"], 2)
        for stage in run["stages"]
    }
    assert min(shares.values()) > 0.6, shares
    assert max(shares.values()) < 1.6, shares
