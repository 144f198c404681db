"""Columns that are not needed cost no memory, however large they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.vectors import names, table

N_ROWS, N_FEATURES = 3_000, 64
SMALL_BYTES, LARGE_BYTES = 1 << 20, 300 << 20
ALLOWED_BYTES = 25 << 20

LOAD = """
from gpucluster.events import Reporter
from gpucluster.sources import load, open_source
samples = load(open_source(path), reporter=Reporter())
assert samples.X.shape == (3000, 64)
"""

# what the child does with an Arrow file, in this process for once
STAGE = """
import tempfile
from gpucluster.sources.arrow import stage
asked = dict.fromkeys(["id", "vector", "text", "truth"])
with tempfile.TemporaryDirectory() as scratch:
    assert stage([path], asked, None, scratch)["n_rows"] == 3000
"""

MEASURE = """
import sys
import gpucluster.sources
from gpucluster.device.memory import PeakMemory
path, peak = sys.argv[1], PeakMemory()
peak.reset()
before = peak.read()
{work}
print(peak.read() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a high-water mark")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "work", "batch_rows"),
    [("x.parquet", LOAD, N_ROWS), ("x.arrow", STAGE, N_ROWS), ("x.arrow", STAGE, 50)],
    ids=["one row group", "one record batch", "many record batches"],
)
def test_payload_takes_no_memory(name, work, batch_rows, tmp_path):
    path = tmp_path / name
    vectors = np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES)).astype("f4")
    peaks = []
    for payload_bytes in (SMALL_BYTES, LARGE_BYTES):
        text = pa.array(["p" * (payload_bytes // N_ROWS)] * N_ROWS, pa.large_string())
        data = table(vectors, names(N_ROWS), text=text)
        if name == "x.parquet":
            options = {"row_group_size": batch_rows, "compression": "none"}
            pq.write_table(data, path, use_dictionary=False, **options)
        else:
            with pa.ipc.new_file(str(path), data.schema) as writer:
                writer.write_table(data, max_chunksize=batch_rows)
        assert path.stat().st_size > payload_bytes
        peaks.append(peak_bytes(path, work))
    path.unlink()
    assert peaks[0] > 0
    assert peaks[1] - peaks[0] < ALLOWED_BYTES


def peak_bytes(path: Path, work: str) -> int:
    code = MEASURE.format(work=work)
    command = [sys.executable, "-c", code, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
