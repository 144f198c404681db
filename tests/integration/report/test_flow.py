"""The flow between two runs in a report, in a browser, and beside the picture for papers."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

import gpucluster
from gpucluster.compared import Comparison, flow
from gpucluster.report.drawing.canvas import Look
from gpucluster.report.flow import Column, arrange
from gpucluster.report.page import make_page, packed
from gpucluster.report.run_flow import flow_since, pictured
from tests.helpers.clouds import parts_of
from tests.helpers.topics import documents


@pytest.fixture(scope="module")
def parts(world):
    """The contents of the report, and its blocks."""
    contents, blocks = parts_of(world.file.read_bytes())
    return contents, {name: packed(block) for name, block in blocks.items()}


def flow_of(n_clusters: int):
    """Return the flow between two runs of as many clusters, a few of which swap documents."""
    rng = np.random.default_rng(0)
    sizes = np.sort(rng.integers(5, 400, n_clusters))[::-1]
    own, moved = np.arange(n_clusters), sizes // 5
    columns = [
        Column(
            title=f"run_{title}",
            names=[f"{word} of cluster {i} that has a long name" for i in range(n_clusters)],
            sizes=sizes if word == "before" else sizes - moved + np.roll(moved, -1),
            n_noise=50,
            identity=np.arange(n_clusters, dtype=np.int32),
            was_born=np.arange(n_clusters) == (1 if word == "now" else -1),
            dies=np.arange(n_clusters) == (2 if word == "before" else -1),
        )
        for title, word in (("before", "before"), ("now", "now"))
    ]
    goes = np.column_stack((own, np.roll(own, 1), moved))
    links = np.concatenate((np.column_stack((own, own, sizes - moved)), goes))
    return pictured(*arrange(columns, [links]))


def test_it_says_what_the_picture_for_papers_says(world, parts):
    found = parts[0]["lineage"]["flow"]
    assert found == json.loads(json.dumps(flow_since(world.before, world.run)))
    compared = Comparison.of(world.before, world.run)
    written = {text.get_text() for text in flow([compared], Look()).axes[0].texts}
    told = {
        f"{bar['name']}{' (' + bar['fate'] + ')' if bar['fate'] else ''}  {bar['size']:,}"
        for side in found["columns"]
        for bar in side["bars"]
    }
    assert told == {text for text in written if "\n" not in text}
    counts = {link["num_shared"] for link in parts[0]["lineage"]["links"]}
    assert counts <= {n for _, _, n, _ in found["ribbons"]}


def test_names_and_ribbons_say_how_many_documents(opened, parts):
    found = parts[0]["lineage"]["flow"]
    before, now = (side["bars"] for side in found["columns"])
    left, right, n, _ = found["ribbons"][0]
    shape = opened.query_selector(".flow path")
    shape.scroll_into_view_if_needed()
    shape.hover()
    words = f"{before[left]['name']} to {now[right]['name']}: {n} documents."
    assert opened.inner_text(".flow figcaption") == words
    assert len(opened.query_selector_all(".flow path:not(.faint)")) == 1
    place = next(i for i, bar in enumerate(now) if bar["cluster"] >= 0)
    opened.focus(".flow ol:last-child button >> nth=0")
    said = opened.inner_text(".flow figcaption")
    assert said.startswith(f"{now[place]['name']}: {now[place]['size']} documents; ")
    lit = [ribbon for ribbon in found["ribbons"] if ribbon[1] == place]
    told = [int(n) for n in re.findall(r"(\d+) of ", said)]
    assert sorted(told) == sorted(n for _, _, n, _ in lit)
    assert len(opened.query_selector_all(".flow path:not(.faint)")) == len(lit)
    opened.focus(".flow ol:first-child li")
    assert opened.inner_text(".flow figcaption").startswith(f"{before[0]['name']}: ")


def test_a_cluster_is_isolated_by_its_name(opened, world):
    opened.focus(".flow button[data-index='3']")
    opened.keyboard.press("Enter")
    assert world.run.centroids["cluster_id"][3].as_py() in opened.inner_text(".chosen-cluster")
    assert opened.get_attribute(".clusters .pick[data-index='3']", "aria-pressed") == "true"
    top = opened.query_selector("canvas").bounding_box()["y"]
    assert 0 <= top < 860


@pytest.mark.parametrize("n_clusters", [5, 200])
def test_it_is_read_however_many_clusters_there_are(tab, parts, tmp_path, n_clusters):
    contents = parts[0] | {"lineage": parts[0]["lineage"] | {"flow": flow_of(n_clusters)}}
    file = tmp_path / "report.html"
    file.write_bytes(make_page("report.js", "many", contents, parts[1]))
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.show(file)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 360
    for side in ("first", "last"):
        items = tab.query_selector_all(f".flow ol:{side}-child li")
        assert len(items) == min(n_clusters, 37) + 1  # others, noise
        boxes = [item.bounding_box() for item in items]
        for upper, lower in pairwise(boxes):
            assert upper["y"] + upper["height"] <= lower["y"] + 0.1
        texts = [item.inner_text() for item in items]
        assert any(("born" if side == "last" else "died") in text for text in texts)
        assert any(re.search("164 others", text) for text in texts) == (n_clusters == 200)
    shapes = tab.eval_on_selector_all(".flow path", "all => all.map((e) => e.getAttribute('d'))")
    places = np.array([re.findall(r"[-\d.]+", shape) for shape in shapes], float)
    tops, bottoms = places[:, [1, 7]], places[:, [14, 8]]  # on the left, on the right
    for top, bottom in zip(tops.T, bottoms.T, strict=True):  # none covers another on a bar
        order = np.argsort(top)
        assert (bottom > top).all()
        assert (bottom[order][:-1] <= top[order][1:] + 1e-6).all()
    tab.focus(".flow ol:last-child button >> nth=0")
    said = tab.inner_text(".flow figcaption").split("; ")[1]
    told = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) of ", said)]
    assert len(told) > 1 or n_clusters == 200  # of which some ribbons are too thin
    assert told == sorted(told, reverse=True)
    light = tab.get_attribute(".flow rect", "fill")
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_selector(f".flow rect:first-of-type:not([fill='{light}'])", state="attached")
    assert tab.get_attribute(".flow rect", "fill") != light
    tab.emulate_media(media="print")
    assert tab.is_visible(".flow svg")
    assert tab.is_visible(".flow .pick")


def test_a_cluster_keeps_its_colour_when_it_has_another_number(tmp_path):
    table = documents(240, topics=3)
    topics = np.array(table["topic"].to_pylist())
    names = [*dict.fromkeys(topics.tolist())]
    rank = np.array([np.flatnonzero(topics[:row] == topics[row]).size for row in range(240)])
    runs = []
    for most in ((60, 40, 20), (20, 40, 60)):  # numbers follow sizes
        kept = rank < np.array(most)[[names.index(topic) for topic in topics]]
        runs.append(
            gpucluster.cluster(
                table.filter(pa.array(kept)),
                algorithm="kmeans",
                algorithm_params={"n_clusters": 3},
                out=tmp_path,
            )
        )
    found = flow_since(*runs)
    before, now = (side["bars"] for side in found["columns"])
    assert {bar["cluster"]: bar["colour"] for bar in before} == {0: 2, 1: 1, 2: 0}
    assert {bar["cluster"]: bar["colour"] for bar in now} == {0: 0, 1: 1, 2: 2}
    assert [(before[left]["colour"], n) for left, _, n, _ in found["ribbons"]] == [
        (now[right]["cluster"], min(before[left]["size"], now[right]["size"]))
        for left, right, *_ in found["ribbons"]
    ]


def test_without_the_run_before_it_says_why(tab, parts, tmp_path):
    contents = parts[0] | {"lineage": parts[0]["lineage"] | {"flow": None}}
    file = tmp_path / "report.html"
    file.write_bytes(make_page("report.js", "gone", contents, parts[1]))
    tab.show(file)
    assert "The flow is not drawn" in tab.inner_text("main")
    assert tab.query_selector(".flow") is None
