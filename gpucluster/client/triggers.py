"""Triggers: what starts executions by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gpucluster.client.calls import Call, Give, Items
from gpucluster.client.endpoints import PAGE, Group, ManyWith, One, OneWith, part
from gpucluster.client.sessions import D
from gpucluster.wire import triggers as wire

ROOT = "/v1/clusters/triggers"


class Triggers(Group[D]):
    """Triggers, by their ids."""

    @One
    def create(
        self,
        trigger_type: wire.TriggerType,
        schedule_config: wire.AnySchedule | Mapping[str, Any],
        *,
        cluster_id: str | None = None,
        execution_config: wire.TriggerExecutionConfig | Mapping[str, Any] | None = None,
        mode: wire.RunMode | None = None,
        description: str | None = None,
        status: Literal["active", "paused"] | None = None,
    ) -> Call[wire.TriggerCreated]:
        """Start executions at times, after events, or when a number says so.

        Parameters
        ----------
        trigger_type : {'cron', 'interval', 'event', 'conditional'}
        schedule_config : mapping
            When: what it has depends on the type.
        cluster_id : str, optional
            The definition, by its id.
        execution_config : mapping, optional
            Instead of it: a definition is made of it.
        mode : {'full', 'assign'}, optional
            Omitted: full.
        description : str, optional
            For people.
        status : {'active', 'paused'}, optional
            At the beginning. Omitted: active.
        """
        given = {
            "trigger_type": trigger_type,
            "schedule_config": schedule_config,
            "cluster_id": cluster_id,
            "execution_config": execution_config,
            "mode": mode,
            "description": description,
            "status": status,
        }
        body = {name: value for name, value in given.items() if value is not None}
        return Call("POST", ROOT, wire.TriggerCreated, body)

    @One
    def get(self, trigger_id: str) -> Call[wire.TriggerModel]:
        """Show a trigger, and how it fared."""
        return Call("GET", _path(trigger_id), wire.TriggerModel)

    @OneWith(wire.UpdateTriggerRequest)
    def update(self, body: wire.UpdateTriggerRequest, trigger_id: str) -> Call[wire.TriggerModel]:
        """Change schedule, description or status."""
        return Call("PATCH", _path(trigger_id), wire.TriggerModel, body)

    @One
    def delete(self, trigger_id: str) -> Call[None]:
        """Remove a trigger; what it started stays."""
        return Call("DELETE", _path(trigger_id), type(None))

    @One
    def pause(self, trigger_id: str) -> Call[wire.TriggerModel]:
        """Let it start nothing until it is resumed."""
        return Call("POST", f"{_path(trigger_id)}/pause", wire.TriggerModel)

    @One
    def resume(self, trigger_id: str) -> Call[wire.TriggerModel]:
        """Plan its next time from now on, also after failures."""
        return Call("POST", f"{_path(trigger_id)}/resume", wire.TriggerModel)

    @One
    def execute(self, trigger_id: str) -> Call[wire.TriggerExecutionHistoryItem]:
        """Start what it is for now, whatever its schedule and condition."""
        return Call("POST", f"{_path(trigger_id)}/execute", wire.TriggerExecutionHistoryItem)

    @One
    def rotate_secret(self, trigger_id: str) -> Call[wire.TriggerSecret]:
        """Sign questions to the address of a condition by a new secret."""
        return Call("POST", f"{_path(trigger_id)}/secret/rotate", wire.TriggerSecret)

    @ManyWith(wire.ListTriggersRequest)
    def list(self, body: wire.ListTriggersRequest) -> Items[wire.TriggerModel]:
        """List triggers from an offset on; `limit` is what is fetched at a time."""
        offset, limit = body.offset, _limit(body)
        while True:
            asked = body.model_copy(update={"offset": offset, "limit": limit})
            page = yield from self._session.ask(
                Call("POST", f"{ROOT}/list", wire.ListTriggersResponse, asked, reads=True)
            )
            for each in page.results:
                yield Give(each)
            offset += len(page.results)
            if not page.results or offset >= page.total:
                return

    @ManyWith(wire.TriggerHistoryRequest)
    def history(
        self, body: wire.TriggerHistoryRequest, trigger_id: str
    ) -> Items[wire.TriggerExecutionHistoryItem]:
        """Give what became of each time that it was due, the newest first."""
        path, offset, limit = f"{_path(trigger_id)}/history", body.offset, _limit(body)
        while True:
            asked = body.model_copy(update={"offset": offset, "limit": limit})
            page = yield from self._session.ask(
                Call("POST", path, wire.TriggerHistoryResponse, asked, reads=True)
            )
            for each in page.executions:
                yield Give(each)
            offset += len(page.executions)
            if not page.executions or offset >= page.total:
                return


def _limit(body: wire.ListTriggersRequest | wire.TriggerHistoryRequest) -> int:
    return body.limit if "limit" in body.model_fields_set else PAGE


def _path(trigger_id: str) -> str:
    return f"{ROOT}/{part(trigger_id)}"
