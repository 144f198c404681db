"""One process for all stages of a run, whatever they are and whoever asks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

import gpucluster
from gpucluster import execution, stages
from gpucluster.device import worker as module
from gpucluster.device.child import _Process
from gpucluster.device.select import Decision
from gpucluster.device.worker import Worker
from gpucluster.errors import OutOfMemoryError, StageCrashedError
from gpucluster.events import Muted, Reporter
from gpucluster.execution import fit_algorithm, fit_step, step_output
from gpucluster.hierarchy import Divider, Division, Node
from gpucluster.ledger import Ledger
from gpucluster.planner import make_plan
from gpucluster.preprocess import PCA

ON_CPU = Decision("cpu", "cpu", "asked for")
ON_GPU = Decision("gpu", "gpu", "asked for")
AUTO = Decision("auto", "gpu", "a GPU is usable")


def rows(n_rows: int = 60, n_features: int = 6) -> np.ndarray:
    group = np.arange(n_rows) % 3
    noise = np.random.default_rng(0).normal(size=(n_rows, n_features)) * 0.1
    return (np.eye(3, n_features)[group] * 3 + noise).astype(np.float32)


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An installed algorithm that may abort and says which process it ran in, and whose rows."""
    site = tmp_path / "site"
    info = site / "telling-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: telling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gpucluster.algorithms]\ntells = telling:Tells\n")
    note = tmp_path / "pids"
    note.touch()
    (site / "telling.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from typing import ClassVar\n"
        "import numpy as np\n"
        "from gpucluster.algorithms import Algorithm, Cost, Raw\n"
        "class Tells(Algorithm):\n"
        "    name: ClassVar[str] = 'tells'\n"
        "    may_abort: ClassVar[bool] = True\n"
        "    die: bool = False\n"
        "    def cost(self, n_samples, n_features, device): return Cost(0, 0.0)\n"
        "    def _fit_cpu(self, X, reporter):\n"
        "        if self.die: os.abort()\n"
        f"        with Path({str(note)!r}).open('a') as file: print(os.getpid(), file=file)\n"
        "        labels = X[:, :3].argmax(axis=1)\n"
        "        info = {'pid': os.getpid(), 'rows': id(X), 'writeable': X.flags.writeable}\n"
        "        return Raw(labels, 'mine', info=info, levels=labels[None], basins=labels)\n"
        "    def _fit_gpu(self, X, reporter): raise NotImplementedError\n"
    )
    monkeypatch.syspath_prepend(site)
    from gpucluster.algorithms import catalogue

    catalogue.cache_clear()
    yield note
    catalogue.cache_clear()
    sys.modules.pop("telling", None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the processes that are started."""
    pids: list[int] = []

    class Noted(_Process):
        def __init__(self) -> None:
            super().__init__()
            pids.append(self.popen.pid)

    monkeypatch.setattr("gpucluster.device.child._Process", Noted)
    return pids


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of what this process shares."""
    paths: list[str] = []
    save = np.save

    def noted(path: Any, array: Any, **kwargs: Any) -> None:
        if "shared" in str(path):
            paths.append(str(path))
        save(path, array, **kwargs)

    monkeypatch.setattr(np, "save", noted)
    return paths


def test_two_stages_use_one_process_and_one_file(
    telling: Path, started: list[int], saved: list[str]
) -> None:
    Tells = importlib.import_module("telling").Tells
    X = rows()
    with Worker() as worker:
        found = [
            fit_algorithm(Tells(), X, ON_CPU, Reporter(stage), worker)[0]
            for stage in ("cluster", "again")
        ]
        assert len(started) == 1
        with pytest.raises(StageCrashedError, match=r"third.*SIGABRT"):
            fit_algorithm(Tells(die=True), X, ON_CPU, Reporter("third"), worker)
        found.append(fit_algorithm(Tells(), X, ON_CPU, Reporter("fourth"), worker)[0])
    assert [one.info["pid"] for one in found] == [started[0], started[0], started[1]]
    assert len(saved) == 1
    assert found[0].info["rows"] == found[1].info["rows"]  # what is on a device by it stays there
    for one in found:
        np.testing.assert_array_equal(one.labels_, np.arange(60) % 3)
        np.testing.assert_array_equal(one.basins_, one.labels_)
        np.testing.assert_array_equal(one.levels, [np.arange(60) % 3])
        assert one.probabilities_ is None


def test_a_run_has_one_process_and_leaves_no_file(
    telling: Path,
    started: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    memory = tmp_path / "shm"
    memory.mkdir()
    monkeypatch.setattr(module, "IN_MEMORY", memory)
    X = rows()

    def column(part: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])

    table = pa.table(
        {"document_id": [f"d{row}" for row in range(60)], "a": column(X), "b": column(X[::-1])}
    )
    uris = ["gpucluster://text@v1/a", "gpucluster://text@v1/b"]
    run = gpucluster.cluster(
        table,
        algorithm="tells",
        feature_uris=uris,
        multi_feature_strategy="independent",
        out=tmp_path / "out",
        device="cpu",
    )
    assert run.num_clusters == 3
    assert len(started) == 1
    assert telling.read_text().split() == [str(started[0])] * 2
    assert list(memory.iterdir()) == []


def test_a_run_on_the_cpu_starts_no_process(
    started: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpucluster.cluster(
        rows(),
        algorithm="kmeans",
        algorithm_params={"n_clusters": 3},
        preprocessing_steps=[{"method": "pca", "n_components": 3}],
        dimension_reduction={"method": "pca", "components": 2},
        out=tmp_path / "out",
        device="cpu",
    )
    assert started == []


class Inside(Worker):
    """It runs in this process, where a GPU can be pretended."""

    def call(self, target: str, reporter: Reporter, **kwargs: Any) -> Any:
        self.calls = [*getattr(self, "calls", []), target.partition(":")[2]]
        name, _, function = target.partition(":")
        return getattr(importlib.import_module(name), function)(**kwargs, reporter=reporter)


class Mapped(PCA):
    """PCA whose output is computed where it was fitted; it fails there as often as told."""

    output_on_gpu: ClassVar[bool] = True
    failures: ClassVar[int] = 0
    seen: ClassVar[list[Any]] = []

    def fit(self, X: Any, device: str, reporter: Reporter) -> Any:
        self.seen.append(X)
        return super().fit(X, "cpu", reporter)

    def output(self, X: Any, arrays: Any, device: str = "cpu") -> Any:
        if device == "gpu":
            self.seen.append(X)
            if type(self).failures:
                type(self).failures -= 1
                raise OutOfMemoryError("pca ran out of GPU memory: 3 GB needed, 2 GB free")
        return super().output(X, arrays) + (device == "gpu")  # to tell them apart


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch):
    """A GPU that is none."""
    for name in ("open_pool", "free_pools"):
        monkeypatch.setattr(module, name, lambda: None)
    monkeypatch.setattr(execution, "_step", Mapped.model_validate)
    Mapped.failures, Mapped.seen = 0, []
    yield Inside
    module._ARRAYS.clear()


def test_a_step_is_fitted_and_applied_to_one_file_by_the_process(
    pretended: type[Worker], saved: list[str]
) -> None:
    X, step, reporter = rows(), Mapped(n_components=2), Reporter("prepare")
    with pretended() as worker:
        fitted, device = fit_step(step, X, ON_GPU, reporter, worker)
        out, where = step_output(step, X, fitted.arrays, device, ON_GPU, reporter, worker)
        assert (device, where) == ("gpu", "gpu")
        assert Mapped.seen[0] is Mapped.seen[1]
        assert len(saved) == 1  # neither the state nor the output is written by the parent
        path = worker.share(out)
        assert len(saved) == 1
        np.testing.assert_array_equal(np.load(path), out)
    np.testing.assert_allclose(out, step.output(X, step.fit(X, "cpu", reporter).arrays) + 1)


def test_output_that_lacks_memory_is_tried_twice_and_then_comes_from_the_cpu(
    pretended: type[Worker],
) -> None:
    X, step, reporter = rows(), Mapped(n_components=2), Muted("prepare")
    with pretended() as worker:
        fitted, _ = fit_step(step, X, AUTO, reporter, worker)
        Mapped.failures = 1
        _, where = step_output(step, X, fitted.arrays, "gpu", AUTO, reporter, worker)
        assert where == "gpu"
        assert [warned.code for warned in reporter.warnings] == ["gpu_memory_freed"]
        Mapped.failures = 2
        out, where = step_output(step, X, fitted.arrays, "gpu", AUTO, reporter, worker)
        assert where == "cpu"
        np.testing.assert_array_equal(out, step.output(X, fitted.arrays))
        assert reporter.warnings[-1].code == "gpu_failed"
        assert "3 GB needed" in reporter.warnings[-1].message
        Mapped.failures = 2
        with pytest.raises(OutOfMemoryError, match="3 GB needed"):
            step_output(step, X, fitted.arrays, "gpu", ON_GPU, reporter, worker)


def test_what_follows_output_from_another_device_has_another_key(
    pretended: type[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpucluster.definition import ClusterDefinition

    X = rows()
    plan = make_plan(ClusterDefinition.parse(algorithm="kmeans"), *X.shape, AUTO, ())
    ledger = Ledger(Muted(""), plan)
    keys = []
    with pretended() as ledger.worker:
        for failures in (0, 2, 0):
            Mapped.failures = failures
            step, reporter = Mapped(n_components=2), Muted("prepare")
            keys.append(stages._run_step(ledger, "before", step, X, reporter)[0])
    assert keys[0] == keys[2] != keys[1]


def test_nodes_are_divided_on_the_gpu_by_the_same_process(
    pretended: type[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def divided(X: Any, division: Any, seed: int, device: str, reporter: Reporter) -> Any:
        if device == "gpu" and len(X) > 30:
            raise OutOfMemoryError("umap ran out of GPU memory")
        return np.zeros(len(X), np.int32), device

    for name in ("division", "divider"):
        monkeypatch.setattr(f"gpucluster.hierarchy.{name}.divide_rows", divided)
    X, division = rows(), Division(2, 30, None, None, 0)
    nodes = [Node(0, "cl_0", np.arange(20)), Node(1, "cl_1", np.arange(20, 60))]
    with pretended() as worker:
        for some, device in ((nodes[:1], "gpu"), (nodes, "cpu")):
            reporter = Muted("divide")
            with Divider(X, division, AUTO, reporter, worker=worker) as divider:
                answers = divider(some)
            assert [len(labels) for labels in answers] == [len(node.rows) for node in some]
            assert divider.device == device
        assert worker.calls == ["divide_file"] * 3
        assert [warned.code for warned in reporter.warnings] == ["gpu_failed"]
