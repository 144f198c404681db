"""The runs in a folder, those that cannot be read among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpucluster.artifacts.manifest import FILE_NAME, Manifest
from gpucluster.errors import ArtifactError
from gpucluster.finished import Run
from gpucluster.places import Place, readers


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A run that could not be read.

    Attributes
    ----------
    path : Path or ObjectPath
        Its folder.
    reason : str
        What is wrong with it, in one line.
    """

    path: Place
    reason: str


def read_runs(folder: Place) -> Iterator[Run | Unreadable]:
    """Yield what has a manifest below a folder; a folder without one is no run, or not yet."""
    paths: list[Place] = [*folder.iterdir()]
    for file, read in readers([path / FILE_NAME for path in sorted(paths, key=str)]):
        path = file.parent
        try:
            yield Run(path, Manifest.from_json(read(), f"{path.name}/{FILE_NAME}"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ArtifactError as error:
            yield Unreadable(path, str(error))
        except OSError as error:
            yield Unreadable(path, f"cannot read {path.name}/{FILE_NAME}: {error.strerror}")
