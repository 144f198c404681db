"""Machines by their rates, and how long work takes that asks so much of each part of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpucluster.device.rates import REFERENCE


@dataclass(frozen=True)
class Machine:
    """Rates of a second, each that of one unit.

    Attributes
    ----------
    name : str
    n_nodes, n_gpus : int
        In all.
    product_flop, memory_bytes : float
        Products of rows and centres, and bytes moved, by one GPU; by one node where there is none.
    host_bytes : float
        Moved by one node in its own memory.
    n_cores : int
        Of a node.
    host_room, device_room : float
        Bytes of memory of one node, and of one GPU.
    pcie_bytes : float
        From a node to one of its GPUs.
    network_bytes : float
        Into or out of one node.
    read_bytes, written_bytes : float
        Of the storage that all see, by all together.
    """

    name: str
    n_nodes: int
    n_gpus: int
    product_flop: float
    memory_bytes: float
    host_bytes: float
    n_cores: int
    host_room: float
    read_bytes: float
    written_bytes: float
    device_room: float = 0.0
    pcie_bytes: float = math.inf
    network_bytes: float = math.inf

    @property
    def n_units(self) -> int:
        """What products are divided by."""
        return self.n_gpus or self.n_nodes

    @property
    def is_fleet(self) -> bool:
        """Whether other processes work on shards; else the threads of one do, or one GPU."""
        return self.n_gpus > 1 or self.n_nodes > 1

    @property
    def n_workers(self) -> int:
        """Processes that shards are given to: one for each GPU, or for two cores."""
        return self.n_gpus or max(1, self.n_nodes * self.n_cores // 2)


TWO_CORES = Machine(
    name="2 cores",
    n_nodes=1,
    n_gpus=0,
    product_flop=REFERENCE.product_flop,
    memory_bytes=REFERENCE.copied_bytes,
    host_bytes=REFERENCE.copied_bytes,
    n_cores=2,
    host_room=25e9,
    read_bytes=REFERENCE.disk_read_bytes,
    written_bytes=REFERENCE.disk_written_bytes,
)
NODE = replace(
    TWO_CORES,
    name="64 cores",
    product_flop=8e12,
    memory_bytes=300e9,
    host_bytes=300e9,
    n_cores=64,
    host_room=1e12,
    read_bytes=6e9,
    written_bytes=3e9,
)
ONE_GPU = replace(
    NODE,
    name="1 GPU",
    n_gpus=1,
    product_flop=450e12,
    memory_bytes=4.3e12,
    n_cores=16,
    host_room=256e9,
    device_room=135e9,
    pcie_bytes=50e9,
)
EIGHT_GPUS = replace(
    ONE_GPU,
    name="8 GPUs",
    n_gpus=8,
    n_cores=128,
    host_room=2e12,
    read_bytes=20e9,
    written_bytes=10e9,
)
MANY_GPUS = replace(
    EIGHT_GPUS,
    name="64 GPUs",
    n_nodes=8,
    n_gpus=64,
    network_bytes=12.5e9,
    read_bytes=40e9,
    written_bytes=20e9,
)
MACHINES = (NODE, ONE_GPU, EIGHT_GPUS, MANY_GPUS)


@dataclass(frozen=True)
class Need:
    """What a piece of work asks for, of all units together; of one unit where `alone`.

    Seconds are those of one core, or of a process that uses what it can of a node.
    """

    alone: bool = False
    flop: float = 0.0
    moved: float = 0.0
    pcie: float = 0.0
    network: float = 0.0  # of the busiest node
    read: float = 0.0
    written: float = 0.0
    core_s: float = 0.0
    process_s: float = 0.0


NAMES = {  # of what a stage waits for, as tables say it
    "flop": "products",
    "moved": "memory",
    "pcie": "PCIe",
    "network": "network",
    "read": "storage",
    "written": "storage",
    "core_s": "cores",
    "process_s": "one process",
}


def waits(need: Need, machine: Machine) -> dict[str, float]:
    """Return the seconds that each resource would take if it were the only one."""
    n_units = 1 if need.alone else machine.n_units
    n_nodes = 1 if need.alone else machine.n_nodes
    rates = {
        "flop": machine.product_flop * n_units,
        "moved": machine.memory_bytes * n_units,
        "pcie": machine.pcie_bytes * n_units,
        "network": machine.network_bytes,
        "read": machine.read_bytes,
        "written": machine.written_bytes,
        "core_s": machine.n_cores * n_nodes,
        "process_s": 1.0,
    }
    return {name: getattr(need, name) / rate for name, rate in rates.items()}


@dataclass(frozen=True)
class Estimate:
    """Seconds of a stage, and what it waits for longest."""

    seconds: float
    bottleneck: str


def estimate(needs: Sequence[Need], machine: Machine) -> Estimate:
    """Add up pieces of work that follow each other; within each, resources work side by side.

    But for one: without a GPU rows on disk are read by the thread that needs them, as pages that
    are missing. So the time of reading is added there.
    """
    total, blamed = 0.0, dict.fromkeys(NAMES.values(), 0.0)
    for need in needs:
        found = waits(need, machine)
        pages = 0.0 if machine.n_gpus else found.pop("read")
        name = max(found, key=lambda each: found[each])
        total += found[name] + pages
        blamed[NAMES[name]] += found[name]
        blamed["storage"] += pages
    return Estimate(total, max(blamed, key=lambda each: blamed[each]))
