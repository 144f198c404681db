"""What reports take: bytes, seconds to write, to the first frame, and of a frame of panning.

python benchmarks/bench_report.py
python benchmarks/bench_report.py banking77 1000000 --keep /tmp/reports

A name is a labelled set, clustered as no options do, with coordinates; a number is of points that
a seed determines, written as the pipeline writes runs. Each report is opened several times in
headless Chromium without a GPU, each time with a new profile, and medians are kept. Needs
playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cases import CASES, real_path

import gpucluster
from gpucluster.artifacts import LocalStore, publish, schema, write_files
from gpucluster.artifacts.manifest import Counts, Manifest
from gpucluster.device.select import Decision

HERE = Path(__file__).parent
USUAL = ("banking77", "clinc150", "fashion_mnist", "100000", "1000000", "5000000")
CLUSTERS = 300
WORDS = np.array(
    [
        "account",
        "balance",
        "transfer",
        "card",
        "money",
        "refund",
        "exchange",
        "rate",
        "fee",
        "cash",
        "travel",
        "hotel",
        "flight",
        "order",
        "pizza",
        "music",
        "weather",
        "alarm",
        "calendar",
        "meeting",
        "report",
        "invoice",
        "contract",
        "lawyer",
        "doctor",
    ]
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FRAMES = 20
# Move the map with each frame; return the seconds that a frame took, and until all was drawn.
PAN = """async (frames) => {
  const canvas = document.querySelector("canvas");
  const frame = () => new Promise(requestAnimationFrame);
  const took = [];
  let before = await frame();
  for (let i = 0; i < frames; i++) {
    const key = i % 2 ? "ArrowLeft" : "ArrowRight";
    canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const now = await frame();
    took.push((now - before) / 1000);
    before = now;
  }
  while (canvas.dataset.due !== undefined) await frame();
  return { frames: took, rest: (performance.now() - before) / 1000 };
}"""


def make_run(folder: Path, n_rows: int, n_clusters: int) -> gpucluster.Run:
    """Write documents, and a run of them with coordinates in the plane."""
    rng = np.random.default_rng(0)
    labels = np.minimum(rng.zipf(1.4, n_rows), n_clusters + 1).astype(np.int32) - 2  # 1: noise
    labels = np.where(labels == n_clusters - 1, rng.integers(-1, n_clusters, n_rows), labels)
    labels = labels.astype(np.int32)
    centers = rng.normal(size=(n_clusters, 2)) * 20
    spread = np.where(labels < 0, 15, 0.8)[:, None]
    at = np.where(labels[:, None] < 0, 0, centers[labels]) + rng.normal(size=(n_rows, 2)) * spread
    similarity = rng.beta(9, 3, n_rows).astype(np.float32)
    ids = pa.array([f"doc-{row:08d}" for row in range(n_rows)])
    words = WORDS[rng.integers(0, len(WORDS), (n_rows, 9))]
    documents = {
        "document_id": ids,
        "text": [" ".join(row) for row in words],
        "topic": pa.array(labels // 3).cast(pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(at.astype(np.float32).ravel()), 2),
    }
    pq.write_table(pa.table(documents), folder / "docs.parquet")
    tables = {
        "members": schema.members_table(
            ids,
            np.arange(n_rows),
            labels,
            paths=schema.flat_paths(n_clusters),
            similarity=similarity,
            nearest=np.maximum(labels, 0),
            nearest_similarity=similarity,
            assigned_by=["fit"] * n_rows,
            coordinates=at.astype(np.float32),
        ),
        "centroids": schema.centroids_table(
            centers.astype(np.float32),
            np.bincount(labels[labels >= 0], minlength=n_clusters),
            paths=schema.flat_paths(n_clusters),
            mean_similarity=np.full(n_clusters, 0.75, np.float32),
            min_similarity=np.full(n_clusters, 0.1, np.float32),
            variance=np.full(n_clusters, 0.4, np.float32),
            medoid_ids=ids.slice(0, n_clusters),
            algorithm="kmeans",
            run_id="run_large",
            keywords=[list(WORDS[rng.permutation(len(WORDS))[:6]]) for _ in range(n_clusters)],
        ),
        "rejected": schema.rejected_table(
            pa.table({"document_id": pa.array([], pa.string()), "row": [], "reason": []})
        ),
    }
    now = datetime.now(UTC)
    store = LocalStore(folder)
    with store.lease("run_large"):
        files = write_files(store, "run_large", tables=tables, provenance={})
        columns = {"id": "document_id", "vector": "embedding", "text": "text", "truth": "topic"}
        publish(
            store,
            Manifest(
                run_id="run_large",
                created_at=now,
                completed_at=now,
                gpucluster_version=gpucluster.__version__,
                versions={},
                definition={"cluster_name": "a large run"},
                definition_sha256="0" * 64,
                data_sha256="1" * 64,
                random_state=42,
                source={
                    "paths": [str(folder / "docs.parquet")],
                    "columns": columns,
                    "n_rows": n_rows,
                },
                counts=Counts(
                    num_rows=n_rows,
                    num_points=n_rows,
                    num_rejected=0,
                    num_clusters=n_clusters,
                    num_noise=int((labels < 0).sum()),
                ),
                metrics={},
                stages=(),
                device=Decision("cpu", "cpu", "asked for"),
                reproducible="exact",
                files=files,
            ),
        )
    return gpucluster.open_run(folder / "run_large")


def in_a_browser(file: Path, profile: Path) -> dict[str, Any]:
    """Open a report; return seconds to its first frame, to all of it, and of frames of panning."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, PROGRAMS)))
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=program, headless=True, args=["--no-sandbox"]
        )
        page = context.new_page()
        page.set_viewport_size({"width": 1280, "height": 860})
        begun = time.perf_counter()
        page.goto(file.as_uri(), wait_until="commit")
        page.wait_for_selector("canvas[data-drawn]:not([data-drawn='0'])", timeout=60_000)
        first = time.perf_counter() - begun
        page.wait_for_selector("[data-done]", timeout=60_000)
        whole = time.perf_counter() - begun
        panned = page.evaluate(PAN, FRAMES)
        context.close()
    return {
        "first_frame_s": first,
        "done_s": whole,
        "pan_frame_s": statistics.median(panned["frames"]),
        "pan_worst_s": max(panned["frames"]),
        "at_rest_s": panned["rest"],
    }


