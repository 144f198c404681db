"""``gpucluster inspect``, ``plan`` and ``show``: looking, without doing anything."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gpucluster.cli.exits import exit_code
from gpucluster.cli.render import NONE, amount, duration, gigabytes, number, table
from gpucluster.cli.request import column_options, read_request, request_options
from gpucluster.cli.run import N_CLUSTERS
from gpucluster.cli.voice import SETTINGS, Voice, error_record, speaking
from gpucluster.errors import WillNotFitError
from gpucluster.report.numbers import one_line

if TYPE_CHECKING:
    from gpucluster.planner import Plan
    from gpucluster.sources import Inspection


@click.command(context_settings=SETTINGS)
@click.argument("path")
@column_options
@speaking
def inspect(voice: Voice, path: str, **columns: str | None) -> None:
    """Say what a source holds, what is wrong with it, and how to run on it.

    PATH is a file, a folder or a glob. Defects are counted among its first rows.

    \b
    gpucluster inspect docs.parquet
    gpucluster inspect 'parts/*.parquet' --vector-column emb --json
    """
    from gpucluster import api

    found = api.inspect(path, **columns)
    record = {
        **asdict(found.info),
        "gigabytes": found.gigabytes,
        "sampled_rows": found.sampled_rows,
        "bad_rows": dict(found.bad_rows),
        "duplicate_vectors": found.duplicate_vectors,
        "duplicate_ids": found.duplicate_ids,
        "mean_norm": found.mean_norm,
        "command": list(found.command),
    }
    voice.answer(record, lambda: _inspection_text(found))


@click.command(context_settings=SETTINGS)
@request_options
@speaking
def plan(voice: Voice, **options: Any) -> None:
    """Say what a run would do and cost, without doing it.

    Takes the options of run. Ends with exit code 3 when it will not fit.

    \b
    gpucluster plan docs.parquet
    gpucluster plan docs.parquet --algorithm kmeans --param n_clusters=50 --device cpu
    """
    from gpucluster import api

    request = read_request(options)
    made = api.plan(
        request.data,
        request.definition,
        out=request.out,
        device=request.device,
        storage=request.storage,
        memory_limit=request.memory_limit,
        executor=request.executor,
        scheduler=request.scheduler,
        n_workers=request.n_workers,
        id_column=request.columns["id_column"],
        vector_column=request.columns["vector_column"],
    )
    try:
        made.require_room()
    except WillNotFitError as error:
        refusal = {"fits": False, "error": error_record(error)}
        voice.answer(made.to_dict() | refusal, lambda: _plan_text(made))
        if voice.as_json:  # one object is all that JSON gets
            raise click.exceptions.Exit(exit_code(error)) from error
        raise
    voice.answer(made.to_dict() | {"fits": True}, lambda: _plan_text(made))


@click.command(context_settings=SETTINGS)
@click.argument("path", metavar="RUN")
@click.option(
    "--clusters",
    type=click.IntRange(0),
    default=N_CLUSTERS,
    show_default=True,
    metavar="N",
    help="How many of the largest clusters to list.",
)
@click.option("--verify", is_flag=True, help="Compare every file with its checksum.")
@speaking
def show(voice: Voice, path: str, *, clusters: int, verify: bool) -> None:
    """Show a finished run.

    RUN is its folder.

    \b
    gpucluster show gpucluster-out/run_0123456789abcdef
    gpucluster show gpucluster-out/run_0123456789abcdef --clusters 50 --verify
    """
    from gpucluster import api
    from gpucluster.cli.result import show_run

    show_run(voice, api.open_run(path, verify=verify), clusters)


def _inspection_text(found: Inspection) -> str:
    info = found.info
    bad = [f"{amount(count)} {reason}" for reason, count in found.bad_rows.items() if count]
    repeated = (("vectors", found.duplicate_vectors), ("ids", found.duplicate_ids))
    bad += [f"{amount(count)} {what} twice" for what, count in repeated if count]
    facts = [
        ("files", f"{len(info.paths)} of {info.format}"),
        ("rows", amount(info.n_rows)),
        ("vectors", f"{info.columns.vector or info.format}: {info.n_features} of {info.dtype}"),
        ("size", gigabytes(info.vector_bytes)),
        ("id", info.columns.id or "the number of the row"),
        ("text", info.columns.text or NONE),
        ("truth", info.columns.truth or NONE),
        ("columns", ", ".join(f"{name} ({kind})" for name, kind in info.fields.items()) or NONE),
        ("mean norm", number(found.mean_norm)),
        ("defects", f"{', '.join(bad) or 'none'} in the first {amount(found.sampled_rows)} rows"),
        *(("note", note) for note in info.notes),
        ("run it", shlex.join(found.command)),
    ]
    return table((name, one_line(value)) for name, value in facts)


def _time(plan: Plan) -> str:
    if plan.seconds is None:
        return "not known"
    measured = plan.rates.measured_at
    whose = f"as measured here {measured[:10]}" if measured else "on two cores of another machine"
    return f"about {duration(plan.seconds)}, {whose}"


def _left(plan: Plan) -> str:
    """Say how much memory there is."""
    what = "are free" if plan.room.is_all else "are allowed"
    return f"{gigabytes(plan.room.memory_bytes)} {what}"


def _plan_text(plan: Plan) -> str:
    on_gpu = any(stage.device_bytes for stage in plan.stages)
    rows = [("stage", "device", "method", "memory", *["of the GPU"][:on_gpu], "seconds", "why")]
    rows += [
        (
            stage.name,
            stage.device,
            stage.method,
            gigabytes(stage.bytes),
            *[gigabytes(stage.device_bytes) if stage.device_bytes else NONE][:on_gpu],
            NONE if stage.seconds is None else f"{stage.seconds:.1f}",
            one_line(stage.reason),
        )
        for stage in plan.stages
    ]
    config = plan.definition.vector_config
    params = config.algorithm.model_dump(exclude_unset=True) if config.algorithm else {}
    settings = ", ".join(f"{name}={value}" for name, value in params.items()) or "defaults"
    facts = [
        ("data", f"{amount(plan.n_samples)} rows of {plan.n_features} values"),
        ("steps", ", ".join(step.method for step in config.preprocessing_steps or ()) or "none"),
        ("algorithm", f"{config.clustering_method} ({settings})"),
        ("because", plan.reason),
        ("device", f"{plan.decision.device}: {plan.decision.reason}"),
        ("memory", f"{gigabytes(plan.peak_bytes)}, {_left(plan)}"),
        ("time", _time(plan)),
    ]
    if plan.folder is not None:
        free = f"{gigabytes(plan.room.disk_bytes)} are free in {plan.folder}"
        facts.insert(-1, ("disk", f"{gigabytes(plan.disk_bytes)} for matrices, {free}"))
    facts_text = table((name, one_line(value)) for name, value in facts)
    return f"{table(rows, right=(3, 4, 5)[: 2 + on_gpu])}\n\n{facts_text}"
