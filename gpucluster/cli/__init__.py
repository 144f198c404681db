"""The command line: parse, call `gpucluster.api`, render.

Commands import what they need when they run, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from gpucluster import __version__
from gpucluster.cli.assign import assign
from gpucluster.cli.classify import classify
from gpucluster.cli.compare import compare
from gpucluster.cli.enrich import enrich
from gpucluster.cli.exits import MEANINGS, Stopped
from gpucluster.cli.history import history
from gpucluster.cli.interrupt import sigterm_raises
from gpucluster.cli.label import label
from gpucluster.cli.look import inspect, plan, show
from gpucluster.cli.machine import completion, config, doctor
from gpucluster.cli.plot import export, plot
from gpucluster.cli.promote import promote
from gpucluster.cli.replies import replies
from gpucluster.cli.report import report as write_report
from gpucluster.cli.run import run
from gpucluster.cli.serve import serve
from gpucluster.cli.sweep import sweep
from gpucluster.cli.voice import leave, report


class _Boundary(click.Group):
    """The group of the commands: whatever they raise becomes one line and an exit code."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> NoReturn:
        argv = list(sys.argv[1:] if args is None else args)
        extra = extra | {"prog_name": "gpucluster", "standalone_mode": False}
        try:
            with sigterm_raises():
                code = super().main(argv, **extra)
        except (Exception, Stopped) as error:  # noqa: BLE001 - the boundary of the process
            code = report(error, argv)
            leave(error, code)
        sys.exit(code)


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001
    if not asked or ctx.resilient_parsing:
        return
    from gpucluster.device.select import decide

    auto = decide("auto")
    python = ".".join(map(str, sys.version_info[:3]))
    click.echo(
        f"gpucluster {__version__} (Python {python}; device auto: {auto.device}, {auto.reason})"
    )
    ctx.exit()


@click.group(
    cls=_Boundary,
    context_settings={"max_content_width": 100},
    invoke_without_command=True,
    epilog="\b\nExit codes:\n" + "\n".join(f"{code:5d}  {text}" for code, text in MEANINGS.items()),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version, Python, and the device that would be chosen.",
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Turn embeddings into structure: prepare, cluster, measure, publish.

    \b
    gpucluster run docs.parquet
    gpucluster run docs.parquet --algorithm kmeans --param n_clusters=50
    gpucluster label gpucluster-out
    gpucluster assign new.parquet --run gpucluster-out
    gpucluster enrich gpucluster-out docs.parquet --field cluster_id --out enriched
    gpucluster plan docs.parquet
    gpucluster sweep docs.parquet
    gpucluster show gpucluster-out/RUN
    gpucluster report gpucluster-out/RUN
    gpucluster plot gpucluster-out map -o map.svg
    gpucluster export gpucluster-out -o map.parquet
    gpucluster compare gpucluster-out/RUN_A gpucluster-out/RUN_B
    gpucluster history gpucluster-out
    gpucluster promote gpucluster-out --name topics
    gpucluster classify new.parquet --taxonomy gpucluster-out
    gpucluster serve --root data

    An option can also be set in the environment: GPUCLUSTER_DEVICE=cpu stands for
    --device cpu. A flag goes before the environment, that before --config, that before
    the default.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


RUNS = (
    *(run, label, assign, enrich, show, write_report, plot, export),
    *(compare, history, promote, classify),
)
OTHERS = (plan, sweep, inspect, replies, serve, doctor, config, completion)
for command in (*RUNS, *OTHERS):
    main.add_command(command)
