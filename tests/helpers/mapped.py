"""A map in a browser, without a server: its files are answered as the service sends them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpucluster.service.routes.page import HEADERS, files
from tests.helpers.browsing import browser

URL = "http://localhost/"  # which nobody asks: a page may do there what it may with HTTPS
SIZE = {"width": 900, "height": 700}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/page/base.css"><link rel="stylesheet" href="/page/map.css">
<main><section class="picture"></section></main></html>"""
SETUP = """async () => {
  const { ClusterMap, framed } = await import("/page/map.js");
  const { Points } = await import("/page/points.js");
  const number = (value) => (value === null ? NaN : value);
  const texts = (list) => list && { at: (i) => list[i] };
  window.pointsOf = ({ x, y, z, cluster, similarity, truth, classes, ids, texts: given }) => {
    const points = new Points(x.length);
    points.truthNames = classes ?? [];
    points.add({ length: x.length, columns: {
      x: Float32Array.from(x, number), y: Float32Array.from(y, number),
      z: Float32Array.from(z ?? x.map(() => null), number), cluster_index: Int32Array.from(cluster),
      similarity: similarity && Float32Array.from(similarity, number),
      truth: truth && Int32Array.from(truth), document_id: texts(ids), text: texts(given),
    } });
    return points;
  };
  window.show = (given, { parents, names } = {}) => {
    window.last?.abort();
    window.last = new AbortController();
    window.choices = [];
    window.drawn = [];
    window.map = new ClusterMap({ nameOf: (i) => names?.[i] ?? `cluster ${i}`, parents,
      choose: (i) => { choices.push(i); map.isolate(i === null ? null : new Set([i]), i); },
      signal: last.signal });
    document.querySelector("section").replaceChildren(framed(map));
    new MutationObserver(() => drawn.push(Number(map.canvas.dataset.drawn)))
      .observe(map.canvas, { attributes: true, attributeFilter: ["data-drawn"] });
    map.show(pointsOf(given));
  };
  window.look = async (given, more) => {
    const { Look } = await import("/page/looks.js");
    const all = { chosen: null, marked: null, hasNoise: true };
    return new Look(pointsOf(given), { theme: "light", colourBy: "cluster", ...all, ...more });
  };
  window.painted = async (name, look, width, height, radius, strength) => {
    const { GlDots } = await import("/page/gl.js");
    const { Dots } = await import("/page/dots.js");
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const painter = name === "gl" ? GlDots.on(canvas) : new Dots(canvas);
    painter.begin(look, { x: 0, y: 0, scale: 1 }, { radius, strength });
    for (const { order, length, isFaded } of look.layers()) painter.draw(order, 0, length, isFaded);
    painter.end();
    return pixels(canvas);
  };
  window.pixels = (canvas) => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.width, canvas.height, new Uint8Array(data.buffer).toBase64()];
  };
}"""


@contextmanager
def map_page(profile: Path) -> Iterator[Any]:
    """Yield a page that can show maps, under the service's policy; nothing may go wrong in it."""
    with browser(profile) as context:
        page = context.new_page()
        page.set_viewport_size(SIZE)
        page.set_default_timeout(15_000)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.route("**/*", _answer)
        page.goto(URL)
        page.evaluate(SETUP)
        yield page
        assert wrong == []


def _answer(route: Any) -> None:
    name = route.request.url.removeprefix(URL).removeprefix("page/")
    if name == "":
        route.fulfill(body=PAGE, content_type="text/html", headers=HEADERS)
    elif name in files():
        file = files()[name]
        route.fulfill(body=file.content, content_type=file.media_type, headers=HEADERS)
    else:
        route.abort()


def show(page: Any, given: dict[str, Any], **options: Any) -> None:
    """Show points on a new map."""
    page.evaluate("([given, options]) => show(given, options)", [_plain(given), options])
    settle(page)


def settle(page: Any) -> None:
    """Wait until all that is due is drawn."""
    page.evaluate("() => new Promise(requestAnimationFrame)")  # by then what changed is known
    page.wait_for_selector("canvas.map:not([data-due])")


def pixels(page: Any) -> np.ndarray:
    """Return the map's pixels: rows, columns, red, green, blue."""
    settle(page)
    return as_array(page.evaluate("() => pixels(map.canvas)"))


def as_array(found: list[Any]) -> np.ndarray:
    """Return pixels as they come from a page, without what covers them."""
    width, height, data = found
    parts = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
    return parts[:, :, :3].astype(np.int64)


def place(page: Any, given: dict[str, Any], index: int) -> tuple[float, float]:
    """Return where a point lies on a map that shows all: pixels from its left and its top."""
    box = page.query_selector("canvas.map").bounding_box()
    x, y = np.asarray(given["x"], float), np.asarray(given["y"], float)
    scale = 0.88 * min(box["width"] / np.ptp(x), box["height"] / np.ptp(y))
    left = (x[index] - (x.min() + x.max()) / 2) * scale + box["width"] / 2
    top = ((y.min() + y.max()) / 2 - y[index]) * scale + box["height"] / 2
    return float(left), float(top)


def hover(page: Any, left: float, top: float) -> None:
    """Move the mouse to a place on the map."""
    box = page.query_selector("canvas.map").bounding_box()
    page.mouse.move(box["x"] + left, box["y"] + top)


def islands(
    centres: list[tuple[float, float]], n_each: int = 40, spread: float = 0.3, seed: int = 0
) -> dict[str, Any]:
    """Return points around centres, a cluster each."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(len(centres)), n_each)
    at = np.array(centres)[cluster] + rng.normal(size=(len(cluster), 2)) * spread
    return {"x": at[:, 0].tolist(), "y": at[:, 1].tolist(), "cluster": cluster.tolist()}


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in given.items()}


def said(page: Any, selector: str) -> list[str]:
    """Return the texts of elements."""
    texts: list[str] = page.eval_on_selector_all(selector, "all => all.map((e) => e.innerText)")
    return texts
