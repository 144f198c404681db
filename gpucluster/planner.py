"""What a run will do and what it will cost, before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gpucluster.algorithms import Algorithm
from gpucluster.definition import ClusterDefinition
from gpucluster.device.memory import BLOCK_BYTES, available_bytes
from gpucluster.device.select import Decision
from gpucluster.errors import ConfigError, TooFewSamplesError, WillNotFitError
from gpucluster.preprocess import UMAP, Step

DENSITY_ROWS = 200_000  # above it, UMAP and HDBSCAN take more than half an hour on a few cores
LAYOUT_ROWS = 200  # below it, a layout of 50 dimensions has nothing to learn from
PROCESS_BYTES = 450 << 20  # interpreter and numerical libraries, once all are loaded
WRITE_BYTES_PER_ROW = 300  # tables of members, while they are sorted and encoded


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """What one stage will do: `bytes` is the peak of the process while it runs."""

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
    """

    definition: ClusterDefinition
    decision: Decision
    n_samples: int
    n_features: int
    stages: tuple[PlannedStage, ...]
    available_bytes: int
    reason: str

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
    n_samples = min(n_rows, definition.vector_config.sample_size or n_rows)
    if n_samples < 2:
        raise TooFewSamplesError(
            f"insufficient documents: got {n_samples} rows, clustering needs at least 2"
        )
    if len(definition.vector_config.feature_uris) > 1:
        raise ConfigError(
            f"got {len(definition.vector_config.feature_uris)} features, this version takes one",
            path="vector_config.feature_uris",
        )
    definition, reason = _complete(definition, n_samples, n_features)
    definition = definition.with_seeds()
    stages = tuple(_stages(definition, n_rows, n_samples, n_features, decision))
    return Plan(definition, decision, n_samples, n_features, stages, available_bytes("cpu"), reason)


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
        reason = (
            "HDBSCAN on UMAP finds the number of clusters by itself"
            if wide
            else ("few rows or dimensions: HDBSCAN on the vectors as they are")
        )
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
    matrix = 4 * n_samples * n_features
    live = PROCESS_BYTES + matrix + 64 * n_rows
    yield PlannedStage(
        "load", "cpu", "exact", live + 4 * BLOCK_BYTES, n_rows * n_features * 4 / 100e6, "reading"
    )
    width = n_features
    for position, step in enumerate(config.preprocessing_steps or ()):
        extra, seconds, method = _step_cost(step, n_samples, width)
        width_out = step.n_out(width)
        yield PlannedStage(
            f"prepare.{position}.{step.method}",
            decision.device if step.has_gpu_path else "cpu",
            method,
            live + extra + 4 * n_samples * width_out,
            seconds if decision.device == "cpu" else None,
            "the definition names it",
        )
        live += 4 * n_samples * width_out - (4 * n_samples * width if position else 0)
        width = width_out
    algorithm: Algorithm | None = config.algorithm
    assert algorithm is not None  # noqa: S101 - `_complete` has chosen one
    cost = algorithm.cost(n_samples, width, decision.device)
    yield PlannedStage(
        "cluster", decision.device, cost.method, live + cost.bytes, cost.seconds, algorithm.name
    )
    if config.dimension_reduction is not None and config.dimension_reduction.method != "none":
        seconds = 8 + n_samples * 2e-4 if config.dimension_reduction.method == "umap" else 1.0
        yield PlannedStage(
            "display", decision.device, "exact", live + matrix, seconds, "display coordinates"
        )
    guess = getattr(algorithm, "n_clusters", max(8, math.isqrt(n_samples)))
    flop = 2.0 * n_samples * n_features * (guess + 8)
    yield PlannedStage(
        "measure",
        "cpu",
        "exact",
        live + 24 * n_samples + 3 * 8 * guess * n_features + 4 * BLOCK_BYTES,
        flop / 50e9 + n_samples * n_features / 1e9,
        "exact for cosine in O(n k d)",
    )
    yield PlannedStage(
        "write",
        "cpu",
        "exact",
        live + WRITE_BYTES_PER_ROW * n_samples,
        0.2 + n_samples * 2e-6,
        "artifacts",
    )


def _step_cost(step: Step, n_samples: int, n_features: int) -> tuple[int, float, str]:
    """Return bytes beside the input and output, seconds on the CPU, and the method."""
    moments_flop = 2.0 * n_samples * n_features**2
    if isinstance(step, UMAP):
        from gpucluster.ops.neighbors import neighbor_method

        method = neighbor_method(n_samples, n_features)
        edges = n_samples * step.n_neighbors
        epochs = step.n_epochs or (500 if n_samples <= 10_000 else 200)
        graph = 2.0 * n_samples**2 * n_features / 150e9
        if method != "exact":
            graph = 60 + 4e-3 * n_samples
        layout = edges * epochs * (65 + 0.7 * step.n_components) * 1e-9
        extra = 4 * n_samples * n_features + 80 * edges + 12 * n_samples * step.n_components
        return extra, 8 + graph + layout, method
    if step.n_out(n_features) == n_features and step.method in {"l2_normalize", "center"}:
        return 4 * BLOCK_BYTES, n_samples * n_features * 4 / 2e9, "exact"
    extra = 32 * n_features**2 + 4 * BLOCK_BYTES
    return extra, 2 * moments_flop / 100e9 + 1e-8 * n_features**3, "exact"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
