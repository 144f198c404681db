"""How long the catalog takes to list, search and count many definitions.

python benchmarks/bench_catalog.py catalog.sqlite
python benchmarks/bench_catalog.py postgresql://localhost/empty --records 100000
"""

from __future__ import annotations

import argparse
import random
import statistics
import string
import time

from gpucluster.service.catalog import open_catalog
from gpucluster.service.catalog.port import Catalog, Query, Record
from gpucluster.sources.filters import Filters

WORDS = ["".join(random.Random(n).choices(string.ascii_lowercase, k=7)) for n in range(2_000)]
STATUSES = ["COMPLETED"] * 90 + ["FAILED"] * 8 + ["PENDING"] * 2
CASES = {
    "newest first": {},
    "behind the 50,000th": {},
    "search, many match": {"search": "a"},
    "search, a few match": {"search": "topics 4711"},
    "search, none match": {"search": "nothing like it"},
    "a status of many": {"status": "COMPLETED"},
    "a status of few": {"status": "PENDING"},
    "sort by name": {"sort": "name", "direction": "asc"},
    "sort by a field": {"sort": "num_clusters", "direction": "asc"},
    "field equals, many": {"filters": {"algorithm": "KMEANS"}},
    "field equals, none": {"filters": {"metadata.team": "none of them"}},
    "field above, few": {"filters": {"field": "num_clusters", "operator": "gt", "value": 998}},
    "field by regex": {
        "filters": {"field": "metadata.team", "operator": "regex", "value": "^zz+$"}
    },
}


def fill(catalog: Catalog, n_records: int) -> None:
    """Write definitions, 1,000 at a time."""
    chance = random.Random(0)
    for start in range(0, n_records, 1_000):
        with catalog.writing() as transaction:
            for n in range(start, min(start + 1_000, n_records)):
                body = {
                    "algorithm": chance.choice(["kmeans", "hdbscan", "dbscan"]),
                    "num_clusters": chance.randrange(1_000),
                    "metadata": {"team": chance.choice(WORDS), "note": " ".join(WORDS[:100])},
                    "input_collections": [f"col_{n % 100}"],
                }
                transaction.create(
                    Record(
                        ns="default", kind="cluster", id=f"clust_{n:08x}", name=f"topics {n}",
                        status=chance.choice(STATUSES), body=body,
                        text=" ".join(chance.choices(WORDS, k=8)),
                    )
                )  # fmt: skip


def measure(catalog: Catalog, repeats: int) -> None:
    """Print medians."""
    for name, given in CASES.items():
        filters = given.get("filters")
        query = Query(
            **{**given, "filters": Filters.model_validate(filters) if filters else None},
            cursor=_far(catalog) if name.startswith("behind") else None,
        )
        paged, counted = [], []
        for _ in range(repeats):
            with catalog.reading() as transaction:
                begun = time.perf_counter()
                transaction.page("default", "cluster", query)
                paged.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                found = transaction.summary("default", "cluster", query)
                counted.append(time.perf_counter() - begun)
        print(
            f"{name:22} page {1e3 * statistics.median(paged):8.1f} ms"
            f"   summary {1e3 * statistics.median(counted):8.1f} ms   of {found.count:,}"
        )


def _far(catalog: Catalog) -> str | None:
    with catalog.reading() as transaction:
        count = transaction.summary("default", "cluster", Query()).count
        return transaction.page("default", "cluster", Query(offset=count // 2)).next_cursor


def main() -> None:
    """Fill a catalog where it is empty, and time what lists ask of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of a catalog; an empty one is filled first")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    catalog = open_catalog(given.url)
    with catalog.reading() as transaction:
        is_empty = not transaction.page("default", "cluster", Query(limit=1)).records
    if is_empty:
        begun = time.perf_counter()
        fill(catalog, given.records)
        print(f"{given.records:,} records written in {time.perf_counter() - begun:.0f} s")
    measure(catalog, given.repeats)
    catalog.close()


if __name__ == "__main__":
    main()
