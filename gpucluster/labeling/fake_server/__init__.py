"""A server that speaks the OpenAI protocol, names clusters without a model, and fails on demand.

For tests and measurements, and to try labelling without a key::

    python -m gpucluster.labeling.fake_server --port 8080 --faults 0.3

It listens on this machine only. The same seed gives each question the same faults, whatever the
order in which questions come.
"""

from __future__ import annotations

from gpucluster.labeling.fake_server.server import FakeServer

__all__ = ["FakeServer"]
