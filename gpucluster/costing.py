"""What each stage of a run will cost: bytes, seconds, method."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpucluster.assignment.calibration import PAIRS
from gpucluster.definition import ClusterDefinition
from gpucluster.device.memory import BLOCK_BYTES, blocks_bytes
from gpucluster.device.select import Decision, Device
from gpucluster.device.storage import SMALL_BYTES
from gpucluster.hierarchy import LIBRARY_BYTES, division_cost
from gpucluster.preprocess.normalize import L2Normalize
from gpucluster.types import Cost, Storage
from gpucluster.vector_config import VectorConfig

PROCESS_BYTES = 220 << 20  # interpreter, numpy, pyarrow, scikit-learn
LIBRARY_PAGES = 115 << 20  # of that: pages of files, which do not count beside matrices on disk
# of a row, beside its values: its id and number, which stay; ids while they are compared; what is
# measured; what is written, in tables that are sorted and encoded
ID_BYTES, UNIQUE_BYTES, MEASURE_BYTES, CALIBRATE_BYTES = 30, 220, 110, 98
MEASURE_BLOCKS = 3  # those of the rows that metrics look at, or tables in the order of clusters
READ_BLOCKS = 5  # what is decoded, and the batch that is judged meanwhile
READ_BYTES_S = 200e6  # of float32, decoded, judged and copied
ON_HOST = "always on the host"
WRITE_BYTES = 200


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """What one stage will do.

    `bytes` is the peak of this process's memory while it runs, `helper_bytes` what processes take
    that help it, `device_bytes` what it takes of the GPU at least, `disk_bytes` what matrices of
    rows take of the disk, `read_bytes` what it reads there because memory cannot hold it; `reason`
    says why on this device.
    """

    name: str
    device: str
    method: str
    bytes: int
    seconds: float | None
    reason: str
    device_bytes: int = 0
    disk_bytes: int = 0
    read_bytes: int = 0
    helper_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows of the input, rows that are clustered, and the dimensions of their features.

    `is_far` says whether the rows lie far from zero, beside each other; taken for granted as long
    as nobody has seen them.
    """

    n_rows: int
    n_samples: int
    n_features: int
    widths: tuple[int, ...]  # of what is clustered, one after the other
    n_blocks: int
    is_far: bool = True


@dataclass(slots=True)
class _Taken:
    """Bytes that stay taken: by the process and its data, by libraries once they are loaded."""

    storage: Storage
    memory: int  # of the host, for all
    live: int
    disk: int = 0
    libraries: int = 0

    def load(self, n_bytes: int) -> None:
        """Take note of libraries; those of several stages overlap, so the largest counts."""
        if self.storage == "disk":
            n_bytes //= 2  # the rest are pages of files
        self.live += max(0, n_bytes - self.libraries)
        self.libraries = max(self.libraries, n_bytes)

    def keep(self, matrix_bytes: int) -> None:
        """Take note of a matrix with as many rows as there are."""
        on_disk = self._on_disk(matrix_bytes)
        self.disk += on_disk
        self.live += matrix_bytes - on_disk

    def peak(
        self, n_bytes: int, *matrices: int, read: int = 0, passes: float = 1
    ) -> dict[str, int]:
        """Return what a stage takes that needs `n_bytes`, and matrices with a row for each row.

        Matrices on disk pass through memory in blocks, of which the system keeps what it can.
        `read` are the bytes of matrices from before that it goes through in each of its `passes`:
        of a pass that memory cannot hold nothing is left there for the next one.
        """
        on_disk = sum(map(self._on_disk, matrices))
        held = self.live + n_bytes + sum(matrices) - on_disk
        if self.storage == "memory":
            return {"bytes": held}
        too_much = held + read + on_disk > self.memory
        return {
            "bytes": held,
            "disk_bytes": self.disk + on_disk,
            "read_bytes": int((read + on_disk) * passes) if too_much else 0,
        }

    def _on_disk(self, matrix_bytes: int) -> int:
        """Return what of a matrix lies on disk: all or, where it is small, nothing."""
        return matrix_bytes if self.storage == "disk" and matrix_bytes > SMALL_BYTES else 0


