"""Clusters that stay: those of a run, frozen under names that later documents join.

A version of a taxonomy is laid out as a run is (centroids, model, manifest), so that rows join
its nodes as they join the clusters of a run.

`promotion` is what is asked for, `stability` says which clusters come back from run to run,
`selection` which become nodes, `freezing` makes a version of them, `shelf` keeps versions,
`stored` is what a caller holds.
"""

from __future__ import annotations

from gpucluster.taxonomy.promotion import Promotion
from gpucluster.taxonomy.shelf import Record
from gpucluster.taxonomy.stored import StoredTaxonomy, list_taxonomies

__all__ = ["Promotion", "Record", "StoredTaxonomy", "list_taxonomies"]
