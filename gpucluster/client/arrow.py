"""Arrow batches out of a stream, which goes on with the next row where it broke off."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel

from gpucluster.client.calls import Call, Give, Items, Read, Reply, Sleep
from gpucluster.client.errors import ConnectionFailedError, UnreadableAnswerError
from gpucluster.client.sessions import Session
from gpucluster.wire.executions import DataRequest

if TYPE_CHECKING:
    import pyarrow as pa

Following: TypeAlias = Callable[[int], tuple[BaseModel, int]]
ARROW = "application/vnd.apache.arrow.stream"
_MARK = 0xFFFFFFFF


def batches_of(
    session: Session[Any], path: str, asked: Following, *, method: Literal["GET", "POST"] = "POST"
) -> Items[pa.RecordBatch]:
    """Give the batches of a stream; one that breaks off is asked for again.

    Parameters
    ----------
    session : Session
    path : str
    asked : callable
        Gets the number of rows that are there, and returns the request for the others, and how
        many of those that it brings are there nevertheless.
    method : {'GET', 'POST'}
        Whether the request is a query or a body.
    """
    n_given = n_silent = 0
    while True:
        n_silent += 1
        body, n_old = asked(n_given)
        call: Call[Any] = Call(method, path, type(None), body, reads=True)
        if method == "GET":
            query = body.model_dump(mode="json", exclude_unset=True)
            call = Call(method, path, type(None), query=query)
        reply: Reply = yield from session.open(call, ARROW)
        stream = Batches()
        try:
            while piece := (yield Read(reply)):
                for batch in stream.feed(piece):
                    new = batch.slice(min(n_old, batch.num_rows))
                    n_old -= batch.num_rows - new.num_rows
                    if new.num_rows:
                        n_given, n_silent = n_given + new.num_rows, 0
                        yield Give(new)
            if stream.is_over:
                return
            failed = ConnectionFailedError("the stream ended before its end")
        except ConnectionFailedError as error:
            failed = error
        if n_silent >= session.retries.tries:
            raise failed
        yield Sleep(session.retries.pause(max(1, n_silent)))


def members_after(
    columns: Sequence[str] | None = None, limit: int | None = None, offset: int = 0
) -> Following:
    """Return what asks for the members that are not there yet.

    Parameters
    ----------
    columns : sequence of str, optional
    limit : int, optional
    offset : int
    """

    def rest(n_given: int) -> tuple[DataRequest, int]:
        asked = DataRequest(
            include_centroids=False,
            include_members=True,
            columns=None if columns is None else tuple(columns),
            limit=None if limit is None else limit - n_given,
            offset=offset + n_given,
        )
        return asked, 0

    return rest


class Batches:
    """What of an IPC stream is not a whole message yet.

    Attributes
    ----------
    is_over : bool
        Whether the stream said that it ends.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._schema: pa.Schema | None = None
        self.is_over = False

    def feed(self, piece: bytes) -> Iterator[pa.RecordBatch]:
        """Yield the batches that are whole now; all of each is checked.

        Parameters
        ----------
        piece : bytes
            What comes next.
        """
        import pyarrow as pa

        self._rest += piece
        try:
            while (message := self._message()) is not None:
                if message.type == "schema":
                    self._schema = pa.ipc.read_schema(message)
                elif message.type == "record batch" and self._schema is not None:
                    batch = pa.ipc.read_record_batch(message, self._schema)
                    batch.validate(full=True)
                    yield batch
        except (pa.ArrowException, struct.error, ValueError, OSError) as error:
            raise UnreadableAnswerError(f"the stream is no Arrow: {error}") from error

    def _message(self) -> Any:
        """Return the next message, or None where it is not whole yet."""
        import pyarrow as pa

        if len(self._rest) < 8 or self.is_over:
            return None
        mark, n_head = struct.unpack_from("<Ii", self._rest)
        if mark != _MARK or n_head < 0:
            raise ValueError("a message does not begin as one")
        if n_head == 0:
            self.is_over = True
            return None
        if len(self._rest) < 8 + n_head:
            return None
        n_bytes = 8 + n_head + _body_bytes(self._rest[8 : 8 + n_head])
        if len(self._rest) < n_bytes:
            return None
        message = pa.ipc.read_message(pa.py_buffer(bytes(self._rest[:n_bytes])))
        del self._rest[:n_bytes]
        return message


def _body_bytes(head: bytearray) -> int:
    """Return the length of what follows the head of a message.

    It is the field 3 of a flatbuffer: a table that points to the places of its fields.
    """
    (table,) = struct.unpack_from("<I", head)
    fields = table - struct.unpack_from("<i", head, table)[0]
    (n_fields,) = struct.unpack_from("<H", head, fields)
    at = struct.unpack_from("<H", head, fields + 10)[0] if n_fields > 10 else 0
    n_bytes: int = struct.unpack_from("<q", head, table + at)[0] if at else 0
    if n_bytes < 0:
        raise ValueError("a message has less than no bytes")
    return n_bytes