def planned_stages(
    definition: ClusterDefinition,
    shape: Shape,
    decision: Decision,
    storage: Storage,
    memory_bytes: int,
) -> Iterator[PlannedStage]:
    """Yield the stages of a run, in order, with what each will take.

    Parameters
    ----------
    definition : ClusterDefinition
        Complete.
    shape : Shape
    decision : Decision
    storage : {"memory", "disk"}
        Where matrices of all rows lie.
    memory_bytes : int
        What the run may take of the host's memory.

    Yields
    ------
    PlannedStage
    """
    config = definition.vector_config
    n_rows, n_samples, n_features = shape.n_rows, shape.n_samples, shape.n_features
    matrix = 4 * n_samples * n_features  # the unit rows stay: metrics are measured on them
    live, pages = PROCESS_BYTES + ID_BYTES * n_rows, LIBRARY_PAGES
    if storage == "memory":
        taken = _Taken(storage, memory_bytes, live + matrix)
    else:
        taken = _Taken(storage, memory_bytes, live - pages, matrix)
    most = "" if definition.filters is None else "at most "  # as many as match
    sampled = f"sample of {most}{n_samples:,} rows" if n_samples < n_rows else "exact"
    reading = n_rows * n_features * 4 / READ_BYTES_S
    yield PlannedStage(
        name="load",
        device="cpu",
        method=sampled,
        seconds=reading,
        reason=ON_HOST,
        **taken.peak(
            max(blocks_bytes(4 * n_rows * n_features, READ_BLOCKS), UNIQUE_BYTES * n_rows)
        ),
    )
    if (
        shape.n_blocks
        and config.multi_feature_strategy == "weighted"
        and not config.feature_weights
    ):
        yield _weighing(config, shape, taken)
    if definition.cluster_type == "attribute":
        yield PlannedStage(
            name="cluster",
            device="cpu",
            method="exact",
            seconds=1e-6 * n_rows,
            reason=ON_HOST,
            **taken.peak(400 * n_rows),
        )
    for position, width in enumerate(shape.widths if config.algorithm is not None else ()):
        apart = len(shape.widths) > 1
        prefix = f"feature.{position}." if apart else ""
        if apart:
            taken.keep(4 * n_samples * width)  # the block of the feature
        yield from _fits(config, n_samples, width, decision, taken, prefix, is_far=shape.is_far)
    yield from _afterwards(definition, shape, decision, taken)


def _weighing(config: VectorConfig, shape: Shape, taken: _Taken) -> PlannedStage:
    """Return the stage that learns weights."""
    learning = config.weight_learning(0)
    rows = min(shape.n_samples, learning.sample_size)
    pairwise = 2.0 * rows**2 * shape.n_features
    groups = 30.0 * rows * shape.n_features * config.weighing_clusters(rows)
    return PlannedStage(
        name="weigh",
        device="cpu",
        method=f"on {rows:,} rows",
        seconds=learning.max_iterations * (0.5 + (pairwise + groups) / 10e9),
        reason=ON_HOST,
        **taken.peak(16 * rows * shape.n_features + (300 << 20)),
    )


def _fits(
    config: VectorConfig,
    n_samples: int,
    width: int,
    decision: Decision,
    taken: _Taken,
    prefix: str,
    *,
    is_far: bool,
) -> Iterator[PlannedStage]:
    """Yield the stages that find clusters in one matrix."""
    algorithm = config.algorithm
    assert algorithm is not None  # noqa: S101 - `_complete` has chosen one
    prepared, is_unit = 0, config.normalize_features
    for position, step in enumerate(config.preprocessing_steps or ()):
        on_gpu = step.has_gpu_path and decision.device == "gpu"
        cost = _spared(
            step.cost(n_samples, width, "gpu" if on_gpu else "cpu"), is_unit=is_unit, is_far=is_far
        )
        read = prepared or 4 * n_samples * width
        taken.load(step.library_bytes)
        width = step.n_out(width)
        output = 4 * n_samples * width
        yield PlannedStage(
            name=f"{prefix}prepare.{position}.{step.method}",
            device="gpu" if on_gpu else "cpu",
            method=cost.method,
            seconds=None if on_gpu else cost.seconds,
            reason=decision.reason if step.has_gpu_path else ON_HOST,
            device_bytes=cost.device_bytes if on_gpu else 0,
            **taken.peak(
                cost.bytes - cost.rows_bytes,
                *(prepared, output, cost.rows_bytes),
                read=read,
                passes=cost.passes,
            ),
        )
        prepared = output
        taken.live += cost.kept_bytes
        is_unit = step.method == L2Normalize().method
        is_far = is_far and is_unit  # all others centre
    limit = algorithm.gpu_limit(n_samples) if decision.device == "gpu" else None
    device = "cpu" if limit else decision.device
    cost = _spared(algorithm.cost(n_samples, width, device), is_unit=is_unit, is_far=is_far)
    taken.load(algorithm.library_bytes)
    taken.keep(prepared)
    yield PlannedStage(
        name=f"{prefix}cluster",
        device=device,
        method=cost.method,
        seconds=cost.seconds,
        reason=limit or decision.reason,
        device_bytes=cost.device_bytes,
        **taken.peak(
            *(cost.bytes - cost.rows_bytes, cost.rows_bytes),
            read=4 * n_samples * width,
            passes=cost.passes,
        ),
    )


