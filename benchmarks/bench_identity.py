"""Ten million documents, and 100,000 clusters of them in each of two runs: what became of them.

That is planted; so are documents that come, go, move to another cluster and become noise.
`recovered` is the share of planted links that are found, with the right fate; `wrong` the share of
found links that were not planted. The same for 100,000 centroids without documents, once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cases import Case
from harness import Session, call, option_parser

STEPS = ("read_s", "ids_s", "overlap_s", "lineage_s", "names_s")
COLUMNS = {
    "by documents": (*STEPS, "seconds", "spread", "base_mb", "peak_mb", "recovered", "wrong_links"),
    "by centroids": ("fit_s", "seconds", "base_mb", "peak_mb", "recovered", "wrong_links"),
}
FATES = {"survived": 0.72, "split": 0.04, "merged": 0.14, "died": 0.1}
LEAST_SIZE = 20
MOST_PARTS = 6
NOISE, GONE, TO_NOISE, MOVED = 0.1, 0.1, 0.1, 0.05  # shares of the documents
TOPICS, DRIFT = 1000, 0.4  # centroids lie around topics; how far each moves, in its length


def plant(out: Path, name: str, n_documents: int, n_clusters: int, seed: int) -> dict[str, Any]:
    """Write two runs, and the links between them as ``{name}.parquet``."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    drawn = np.random.default_rng(seed)
    previous = _run(drawn, int(n_documents * (1 - NOISE)), n_clusters)
    first_end, n_parts, truth = _successors(drawn, n_clusters)
    # the place of a document within its cluster decides to which part it goes
    sizes = np.bincount(previous)
    place = np.arange(len(previous)) - (np.cumsum(sizes) - sizes)[previous]
    part = place * n_parts[previous] // sizes[previous]
    kept = first_end[previous] >= 0
    current = np.where(kept, first_end[previous] + part, -1)
    n_ends = int(current.max()) + 1
    moved = kept & (drawn.random(len(current)) < MOVED)
    current[moved] = drawn.integers(0, n_ends, moved.sum())
    current[kept & (drawn.random(len(current)) < TO_NOISE)] = -1

    # noise of the previous run and new documents make the clusters that are born
    n_noise, n_new = n_documents - len(previous), int(n_documents * GONE)
    fresh = drawn.integers(n_ends, n_clusters, n_noise + n_new)
    fresh[drawn.random(len(fresh)) < 0.3] = -1
    labels = np.concatenate((previous, np.full(n_noise + n_new, -1)))
    targets = np.concatenate((current, fresh))
    order = drawn.permutation(n_clusters)  # clusters have other numbers now
    targets = np.append(order, -1)[targets]
    born = np.arange(n_ends, n_clusters)
    kind, before, after = (
        np.concatenate((each, own))
        for each, own in zip(truth, (["born"] * len(born), born * 0 - 1, born), strict=True)
    )
    links = pa.table({"kind": kind, "previous": before, "current": np.append(order, -1)[after]})
    pq.write_table(links, out / f"{name}.parquet")
    digits = np.frombuffer(drawn.bytes(16 * len(labels)).hex().encode(), np.uint8)
    offsets = np.arange(len(labels) + 1, dtype=np.int32) * np.int32(32)
    ids = pa.Array.from_buffers(
        pa.string(), len(labels), [None, pa.py_buffer(offsets), pa.py_buffer(digits)]
    )
    stays = drawn.random(len(labels)) >= GONE
    stays[n_documents:] = True
    sides = (
        ("previous", np.arange(n_documents), labels),
        ("current", drawn.permutation(np.flatnonzero(stays)), targets),
    )
    for side, rows, clusters in sides:
        table = pa.table({"id": ids.take(pa.array(rows)), "cluster": clusters[rows]})
        pq.write_table(table, out / f"{name}-{side}.parquet", row_group_size=1 << 20)
    return {}


def _run(drawn: Any, n_documents: int, n_clusters: int) -> Any:
    """Return the clusters of documents, sorted; sizes have a heavy tail."""
    import numpy as np

    sizes = drawn.lognormal(sigma=1.0, size=n_clusters)
    sizes *= (n_documents - LEAST_SIZE * n_clusters) / sizes.sum()
    return np.repeat(np.arange(n_clusters), LEAST_SIZE + sizes.astype(np.int64))


