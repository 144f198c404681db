"""Finished stages, kept so that no later run of the same folder computes them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any

from gpucluster.artifacts.files import Array, read_npy, seal, unseal, write_npy
from gpucluster.artifacts.store import Store
from gpucluster.errors import ArtifactError, StoreError
from gpucluster.places import Place

FOLDER = "checkpoints"
DONE = "done.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a stage left: arrays, and `info` as JSON values."""

    arrays: Mapping[str, Array]
    info: Mapping[str, Any]


class Checkpoints:
    """The finished stages of the runs in an output folder.

    They lie in ``<run_id>/checkpoints/<stage>-<key>/``: one ``.npy`` file for each array, and
    ``done.json``, written last, which says what they must contain. The stages of sibling runs
    are found too: a definition that changed in a late stage computes no early one again.

    Parameters
    ----------
    store : Store
        The output folder.
    run_id : str
        The run that writes; its lease is held by the caller.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id

    def get(self, stage: str, key: str) -> Checkpoint | None:
        """Return what `stage` left under `key`, or None.

        Parameters
        ----------
        stage : str
            Name of the stage.
        key : str
            Digest of all that determines the result: inputs, settings, code version, seed.

        Returns
        -------
        Checkpoint or None
            None when the stage never finished, or when any of its files is missing or damaged.
        """
        found = self._read(_folder(self._run_id, stage, key), key)
        siblings = iter(() if found else self._siblings(stage, key))
        while found is None and (run_id := next(siblings, None)) is not None:
            found = self._read(_folder(run_id, stage, key), key)
        return found

    def _siblings(self, stage: str, key: str) -> list[str]:
        """Return the other runs that finished a stage; of a bucket, by listing it once."""
        pattern = _folder("*", stage, key) + f"/{DONE}"
        try:
            files: list[Place] = [*self._store.root.glob(pattern)]
        except OSError as error:
            raise StoreError(f"cannot read {self._store.root}: {error.strerror}") from error
        names = (file.parent.parent.parent.name for file in files)
        return sorted(name for name in names if name != self._run_id)

    def put(
        self, stage: str, key: str, arrays: Mapping[str, Array], info: Mapping[str, Any]
    ) -> None:
        """Keep what `stage` found.

        Parameters
        ----------
        stage, key : str
            As in `get`.
        arrays : dict of str to ndarray
            Named like files; not of objects.
        info : dict
            JSON values.

        Raises
        ------
        StoreError
            The files could not be written.
        """
        folder = _folder(self._run_id, stage, key)
        files = {}
        for name, array in arrays.items():
            stored = self._store.put(f"{folder}/{name}.npy", partial(write_npy, array))
            files[name] = stored._asdict()
        done = seal({"key": key, "info": info, "files": files})
        self._store.put(f"{folder}/{DONE}", methodcaller("write", done))

    def drop(self, stage: str, key: str) -> None:
        """Remove what this run keeps of a stage that later ones have taken the place of."""
        folder = _folder(self._run_id, stage, key)
        for name in (DONE, *self._store.list(folder)):
            self._store.delete(f"{folder}/{name}")

    def _read(self, folder: str, key: str) -> Checkpoint | None:
        """Return the checkpoint in `folder` when it is whole and has this very key."""
        try:
            done = unseal(json.loads(self._store.read_bytes(f"{folder}/{DONE}")))
            if done["key"] != key:
                return None
            arrays = {}
            for name, entry in done["files"].items():
                path = f"{folder}/{name}.npy"
                with self._store.open(path) as file:
                    arrays[name] = read_npy(file, entry["sha256"], path)
        except (FileNotFoundError, StoreError, ArtifactError, ValueError):
            return None  # never finished, damaged, not ours to read, or just being removed
        return Checkpoint(arrays, done["info"])


def kept_array(run: Place, stage: str, name: str) -> Array | None:
    """Return an array of a stage that lies in the folder of a run; None where none does, whole."""
    try:
        finished: list[Place] = [*run.glob(f"{FOLDER}/{stage}-*/{DONE}")]
        for done in sorted(finished, key=str):
            entry = unseal(json.loads(done.read_bytes()))["files"][name]
            path = done.parent / f"{name}.npy"
            with path.open("rb") as file:
                return read_npy(file, entry["sha256"], str(path))
    except (OSError, ArtifactError, KeyError, ValueError):
        return None
    return None


def _folder(run_id: str, stage: str, key: str) -> str:
    return f"{run_id}/{FOLDER}/{stage}-{key[:16]}"
