"""Serve until Ctrl-C."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from contextlib import suppress

from gpucluster.labeling.fake_server import FakeServer


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C, then say what was asked and billed."""
    parser = argparse.ArgumentParser(prog="python -m gpucluster.labeling.fake_server")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--faults", type=float, default=0.0, help="share of calls that fail")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="until an answer")
    parser.add_argument("--obey", action="store_true", help="obey instructions in documents")
    given = parser.parse_args(arguments)
    try:
        made = FakeServer(
            faults=given.faults,
            seed=given.seed,
            latency_s=given.latency_ms / 1000,
            obey=given.obey,
            port=given.port,
        )
    except OSError as error:
        parser.error(f"cannot listen on port {given.port}: {error.strerror}")
    with made as server:
        print(f"base_url: {server.base_url}", flush=True)  # noqa: T201
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(server.faults.items()))
    print(  # noqa: T201
        f"{server.calls} calls, {len(server.billed)} billed, {server.paid_repeats} paid twice; "
        f"faults: {failed or 'none'}"
    )


if __name__ == "__main__":
    main()