def measured(case: str, repeats: int, keep: Path | None) -> dict[str, Any]:
    """Make a run, write its report, open it `repeats` times; return the row of a result."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if case.isdigit():
            run = make_run(folder, int(case), CLUSTERS)
        else:
            fields = {"dimension_reduction": {"method": "umap", "components": 2}}
            run = gpucluster.cluster(
                real_path(CASES[case]), out=folder, device="cpu", truth_column="label", **fields
            )
        begun = time.perf_counter()
        file = run.report(folder / "report.html")
        written = time.perf_counter() - begun
        opened = [in_a_browser(file, folder / f"profile{n}") for n in range(repeats)]
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, keep / f"{case}.html")
        return {
            "case": case,
            "points": run.manifest.counts.num_points,
            "clusters": run.num_clusters,
            "bytes": file.stat().st_size,
            "write_s": written,
            **{key: statistics.median(each[key] for each in opened) for key in opened[0]},
            "repeats": repeats,
        }


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=USUAL, metavar="CASE")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the reports are left")
    given = parser.parse_args()
    rows = []
    for case in given.cases:
        rows.append(measured(case, given.repeats, given.keep))
        print(json.dumps(rows[-1]), flush=True)
    given.results.mkdir(exist_ok=True)
    result = {
        "benchmark": "report",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.record(),
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    (given.results / f"report-{datetime.now(UTC):%Y-%m-%d}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
