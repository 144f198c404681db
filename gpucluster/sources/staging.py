"""Samples in raw files, so that the next run over the same input need not decode it.

``<folder>/<key>/``: ``vectors.f32``, the rows as the first step gets them; ``samples.arrow`` and
``rejected.arrow``, what is known of rows; ``staged.json``, written last, with digests of it all.
Nothing of it is flushed to the disk in a hurry: what a crash spoils, its digest tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gpucluster.device.scratch import scratch_folder
from gpucluster.device.storage import Site, mapped, name_of
from gpucluster.events import Reporter
from gpucluster.ops.blocks import map_blocks
from gpucluster.types import Samples

FOLDER, PREFIX = ".staged", ".new-"
VECTORS, SAMPLES, REJECTED, DONE = "vectors.f32", "samples.arrow", "rejected.arrow", "staged.json"
BLOCK_BYTES = 64 << 20  # that have a digest, so that all cores can compare them
PAYLOAD = "payload:"  # begins the names of columns that were asked for


@dataclass(frozen=True, slots=True)
class Staged:
    """Samples that were loaded before; `facts` are what was kept with them, as JSON values."""

    samples: Samples
    facts: Mapping[str, Any]


class Staging:
    """Where the samples of one input lie, or will.

    Parameters
    ----------
    folder : Path
        That of the runs.
    key : str
        Digest of the state of the input, and of all that decides what is loaded of it.

    Notes
    -----
    A context manager; what was begun and not kept is gone at its end.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder / FOLDER, key[:32]
        self._open = ExitStack()

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def get(self, site: Site) -> Staged | None:
        """Return the samples, where they are whole; None: load them.

        Parameters
        ----------
        site : Site
            Who works on the rows.
        """
        folder = self._folder / self._key
        try:
            done = json.loads((folder / DONE).read_bytes())
            if done["digest"] != _digest_of(done["what"]):
                return None
            what = done["what"]
            tables = [_read(folder / name, what["files"][name]) for name in (SAMPLES, REJECTED)]
            X = mapped(folder / VECTORS, what["shape"], site)
            if _block_digests(X) != what["blocks"]:
                return None
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return None  # never staged, or damaged: it is loaded again
        X.setflags(write=False)
        known = {name: tables[0][name].combine_chunks() for name in tables[0].column_names}
        samples = Samples(
            ids=known.pop("id"),
            X=X,
            rows=known.pop("row").to_numpy(),
            payload={name.removeprefix(PAYLOAD): column for name, column in known.items()},
            rejected=tables[1],
            n_rows=what["n_rows"],
            num_filtered=what["num_filtered"],
            source=what["source"],
            everything=what["everything"],
        )
        return Staged(samples, what["facts"])

    def begin(self, site: Site) -> Site:
        """Return where the matrix is to be loaded, so that it can be kept."""
        folder = self._open.enter_context(scratch_folder(self._folder, PREFIX))
        return Site(folder, site.fleet, is_named=True)

    def keep(self, samples: Samples, facts: Mapping[str, Any], reporter: Reporter) -> None:
        """Keep samples whose matrix was loaded where `begin` said; those of before are removed.

        Parameters
        ----------
        samples : Samples
            Their matrix is not to be written any more.
        facts : dict
            JSON values.
        reporter : Reporter
            Told where that is refused.
        """
        path = name_of(samples.X)
        if path is None:  # somebody else's
            return
        try:
            self._keep(path, samples, facts)
        except OSError as error:  # the run goes on: it has what it needs
            reporter.warn("not_staged", f"rows are not staged in {self._folder}: {error.strerror}")

    def _keep(self, path: Path, samples: Samples, facts: Mapping[str, Any]) -> None:
        folder = path.parent / "staged"
        folder.mkdir()
        os.link(path, folder / VECTORS)  # its other name stays as long as somebody needs it
        columns = {PAYLOAD + name: column for name, column in samples.payload.items()}
        table = pa.table({"id": samples.ids, "row": samples.rows, **columns})
        files = {
            SAMPLES: _write(folder / SAMPLES, table),
            REJECTED: _write(folder / REJECTED, samples.rejected),
        }
        what = {
            "paths": list(samples.source["paths"]),
            "shape": list(samples.X.shape),
            "blocks": _block_digests(samples.X),
            "files": files,
            "n_rows": samples.n_rows,
            "num_filtered": samples.num_filtered,
            "source": dict(samples.source),
            "everything": samples.everything,
            "facts": dict(facts),
        }
        what = json.loads(json.dumps(what))
        done = {"digest": _digest_of(what), "what": what}
        (folder / DONE).write_text(json.dumps(done))
        self._remove_older(what["paths"])
        with suppress(OSError):  # another run was faster
            folder.rename(self._folder / self._key)

    def _remove_older(self, paths: list[str]) -> None:
        """Remove what was staged of the same files: a damaged one, or another state of them."""
        for done in self._folder.glob(f"*/{DONE}"):
            with suppress(OSError, ValueError, KeyError):
                if json.loads(done.read_bytes())["what"]["paths"] == paths:
                    shutil.rmtree(done.parent, ignore_errors=True)
        shutil.rmtree(self._folder / self._key, ignore_errors=True)


def _digest_of(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _block_digests(X: Any) -> list[str]:
    """Return a digest of each block of a matrix, computed on all cores."""
    flat = X.reshape(-1).view(np.uint8)
    digest: Callable[[slice], str] = lambda part: hashlib.sha256(flat[part]).hexdigest()  # noqa: E731
    return list(map_blocks(digest, len(flat), BLOCK_BYTES))


def _write(path: Path, table: pa.Table) -> str:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return _file_digest(path)


def _read(path: Path, digest: str) -> pa.Table:
    """Read a table whose file is what it was: Arrow trusts what it reads."""
    if _file_digest(path) != digest:
        raise ValueError(f"{path} is damaged")
    with pa.OSFile(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
