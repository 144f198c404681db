"""What is asked of a promotion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

from gpucluster.errors import ConfigError
from gpucluster.notation import describe


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
        from gpucluster.assignment import check_threshold

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


def check_name(name: Any) -> None:
    """Raise `ConfigError` where something is no name of a taxonomy."""
    if not isinstance(name, str) or not name.strip():
        shown = describe(name) if isinstance(name, str) else repr(name)
        raise ConfigError(f"got {shown}, expected a name", path="taxonomy_name")
