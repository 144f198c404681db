"""Collections as the published commands name them: a few hundred made-up documents each."""

from __future__ import annotations

import numpy as np

from tests.helpers.workflow import MEDIA_URI, TEXT_URI

COLLECTIONS = {
    "col_products": (TEXT_URI, "text_embedding", 64, 6),
    "col_videos": (MEDIA_URI, "multimodal_embedding", 32, 3),
    "col_ad_scripts": (TEXT_URI, "text_embedding", 16, 20),
    "col_ad_scenes": (MEDIA_URI, "multimodal_embedding", 16, 25),
}
_THINGS = ("shoe", "lamp", "watch", "chair", "phone", "bike")


def made(name: str, n: int, seed: int = 0, *, start: int = 0) -> list[dict]:
    """Return documents of a collection; more of them are of the same groups."""
    _, column, dim, n_groups = COLLECTIONS[name]
    centers = np.random.default_rng(seed).normal(size=(n_groups, dim)) * 4
    rng = np.random.default_rng([seed, start, 1])
    # a group of videos has groups in it, so that there is something to divide
    inner = rng.integers(0, 2, n)
    offsets = np.random.default_rng(seed + 7).normal(size=(n_groups, 2, dim))
    group = np.arange(n) % n_groups
    rows = centers[group] + 0.5 * offsets[group, inner] + 0.3 * rng.normal(size=(n, dim))
    return [_document(start + i, int(g), column, rows[i]) for i, g in enumerate(group)]


def stranger(name: str, seed: int = 0) -> dict:
    """Return a document that is like no other of a collection."""
    _, column, dim, n_groups = COLLECTIONS[name]
    centers = np.random.default_rng(seed).normal(size=(n_groups, dim))
    drawn = np.random.default_rng(5).normal(size=(20_000, dim))
    cosines = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)) @ (
        centers / np.linalg.norm(centers, axis=1, keepdims=True)
    ).T
    row = drawn[cosines.max(axis=1).argmin()]
    return {**_document(0, 0, column, row), "document_id": "stranger"}


def _document(number: int, group: int, column: str, row: np.ndarray) -> dict:
    thing = _THINGS[group % len(_THINGS)]
    return {
        "document_id": f"doc_{number}",
        "headline": f"The {thing} of kind {group}",
        "primary_text": f"Buy this {thing}, number {number}",
        "description": f"A {thing} for everybody",
        "metadata": {"description": f"{thing} {group}", "price": number % 50},
        "document_blobs": [{"url": f"https://cdn.example.com/{thing}/{number}.jpg"}],
        "source_blobs": [{"url": f"https://cdn.example.com/{thing}/{number}.mp4"}],
        column: row.round(4).tolist(),
    }


def stock(client, sizes: dict[str, int]) -> None:
    """Make the collections."""
    for name, n in sizes.items():
        uri, column, dim, _ = COLLECTIONS[name]
        features = {uri: {"column": column, "dim": dim}}
        answer = client.post("/v1/collections", json={"collection_id": name, "features": features})
        assert answer.status_code == 201, answer.text
        path = f"/v1/collections/{name}/documents"
        added = client.post(path, json={"documents": made(name, n)})
        assert added.is_success, added.text