def _successors(drawn: Any, n_clusters: int) -> tuple[Any, Any, tuple[Any, Any, Any]]:
    """Return the first cluster that each goes to, to how many from there on, and the links."""
    import numpy as np

    fates = drawn.choice(list(FATES), n_clusters, p=list(FATES.values()))
    merging = np.flatnonzero(fates == "merged")
    fates[merging[len(merging) // 5 * 5 :]] = "survived"
    merging = merging[: len(merging) // 5 * 5]  # by twos and threes
    n_parts = np.ones(n_clusters, np.int64)
    is_split = fates == "split"
    n_parts[is_split] = drawn.integers(2, MOST_PARTS + 1, is_split.sum())
    n_new = np.where(fates == "died", 0, n_parts)
    n_new[merging] = np.tile([1, 0, 1, 0, 0], len(merging) // 5)
    first_end = np.cumsum(n_new) - n_new
    first_end[merging] = np.repeat(
        first_end[merging][n_new[merging] > 0], [2, 3] * (len(merging) // 5)
    )
    first_end[fates == "died"] = -1
    before = np.repeat(np.arange(n_clusters), n_parts)
    part = np.arange(len(before)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    return first_end, n_parts, (fates[before], before, first_end[before] + part)


def plant_centroids(out: Path, name: str, n_clusters: int, n_features: int, seed: int) -> Any:
    """Write the centroids of two runs, and the links between them; a fifth are others."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    drawn = np.random.default_rng(seed)
    topics = drawn.standard_normal((TOPICS, n_features), np.float32)
    previous, others = (
        topics[drawn.integers(0, TOPICS, n_clusters)]
        + drawn.standard_normal((n_clusters, n_features), np.float32)
        for _ in range(2)
    )
    stays = drawn.random(n_clusters) < 0.8
    current = np.where(stays[:, None], previous, others)
    current += np.float32(DRIFT) * drawn.standard_normal(current.shape, np.float32)
    rows = drawn.permutation(n_clusters)
    where = np.argsort(rows)
    links = pa.table(
        {
            "kind": np.repeat(["survived", "died", "born"], [stays.sum(), *2 * [(~stays).sum()]]),
            "previous": np.concatenate(
                (np.flatnonzero(stays), np.flatnonzero(~stays), np.full((~stays).sum(), -1))
            ),
            "current": np.concatenate((where[stays], np.full((~stays).sum(), -1), where[~stays])),
        }
    )
    pq.write_table(links, out / f"{name}.parquet")
    np.save(out / f"{name}-previous.npy", previous)
    np.save(out / f"{name}-current.npy", current[rows])
    return {}


class Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun


def by_documents(_out: Path, folder: str, name: str) -> dict[str, Any]:
    """Relate two runs as files hold them, and say how long each step takes."""
    import numpy as np
    import pyarrow.parquet as pq

    from gpucluster import identity
    from gpucluster.device.memory import PeakMemory

    clock, memory = Clock(), PeakMemory()
    with clock.step("read_s"):
        files = [Path(folder, f"{name}-{side}.parquet") for side in ("previous", "current")]
        tables = [pq.read_table(file) for file in files]
        labels = [table["cluster"].to_numpy().astype(np.int32) for table in tables]
        n_clusters = [int(each.max()) + 1 for each in labels]
    base = memory.read()
    with clock.step("ids_s"):
        rows = identity.shared_rows(*(table["id"] for table in tables))
    with clock.step("overlap_s"):
        aligned = (each[at] for each, at in zip(labels, rows, strict=True))
        overlap = identity.count_overlap(*aligned, *n_clusters)
    with clock.step("lineage_s"):
        lineage = identity.by_documents(overlap)
    with clock.step("names_s"):
        ids = [f"cl_{each}" for each in range(max(n_clusters))]
        identity.stable_ids(lineage.carried, ids[: n_clusters[0]], "run", ids[: n_clusters[1]])
    facts = {
        "base_mb": base / 1e6,
        "n_shared": len(rows[0]),
        "n_pairs": len(overlap.num_shared),
        "counts": lineage.counts,
    }
    return clock.seconds | facts | _found(lineage, Path(folder, f"{name}.parquet"))


def by_centroids(_out: Path, folder: str, name: str) -> dict[str, Any]:
    """Relate two runs by their centroids alone."""
    import numpy as np

    from gpucluster import identity
    from gpucluster.device.memory import PeakMemory

    clock = Clock()
    vectors = [np.load(Path(folder, f"{name}-{side}.npy")) for side in ("previous", "current")]
    base = PeakMemory().read()
    with clock.step("fit_s"):
        lineage = identity.by_centroids(*vectors)
    facts = {"base_mb": base / 1e6, "counts": lineage.counts}
    return clock.seconds | facts | _found(lineage, Path(folder, f"{name}.parquet"))


def _found(lineage: Any, truth: Path) -> dict[str, Any]:
    """Return the share of planted links that are found, in all and by kind."""
    import pyarrow.parquet as pq

    columns = pq.read_table(truth).to_pydict()
    planted = set(zip(columns["kind"], columns["previous"], columns["current"], strict=True))
    arrays = (lineage.kind, lineage.previous, lineage.current)
    found = set(zip(*(each.tolist() for each in arrays), strict=True))
    by_kind = {}
    for kind in sorted({link[0] for link in planted}):
        these = {link for link in planted if link[0] == kind}
        by_kind[kind] = len(these & found) / len(these)
    return {
        "recovered": len(planted & found) / len(planted),
        "wrong_links": len(found - planted) / len(found),
        "recovered_by_kind": by_kind,
        "no_labels": True,
    }


def main() -> None:
    """Measure both ways."""
    parser = option_parser(__doc__, repeats=3)
    parser.add_argument("--quick", action="store_true", help="a hundredth of it; not a result")
    chosen = parser.parse_args()
    chosen.cases = []
    scale = 100 if chosen.quick else 1
    n_documents, n_clusters = 10_000_000 // scale, 100_000 // scale
    documents = Case("documents", n_documents, 0, n_clusters, seed=0)
    centroids = Case("centroids", n_clusters, 384, n_clusters, seed=0)
    with Session("identity", COLUMNS, chosen) as session:
        asked = {"n_documents": n_documents, "n_clusters": n_clusters, "seed": 0}
        session.aside(plant, session.scratch, name=documents.name, **asked)
        way = f"{n_documents:,} documents, {n_clusters:,} clusters"
        where = {"folder": "{scratch}", "name": documents.name}
        session.measure(documents, call(way, by_documents, **where), table="by documents")

        asked = {"n_clusters": n_clusters, "n_features": 384, "seed": 0}
        session.aside(plant_centroids, session.scratch, name=centroids.name, **asked)
        chosen.repeats = 1
        way = f"{n_clusters:,} centroids x 384"
        where = {"folder": "{scratch}", "name": centroids.name}
        session.measure(centroids, call(way, by_centroids, **where), table="by centroids")


if __name__ == "__main__":
    main()
