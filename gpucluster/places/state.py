"""Folders on this machine for what no bucket holds."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from gpucluster.places.paths import Place


def state_folder() -> Path:
    """Return ``GPUCLUSTER_STATE_DIR``, or the user's state."""
    own = os.environ.get("GPUCLUSTER_STATE_DIR")
    if own:
        return Path(own)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "gpucluster"


def working_folder(folder: Place) -> Path:
    """Return where files lie that belong to a folder and change in place: in it, on a disk.

    A bucket cannot hold them, so that they lie in the `state_folder` of this machine.
    """
    if isinstance(folder, Path):
        return folder
    return state_folder() / "buckets" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def disk_of(folder: Place) -> Path:
    """Return where files without a name lie that belong to a folder: in it, or ``TMPDIR``."""
    return folder if isinstance(folder, Path) else Path(tempfile.gettempdir())
