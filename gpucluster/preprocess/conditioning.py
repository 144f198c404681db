"""Whether to centre or to whiten, decided on a sample by what halves of it show again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gpucluster.device.memory import COMPILER_BYTES
from gpucluster.device.select import Device
from gpucluster.events import Muted, Reporter
from gpucluster.ops.lines import LANES
from gpucluster.preprocess.base import Fitted, Step
from gpucluster.preprocess.normalize import Center
from gpucluster.preprocess.umap import UMAP
from gpucluster.preprocess.whitening import Whitening
from gpucluster.types import Cost, Matrix, Weights

FEW_ROWS = 500  # fewer say nothing about their halves: they stay as they are
MARGIN = 0.5  # nats by which a change has to be better; scores differ by 0.1 to 0.4 by chance
CLEAR = 0.5  # nats that a change has to reach: two clusters that are always found have 0.69
SETTLED = 1.5  # nats of rows as they are, from which on one whitening is tried, and not two
GENTLE, STRONG = (
    Whitening(regularization=share, regularization_mode="relative", force=True)
    for share in (1.0, 0.1)
)
TRIAL = UMAP(n_components=LANES, n_neighbors=15, n_epochs=50)
DOUBTFUL = 4  # times the rows at most, where whitening is ahead by less than `MARGIN`
NOTHING = {"score": 0.0, "stability": 0.0, "n_clusters": 0}  # where no cut gives two clusters


class Conditioning(Step):
    """Centre or whiten the rows where that makes clusters more stable; else leave them alone.

    Rows as they are and whitened ones are tried on a sample: each is laid out by UMAP and
    clustered, and scored as ``min_cluster_size: auto`` scores a size, by what is found again in
    halves of the sample. Where rows have more in common than they differ by, centring is tried too;
    where whitening helps, or where rows as they are stay below `SETTLED`, a stronger one. A
    change is made when its score reaches `CLEAR` and is the higher one by `MARGIN`. Where
    whitening is ahead by less, up to `DOUBTFUL` times as many rows decide, by a margin that
    goes down with the root of their number.

    Notes
    -----
    Whitening takes out directions that carry no clusters, and helps by much where there are some;
    where there are none it brings up noise. The score tells the two apart without labels:
    docs/algorithms/conditioning.md has the measurements.
    """

    applied: ClassVar[tuple[str, ...]] = ("mean", "matrix")
    has_gpu_path: ClassVar[bool] = False
    library_bytes: ClassVar[int] = COMPILER_BYTES

    method: Literal["conditioning"] = "conditioning"
    sample_size: Annotated[int, Field(ge=FEW_ROWS, le=1_000_000)] = Field(
        default=2000, description="Rows on which the ways are compared."
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=42, description="Seed.")

    def n_out(self, n_features: int) -> int:
        """Return `n_features`."""
        return n_features

    def cost(self, n_samples: int, n_features: int, device: Device = "cpu") -> Cost:
        """Return the time of two looks, and the memory of the first, or of whitening all rows."""
        n_drawn = min(n_samples, self.sample_size)
        if n_drawn < FEW_ROWS:
            return Cost(0, 0.0)
        trial = TRIAL.cost(n_drawn, n_features)
        spectrum = Whitening().cost(n_drawn, n_features)
        whole = Whitening().cost(n_samples, n_features)
        seconds = 2 * (2 * (trial.seconds or 0) + (spectrum.seconds or 0) + 0.05)
        # trials of three ways come before the one that is best
        return Cost(max(whole.bytes, 3 * trial.bytes), seconds, f"on {n_drawn:,} rows")

    def fit(self, X: Matrix, device: Device, reporter: Reporter) -> Fitted:
        """Try the ways on a sample; learn the best one from all rows."""
        import numpy as np

        order = np.random.default_rng(self.random_state).permutation(len(X))
        n_drawn = min(len(X), self.sample_size)
        tried = self._trials(np.ascontiguousarray(X[np.sort(order[:n_drawn])]), reporter)
        margin = MARGIN
        if n_drawn < len(X) and _is_doubtful(tried):
            n_drawn = min(len(X), DOUBTFUL * self.sample_size)
            margin = MARGIN * math.sqrt(self.sample_size / n_drawn)  # as chance goes down
            tried = self._trials(np.ascontiguousarray(X[np.sort(order[:n_drawn])]), reporter)
        chosen = _best(tried, margin)
        tried = [{**found, "step": _name(found["step"])} for found in tried]
        info = {"chosen": _name(chosen), "tried": tried, "n_rows": n_drawn}
        method = f"on {n_drawn:,} rows"
        if chosen is None:
            return Fitted({}, "numpy", method, info)
        fitted = chosen.fit(X, "cpu", reporter)
        arrays = {name: fitted.arrays[name] for name in chosen.applied}
        return Fitted(arrays, fitted.backend, method, {**info, **fitted.info})

    def _trials(self, sample: Matrix, reporter: Reporter) -> list[dict[str, Any]]:
        """Return what each way gives, that of none first; nothing for few rows."""
        if len(sample) < FEW_ROWS:
            return []
        attempt = partial(self._try, sample=sample, reporter=reporter)
        ways = _ways(sample)
        with ThreadPoolExecutor(len(ways)) as pool:  # half of a trial is work for one core
            tried = list(pool.map(attempt, ways))
        if _best(tried) is GENTLE or tried[0]["score"] < SETTLED:
            tried.append(attempt(STRONG))
        return tried

    def _try(self, way: Step | None, sample: Matrix, reporter: Reporter) -> dict[str, Any]:
        """Return what is found again in halves of the prepared sample, at best."""
        from gpucluster.ops.density import AUTO_SAMPLES, density_dendrogram
        from gpucluster.ops.duplicates import distinct_rows
        from gpucluster.ops.stability import score_cuts
        from gpucluster.ops.tree import Dendrogram, Rule

        quiet = Muted(self.method, cancel=reporter.cancel)
        X, weights = sample, None
        if way is not None:
            X = way.output(X, way.fit(X, "cpu", quiet).arrays)
        if X.shape[1] > LANES:
            layout = TRIAL.model_copy(update={"random_state": self.random_state})
            X = layout.fit(X, "cpu", quiet).arrays["layout"]
        distinct = distinct_rows(X)
        if distinct is not None:
            X, weights = X[distinct.rows], distinct.weights
        if len(X) < 2:
            return {"step": way, **NOTHING}

        def hierarchy(rows: Matrix, mass: Weights | None) -> Dendrogram:
            return density_dendrogram(rows, min(AUTO_SAMPLES, len(rows) - 1), quiet, mass)

        scored = score_cuts(
            X,
            weights,
            hierarchy(X, weights),
            hierarchy,
            (Rule(method="eom"), Rule(method="leaf")),
            random_state=self.random_state,
            reporter=quiet,
        )
        if not scored:
            return {"step": way, **NOTHING}
        best = max(scored, key=lambda candidate: candidate.score)
        return {
            "step": way,
            "score": best.score,
            "stability": best.stability,
            "n_clusters": best.n_clusters,
        }

    def apply(self, X: Matrix, arrays: Mapping[str, Any]) -> Matrix:
        """Return the rows as the chosen way has them."""
        return X if not arrays else _learned(arrays).apply(X, arrays)

    def output(self, X: Matrix, arrays: Mapping[str, Any], device: Device = "cpu") -> Matrix:
        """Return the training rows as the chosen way has them; `X` itself where that is none."""
        return X if not arrays else _learned(arrays).output(X, arrays)


def _ways(sample: Matrix) -> list[Step | None]:
    """Return what is always tried; centring only where a common offset hides the rest."""
    from gpucluster.ops.normalize import offset

    return [None, *([] if offset(sample) is None else [Center()]), GENTLE]


def _best(tried: Sequence[Mapping[str, Any]], margin: float = MARGIN) -> Step | None:
    """Return the way of the highest score, if that is clear and higher by a margin than none's."""
    if not tried:
        return None
    best = max(tried[1:], key=lambda found: found["score"])
    needed = max(CLEAR, tried[0]["score"] + margin)
    chosen: Step | None = best["step"] if best["score"] >= needed else None
    return chosen


def _is_doubtful(tried: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a whitening is ahead, but not by enough."""
    if not tried or _best(tried) is not None:
        return False
    leader = max(tried, key=lambda found: found["score"])
    return isinstance(leader["step"], Whitening) and leader["score"] >= CLEAR


def _name(way: Step | None) -> str:
    if isinstance(way, Whitening):
        return f"{way.method} {way.regularization_mode}:{way.regularization:g}"
    return "none" if way is None else way.method


def _learned(arrays: Mapping[str, Any]) -> Step:
    return GENTLE if "matrix" in arrays else Center()
