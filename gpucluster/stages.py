"""The stages of a run that are worth keeping: each from a checkpoint, or computed and kept."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gpucluster import __version__
from gpucluster.definition import ClusterDefinition
from gpucluster.device.select import Device
from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.execution import fit_algorithm, fit_step, step_output
from gpucluster.hierarchy import FAILED, Divider, grow, nested
from gpucluster.ledger import Ledger
from gpucluster.ops.nesting import flat
from gpucluster.ops.normalize import unit_rows
from gpucluster.ops.placement import place
from gpucluster.preprocess import Step
from gpucluster.types import NOISE, Clustering, DensityTree, Hierarchy, Matrix

TREE = "tree-"  # begins the names of its arrays in a checkpoint
LIBRARIES = (
    *("numpy", "scipy", "scikit-learn", "pyarrow", "numba"),
    "openTSNE",
    *("cupy-cuda12x", "cupy-cuda13x", "cuml-cu12", "cuml-cu13"),
)


@dataclass(frozen=True, slots=True)
class Preparation:
    """The fitted steps: digest of all up to them, what assignment needs, what they learned."""

    key: str
    model: Mapping[str, Any]
    learned: tuple[Mapping[str, Any], ...]


def prepare(
    ledger: Ledger, definition: ClusterDefinition, X: Matrix, key: str, prefix: str = ""
) -> tuple[Matrix, Preparation]:
    """Apply the preprocessing steps to a matrix of this key; return the matrix to cluster.

    `prefix` goes before the names of the stages.
    """
    model: dict[str, Any] = {}
    learned: list[Mapping[str, Any]] = []
    for position, step in enumerate(definition.vector_config.preprocessing_steps or ()):
        with ledger.stage(f"{prefix}prepare.{position}.{step.method}") as reporter:
            key, arrays, info, X = _run_step(ledger, key, step, X, reporter)
        model[f"{position}-{step.method}"] = {
            "settings": step.model_dump(mode="json"),
            "arrays": {n: a for n, a in arrays.items() if n in step.applied},
        }
        learned.append({"method": step.method, **info})
    return X, Preparation(key, model, tuple(learned))


def _run_step(
    ledger: Ledger, previous: str, step: Step, X: Matrix, reporter: Reporter
) -> tuple[str, Mapping[str, Any], Mapping[str, Any], Matrix]:
    """Return key, arrays, diagnostics and output of a step, fitted or from a checkpoint."""

    def key(device: str) -> str:
        return stage_key(previous, device, step=step.model_dump(mode="json"))

    decision = ledger.plan.decision
    device: Device = decision.device if step.has_gpu_path else "cpu"
    wanted = device
    done, device = _recall(ledger, reporter.stage, key, wanted)
    if done is None:
        fitted, device = fit_step(step, X, decision, reporter, ledger.worker)
        ledger.note(device=device, backend=fitted.backend, method=fitted.method)
        ledger.keep(reporter.stage, key(_kept_as(wanted, device)), fitted.arrays, fitted.info)
        done = fitted.arrays, fitted.info
    arrays, info = done
    out, where = step_output(step, X, arrays, device, decision, reporter, ledger.worker)
    made = key(device)
    if where != device:  # what comes after is of other rows than if both came from one device
        made = stage_key(made, where)
    return made, arrays, info, out


def cluster(
    ledger: Ledger, definition: ClusterDefinition, X: Matrix, previous: str, prefix: str = ""
) -> Clustering:
    """Cluster the prepared matrix of this key."""
    algorithm = definition.vector_config.algorithm
    assert algorithm is not None  # noqa: S101 - the plan has completed the definition
    params = algorithm.model_dump(mode="json")

    def key(device: str) -> str:
        return stage_key(previous, device, algorithm=algorithm.name, params=params)

    decision = ledger.plan.decision
    if decision.device == "gpu" and algorithm.gpu_limit(len(X)) is not None:
        decision = replace(decision, device="cpu")  # as the plan has said
    with ledger.stage(f"{prefix}cluster") as reporter:
        done, _ = _recall(ledger, reporter.stage, key, decision.device)
        if done is not None:
            arrays, info = done
            return Clustering(
                labels_=arrays["labels"],
                probabilities_=arrays.get("probabilities"),
                n_clusters_=int(arrays["labels"].max(initial=NOISE)) + 1,
                backend=ledger.facts["backend"],
                method=ledger.facts["method"],
                info=info,
                levels=arrays.get("levels"),
                basins_=arrays.get("basins"),
                layers_=arrays.get("layers"),
                tree_=_tree(arrays),
            )
        midway = ledger.midway(reporter.stage, key("cpu")) if decision.device == "cpu" else None
        reporter.midway = midway
        found, device = fit_algorithm(algorithm, X, decision, reporter, ledger.worker)
        ledger.note(device=device, backend=found.backend, method=found.method)
        kept: dict[str, Any] = {"labels": found.labels_}
        if found.probabilities_ is not None:
            kept["probabilities"] = found.probabilities_
        if found.levels is not None:
            kept["levels"] = found.levels
        if found.basins_ is not None:
            kept["basins"] = found.basins_
        if found.layers_ is not None:
            kept["layers"] = found.layers_
        if found.tree_ is not None:
            kept |= {TREE + name: array for name, array in _fields(found.tree_).items()}
        ledger.keep(reporter.stage, key(_kept_as(decision.device, device)), kept, found.info)
        if midway is not None:
            midway.drop()
        return found


def _fields(tree: DensityTree) -> dict[str, Any]:
    """Return the arrays of a tree by name."""
    return {field.name: getattr(tree, field.name) for field in fields(tree)}


def _tree(arrays: Mapping[str, Any]) -> DensityTree | None:
    """Return the tree among the arrays of a checkpoint, where there is one."""
    own = {n.removeprefix(TREE): array for n, array in arrays.items() if n.startswith(TREE)}
    return DensityTree(**own) if own else None


def divide(
    ledger: Ledger, definition: ClusterDefinition, X: Matrix, found: Clustering, previous: str
) -> Hierarchy:
    """Divide the clusters further, when the definition asks for it."""
    config = definition.vector_config
    if config.reads_tree() and found.levels is not None:
        return nested(found.labels_, list(found.levels), config.max_hierarchy_depth)
    division = config.division(len(X), definition.random_state)
    if division is None:
        return flat(found.labels_)
    decision = ledger.plan.decision
    key = stage_key(
        previous,
        decision.device,
        labels=hashlib.sha256(found.labels_.tobytes()).hexdigest(),
        division=asdict(division),
    )
    with ledger.stage("divide") as reporter:
        done = ledger.recall("divide", key)
        if done is not None:
            arrays, info = done
            return Hierarchy(arrays["labels"], arrays["parents"], tuple(info["reasons"]))
        with Divider(X, division, decision, reporter, worker=ledger.worker) as divider:
            grown = grow(found.labels_, division.levels, division.min_split_size, divider)
        backend = "cuml" if divider.device == "gpu" else "numba"
        ledger.note(device=divider.device, backend=backend, method=divider.method)
        reasons = grown.reasons or ()
        failed = any((reason or "").startswith(FAILED) for reason in reasons)
        if not failed and divider.device == decision.device:  # what the key speaks of
            arrays = {"labels": grown.labels, "parents": grown.parents}
            ledger.keep("divide", key, arrays, {"reasons": reasons})
        return grown


def display(
    ledger: Ledger, definition: ClusterDefinition, X: Matrix, previous: str
) -> Matrix | None:
    """Return coordinates for pictures, when the definition asks for them."""
    config = definition.vector_config
    settings = config.dimension_reduction
    if settings is None or settings.method == "none":
        return None
    step = settings.check(len(X), X.shape[1], definition.random_state, ledger.reporter)
    assert step is not None  # noqa: S101 - its method is not none
    rows = settings.landmark_rows(len(X), definition.random_state)
    with ledger.stage("display") as reporter:
        if len(rows) == len(X):
            return _run_step(ledger, previous, step, X, reporter)[-1]
        chosen = digest(previous, seed=definition.random_state, n_landmarks=len(rows))
        data = unit_rows(X[rows])
        *_, layout = _run_step(ledger, chosen, step, data, reporter)
        ledger.note(method="landmarks")
        return place(unit_rows(X), data, layout, settings.k_landmarks, reporter)


def _recall(
    ledger: Ledger, stage: str, key: Callable[[str], str], device: Device
) -> tuple[Any, Device]:
    """Return a finished stage, or None, and its device; `auto` knows also what fell back."""
    done = ledger.recall(stage, key(device))
    if done is None and device == "gpu" and ledger.plan.decision.requested == "auto":
        done = ledger.recall(stage, key("auto"))
        if done is not None:
            return done, "cpu"
    return done, device


def _kept_as(wanted: Device, device: Device) -> str:
    """Return under which name a stage is kept: what fell back is neither GPU's nor CPU's."""
    return "auto" if wanted != device else device


def stage_key(previous: str, device: str, **facts: Any) -> str:
    """Return a digest of all that determines a stage: what came before, who computes, settings."""
    return digest(previous, device=device, versions=versions(), **facts)


def check_same(run_id: str, *, is_same: bool) -> None:
    """Raise where a finished run has this name, and is of something else."""
    if not is_same:
        raise ConfigError(
            f"{run_id} is finished, and is of something else",
            path="run_id",
            hint="give this one another name, or none",
        )


def digest(previous: str, **facts: Any) -> str:
    """Return a digest of what came before, the code version and JSON facts."""
    text = json.dumps([previous, __version__, facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute, those that are there."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
