"""What a report says of a run beside its points: the command that repeats it, and what is rare."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import gpucluster
from gpucluster.artifacts import LocalStore
from gpucluster.artifacts.manifest import Manifest
from gpucluster.report.contents import MOST_PATHS, _command, describe
from gpucluster.report.facts import drift
from tests.helpers.runs import publish_small

COLUMNS = {"id": "my id", "vector": "v", "text": None}
PARTS = [f"data/part {i}.parquet" for i in range(MOST_PATHS + 1)]


def run_of(paths: list[str], columns: dict[str, str | None], **more: object) -> SimpleNamespace:
    source = {"paths": paths, "columns": columns, "collections": more.pop("collections", [])}
    return SimpleNamespace(manifest=Manifest.model_construct(source=source, **more))


def two(*columns: dict[str, str | None]) -> list[dict[str, object]]:
    """Return collections with these columns."""
    return [{"paths": [f"{i}.parquet"], "columns": each} for i, each in enumerate(columns)]


@pytest.mark.parametrize(
    ("run", "command"),
    [
        (
            run_of(["a b"], COLUMNS),
            "gpucluster run 'a b' --config definition.json --id-column 'my id' --vector-column v",
        ),
        (
            run_of(["a"], {"text": "t", "truth": "topic"}),
            "gpucluster run a --config definition.json --text-column t --truth-column topic",
        ),
        (run_of(PARTS, {}), "gpucluster run data --config definition.json"),
        (run_of(["a\n\x1b[31m.npy"], {}), "gpucluster run 'a ?[31m.npy' --config definition.json"),
        (
            run_of([], COLUMNS, collections=two({"vector": "v", "text": "t"}, {"vector": "v"})),
            "gpucluster run 0.parquet 1.parquet --config definition.json --vector-column v",
        ),
        (run_of([], COLUMNS), 'gpucluster.cluster(data, "definition.json")'),
        (run_of([], {}, base_run_id="run_b"), "gpucluster.assign(data, run='run_b')"),
        (
            run_of(
                ["a.npy"],
                COLUMNS,
                base_run_id="run_b",
                mode="update",
                assignment={"threshold": 0.25},
            ),
            "gpucluster assign a.npy --run run_b --threshold 0.25 --update",
        ),
        (
            run_of(["a.npy"], COLUMNS, base_run_id="run_b", mode="assign", assignment={}),
            "gpucluster assign a.npy --run run_b",
        ),
    ],
)
def test_the_command_that_repeats_a_run(run: SimpleNamespace, command: str) -> None:
    assert _command(run) == command


def test_many_files_in_several_folders_or_a_bucket_are_all_named() -> None:
    for paths in ([*PARTS, "other/part.parquet"], [f"s3://bucket/{i}.npy" for i in range(9)]):
        words = _command(run_of(paths, {}))
        assert all(path in words for path in paths)


def test_what_few_runs_have(tmp_path) -> None:
    publish_small(LocalStore(tmp_path))
    run = gpucluster.open_run(tmp_path / "run_a")
    related = {
        "feature_uri": "mixpeek://a@v1/b",
        "run_id": "run_o",
        "inside_ours": ["cl_0", "cl_1"],
        "around_ours": ["cl_2"],
    }
    run = replace(run, manifest=run.manifest.model_copy(update={"related": (related,)}))
    similarity = run.members["cosine_similarity_to_centroid"].to_numpy()
    found = describe(run, similarity)
    assert found["rejected"] == {"nan": 1, "inf": 1, "zero_norm": 1}
    assert ["rejected", "3 (inf, nan, zero_norm)"] in [list(fact) for fact in found["facts"]]
    assert found["related"] == [
        "mixpeek://a@v1/b: run_o; 2 of its clusters lie inside one of ours, 1 hold one of ours"
    ]
    known = similarity[np.isfinite(similarity)]
    assert sum(found["similarity"]["counts"]) == len(known)
    assert (found["similarity"]["low"], found["similarity"]["high"]) == (known.min(), known.max())


def test_drift_is_told_with_its_direction() -> None:
    found = {
        "growth": 0.25,
        "noise_ratio_base": 0.1,
        "noise_ratio_rise": 0.05,
        "mean_cosine_base": 0.8,
        "mean_cosine_fall": 0.02,
        "share_divergence": 0.3,
        "share_divergence_expected": 0.01,
        "mean_shift": None,
        "surged": [],
    }
    assert dict(drift(found)) == {
        "rows": "25 % more",
        "noise": "0.1000 then, +0.050",
        "cosine": "0.8000 then, -0.020",
        "shares": "apart by 0.3000, 0.0100 by chance",
    }
