"""The service: definitions, runs, documents, triggers and webhooks over HTTP.

It calls the verbs of `gpucluster.api` and its neighbours in processes of their own, watches them
by an observer, and stops them by a cancel token; the engine knows nothing of it.
"""

from __future__ import annotations
