"""``gpucluster label``: names for the clusters of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import click

from gpucluster.cli.changes import assignment, usage_error
from gpucluster.cli.render import amount, table
from gpucluster.cli.rows import rows_option
from gpucluster.cli.run import N_CLUSTERS
from gpucluster.cli.voice import SETTINGS, Voice, speaking
from gpucluster.labeling.settings import LabelingSettings, Provider
from gpucluster.notation import nearest

if TYPE_CHECKING:
    from gpucluster.finished import Run
    from gpucluster.labeling.asking.spending import Usage


@click.command(context_settings=SETTINGS)
@click.argument("path", metavar="RUN")
@click.option("--config", metavar="FILE", help="Definition whose llm_labeling says how.")
@click.option(
    "--provider",
    type=click.Choice(get_args(Provider)),
    help="Who names. Default: read off --model or --base-url; keywords without either.",
)
@click.option("--model", metavar="NAME", help="Model of the provider.")
@click.option("--base-url", metavar="URL", help="Where an OpenAI-compatible server listens.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="K=V",
    help="Any other setting of llm_labeling, as JSON or text; repeatable.",
)
@click.option(
    "--text-column",
    metavar="NAME",
    help="Column that is shown and that keywords are taken from, where no inputs are mapped.",
)
@rows_option
@click.option("--dry-run", is_flag=True, help="Say what it would cost, and ask nobody.")
@click.option("--budget-usd", type=float, metavar="X", help="What it may cost at most.")
@click.option(
    "--concurrency",
    type=int,
    default=16,
    show_default=True,
    metavar="N",
    help="Questions on their way at a time.",
)
@click.option("--fresh", is_flag=True, help="Ask everything anew, whatever was asked before.")
@speaking
def label(
    voice: Voice,
    *,
    path: str,
    config: str | None,
    text_column: str | None,
    data: str | list[str] | None,
    dry_run: bool,
    budget_usd: float | None,
    concurrency: int,
    fresh: bool,
    **options: Any,
) -> None:
    """Name the clusters of a run: offline by keywords, or by a model.

    RUN is its folder; of a folder of runs the latest one that found clusters.

    Doing it again resumes an interrupted labelling; no reply is paid for twice. Where a model
    does not answer, clusters get a fallback label, and the exit code is 4.

    \b
    gpucluster label gpucluster-out
    gpucluster label gpucluster-out --model gpt-4o-mini --dry-run
    gpucluster label gpucluster-out --base-url http://localhost:8080/v1 --model llama3.2
    gpucluster label gpucluster-out --config topics.yaml --budget-usd 2 --concurrency 32
    """
    from contextlib import closing

    from gpucluster import finished
    from gpucluster.cli.interrupt import interruptible, typed_command
    from gpucluster.cli.progress import watcher
    from gpucluster.cli.result import leave_partial, show_run

    given, changes = _settings(config, options)
    shared: dict[str, Any] = {
        "data": data,
        "text_column": text_column,
    }

    def work(cancel: Any) -> Usage | Run:
        if dry_run:
            return finished.estimate_labels(
                path, given, fresh=fresh, observer=observer, cancel=cancel, **shared, **changes
            )
        return finished.label(
            path,
            given,
            budget_usd=budget_usd,
            concurrency=concurrency,
            fresh=fresh,
            observer=observer,
            cancel=cancel,
            **shared,
            **changes,
        )

    with closing(watcher(voice)) as observer:
        hint = f"replies are kept; resume with: {typed_command()}"
        found = interruptible(work, hint=hint, say=voice.say, tick=observer.tick)
    if not isinstance(found, finished.Run):
        voice.answer({"estimate": found.to_json()}, lambda: _estimate_text(found))
        return
    show_run(voice, found, N_CLUSTERS)
    leave_partial(voice, found)


def _settings(
    config: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the block of the definition, if there is one, and what options change."""
    from gpucluster.definition import ClusterDefinition
    from gpucluster.dialects import read_body

    block = None
    if config is not None:
        named = ClusterDefinition.parse(read_body(config)).llm_labeling
        if named is None:
            raise usage_error(f"--config {config}: it has no llm_labeling")
        block = {name: getattr(named, name) for name in named.model_fields_set}
    flags = {"provider": "provider", "model_name": "model", "base_url": "base_url"}
    changes = {name: options[flag] for name, flag in flags.items() if options[flag] is not None}
    for change in options["changes"]:
        name, value = assignment("--set", change)
        if name not in LabelingSettings.model_fields:
            known = nearest(name, LabelingSettings.model_fields)
            raise usage_error(f"--set {name}: unknown setting. {known or 'see docs/config.md'}")
        changes[name] = value
    return block, changes


def _estimate_text(found: Usage) -> str:
    return table(
        [
            ("calls", amount(found.calls)),
            ("tokens sent", f"about {amount(found.input_tokens)}"),
            ("tokens received", f"about {amount(found.output_tokens)}"),
            (
                "cost",
                "not known: set prices" if found.usd is None else f"about {found.usd:.4f} USD",
            ),
        ]
    )
