"""Which clusters of a run become nodes of a taxonomy, and below which other ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucluster.artifacts import Run
from gpucluster.errors import ConfigError, UnstableClustersError
from gpucluster.notation import nearest
from gpucluster.taxonomy.promotion import Promotion
from gpucluster.taxonomy.stability import Stability
from gpucluster.types import NOISE

N_SHOWN = 5  # clusters that an error names


@dataclass(frozen=True, slots=True)
class Selection:
    """The clusters that become nodes.

    Attributes
    ----------
    nodes : ndarray of shape (n_nodes,), int64
        Their rows in the centroids of the run; roots first, and parents before their children.
    parents : ndarray of shape (n_nodes,), int32
        The parent of each among `nodes`; -1 for roots.
    skipped : dict of str to str
        Clusters that were asked for and left out, with the reason.
    """

    nodes: Any
    parents: Any
    skipped: Mapping[str, str]


def select(run: Run, request: Promotion, stability: Mapping[str, Stability]) -> Selection:
    """Say which clusters become nodes, and which of them lie below which.

    Parameters
    ----------
    run : Run
    request : Promotion
    stability : mapping of str to Stability
        By cluster id.

    Raises
    ------
    ConfigError
        There is no such cluster, or none is left.
    UnstableClustersError
        Some are below the floor, and `request` says neither to skip nor to force them.
    """
    names: list[str] = run.fitted_centroids["cluster_id"].to_pylist()
    asked = _asked(run, names, request.cluster_ids)
    skipped = _unstable(run, [names[node] for node in asked], request, stability)
    kept = {node for node in asked if names[node] not in skipped}
    above = run.parents
    inner: dict[int, int] = {}  # parents come first, so that theirs are known
    for node in sorted(kept):
        parent = int(above[node])
        while parent != NOISE and parent not in kept:
            parent = int(above[parent])
        inner[node] = parent
    if not inner:
        raise ConfigError(
            f"no cluster of {run.run_id} is left to promote",
            path="cluster_ids" if not skipped else "min_stability",
            hint="lower the floor, or run the definition again on more data" if skipped else None,
        )
    levels: dict[int, int] = {}
    for node, parent in inner.items():
        levels[node] = 0 if parent == NOISE else levels[parent] + 1
    nodes = sorted(inner, key=lambda node: (levels[node], node))
    place = {node: i for i, node in enumerate(nodes)} | {NOISE: NOISE}
    parents = np.array([place[inner[node]] for node in nodes], np.int32)
    return Selection(np.array(nodes, np.int64), parents, skipped)


def _asked(run: Run, names: list[str], ids: Sequence[str] | None) -> list[int]:
    """Return the clusters that are meant, by their row in the centroids."""
    if not names:
        raise ConfigError(f"{run.run_id} has no clusters to promote", path="run")
    if ids is None:
        return list(range(len(names)))
    stable = run.fitted_centroids["stable_id"].to_pylist()
    known = {name: i for i, name in enumerate(stable) if name} | {
        name: i for i, name in enumerate(names)
    }
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise ConfigError(
            f"{run.run_id} has no cluster {unknown[0]!r}",
            path="cluster_ids",
            got=unknown,
            hint=nearest(unknown[0], known),
        )
    return sorted({known[name] for name in ids})


def _unstable(
    run: Run, names: Sequence[str], request: Promotion, stability: Mapping[str, Stability]
) -> dict[str, str]:
    """Return the clusters to leave out, with the reason; raise where they are not to be."""
    floor = request.min_stability
    if floor is None or request.force:
        return {}
    values = {name: stability[name].value for name in names}
    below = {name: value for name, value in values.items() if value is None or value < floor}
    said = {
        name: "no history" if value is None else f"stability {value:.3f} is below {floor:g}"
        for name, value in below.items()
    }
    if request.skip_unstable or not below:
        return said
    shown = ", ".join(
        f"{name} ({'no history' if value is None else f'{value:.3f}'})"
        for name, value in list(below.items())[:N_SHOWN]
    )
    rest = f" and {len(below) - N_SHOWN} more" if len(below) > N_SHOWN else ""
    raise UnstableClustersError(
        f"{len(below)} of {len(names)} clusters of {run.run_id} are less stable than {floor:g}: "
        f"{shown}{rest}",
        clusters=below,
        hint="skip_unstable leaves them out, force promotes them, or name others",
    )
