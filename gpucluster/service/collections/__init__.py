"""Collections of documents: what they hold lies in files, version after version.

A version is a manifest that the engine reads as it is, so `gpucluster.cluster` takes its path.
Nothing changes a version; what adds to a collection, or takes something away, publishes the next.
"""

from __future__ import annotations
