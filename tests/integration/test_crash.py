"""A run that dies anywhere leaves nothing torn, and doing it again ends as if it had not died.

A table is printed: what readers saw after each death, and what was done again (``pytest -s``).
With ``GPUCLUSTER_ALL_KILLS=1`` there are more kinds of runs, all algorithms among them, and every
operation is met in every way.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import gpucluster
from gpucluster import pipeline
from gpucluster.artifacts import LocalStore, Run
from gpucluster.artifacts.store import Durable
from gpucluster.errors import DiskFullError, RunNotFoundError
from gpucluster.events import Event, StageFinished
from tests.helpers.faults import ALL_KILLS, KILLS, Faulty, due, is_killed, temporary_files

RANDOM_KILLS = int(os.environ.get("GPUCLUSTER_RANDOM_KILLS", "50"))
SEED = 20_250


def rows(n_rows: int, seed: int) -> np.ndarray:
    """Return rows of two groups, each of three clusters."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(size=(2, 1, 12)) * 4
    centers = (centers + np.random.default_rng(1).normal(size=(2, 3, 12))).reshape(6, 12)
    X = centers[rng.integers(0, 6, n_rows)] + 0.2 * rng.normal(size=(n_rows, 12))
    return X.astype(np.float32)


X = rows(360, 2)
KMEANS: dict[str, Any] = {
    "algorithm": "kmeans",
    "algorithm_params": {"n_clusters": 2, "n_init": 1},
}
KINDS: dict[str, dict[str, Any]] = {
    "kmeans, whitening, coordinates, the rest assigned": KMEANS
    | {
        "preprocessing_steps": [{"method": "whitening"}],
        "dimension_reduction": {"method": "pca"},
        "sample_size": 250,
        "sample_mode": "fit_then_assign",
    },
    "hdbscan, divided": {
        "algorithm": "hdbscan",
        "algorithm_params": {"min_cluster_size": 30, "min_samples": 5},
        "hierarchical": True,
        "max_hierarchy_depth": 2,
    },
}
MORE_KINDS: dict[str, dict[str, Any]] = {
    "the default, steps named": {
        "preprocessing_steps": [{"method": "conditioning"}, {"method": "umap", "n_components": 4}]
    },
    "attribute": {"cluster_type": "attribute", "attribute_config": {"attributes": ["group"]}},
    **{
        name: {"algorithm": name, "algorithm_params": params}
        for name, params in {
            "dbscan": {"eps": 1.0},
            "agglomerative": {"n_clusters": 6},
            "spectral": {"n_clusters": 6},
            "gaussian_mixture": {"n_components": 6},
            "mean_shift": {},
            "optics": {"min_samples": 5},
        }.items()
    },
}
if ALL_KILLS:
    KINDS |= MORE_KINDS


