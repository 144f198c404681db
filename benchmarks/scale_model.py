"""What a run asks of each part of a machine, and which part it waits for: pencil and paper.

Bytes, operations and seconds of the stages of whitening and k-means, on machines of stated rates.
Nothing is measured here; ``scale_tables.py`` puts it beside plans and measurements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from scale_machines import TWO_CORES, Estimate, Machine, Need, estimate

from gpucluster.costing import (
    CALIBRATE_BYTES,
    ID_BYTES,
    MEASURE_BYTES,
    PROCESS_BYTES,
    UNIQUE_BYTES,
    WRITE_BYTES,
)
from gpucluster.device.memory import BLOCK_BYTES
from gpucluster.device.rates import REFERENCE
from gpucluster.ops.half_lloyd import resident_bytes
from gpucluster.ops.lloyd import n_groups
from gpucluster.ops.moments import PART_ROWS
from gpucluster.ops.seeding import seeding_rows, seeding_seconds
from gpucluster.ops.shards import FAN_IN, shard_rows

FLOAT, DOUBLE = 4, 8
ALONE = ("load", "calibrate", "write")  # stages of the process that starts the run
# Fitted to 5,000,000 and 500,000 rows in results/disk-2026-11-28.json, on two cores
LOAD_S = 18e-9  # of one process, for a value that is decoded, compared and scaled
MEASURE_CORE_S, CALIBRATE_CORE_S = 14e-9, 6e-9  # of a core, for a value
WRITE_S = 0.45e-6  # of one process, for a row
CALIBRATE_PASSES = 5
ROW_SENT_BYTES = 68  # of a row, to the first process: norms, labels, distances, metrics
BOUNDED_SHARE = 0.5  # of the rate of products that a search which keeps bounds reaches
# Assumed
MEASURE_PASSES = 6  # over the rows, in the memory of a GPU
EIGEN_S = {"cpu": 5e-10, "gpu": 1e-11}  # for each cubed dimension
CENTER_PASSES = 10  # of one process, over the sums of an iteration
LAUNCH_S = 0.01  # of one process, to send out the tasks of an iteration and to wait for them


@dataclass(frozen=True)
class Job:
    """Whitening, k-means with one start, measuring, calibrating: the run of ``bench_disk.py``.

    `value_bytes` is the size of a value in the input.
    """

    n_rows: int
    n_clusters: int
    n_features: int = 768
    n_iter: int = 10
    value_bytes: int = 2

    @property
    def input_bytes(self) -> int:
        """What is read."""
        return self.value_bytes * self.n_rows * self.n_features

    @property
    def matrix_bytes(self) -> int:
        """One matrix of all rows, float32. There are two: unit rows, and whitened ones."""
        return FLOAT * self.n_rows * self.n_features

    @property
    def bounds_bytes(self) -> int:
        """What k-means keeps of all rows on the CPU."""
        return FLOAT * self.n_rows * n_groups(self.n_clusters, self.n_features)

    @property
    def centers_bytes(self) -> int:
        """What goes to all workers in each iteration."""
        return FLOAT * self.n_clusters * self.n_features

    @property
    def sums_bytes(self) -> int:
        """What comes back at most: sums and counts of all clusters."""
        return DOUBLE * self.n_clusters * (self.n_features + 1)

    @property
    def search_flop(self) -> float:
        """Every row with every centre."""
        return 2.0 * self.n_rows * self.n_features * self.n_clusters


def run(job: Job, machine: Machine, *, spread: bool = False) -> dict[str, Estimate]:
    """Return what each stage takes.

    Parameters
    ----------
    job : Job
    machine : Machine
    spread : bool, default False
        As if the stages that are `ALONE` were done by a process for each two cores. They are not.
    """
    found: dict[str, Estimate] = {}
    for stage, needs in stages(job, machine):
        shared = spread and stage in ALONE
        found[stage] = estimate(
            [_spread(each, machine) if shared else each for each in needs], machine
        )
    return found


def _spread(need: Need, machine: Machine) -> Need:
    return replace(
        need,
        alone=False,
        process_s=2 * need.process_s / (machine.n_nodes * machine.n_cores),  # measured on two
        network=need.network / machine.n_nodes,
    )


def stages(job: Job, machine: Machine) -> Iterator[tuple[str, list[Need]]]:
    """Yield the stages in order, with what each asks for."""
    n_rows, n_features = job.n_rows, job.n_features
    n_values = n_rows * n_features
    # one node does not send to itself; matrices come from the storage where memory is too small
    wire = 1 if machine.n_nodes > 1 else 0
    on_disk = lies_on_disk(job, machine)
    alone_again = 0 if is_cached(job, machine, 1) else 1
    to_gpu = 1 if machine.n_gpus else 0
    matrix, kept = job.matrix_bytes, job.matrix_bytes if on_disk else 0
    once = _pass_over(job, machine)
    yield (
        "load",
        [
            Need(
                alone=True,
                read=job.input_bytes,
                written=kept,
                network=wire * (job.input_bytes + kept),
                process_s=LOAD_S * n_values,
            )
        ],
    )
    square = 2.0 * n_rows * n_features**2
    eigen = EIGEN_S["gpu" if machine.n_gpus else "cpu"] * n_features**3
    yield (
        "whitening",
        [
            Need(
                flop=square,
                moved=matrix,
                pcie=to_gpu * matrix,
                **_pass_over(job, machine, is_first=True),
            ),
            Need(alone=True, process_s=eigen),
            Need(
                flop=square,
                moved=2 * matrix,
                pcie=to_gpu * (1 if is_resident(job, machine) else 2) * matrix,
                written=kept,
                **once,
            ),
        ],
    )
    yield "k-means", _kmeans(job, machine, once)
    busy = {"moved": MEASURE_PASSES * matrix} if to_gpu else {"core_s": MEASURE_CORE_S * n_values}
    yield (
        "measure",
        [
            Need(moved=2 * matrix, pcie=to_gpu * matrix, **once),
            Need(flop=job.search_flop, pcie=to_gpu * matrix, **busy, **once),
            Need(alone=True, network=wire * ROW_SENT_BYTES * n_rows),
        ],
    )
    read = CALIBRATE_PASSES * alone_again * matrix
    yield (
        "calibrate",
        [
            Need(
                alone=True,
                flop=job.search_flop,
                pcie=to_gpu * matrix,
                core_s=CALIBRATE_CORE_S * n_values,
                read=read,
                network=wire * read,
            )
        ],
    )
    yield (
        "write",
        [Need(alone=True, process_s=0.1 + WRITE_S * n_rows, written=WRITE_BYTES / 4 * n_rows)],
    )


def iteration(job: Job, machine: Machine) -> Estimate:
    """Return what one iteration over all rows takes."""
    return estimate(_iteration(job, machine, _pass_over(job, machine)), machine)


def _pass_over(job: Job, machine: Machine, *, is_first: bool = False) -> dict[str, float]:
    """Return what it takes that the workers see all rows once.

    Where memory holds them they are read the first time only, and one node has what it wrote.
    """
    comes = not is_cached(job, machine, machine.n_nodes) or (is_first and machine.n_nodes > 1)
    read = job.matrix_bytes if comes else 0
    return {"read": read, "network": read / machine.n_nodes if machine.n_nodes > 1 else 0.0}


def _kmeans(job: Job, machine: Machine, pass_over: dict[str, float]) -> list[Need]:
    """Return first centres, the descent on a sample, and iterations over all rows."""
    sample = replace(job, n_rows=seeding_rows(job.n_rows, job.n_clusters))
    slower = REFERENCE.copied_bytes / machine.host_bytes
    seeding = seeding_seconds(job.n_rows, job.n_features, job.n_clusters) * slower
    searches = job.n_iter + 1
    contest = searches * sample.search_flop / _share(machine)
    return [
        Need(alone=True, process_s=seeding),
        Need(alone=True, flop=contest if sample.n_rows < job.n_rows else 0.0),
        *_iteration(job, machine, pass_over) * searches,
    ]


def _share(machine: Machine) -> float:
    return 1.0 if machine.n_gpus else BOUNDED_SHARE


def _iteration(job: Job, machine: Machine, pass_over: dict[str, float]) -> list[Need]:
    """Return a search over all rows, as if bounds spared none, and the step of the centres.

    Centres go out as a file; of the sums of shards come those of all clusters, as in the first
    iteration. Later ones send the clusters that rows came to or left.
    """
    on_gpu, together = machine.n_gpus > 0, machine.is_fleet
    resident = on_gpu and is_resident(job, machine)
    bounds = 0 if on_gpu else job.bounds_bytes
    paged = 0 if is_cached(job, machine, machine.n_nodes) else bounds
    if resident:
        pass_over = {"read": 0.0, "network": 0.0}
    search = Need(
        flop=job.search_flop / _share(machine),
        # a GPU multiplies float16 copies, and adds up the rows themselves
        moved=1.5 * job.matrix_bytes if on_gpu else job.matrix_bytes + 2 * bounds,
        pcie=0.0 if resident or not on_gpu else job.matrix_bytes,
        read=pass_over["read"] + paged + together * machine.n_nodes * job.centers_bytes,
        network=pass_over["network"] + tree_bytes(job, machine),
        written=paged + together * job.centers_bytes,
    )
    step = CENTER_PASSES * job.sums_bytes / REFERENCE.copied_bytes
    return [search, Need(alone=True, process_s=step + together * LAUNCH_S)]


def n_sums(job: Job, n_workers: int, least_rows: int = 1) -> int:
    """Return how many sums the shards of a matrix leave with workers of one thread each."""
    n_shards = -(-job.n_rows // max(least_rows, shard_rows(job.n_rows, job.n_features)))
    return -(-n_shards // FAN_IN) if n_shards >= FAN_IN * n_workers else n_shards


def sums_sent(n_sums: int, n_workers: int, n_nodes: int) -> tuple[int, int]:
    """Walk through the tree in which sums are added up, and count those that have to travel.

    Parameters
    ----------
    n_sums : int
        At its leaves; neighbours lie with one worker.
    n_workers, n_nodes : int

    Returns
    -------
    all, busiest : int
        Sums that go from one process to another, and the most that come to one node from others.
        The last one goes to the process that started the run, on the first node.
    """
    homes = [leaf * n_workers // n_sums for leaf in range(n_sums)]
    sent, came = 0, Counter({0: 0})
    while len(homes) > 1:
        groups = [homes[start : start + FAN_IN] for start in range(0, len(homes), FAN_IN)]
        homes = [max(group, key=group.count) for group in groups]
        for home, group in zip(homes, groups, strict=True):
            node = home * n_nodes // n_workers
            sent += sum(each != home for each in group)
            came[node] += sum(each * n_nodes // n_workers != node for each in group)
    came[0] += homes[0] * n_nodes // n_workers != 0
    return sent + 1, max(came.values())


def tree_bytes(job: Job, machine: Machine) -> float:
    """Return what comes to the busiest node over the network for one iteration."""
    if machine.n_nodes == 1:
        return 0.0
    shape = n_sums(job, machine.n_workers), machine.n_workers, machine.n_nodes
    return float(sums_sent(*shape)[1] * job.sums_bytes + job.centers_bytes)


def sent_bytes(job: Job, n_workers: int) -> float:
    """Return what workers of one thread send in a run: sums, each of all clusters, and row facts.

    The scheduler passes on what goes to the first process, so that is sent twice.
    """
    square = DOUBLE * job.n_features * (job.n_features + 1)
    of_moments = 1 + sums_sent(n_sums(job, n_workers, PART_ROWS), n_workers, 1)[0]
    of_clusters = 1 + sums_sent(n_sums(job, n_workers), n_workers, 1)[0]
    # one search more than iterations, and the mean of each cluster when it is measured
    sums = (job.n_iter + 2) * of_clusters * job.sums_bytes
    return of_moments * square + sums + 2 * ROW_SENT_BYTES * job.n_rows


def is_resident(job: Job, machine: Machine) -> bool:
    """Whether k-means finds room for all rows on the GPUs."""
    share = -(-job.n_rows // max(1, machine.n_gpus))
    return resident_bytes(share, job.n_features) <= machine.device_room


def is_cached(job: Job, machine: Machine, n_nodes: int) -> bool:
    """Whether so many nodes can keep in memory what is worked on."""
    bounds = 0 if machine.n_gpus else job.bounds_bytes
    room = machine.host_room * n_nodes
    return 2 * job.matrix_bytes + bounds + driver_bytes(job) <= room


def lies_on_disk(job: Job, machine: Machine) -> bool:
    """Whether matrices of all rows are files: for other processes, or for want of memory."""
    return machine.is_fleet or not is_cached(job, machine, 1)


def driver_bytes(job: Job) -> int:
    """Return the memory of the process that starts the run, beside matrices of all rows."""
    each = max(UNIQUE_BYTES, MEASURE_BYTES, CALIBRATE_BYTES, WRITE_BYTES)
    blocks = 6 * BLOCK_BYTES * TWO_CORES.n_cores
    return PROCESS_BYTES + (ID_BYTES + each) * job.n_rows + 4 * job.sums_bytes + blocks


def host_bytes(job: Job) -> int:
    """Return the memory of a run on two cores whose matrices lie in memory."""
    sample = replace(job, n_rows=seeding_rows(job.n_rows, job.n_clusters))
    drawn = sample.matrix_bytes + sample.bounds_bytes if sample.n_rows < job.n_rows else 0
    searching = job.bounds_bytes + drawn + 5 * job.sums_bytes
    others = max(UNIQUE_BYTES, WRITE_BYTES) * job.n_rows
    at_rest = PROCESS_BYTES + ID_BYTES * job.n_rows + 2 * job.matrix_bytes
    return at_rest + max(searching, others) + 6 * BLOCK_BYTES * TWO_CORES.n_cores


def worker_bytes(job: Job, machine: Machine) -> int:
    """Return the memory of one worker, beside rows in files: sums of its shards, and centres."""
    held = -(-n_sums(job, machine.n_workers) // machine.n_workers) + FAN_IN
    return PROCESS_BYTES + held * job.sums_bytes + 2 * job.centers_bytes + 6 * BLOCK_BYTES
