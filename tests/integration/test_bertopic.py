"""BERTopic takes a `Clusterer` where it takes a clustering model."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from gpucluster import Clusterer

bertopic = pytest.importorskip("bertopic", reason="BERTopic is not installed")


def test_bertopic_finds_topics_with_a_clusterer(sample_path):
    from bertopic.dimensionality import BaseDimensionalityReduction

    sample = pq.read_table(sample_path).slice(0, 600)
    vectors = sample["embedding"].combine_chunks().flatten().to_numpy()
    model = bertopic.BERTopic(
        embedding_model=None,
        umap_model=BaseDimensionalityReduction(),
        hdbscan_model=Clusterer("kmeans", n_clusters=20, device="cpu"),
    )
    topics, _ = model.fit_transform(
        sample["text"].to_pylist(), embeddings=vectors.reshape(600, -1).astype(np.float32)
    )
    assert set(topics) == set(range(20))
    assert model.get_topic_info()["Count"].sum() == 600
    assert all(word for topic in range(20) for word, _ in model.get_topic(topic)[:3])
