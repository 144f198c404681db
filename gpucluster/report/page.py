"""A page in one file: markup, style, script and data, which loads nothing and asks nobody."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from gpucluster.report.bundle import bundle

STYLES: Final = ("base.css", "map.css", "report.css")

# The script and the style of the page, known by their digests; nothing else is loaded or run, and
# no way leads from a text to HTML, whatever names and documents hold.
_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="gpucluster">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to content</a>
<main id="content" tabindex="-1"><noscript>{title}. This report needs JavaScript.</noscript></main>
<div id="said" role="status" aria-live="polite"></div>
<script type="application/json" id="contents">{contents}</script>
{blocks}<script type="module">{script}</script>
</body>
</html>
"""
_BLOCK = '<script type="application/octet-stream;base64" id="{name}">{text}</script>\n'
# What could end the element that JSON stands in, or a line of a script.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


@cache
def web(name: str) -> str:
    """Return the text of a file of the browser's side."""
    return (resources.files("gpucluster.report") / "web" / name).read_text("utf-8")


@cache
def script_of(entry: str) -> str:
    """Return a module with all that it imports."""
    return bundle(entry, web)


def make_page(
    entry: str, title: str, contents: Mapping[str, Any], blocks: Mapping[str, bytes]
) -> bytes:
    """Return a page.

    Parameters
    ----------
    entry : str
        The module that fills it.
    title : str
    contents : mapping
        JSON values; NaN and infinite ones become null.
    blocks : mapping
        Content by name, as `packed` returns it.

    Returns
    -------
    bytes
        HTML in UTF-8.
    """
    style, script = "".join(map(web, STYLES)), script_of(entry)
    policy = _POLICY.format(script=_digest(script), style=_digest(style))
    text = _PAGE.format(
        policy=html.escape(policy),
        title=html.escape(title),
        style=style,
        script=script,
        contents=as_json(contents).translate(_ESCAPES),
        blocks="".join(
            _BLOCK.format(name=name, text=base64.b64encode(content).decode())
            for name, content in blocks.items()
        ),
    )
    return text.encode("utf-8", "replace")


def packed(content: bytes, level: int = 9) -> bytes:
    """Return what a block holds: a browser inflates it by itself."""
    return zlib.compress(content, level)


def as_json(value: Any) -> str:
    """Return JSON without blanks."""
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    """Return a value without numbers that JSON does not know."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
