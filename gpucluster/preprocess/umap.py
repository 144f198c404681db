"""UMAP as a preparation for clustering: few dimensions that keep neighbourhoods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from gpucluster.device.memory import COMPILER_BYTES
from gpucluster.device.select import Device
from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.preprocess.base import Fitted, Step
from gpucluster.types import Cost, Matrix

if TYPE_CHECKING:
    from gpucluster.ops.neighbors import Neighbors

FEW_ROWS = 10_000  # up to here more epochs cost little
ROOMY = 8  # dimensions from which rows pass each other, and are at rest sooner
LANDMARKS = 20_000  # rows that the start is learned from, and that are kept to place new ones


class UMAP(Step):
    """Lay rows out in few dimensions so that neighbours stay neighbours.

    On the CPU all of it is our own: the neighbour graph, the start by PCA, and an optimiser in
    which no two threads write one vertex, so that a seed gives the same layout on any number of
    cores.

    References
    ----------
    McInnes, Healy, Melville 2018, arXiv:1802.03426.
    """

    applied: ClassVar[tuple[str, ...]] = ("landmarks", "landmark_layout")
    trained: ClassVar[str | None] = "layout"
    library_bytes: ClassVar[int] = COMPILER_BYTES + (32 << 20)  # more kernels than others

    method: Literal["umap"] = "umap"
    n_components: Annotated[int, Field(ge=1, le=256)] = Field(
        default=50, description="Dimensions of the layout."
    )
    n_neighbors: Annotated[int, Field(ge=2)] = Field(
        default=30, description="Neighbours that define the structure, the row itself included."
    )
    min_dist: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Least distance in the layout; 0 packs clusters tightly."
    )
    metric: Literal["cosine", "euclidean"] = Field(
        default="cosine", description="Distance between input rows."
    )
    n_epochs: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Times that each row moves. Omitted: 500 up to 10,000 rows, then 200; from 8 "
        "components on 200, then 50; on a GPU as cuML has it.",
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=42, description="Seed.")

    def n_out(self, n_features: int) -> int:
        """Return `n_components`."""
        return self.n_components

    def check(self, n_samples: int, n_features: int, reporter: Reporter) -> UMAP:
        """Refuse a layout wider than the input; cut `n_neighbors` to the rows there are."""
        if self.n_components >= n_features:
            raise ConfigError(
                f"got {self.n_components} for rows of {n_features} dimensions",
                path="preprocessing_steps.umap.n_components",
                got=self.n_components,
                expected=f"below {n_features}",
                hint="UMAP is there to reduce; use fewer components, or no UMAP",
            )
        if n_samples < self.n_components + 2 or n_samples < 4:
            raise ConfigError(
                f"got {self.n_components} for {n_samples} rows",
                path="preprocessing_steps.umap.n_components",
                got=self.n_components,
                expected=f"at most {max(0, n_samples - 2)}",
                hint="use fewer components, or no UMAP on so few rows",
            )
        if self.n_neighbors > n_samples - 1:
            reporter.warn(
                "umap_n_neighbors",
                f"umap n_neighbors {self.n_neighbors} cut to {n_samples - 1}: "
                f"there are {n_samples} rows",
            )
            return self.model_copy(update={"n_neighbors": n_samples - 1})
        return self

    def epochs(self, n_samples: int) -> int:
        """Return how often each of `n_samples` rows moves."""
        if self.n_epochs is not None:
            return self.n_epochs
        few, many = (200, 50) if self.n_components >= ROOMY else (500, 200)
        return few if n_samples <= FEW_ROWS else many

    def cost(self, n_samples: int, n_features: int, device: Device = "cpu") -> Cost:
        """Return the cost of graph and layout, at the rates in docs/algorithms/umap.md."""
        from gpucluster.ops.half_neighbors import SPARE
        from gpucluster.ops.layout import padded
        from gpucluster.ops.neighbors import neighbor_cost

        if device == "gpu":
            # rows and their copies in float16, lists, and the layout, which begins on the host
            lists = 16 * (self.n_neighbors + SPARE) + 20 * self.n_neighbors
            on_device = n_samples * (6 * n_features + lists + 8 * self.n_components)
            return Cost(12 * n_samples * self.n_components, None, device_bytes=on_device)
        graph = neighbor_cost(n_samples, n_features, self.n_neighbors)
        edges = n_samples * self.n_neighbors
        width = padded(self.n_components)
        layout = edges * self.epochs(n_samples) * (8 + 0.75 * width) * 1e-9
        matrix = 4 * n_samples * n_features
        unit = matrix if self.metric == "cosine" else 0
        # the search; then the graph while it is united, and two padded layouts
        united = 80 * edges + 10 * width * n_samples + matrix
        return Cost(
            unit + max(graph.bytes, united),
            (graph.seconds or 0) + 4e-8 * n_samples * n_features + layout,
            graph.method,
            rows_bytes=unit + matrix,
            unit_bytes=unit,
            far_bytes=matrix,
            kept_bytes=4 * min(n_samples, LANDMARKS) * n_features,
        )

    def fit(self, X: Matrix, device: Device, reporter: Reporter) -> Fitted:
        """Compute the layout of all rows."""
        import numpy as np

        from gpucluster.device.arrays import namespace, to_device, to_host
        from gpucluster.ops.neighbors import nearest_neighbors
        from gpucluster.ops.normalize import unit_rows
        from gpucluster.ops.shards import shown

        rows = to_device(X, device)
        data = unit_rows(rows) if self.metric == "cosine" else rows
        graph = nearest_neighbors(
            data, self.n_neighbors, random_state=self.random_state, reporter=reporter
        )
        fit = self._fit_gpu if device == "gpu" else self._fit_cpu
        reporter.cancel.raise_if_cancelled()
        layout = shown(X, fit(data, graph, reporter))
        landmarks = self._landmark_rows(len(X))
        return Fitted(
            arrays={
                "layout": layout,
                "landmarks": np.ascontiguousarray(
                    to_host(data[namespace(data).asarray(landmarks)])
                ),
                "landmark_layout": np.ascontiguousarray(layout[landmarks]),
            },
            backend="numba" if device == "cpu" else "cuml",
            method="exact" if graph.method == "exact" else f"{graph.method} graph",
            info={
                "graph": graph.method,
                "graph_recall": graph.recall,
                "n_landmarks": len(landmarks),
            },
        )

    def _landmark_rows(self, n_samples: int) -> Any:
        import numpy as np

        if n_samples <= LANDMARKS:
            return np.arange(n_samples)
        drawn = np.random.default_rng(self.random_state)
        return np.sort(drawn.choice(n_samples, LANDMARKS, replace=False))

    def _fit_cpu(self, data: Matrix, graph: Neighbors, reporter: Reporter) -> Matrix:
        from gpucluster.ops.fuzzy import fuzzy_graph
        from gpucluster.ops.layout import optimise_layout

        epochs = self.epochs(len(data))
        return optimise_layout(
            # an edge that acts in no epoch is none
            fuzzy_graph(graph, cosine=self.metric == "cosine", least=1 / epochs),
            self._start(data),
            n_epochs=epochs,
            min_dist=self.min_dist,
            random_state=self.random_state,
            reporter=reporter,
        )

    def _fit_gpu(self, data: Any, graph: Neighbors, reporter: Reporter) -> Matrix:
        import numpy as np
        from cuml.manifold import UMAP as CumlUMAP

        distances = graph.sqdist / 2 if self.metric == "cosine" else graph.sqdist**0.5
        model = CumlUMAP(
            n_components=self.n_components,
            n_neighbors=self.n_neighbors,
            min_dist=self.min_dist,
            metric=self.metric,
            n_epochs=self.n_epochs,
            random_state=self.random_state,
            init=self._start(data),
            precomputed_knn=(graph.rows.astype(np.int64), distances.astype(np.float32)),
            output_type="numpy",
        )
        return np.ascontiguousarray(model.fit_transform(data), np.float32)

    def _start(self, data: Any) -> Matrix:
        """Return a PCA of the rows, scaled to a width of 20, with noise that parts equal rows."""
        import numpy as np

        from gpucluster.device.arrays import is_on_gpu, namespace, to_host
        from gpucluster.ops.half_moments import half_centred_product
        from gpucluster.preprocess.pca import PCA

        taught = to_host(data[:: max(1, len(data) // LANDMARKS)])
        pca = PCA(n_components=min(self.n_components, *taught.shape))
        learned = pca.fit(taught, "cpu", Reporter()).arrays
        if is_on_gpu(data):
            given = learned["mean"], learned["components"]
            start = to_host(half_centred_product(data, *given, namespace(data)))
        else:
            start = pca.output(data, learned)
        widest = float(np.abs(start).max())
        drawn = np.random.default_rng(self.random_state)
        noise = drawn.normal(scale=1e-4, size=(len(data), self.n_components))
        noise[:, : start.shape[1]] += start * (10 / widest if widest > 0 else 1)
        return noise.astype(np.float32)

    def apply(self, X: Matrix, arrays: Mapping[str, Any]) -> Matrix:
        """Place rows at the weighted mean of the layout of their nearest landmarks."""
        from gpucluster.ops.normalize import unit_rows
        from gpucluster.ops.placement import place

        data = unit_rows(X) if self.metric == "cosine" else X
        return place(data, arrays["landmarks"], arrays["landmark_layout"], self.n_neighbors)
