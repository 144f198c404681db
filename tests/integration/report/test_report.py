"""The report of a run, in a browser."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from gpucluster.report.page import as_json, make_page, packed, script_of
from gpucluster.report.points import Cloud, curve_order, encode
from tests.helpers.clouds import decode, parts_of
from tests.helpers.hostile import INERT, QUIET, TEXTS

DECODE = """([head, text]) => {
  %s
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const plain = (values) => values && [...values].map((x) => (Number.isNaN(x) ? null : x));
  const found = $blocks.columnsOf(head, bytes);
  return Object.fromEntries(Object.entries(found).map(([name, values]) => [name, plain(values)]));
}"""

CORNER = """() => {
  const paper = document.querySelector(".map + canvas").getContext("2d");
  return [...paper.getImageData(2, 2, 1, 1).data];
}"""
SWATCH = "() => document.querySelector('.clusters .swatch').style.background"
RIBBON = "() => [...document.querySelectorAll('.flow [fill]')].map((one) => one.outerHTML).join()"


def test_it_says_what_is_known_of_the_run(opened, world):
    run = world.run
    text = opened.inner_text("main")
    assert opened.inner_text("h1") == "topics"
    assert opened.title() == "topics: 6 clusters"
    assert run.run_id in text
    for title in ("Map", "Clusters", "Quality", "Since the run before", "Plan and what it took"):
        assert opened.is_visible(f"h2:text-is('{title}')"), title
    assert f"{run.metrics['silhouette_score']:.3f}" in text
    assert f"{run.external_metrics['ami']:.3f}" in text
    assert world.before.run_id in text
    for stage in run.manifest.stages:
        assert stage.name in text
    assert "gpucluster run " in text
    assert "All 220 documents are here with their texts." in text
    assert opened.query_selector("canvas").get_attribute("data-drawn") == "220"


def test_clusters_are_searched_opened_and_isolated_by_keyboard(opened, world):
    clusters = world.run.centroids.to_pylist()
    wanted = clusters[2]
    opened.fill(".clusters input", wanted["label"].upper())
    assert opened.inner_text(".clusters [role=status]") == "1 of 6"
    opened.focus(".opener")
    opened.keyboard.press("Enter")
    assert opened.get_attribute(".opener", "aria-expanded") == "true"
    shown = opened.inner_text(".examples")
    members = world.run.members.to_pylist()
    own = [each for each in members if each["cluster_index"] == 2]
    nearest = max(own, key=lambda each: each["cosine_similarity_to_centroid"])
    farthest = min(own, key=lambda each: each["cosine_similarity_to_centroid"])
    central, boundary = shown.split("At the boundary")
    assert nearest["document_id"] in central.split()
    assert farthest["document_id"] in boundary.split()
    opened.focus(".pick")
    opened.keyboard.press("Space")
    assert wanted["cluster_id"] in opened.inner_text(".chosen-cluster")
    assert opened.get_attribute(".clusters .pick", "aria-pressed") == "true"
    opened.focus("canvas")
    opened.keyboard.press("Escape")
    assert opened.inner_text(".chosen-cluster") == ""


def test_a_cluster_that_was_found_is_chosen_by_its_name_on_the_map(opened, world):
    wanted = world.run.centroids["label"][2].as_py()
    opened.fill(".clusters input", wanted)
    opened.click(".name[data-index='2']")
    assert wanted in opened.inner_text(".chosen-cluster h3")


def test_documents_are_found(opened):
    opened.fill(".finder input", "PIZZA delivered")
    assert re.fullmatch(r"\d+ of 220", opened.inner_text(".finder [role=status]"))
    entries = [each.inner_text() for each in opened.query_selector_all(".found li")]
    assert entries
    assert all("pizza delivered" in each for each in entries if "more" not in each)
    assert opened.get_attribute(".found li span", "dir") == "auto"  # its letters turn no id around
    opened.click(".found .pick")
    assert "pizza" in opened.inner_text(".chosen-cluster h3")


def test_the_picture_is_saved(opened):
    with opened.expect_download() as download:
        opened.click("text=Save")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_all_of_it_is_printed(opened):
    opened.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert len(opened.query_selector_all(".clusters .pick")) == 6
    opened.emulate_media(media="print")
    assert not opened.is_visible(".controls")
    assert opened.is_visible("canvas")
    assert len(opened.pdf()) > 10_000


def test_paper_is_light_and_the_screen_dark_again(tab, world):
    tab.emulate_media(color_scheme="dark")
    tab.show(world.file)
    tab.wait_for_selector("canvas[data-drawn]")
    ink = "() => getComputedStyle(document.body).color"
    assert tab.evaluate(ink) == "rgb(232, 235, 238)"
    tab.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(CORNER) == [255, 255, 255, 255]
    light = tab.evaluate(SWATCH), tab.evaluate(RIBBON)
    tab.emulate_media(color_scheme="dark", media="print")
    assert tab.evaluate(ink) == "rgb(21, 24, 28)"
    tab.emulate_media(color_scheme="dark", media="screen")
    tab.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert tab.query_selector(".map + canvas") is None
    assert tab.evaluate(SWATCH) != light[0]
    assert tab.evaluate(RIBBON) != light[1]


def test_it_fits_a_phone(tab, world):
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.show(world.file)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 360


def test_the_map_stays_in_its_place_when_it_is_tapped(tab, world):
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.show(world.file)
    name = tab.wait_for_selector(".names .name")
    name.scroll_into_view_if_needed()
    before, box = tab.evaluate("() => scrollY"), name.bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector(".chosen-cluster h3")
    assert tab.evaluate("() => scrollY") == before


def test_ids_are_of_one_element_each(opened):
    ids = opened.evaluate("() => [...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))


def test_a_page_has_one_script_and_says_so(world):
    text = world.file.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src &#x27;none&#x27;; script-src &#x27;sha256-")
    assert [directive.split()[0] for directive in policy.split("; ")] == [
        *("default-src", "script-src", "style-src", "base-uri", "form-action"),
        *("require-trusted-types-for", "trusted-types"),
    ]
    for unsafe in ("unsafe", "http", "data:", "blob:", "*", "self"):
        assert unsafe not in policy
    assert len(re.findall(r"<script type=\"module\"", text)) == 1
    assert re.findall(r"\s(?:src|href)=\"(?!#)", text) == []
    assert world.file.stat().st_size < 200_000


def test_points_are_read_as_they_were_written(tab):
    rng = np.random.default_rng(0)
    n = 400
    labels = rng.integers(-1, 4, n).astype(np.int32)
    coordinates = rng.normal(size=(n, 3)).astype(np.float32)
    similarity = np.where(labels < 0, np.nan, rng.random(n)).astype(np.float32)
    truth = rng.integers(-1, 300, n).astype(np.int32)
    cloud = Cloud(labels, coordinates, similarity, truth).take(curve_order(labels, coordinates))
    for one in (cloud, Cloud(cloud.labels, cloud.coordinates[:, :2], cloud.similarity)):
        head, content = encode(one)
        given = [head, base64.b64encode(content).decode()]
        code = script_of("blocks.js")
        found = tab.evaluate(DECODE % code, given)
        wanted = decode(head, content)
        assert found["cluster_index"] == wanted.labels.tolist()
        for axis, name in enumerate("xyz"[: one.coordinates.shape[1]]):
            np.testing.assert_allclose(found[name], wanted.coordinates[:, axis], atol=1e-5)
        own = [np.nan if each is None else each for each in found["similarity"]]
        np.testing.assert_allclose(own, wanted.similarity, atol=1e-6)
        if one.truth is not None:
            assert found["truth"] == wanted.truth.tolist()


@pytest.fixture(scope="module")
def hostile(world, tmp_path_factory):
    """The report with one of the texts in the place of every string that it holds."""
    contents, blocks = parts_of(world.file.read_bytes())
    number = 0

    def changed(value, key=None):
        nonlocal number
        if isinstance(value, dict):
            return {name: changed(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [changed(each, key) for each in value]
        if isinstance(value, str) or key in {"reason", "description", "summary"}:
            number += 1
            return TEXTS[number % len(TEXTS)]
        return value

    for block in ("clusters", "documents"):
        blocks[block] = as_json(changed(json.loads(blocks[block]))).encode()
    contents = changed(contents)
    contents["warnings"] = list(TEXTS)
    contents["not_run"] = contents["reasons"] = list(TEXTS[::10])
    contents["rejected"] = dict.fromkeys(TEXTS[::10], 1)
    assert number > 300
    file = tmp_path_factory.mktemp("hostile") / "hostile.html"
    packed_blocks = {name: packed(block) for name, block in blocks.items()}
    file.write_bytes(make_page("report.js", TEXTS[20], contents, packed_blocks))
    return file


def test_whatever_texts_hold_they_are_shown_as_text(tab, hostile):
    tab.show(hostile)
    assert tab.title() == TEXTS[20]
    listed = tab.inner_text(".notes:has(h2:text-is('Warnings'))")
    assert sum(text in listed for text in TEXTS) > 250  # white space may be shown otherwise
    for opener in range(6):
        tab.click(f".opener[data-examples='{opener}']")
        tab.click(f".clusters .pick[data-index='{opener}']")
    for summary in tab.query_selector_all("summary"):
        summary.click()
    tab.fill(".finder input", "script")
    tab.wait_for_selector(".found li")
    tab.fill(".clusters input", "<")
    box = tab.query_selector("canvas").bounding_box()
    for left in range(0, int(box["width"]), 40):
        tab.mouse.move(box["x"] + left, box["y"] + box["height"] / 2)
    assert tab.evaluate(INERT) == QUIET
