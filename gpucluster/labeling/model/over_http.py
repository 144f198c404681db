"""A model behind the OpenAI protocol, which Google, Anthropic, vLLM, Ollama and others speak."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gpucluster.errors import ConfigError
from gpucluster.labeling.model.failures import CallError, failure_of, redacted
from gpucluster.labeling.model.protocol import Question, Reply
from gpucluster.labeling.settings import TOKEN_CAPS, LabelingSettings
from gpucluster.notation import shown

if TYPE_CHECKING:
    import httpx2
    from numpy.typing import NDArray

MOST_TOKENS: Final = 100_000_000  # of a call; a server that says more has not counted
MAX_REPLY_BYTES: Final = 1_000_000
MAX_VECTORS_BYTES: Final = 16_000_000  # of as many texts as one call takes

ADDRESSES: Final = {
    "openai": "https://api.openai.com/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai/",
    "anthropic": "https://api.anthropic.com/v1/",
}
_HEADERS = {
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
}
_OF_OPENAI = {"openai-organization", "openai-project"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}  # no proxy is asked for these
_FORMATS = ("json_schema", "json_object", None)
_REFUSED = {"content_filter", "refusal", "safety"}
_CUT = {"length", "max_tokens"}


@dataclass(frozen=True, slots=True)
class _Dialect:
    """Which of the fields that not every server knows are sent."""

    cap: str
    format: str | None = "json_schema"
    switched: bool = False

    def without(self, refused: CallError) -> _Dialect | None:
        """Return what to try when a server refused a field, by what it said."""
        said = refused.message.lower()
        if refused.kind != "rejected":
            return None
        if self.format and any(name in said for name in ("response_format", "json_", "schema")):
            return replace(self, format=_FORMATS[_FORMATS.index(self.format) + 1])
        if not self.switched and self.cap in said:
            return replace(self, cap=next(c for c in TOKEN_CAPS if c != self.cap), switched=True)
        return None


class HttpModel:
    """Asks over HTTP by the openai package.

    Parameters
    ----------
    settings : LabelingSettings
    key : str
    """

    def __init__(self, settings: LabelingSettings, key: str) -> None:
        import httpx2
        from openai import OpenAI

        provider = settings.labels_by
        # always explicit: a variable of the environment must not send documents elsewhere
        address = settings.base_url or ADDRESSES[provider]
        self._settings = settings
        self._key = key
        self._dialect = _Dialect(TOKEN_CAPS[provider == "openai"])
        kept = _HEADERS | (_OF_OPENAI if address == ADDRESSES["openai"] else set())
        timeout = httpx2.Timeout(settings.timeout_s, connect=min(10.0, settings.timeout_s))
        try:
            http = httpx2.Client(
                timeout=timeout,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
                follow_redirects=False,
                trust_env=httpx2.URL(address).host not in _LOOPBACK,
                event_hooks={
                    "request": [lambda request: _strip(request, kept)],
                    "response": [lambda response: _bound(response, settings.timeout_s)],
                },
            )
        except (httpx2.InvalidURL, ImportError, ValueError) as error:
            raise ConfigError(
                f"cannot reach {redacted(address, key)}: {redacted(str(error), key)}",
                path="llm_labeling.base_url",
            ) from None
        self._client = OpenAI(
            api_key=key,
            base_url=address,
            max_retries=0,
            timeout=timeout,
            default_headers={"Authorization": f"Bearer {key}"},
            http_client=http,
        )

    def ask(self, question: Question) -> Reply:
        """Ask once; more often only where the server refuses a field that can be left out.

        Raises
        ------
        CallError
            There is no reply.
        """
        known = dialect = self._dialect
        while True:
            try:
                answer = self._post("/chat/completions", self._body(question, dialect))
                break
            except CallError as error:
                if error.kind == "refused":
                    return Reply(error.message, "refusal", None, None)  # it may be billed
                other = dialect.without(error)
                if other is None:
                    raise
                dialect = other
        if dialect is not known:
            self._dialect = dialect  # remembered only once it has worked
        return _reply(answer)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, at most `TEXTS_A_CALL`.

        Raises
        ------
        CallError
            There are no vectors.
        """
        body = {
            "model": self._settings.embedding_model,
            "input": list(texts),
            "encoding_format": "float",
        }
        answer = self._post("/embeddings", body)
        try:
            rows = sorted(answer["data"], key=lambda row: row.get("index", 0))
            vectors = np.array([row["embedding"] for row in rows], np.float32)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            vectors = np.empty(0, np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise _useless("the answer holds no vector for each text")
        return vectors

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _body(self, question: Question, dialect: _Dialect) -> dict[str, Any]:
        """Return the fields of a request; those of the settings replace ours."""
        body: dict[str, Any] = {
            "model": self._settings.model_name,
            "messages": list(question.messages),
        }
        body[dialect.cap] = question.max_tokens
        if dialect.format == "json_schema":
            schema = {"name": "answer", "schema": question.schema, "strict": False}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif dialect.format:
            body["response_format"] = {"type": dialect.format}
        given = self._settings.parameters
        return body | {name: value for name, value in given.items() if name not in TOKEN_CAPS}

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the object that was answered."""
        import httpx2
        import openai

        # raised below and not where it is found: as its context, the library's error would keep
        # the request, and with it the key, in a traceback
        try:
            response = self._client.post(path, body=body, cast_to=httpx2.Response)
        except openai.APITimeoutError:
            failure = CallError(f"no answer within {self._settings.timeout_s:g} s", "timeout")
        except openai.APIStatusError as error:
            it = error.response
            failure = failure_of(it.status_code, it.text, it.headers, self._secret)
            if failure.kind == "not_found" and it.url.path == path:  # base_url has none
                message = f"{failure.message}; most servers have /v1 at the end of base_url"
                failure = CallError(message, failure.kind)
        except openai.APIConnectionError as error:
            why = str(error.__cause__) or type(error.__cause__).__name__
            address = str(self._client.base_url)
            message = f"no connection to {redacted(f'{address}: {why}', self._secret)}"
            failure = CallError(shown(message, 300), "connection")
            if isinstance(error.__cause__, httpx2.DecodingError):
                failure = CallError(
                    "the answer cannot be decompressed", "malformed", is_billed=True
                )
        except CallError as error:
            failure = error
        except (OverflowError, RecursionError, TypeError, ValueError) as error:
            failure = CallError(f"this cannot be sent: {type(error).__name__}", "rejected")
        else:
            return self._object(response.content)
        raise failure

    def _object(self, content: bytes) -> dict[str, Any]:
        """Return the JSON object that a server answered."""
        try:
            value = json.loads(content)
        except (RecursionError, ValueError):
            value = None
        if not isinstance(value, dict):
            raise _useless("the answer is no JSON object")
        error = value.get("error")
        if isinstance(error, dict) and not value.get("choices"):  # as gateways do
            code = error.get("code")
            status = code if isinstance(code, int) and 400 <= code < 600 else 502
            raise failure_of(status, content.decode(errors="replace"), {}, self._secret)
        return value

    @property
    def _secret(self) -> str:
        """The key, where it is none that any message may hold by chance."""
        return self._key if len(self._key) >= 8 else ""


def _useless(message: str) -> CallError:
    """Return the failure of an answer that came, and is none; it may be billed all the same."""
    return CallError(message, "malformed", is_billed=True)


def _strip(request: httpx2.Request, kept: Set[str]) -> None:
    """Send what the protocol needs, and not what the library or the environment adds."""
    for name in list(request.headers):
        if name not in kept:
            del request.headers[name]
    request.headers["Accept-Encoding"] = "identity"
    request.extensions["started"] = monotonic()


def _bound(response: httpx2.Response, timeout_s: float) -> None:
    """Have the body read only as far as a body may be long, and may take."""
    import httpx2

    inner: Any = response.stream
    request = response.request
    is_reply = not request.url.path.endswith("/embeddings")
    most = MAX_REPLY_BYTES if is_reply else MAX_VECTORS_BYTES
    # compressed, which was not asked for, it may become a thousand times as long
    limit = most // 20 if "content-encoding" in response.headers else most

    class Bounded(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            length = 0
            for chunk in inner:
                length += len(chunk)
                if length > limit:
                    raise CallError(
                        f"the answer is longer than {limit:,} bytes", "malformed", is_billed=True
                    )
                if monotonic() > request.extensions["started"] + timeout_s:
                    raise httpx2.ReadTimeout("the answer trickles in", request=request)
                yield chunk

        def close(self) -> None:
            inner.close()

    response.stream = Bounded()


def _reply(answer: Mapping[str, Any]) -> Reply:
    """Return what a chat completion says."""
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")), _text(message.get("refusal"))
        finish = str(choice.get("finish_reason")).lower()
    except (AttributeError, IndexError, KeyError, TypeError):
        raise _useless("the answer is no chat completion") from None
    usage = answer.get("usage")
    used = usage if isinstance(usage, dict) else {}
    tokens = (_count(used.get("prompt_tokens")), _count(used.get("completion_tokens")))
    if refusal or finish in _REFUSED:
        return Reply(text or refusal, "refusal", *tokens)
    return Reply(text, "length" if finish in _CUT else "stop", *tokens)


def _text(content: Any) -> str:
    """Return the text of a message: a string, or parts that hold strings."""
    if isinstance(content, list):
        content = "".join(_text(part["text"]) for part in content if "text" in part)
    text = content if isinstance(content, str) else ""
    return text.encode(errors="replace").decode()  # half a surrogate pair can be stored nowhere


def _count(value: Any) -> int | None:
    """Return a number of tokens, where it is one."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return value if is_count and 0 <= value <= MOST_TOKENS else None
