"""Qdrant on loopback: its local mode behind the part of its HTTP API that is used here."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qdrant_client import QdrantClient, models


@dataclass
class Gate:
    """Lets requests of one kind through one by one, or all."""

    passing: dict[str, threading.Semaphore] = field(default_factory=dict)

    def hold(self, what: str) -> None:
        """Hold all requests."""
        self.passing[what] = threading.Semaphore(0)

    def release(self, what: str) -> None:
        """Let one of them pass."""
        self.passing[what].release()

    def open(self, what: str) -> None:
        """Hold no request any more, nor those that wait."""
        self.passing.pop(what).release(1000)


@dataclass
class Qdrant:
    """Its address, what it holds, and what it was asked."""

    url: str
    store: QdrantClient
    gate: Gate = field(default_factory=Gate)
    asked: Counter[str] = field(default_factory=Counter)


@contextmanager
def serving_points(key: str) -> Iterator[Qdrant]:
    """Yield a server that wants a key."""
    store, lock = QdrantClient(":memory:"), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        do_POST = do_GET  # noqa: N815

        def _answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
            _, _, name, *rest = self.path.partition("?")[0].split("/")
            what = "/".join(rest)
            qdrant.asked[what] += 1
            if (waiting := qdrant.gate.passing.get(what)) is not None:
                waiting.acquire(timeout=60)
            if self.headers.get("api-key") != key:
                self._say(401, {"status": {"error": "no"}})
                return
            with lock:
                if not store.collection_exists(name):
                    self._say(404, {"status": {"error": f"no {name}"}})
                    return
                result = answers[what](name, body)
            self._say(200, {"result": result, "status": "ok", "time": 0.0})

        def _say(self, status: int, value: Any) -> None:
            content = json.dumps(value).encode()
            with suppress(OSError):  # who asked was killed
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    def show(name: str, _: Any) -> Any:
        return store.get_collection(name).model_dump(mode="json")

    def count(name: str, body: Any) -> Any:
        return store.count(name, exact=body["exact"]).model_dump(mode="json")

    def scroll(name: str, body: Any) -> Any:
        asked = models.ScrollRequest.model_validate(body)
        points, following = store.scroll(
            name,
            limit=asked.limit,
            offset=asked.offset,
            with_payload=asked.with_payload,
            with_vectors=asked.with_vector,
        )
        return {"points": [_shown(point) for point in points], "next_page_offset": following}

    def retrieve(name: str, body: Any) -> Any:
        points = store.retrieve(name, body["ids"], with_payload=body["with_payload"])
        return [_shown(point) for point in points]

    def update(name: str, body: Any) -> Any:
        updates = models.UpdateOperations.model_validate(body).operations
        store.batch_update_points(name, updates)
        return [{"operation_id": 0, "status": "completed"} for _ in updates]

    answers = {
        "": show,
        "points/count": count,
        "points/scroll": scroll,
        "points": retrieve,
        "points/batch": update,
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    qdrant = Qdrant(f"http://127.0.0.1:{server.server_address[1]}", store)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield qdrant
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        store.close()


def _shown(point: models.Record) -> Any:
    return point.model_dump(mode="json", exclude_none=True)
