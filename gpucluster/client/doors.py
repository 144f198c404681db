"""The two clients."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Self

import httpx2
from pydantic import SecretStr

from gpucluster import __version__
from gpucluster.client.access import Namespaces, Tokens
from gpucluster.client.clusters import Clusters, Templates
from gpucluster.client.collections import Collections, Documents
from gpucluster.client.drivers import Awaiting, Blocking
from gpucluster.client.retries import Retries
from gpucluster.client.sessions import D, Session
from gpucluster.client.tasks import Tasks
from gpucluster.client.taxonomies import Taxonomies
from gpucluster.client.triggers import Triggers
from gpucluster.client.webhooks import Webhooks
from gpucluster.errors import ConfigError

URL, TOKEN = "GPUCLUSTER_URL", "GPUCLUSTER_TOKEN"
TOKEN_FILE = f"{TOKEN}_FILE"
TIMEOUT_S = 30.0
CONNECT_S = 10.0  # no network needs longer
CONNECTIONS = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=60)


class Door(Generic[D]):
    """What can be asked, by what it is about; `Client` and `AsyncClient` are made of it.

    Parameters
    ----------
    session : Session
    url : str
    token : SecretStr or None
    """

    def __init__(self, session: Session[D], url: str, token: SecretStr | None) -> None:
        self._session = session
        self._url = url
        self._token = token
        self.clusters = Clusters(session)
        self.templates = Templates(session)
        self.collections = Collections(session)
        self.documents = Documents(session)
        self.tasks = Tasks(session)
        self.taxonomies = Taxonomies(session)
        self.triggers = Triggers(session)
        self.webhooks = Webhooks(session)
        self.namespaces = Namespaces(session)
        self.tokens = Tokens(session)

    def __repr__(self) -> str:
        name, namespace = type(self).__name__, self._session.namespace
        return f"{name}({self._url!r}, namespace={namespace!r}, token={self._token!r})"

    def in_namespace(self, namespace: str) -> Self:
        """Return this client for another namespace; both share their connections.

        Parameters
        ----------
        namespace : str
        """
        return self._with(replace(self._session, namespace=namespace))

    def under_key(self, key: str) -> Self:
        """Return this client with a key of yours for what it changes.

        A call that is repeated under its key, by another process or a day's work later, is done
        once and answered as before. The service forgets keys after 24 hours.

        Parameters
        ----------
        key : str
            Sent as ``Idempotency-Key``: 1 to 255 characters.
        """
        return self._with(replace(self._session, key=key))

    def _with(self, session: Session[D]) -> Self:
        made = type(self).__new__(type(self))
        vars(made)["_http"] = vars(self)["_http"]  # which both have
        Door.__init__(made, session, self._url, self._token)
        return made


class Client(Door[Blocking]):
    """A client whose methods return when there is an answer. Threads may share it.

    Parameters
    ----------
    base_url : str, optional
        Of the service, such as http://127.0.0.1:8765. Omitted: ``GPUCLUSTER_URL``.
    token : str, optional
        Omitted: ``GPUCLUSTER_TOKEN``, or the file that ``GPUCLUSTER_TOKEN_FILE`` names.
    namespace : str, optional
        Omitted: the token's own, or default.
    timeout_s : float
        For a part of an answer; whole streams may take longer.
    retries : Retries
        How often is asked again.
    **http
        Passed to ``httpx2.Client``: ``verify``, ``proxy``, ``transport``, ``trust_env``.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | SecretStr | None = None,
        *,
        namespace: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries = Retries(),  # noqa: B008 - a value
        **http: Any,
    ) -> None:
        url, secret = _url(base_url), _token(token)
        self._http = httpx2.Client(**_settings(url, secret, timeout_s), **http)
        session = Session(
            driver=Blocking(self._http),
            namespace=namespace,
            key=None,
            retries=retries,
        )
        super().__init__(session, url, secret)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Door[Awaiting]):
    """A client whose methods are awaited.

    Parameters
    ----------
    base_url : str, optional
        Of the service, such as http://127.0.0.1:8765. Omitted: ``GPUCLUSTER_URL``.
    token : str, optional
        Omitted: ``GPUCLUSTER_TOKEN``, or the file that ``GPUCLUSTER_TOKEN_FILE`` names.
    namespace : str, optional
        Omitted: the token's own, or default.
    timeout_s : float
        For a part of an answer; whole streams may take longer.
    retries : Retries
        How often is asked again.
    **http
        Passed to ``httpx2.AsyncClient``: ``verify``, ``proxy``, ``transport``, ``trust_env``.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | SecretStr | None = None,
        *,
        namespace: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries = Retries(),  # noqa: B008 - a value
        **http: Any,
    ) -> None:
        url, secret = _url(base_url), _token(token)
        self._http = httpx2.AsyncClient(**_settings(url, secret, timeout_s), **http)
        session = Session(
            driver=Awaiting(self._http),
            namespace=namespace,
            key=None,
            retries=retries,
        )
        super().__init__(session, url, secret)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _settings(url: str, token: SecretStr | None, timeout_s: float) -> dict[str, Any]:
    known = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    return {
        "base_url": url,
        "timeout": httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
        "limits": CONNECTIONS,
        "headers": {"User-Agent": f"gpucluster/{__version__}", **known},  # which hides this one
    }


def _url(given: str | None) -> str:
    url = given or os.environ.get(URL)
    if not url:
        raise ConfigError("no address of a service was given", hint=f"pass base_url, or set {URL}")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            "not an address of a service", path="base_url", got=url, expected="http(s)://host:port"
        )
    return url.rstrip("/")


def _token(given: str | SecretStr | None) -> SecretStr | None:
    """Return the token that was given, or lies in the environment; it is shown nowhere."""
    if isinstance(given, SecretStr):
        return given
    text = given or os.environ.get(TOKEN)
    path = os.environ.get(TOKEN_FILE)
    if not text and path:
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", path=TOKEN_FILE) from error
    return SecretStr(text) if text else None
