"""How the fake server behaves: what it answers, when it fails, and what it charges for."""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from gpucluster.labeling.fake_server.answers import answer, embedding

# over which one probability is spread
FAULTS: Final = (
    "rate_limited",  # 429 with Retry-After
    "rate_limited_bare",
    "server_error",  # 500, 502 or 503
    "timeout",  # no answer for `hang_s`
    "reset",  # the connection breaks
    "malformed",  # content that is broken JSON
    "truncated",  # content that is cut off
    "refused",
)
# these happen only where they are named
RARE: Final = ("slow", "garbled", "quota", "unauthorized", "rejected")
QUIRKS: Final = (
    "no_usage",
    "no_response_format",  # 400 where it is sent
    "no_json_schema",  # 400 where that kind of it is sent
    "only_max_tokens",  # 400 where max_completion_tokens is sent
    "only_max_completion_tokens",
    "fenced",  # ```json around the content
    "in_array",  # [content]
    "redirect",  # 307 to another path
)
_PAID = {"malformed", "truncated", "refused"}
_SLOW = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back, after a delay; a connection that breaks is one way to answer."""

    status: int
    body: Mapping[str, Any] | bytes
    delay_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    breaks: bool = False


class FakeProvider:
    """Answers requests of the OpenAI protocol; from any thread.

    Parameters
    ----------
    faults : float or mapping of str to float
        Probability that a request fails: of all `FAULTS` together, or of each kind by its name.
    seed : int
        Of the faults.
    latency_s : float
        Until an answer.
    hang_s : float
        How long a request hangs whose fault is a timeout.
    retry_after_s : float
        What a rate limit asks for.
    quirks : collection of str
        Of `QUIRKS`.
    obey : bool
        Obey instructions in documents, as a model might.
    key : str, optional
        Refuse requests with another key, and repeat that one in the message.

    Attributes
    ----------
    calls : int
        Requests for replies or vectors, those that failed among them.
    billed : list of tuple
        Digest of the question, input tokens and output tokens of whatever a provider charges for.
    faults : collections.Counter
        What failed, by kind.
    last : mapping
        Body of the latest request.
    most_at_once : int
        Requests that were in work at the same time.
    """

    def __init__(
        self,
        *,
        faults: float | Mapping[str, float] = 0.0,
        seed: int = 0,
        latency_s: float = 0.0,
        hang_s: float = 30.0,
        retry_after_s: float = 0.0,
        quirks: Collection[str] = (),
        obey: bool = False,
        key: str | None = None,
    ) -> None:
        if isinstance(faults, Mapping):
            self._chances = dict(faults)
        else:
            self._chances = {kind: faults / len(FAULTS) for kind in FAULTS}
        unknown = sorted((set(self._chances) - {*FAULTS, *RARE}) | (set(quirks) - {*QUIRKS}))
        if unknown:
            raise ValueError(f"unknown faults or quirks: {', '.join(unknown)}")
        self._seed, self._latency_s, self._hang_s = seed, latency_s, hang_s
        self._retry_after_s, self._quirks = retry_after_s, frozenset(quirks)
        self._obey, self._key = obey, key
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._good: Counter[str] = Counter()
        self._in_work = 0
        self.calls = 0
        self.billed: list[tuple[str, int, int]] = []
        self.faults: Counter[str] = Counter()
        self.last: Mapping[str, Any] = {}
        self.most_at_once = 0

    @property
    def paid_repeats(self) -> int:
        """Usable replies to questions that had one already."""
        with self._lock:
            return sum(count - 1 for count in self._good.values())

    def respond(self, path: str, body: Mapping[str, Any], authorization: str | None) -> Answer:
        """Return the answer to a request, and take note of it."""
        key = (authorization or "").removeprefix("Bearer ")
        if self._key is not None and key != self._key:
            return refuse(401, f"Incorrect API key provided: {key}", code="invalid_api_key")
        if "redirect" in self._quirks:
            return Answer(307, b"", headers={"Location": "http://127.0.0.1:9/elsewhere"})
        makers = {"/v1/chat/completions": self._chat, "/v1/embeddings": self._embed}
        if path not in makers:
            return refuse(404, f"there is no {path}")
        question = body.get("messages") or body.get("input")
        digest = blake2b(json.dumps(question).encode(), digest_size=16).hexdigest()
        with self._lock:
            self.calls += 1
            self.last = body
            number = self._seen[digest]
        unknown = self._unknown_field(body)
        if unknown is not None:
            return unknown
        with self._lock:
            self._seen[digest] += 1
        fault = self._drawn(digest, number)
        if fault is not None:
            with self._lock:
                self.faults[fault] += 1
            failed = self._failed(fault, number)
            if failed is not None:
                return failed
        made = makers[path](digest, body, fault)
        return Answer(200, made, self._latency_s * (_SLOW if fault == "slow" else 1))

    def working(self, change: int) -> None:
        """Take note of a request that begins or ends."""
        with self._lock:
            self._in_work += change
            self.most_at_once = max(self.most_at_once, self._in_work)

    def _drawn(self, digest: str, number: int) -> str | None:
        """Draw the fault of the n-th request of a question."""
        drawn = blake2b(f"{self._seed} {number} {digest}".encode(), digest_size=8).digest()
        left: float = int.from_bytes(drawn) / 2**64
        for kind, chance in self._chances.items():
            if left < chance:
                return kind
            left -= chance
        return None

    def _failed(self, fault: str, number: int) -> Answer | None:
        """Return the answer to a request that fails before there is a reply."""
        if fault == "rate_limited":
            headers = {"Retry-After": f"{self._retry_after_s:g}"}
            return refuse(429, "Rate limit reached", code="rate_limit_exceeded", headers=headers)
        if fault == "server_error":
            return refuse((500, 502, 503)[number % 3], "The server had an error")
        if fault in {"timeout", "reset"}:
            return Answer(0, b"", self._hang_s if fault == "timeout" else 0.0, breaks=True)
        if fault == "garbled":
            return Answer(200, b"<html>a page of a proxy</html>", self._latency_s)
        refusals = {
            "rate_limited_bare": (429, "Rate limit reached", "rate_limit_exceeded"),
            "quota": (429, "You exceeded your current quota", "insufficient_quota"),
            "unauthorized": (401, "Incorrect API key provided", "invalid_api_key"),
            "rejected": (400, "Invalid messages", "invalid_request"),
        }
        if fault not in refusals:
            return None
        status, message, code = refusals[fault]
        return refuse(status, message, code=code)

    def _unknown_field(self, body: Mapping[str, Any]) -> Answer | None:
        """Refuse a field that a server of this kind does not know."""
        refused = {
            "only_max_tokens": "max_completion_tokens",
            "only_max_completion_tokens": "max_tokens",
            "no_response_format": "response_format",
        }
        for quirk, name in refused.items():
            if quirk in self._quirks and name in body:
                return refuse(400, f"Unsupported parameter: '{name}'", param=name)
        wanted = (body.get("response_format") or {}).get("type")
        if "no_json_schema" in self._quirks and wanted == "json_schema":
            return refuse(400, "'response_format.type' must be 'json_object' or 'text'")
        return None

    def _chat(self, digest: str, body: Mapping[str, Any], fault: str | None) -> dict[str, Any]:
        text = self._dressed(answer(body, obey=self._obey))
        finish, refusal = "stop", None
        if fault == "malformed":
            text = text[: len(text) * 3 // 4].replace(":", " ") + "…"
        elif fault == "truncated":
            text, finish = text[: len(text) // 2], "length"
        elif fault == "refused":
            text, refusal = "", "I'm sorry, but I can't help with that."
        message = {"role": "assistant", "content": text or None, "refusal": refusal}
        used = self._bill(digest, json.dumps(body.get("messages")), text, fault)
        return {
            "id": f"chatcmpl-{digest}",
            "object": "chat.completion",
            "created": 0,
            "model": body.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            **used,
        }

    def _dressed(self, text: str) -> str:
        """Put a reply into what some models put it in."""
        if "in_array" in self._quirks:
            text = f"[{text}]"
        return f"Here it is:\n```json\n{text}\n```" if "fenced" in self._quirks else text

    def _embed(self, digest: str, body: Mapping[str, Any], fault: str | None) -> dict[str, Any]:
        given = body.get("input", [])
        texts: Sequence[str] = [given] if isinstance(given, str) else given
        vectors: list[Any] = [embedding(text) for text in texts]
        if body.get("encoding_format") == "base64":
            vectors = [
                base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
                for vector in vectors
            ]
        used = self._bill(digest, "".join(texts), "", fault)
        if fault in _PAID:
            vectors = vectors[:-1]
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "data": data, "model": body.get("model"), **used}

    def _bill(self, digest: str, sent: str, said: str, fault: str | None) -> dict[str, Any]:
        """Take note of what a provider charges for; return it as part of the answer."""
        tokens = (len(sent) // 4 + 1, len(said) // 4)
        with self._lock:
            self.billed.append((digest, *tokens))
            if fault not in _PAID:
                self._good[digest] += 1
        if "no_usage" in self._quirks:
            return {}
        return {
            "usage": {
                "prompt_tokens": tokens[0],
                "completion_tokens": tokens[1],
                "total_tokens": sum(tokens),
            }
        }


def refuse(status: int, message: str, **more: Any) -> Answer:
    """Return an error as providers state it."""
    headers = more.pop("headers", {})
    stated = {"message": message, "type": "error", "param": None, "code": None} | more
    return Answer(status, {"error": stated}, headers=headers)
