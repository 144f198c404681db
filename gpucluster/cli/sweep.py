"""``gpucluster sweep``: which ``min_cluster_size`` of HDBSCAN to take."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gpucluster.cli.changes import NO_STEPS, usage_error
from gpucluster.cli.render import NONE, amount, number, table
from gpucluster.cli.request import Request, read_request, request_options
from gpucluster.cli.voice import SETTINGS, Voice, speaking

if TYPE_CHECKING:
    from gpucluster.ops.sweep import Sweep
    from gpucluster.preprocess import AnyStep

BAR_WIDTH = 30
DECIDED = ("min_cluster_size", "min_samples")  # what the sweep has found out
_OWN = ("sizes", "as_json", "quiet", "verbose", "no_color")


@click.command(context_settings=SETTINGS)
@request_options
@click.option(
    "--sizes", metavar="A,B", help="Sizes to try. Default: 5 to a twentieth of the rows, by 10 %."
)
@speaking
def sweep(voice: Voice, *, sizes: str | None, **options: Any) -> None:
    """Try every min_cluster_size of hdbscan, from one fit.

    Takes the options of run, and writes no run. A plateau is a range of sizes over which the
    number of clusters stays the same within 10 %; the middle of the widest one is recommended,
    where width counts less when clusters are faint or much is noise.
    At a cliff the number changes by more than a third within 10 % of the size.

    \b
    gpucluster sweep docs.parquet
    gpucluster sweep docs.parquet --sizes 5,10,20,50,100 --json
    gpucluster sweep docs.parquet --algorithm hdbscan --param min_samples=3
    """
    from contextlib import closing

    from gpucluster import api
    from gpucluster.cli.interrupt import interruptible
    from gpucluster.cli.progress import watcher

    request = read_request(options)
    columns: dict[str, Any] = {
        name: request.columns[name] for name in ("id_column", "vector_column")
    }
    data, asked = request.data, _sizes(sizes)
    with closing(watcher(voice)) as observer:
        found = interruptible(
            lambda cancel: api.sweep(
                data,
                request.definition,
                sizes=asked,
                device=request.device,
                observer=observer,
                cancel=cancel,
                **columns,
            ),
            hint="a sweep keeps nothing; start it again",
            say=voice.say,
            tick=observer.tick,
        )
    command = None
    if found.recommended is not None:
        steps = None
        if request.definition.vector_config.clustering_method is None:
            planned = api.plan(data, request.definition, device=request.device, **columns)
            steps = planned.definition.vector_config.preprocessing_steps or ()
        command = [*_command(request, steps), *_params(found)]
    voice.answer(asdict(found) | {"command": command}, lambda: _text(found, command))


def _sizes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise usage_error(f"--sizes {text!r}: expected numbers, as 5,10,20") from error


def _command(request: Request, steps: Sequence[AnyStep] | None) -> Iterator[str]:
    """Yield the words of a run with the options of this command."""
    context = click.get_current_context()
    yield from ("gpucluster", "run")
    config: str | None = context.params["config"]
    yield from context.params["inputs"] if config or request.inputs else ()
    for option in context.command.params:
        name, value = str(option.name), context.params.get(str(option.name))
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not isinstance(option, click.Option) or not typed or name in _OWN:
            continue
        if option.is_flag:
            yield option.opts[0]
            continue
        for each in tuple(value or ()) if option.multiple else (value,):
            if name != "param" or each.partition("=")[0] not in DECIDED:
                yield from (option.opts[0], str(each))
    if steps is not None:  # the plan chose them with the algorithm, which is named now
        yield from ("--algorithm", "hdbscan")
        if context.params["steps"] is None:
            yield from ("--steps", ",".join(step.method for step in steps) or NO_STEPS)
            for step in steps:
                for name, value in step.model_dump(exclude_defaults=True).items():
                    yield from ("--step-param", f"{step.method}.{name}={value}")


def _params(found: Sweep) -> list[str]:
    values = (found.recommended, found.min_samples)
    pairs = zip(DECIDED, values, strict=True)
    return [word for name, value in pairs for word in ("--param", f"{name}={value}")]


def _text(found: Sweep, command: list[str] | None) -> str:
    most = max(row.n_clusters for row in found.rows)
    rows = [("size", "clusters", "noise", "persistence", "", "")]
    rows += [
        (
            amount(row.min_cluster_size),
            amount(row.n_clusters),
            f"{100 * row.noise_ratio:.1f} %",
            number(row.persistence),
            "#" * round(BAR_WIDTH * row.n_clusters / most) if most else "",
            _remark(row.min_cluster_size == found.recommended, row.is_plateau, row.is_cliff),
        )
        for row in found.rows
    ]
    facts = [
        ("min_samples", f"{found.min_samples}, for all sizes"),
        ("recommended", str(found.recommended or "none: there is no plateau")),
        ("run it", NONE if command is None else shlex.join(command)),
    ]
    return f"{table(rows, right=(0, 1, 2, 3))}\n\n{table(facts)}"


def _remark(recommended: bool, plateau: bool, cliff: bool) -> str:  # noqa: FBT001
    said = {"recommended": recommended, "plateau": plateau and not recommended, "cliff": cliff}
    return ", ".join(word for word, holds in said.items() if holds)
