"""Points of a report, read as the browser reads them; and the parts of a page."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import numpy as np

from gpucluster.report.points import LEVELS, NO_CLASS, Cloud


def decode(head: dict[str, Any], content: bytes) -> Cloud:
    """Return the points of a block."""
    n, ranges = head["length"], head["ranges"]
    planes = iter(np.frombuffer(content, np.uint8).reshape(-1, n) if n else [np.uint8([])] * 8)

    def wide() -> np.ndarray:
        return next(planes).astype(np.int64) | next(planes).astype(np.int64) << 8

    def valued(codes: np.ndarray, name: str, most: int) -> np.ndarray:
        low, high = ranges[name]
        return np.where(codes > most, np.nan, low + codes * ((high - low) / most))

    def summed(name: str) -> np.ndarray:
        folded = wide()
        return valued(np.cumsum((folded >> 1) ^ -(folded & 1)) & 0xFFFF, name, 0xFFFF)

    axes = [summed("x"), summed("y")]
    axes += [valued(next(planes).astype(int), "z", LEVELS - 1)] if "z" in ranges else []
    similarity = np.full(n, np.nan)
    if "similarity" in ranges:
        similarity = valued(next(planes).astype(int), "similarity", LEVELS - 1)
    truth = None
    if head["has_truth"]:
        codes = wide()
        truth = np.where(codes == NO_CLASS, -1, codes)
    labels = np.repeat(*np.array(head["runs"], int).reshape(-1, 2).T)
    return Cloud(labels, np.stack(axes, axis=1), similarity, truth)


def parts_of(page: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the contents of a page, and its blocks, inflated."""
    text = page.decode()
    (contents,) = re.findall(r'<script type="application/json" id="contents">(.*?)</script>', text)
    blocks = re.findall(r'<script type="[^"]*;base64" id="(\w+)">(.*?)</script>', text)
    inflated = {name: zlib.decompress(base64.b64decode(block)) for name, block in blocks}
    return json.loads(contents), inflated
