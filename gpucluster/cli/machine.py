"""``gpucluster doctor``, ``config`` and ``completion``: about the machine and the settings."""

from __future__ import annotations

from typing import Any

import click

from gpucluster.api import DEFAULT_OUT
from gpucluster.cli.changes import flatten, origin
from gpucluster.cli.request import COLUMNS, read_request, request_options
from gpucluster.cli.voice import SETTINGS, Voice, speaking


@click.command(context_settings=SETTINGS)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Measure this machine first, some seconds, and keep what it does in a second: the times "
    "that plan predicts follow it.",
)
@click.option(
    "--out", metavar="DIR", default=DEFAULT_OUT, show_default=True, help="Whose disk is measured."
)
@speaking
def doctor(voice: Voice, *, calibrate: bool, out: str) -> None:
    """Check what gpucluster needs, and say how to mend what is wrong.

    Ends with 3 when something necessary is missing.

    \b
    gpucluster doctor
    gpucluster doctor --calibrate
    gpucluster doctor --json
    """
    from gpucluster.cli.checks import examine
    from gpucluster.cli.exits import CANNOT
    from gpucluster.cli.render import table
    from gpucluster.places import disk_of, place

    if calibrate:
        from gpucluster.device.rates import calibrate as measure

        measure(disk_of(place(out)))
    checks = examine()
    record = {"checks": [vars(check) for check in checks], "ok": all(c.ok for c in checks)}
    rows = []
    for check in checks:
        rows.append((check.name, check.value))
        if check.fix:
            rows.append(("", f"fix: {check.fix}"))
    voice.answer(record, lambda: table(rows))
    if not record["ok"]:
        raise click.exceptions.Exit(CANNOT)


@click.group(context_settings=SETTINGS, invoke_without_command=True)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Show definitions: their schema, and what would be used.

    \b
    gpucluster config schema > schema.json
    gpucluster config show topics.yaml --param n_clusters=50 --origin
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@config.command(context_settings=SETTINGS)
@speaking
def schema(voice: Voice) -> None:
    """Print the JSON Schema of a definition.

    \b
    gpucluster config schema > schema.json
    """
    from gpucluster.definition import definition_schema

    voice.answer(definition_schema())


@config.command("show", context_settings=SETTINGS)
@request_options
@click.option("--origin", "origins", is_flag=True, help="Say where each value comes from.")
@speaking
def show_config(voice: Voice, *, origins: bool, **options: Any) -> None:
    """Print the definition that run would use with the same options.

    The output is a definition itself.

    \b
    gpucluster config show --algorithm kmeans --param n_clusters=50 > topics.json
    gpucluster config show topics.yaml --origin
    """
    import json

    from gpucluster.cli.render import table

    request = read_request(options)
    definition = request.definition.with_seeds().to_dict()
    if not origins:
        voice.answer(definition)
        return
    sources = {path: request.origins.get(path, "default") for path, _ in flatten(definition)}
    for path in sources:
        if path.endswith(".random_state") and path not in request.origins:
            sources[path] = sources["random_state"]
    values = [(path, value, sources[path]) for path, value in flatten(definition)]
    values += [(name, options[name], origin(name)) for name in ("device", "out", "fresh", *COLUMNS)]
    voice.answer(
        {path: {"value": value, "origin": source} for path, value, source in values},
        lambda: table((path, json.dumps(value), source) for path, value, source in values),
    )


@click.command(context_settings=SETTINGS)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands and options in a shell.

    \b
    gpucluster completion bash >> ~/.bashrc
    gpucluster completion zsh >> ~/.zshrc
    gpucluster completion fish > ~/.config/fish/completions/gpucluster.fish
    """
    from click.shell_completion import get_completion_class

    group = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(group, {}, "gpucluster", "_GPUCLUSTER_COMPLETE").source())
