"""t-SNE, for pictures: it shows neighbourhoods, and distances between clusters mean little."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gpucluster.device.memory import COMPILER_BYTES
from gpucluster.device.select import Device
from gpucluster.errors import BackendUnavailableError, ConfigError
from gpucluster.events import Reporter
from gpucluster.preprocess.base import Fitted, Step
from gpucluster.types import Cost, Matrix

EXAGGERATED, PLAIN = 250, 500  # iterations: the usual schedule
ITERATIONS = EXAGGERATED + PLAIN
LARGE_ROWS = 10_000  # below it a tree is quicker than interpolation
INSTALL = "pip install 'gpucluster[tsne]'"


class TSNE(Step):
    """Lay rows out in two or three dimensions so that neighbours stay neighbours.

    The neighbour graph is our own; the layout is openTSNE's, by a tree, or by interpolation
    for many rows in two dimensions, from a PCA start. One core: the sums of several would
    depend on how many there are.

    References
    ----------
    van der Maaten, Hinton 2008, *Visualizing data using t-SNE*. Linderman et al. 2019,
    doi:10.1038/s41592-018-0308-4. Policar, Strazar, Zupan 2024, doi:10.18637/jss.v109.i03.
    """

    trained: ClassVar[str | None] = "layout"
    has_gpu_path: ClassVar[bool] = False
    library_bytes: ClassVar[int] = COMPILER_BYTES + (120 << 20)

    method: Literal["tsne"] = "tsne"
    n_components: Literal[2, 3] = Field(default=2, description="Dimensions of the layout.")
    perplexity: Annotated[float, Field(ge=1, le=500)] = Field(
        default=30.0, description="Neighbours that matter to a row, about."
    )
    metric: Literal["cosine", "euclidean"] = Field(
        default="cosine", description="Distance between input rows."
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=42, description="Seed.")

    def n_out(self, n_features: int) -> int:
        """Return `n_components`."""
        return self.n_components

    def check(self, n_samples: int, n_features: int, reporter: Reporter) -> TSNE:
        """Refuse what cannot be laid out; cut `perplexity` to the rows there are."""
        if find_spec("openTSNE") is None:
            raise BackendUnavailableError("t-SNE needs openTSNE, which is missing", hint=INSTALL)
        if self.n_components >= n_features or n_samples < 8:
            raise ConfigError(
                f"got {n_samples} rows of {n_features} dimensions for "
                f"{self.n_components} components",
                path="dimension_reduction.method",
                hint="use method: none on so small data",
            )
        largest = (n_samples - 2) / 3
        if self.perplexity > largest:
            reporter.warn(
                "tsne_perplexity",
                f"tsne perplexity {self.perplexity:g} cut to {largest:g}: "
                f"there are {n_samples} rows",
            )
            return self.model_copy(update={"perplexity": largest})
        return self

    def n_neighbors(self) -> int:
        """Return how many neighbours, the row itself included, the affinities look at."""
        return int(3 * self.perplexity) + 1

    def cost(self, n_samples: int, n_features: int, device: Device = "cpu") -> Cost:
        """Return the cost of graph and layout, at rates measured on two cores."""
        from gpucluster.ops.neighbors import neighbor_cost

        graph = neighbor_cost(n_samples, n_features, self.n_neighbors())
        rate = 9e-4 if self.n_components == 2 else 6e-3  # seconds a row
        matrix = 4 * n_samples * n_features
        return Cost(
            2 * matrix + 60 * n_samples * self.n_neighbors() + (64 << 20),
            10 + (graph.seconds or 0) + rate * n_samples,
            graph.method,
            rows_bytes=2 * matrix,
            unit_bytes=matrix,
            far_bytes=matrix,
        )

    def fit(self, X: Matrix, device: Device, reporter: Reporter) -> Fitted:
        """Compute the layout of all rows."""
        import numpy as np

        from gpucluster.ops.neighbors import nearest_neighbors
        from gpucluster.ops.normalize import unit_rows
        from gpucluster.preprocess.pca import PCA

        data = unit_rows(X) if self.metric == "cosine" else X
        graph = nearest_neighbors(
            data, self.n_neighbors(), random_state=self.random_state, reporter=reporter
        )
        pca = PCA(n_components=self.n_components)
        start = pca.output(data, pca.fit(data, "cpu", Reporter()).arrays).astype(np.float64)
        start *= 1e-4 / max(float(start[:, 0].std()), np.finfo(np.float64).tiny)
        reporter.cancel.raise_if_cancelled()
        quick = self.n_components == 2 and len(X) >= LARGE_ROWS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of its own dependencies
            from openTSNE import TSNEEmbedding
            from openTSNE.affinity import PerplexityBasedNN
            from openTSNE.nearest_neighbors import PrecomputedNeighbors

            index = PrecomputedNeighbors(
                graph.rows[:, 1:].astype(np.int64), np.sqrt(graph.sqdist[:, 1:], dtype=np.float64)
            )
            affinities = PerplexityBasedNN(knn_index=index, perplexity=self.perplexity)
            layout = TSNEEmbedding(
                start,
                affinities,
                negative_gradient_method="fft" if quick else "bh",
                random_state=self.random_state,
            )
            done = 0
            for n_iter, exaggeration, momentum in ((EXAGGERATED, 12, 0.5), (PLAIN, 1, 0.8)):
                layout = layout.optimize(
                    n_iter=n_iter,
                    exaggeration=exaggeration,
                    momentum=momentum,
                    callbacks=_Watch(reporter, done),
                    callbacks_every_iters=50,
                )
                done += n_iter
        return Fitted(
            arrays={"layout": np.ascontiguousarray(layout, np.float32)},
            backend="openTSNE",
            method="exact" if graph.method == "exact" else f"{graph.method} graph",
            info={
                "graph": graph.method,
                "graph_recall": graph.recall,
                "kl_divergence": float(layout.kl_divergence),
            },
        )

    def apply(self, X: Matrix, arrays: Mapping[str, Any]) -> Matrix:
        """Not defined: a t-SNE layout is a picture of the rows it was made of."""
        raise ConfigError(
            "t-SNE places no new rows",
            path="dimension_reduction.method",
            hint="use umap or pca",
        )


class _Watch:
    """Tells the reporter of the iterations, which may raise to stop them."""

    def __init__(self, reporter: Reporter, done: int) -> None:
        self.reporter = reporter
        self.done = done

    def __call__(self, iteration: int, error: float, embedding: Any) -> None:
        self.reporter.progress(self.done + iteration, ITERATIONS, "iterations")
