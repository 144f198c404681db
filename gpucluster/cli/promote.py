"""``gpucluster promote``: clusters of a finished run become a taxonomy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gpucluster.cli.assign import AUTO, read_threshold
from gpucluster.cli.render import NONE, amount, number, shortened
from gpucluster.cli.render import table as rows_of
from gpucluster.cli.voice import SETTINGS, Voice, speaking

if TYPE_CHECKING:
    from gpucluster.finished import Taxonomy

N_NODES = 20
LISTED = (
    *("node_id", "source_cluster_id", "parent_node_id", "label", "summary", "keywords"),
    *("threshold", "stability", "stability_runs", "num_members"),
)


@click.command(context_settings=SETTINGS)
@click.argument("run", metavar="RUN")
@click.option("--name", required=True, metavar="NAME", help="Of the taxonomy.")
@click.option(
    "--cluster",
    "clusters",
    multiple=True,
    metavar="ID",
    help="A cluster that becomes a node; repeatable. Default: all.",
)
@click.option(
    "--min-stability",
    type=float,
    metavar="S",
    help="Least stability of a node, in [0, 1]; 0.75 and more is called stable. Default: any.",
)
@click.option("--force", is_flag=True, help="Promote clusters below --min-stability as well.")
@click.option("--skip-unstable", is_flag=True, help="Leave clusters below --min-stability out.")
@click.option(
    "--threshold",
    default=AUTO,
    show_default=True,
    metavar="T",
    help="Least cosine similarity of a member, in [-1, 1]; or auto, one for each node.",
)
@click.option("--description", metavar="TEXT", help="What a new taxonomy is about.")
@click.option(
    "--nodes",
    type=click.IntRange(0),
    default=N_NODES,
    show_default=True,
    metavar="N",
    help="How many nodes to show.",
)
@click.option("--out", metavar="DIR", help="Folder of taxonomies. Default: the one that holds RUN.")
@speaking
def promote(
    voice: Voice,
    *,
    run: str,
    name: str,
    clusters: tuple[str, ...],
    min_stability: float | None,
    force: bool,
    skip_unstable: bool,
    threshold: str,
    description: str | None,
    nodes: int,
    out: str | None,
) -> None:
    """Make clusters of a run the nodes of a taxonomy, which documents join from then on.

    RUN is its folder; of a folder of runs the latest one that found or moved clusters.

    A version of a taxonomy never changes, and does not need RUN any more. The same NAME again
    makes the next version. How stable a cluster is, the runs before RUN tell.

    \b
    gpucluster promote gpucluster-out --name topics
    gpucluster promote gpucluster-out --name topics --min-stability 0.75 --force
    gpucluster promote gpucluster-out --name topics --cluster cl_0 --cluster cl_2 --json
    """
    from contextlib import closing

    from gpucluster.cli.interrupt import interruptible, typed_command
    from gpucluster.cli.progress import watcher
    from gpucluster.taxonomies import promote as promote_clusters

    least = read_threshold(threshold)

    def work(cancel: Any) -> Taxonomy:
        return promote_clusters(
            run,
            name,
            cluster_ids=clusters or None,
            min_stability=min_stability,
            force=force,
            skip_unstable=skip_unstable,
            threshold=least,
            description=description,
            out=out,
            observer=observer,
            cancel=cancel,
        )

    with closing(watcher(voice)) as observer:
        hint = f"nothing was promoted; start it again: {typed_command()}"
        found = interruptible(work, hint=hint, say=voice.say, tick=observer.tick)
    for cluster_id, why in found.to_json()["skipped"].items():
        voice.say(f"left out: {cluster_id}, {why}")
    answer = {**found.to_json(), "nodes": found.nodes.select(LISTED).to_pylist()}
    voice.answer(answer, lambda: _text(found, nodes))


def _text(taxonomy: Taxonomy, n_nodes: int) -> str:
    """Return the nodes, and what they are nodes of."""
    rows = [("node", "of", "members", "stability", "threshold", "name")]
    for node in taxonomy.nodes.select(LISTED).slice(0, n_nodes).to_pylist():
        stability, runs = node["stability"], node["stability_runs"]
        rows.append(
            (
                node["node_id"],
                node["source_cluster_id"],
                amount(node["num_members"]),
                NONE if stability is None else f"{stability:.2f} ({runs})",
                f"{node['threshold']:.2f}",
                shortened(node["label"] or NONE),
            )
        )
    rest = len(taxonomy.nodes) - n_nodes
    facts: Any = taxonomy.to_json()
    threshold = facts["threshold"]
    shown = [
        ("taxonomy", taxonomy.name),
        ("version", amount(taxonomy.version)),
        ("nodes", amount(len(taxonomy.nodes))),
        ("threshold", "one for each node" if threshold == AUTO else number(threshold)),
        ("run", facts["source_run_id"]),
        ("files", facts["path"]),
    ]
    more = f"\nand {amount(rest)} more" if rest > 0 else ""
    return f"{rows_of(rows, right=(2, 3, 4))}{more}\n\n{rows_of(shown)}"
