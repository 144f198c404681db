"""The page for people: a fixed set of files, which come with the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from fastapi import APIRouter, Request, Response

from gpucluster.service.refusals import NotFoundError

router = APIRouter(include_in_schema=False)

MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Whatever a name or label holds, a browser loads, runs and sends nothing but what is listed here.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",  # a browser asks whether it is still so, by the ETag
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


@cache
def files() -> dict[str, _File]:
    """Return the files of the page by their names."""
    found = {}
    own = resources.files("gpucluster.service").joinpath("page").iterdir()
    shared = resources.files("gpucluster.report").joinpath("web").iterdir()  # with reports
    for entry in (*own, *shared):
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in MEDIA_TYPES:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = _File(content, MEDIA_TYPES[suffix], etag)
    return found


@router.get("/")
def page(request: Request) -> Response:
    """Return the page."""
    return _answer("index.html", request)


@router.get("/page/{name}")
def part(name: str, request: Request) -> Response:
    """Return a file that the page loads."""
    return _answer(name, request)


def _answer(name: str, request: Request) -> Response:
    file = files().get(name)
    if file is None:
        raise NotFoundError("there is no such file")
    headers = HEADERS | {"ETag": file.etag}
    known = request.headers.get("if-none-match", "")
    if file.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
