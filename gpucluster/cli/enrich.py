"""``gpucluster enrich``: what a finished run knows, written into documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gpucluster.cli.changes import usage_error
from gpucluster.cli.render import amount, table
from gpucluster.cli.voice import SETTINGS, Voice, speaking
from gpucluster.enrichment.fields import FIELDS

if TYPE_CHECKING:
    from gpucluster.enriched import Enrichment


@click.command(context_settings=SETTINGS)
@click.argument("path", metavar="RUN")
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME",
    help=f"What documents get, as a column of that name: {', '.join(FIELDS)}, or metadata.NAME of "
    "the labelling; repeatable. Default: cluster_id and label.",
)
@click.option(
    "--map",
    "mappings",
    multiple=True,
    metavar="NAME=COLUMN",
    help="A field under another name, as label=topic; repeatable.",
)
@click.option(
    "--out",
    metavar="DIR",
    help="Folder of its own for the enriched Parquet files. Default: in place, which needs the "
    "manifest of a collection as INPUT.",
)
@click.option("--id-column", metavar="NAME", help="Column of ids. Default: as in the run.")
@click.option(
    "--overwrite", is_flag=True, help="Replace columns that gpucluster has not written, too."
)
@click.option(
    "--batch-rows",
    type=int,
    metavar="N",
    help="Documents that are read at a time, at most. Default: what 32 MB hold.",
)
@click.option(
    "--parallelism",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Files that are written at a time.",
)
@click.option(
    "--undo",
    is_flag=True,
    help="Put back the manifest that a collection had before; name it in the place of RUN.",
)
@speaking
def enrich(voice: Voice, *, path: str, inputs: tuple[str, ...], undo: bool, **options: Any) -> None:
    """Write what a run knows into documents: cluster, label, summary, coordinates ...

    RUN is its folder; of a folder of runs the latest one that found clusters. INPUT are Parquet,
    Arrow or JSONL files, by default those that the run was made of, or the manifest of a
    collection, which is enriched in place: its files are written once more beside it, and it is
    changed over to them in one step.

    Doing it again goes on where it was interrupted. Another run replaces the columns of this one.

    \b
    gpucluster enrich gpucluster-out --field cluster_id --out enriched
    gpucluster enrich gpucluster-out docs.parquet --field cluster_id --out enriched
    gpucluster enrich gpucluster-out docs.parquet --map cluster_id=topic_id --out enriched --json
    """
    if undo:
        if inputs:
            raise usage_error("--undo takes the manifest of a collection, and nothing else")
        from gpucluster.enriched import undo_enrichment

        run_id = undo_enrichment(path)
        voice.answer(
            {"collection": path, "undone": run_id}, lambda: f"{path} is as it was before {run_id}"
        )
        return
    given = list(inputs) if inputs else None
    show_enrichment(voice, enrich_in_sight(voice, path, given, options))


def enrich_in_sight(voice: Voice, run: Any, data: Any, options: dict[str, Any]) -> Enrichment:
    """Enrich documents, interruptible, with progress."""
    from contextlib import closing

    from gpucluster import enriched
    from gpucluster.cli.interrupt import interruptible, typed_command
    from gpucluster.cli.progress import watcher

    names, mapped = options.pop("fields", ()), options.pop("mappings", ())
    if mapped:
        options["field_mappings"] = [
            *({"source_field": name, "target_field": name} for name in names),
            *map(_mapping, mapped),
        ]
    elif names:
        options["fields"] = names
    with closing(watcher(voice)) as observer:
        return interruptible(
            lambda cancel: enriched.enrich(run, data, observer=observer, cancel=cancel, **options),
            hint=f"finished files are kept; go on with: {typed_command()}",
            say=voice.say,
            tick=observer.tick,
        )


def show_enrichment(voice: Voice, done: Enrichment) -> None:
    """Write what was done."""
    voice.answer(done.to_json(), lambda: table(_rows(done)))


def _rows(done: Enrichment) -> Sequence[tuple[str, str]]:
    rows = [
        ("run", done.run_id),
        ("columns", ", ".join(done.columns)),
        ("documents", amount(done.processed)),
        ("enriched", f"{amount(done.enriched)}, {amount(done.num_noise)} of them noise"),
        ("not in the run", amount(done.num_unknown)),
        ("written", f"{amount(len(done.files))} files"),
        ("where", str(done.path)),
    ]
    return rows if done.before is None else [*rows, ("before", str(done.before))]


def _mapping(text: str) -> dict[str, str]:
    source, equals, target = text.partition("=")
    if not equals or not source or not target:
        raise usage_error(f"--map {text}: expected NAME=COLUMN")
    return {"source_field": source, "target_field": target}
