"""Which clusters of a run become nodes of a taxonomy, and below which other ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

import numpy as np

from gpucluster.artifacts import Run
from gpucluster.assignment import check_threshold
from gpucluster.errors import ConfigError, UnstableClustersError
from gpucluster.notation import describe, nearest
from gpucluster.taxonomy.stability import Stability
from gpucluster.types import NOISE

N_SHOWN = 5  # clusters that an error names


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What is asked for.

    Attributes
    ----------
    name : str
        Of the taxonomy; the same name again makes its next version.
    cluster_ids : sequence of str, optional
        The clusters that become nodes, by ``cluster_id`` or ``stable_id``; None: all.
    min_stability : float, optional
        Least stability of a node, in [0, 1]; None: nobody asks.
    force : bool
        Promote what is below it, too.
    skip_unstable : bool
        Leave out what is below it.
    threshold : float or "auto"
        Least cosine similarity of a member; ``auto``: each cluster's own.
    """

    name: str
    cluster_ids: Sequence[str] | None = None
    min_stability: float | None = None
    force: bool = False
    skip_unstable: bool = False
    threshold: float | Literal["auto"] = "auto"

    def checked(self) -> Promotion:
        """Return the request with plain values; `ConfigError` where one is no good."""
        check_name(self.name)
        floor = self.min_stability
        is_number = isinstance(floor, Real) and not isinstance(floor, bool)
        if floor is not None and not (is_number and 0 <= floor <= 1):
            raise ConfigError(f"got {floor!r}, expected a number in [0, 1]", path="min_stability")
        if self.force and self.skip_unstable:
            raise ConfigError(
                "force promotes unstable clusters, and skip_unstable leaves them out",
                path="force",
                hint="ask for one of them",
            )
        ids = self.cluster_ids
        if isinstance(ids, str):
            ids = (ids,)
        if ids is not None and not all(isinstance(each, str) for each in ids):
            raise ConfigError(f"got {ids!r}, expected ids of clusters", path="cluster_ids")
        if ids is not None and not ids:
            raise ConfigError("got none, expected ids of clusters", path="cluster_ids")
        return replace(
            self,
            cluster_ids=None if ids is None else tuple(ids),
            min_stability=None if floor is None else float(floor),
            threshold=check_threshold(self.threshold),
        )


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


def check_name(name: Any) -> None:
    """Raise `ConfigError` where something is no name of a taxonomy."""
    if not isinstance(name, str) or not name.strip():
        shown = describe(name) if isinstance(name, str) else repr(name)
        raise ConfigError(f"got {shown}, expected a name", path="taxonomy_name")


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
