"""HDBSCAN: density hierarchy, with noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gpucluster.algorithms.base import Algorithm, Raw, check_matrix
from gpucluster.device.memory import COMPILER_BYTES, blocks_bytes
from gpucluster.device.select import Device
from gpucluster.errors import ConfigError, DeviceUnavailableError, TooFewSamplesError
from gpucluster.events import Reporter
from gpucluster.ops.density import AUTO_SAMPLES, LISTED, density_dendrogram, searches_tree
from gpucluster.ops.duplicates import distinct_rows
from gpucluster.ops.granularity import granularities
from gpucluster.ops.shards import shown
from gpucluster.ops.stability import candidate_sizes, octaves, score_cuts
from gpucluster.ops.sweep import Sweep, check_sizes, cliff_near, default_sizes, sweep
from gpucluster.ops.tree import (
    Dendrogram,
    Rule,
    basins,
    cut,
    flat_clusters,
)
from gpucluster.types import NOISE, Cost, Matrix, Weights

CUML_MAX_MIN_SAMPLES = 1023
EQUAL_ROWS = "rows are equal: cuML's HDBSCAN cannot weigh them, and can abort (NVIDIA/cuml#4474)"


class HDBSCAN(Algorithm):
    """Find clusters of any shape and of differing density; the rest is noise.

    The spanning tree is exact: in few dimensions edges are searched in a k-d tree, in many
    by blocked BLAS.

    Equal rows are one point. A density is that of distinct points, so that copies of a row make
    no dense place by themselves, and `min_samples` counts distinct neighbours. The size of a
    cluster is that of all its rows, but one point alone is no cluster.

    Notes
    -----
    `min_samples` does **not** count the row itself, as in the hdbscan package and in cuML.
    scikit-learn counts it: its ``min_samples=6`` is 5 here. `min_samples_includes_self`
    takes scikit-learn's meaning.

    References
    ----------
    Campello, Moulavi, Sander 2013, doi:10.1007/978-3-642-37456-2_14.
    McInnes, Healy 2017, doi:10.1109/ICDMW.2017.12.
    """

    name: ClassVar[str] = "hdbscan"
    collapses_duplicates: ClassVar[bool] = True
    library_bytes: ClassVar[int] = COMPILER_BYTES

    min_cluster_size: Annotated[int, Field(ge=2)] | Literal["auto"] = Field(
        default=5,
        description="Rows that make a cluster; smaller groups are noise. auto: the size whose "
        "clusters are found again best in halves of the rows.",
    )
    min_samples: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Neighbours that set the density of a row, itself not counted. "
        "Omitted: min_cluster_size, or 5 where that is auto.",
    )
    min_samples_includes_self: bool = Field(
        default=False, description="Count the row itself in min_samples, as scikit-learn does."
    )
    cluster_selection_epsilon: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="Clusters closer than this are not split; in the unit of the metric.",
    )
    max_cluster_size: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="Larger clusters are split where they can be. Omitted: no limit."
    )
    metric: Literal["euclidean", "cosine"] = Field(
        default="euclidean", description="Distance; cosine is euclidean on unit rows."
    )
    alpha: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        default=1.0, description="Distances are divided by it in the linkage."
    )
    cluster_selection_method: Literal["eom", "leaf", "auto"] = Field(
        default="eom",
        description="eom: the most persistent clusters; leaf: the finest; auto: chosen together "
        "with min_cluster_size, which is auto too.",
    )
    allow_single_cluster: bool = Field(
        default=False, description="Whether one cluster of everything is an answer."
    )
    prediction_data: bool = Field(
        default=False, description="Accepted for compatibility; new rows are assigned by centroid."
    )
    match_reference_implementation: bool = Field(
        default=False,
        description="Follow the original Java code where the packages differ: min_samples counts "
        "the row itself, and a cluster needs one row more.",
    )
    granularities: Annotated[int, Field(ge=1, le=10)] = Field(
        default=1,
        description="Nested clusterings from the one tree, each at half the min_cluster_size of "
        "the one before; hierarchy_method: condensed_tree makes them the levels of the run.",
    )

    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=42, description="Seed of the halves that min_cluster_size: auto compares."
    )

    @model_validator(mode="after")
    def _auto_goes_together(self) -> HDBSCAN:
        if self.cluster_selection_method == "auto" and self.min_cluster_size != "auto":
            raise ValueError(
                f"cluster_selection_method auto needs min_cluster_size: auto, "
                f"got {self.min_cluster_size}"
            )
        return self

    def density_neighbors(self, n_samples: int) -> int:
        """Return how many neighbours, the row itself not counted, set the density of a row."""
        wanted = self._samples_wanted()
        if self.min_samples_includes_self or self.match_reference_implementation:
            wanted -= 1
        return max(1, min(wanted, n_samples - 1))

    def _samples_wanted(self) -> int:
        if self.min_samples is not None or self.min_cluster_size == "auto":
            return self.min_samples or AUTO_SAMPLES
        return self.min_cluster_size

    def selection_distance(self) -> float:
        """Return `cluster_selection_epsilon` as a Euclidean distance; cosine: ``sqrt(2 eps)``."""
        epsilon = self.cluster_selection_epsilon
        return math.sqrt(2 * epsilon) if self.metric == "cosine" else epsilon

    def sweep(
        self, X: Matrix, sizes: Iterable[int] | None = None, *, reporter: Reporter | None = None
    ) -> Sweep:
        """Say what each value of `min_cluster_size` would give, from one spanning tree.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), float32, C-contiguous
            Finite rows on the host. Never written to.
        sizes : iterable of int, optional
            Omitted: from 5 to a twentieth of the rows, in steps of 10 %.
        reporter : Reporter, optional
            Told of progress; asked for cancellation.

        Returns
        -------
        Sweep
            All parameters but `min_cluster_size` are those of this model. Where `min_samples` is
            omitted it does not follow the sizes: it stays at that of this model.

        Raises
        ------
        InputError
            `X` is not a finite matrix of float32.
        TooFewSamplesError
            There are fewer than two distinct rows.
        ConfigError
            A size is below 2, or there is none.

        Notes
        -----
        Runs on the CPU. After the spanning tree, a size costs one walk over it.
        """
        reporter = reporter or Reporter(self.name)
        check_matrix(X)
        asked = default_sizes(len(X)) if sizes is None else check_sizes(sizes)
        if max(asked) >= len(X):
            raise ConfigError(
                f"got {max(asked)}, but there are {len(X)} rows",
                path="sizes",
                got=max(asked),
                expected=f"at most {len(X) - 1}",
                hint="leave larger ones out",
            )
        X = self._metric_space(X)
        distinct = distinct_rows(X)
        weights = None
        if distinct is not None:
            X, weights = shown(X, X[distinct.rows]), distinct.weights
        if len(X) < 2:
            raise TooFewSamplesError(
                f"insufficient documents: a sweep got {len(X)} distinct rows, needs at least 2"
            )
        tree = self._dendrogram(X, reporter, weights)
        return sweep(tree, self.rules()[0], asked, self._samples_wanted())

    def rules(self) -> tuple[Rule, ...]:
        """Return how clusters are selected from the hierarchy; two ways where that is open."""
        method = self.cluster_selection_method
        if method == "auto":
            return self._rule("eom"), self._rule("leaf")
        return (self._rule(method),)

    def _rule(self, method: Literal["eom", "leaf"]) -> Rule:
        return Rule(
            method=method,
            allow_single_cluster=self.allow_single_cluster,
            epsilon=self.selection_distance(),
            max_cluster_size=self.max_cluster_size,
            strict=self.match_reference_implementation,
        )

    def check(self, n_samples: int, reporter: Reporter) -> None:
        """Say when no cluster is possible."""
        super().check(n_samples, reporter)
        if self.min_cluster_size != "auto" and self.min_cluster_size >= n_samples:
            reporter.warn(
                "min_cluster_size_above_rows",
                f"hdbscan.min_cluster_size is {self.min_cluster_size}, "
                f"but there are {n_samples} rows: everything is noise",
            )
        elif (self.min_samples or 0) >= n_samples:
            reporter.warn(
                "min_samples_above_rows",
                f"hdbscan.min_samples is {self.min_samples}, but there are {n_samples} rows: "
                "the density of each is that of all",
            )

    def gpu_limit(self, n_samples: int) -> str | None:
        """Return what cuML's HDBSCAN lacks for so many rows."""
        size = self.min_cluster_size
        if size == "auto":
            return "min_cluster_size: auto needs the hierarchy, and cuML keeps that to itself"
        obstacles = {
            f"min_cluster_size {size} leaves {n_samples} rows all noise": size >= n_samples,
            "cuML's HDBSCAN has no match_reference_implementation": (
                self.match_reference_implementation
            ),
            "cuML's HDBSCAN gives one granularity": self.granularities > 1,
            f"cuML's HDBSCAN takes min_samples up to {CUML_MAX_MIN_SAMPLES}": (
                self.density_neighbors(n_samples) > CUML_MAX_MIN_SAMPLES
            ),
        }
        for obstacle, holds in obstacles.items():
            if holds:
                return obstacle
        return None

    def gpu_obstacle(self, X: Matrix) -> str | None:
        """Return what cuML's HDBSCAN lacks for these rows."""
        limit = self.gpu_limit(len(X))
        if limit is not None or distinct_rows(self._metric_space(X)) is None:
            return limit
        return EQUAL_ROWS

    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return bytes beside `X`, and seconds at the rates in docs/algorithms/hdbscan.md."""
        neighbors = self.density_neighbors(n_samples)
        # the distinct rows among equal ones are a copy, and so are unit rows
        matrix = 4 * n_samples * n_features
        unit = matrix if self.metric == "cosine" else 0
        copies = matrix + unit + 48 * n_samples
        if device == "gpu":  # NVIDIA/cuml#7553
            on_device = n_samples * (72 + 140 * neighbors + 4 * n_features)
            return Cost(copies, None, device_bytes=on_device)
        if searches_tree(n_samples, n_features):
            extra = copies + n_samples * (16 * n_features + 12 * neighbors + 700)
            seconds = 5e-7 * n_samples * math.log2(n_samples + 2) * (1 + n_features / 50)
            seconds *= 2 if self.min_cluster_size == "auto" else 1
            return Cost(extra, seconds, rows_bytes=unit, unit_bytes=unit)
        flop = 2.0 * n_samples**2 * n_features
        extra = copies + n_samples * (28 * max(neighbors, LISTED) + 700)
        return Cost(
            extra + matrix + blocks_bytes(matrix),
            2.5 * flop / 150e9,
            rows_bytes=unit + matrix,
            unit_bytes=unit,
            far_bytes=matrix,
        )

    def _fit_cpu(self, X: Matrix, reporter: Reporter, weights: Weights | None = None) -> Raw:
        n_rows = len(X) if weights is None else int(weights.sum())
        size, rule = self.min_cluster_size, self.rules()[0]
        info: dict[str, Any] = {}
        layers = None
        if len(X) == 1 or (size != "auto" and size >= n_rows):
            return Raw(np.full(len(X), NOISE), backend="numpy", probabilities=np.zeros(len(X)))
        tree = self._dendrogram(X, reporter, weights)
        if size == "auto":
            size, rule, cuts, info = self._choose(X, tree, reporter, weights)
            condensed, found = cut(tree, size, rule)
            layers = [flat_clusters(tree, *each).labels for each in cuts]
        else:
            condensed, found = cut(tree, size, rule)
            self._look_for_cliff(tree, size, len(found.persistence), reporter)
        levels = None
        if self.granularities > 1:
            halves = {max(2, size >> level) for level in range(self.granularities)}
            levels = granularities(tree, halves).labels_by_level[1:]
        return Raw(
            found.labels,
            backend="numba",
            probabilities=found.strengths,
            info=info,
            levels=levels,
            basins=basins(tree, found.labels),
            layers=layers,
            tree=condensed.kept(found.nodes),
        )

    def _choose(
        self, X: Matrix, tree: Dendrogram, reporter: Reporter, weights: Weights | None
    ) -> tuple[int, Rule, list[tuple[int, Rule]], dict[str, Any]]:
        """Return the size and rule found again best in halves of the rows; and the others.

        Those are the best of each doubling of the number of clusters, and what was tried.
        """
        quiet = Reporter(self.name, cancel=reporter.cancel)
        rules = {rule.method: rule for rule in self.rules()}
        tried = score_cuts(
            X,
            weights,
            tree,
            lambda rows, mass: self._dendrogram(rows, quiet, mass),
            tuple(rules.values()),
            random_state=self.random_state,
            reporter=reporter,
        )
        if not tried:
            size = candidate_sizes(len(X) if weights is None else int(weights.sum()))[0]
            reporter.warn(
                "granularity_unknown",
                f"hdbscan.min_cluster_size: auto found no size at which halves of the rows have "
                f"two clusters, and takes {size}",
            )
            return size, self.rules()[0], [], {}
        best = max(tried, key=lambda candidate: candidate.score)
        if best.score <= 0:
            reporter.warn(
                "granularity_unstable",
                f"hdbscan.min_cluster_size: auto: at best {100 * best.stability:.0f} % of the "
                "clusters is found again in halves of the rows; they may be chance",
            )
        layers = octaves(tried, best)
        info = {
            "chosen": asdict(best),
            "layers": [asdict(candidate) for candidate in layers],
            "tried": [asdict(candidate) for candidate in tried],
        }
        cuts = [(layer.min_cluster_size, rules[layer.method]) for layer in layers]
        return best.min_cluster_size, rules[best.method], cuts, {"granularity": info}

    def _look_for_cliff(
        self, tree: Dendrogram, size: int, n_clusters: int, reporter: Reporter
    ) -> None:
        cliff = cliff_near(tree, self.rules()[0], size, n_clusters)
        if cliff is not None:
            reporter.warn(
                "min_cluster_size_near_cliff",
                f"hdbscan.min_cluster_size {size} gives {n_clusters} clusters, but {cliff[0]} "
                f"gives {cliff[1]}: gpucluster sweep shows where the number is stable",
            )

    def _dendrogram(self, X: Matrix, reporter: Reporter, weights: Weights | None) -> Dendrogram:
        """Return the hierarchy of two points or more."""
        depth = self.density_neighbors(len(X))
        return density_dendrogram(X, depth, reporter, weights, alpha=self.alpha)

    def _fit_gpu(self, X: Matrix, reporter: Reporter, weights: Weights | None = None) -> Raw:
        if weights is not None:
            raise DeviceUnavailableError(f"hdbscan: {EQUAL_ROWS}", hint="use --device auto or cpu")
        from cuml.cluster import HDBSCAN as CumlHDBSCAN

        model = CumlHDBSCAN(
            min_cluster_size=self.min_cluster_size,
            min_samples=self.density_neighbors(len(X)),
            cluster_selection_epsilon=self.selection_distance(),
            max_cluster_size=self.max_cluster_size or 0,
            alpha=self.alpha,
            cluster_selection_method=self.cluster_selection_method,
            allow_single_cluster=self.allow_single_cluster,
            output_type="numpy",
        ).fit(X)
        return Raw(
            model.labels_,
            backend="cuml",
            probabilities=np.clip(np.asarray(model.probabilities_), 0, 1),
        )

    def _metric_space(self, X: Matrix) -> Matrix:
        from gpucluster.ops.normalize import unit_rows

        return unit_rows(X) if self.metric == "cosine" else X
