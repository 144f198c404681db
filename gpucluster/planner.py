"""What a run will do and what it will cost, before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpucluster.costing import PlannedStage, Shape, planned_stages
from gpucluster.definition import ClusterDefinition
from gpucluster.device.cores import at_most, n_threads
from gpucluster.device.rates import Rates, known_rates
from gpucluster.device.select import Decision
from gpucluster.device.storage import Room
from gpucluster.errors import (
    ConfigError,
    DeviceUnavailableError,
    FallbackWarning,
    TooFewSamplesError,
    WillNotFitError,
)
from gpucluster.events import Muted, Warned
from gpucluster.ops.lines import LANES
from gpucluster.preprocess import UMAP, Conditioning, check_chain
from gpucluster.types import Storage, StorageRequest

DENSITY_ROWS = 1_000_000  # the most that was measured: some four minutes on two cores
LAYOUT_ROWS = 200  # below it, a layout has nothing to learn from
LAYOUT_COMPONENTS = LANES  # 50 gave no better clusters, in three times the time
LAYOUT_NEIGHBORS = 20  # 30 gave no better clusters


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
    room : Room
        What it may take.
    storage : {"memory", "disk"}
        Where matrices of all rows lie.
    rates : Rates
        What the predicted seconds are those of.
    reason : str
        Why this algorithm.
    n_threads : int
        Cores that work: fewer than there are where the blocks of all would be too much memory.
    warnings : tuple of Warned
        What is adjusted or unwise.
    """

    definition: ClusterDefinition
    decision: Decision
    n_samples: int
    n_features: int
    stages: tuple[PlannedStage, ...]
    room: Room
    storage: Storage
    rates: Rates
    reason: str
    n_threads: int = 1
    warnings: tuple[Warned, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """The largest memory that any stage will need, with its helpers."""
        return max(_needed(stage, self.room) for stage in self.stages)

    @property
    def folder(self) -> Path | None:
        """Where matrices of all rows lie; None: in memory."""
        return self.room.folder if self.storage == "disk" else None

    @property
    def disk_bytes(self) -> int:
        """What matrices of rows will take of the disk."""
        return max(stage.disk_bytes for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Expected wall time, or None where a stage was never measured."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def stage(self, name: str) -> PlannedStage | None:
        """Return a planned stage by name."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def require_room(self) -> None:
        """Raise `WillNotFitError` when the plan needs more than there is."""
        memory, disk = self.room.memory_bytes, self.room.disk_bytes
        if self.peak_bytes > memory:
            worst = max(self.stages, key=lambda stage: _needed(stage, self.room))
            needed = _needed(worst, self.room)
            more = "" if self.room.requested != "memory" else ", or --storage auto"
            raise WillNotFitError(
                f"the {worst.name} stage needs about {_gigabytes(needed)} of memory, "
                f"{_gigabytes(memory)} {'are free' if self.room.is_all else 'are allowed'}",
                needed_bytes=needed,
                available_bytes=memory,
                hint=f"try --sample-size, or --algorithm kmeans{more}",
            )
        if self.disk_bytes > disk:
            raise WillNotFitError(
                f"matrices need about {_gigabytes(self.disk_bytes)} of the disk of "
                f"{self.room.folder}, {_gigabytes(disk)} are free",
                needed_bytes=self.disk_bytes,
                available_bytes=disk,
                hint="make room there, name another folder with --out, or try --sample-size",
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
            "available_bytes": self.room.memory_bytes,
            "storage": self.storage,
            "disk_bytes": self.disk_bytes,
            "seconds": self.seconds,
            "rates": asdict(self.rates),
            "n_threads": self.n_threads,
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
    room: Room | None = None,
    *,
    is_far: bool = True,
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
    room : Room, optional
        What it may take. Omitted: the memory that is free.
    is_far : bool
        Whether the rows lie far from zero, once somebody has looked.

    Returns
    -------
    Plan

    Raises
    ------
    TooFewSamplesError
        There are fewer than two rows.
    ConfigError
        A parameter cannot work on data of this shape.
    DeviceUnavailableError
        The GPU was asked for, and the algorithm has no path there for these parameters.
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
        warned = _checked_display(definition, n_samples, n_features)
    else:
        definition, reason = _complete(definition, n_samples, min(widths))
        definition, warned = _checked(definition.with_seeds(), n_samples, n_features, widths)
        warned += _checked_device(definition, n_samples, decision)
    shape = Shape(n_rows, n_samples, n_features, tuple(widths), len(blocks), is_far)
    room = room or Room.of("memory")
    rates, free = known_rates(), room.memory_bytes
    for storage, cores in _ways(room.requested):
        with at_most(cores):
            stages = tuple(planned_stages(definition, shape, decision, storage, free))
        if max(_needed(stage, room) for stage in stages) <= free:
            break
    stages = tuple(_at(stage, rates) for stage in stages)
    return Plan(
        definition=definition,
        decision=decision,
        n_samples=n_samples,
        n_features=n_features,
        stages=stages,
        room=room,
        storage=storage,
        rates=rates,
        reason=reason,
        n_threads=cores,
        warnings=warned,
    )


def _needed(stage: PlannedStage, room: Room) -> int:
    return stage.bytes + stage.helper_bytes + (stage.disk_bytes if room.counts_files else 0)


def _ways(requested: StorageRequest) -> Iterator[tuple[Storage, int]]:
    """Yield where matrices may lie and how many cores work, the fastest first."""
    cores = n_threads()
    if requested != "disk":
        yield "memory", cores
    last: Storage = "memory" if requested == "memory" else "disk"
    if requested != "memory":
        yield last, cores
    while cores > 1:
        cores //= 2
        yield last, cores


def _at(stage: PlannedStage, rates: Rates) -> PlannedStage:
    """Return a stage with the seconds that it takes on a machine of these rates."""
    if stage.seconds is None:
        return stage
    seconds = stage.seconds * rates.slower(stage.name)
    return replace(stage, seconds=seconds + stage.read_bytes / rates.disk_read_bytes)


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
    if not config.algorithm.reads_rows():
        raise ConfigError(
            "got precomputed, which is for the Python classes: a run reads vectors",
            path="vector_config.algorithm_params.affinity",
            got="precomputed",
            hint=f"gpucluster.algorithms has the class of {config.clustering_method}",
        )
    config.algorithm.check(n_samples, muted)
    warned = (*muted.warnings, *_checked_display(definition, n_samples, n_features))
    return definition.replace(preprocessing_steps=tuple(steps)), warned


def _checked_device(
    definition: ClusterDefinition, n_samples: int, decision: Decision
) -> tuple[Warned, ...]:
    """Refuse what the GPU was asked for and has no path for, or say that the CPU takes it."""
    algorithm = definition.vector_config.algorithm
    assert algorithm is not None  # noqa: S101 - `_complete` has chosen one
    limit = algorithm.gpu_limit(n_samples) if decision.device == "gpu" else None
    if limit is None:
        return ()
    if decision.requested == "gpu":
        raise DeviceUnavailableError(
            f"device=gpu: {algorithm.name}: {limit}",
            hint="use --device auto, where the CPU takes what has no GPU path",
        )
    return (Warned("gpu_cannot", algorithm.goes_to_cpu(limit), FallbackWarning.__name__),)


def _checked_display(
    definition: ClusterDefinition, n_samples: int, n_features: int
) -> tuple[Warned, ...]:
    """Return what is unwise about the display coordinates."""
    muted = Muted("plan")
    display = definition.vector_config.dimension_reduction
    if display is not None:
        display.check(n_samples, n_features, definition.random_state, muted)
    return tuple(muted.warnings)


def _complete(
    definition: ClusterDefinition, n_samples: int, n_features: int
) -> tuple[ClusterDefinition, str]:
    """Choose what the definition leaves open."""
    config = definition.vector_config
    steps: list[dict[str, Any]]
    if config.clustering_method is not None:
        changes: dict[str, Any] = {}
        if config.preprocessing_steps is None:
            changes["preprocessing_steps"] = ()
        if config.reads_tree():
            levels = {"granularities": config.max_hierarchy_depth}
            changes["algorithm_params"] = {**levels, **config.algorithm_params}
        return definition.replace(**changes), "the definition names it"
    if n_samples > DENSITY_ROWS:
        chosen: dict[str, Any] = {"n_clusters": max(2, math.isqrt(n_samples))}
        method, steps = "kmeans", []
        reason = f"more than {DENSITY_ROWS:,} rows: k-means with sqrt(n_samples) clusters"
    else:
        chosen = {"min_cluster_size": "auto", "cluster_selection_method": "auto"}
        wide = n_samples >= LAYOUT_ROWS and n_features > LAYOUT_COMPONENTS
        layout = {
            "method": UMAP().method,
            "n_components": LAYOUT_COMPONENTS,
            "n_neighbors": LAYOUT_NEIGHBORS,
        }
        method, steps = "hdbscan", [{"method": Conditioning().method}, layout] if wide else []
        reason = f"up to {DENSITY_ROWS:,} rows: HDBSCAN finds the number of clusters by itself"
    changes = {"clustering_method": method, "algorithm_params": chosen}
    if "noise_policy" not in config.model_fields_set:
        changes["noise_policy"] = "assign_near"
    if config.preprocessing_steps is None:
        changes["preprocessing_steps"] = steps
    return definition.replace(**changes), reason


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
