"""The trained model: what a fit keeps, so that rows of a later day find their clusters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from pydantic import TypeAdapter

from gpucluster.artifacts import Run
from gpucluster.assignment import Assigned, Assigner, Chosen, calibrate
from gpucluster.comparison import place_rows
from gpucluster.definition import ClusterDefinition
from gpucluster.device.memory import rows_per_block
from gpucluster.device.storage import like
from gpucluster.errors import ConfigError, CorruptArtifactError
from gpucluster.events import Reporter
from gpucluster.features import weigh
from gpucluster.ledger import Ledger
from gpucluster.metrics.quality import Measured
from gpucluster.ops.assign import cluster_sums
from gpucluster.ops.blocks import row_blocks
from gpucluster.ops.nesting import labels_at
from gpucluster.ops.normalize import unit_rows
from gpucluster.preprocess import AnyStep, Step
from gpucluster.routes import Grouped
from gpucluster.sources import KnownIds
from gpucluster.types import Labels, Matrix, Samples

ENTRY = "assignment"  # in the model folder of a run
KEPT = ("thresholds", "roots", "similarity", "mean")
WELL = 0.99  # from this agreement on there is nothing to explain


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """The clusters of a finished run and the way of rows to them.

    Attributes
    ----------
    assigner : Assigner
        With the thresholds that the rows of the fit calibrated.
    steps : tuple of (Step, dict)
        The fitted preparation; empty where rows are compared as they are.
    normalize : bool
        Whether rows are scaled to unit length before the first step.
    block_weights : tuple of float, or None
        Of several features side by side.
    centroids : ndarray of shape (n_nodes, n_features), float32
        Not of unit length.
    num_members : ndarray of shape (n_nodes,), int64
        Rows behind each.
    anchors : ndarray of shape (n_nodes, n_features), float32
        The centroids of the fit, where these have moved since.
    fitted : dict of str to ndarray
        ``roots``, ``similarity`` and ``mean`` of the rows of the fit (`assignment.Calibration`).
    fit_run_id : str
        The run that found the clusters.
    num_fit : int
        Rows of the run that found the clusters, those that joined a sample included.
    num_since : int
        Rows that moved the centroids since the fit.
    known : KnownIds or None
        All documents behind the clusters, where that is not the members of the run alone.
    chosen : Chosen or None
        The clusters that rows may join, where these are not all that they are compared with.
    """

    assigner: Assigner
    steps: tuple[tuple[Step, Mapping[str, Any]], ...]
    normalize: bool
    block_weights: tuple[float, ...] | None
    centroids: Matrix
    num_members: Any
    anchors: Matrix
    fitted: Mapping[str, Any]
    fit_run_id: str
    num_fit: int
    num_since: int
    known: KnownIds | None
    chosen: Chosen | None

    @classmethod
    def of(cls, run: Run) -> Self:
        """Read it from a run.

        Raises
        ------
        ConfigError
            The run keeps nothing to assign with.
        CorruptArtifactError
            A file is damaged, or the files do not fit each other.
        """
        manifest = run.manifest
        if manifest.definition.get("cluster_type") == "attribute":
            raise ConfigError(
                f"{run.run_id} groups by attributes: a row belongs to the group of its values",
                path="run",
                hint="run the definition again, over all rows",
            )
        kept = run.model_entry(ENTRY)
        if kept is None:
            raise ConfigError(
                f"{run.run_id} keeps nothing to assign with: an earlier version wrote it",
                path="run",
                hint="run the definition again",
            )
        settings, arrays = kept["settings"], kept["arrays"]
        centroids = run.centroid_matrix
        compared = arrays.get("centroids", centroids)
        if len(arrays["parents"]) != len(compared):
            raise CorruptArtifactError(f"{run.path}: its model is of other clusters")
        means = arrays.get("means")
        definition = ClusterDefinition.parse(manifest.definition)
        steps = definition.vector_config.preprocessing_steps or ()
        directions, chosen = unit_rows(compared), None
        if "chosen" in arrays:
            chosen = Chosen.among(arrays["chosen"], arrays["parents"], directions)
        return cls(
            assigner=Assigner(
                directions=directions,
                parents=arrays["parents"],
                thresholds=arrays["thresholds"],
                means=means,
                metric=settings["metric"],
            ),
            steps=() if means is None else tuple(fitted_steps(run, steps)),
            normalize=definition.vector_config.normalize_features,
            block_weights=settings["block_weights"] and tuple(settings["block_weights"]),
            centroids=centroids,
            num_members=run.centroids["num_members"].to_numpy(),
            anchors=arrays.get("anchors", centroids),
            fitted={name: arrays[name] for name in ("roots", "similarity", "mean")},
            fit_run_id=settings.get("fit_run_id", run.run_id),
            num_fit=settings.get("num_fit", manifest.counts.num_points),
            num_since=settings.get("num_since", 0),
            known=KnownIds((arrays["known_0"], arrays["known_1"])) if "known_0" in arrays else None,
            chosen=chosen,
        )

    @property
    def n_features(self) -> int:
        """Dimension of the rows that are compared."""
        return len(self.fitted["mean"])

    @property
    def parents(self) -> Labels:
        """The parent of each cluster that rows may join; -1 for roots."""
        return self.assigner.parents if self.chosen is None else self.chosen.parents

    @property
    def directions(self) -> Matrix:
        """Their centroids, at unit length."""
        return self.assigner.directions if self.chosen is None else self.chosen.directions

    def counted(self, found: Assigned, X: Matrix) -> Assigned:
        """Return where rows belong, by the clusters that they may join."""
        return found if self.chosen is None else self.chosen.counted(found, X)

    def scaled(self, X: Matrix, blocks: Sequence[tuple[str, int]]) -> Matrix:
        """Return rows as the fit had them before its first step; `X` is written to.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), float32
        blocks : sequence of (str, int)
            Features that lie side by side; none for one feature.
        """
        return scaled(X, blocks, self.block_weights, normalize=self.normalize)

    def prepared(self, X: Matrix) -> Matrix | None:
        """Return scaled rows in the space of the means; None where that is no other one."""
        if not self.steps:
            return None
        return through(self.steps, X)


def scaled(
    X: Matrix,
    blocks: Sequence[tuple[str, int]],
    weights: Sequence[float] | None,
    *,
    normalize: bool,
) -> Matrix:
    """Return rows weighted and at unit length, as far as this is asked for; `X` is written to."""
    if weights is not None:
        weigh(X, blocks, weights)
    return unit_rows(X, out=X) if normalize else X


def through(steps: Iterable[tuple[Step, Mapping[str, Any]]], X: Matrix) -> Matrix:
    """Return rows as fitted steps map them, one after the other."""
    for step, arrays in steps:
        X = step.apply(X, arrays)
    return np.ascontiguousarray(X, np.float32)


def fitted_steps(run: Run, steps: Sequence[Step]) -> list[tuple[Step, Mapping[str, Any]]]:
    """Return the preparation of a run with what it learned; `steps` are all of its definition."""
    found = []
    for position, step in enumerate(steps):
        entry = run.model_entry(f"{position}-{step.method}")
        if entry is None:
            raise CorruptArtifactError(f"{run.path}: its model lacks the step {step.method}")
        parsed: Step = TypeAdapter(AnyStep).validate_python(entry["settings"])
        found.append((parsed, entry["arrays"]))
    return found


def train(
    ledger: Ledger,
    definition: ClusterDefinition,
    samples: Samples,
    grouped: Grouped,
    measured: Measured,
    reporter: Reporter,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keep what later rows are compared with, and say how far that agrees with the fit.

    Parameters
    ----------
    ledger : Ledger
        In the stage that this is.
    definition : ClusterDefinition
        Complete.
    samples : Samples
    grouped : Grouped
        What they were found to be.
    measured : Measured
        Of them.
    reporter : Reporter

    Returns
    -------
    entry : dict
        ``settings`` and ``arrays``, for the model folder.
    facts : dict
        For the manifest.
    """
    config, nodes = definition.vector_config, grouped.nodes
    rule = config.assignment_rule
    assigner = Assigner(
        directions=unit_rows(measured.centroids),
        parents=nodes.parents,
        thresholds=np.full(len(nodes.parents), -1, np.float32),
    )
    if rule == "fit":
        assigner = _by_means(assigner, definition, samples.X, grouped)
    if rule == "cosine" and (nodes.parents < 0).all():  # `measured` has found that already
        placed = Assigned(measured.nearest, measured.nearest, measured.nearest_similarity)
    else:
        placed, device = place_rows(
            *(assigner, samples.X, _as_later_rows(definition, samples.X, grouped, rule)),
            *(ledger.plan.decision, reporter, ledger.worker),
        )
        ledger.note(device=device, backend="numpy" if device == "cpu" else "cupy")
    found = calibrate(samples.X, nodes, assigner, placed, definition.random_state)
    arrays = {name: getattr(found, name) for name in KEPT} | {"parents": nodes.parents}
    if assigner.means is not None:
        arrays["means"] = assigner.means
    entry = {
        "settings": {"metric": assigner.metric, "block_weights": grouped.block_weights},
        "arrays": arrays,
    }
    facts = {"rule": rule, "metric": assigner.metric, **found.facts}
    agreement = found.facts["agreement"]
    if agreement is not None and agreement < WELL:
        facts["agreement_reason"] = _reason(definition, rule)
    return entry, facts


