"""Server-sent events, out of bytes that arrive in any pieces."""

from __future__ import annotations

from collections.abc import Iterator


class Events:
    """What of a stream is not a whole event yet."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the data of the events that are whole now.

        Parameters
        ----------
        piece : bytes
            What comes next.
        """
        *whole, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in whole:
            lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:  # others are signs of life
                yield b"\n".join(line[5:].removeprefix(b" ") for line in lines)
