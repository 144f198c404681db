"""The doors of taxonomies: promote clusters, and open what was promoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gpucluster.finished import Taxonomy
from gpucluster.places import Place
from gpucluster.taxonomy import Promotion

if TYPE_CHECKING:
    from gpucluster.artifacts.run import Run as StoredRun
    from gpucluster.events import CancelToken, Observer


def promote(
    run: StoredRun | str | Place,
    name: str,
    *,
    cluster_ids: Sequence[str] | None = None,
    min_stability: float | None = None,
    force: bool = False,
    skip_unstable: bool = False,
    threshold: float | Literal["auto"] = "auto",
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    out: str | Place | None = None,
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
) -> Taxonomy:
    """Make clusters of a finished run the nodes of a taxonomy, which documents join from then on.

    Nodes are called by the stable ids of the clusters, keep their labels, and lie below each
    other as the clusters do. A version never changes, and needs the run no more. The same name
    again makes the next version; where nothing would be different, the latest one is returned.

    Parameters
    ----------
    run : Run or path
        One that found or moved clusters; an output folder stands for its latest, a run that
        assigned rows for the one it is based on.
    name : str
        Of the taxonomy.
    cluster_ids : sequence of str, optional
        Clusters that become nodes, by ``cluster_id`` or ``stable_id``. Omitted: all. One whose
        parent is not among them lies below the next ancestor that is, or is a root.
    min_stability : float, optional
        Least stability of a node, in [0, 1]: the Jaccard index of a cluster with the nearest one
        of the run before, averaged over the latest five runs it has lived through. A cluster
        without a history has none, and is below any. Omitted: nobody asks.
    force : bool, default False
        Promote clusters below it nevertheless.
    skip_unstable : bool, default False
        Leave clusters below it out, instead of an error that names them.
    threshold : float or "auto", default "auto"
        Least cosine similarity of a member to the node, in [-1, 1]; ``auto``: for each the one
        that all but 1 % of the cluster's own rows reach.
    description : str, optional
    metadata : mapping, optional
        JSON values. Like the description, of a new taxonomy; one that is there keeps its own.
    out : path, optional
        Folder that gets the taxonomy's own. Default: the one that holds the run.
    observer : callable, optional
        Called with every event.
    cancel : CancelToken, optional
        Stops before anything is published.

    Returns
    -------
    Taxonomy

    Raises
    ------
    UnstableClustersError
        Clusters are below `min_stability`.
    ConfigError
        There is no such cluster, or the run has none that rows can join.
    RunNotFoundError, CorruptArtifactError, SchemaTooNewError
        There is no such run, or it is damaged, or of a newer version.
    StoreError
        It could not be written; then there is no new version.
    """
    request = Promotion(
        name=name,
        cluster_ids=cluster_ids,
        min_stability=min_stability,
        force=force,
        skip_unstable=skip_unstable,
        threshold=threshold,
    )
    return Taxonomy.of(
        run,
        request,
        description=description,
        metadata=metadata,
        out=out,
        observer=observer,
        cancel=cancel,
    )


def open_taxonomy(path: str | Place, *, version: int | None = None) -> Taxonomy:
    """Open a taxonomy.

    Parameters
    ----------
    path : str or path
        Its folder, or that of a version; or a folder that holds one taxonomy.
    version : int, optional
        Omitted: the latest.

    Returns
    -------
    Taxonomy

    Raises
    ------
    TaxonomyNotFoundError
        There is none, or not in that version.
    CorruptArtifactError, SchemaTooNewError
        It is damaged, or of a newer version.
    """
    return Taxonomy.open(path, version)
