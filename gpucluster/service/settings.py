"""What an operator decides: from flags, the environment (``GPUCLUSTER_SERVE_*``), or a default."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gpucluster.places import Place, place, working_folder
from gpucluster.service.log import LogFormat
from gpucluster.service.outbound import OutboundSettings

MB = 1 << 20
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
Listed: TypeAlias = Annotated[tuple[str, ...], NoDecode]  # separated by commas, not JSON


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ServiceSettings(BaseSettings):
    """Settings of one server."""

    model_config = SettingsConfigDict(
        env_prefix="GPUCLUSTER_SERVE_", frozen=True, extra="forbid", secrets_dir=None
    )

    root: str = Field(
        default="gpucluster-service", description="Folder of all data, or s3://bucket/prefix."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen at.")
    port: Annotated[int, Field(ge=0, lt=65536)] = Field(
        default=8765, description="Port to listen at; 0: any that is free."
    )
    catalog: str | None = Field(
        default=None, description="postgresql://..., or a file. Omitted: catalog.sqlite below root."
    )
    auth: bool = Field(default=True, description="Whether requests need a token.")
    admin_token: SecretStr | None = Field(
        default=None, description="A token for everything, beside those that are issued."
    )
    allowed_hosts: Listed = Field(
        default=(), description="Names that requests may be addressed to. Omitted: any, with auth."
    )
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="For all runs.")
    memory_limit: str | None = Field(default=None, description="Memory of one run, such as 6GB.")
    max_jobs: Annotated[int, Field(ge=0)] = Field(
        default=1, description="Processes that work at a time; 0: this server only answers."
    )
    max_queued: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="Tasks of a namespace that wait or run."
    )
    max_in_flight: Annotated[int, Field(ge=1)] = Field(
        default=2000, description="Requests at a time; more are told to come again."
    )
    max_reads: Annotated[int, Field(ge=1)] = Field(
        default=4, description="Reads of documents and members at a time; more wait."
    )
    rate_per_s: Annotated[float, Field(gt=0)] = Field(
        default=500.0, description="Requests of one token in a second, on average."
    )
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=8 * MB, description="Of a request, but for uploads of documents."
    )
    max_upload_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=2048 * MB, description="Of an upload of documents."
    )
    import_roots: Listed = Field(
        default=(), description="Folders and buckets that collections may be made of."
    )
    outbound_hosts: Listed = Field(
        default=(), description="Hosts or networks that webhooks may reach though they are private."
    )
    outbound_http_hosts: Listed = Field(
        default=(), description="Hosts that webhooks may reach without TLS."
    )
    outbound_ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) that are trusted beside the usual ones."
    )
    hold_s: Annotated[float, Field(ge=1)] = Field(
        default=15.0, description="Silence after which another server takes over a task."
    )
    retention_days: Annotated[float, Field(ge=0, le=36500)] = Field(
        default=90.0,
        description="Days that ended tasks and histories of triggers are kept; 0: for ever.",
    )
    log_format: LogFormat = Field(default="text", description="Of the log on stderr: text or json.")
    log_requests: bool = Field(default=True, description="Whether each request is logged.")
    triggers: bool = Field(default=True, description="Whether this server fires triggers.")
    deliveries: bool = Field(default=True, description="Whether this server delivers webhooks.")

    @field_validator(
        "import_roots", "outbound_hosts", "outbound_http_hosts", "allowed_hosts", mode="before"
    )
    @classmethod
    def _listed(cls, value: object) -> object:
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
            return value
        return tuple(part.strip() for each in given for part in each.split(",") if part.strip())

    @field_validator("import_roots")
    @classmethod
    def _are_there(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            if isinstance(place(root), Path) and not place(root).is_dir():
                raise ValueError(f"folders and buckets; there is no folder {root}")
        return roots

    @field_validator("outbound_hosts", "outbound_http_hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return OutboundSettings(allow_hosts=hosts).allow_hosts

    @field_validator("auth")
    @classmethod
    def _is_safe(cls, auth: bool, info: ValidationInfo) -> bool:
        host = info.data.get("host", "127.0.0.1")
        if not auth and not is_loopback(host):
            raise ValueError(f"true, for host {host}: without tokens only this machine may ask")
        return auth

    @property
    def place(self) -> Place:
        """Where all data lie."""
        return place(self.root)

    @property
    def catalog_url(self) -> str:
        """Where the catalog lies."""
        return self.catalog or str(working_folder(self.place) / "catalog.sqlite")
