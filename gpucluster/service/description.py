"""The description of the API, as OpenAPI: what the framework finds out, and what it cannot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi

from gpucluster.definition import definition_schema
from gpucluster.dialects import LIFTED

if TYPE_CHECKING:
    from fastapi import FastAPI

DEFINITION = "CreateClusterRequest"


def describe(app: FastAPI) -> None:
    """Let an application describe itself, definitions of clusterings included."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                routes=app.routes,
            )
            schema["components"]["schemas"].update(_definition())
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _definition() -> dict[str, Any]:
    """Return the schemas of a definition, with the settings that may stand at the top."""
    text = json.dumps(definition_schema())
    schema = json.loads(text.replace('"#/$defs/', f'"#/components/schemas/{DEFINITION}.'))
    parts = {f"{DEFINITION}.{name}": part for name, part in schema.pop("$defs").items()}
    properties = schema["properties"]
    inner = parts[f"{DEFINITION}.VectorConfig"]["properties"]
    for name, stands_for in LIFTED.items():
        text = f"Stands for vector_config.{stands_for}."
        properties.setdefault(name, {**inner[stands_for], "description": text})
    properties["source_collection_ids"] = {
        **properties["collection_ids"],
        "description": "Another name of collection_ids.",
    }
    properties["template_id"] = {
        "type": "string",
        "description": "Id or name of a template that this adds to.",
    }
    schema["title"] = DEFINITION
    return {DEFINITION: schema, **parts}
