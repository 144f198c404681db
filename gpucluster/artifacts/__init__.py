"""A Run on disk: written once, whole, and verifiable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpucluster.artifacts.checkpoints import Checkpoint, Checkpoints
from gpucluster.artifacts.finishing import publish, write_files
from gpucluster.artifacts.manifest import Counts, FileEntry, Manifest
from gpucluster.artifacts.object_store import open_store
from gpucluster.artifacts.run import Run
from gpucluster.artifacts.store import LocalStore, Store

if TYPE_CHECKING:
    from gpucluster.artifacts.condensed_tree import tree_table
    from gpucluster.artifacts.schema import (
        centroids_table,
        flat_paths,
        layers_table,
        members_table,
        rejected_table,
    )

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Counts",
    "FileEntry",
    "LocalStore",
    "Manifest",
    "Run",
    "Store",
    "centroids_table",
    "flat_paths",
    "layers_table",
    "members_table",
    "open_store",
    "publish",
    "rejected_table",
    "tree_table",
    "write_files",
]


def __getattr__(name: str) -> Any:
    """Load what builds tables, and pyarrow with it, when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gpucluster.artifacts import condensed_tree, schema

    return getattr(condensed_tree if name == "tree_table" else schema, name)
