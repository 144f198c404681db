"""Where files lie: on a disk, or as objects in a bucket of S3, Google Cloud Storage or Azure.

`place` turns what a user writes into a `pathlib.Path` or an `ObjectPath`, which has those methods
of a path that its readers use. What goes wrong is Python's own `OSError`, as it is on a disk, so
that whoever translates the one translates the other.
"""

from __future__ import annotations

from gpucluster.places.paths import ObjectPath, Place, for_arrow, is_address, place
from gpucluster.places.state import disk_of, state_folder, working_folder
from gpucluster.places.together import readers

__all__ = [
    "ObjectPath",
    "Place",
    "disk_of",
    "for_arrow",
    "is_address",
    "place",
    "readers",
    "state_folder",
    "working_folder",
]
