"""Where vectors come from: files of many formats, arrays and tables in memory.

`open_source` opens whatever holds vectors, `load` reads it into `Samples` and judges every
row, `inspect` looks before that.
"""

from __future__ import annotations

from gpucluster.sources.attributes import find, names_to_read, read_attributes
from gpucluster.sources.base import Batch, Columns, Source, SourceInfo
from gpucluster.sources.collection import FeatureUri, is_manifest, open_feature
from gpucluster.sources.detect import check_names
from gpucluster.sources.device_parquet import CudfDecoder
from gpucluster.sources.digests import content_key, file_state, input_key, stream_key, table_key
from gpucluster.sources.features import FeaturesSource
from gpucluster.sources.filters import Filters
from gpucluster.sources.inspection import Inspection, inspect
from gpucluster.sources.joined import JoinedSource, collection_names
from gpucluster.sources.loading import load, not_unique
from gpucluster.sources.matching import compile_filter
from gpucluster.sources.opening import open_source
from gpucluster.sources.remainder import Remainder, remaining
from gpucluster.sources.reopening import reopen
from gpucluster.sources.staging import Staging
from gpucluster.sources.streaming import KnownIds, Stretch, stream
from gpucluster.sources.texts import read_texts

__all__ = [
    "Batch",
    "Columns",
    "CudfDecoder",
    "FeatureUri",
    "FeaturesSource",
    "Filters",
    "Inspection",
    "JoinedSource",
    "KnownIds",
    "Remainder",
    "Source",
    "SourceInfo",
    "Staging",
    "Stretch",
    "check_names",
    "collection_names",
    "compile_filter",
    "content_key",
    "file_state",
    "find",
    "input_key",
    "inspect",
    "is_manifest",
    "load",
    "names_to_read",
    "not_unique",
    "open_feature",
    "open_source",
    "read_attributes",
    "read_texts",
    "remaining",
    "reopen",
    "stream",
    "stream_key",
    "table_key",
]