def cluster(
    out: Path, definition: dict[str, Any], durable: Durable | None = None, **kwargs: Any
) -> Run:
    """Cluster `X`, or other rows, after a run of other rows in the same folder."""
    data = pa.table(
        {
            "document_id": [f"d{row}" for row in range(len(X))],
            "group": [f"g{row % 5}" for row in range(len(X))],
            "embedding": list(kwargs.pop("X", X)),
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        if durable is not None:
            patch.setattr(pipeline, "open_store", lambda root: LocalStore(root, durable))
        return gpucluster.cluster(data, definition, out=out, device="cpu", **kwargs)


class Reference:
    """A run that nothing disturbed, in a folder that an earlier run of other rows lies in."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.definition = folder, KINDS[kind]
        self.earlier = cluster(folder / "earlier", self.definition, X=rows(len(X), 3))
        counter = Faulty()
        self.run = cluster(self.begun(folder / "whole"), self.definition, counter)
        self.operations = counter.operations

    def begun(self, out: Path) -> Path:
        """Return a folder of runs that has the earlier one."""
        shutil.copytree(self.folder / "earlier", out)
        return out

    def resumed(self, out: Path) -> Counter[str]:
        """Nothing torn is visible, and the rerun equals the reference; return what was counted."""
        seen: Counter[str] = Counter(old=0, new=0, kept=0, lost=0)
        before = Run.open(out / self.earlier.run_id, verify=True)
        assert before.manifest.content_sha256 == self.earlier.manifest.content_sha256
        place = out / self.run.run_id
        try:
            visible = Run.open(place, verify=True)  # the digest of each file in the manifest
        except RunNotFoundError:
            visible = None
        seen["old" if visible is None else "new"] += 1
        finished = {path.parent.name.rsplit("-", 1)[0] for path in place.rglob("done.json")}
        events: list[Event] = []
        run = cluster(out, self.definition, observer=events.append)
        assert run.manifest.content_sha256 == self.run.manifest.content_sha256
        assert Run.open(run.path, verify=True).members.equals(self.run.members)
        # the twin name of a manifest whose writer died right after publishing may stay
        assert len(temporary_files(out)) <= (visible is not None)
        stages = {e.record.name: e.record.reused for e in events if isinstance(e, StageFinished)}
        kept = sum(stages.get(stage, True) for stage in finished)
        seen.update(kept=kept, lost=len(finished) - kept)
        return seen


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.replace(", ", "-"))
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"), request.param)


@pytest.mark.parametrize("fault", KILLS)
def test_killed_at_every_durable_operation(
    fault: str, reference: Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    numbers = due(reference.operations, fault)[:: 1 if ALL_KILLS else 2]
    seen: Counter[str] = Counter()
    for n in numbers:
        out = reference.begun(tmp_path / str(n))
        dying = functools.partial(cluster, out, reference.definition, Faulty(n, fault))
        assert is_killed(dying), f"operation {n} was not reached"
        seen += reference.resumed(out)
        shutil.rmtree(out)
    print(  # noqa: T201 - shown by -s
        f"\n{request.node.callspec.id}: {len(numbers)} of {len(reference.operations)} operations: "
        f"{seen['old']} times the old state, {seen['new']} the new one; "
        f"{seen['kept']} finished stages kept, {seen['lost']} lost"
    )
    assert len(numbers) > len(reference.operations) // 16 > 2
    assert seen["old"] + seen["new"] == len(numbers)
    assert seen["lost"] == 0, "a finished stage was computed again"


def test_disk_full_at_every_durable_operation(reference: Reference, tmp_path: Path) -> None:
    refused = []
    numbers = range(1, len(reference.operations) + 1, 1 if ALL_KILLS else 5)
    for n in numbers:
        out = reference.begun(tmp_path / str(n))
        torn = reference.operations[n - 1] == "write"
        try:
            fault = "torn, ENOSPC" if torn else "ENOSPC"
            cluster(out, reference.definition, Faulty(n, fault))
        except DiskFullError as error:
            refused.append(str(error))
        assert reference.resumed(out)["lost"] == 0
        shutil.rmtree(out)
    assert len(refused) > len(numbers) * 0.8
    assert not any("\n" in message for message in refused)


def test_killed_at_random_moments(reference: Reference, tmp_path: Path) -> None:
    begun = time.monotonic()
    cluster(tmp_path / "timing", reference.definition)
    whole_s = time.monotonic() - begun
    stream = random.Random(SEED)
    killed = 0
    for n in range(RANDOM_KILLS // len(KINDS)):
        out = tmp_path / str(n // 3)  # hit three times before it may finish
        if n % 3 == 0:
            reference.begun(out)
        work = functools.partial(cluster, out, reference.definition)
        killed += is_killed(work, after_s=stream.uniform(0, whole_s))
        if n % 3 == 2:
            reference.resumed(out)
    print(f"\nseed {SEED}: {killed} killed of {RANDOM_KILLS // len(KINDS)}")  # noqa: T201
    assert killed > RANDOM_KILLS // len(KINDS) // 3, f"seed {SEED}: too few hit a live process"
