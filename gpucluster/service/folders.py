"""Folders of what is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpucluster.artifacts import open_store
from gpucluster.places import Place


def remove_folder(folder: Place) -> None:
    """Remove a folder with all that is in it, on a disk or in a bucket."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    store = open_store(folder)
    for key in folder.sizes():
        store.delete(key)
