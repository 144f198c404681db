"""Damaged files of every kind end in samples or in one of our errors, soon, and never worse.

``GPUCLUSTER_FUZZ_N`` is the number of damaged files of each format.
"""

from __future__ import annotations

import gzip
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gpucluster.device.child import Child
from gpucluster.errors import GpuclusterError
from gpucluster.sources import Filters
from gpucluster.types import Samples
from tests.helpers.vectors import (
    WITH_IDS,
    names,
    read,
    vectors,
    write_bin,
    write_vecs,
)

N_FILES = int(os.environ.get("GPUCLUSTER_FUZZ_N", "1250"))
LIMIT_S = 10
SEED = 20_260_401

WRITERS: dict[str, Callable[[Path], Path]] = {
    name: lambda path, write=write: write(path, vectors(), names())
    for name, write in WITH_IDS.items()
    if name not in ("x.feather", "x.jsonl.zst")
} | {
    "x.fvecs": lambda path: write_vecs(path, vectors()),
    "x.fbin": lambda path: write_bin(path, vectors()),
}
TOKEN = re.compile(rb'"[^"]*"|-?[0-9]+[.][0-9]+|[^"0-9]')
WORDS = (
    *(
        b"null",
        b"true",
        b'""',
        b"[]",
        b"{}",
        b"0",
        b"-1",
        b"1e999",
        b"NaN",
        b"-Infinity",
        b'"\\ud800"',
    ),
    *(b"[1,[2]]", b'{"id":1}', b"9" * 30, b"9" * 5_000, b"[" * 3_000, b"\n", b"\xff"),
)
EXTREMES = (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


def flip_bits(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice([1, 1, 2, 8, 64])):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def truncate(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(len(data)) :]


def insert(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data))
    data[at:at] = dice.randbytes(dice.choice([1, 4, 8, 100]))


def splice(data: bytearray, dice: random.Random) -> None:
    """Copy a stretch of the file over another."""
    length = dice.randint(1, min(512, len(data)))
    source, target = (dice.randrange(len(data) - length + 1) for _ in range(2))
    data[target : target + length] = data[source : source + length]


def set_field(data: bytearray, dice: random.Random) -> None:
    """Put an extreme number where sizes and counts are: at the start or the end."""
    width = min(dice.choice([2, 4, 8]), len(data))
    reach = min(dice.choice([16, 128, 1024]), len(data) - width + 1)
    at = dice.randrange(reach)
    at = dice.choice([at, len(data) - width - at])
    value = dice.choice(EXTREMES) % 2 ** (8 * width)
    data[at : at + width] = value.to_bytes(width, dice.choice(["little", "big"]))


def reword(data: bytearray, dice: random.Random) -> None:
    """Put another JSON value where one is, if this is JSON."""
    tokens = list(TOKEN.finditer(data))
    if tokens:
        start, stop = dice.choice(tokens).span()
        data[start:stop] = dice.choice(WORDS)


MUTATIONS = (flip_bits, truncate, insert, splice, set_field)


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Return the content with one to three kinds of damage; of gzip, often what is inside."""
    inside = content[:2] == b"\x1f\x8b" and dice.random() < 0.5
    data = bytearray(gzip.decompress(content) if inside else content)
    usable = (*MUTATIONS, *[reword] * len(MUTATIONS)) if data[:1] == b"{" else MUTATIONS
    for mutate in dice.choices(usable, k=dice.choice([1, 1, 1, 2, 3])):
        if data:
            mutate(data, dice)
    return gzip.compress(data) if inside else bytes(data)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child("read arrow", timeout_s=LIMIT_S) as child:
        yield child


WITH_COLUMNS = (".parquet", ".arrow", ".arrows", ".jsonl", ".gz")
FILTERS = Filters.model_validate({"field": "id", "operator": "regex", "value": "[0-8]$"})


def outcome_of(
    path: Path, child: Child, filters: Filters | None = None
) -> Samples | GpuclusterError:
    """Return what came of reading a file, after a look whether it is whole."""
    try:
        samples = read(path, max_bad_fraction=1, child=child, filters=filters)
    except GpuclusterError as caught:
        error = caught
    else:
        assert np.isfinite(samples.X).all()
        assert len(samples.ids.to_pylist()) == len(samples.X) == len(samples.rows)
        return samples
    assert "\n" not in str(error)
    assert len(str(error)) < 1000
    return error


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files(name, child, tmp_path, record_property):
    content = WRITERS[name](tmp_path / name).read_bytes()
    dice = random.Random(f"{SEED} {name}")
    path = tmp_path / "damaged" / name
    path.parent.mkdir()
    outcomes: Counter[str] = Counter()
    slowest_s = 0.0
    for number in range(N_FILES):
        path.write_bytes(damaged(content, dice))
        started = time.perf_counter()
        try:
            filters = FILTERS if number % 3 == 0 and path.suffix in WITH_COLUMNS else None
            outcome = outcome_of(path, child, filters)
        except BaseException as error:
            error.add_note(f"{name}: damaged file {number} of seed {SEED}")
            raise
        outcomes[type(outcome).__name__] += 1
        slowest_s = max(slowest_s, time.perf_counter() - started)
    assert slowest_s < LIMIT_S
    assert outcomes.total() == N_FILES
    record_property("outcomes", dict(outcomes))
    print(f"{name}: seed {SEED}, {dict(outcomes)}, slowest {slowest_s:.2f} s")  # noqa: T201
