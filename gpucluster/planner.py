"""What a run will do and what it will cost, before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gpucluster.definition import ClusterDefinition
from gpucluster.device.memory import BLOCK_BYTES, available_bytes
from gpucluster.device.select import Decision
from gpucluster.errors import ConfigError, TooFewSamplesError, WillNotFitError
from gpucluster.events import Muted, Warned
from gpucluster.hierarchy import LIBRARY_BYTES, division_cost
from gpucluster.preprocess import UMAP, check_chain

DENSITY_ROWS = 200_000  # above it, UMAP and HDBSCAN take more than half an hour on a few cores
LAYOUT_ROWS = 200  # below it, a layout of 50 dimensions has nothing to learn from
PROCESS_BYTES = 330 << 20  # interpreter, numpy, pyarrow, scikit-learn
ON_HOST = "always on the host"
WRITE_BYTES_PER_ROW = 300  # tables of members, while they are sorted and encoded


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """What one stage will do.

    `bytes` is the peak of the process while it runs, `reason` says why on this device.
    """

    name: str
    device: str
    method: str
    bytes: int
    seconds: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A definition, made complete for data of one shape, with its cost.

    Attributes
    ----------
    definition : ClusterDefinition
        As it will run: nothing left open.
    decision : Decision
        Device and why.
    n_samples, n_features : int
    stages : tuple of PlannedStage
    available_bytes : int
        Free memory of the host when the plan was made.
    reason : str
        Why this algorithm.
    warnings : tuple of Warned
        What is adjusted or unwise.
    """

    definition: ClusterDefinition
    decision: Decision
    n_samples: int
    n_features: int
    stages: tuple[PlannedStage, ...]
    available_bytes: int
    reason: str
    warnings: tuple[Warned, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """The largest memory that any stage will need."""
        return max(stage.bytes for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Expected wall time, or None where a stage was never measured."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def stage(self, name: str) -> PlannedStage | None:
        """Return a planned stage by name."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def require_memory(self) -> None:
        """Raise `WillNotFitError` when the plan needs more than there is."""
        if self.peak_bytes > self.available_bytes:
            worst = max(self.stages, key=lambda stage: stage.bytes)
            raise WillNotFitError(
                f"the {worst.name} stage needs about {_gigabytes(worst.bytes)} of memory, "
                f"{_gigabytes(self.available_bytes)} are free",
                needed_bytes=worst.bytes,
                available_bytes=self.available_bytes,
                hint="try --sample-size, or --algorithm kmeans",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "definition": self.definition.to_dict(),
            "device": asdict(self.decision),
            "num_rows": self.n_samples,
            "num_features": self.n_features,
            "stages": [asdict(stage) for stage in self.stages],
            "peak_bytes": self.peak_bytes,
            "available_bytes": self.available_bytes,
            "seconds": self.seconds,
            "reason": self.reason,
            "warnings": [asdict(warned) for warned in self.warnings],
        }


def make_plan(
    definition: ClusterDefinition, n_rows: int, n_features: int, decision: Decision
) -> Plan:
    """Complete a definition for data of this shape, and predict its cost.

    Parameters
    ----------
    definition : ClusterDefinition
        ``clustering_method`` may be open.
    n_rows, n_features : int
        Shape of the input, before sampling.
    decision : Decision
        Device of the run.

    Returns
    -------
    Plan

    Raises
    ------
    TooFewSamplesError
        There are fewer than two rows.
    ConfigError
        A parameter cannot work on data of this shape.
    """
    config = definition.vector_config
    n_samples = min(n_rows, config.sample_size or n_rows)
    if n_samples < 2:
        raise TooFewSamplesError(
            f"insufficient documents: got {n_samples} rows, clustering needs at least 2"
        )
    if len(config.feature_uris) > 1:
        raise ConfigError(
            f"got {len(config.feature_uris)} features, this version takes one",
            path="vector_config.feature_uris",
        )
    if config.hierarchical and config.hierarchy_method == "condensed_tree":
        raise ConfigError(
            "this version builds no condensed_tree",
            path="vector_config.hierarchy_method",
            hint="use recursive",
        )
    definition, reason = _complete(definition, n_samples, n_features)
    definition, warned = _checked(definition.with_seeds(), n_samples, n_features)
    stages = tuple(_stages(definition, n_rows, n_samples, n_features, decision))
    return Plan(
        definition=definition,
        decision=decision,
        n_samples=n_samples,
        n_features=n_features,
        stages=stages,
        available_bytes=available_bytes("cpu"),
        reason=reason,
        warnings=warned,
    )


def _checked(
    definition: ClusterDefinition, n_samples: int, n_features: int
) -> tuple[ClusterDefinition, tuple[Warned, ...]]:
    """Return the definition as it fits the shape of the data, and what is unwise about it."""
    config = definition.vector_config
    muted = Muted("plan")
    steps = check_chain(config.preprocessing_steps or (), n_samples, n_features, muted)
    assert config.algorithm is not None  # noqa: S101 - `_complete` has chosen one
    config.algorithm.check(n_samples, muted)
    if config.dimension_reduction is not None:
        seed = definition.random_state
        config.dimension_reduction.check(n_samples, n_features, seed, muted)
    return definition.replace(preprocessing_steps=tuple(steps)), tuple(muted.warnings)


def _complete(
    definition: ClusterDefinition, n_samples: int, n_features: int
) -> tuple[ClusterDefinition, str]:
    """Choose what the definition leaves open."""
    config = definition.vector_config
    steps: list[dict[str, str]]
    if config.clustering_method is not None:
        if config.preprocessing_steps is None:
            definition = definition.replace(preprocessing_steps=())
        return definition, "the definition names it"
    if n_samples > DENSITY_ROWS:
        chosen = {"n_clusters": max(2, math.isqrt(n_samples))}
        method, steps = "kmeans", []
        reason = f"more than {DENSITY_ROWS} rows: k-means with sqrt(n_samples) clusters"
    else:
        size = max(5, min(50, n_samples // 200))
        chosen = {"min_cluster_size": size, "min_samples": min(5, size)}
        wide = n_samples >= LAYOUT_ROWS and n_features > UMAP().n_components
        method, steps = "hdbscan", [{"method": "umap"}] if wide else []
        reason = f"up to {DENSITY_ROWS} rows: HDBSCAN finds the number of clusters by itself"
    changes: dict[str, Any] = {"clustering_method": method, "algorithm_params": chosen}
    if config.preprocessing_steps is None:
        changes["preprocessing_steps"] = steps
    return definition.replace(**changes), reason


def _stages(
    definition: ClusterDefinition,
    n_rows: int,
    n_samples: int,
    n_features: int,
    decision: Decision,
) -> Iterator[PlannedStage]:
    config = definition.vector_config
    algorithm = config.algorithm
    assert algorithm is not None  # noqa: S101 - `_complete` has chosen one
    original = 4 * n_samples * n_features  # the unit rows stay: metrics are measured on them
    live = PROCESS_BYTES + original + 64 * n_rows
    sampled = f"sample of {n_samples:,} rows" if n_samples < n_rows else "exact"
    yield PlannedStage(
        "load", "cpu", sampled, live + 4 * BLOCK_BYTES, n_rows * n_features * 4 / 100e6, ON_HOST
    )
    libraries, width, prepared = 0, n_features, 0
    for position, step in enumerate(config.preprocessing_steps or ()):
        cost = step.cost(n_samples, width)
        libraries = max(libraries, step.library_bytes)
        width = step.n_out(width)
        output = 4 * n_samples * width
        on_gpu = step.has_gpu_path and decision.device == "gpu"
        yield PlannedStage(
            f"prepare.{position}.{step.method}",
            "gpu" if on_gpu else "cpu",
            cost.method,
            live + libraries + prepared + output + cost.bytes,
            None if on_gpu else cost.seconds,
            decision.reason if step.has_gpu_path else ON_HOST,
        )
        prepared = output
    cost = algorithm.cost(n_samples, width, decision.device)
    libraries = max(libraries, algorithm.library_bytes)
    live += libraries + prepared
    yield PlannedStage(
        "cluster", decision.device, cost.method, live + cost.bytes, cost.seconds, decision.reason
    )
    n_clusters = getattr(algorithm, "n_clusters", math.isqrt(n_samples))
    division = config.division(n_samples, definition.random_state)
    if division is not None:
        cost = division_cost(n_samples, n_features, n_clusters, division)
        live += max(0, LIBRARY_BYTES - libraries)
        libraries = max(libraries, LIBRARY_BYTES)
        yield PlannedStage(
            "divide",
            decision.device,
            cost.method,
            live + cost.bytes,
            cost.seconds if decision.device == "cpu" else None,
            decision.reason,
        )
    display = config.dimension_reduction
    shown = display.step(definition.random_state) if display is not None else None
    if display is not None and shown is not None:
        shown_cost = display.cost(n_samples, n_features, definition.random_state)
        assert shown_cost is not None  # noqa: S101 - there is a step
        live += max(0, shown.library_bytes - libraries)
        on_gpu = shown.has_gpu_path and decision.device == "gpu"
        yield PlannedStage(
            "display",
            "gpu" if on_gpu else "cpu",
            shown_cost.method,
            live + shown_cost.bytes,
            None if on_gpu else shown_cost.seconds,
            decision.reason if shown.has_gpu_path else ON_HOST,
        )
    levels = 1 if division is None else division.levels
    flop = 2.0 * levels * n_samples * n_features * (n_clusters + 8)
    yield PlannedStage(
        "measure",
        "cpu",
        "exact",
        live + 24 * n_samples + 24 * levels * n_clusters * n_features + 4 * BLOCK_BYTES,
        flop / 50e9 + n_samples * n_features / 1e9,
        ON_HOST,
    )
    yield PlannedStage(
        "write",
        "cpu",
        "exact",
        live + WRITE_BYTES_PER_ROW * n_samples,
        0.2 + n_samples * 2e-6,
        ON_HOST,
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
