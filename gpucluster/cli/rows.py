"""The option that says where the rows of a run are now."""

from __future__ import annotations

import click


def _given(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> str | list[str] | None:
    """Return one input as it is, several as a list; None: where the run found them."""
    return (values[0] if len(values) == 1 else list(values)) if values else None


rows_option = click.option(
    "--data",
    multiple=True,
    allow_from_autoenv=False,  # GPUCLUSTER_DATA is where the benchmarks find theirs
    metavar="INPUT",
    callback=_given,
    help="The rows of RUN, where they are not where they were; repeatable.",
)
