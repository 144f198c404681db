"""Triggers."""

from __future__ import annotations

from fastapi import APIRouter

from gpucluster.service.calls import Reads, Runs
from gpucluster.wire import triggers as wire

router = APIRouter(prefix="/v1", tags=["triggers"])
ONE = "/clusters/triggers/{trigger_id}"


@router.post("/clusters/triggers", status_code=201)
def create_trigger(body: wire.CreateTriggerRequest, call: Runs) -> wire.TriggerCreated:
    """Start executions at times, after events, or when a number says so."""
    call.is_secret = isinstance(body.schedule_config, wire.CustomSchedule)
    trigger_id, cluster_id = call.new_id("trigger"), call.new_id("cluster")
    return call.service.triggers.create(
        *(call.ns, trigger_id, body), cluster_id=cluster_id, created_by=call.token.token_id
    )


@router.post("/clusters/triggers/list")
def list_triggers(body: wire.ListTriggersRequest, call: Reads) -> wire.ListTriggersResponse:
    """List triggers."""
    return call.service.triggers.list(call.ns, body)


@router.get(ONE)
def get_trigger(trigger_id: str, call: Reads) -> wire.TriggerModel:
    """Show a trigger, and how it fared."""
    return call.service.triggers.get(call.ns, trigger_id)


@router.patch(ONE)
def patch_trigger(
    trigger_id: str, body: wire.UpdateTriggerRequest, call: Runs
) -> wire.TriggerModel:
    """Change schedule, description or status."""
    return call.service.triggers.patch(call.ns, trigger_id, body)


@router.delete(ONE, status_code=204)
def delete_trigger(trigger_id: str, call: Runs) -> None:
    """Remove a trigger; what it started stays."""
    call.service.triggers.delete(call.ns, trigger_id)


@router.post(f"{ONE}/pause")
def pause_trigger(trigger_id: str, call: Runs) -> wire.TriggerModel:
    """Let it start nothing until it is resumed."""
    return call.service.triggers.pause(call.ns, trigger_id)


@router.post(f"{ONE}/resume")
def resume_trigger(trigger_id: str, call: Runs) -> wire.TriggerModel:
    """Plan its next time from now on, also after failures."""
    return call.service.triggers.resume(call.ns, trigger_id)


@router.post(f"{ONE}/secret/rotate")
def rotate_trigger_secret(trigger_id: str, call: Runs) -> wire.TriggerSecret:
    """Sign what an address is asked by a new secret; the one before signs too for a day."""
    call.is_secret = True
    return call.service.triggers.rotate_secret(call.ns, trigger_id)


@router.post(f"{ONE}/history")
def trigger_history(
    trigger_id: str, body: wire.TriggerHistoryRequest, call: Reads
) -> wire.TriggerHistoryResponse:
    """Say what became of each time that it was due, the newest first."""
    return call.service.triggers.history(call.ns, trigger_id, body)


@router.post(f"{ONE}/execute")
@router.post("/triggers/{trigger_id}/execute")
def execute_trigger(trigger_id: str, call: Runs) -> wire.TriggerExecutionHistoryItem:
    """Start what it is for now, whatever its schedule and condition."""
    return call.service.triggers.run_now(call.ns, trigger_id)
