"""Cluster definitions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi import Query as Parameter

from gpucluster.service.calls import Reads, Runs
from gpucluster.service.catalog.port import Query, Record
from gpucluster.service.definitions import TEMPLATE, all_of, as_answer, as_model, shown
from gpucluster.service.description import DEFINITION
from gpucluster.service.executions import as_answer as execution_answer
from gpucluster.service.paging import Pages
from gpucluster.service.refusals import InvalidError
from gpucluster.wire import clusters as wire
from gpucluster.wire.base import ListRequest
from gpucluster.wire.tasks import DeleteResponse

router = APIRouter(prefix="/v1/clusters", tags=["clusters"])
_DESCRIBED = {
    "requestBody": {
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{DEFINITION}"}}},
        "required": True,
    }
}


@router.post("", openapi_extra=_DESCRIBED)
def create_cluster(body: Annotated[dict[str, Any], Body()], call: Runs) -> wire.ClusterMetadata:
    """Keep a definition."""
    given = dict(body)
    template_id = given.pop("template_id", None)
    if template_id is not None and not isinstance(template_id, str):
        raise InvalidError("expected the id or name of a template", loc=["template_id"])
    made = call.service.definitions.create(
        call.ns, call.new_id("cluster"), given, template_id=template_id
    )
    return as_answer(made)


@router.post("/list")
def list_clusters(
    body: wire.ListClustersRequest, pages: Pages, call: Reads
) -> wire.ListClustersResponse:
    """List definitions."""
    sums = ["num_documents_clustered"] if pages.include_total else []
    page, summary = call.service.definitions.page(call.ns, pages.query(body), sums)
    total, n_documents = summary.count, summary.sums.get("num_documents_clustered")
    stats = wire.ClusterListStats(
        total_clusters=total,
        total_documents=None if n_documents is None else int(n_documents),
        avg_documents_per_cluster=None if n_documents is None else n_documents / max(1, total),
        clusters_by_status=dict(summary.by_status),
    )
    return wire.ListClustersResponse(
        results=all_of(page.records),
        pagination=pages.answer(page, total),
        total_count=total,
        stats=stats,
    )


@router.post("/templates", status_code=201)
def create_template(body: wire.CreateTemplateRequest, call: Runs) -> wire.Template:
    """Keep part of a definition, to make others of."""
    made = call.service.definitions.create_template(
        call.ns, call.new_id("template"), body.template_name, body.description, body.definition
    )
    return _template(made)


@router.post("/templates/list")
def list_templates(body: ListRequest, pages: Pages, call: Reads) -> wire.ListTemplatesResponse:
    """List templates."""
    query = pages.query(body)
    with call.service.catalog.reading() as tx:
        page = tx.page(call.ns, TEMPLATE, query)
        total = tx.summary(call.ns, TEMPLATE, query).count
    return wire.ListTemplatesResponse(
        results=[_template(record) for record in page.records],
        pagination=pages.answer(page, total),
        total_count=total,
    )


@router.get("/templates/{template_identifier}")
def get_template(template_identifier: str, call: Reads) -> wire.Template:
    """Show a template."""
    with call.service.catalog.reading() as tx:
        return _template(call.service.definitions.template(tx, call.ns, template_identifier))


@router.delete("/templates/{template_identifier}")
def delete_template(template_identifier: str, call: Runs) -> DeleteResponse:
    """Remove a template; what was made of it stays."""
    with call.service.catalog.writing() as tx:
        found = call.service.definitions.template(tx, call.ns, template_identifier)
        tx.delete(call.ns, TEMPLATE, found.id)
    return DeleteResponse()


@router.get("/{cluster_identifier}")
def get_cluster(cluster_identifier: str, call: Reads) -> wire.ClusterDetail:
    """Show a definition, its latest run, and whether documents know of it."""
    with call.service.catalog.reading() as tx:
        found = call.service.definitions.get(tx, call.ns, cluster_identifier)
        query = Query(parent=found.id, limit=1)
        latest, _ = call.service.executions.page(tx, call.ns, query)
    runs = [execution_answer(record) for record in latest.records]
    fields = {**shown(found), "latest_run": runs[0] if runs else None}
    return wire.ClusterDetail.model_validate(fields)


@router.patch("/{cluster_identifier}")
def patch_cluster(
    cluster_identifier: str, body: wire.PatchClusterRequest, call: Runs
) -> wire.ClusterModel:
    """Change name, description or metadata; what a definition does stays."""
    return as_model(call.service.definitions.patch(call.ns, cluster_identifier, body))


@router.delete("/{cluster_id}")
def delete_cluster(
    cluster_id: str,
    call: Runs,
    delete_artifacts: Annotated[
        bool, Parameter(description="Its runs on disk too; otherwise they stay.")
    ] = False,
) -> wire.DeleteClusterResponse:
    """Remove a definition: live runs are canceled, triggers disabled."""
    return call.service.removal.remove(call.ns, cluster_id, delete_artifacts=delete_artifacts)


def _template(record: Record) -> wire.Template:
    times = {"created_at": record.created_at, "updated_at": record.updated_at}
    return wire.Template.model_validate({**record.body, **times})