def _reason(definition: ClusterDefinition, rule: str) -> str:
    """Say why rows of the fit would not be assigned to the cluster they are in."""
    config = definition.vector_config
    layouts = [step.method for step in config.preprocessing_steps or () if step.trained is not None]
    if layouts:
        where = "placed in a layout" if rule == "fit" else "compared outside the layout"
        return f"rows are {where} that {layouts[0]} made, where {config.clustering_method} saw them"
    if config.multi_feature_strategy == "independent":
        return "each feature was clustered by itself, and rows are compared with all of them"
    how = "cosine to a centroid" if rule == "cosine" else "the nearest mean"
    return f"{config.clustering_method} does not place rows by {how}"


def _as_later_rows(
    definition: ClusterDefinition, X: Matrix, grouped: Grouped, rule: str
) -> Matrix | None:
    """Return fitted rows where later ones of the same vectors would be, in the space of the means.

    That is where they were, but for a layout: it is made of them, and others are placed in it.
    """
    steps = definition.vector_config.preprocessing_steps or ()
    if rule == "cosine" or all(step.trained is None for step in steps):
        return grouped.prepared
    model = grouped.preparation.model
    fitted = [
        (step, model[f"{position}-{step.method}"]["arrays"]) for position, step in enumerate(steps)
    ]
    placed = None
    for rows in row_blocks(len(X), rows_per_block(8 * X.shape[1])):
        block = through(fitted, X[rows])
        placed = like(X, (len(X), block.shape[1])) if placed is None else placed
        placed[rows] = block
    return placed


def _by_means(
    assigner: Assigner, definition: ClusterDefinition, X: Matrix, grouped: Grouped
) -> Assigner:
    """Return an assigner that finds the root by the means of what the algorithm saw."""
    roots = labels_at(grouped.nodes.labels, grouped.nodes.parents, 0)
    seen = X if grouped.prepared is None else grouped.prepared
    metric = getattr(definition.vector_config.algorithm, "metric", "euclidean")
    by_angle = metric == "cosine"
    sums = cluster_sums(unit_rows(seen) if by_angle else seen, roots, assigner.n_roots)
    sizes = np.bincount(roots[roots >= 0], minlength=assigner.n_roots)
    means = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
    return replace(assigner, means=means, metric="cosine" if by_angle else "euclidean")
