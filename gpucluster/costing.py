"""What each stage of a run will cost: bytes, seconds, method."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gpucluster.definition import ClusterDefinition
from gpucluster.device.memory import BLOCK_BYTES
from gpucluster.device.select import Decision, Device
from gpucluster.hierarchy import LIBRARY_BYTES, division_cost
from gpucluster.vector_config import VectorConfig

PROCESS_BYTES = 330 << 20  # interpreter, numpy, pyarrow, scikit-learn
ON_HOST = "always on the host"
WRITE_BYTES_PER_ROW = 300  # tables of members, while they are sorted and encoded


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """What one stage will do.

    `bytes` is the peak of the host's memory while it runs, `device_bytes` what it takes of the GPU
    at least, `reason` says why on this device.
    """

    name: str
    device: str
    method: str
    bytes: int
    seconds: float | None
    reason: str
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
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


def planned_stages(
    definition: ClusterDefinition, shape: Shape, decision: Decision
) -> Iterator[PlannedStage]:
    """Yield the stages of a run, in order, with what each will take.

    Parameters
    ----------
    definition : ClusterDefinition
        Complete.
    shape : Shape
    decision : Decision

    Yields
    ------
    PlannedStage
    """
    config = definition.vector_config
    n_rows, n_samples, n_features = shape.n_rows, shape.n_samples, shape.n_features
    original = 4 * n_samples * n_features  # the unit rows stay: metrics are measured on them
    room = _Room(PROCESS_BYTES + original + 64 * n_rows)
    most = "" if definition.filters is None else "at most "  # as many as match
    sampled = f"sample of {most}{n_samples:,} rows" if n_samples < n_rows else "exact"
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


def _weighing(config: VectorConfig, shape: Shape, room: _Room) -> PlannedStage:
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
        on_gpu = step.has_gpu_path and decision.device == "gpu"
        cost = step.cost(n_samples, width, "gpu" if on_gpu else "cpu")
        room.load(step.library_bytes)
        width = step.n_out(width)
        output = 4 * n_samples * width
        yield PlannedStage(
            f"{prefix}prepare.{position}.{step.method}",
            "gpu" if on_gpu else "cpu",
            cost.method,
            room.live + prepared + output + cost.bytes,
            None if on_gpu else cost.seconds,
            decision.reason if step.has_gpu_path else ON_HOST,
            cost.device_bytes if on_gpu else 0,
        )
        prepared = output
    limit = algorithm.gpu_limit(n_samples) if decision.device == "gpu" else None
    device = "cpu" if limit else decision.device
    cost = algorithm.cost(n_samples, width, device)
    room.load(algorithm.library_bytes)
    room.live += prepared
    yield PlannedStage(
        f"{prefix}cluster",
        device,
        cost.method,
        room.live + cost.bytes,
        cost.seconds,
        limit or decision.reason,
        cost.device_bytes,
    )


def _afterwards(
    definition: ClusterDefinition, shape: Shape, decision: Decision, room: _Room
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
        on_gpu = shown.has_gpu_path and decision.device == "gpu"
        place: Device = "gpu" if on_gpu else "cpu"
        shown_cost = display.cost(n_samples, n_features, definition.random_state, place)
        assert shown_cost is not None  # noqa: S101 - there is a step
        room.load(shown.library_bytes)
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
        decision.device,
        "exact",
        room.live + 24 * n_samples + 24 * levels * n_clusters * n_features + 4 * BLOCK_BYTES,
        flop / 50e9 + n_samples * n_features / 1e9 if decision.device == "cpu" else None,
        decision.reason,
    )
    if definition.cluster_type == "vector":
        again = config.assignment_rule == "fit" or division is not None
        yield PlannedStage(
            "calibrate",
            decision.device if again else "cpu",
            "exact",
            room.live + 56 * n_samples + 16 * n_clusters * n_features + 4 * BLOCK_BYTES,
            (flop if again else 0.0) / 100e9 + 2 * n_samples * n_features / 1e9,
            decision.reason,
        )
    n_written = n_samples
    if config.sample_mode == "fit_then_assign" and n_samples < shape.n_rows:
        n_written = shape.n_rows
        rest = n_written - n_samples
        seconds = rest * n_features * 4 / 100e6 + 2.0 * rest * n_features * n_clusters / 50e9
        yield PlannedStage(
            "assign",
            decision.device,
            "nearest centroid",
            room.live + 40 * n_written + 24 * n_clusters * n_features + 8 * BLOCK_BYTES,
            seconds if decision.device == "cpu" else None,
            decision.reason,
        )
    yield PlannedStage(
        "write",
        "cpu",
        "exact",
        room.live + WRITE_BYTES_PER_ROW * n_written,
        0.2 + n_written * 2e-6,
        ON_HOST,
    )
