"""What a density method asks for: the graph of near neighbours, its tree, and the way around it."""

from __future__ import annotations

from dataclasses import dataclass

from scale_machines import Estimate, Machine, Need, estimate
from scale_model import FLOAT, LOAD_S, PROCESS_BYTES

from gpucluster.planner import DENSITY_ROWS

N_NEIGHBORS = 15
LISTED_BYTES = 8  # of a neighbour: its row and its distance
TREE_BYTES = 1100  # of a row: 700, and 14 neighbours of 28, as HDBSCAN predicts for one process
TREE_CORE_S = 120e-6  # of a row: a million of 16 dimensions took a minute on two cores
TREE_CORES = 16  # that help with it: it waits for memory, not for cores
SCAN_FLOP = 16  # of a pair: looking at the product
LISTS_SHARE = 0.5  # of the rate of products: candidates are gathered first
ROOTS, DRAWN = 12, 400  # rows compared with one: 12 roots of all, and samples
SENSIBLE_S = 3600.0


@dataclass(frozen=True)
class Graph:
    """A graph of the `N_NEIGHBORS` nearest rows of each, of float32 rows as they are."""

    n_rows: int
    n_features: int = 768

    @property
    def pairs_flop(self) -> float:
        """Every row with every other."""
        return float(self.n_rows) ** 2 * (2 * self.n_features + SCAN_FLOP)

    @property
    def lists_flop(self) -> float:
        """Every row with those in the lists near it, where the data have structure."""
        candidates = ROOTS * self.n_rows**0.5 + DRAWN
        return self.n_rows * candidates * (2 * self.n_features + SCAN_FLOP)

    @property
    def graph_bytes(self) -> int:
        """What the lists take."""
        return LISTED_BYTES * N_NEIGHBORS * self.n_rows

    @property
    def tree_bytes(self) -> int:
        """Memory of the process that makes the tree."""
        return PROCESS_BYTES + TREE_BYTES * self.n_rows


def by_pairs(graph: Graph, machine: Machine) -> Estimate:
    """Return what exact lists take: each unit searches its rows among all rows, passed around."""
    rows = 2 * graph.n_rows * graph.n_features  # float16
    wire = rows if machine.n_nodes > 1 else 0
    around = rows * machine.n_gpus if machine.n_gpus > 1 else 0
    return estimate([Need(flop=graph.pairs_flop, pcie=around, network=wire)], machine)


def by_lists(graph: Graph, machine: Machine) -> Estimate:
    """Return what inverted lists take: partitions, and for each those that lie near it."""
    rows = FLOAT * graph.n_rows * graph.n_features
    wire = rows if machine.n_nodes > 1 else 0
    return estimate([Need(flop=graph.lists_flop / LISTS_SHARE, network=wire)], machine)


def tree(graph: Graph, machine: Machine) -> Estimate:
    """Return what the spanning tree and its clusters take, on one node."""
    idle = max(1.0, machine.n_cores / TREE_CORES)
    return estimate([Need(alone=True, core_s=TREE_CORE_S * graph.n_rows * idle)], machine)


def joined(n_rows: int, n_clusters: int, n_features: int, machine: Machine) -> Estimate:
    """Return what it takes that all rows beside a sample of `DENSITY_ROWS` join its clusters.

    Rows are decoded by one process and compared as they come.
    """
    rest = max(0, n_rows - DENSITY_ROWS)
    values = rest * n_features
    need = Need(
        alone=True,
        read=2 * values,
        pcie=FLOAT * values if machine.n_gpus else 0,
        flop=2.0 * values * n_clusters,
        process_s=LOAD_S * values,
    )
    return estimate([need], machine)


def is_sensible(graph: Graph, seconds: float, machine: Machine) -> bool:
    """Whether lists and tree take less than an hour, and the tree has room on one node."""
    takes = seconds + tree(graph, machine).seconds
    return takes <= SENSIBLE_S and graph.tree_bytes <= machine.host_room