def _spared(cost: Cost, *, is_unit: bool, is_far: bool) -> Cost:
    """Return a cost without the copies that rows of this kind do not need."""
    spared = cost.unit_bytes * is_unit + cost.far_bytes * (not is_far)
    return replace(cost, bytes=cost.bytes - spared, rows_bytes=cost.rows_bytes - spared)


def _afterwards(
    definition: ClusterDefinition, shape: Shape, decision: Decision, taken: _Taken
) -> Iterator[PlannedStage]:
    """Yield the stages after clusters were found."""
    config = definition.vector_config
    n_samples, n_features = shape.n_samples, shape.n_features
    matrix = 4 * n_samples * n_features
    n_clusters = getattr(config.algorithm, "n_clusters", None) or math.isqrt(n_samples)
    division = config.division(n_samples, definition.random_state)
    if division is not None:
        cost = division_cost(n_samples, n_features, n_clusters, division)
        taken.load(LIBRARY_BYTES)
        yield PlannedStage(
            name="divide",
            device=decision.device,
            method=cost.method,
            seconds=cost.seconds if decision.device == "cpu" else None,
            reason=decision.reason,
            helper_bytes=cost.helper_bytes,
            **taken.peak(cost.bytes, read=matrix),
        )
    display = config.dimension_reduction
    shown = display.step(definition.random_state) if display is not None else None
    if display is not None and shown is not None:
        on_gpu = shown.has_gpu_path and decision.device == "gpu"
        place: Device = "gpu" if on_gpu else "cpu"
        shown_cost = display.cost(n_samples, n_features, definition.random_state, place)
        assert shown_cost is not None  # noqa: S101 - there is a step
        shown_cost = _spared(shown_cost, is_unit=config.normalize_features, is_far=shape.is_far)
        taken.load(shown.library_bytes)
        yield PlannedStage(
            name="display",
            device="gpu" if on_gpu else "cpu",
            method=shown_cost.method,
            seconds=None if on_gpu else shown_cost.seconds,
            reason=decision.reason if shown.has_gpu_path else ON_HOST,
            **taken.peak(
                shown_cost.bytes - shown_cost.rows_bytes, shown_cost.rows_bytes, read=matrix
            ),
        )
    levels = 1 if division is None else division.levels
    flop = 2.0 * levels * n_samples * n_features * (n_clusters + 8)
    seconds = flop / 50e9 + n_samples * n_features / 1e9
    yield PlannedStage(
        name="measure",
        device=decision.device,
        method="exact",
        seconds=seconds if decision.device == "cpu" else None,
        reason=decision.reason,
        **taken.peak(
            MEASURE_BYTES * n_samples
            + 24 * levels * n_clusters * n_features
            + blocks_bytes(matrix, MEASURE_BLOCKS),
            read=matrix,
            passes=4,
        ),
    )
    if definition.cluster_type == "vector":
        again = config.assignment_rule == "fit" or division is not None
        yield PlannedStage(
            name="calibrate",
            device=decision.device if again else "cpu",
            method="exact",
            seconds=(flop if again else 0.0) / 100e9 + 2 * n_samples * n_features / 1e9,
            reason=decision.reason,
            **taken.peak(
                CALIBRATE_BYTES * n_samples
                + 16 * n_clusters * n_features
                + min(12 * PAIRS * n_features, 3 * BLOCK_BYTES)
                + blocks_bytes(matrix),
                read=matrix,
                passes=4,
            ),
        )
    n_written = n_samples
    if config.sample_mode == "fit_then_assign" and n_samples < shape.n_rows:
        n_written = shape.n_rows
        rest = n_written - n_samples
        seconds = rest * n_features * 4 / READ_BYTES_S + 2.0 * rest * n_features * n_clusters / 50e9
        yield PlannedStage(
            name="assign",
            device=decision.device,
            method="nearest centroid",
            seconds=seconds if decision.device == "cpu" else None,
            reason=decision.reason,
            **taken.peak(
                40 * n_written
                + 24 * n_clusters * n_features
                + blocks_bytes(4 * rest * n_features, READ_BLOCKS)
                + blocks_bytes(4 * rest * n_features)
            ),
        )
    yield PlannedStage(
        name="write",
        device="cpu",
        method="exact",
        seconds=0.1 + n_written * 5e-7,
        reason=ON_HOST,
        **taken.peak(WRITE_BYTES * n_written + blocks_bytes(matrix, MEASURE_BLOCKS)),
    )
