"""``gpucluster compare``: which clusters of two runs are the same, and what became of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from gpucluster.cli.render import NONE, amount, number, share, shortened
from gpucluster.cli.render import table as rows_of
from gpucluster.cli.result import example_texts
from gpucluster.cli.voice import SETTINGS, Voice, speaking
from gpucluster.report.facts import measured

if TYPE_CHECKING:
    from gpucluster.compared import Comparison

N_LINKS = 10  # of each kind


@click.command(context_settings=SETTINGS)
@click.argument("previous", metavar="RUN_A")
@click.argument("current", metavar="RUN_B")
@click.option(
    "--by",
    type=click.Choice(["documents", "centroids"]),
    help="How clusters are matched. Default: by documents, where the runs have some in common.",
)
@click.option(
    "--links",
    type=click.IntRange(0),
    default=N_LINKS,
    show_default=True,
    metavar="N",
    help="How many clusters of each kind to list, those with most documents first.",
)
@click.option("--table", metavar="FILE", help="Write all links to a Parquet file as well.")
@click.option("--plot", metavar="FILE", help="Draw it as well; FILE ends in .png, .svg or .pdf.")
@speaking
def compare(
    voice: Voice,
    *,
    previous: str,
    current: str,
    by: Literal["documents", "centroids"] | None,
    links: int,
    table: str | None,
    plot: str | None,
) -> None:
    """Say what became of the clusters of RUN_A in RUN_B.

    A cluster survived, was split, was merged with others, died, or was born. Those that carry on
    have the same stable id. A run that follows another one of its definition does this by itself;
    its lineage.parquet holds the table.

    \b
    gpucluster compare gpucluster-out/RUN_A gpucluster-out/RUN_B
    gpucluster compare gpucluster-out/RUN_A gpucluster-out/RUN_B --links 100 --table lineage.parquet
    gpucluster compare gpucluster-out/RUN_A gpucluster-out/RUN_B --plot flow.svg
    gpucluster compare gpucluster-out/RUN_A gpucluster-out/RUN_B --json | jq .links
    """
    from gpucluster import finished

    found = finished.compare(previous, current, by=by)
    if table is not None:
        found.to_parquet(table)
    drawn = None if plot is None else str(found.plot(plot))
    record = found.to_dict() | {"links": found.table.to_pylist(), "plot": drawn}
    voice.answer(record, lambda: _text(found, links))
    if drawn is not None:
        voice.say(f"the plot lies in {drawn}")


def _text(found: Comparison, links: int) -> str:
    succession = found.succession
    counts = ", ".join(f"{amount(count)} {kind}" for kind, count in found.counts.items())
    facts = [
        ("before", f"{found.previous.run_id}, {amount(found.previous.num_clusters)} clusters"),
        ("after", f"{found.current.run_id}, {amount(found.current.num_clusters)} clusters"),
        ("shared", f"{amount(succession.num_shared)} documents"),
        ("matched", f"by {succession.matched_by}"),
        ("clusters", counts),
    ]
    agreement = succession.agreement or {}
    if agreement.get("kept") is not None:
        kept, ari = agreement["kept"], agreement["ari"]
        facts.append(("documents", f"{100 * kept:.1f} % keep their cluster, ARI {number(ari)}"))
    before, after = measured(found.previous.metrics), measured(found.current.metrics)
    metrics = [("metric", "before", "after")]
    metrics += [(name, before.get(name, NONE), after.get(name, NONE)) for name in found.metrics]
    parts = [rows_of(facts), _links(found, links), rows_of(metrics, right=(1, 2))]
    return "\n\n".join(filter(None, parts))


def _links(found: Comparison, links: int) -> str:
    """Return the links of the first level, kind by kind, those with most documents first."""
    by_documents = found.succession.matched_by == "documents"
    shares = ("documents", "of before", "of after") if by_documents else ("cosine",)
    rows = [("kind", "before", "after", *shares, "stable id", "example")]
    top = [link for link in found.table.to_pylist() if link["hierarchy_level"] == 0]
    shown: list[Any] = []
    for kind in found.counts:
        of_kind = [link for link in top if link["kind"] == kind]
        of_kind.sort(key=lambda link: -link["num_shared"])
        shown += of_kind[:links]
        if len(of_kind) > links:
            shown.append({"more": len(of_kind) - links})
    examples = _examples(found, shown)
    for link in shown:
        if "more" in link:
            rows.append((f"and {amount(link['more'])} more", *[""] * (len(rows[0]) - 1)))
            continue
        is_current = link["cluster_id"] is not None
        numbers = (
            amount(link["num_shared"]),
            _percent(link["share_of_previous"]),
            _percent(link["share_of_current"]),
        )
        rows.append(
            (
                link["kind"],
                link["previous_cluster_id"] or NONE,
                link["cluster_id"] or NONE,
                *(numbers if by_documents else (number(link["centroid_cosine"]),)),
                link["stable_id"] or NONE,
                examples[link["cluster_id"] or link["previous_cluster_id"], is_current],
            )
        )
    return rows_of(rows, right=(3, 4, 5) if by_documents else (3,)) if len(rows) > 1 else ""


def _examples(found: Comparison, links: list[Any]) -> dict[tuple[str, bool], str]:
    """Return label or example of each cluster, of the current run (True) or of the one before."""
    examples: dict[tuple[str, bool], str] = {}
    for run, of_current in ((found.current, True), (found.previous, False)):
        key = "cluster_id" if of_current else "previous_cluster_id"
        wanted = {link.get(key) for link in links} - {None}
        nodes = run.centroids.select(["cluster_id", "label", "medoid_document_id"]).to_pylist()
        nodes = [node for node in nodes if node["cluster_id"] in wanted]
        texts = example_texts(run, [str(node["medoid_document_id"]) for node in nodes])
        for node in nodes:
            medoid = str(node["medoid_document_id"])
            said = shortened(node["label"] or texts.get(medoid, medoid))
            examples[node["cluster_id"], of_current] = said
    return examples


def _percent(part: float | None) -> str:
    return NONE if part is None else share(round(part * 10_000), 10_000)
