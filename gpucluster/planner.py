"""What a run will do and what it will cost, before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpucluster.definition import ClusterDefinition
from gpucluster.device.memory import BLOCK_BYTES, available_bytes
from gpucluster.device.select import Decision
from gpucluster.errors import TooFewSamplesError, WillNotFitError
from gpucluster.events import Muted, Warned
from gpucluster.hierarchy import LIBRARY_BYTES, division_cost
from gpucluster.preprocess import UMAP, check_chain
from gpucluster.vector_config import VectorConfig

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
    definition: ClusterDefinition,
    n_rows: int,
    n_features: int,
    decision: Decision,
    blocks: Sequence[tuple[str, int]] = (),
    n_samples: int | None = None,
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
    blocks : sequence of (str, int), optional
        Feature URI and dimension of several features that lie side by side.
    n_samples : int, optional
        Rows that are clustered, once that is known; else what `sample_size` says.

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
    n_samples = n_samples or min(n_rows, config.sample_size or n_rows)
    if n_samples < 2:
        raise TooFewSamplesError(
            f"insufficient documents: got {n_samples} rows, clustering needs at least 2"
        )
    apart = blocks and config.multi_feature_strategy == "independent"
    widths = [width for _, width in blocks] if apart else [n_features]
    warned: tuple[Warned, ...] = ()
    if definition.cluster_type == "attribute":
        reason = "the definition names the attributes"
    else:
        definition, reason = _complete(definition, n_samples, min(widths))
        definition, warned = _checked(definition.with_seeds(), n_samples, n_features, widths)
    shape = _Shape(n_rows, n_samples, n_features, tuple(widths), len(blocks))
    stages = tuple(_stages(definition, shape, decision))
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
    definition: ClusterDefinition, n_samples: int, n_features: int, widths: Sequence[int]
) -> tuple[ClusterDefinition, tuple[Warned, ...]]:
    """Return the definition as it fits the shape of the data, and what is unwise about it.

    `widths` are the dimensions that the steps and the algorithm see, one by one.
    """
    config = definition.vector_config
    muted = Muted("plan")
    for width in widths:
        steps = check_chain(config.preprocessing_steps or (), n_samples, width, muted)
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
        changes: dict[str, Any] = {}
        if config.preprocessing_steps is None:
            changes["preprocessing_steps"] = ()
        if config.reads_tree():
            levels = {"granularities": config.max_hierarchy_depth}
            changes["algorithm_params"] = {**levels, **config.algorithm_params}
        return definition.replace(**changes), "the definition names it"
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
    changes = {"clustering_method": method, "algorithm_params": chosen}
    if config.preprocessing_steps is None:
        changes["preprocessing_steps"] = steps
    return definition.replace(**changes), reason


@dataclass(frozen=True, slots=True)
class _Shape:
    """Rows of the input, rows that are clustered, and the dimensions of their features."""

    n_rows: int
    n_samples: int
    n_features: int
    widths: tuple[int, ...]  # of what is clustered, one after the other
    n_blocks: int


@dataclass(slots=True)
class _Room:
    """Bytes that stay taken: by the process and its data, by libraries once they are loaded."""

    live: int
    libraries: int = 0

    def load(self, n_bytes: int) -> None:
        """Take note of libraries; those of several stages overlap, so the largest counts."""
        self.live += max(0, n_bytes - self.libraries)
        self.libraries = max(self.libraries, n_bytes)


def _stages(
    definition: ClusterDefinition, shape: _Shape, decision: Decision
) -> Iterator[PlannedStage]:
    config = definition.vector_config
    n_rows, n_samples, n_features = shape.n_rows, shape.n_samples, shape.n_features
    original = 4 * n_samples * n_features  # the unit rows stay: metrics are measured on them
    room = _Room(PROCESS_BYTES + original + 64 * n_rows)
    sampled = f"sample of {n_samples:,} rows" if n_samples < n_rows else "exact"
    reading = n_rows * n_features * 4 / 100e6
    yield PlannedStage("load", "cpu", sampled, room.live + 4 * BLOCK_BYTES, reading, ON_HOST)
    if (
        shape.n_blocks
        and config.multi_feature_strategy == "weighted"
        and not config.feature_weights
    ):
        yield _weighing(config, shape, room)
    if definition.cluster_type == "attribute":
        grouping = room.live + 400 * n_rows
        yield PlannedStage("cluster", "cpu", "exact", grouping, 1e-6 * n_rows, ON_HOST)
    for position, width in enumerate(shape.widths if config.algorithm is not None else ()):
        apart = len(shape.widths) > 1
        prefix = f"feature.{position}." if apart else ""
        if apart:
            room.live += 4 * n_samples * width  # the block of the feature
        yield from _fits(config, n_samples, width, decision, room, prefix)
    yield from _afterwards(definition, shape, decision, room)


def _weighing(config: VectorConfig, shape: _Shape, room: _Room) -> PlannedStage:
    """Return the stage that learns weights."""
    learning = config.weight_learning(0)
    rows = min(shape.n_samples, learning.sample_size)
    pairwise = 2.0 * rows**2 * shape.n_features
    groups = 30.0 * rows * shape.n_features * config.weighing_clusters(rows)
    return PlannedStage(
        "weigh",
        "cpu",
        f"on {rows:,} rows",
        room.live + 16 * rows * shape.n_features + (300 << 20),
        learning.max_iterations * (0.5 + (pairwise + groups) / 10e9),
        ON_HOST,
    )


def _fits(
    config: VectorConfig,
    n_samples: int,
    width: int,
    decision: Decision,
    room: _Room,
    prefix: str,
) -> Iterator[PlannedStage]:
    """Yield the stages that find clusters in one matrix."""
    algorithm = config.algorithm
    assert algorithm is not None  # noqa: S101 - `_complete` has chosen one
    prepared = 0
    for position, step in enumerate(config.preprocessing_steps or ()):
        cost = step.cost(n_samples, width)
        room.load(step.library_bytes)
        width = step.n_out(width)
        output = 4 * n_samples * width
        on_gpu = step.has_gpu_path and decision.device == "gpu"
        yield PlannedStage(
            f"{prefix}prepare.{position}.{step.method}",
            "gpu" if on_gpu else "cpu",
            cost.method,
            room.live + prepared + output + cost.bytes,
            None if on_gpu else cost.seconds,
            decision.reason if step.has_gpu_path else ON_HOST,
        )
        prepared = output
    cost = algorithm.cost(n_samples, width, decision.device)
    room.load(algorithm.library_bytes)
    room.live += prepared
    yield PlannedStage(
        f"{prefix}cluster",
        decision.device,
        cost.method,
        room.live + cost.bytes,
        cost.seconds,
        decision.reason,
    )


def _afterwards(
    definition: ClusterDefinition, shape: _Shape, decision: Decision, room: _Room
) -> Iterator[PlannedStage]:
    """Yield the stages after clusters were found."""
    config = definition.vector_config
    n_samples, n_features = shape.n_samples, shape.n_features
    n_clusters = getattr(config.algorithm, "n_clusters", None) or math.isqrt(n_samples)
    division = config.division(n_samples, definition.random_state)
    if division is not None:
        cost = division_cost(n_samples, n_features, n_clusters, division)
        room.load(LIBRARY_BYTES)
        yield PlannedStage(
            "divide",
            decision.device,
            cost.method,
            room.live + cost.bytes,
            cost.seconds if decision.device == "cpu" else None,
            decision.reason,
        )
    display = config.dimension_reduction
    shown = display.step(definition.random_state) if display is not None else None
    if display is not None and shown is not None:
        shown_cost = display.cost(n_samples, n_features, definition.random_state)
        assert shown_cost is not None  # noqa: S101 - there is a step
        room.load(shown.library_bytes)
        on_gpu = shown.has_gpu_path and decision.device == "gpu"
        yield PlannedStage(
            "display",
            "gpu" if on_gpu else "cpu",
            shown_cost.method,
            room.live + shown_cost.bytes,
            None if on_gpu else shown_cost.seconds,
            decision.reason if shown.has_gpu_path else ON_HOST,
        )
    levels = 1 if division is None else division.levels
    flop = 2.0 * levels * n_samples * n_features * (n_clusters + 8)
    yield PlannedStage(
        "measure",
        "cpu",
        "exact",
        room.live + 24 * n_samples + 24 * levels * n_clusters * n_features + 4 * BLOCK_BYTES,
        flop / 50e9 + n_samples * n_features / 1e9,
        ON_HOST,
    )
    n_written = n_samples
    if config.sample_mode == "fit_then_assign" and n_samples < shape.n_rows:
        n_written = shape.n_rows
        rest = n_written - n_samples
        yield PlannedStage(
            "assign",
            "cpu",
            "nearest centroid",
            room.live + 40 * n_written + 24 * n_clusters * n_features + 8 * BLOCK_BYTES,
            rest * n_features * 4 / 100e6 + 2.0 * rest * n_features * n_clusters / 50e9,
            ON_HOST,
        )
    yield PlannedStage(
        "write",
        "cpu",
        "exact",
        room.live + WRITE_BYTES_PER_ROW * n_written,
        0.2 + n_written * 2e-6,
        ON_HOST,
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
