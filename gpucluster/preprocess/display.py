"""Coordinates for pictures, in two or three dimensions; never used for clustering."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gpucluster.device.select import Device
from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.preprocess.base import Step
from gpucluster.preprocess.pca import PCA
from gpucluster.preprocess.tsne import TSNE
from gpucluster.preprocess.umap import UMAP
from gpucluster.types import Cost, DisplayMethod

LEAST_LANDMARKS = 1000  # fewer make no picture


class DisplayReduction(BaseModel):
    """Coordinates for pictures; never used for clustering.

    Up to `max_landmarks` rows are laid out together. Of more, that many are drawn and laid
    out, and every row is placed among its nearest ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: DisplayMethod = Field(
        default="umap", description="How to reduce; ipca is pca, which reads its rows once."
    )
    components: Literal[2, 3] = Field(default=2, description="2: x, y. 3: x, y, z.")
    n_neighbors: Annotated[int, Field(ge=2)] = Field(default=15, description="Of umap.")
    min_dist: Annotated[float, Field(ge=0, le=1)] = Field(default=0.1, description="Of umap.")
    perplexity: Annotated[float, Field(ge=1, le=500)] = Field(default=30.0, description="Of tsne.")
    max_landmarks: Annotated[int, Field(ge=LEAST_LANDMARKS)] = Field(
        default=50_000, description="Most rows that umap and tsne lay out; others are placed."
    )
    sample_pct: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Share of the rows to lay out, within max_landmarks. Omitted: all of them.",
    )
    k_landmarks: Annotated[int, Field(ge=1, le=256)] = Field(
        default=15, description="Laid-out rows among which another row is placed."
    )

    def step(self, random_state: int) -> Step | None:
        """Return the step that computes the layout, or None."""
        if self.method == "umap":
            return UMAP(
                n_components=self.components,
                n_neighbors=self.n_neighbors,
                min_dist=self.min_dist,
                random_state=random_state,
            )
        if self.method == "tsne":
            return TSNE(
                n_components=self.components, perplexity=self.perplexity, random_state=random_state
            )
        return None if self.method == "none" else PCA(n_components=self.components)

    def check(
        self, n_samples: int, n_features: int, random_state: int, reporter: Reporter
    ) -> Step | None:
        """Return the step as it will run on data of this shape, or raise `ConfigError`."""
        step = self.step(random_state)
        if step is None:
            return None
        try:
            return step.check(self.n_landmarks(n_samples), n_features, reporter)
        except ConfigError as error:
            if str(error.path).startswith("dimension_reduction"):
                raise
            raise ConfigError(  # of a step that nobody wrote
                f"no {self.method} layout in {self.components} dimensions of {n_samples} rows of "
                f"{n_features}",
                path="dimension_reduction",
                got=self.components,
                expected=error.expected,
                hint="so few need none; or method: pca",
            ) from error

    def n_landmarks(self, n_samples: int) -> int:
        """Return how many of `n_samples` rows are laid out; the others are placed."""
        if self.method not in {"umap", "tsne"}:
            return n_samples
        wanted = n_samples if self.sample_pct is None else math.ceil(self.sample_pct * n_samples)
        return min(n_samples, max(LEAST_LANDMARKS, min(wanted, self.max_landmarks)))

    def landmark_rows(self, n_samples: int, random_state: int) -> Any:
        """Return the rows that are laid out, rising, (n_landmarks,) int64; drawn uniformly."""
        count = self.n_landmarks(n_samples)
        if count == n_samples:
            return np.arange(n_samples)
        drawn = np.random.default_rng(random_state)
        return np.sort(drawn.choice(n_samples, count, replace=False))

    def cost(
        self, n_samples: int, n_features: int, random_state: int, device: Device = "cpu"
    ) -> Cost | None:
        """Return what the coordinates of data of this shape take; None where there are none."""
        from gpucluster.ops.placement import placement_cost

        step = self.step(random_state)
        if step is None:
            return None
        count = self.n_landmarks(n_samples)
        layout = step.cost(count, n_features, device)
        if count == n_samples:
            return layout
        placing = placement_cost(n_samples, n_features, count)
        chosen = 4 * count * n_features
        seconds = None if layout.seconds is None else layout.seconds + (placing.seconds or 0)
        unit = 4 * n_samples * n_features  # where rows are not of unit length yet
        return Cost(
            max(layout.bytes - layout.unit_bytes, placing.bytes) + chosen + unit,
            seconds,
            placing.method,
            rows_bytes=unit,
            unit_bytes=unit,
        )
