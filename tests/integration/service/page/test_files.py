"""The files of the page: which there are, how they are sent, and that they need no others."""

from __future__ import annotations

import http.client
import re

import httpx2
import pytest

from gpucluster.service.routes.page import HEADERS, files


def test_the_page_is_sent_with_what_it_may_do(world):
    answer = httpx2.get(f"{world.url}/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in answer.headers["Content-Security-Policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", sorted(files()))
def test_a_file_is_sent_once(world, name):
    url = f"{world.url}/page/{name}"
    first = httpx2.get(url)
    assert first.status_code == 200
    assert first.content == files()[name].content
    assert HEADERS.items() <= {k.title(): v for k, v in first.headers.items()}.items()
    tag = first.headers["ETag"]
    again = httpx2.get(url, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert httpx2.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *("page/", "page", "page/app.py", "page/..", "page/../app.py", "page/%2e%2e%2fapp.py"),
        *("page/..%2fpage%2findex.html", "page/%2fetc%2fpasswd", "page//x"),
        *("page/..%5capp.py", "page/main.js%00.css", "page/MAIN.JS", "index.html", "favicon.ico"),
    ],
)
def test_nothing_else_is_sent(world, path):
    connection = http.client.HTTPConnection(world.url.removeprefix("http://"))
    connection.request("GET", f"/{path}")  # as it stands: other clients tidy it up
    assert connection.getresponse().status == 404
    connection.close()


def test_files_name_only_each_other():
    names = set(files())
    for name, file in files().items():
        text = file.content.decode()
        named = re.findall(r"""(?:from|import\() ?["']\./([\w.-]+)["']""", text)
        named += re.findall(r"""["']/page/([\w.-]+)["']""", text)
        assert set(named) <= names, name
        addresses = set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^\s"']*""", text))
        assert {each for each in addresses if not each.endswith("www.w3.org/2000/svg")} == set()
        assert len(text.splitlines()) <= 400, name
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert sink not in text, name
        if name.endswith(".html"):
            assert re.findall(r"\son\w+=|<style|style=|<script(?![^>]*\ssrc=)", text) == []
