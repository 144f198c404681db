"""What readers raise becomes one of our errors, at one place."""

from __future__ import annotations

import errno
import os
import tokenize
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

from gpucluster.device.child import Child
from gpucluster.errors import (
    CorruptInputError,
    DiskFullError,
    GpuclusterError,
    OutOfMemoryError,
    ShapeError,
    SourceError,
    SourceNotFoundError,
    StageCrashedError,
)
from gpucluster.sources import open_source
from gpucluster.sources.base import reading
from tests.helpers.vectors import table, vectors, write_arrow, write_parquet


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "gone"), SourceNotFoundError, "x: there is no such file"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
            SourceError,
            "x: Permission den",
        ),
        (OSError(errno.ENOSPC, "full"), DiskFullError, "x: no space is left for .*TMPDIR"),
        (
            OSError("Invalid\n  footer"),
            CorruptInputError,
            r"x: it cannot be read \(OSError: Invalid f",
        ),
        (MemoryError("malloc"), OutOfMemoryError, r"x: .* more memory than there is \(malloc\)"),
        (pa.ArrowMemoryError("malloc"), OutOfMemoryError, "more memory"),
        (pa.ArrowNotImplementedError("lzo"), SourceError, r"cannot be read here \(lzo\)"),
        (pa.ArrowInvalid("bad"), CorruptInputError, r"\(ArrowInvalid: bad\)"),
        (tokenize.TokenError("eof"), CorruptInputError, "TokenError"),
        (zlib.error("bits"), CorruptInputError, "error: bits"),
        (KeyError("x" * 1000), CorruptInputError, "KeyError"),
        (RecursionError("deep"), CorruptInputError, "RecursionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_translation(raised, expected, message):
    with pytest.raises(expected, match=message) as caught, reading("x"):
        raise raised
    assert type(caught.value) is expected
    assert caught.value.__cause__ is raised
    assert len(str(caught.value)) < 300


def test_our_own_errors_pass():
    error = ShapeError("ragged")
    with pytest.raises(ShapeError) as caught, reading("x"):
        raise error
    assert caught.value is error


def test_interrupts_pass():
    with pytest.raises(KeyboardInterrupt), reading("x"):
        raise KeyboardInterrupt


def test_a_reader_that_dies_is_a_damaged_file(tmp_path):
    class Dying(Child):
        def call(self, target, /, **kwargs):
            raise StageCrashedError("was killed by SIGSEGV", stage="read arrow")

    path = write_arrow(tmp_path / "x.arrow", table(vectors()))
    with pytest.raises(CorruptInputError, match=r"x\.arrow: .* was killed by SIGSEGV") as caught:
        open_source(path, child=Dying("read arrow"))
    assert isinstance(caught.value.__cause__, StageCrashedError)


def test_scratch_files_are_gone(tmp_path, child, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    source = open_source(write_arrow(tmp_path / "x.arrow", table(vectors())), child=child)
    assert list((tmp_path / "scratch").iterdir()) == []
    (batch,) = source.batches()
    assert batch.vectors.tolist() == vectors().tolist()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_files(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", table(vectors()))
    path.chmod(0)
    with pytest.raises(GpuclusterError, match="Permission denied"):
        open_source(path)


def test_a_folder_that_is_named_like_a_file(tmp_path):
    folder = tmp_path / "x.parquet"
    folder.mkdir()
    write_parquet(folder / "part-0.parquet", table(vectors()))
    assert open_source(folder).info.paths == (str(Path(folder, "part-0.parquet")),)
