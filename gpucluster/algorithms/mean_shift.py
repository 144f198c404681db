"""Mean shift: every row climbs to where rows are densest; a cluster is what meets there."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from gpucluster.algorithms.base import Algorithm, Raw
from gpucluster.device.select import Device
from gpucluster.errors import ConfigError, NotConvergedWarning
from gpucluster.events import Reporter
from gpucluster.types import NOISE, Cost, Matrix

EXACT_LIMIT_FLOP = 4e11  # of one step of every row: about 3 seconds on two cores
N_LANDMARKS = 8_000
BANDWIDTH_ROWS = 5_000  # the bandwidth is estimated on so many rows at most
BANDWIDTH_QUANTILE = 0.3  # scikit-learn's default
COARSE_SHARE = 0.25  # of the rows, in landmarks wider than the bandwidth: then it is said


class MeanShift(Algorithm):
    """Let every row climb to the mean of the rows within `bandwidth`, again and again.

    Clusters are the places where they come to rest; each row belongs to the nearest. The
    semantics are those of scikit-learn: flat kernel, a row is at rest when it moves less
    than a thousandth of the bandwidth, and of places within one bandwidth of each other
    the one with most rows stays.

    Above `EXACT_LIMIT_FLOP` a few thousand weighted landmarks climb, in the density of
    landmarks; the places that they find are refined over all rows.

    References
    ----------
    Cheng 1995, doi:10.1109/34.400568. Comaniciu, Meer 2002, doi:10.1109/34.1000236.
    """

    name: ClassVar[str] = "mean_shift"

    bandwidth: Annotated[float, Field(gt=0, lt=1e18)] | None = Field(
        default=None,
        description="Radius of the kernel, euclidean. Omitted: the mean distance within which "
        "a row finds 30 % of all rows.",
    )
    bin_seeding: bool = Field(
        default=False,
        description="Start from the occupied cells of a grid of one bandwidth, not from all rows.",
    )
    min_bin_freq: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Rows that make a cell of the grid a start."
    )
    cluster_all: bool = Field(
        default=True,
        description="Whether rows farther than the bandwidth from every cluster join the nearest; "
        "otherwise they are noise.",
    )
    max_iter: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=300, description="Most steps of a row."
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=42, description="Seed of the landmarks, and of the sample for the bandwidth."
    )

    def cost(self, n_samples: int, n_features: int, device: Device) -> Cost:
        """Return bytes beside `X`, and seconds at the rates in docs/algorithms/mean_shift.md.

        How many steps are taken, and by how many modes of landmarks, depends on the data and
        the bandwidth; typical numbers are assumed.
        """
        from gpucluster.ops.landmarks import landmark_cost
        from gpucluster.ops.shifting import TYPICAL_STEPS, climb_cost

        method = _method(n_samples, n_features)
        if method == "exact":
            parts = [climb_cost(n_samples, n_samples, n_features)]
        else:
            n_landmarks = min(N_LANDMARKS, n_samples)
            chosen = landmark_cost(n_samples, n_features, n_landmarks)
            parts = [
                replace(chosen, bytes=chosen.bytes - chosen.far_bytes),  # counted below
                climb_cost(n_landmarks, n_landmarks, n_features),
                climb_cost(n_landmarks, n_samples, n_features, TYPICAL_STEPS / 8),
            ]
        centred = 4 * n_samples * n_features  # when the rows lie far from zero
        sample = 4 * min(n_samples, BANDWIDTH_ROWS) * n_features
        distinct = (4 * n_features + 48) * n_samples if method == "exact" else 0
        extra = centred + distinct + sample + 12 * n_samples + max(part.bytes for part in parts)
        if device == "gpu":
            return Cost(extra, None, method, device_bytes=4 * n_samples * n_features)
        seconds = sum(part.seconds or 0 for part in parts)
        return Cost(extra, seconds, method, rows_bytes=centred, far_bytes=centred)

    def _fit_cpu(self, X: Matrix, reporter: Reporter) -> Raw:
        return self._fit(X, "numpy", reporter)

    def _fit_gpu(self, X: Matrix, reporter: Reporter) -> Raw:
        from gpucluster.device.arrays import to_device

        return self._fit(to_device(X, "gpu"), "cupy", reporter)

    def _fit(self, X: Any, backend: str, reporter: Reporter) -> Raw:
        """Cluster on the device of `X`."""
        from gpucluster.device.arrays import to_host
        from gpucluster.ops.duplicates import equal_groups
        from gpucluster.ops.normalize import offset
        from gpucluster.ops.shifting import (
            estimated_bandwidth,
            nearest_mode,
            resolves,
        )

        method = _method(*X.shape)
        common = offset(X)
        centred = X if common is None else X - common
        info: dict[str, Any] = {}
        bandwidth = self.bandwidth
        if bandwidth is None:
            bandwidth = estimated_bandwidth(
                centred, BANDWIDTH_QUANTILE, BANDWIDTH_ROWS, self.random_state, reporter
            )
            info["bandwidth_rows"] = min(len(X), BANDWIDTH_ROWS)
        info["bandwidth"] = bandwidth
        if not resolves(centred, bandwidth):  # then only equal rows are near each other
            _, labels = equal_groups(to_host(X))
            return Raw(labels, backend="numpy", method=method, info=info | {"n_iter": 0})
        search = self._by_rows if method == "exact" else self._by_landmarks
        centers, found = search(centred, common, bandwidth, reporter)
        labels, sqdist = (to_host(a) for a in nearest_mode(centred, centers, reporter))
        if not self.cluster_all:
            labels[sqdist > bandwidth**2] = NOISE
        if len(centers) == 1 and sqdist.any():
            reporter.warn(
                "one_cluster",
                f"mean_shift found one cluster: bandwidth is {bandwidth:g}; "
                "a smaller one, such as half of it, may find more",
            )
        return Raw(labels, backend=backend, method=method, info=info | found)

    def _by_rows(
        self, X: Any, common: Any, bandwidth: float, reporter: Reporter
    ) -> tuple[Any, dict[str, Any]]:
        """Return where rows, or cells of the grid, arrive in the density of all rows."""
        from gpucluster.device.arrays import namespace, to_host
        from gpucluster.ops.duplicates import distinct_rows
        from gpucluster.ops.shifting import FlatKernel, separate

        points, weights, info = X, np.ones(len(X), np.int64), {}
        distinct = distinct_rows(to_host(X))
        if distinct is not None:  # equal rows climb as one, and pull as many
            points, weights = X[namespace(X).asarray(distinct.rows)], distinct.weights
            info = {"duplicates": distinct.summary()}
        modes = self._climb(FlatKernel(points, bandwidth, weights), common, weights, reporter)
        info |= {"n_iter": modes.n_iter, "n_seeds": modes.n_seeds}
        return separate(modes, bandwidth), info

    def _by_landmarks(
        self, X: Any, common: Any, bandwidth: float, reporter: Reporter
    ) -> tuple[Any, dict[str, Any]]:
        """Return where landmarks arrive in the density of landmarks, refined over all rows."""
        from gpucluster.device.arrays import namespace
        from gpucluster.ops.landmarks import landmarks
        from gpucluster.ops.shifting import FlatKernel, climb, separate

        found = landmarks(X, min(N_LANDMARKS, len(X)), self.random_state, reporter)
        wide = found.weights[found.mean_sqdist > bandwidth**2].sum() / len(X)
        if wide > COARSE_SHARE:
            reporter.warn(
                "landmarks_too_coarse",
                f"mean_shift.bandwidth is {bandwidth:g}, but {wide:.0%} of the rows are in "
                "landmarks that are wider: use a larger one, fewer dimensions, or a sample",
            )
        points = namespace(X).asarray(found.means)
        kernel = FlatKernel(points, bandwidth, found.weights, found.mean_sqdist)
        modes = self._climb(kernel, common, found.weights, reporter)
        coarse = separate(modes, bandwidth) if len(modes.centers) else points
        fine = climb(FlatKernel(X, bandwidth), coarse, self.max_iter, reporter)
        self._require_rest(fine, reporter)
        centers = separate(fine, bandwidth) if len(fine.centers) else coarse
        found_out = {"n_iter": modes.n_iter, "n_seeds": modes.n_seeds, "n_landmarks": len(points)}
        return centers, found_out

    def _climb(self, kernel: Any, common: Any, weights: Any, reporter: Reporter) -> Any:
        """Return where the starts arrive: all points of the kernel, or the cells of a grid."""
        from gpucluster.ops.shifting import bin_seeds, climb

        seeds = kernel.points
        if self.bin_seeding:
            # the grid lies where the rows were before they were centred
            seeds = bin_seeds(seeds, common, kernel.bandwidth, self.min_bin_freq, weights)
            if not len(seeds):
                raise ConfigError(
                    f"got {self.min_bin_freq}, but no cell of the grid holds so many rows",
                    path="mean_shift.min_bin_freq",
                    got=self.min_bin_freq,
                    expected="at most the rows of the fullest cell",
                    hint="use a smaller one, or a larger bandwidth",
                )
        modes = climb(kernel, seeds, self.max_iter, reporter)
        if self.bin_seeding and not len(modes.centers):
            reporter.warn(
                "empty_bins",
                "mean_shift.bin_seeding found no cell of the grid with a row within the bandwidth "
                "of its middle, as happens in many dimensions: every row is a start",
            )
            modes = climb(kernel, kernel.points, self.max_iter, reporter)
        self._require_rest(modes, reporter)
        return modes

    def _require_rest(self, modes: Any, reporter: Reporter) -> None:
        if modes.n_moving:
            reporter.warn(
                "not_converged",
                f"mean_shift stopped at max_iter {self.max_iter}: "
                f"{modes.n_moving} of {modes.n_seeds} starts still moved",
                NotConvergedWarning,
            )


def _method(n_samples: int, n_features: int) -> str:
    from gpucluster.ops.shifting import step_flop

    exact = step_flop(n_samples, n_samples, n_features) <= EXACT_LIMIT_FLOP
    return "exact" if exact else "landmarks"
