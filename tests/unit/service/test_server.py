"""How the server listens."""

from __future__ import annotations

import asyncio
import socket

from gpucluster.service.server import _listen


def test_small_answers_do_not_wait_for_acknowledgements():
    """Head and body are two writes: without this each answer takes 40 ms more."""

    async def asked() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            found.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with _listen("127.0.0.1", 0) as listening:
            async with await asyncio.start_server(answer, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname())
                no_delay = await found
                writer.close()
                await writer.wait_closed()
                return no_delay

    assert asyncio.run(asked()) == 1
