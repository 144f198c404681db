"""Ordered preparation of vectors before they are clustered.

`AnyStep` is the catalogue. A step is one class in one file; its fitted state is saved
with the run, and applied again to new documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from gpucluster.errors import ConfigError
from gpucluster.events import Reporter
from gpucluster.preprocess.base import Fitted, Step
from gpucluster.preprocess.conditioning import Conditioning
from gpucluster.preprocess.display import DisplayReduction
from gpucluster.preprocess.normalize import Center, L2Normalize
from gpucluster.preprocess.pca import PCA, RemoveTopComponents
from gpucluster.preprocess.umap import UMAP
from gpucluster.preprocess.whitening import Whitening

AnyStep = Annotated[
    Whitening | UMAP | PCA | L2Normalize | Center | RemoveTopComponents | Conditioning,
    Field(discriminator="method"),
]

STEP_TYPES: dict[str, type[Step]] = {
    step.model_fields["method"].default: step
    for step in (
        Whitening,
        UMAP,
        PCA,
        L2Normalize,
        Center,
        RemoveTopComponents,
        Conditioning,
    )
}

__all__ = [
    "PCA",
    "STEP_TYPES",
    "UMAP",
    "AnyStep",
    "Conditioning",
    "DisplayReduction",
    "Fitted",
    "Step",
    "Whitening",
    "check_chain",
]


def check_chain(
    steps: Sequence[Step], n_samples: int, n_features: int, reporter: Reporter
) -> list[Step]:
    """Return the steps as they will run on data of this shape.

    Parameters
    ----------
    steps : sequence of Step
    n_samples, n_features : int
        Shape of the input of the first step.
    reporter : Reporter
        Told what is adjusted or unwise.

    Returns
    -------
    list of Step

    Raises
    ------
    ConfigError
        A step cannot run on its input, or PCA follows whitening: a flat spectrum has no
        largest directions, so PCA would keep arbitrary ones.
    """
    checked: list[Step] = []
    for step in steps:
        before = [type(s) for s in checked]
        if isinstance(step, PCA) and Whitening in before:
            forced = any(isinstance(s, Whitening) and s.force for s in checked)
            if not forced:
                raise ConfigError(
                    "pca after whitening keeps arbitrary directions of a flat spectrum",
                    path="preprocessing_steps",
                    hint="put pca before whitening, or set force: true on the whitening step",
                )
        if isinstance(step, Whitening) and UMAP in before:
            reporter.warn("whitening_after_umap", "whitening after umap distorts its layout")
        fitting = step.check(n_samples, n_features, reporter)
        checked.append(fitting)
        n_features = fitting.n_out(n_features)
    return checked
