"""A run from source to manifest: the stages in order, on one page.

    load -> prepare (one stage a step) -> cluster -> [divide] -> [display] -> measure
         -> calibrate -> [assign the rest] -> [identify] -> write

Fitted preparation and labels are checkpointed under a digest of all that determines them,
so that doing a run again resumes it. Loading and measuring are not: reading their result
back would take as long as computing it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from gpucluster.artifacts import Checkpoints, Run, open_store
from gpucluster.definition import ClusterDefinition
from gpucluster.device.cores import at_most
from gpucluster.device.executor import Executor
from gpucluster.device.select import Decision
from gpucluster.device.storage import Room
from gpucluster.device.worker import Worker
from gpucluster.events import CancelToken, Observer, Reporter, RunOpened, hearing_compilations
from gpucluster.ledger import Ledger
from gpucluster.membership import Members, join_rest, over_all, place_samples
from gpucluster.metrics.external import compare_levels, compare_with_truth
from gpucluster.metrics.quality import Measured
from gpucluster.ops.nesting import labels_at
from gpucluster.ops.normalize import lies_far
from gpucluster.places import Place
from gpucluster.planner import make_plan
from gpucluster.publication import Result, publish_result
from gpucluster.routes import Grouped, group_rows, one_space
from gpucluster.sources import (
    CudfDecoder,
    Source,
    SourceInfo,
    Staging,
    content_key,
    input_key,
    load,
    read_attributes,
    stream_key,
    table_key,
)
from gpucluster.stages import check_same, digest, display
from gpucluster.succession import Clusters, Succession, definition_key, follow, runs_before
from gpucluster.trained import train
from gpucluster.types import Samples


def run_pipeline(
    source: Source,
    definition: ClusterDefinition,
    *,
    out: Place,
    decision: Decision,
    room: Room,
    executor: Executor,
    observer: Observer,
    cancel: CancelToken,
    fresh: bool,
    text_column: str | None = None,
    related: Sequence[Run] = (),
    previous: Run | Literal["auto"] | None = "auto",
    run_id: str | None = None,
) -> Run:
    """Run `definition` on `source` and publish the result below `out`.

    Parameters
    ----------
    source : Source
    definition : ClusterDefinition
    out : Path
        Folder of runs; the run's own folder is named by a digest of data and definition.
    decision : Decision
    room : Room
        What it may take of memory, and of the disk of `out`.
    executor : Executor
        Who schedules the work on rows.
    observer : Observer
    cancel : CancelToken
    fresh : bool
        Compute everything anew, under a name of its own.
    text_column : str, optional
        Noted in the manifest, for whoever shows documents.
    related : sequence of Run, optional
        Of other features of the same documents; the manifest says how clusters overlap.
    previous : Run, "auto" or None
        Whose clusters are followed; ``auto``: those of the latest run of this definition in
        `out` that has enough documents of this one.
    run_id : str, optional
        Its name, instead of that digest.

    Returns
    -------
    Run
        A finished run of the same data and definition is returned as it is.

    Raises
    ------
    ConfigError
        The run of that name is of other data.
    """
    info = source.info
    plan = make_plan(definition, info.n_rows, info.n_features, decision, info.blocks, room=room)
    if definition.filters is None:  # how many rows match is known when they are read
        plan.require_room()
    ledger = Ledger(Reporter("", observer, cancel), plan)
    _say_what_differs(definition, info, ledger.reporter)
    with (
        executor.fleet(room.folder, decision) as ledger.fleet,
        _staging(ledger, source, definition, out) or nullcontext() as staging,
    ):
        return _run(
            *(ledger, source, definition, decision, room, out, staging),
            fresh=fresh,
            text_column=text_column,
            related=related,
            previous=previous,
            run_id=run_id,
        )


def _run(
    ledger: Ledger,
    source: Source,
    definition: ClusterDefinition,
    decision: Decision,
    room: Room,
    out: Place,
    staging: Staging | None,
    *,
    fresh: bool,
    text_column: str | None,
    related: Sequence[Run],
    previous: Run | Literal["auto"] | None,
    run_id: str | None,
) -> Run:
    """Go through the stages; what is given is that of `run_pipeline`."""
    info, reporter = source.info, ledger.reporter
    observer = reporter.observer
    samples, attributes, data_key, facts, is_staged = _read(
        ledger, source, definition, staging, fresh=fresh
    )
    matching = info.n_rows - samples.num_filtered
    ledger.plan = make_plan(
        *(definition, matching, info.n_features, decision, info.blocks),
        n_samples=len(samples.X),
        room=room,
        is_far=lies_far(samples.X, is_unit=definition.vector_config.normalize_features),
    )
    ledger.plan.require_room()
    for warned in ledger.plan.warnings:
        reporter.repeat(warned)
    complete = ledger.plan.definition

    facts |= {"used": complete.deciding(), "device": decision.allowed}
    if related:
        facts["related"] = [run.run_id for run in related]
    if fresh:
        facts["salt"] = time.time_ns()
    run_id = run_id or "run_" + digest(data_key, **facts)[:16]
    observer(RunOpened(run_id, str(out / run_id)))
    finished = Run.if_finished(out / run_id)
    if finished is not None:
        used = ClusterDefinition.parse(finished.manifest.definition).deciding()
        theirs = finished.manifest.data_sha256, used
        check_same(run_id, is_same=theirs == (data_key, complete.deciding()))
        _say_who_is_followed(finished, previous, reporter)
        return finished
    store = open_store(out)
    cores = at_most(ledger.plan.n_threads)
    with store.lease(run_id), hearing_compilations(observer), Worker() as worker, cores:
        finished = Run.if_finished(out / run_id)  # by whoever had the lease before
        if finished is not None:
            return finished
        ledger.checkpoints = None if fresh else Checkpoints(store, run_id)
        ledger.worker = worker
        key, weights = one_space(
            *(ledger, complete, samples.X, info.blocks, data_key), is_done=is_staged
        )
        if staging is not None and not is_staged:
            staging.keep(samples, {"data_key": data_key, "input": facts["input"]}, reporter)
        grouped = group_rows(ledger, complete, source, samples, key, weights, attributes)
        coordinates = display(ledger, complete, samples.X, grouped.key)
        with ledger.stage("measure", backend="numpy") as stage_reporter:
            members, measured = place_samples(ledger, complete, samples, grouped, stage_reporter)
        trained, facts_of_assignment = None, None
        if complete.cluster_type == "vector":
            with ledger.stage("calibrate", backend="numpy") as stage_reporter:
                trained, facts_of_assignment = train(
                    ledger, complete, samples, grouped, measured, stage_reporter
                )
        rejected = samples.rejected
        if complete.vector_config.sample_mode == "fit_then_assign" and samples.is_sample:
            with ledger.stage("assign", backend="numpy") as stage_reporter:
                members, rejected = join_rest(
                    ledger, complete, source, samples, grouped, members, measured, stage_reporter
                )
            measured = replace(measured, metrics=measured.metrics | over_all(members))
        key = definition_key(definition)
        before = _before(out, key, run_id, previous)
        followed = _follow(ledger, before, run_id, members, grouped, measured, definition, previous)
        result = Result(
            run_id=run_id,
            definition=complete,
            data_key=data_key,
            samples=samples,
            text_column=text_column,
            grouped=grouped,
            members=members,
            rejected=rejected,
            measured=measured,
            trained=trained,
            assignment=facts_of_assignment,
            external=_external(members, grouped),
            coordinates=coordinates,
            related=tuple(related),
            definition_key=key,
            followed=followed,
        )
        publish_result(store, ledger, result)
    return Run.open(out / run_id)


def _say_who_is_followed(
    finished: Run, previous: Run | Literal["auto"] | None, reporter: Reporter
) -> None:
    """Warn where a finished run follows another run than the one that is named now."""
    follows = (finished.manifest.lineage or {}).get("previous_run_id")
    if previous != "auto" and follows != getattr(previous, "run_id", None):
        reporter.fallback(
            "previous_ignored",
            f"{finished.run_id} was finished before and follows {follows or 'no run'}; "
            "compute it anew (fresh) to follow another one",
        )


def _before(
    out: Place, key: str, run_id: str, previous: Run | Literal["auto"] | None
) -> Iterator[Run]:
    """Yield the runs that this one may follow, the likeliest first."""
    if previous == "auto":
        yield from runs_before(out, key, run_id)
    elif previous is not None:
        yield previous


def _follow(
    ledger: Ledger,
    candidates: Iterator[Run],
    run_id: str,
    members: Members,
    grouped: Grouped,
    measured: Measured,
    definition: ClusterDefinition,
    previous: Run | Literal["auto"] | None,
) -> tuple[Run, Succession] | None:
    """Find out which clusters are those of a run before."""
    first = next(candidates, None)
    if first is None:
        return None
    with ledger.stage("identify", backend="numpy") as reporter:
        clusters = Clusters(
            run_id=run_id,
            ids=members.ids.cast(pa.string()),
            labels=members.labels,
            parents=grouped.nodes.parents,
            centroids=measured.centroids,
        )
        sure = previous != "auto" or definition.cluster_name is not None
        found = follow(chain([first], candidates), clusters, reporter, sure=sure)
        if found is None and isinstance(previous, Run):
            reporter.fallback(
                "previous_not_followed",
                f"{previous.run_id} has centroids of another dimension and too few of these "
                "documents: no cluster is one of its",
            )
        return found


def _external(members: Members, grouped: Grouped) -> dict[str, Any] | None:
    """Compare the clusters with the truth, where that was given."""
    if members.truth is None:
        return None
    nodes = replace(grouped.nodes, labels=members.labels)
    roots = labels_at(members.labels, nodes.parents, 0)
    levels = compare_levels(nodes, members.truth)
    return compare_with_truth(roots, members.truth) | levels


def _staging(
    ledger: Ledger, source: Source, definition: ClusterDefinition, out: Place
) -> Staging | None:
    """Return where samples are staged: those of files, where matrices lie on disk beside runs."""
    config = definition.vector_config
    weights_are_learned = (
        config.multi_feature_strategy == "weighted" and config.feature_weights is None
    )
    if ledger.site is None or not isinstance(out, Path) or not source.info.paths:
        return None
    if definition.cluster_type == "attribute" or weights_are_learned:
        return None
    key = digest(
        stream_key(source),
        loaded={name: str(value) for name, value in _asked(definition).items()},
        normalized=config.normalize_features,
        strategy=config.multi_feature_strategy,
        weights=config.feature_weights,
    )
    return Staging(out, key)


def _asked(definition: ClusterDefinition) -> dict[str, Any]:
    """Return what decides which samples are loaded."""
    return {
        "on_bad_rows": definition.on_bad_rows,
        "max_bad_fraction": definition.max_bad_fraction,
        "sample_size": definition.vector_config.sample_size,
        "random_state": definition.random_state,
        "filters": definition.filters,
        "digest_all": definition.vector_config.sample_mode == "fit_then_assign",
    }


def _read(
    ledger: Ledger,
    source: Source,
    definition: ClusterDefinition,
    staging: Staging | None,
    *,
    fresh: bool,
) -> tuple[Samples, pa.Table | None, str, dict[str, Any], bool]:
    """Load the samples, and the attributes they are grouped by.

    Returns besides a digest of ids and vectors, what else of the input tells runs apart, and
    whether the samples were staged, weighted and scaled.
    """
    with ledger.stage("load", backend="pyarrow") as reporter:
        site = ledger.site
        if staging is not None and site is not None:
            staged = None if fresh else staging.get(site)
            if staged is not None:
                ledger.note(reused=True)
                facts = {"input": staged.facts["input"]}
                return staged.samples, None, staged.facts["data_key"], facts, True
            site = staging.begin(site)
        decoder = CudfDecoder(ledger.plan.decision, reporter)
        samples = load(decoder.of(source), **_asked(definition), site=site, reporter=reporter)
        ledger.note(**decoder.account())
        if not samples.is_sample:  # no more rows match than a sample would have
            ledger.note(method="exact")
        data_key = content_key(samples)
        facts = {"input": input_key(samples, data_key)}
        if definition.attribute_config is None:
            return samples, None, data_key, facts, False
        table = read_attributes(source, definition.attribute_config.attributes)
        attributes = table.take(pa.array(samples.rows))
        facts["attributes"] = table_key(attributes)
        return samples, attributes, data_key, facts, False


def _say_what_differs(definition: ClusterDefinition, info: SourceInfo, reporter: Reporter) -> None:
    """Warn, before any work, of what will not be as the definition says."""
    outputs = definition.vector_config.feature_outputs
    for output in outputs if len(outputs) == 1 else ():  # several must have their own columns
        if info.feature is None and info.columns.vector not in {None, output}:
            reporter.fallback(
                "feature_column",
                f"{info.where} has no column {output!r}: {info.columns.vector!r} is used instead",
            )
