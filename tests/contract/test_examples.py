"""The sample of the quickstart is what its README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpucluster.events import Reporter
from gpucluster.sources import load, open_feature

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_sample_has_the_stated_rows_and_columns(sample_path):
    sample = pq.read_table(sample_path)
    assert {field.name: str(field.type) for field in sample.schema} == {
        "document_id": "string",
        "text": "string",
        "label": "string",
        "embedding": "fixed_size_list<element: halffloat>[384]",
    }
    assert sample.num_rows == 3_000
    assert len(pc.unique(sample["document_id"])) == 3_000
    assert len(pc.unique(sample["label"])) == 77
    assert sample_path.stat().st_size < 2_300_000


def test_vectors_of_the_sample_are_normalised(sample_path):
    vectors: pa.FixedSizeListArray = pq.read_table(sample_path)["embedding"].combine_chunks()
    X = vectors.flatten().to_numpy().reshape(-1, 384).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, atol=1e-3)


def test_script_makes_the_sample_again(sample_path, data_dir, tmp_path):
    remade = tmp_path / "sample.parquet"
    script, source = EXAMPLES / "make_sample.py", data_dir / "banking77.parquet"
    subprocess.run([sys.executable, script, source, remade], check=True)
    assert pq.read_table(remade).equals(pq.read_table(sample_path))


def test_the_manifest_describes_the_sample(sample_path):
    source = open_feature(EXAMPLES / "banking77.collection.json")
    samples = load(source, reporter=Reporter())
    assert samples.X.shape == (3_000, 384)
    assert samples.source["feature"] == "gpucluster://minilm@v2/sentence_embedding"
    assert len(pc.unique(samples.payload["truth"])) == 77
