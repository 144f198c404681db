"""A run as a small table, without script: what a notebook shows of it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpucluster.report.facts import about, measured
from gpucluster.report.numbers import NONE, amount, number

if TYPE_CHECKING:
    from gpucluster.artifacts import Run

N_CLUSTERS = 10
SHOWN = ("silhouette_score", "mean_cosine_to_centroid")
NAME_CHARACTERS = 80


def summary(run: Run) -> str:
    """Return HTML: counts, two metrics, and the largest clusters."""
    metrics = measured({name: run.metrics.get(name) for name in SHOWN})
    facts = [*about(run), *((name.replace("_", " "), value) for name, value in metrics.items())]
    names = ["cluster_id", "label", "num_members", "mean_cosine_similarity", "keywords"]
    table = run.centroids.select(names).slice(0, run.num_clusters)  # those of the first level
    largest = table.sort_by([("num_members", "descending")]).slice(0, N_CLUSTERS).to_pylist()
    rows = [
        (
            each["cluster_id"],
            (each["label"] or ", ".join(each["keywords"] or ()) or NONE)[:NAME_CHARACTERS],
            amount(each["num_members"]),
            number(each["mean_cosine_similarity"]),
        )
        for each in largest
    ]
    more = run.num_clusters - len(rows)
    head = ("cluster", "name", "members", "mean cosine")
    return "".join(
        [
            f"<p><strong>{html.escape(run.run_id)}</strong></p>",
            _table([], facts),
            _table(head, rows) if rows else "",
            f"<p>and {amount(more)} more</p>" if more else "",
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
