"""A preprocessing step: settings in, fitted state out, the state applied to blocks of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from gpucluster.device.memory import BLOCK_BYTES, blocks_bytes, rows_per_block
from gpucluster.device.select import Device
from gpucluster.events import Reporter
from gpucluster.types import Cost, Matrix

if TYPE_CHECKING:
    from gpucluster.ops.shards import Shard


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a step learned; everything that assignment needs to repeat it.

    Attributes
    ----------
    arrays : dict of str to ndarray
        Saved as ``.npy`` files; `Step.apply` needs nothing else.
    backend : str
        Who computed.
    method : str
        ``exact``, or the name of the approximation.
    info : dict
        Diagnostics, as JSON values.
    """

    arrays: Mapping[str, Any]
    backend: str
    method: str = "exact"
    info: Mapping[str, Any] = field(default_factory=dict)


class Step(BaseModel, ABC):
    """Base of the steps: a frozen model that is its own configuration.

    A step sees the output of the one before it. ``fit`` learns from all rows, ``apply``
    maps any rows with what was learned. `applied` names the arrays that this takes;
    `trained` the one that holds the output of the training rows, where applying would
    give something else (UMAP's layout).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    applied: ClassVar[tuple[str, ...]] = ()
    trained: ClassVar[str | None] = None
    has_gpu_path: ClassVar[bool] = True
    output_on_gpu: ClassVar[bool] = False  # whether `output` is worth the way there and back
    library_bytes: ClassVar[int] = 0  # resident memory of the libraries that the CPU path loads
    method: str

    @abstractmethod
    def n_out(self, n_features: int) -> int:
        """Return the dimension of the output for an input of `n_features`."""

    def check(self, n_samples: int, n_features: int, reporter: Reporter) -> Step:
        """Return the step as it will run on data of this shape, or raise `ConfigError`.

        What is adjusted is said to `reporter`.
        """
        return self

    def cost(self, n_samples: int, n_features: int, device: Device = "cpu") -> Cost:
        """Return what a fit to data of this shape will take; here, one pass.

        On a GPU rows may stream, so it takes none of its memory for certain.
        """
        matrix = 4 * n_samples * n_features
        return Cost(blocks_bytes(matrix), matrix / 2e9)

    @abstractmethod
    def fit(self, X: Matrix, device: Device, reporter: Reporter) -> Fitted:
        """Learn from all rows of `X`, on `device`."""

    @abstractmethod
    def apply(self, X: Matrix, arrays: Mapping[str, Any]) -> Matrix:
        """Map rows with the fitted `arrays`; works on a block of any length."""

    def output(self, X: Matrix, arrays: Mapping[str, Any], device: Device = "cpu") -> Matrix:
        """Return the mapped training rows, float32, C-contiguous.

        The blocks depend on the data alone, and so do the bits of the result. `device` is where
        the rows are mapped; ``gpu`` comes only to steps that set `output_on_gpu`, which may leave
        the result there.
        """
        import numpy as np

        from gpucluster.device.storage import like
        from gpucluster.ops.shards import Shards, Written

        if self.trained is not None:
            return np.ascontiguousarray(arrays[self.trained], np.float32)
        out: Matrix = like(X, (len(X), self.n_out(X.shape[1])), to_lend=True)
        known = self, tuple(arrays), *arrays.values()
        for _ in Shards(X, self.method).map(_shard_applied, Written(out), *known):
            pass
        return out


def _shard_applied(
    shard: Shard, out: Matrix, step: Step, names: tuple[str, ...], *arrays: Any
) -> None:
    from gpucluster.ops.blocks import row_blocks

    known = dict(zip(names, arrays, strict=True))
    for rows in row_blocks(len(out), rows_per_block(8 * shard.X.shape[1], BLOCK_BYTES // 2)):
        out[rows] = step.apply(shard.X[rows], known)
