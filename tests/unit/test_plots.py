"""What pictures are made of: places of names, distances, trees; and few of them, dot by dot."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.font_manager import fontManager
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from gpucluster.artifacts.condensed_tree import TREE, density_tree, tree_table
from gpucluster.errors import ConfigError, FallbackWarning
from gpucluster.ops.distances import kth_distances
from gpucluster.report.drawing.canvas import (
    MOST_MISSING,
    Look,
    cut,
    drawing,
    encoded,
    shorten,
)
from gpucluster.report.drawing.cluster_plots import draw_silhouettes, draw_sizes
from gpucluster.report.drawing.distance_plot import knee
from gpucluster.report.drawing.flow_plot import draw_flow
from gpucluster.report.drawing.map_plot import Dots, draw_map
from gpucluster.report.drawing.placing import place
from gpucluster.report.drawing.tree_plot import draw_density_tree, draw_levels
from gpucluster.report.flow import Column
from gpucluster.types import DensityTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCES = Path(__file__).parents[1] / "data" / "plots"
NEAR = 40  # of 255, by which a dot may differ from the reference
FEW = 0.02  # of the dots may differ by more: text lies a hair elsewhere with another FreeType

TREE_OF_THREE = DensityTree(
    parent=np.array([-1, 0, 0, 1, 1], np.int32),
    birth=np.array([0.0, 0.5, 0.5, 1.0, 1.0]),
    size=np.array([40, 20, 15, 9, 8]),
    cluster=np.array([-1, -1, 0, 1, 2], np.int32),
    row_node=np.repeat(np.arange(5, dtype=np.int32), (5, 3, 15, 9, 8)),
    row_density=np.concatenate(
        (
            np.linspace(0.2, 0.5, 5),
            np.linspace(0.6, 1.0, 3),
            np.linspace(0.6, 3.0, 15),
            np.linspace(1.1, 4.0, 9),
            np.linspace(1.2, 2.0, 8),
        )
    ),
)


def lengths(most: float) -> st.SearchStrategy[float]:
    return st.floats(0, most, allow_nan=False)


@given(
    st.lists(st.tuples(lengths(60), lengths(20), lengths(200), lengths(100)), max_size=30),
    st.integers(1, 30),
)
def test_no_name_covers_another_or_leaves_the_picture(
    boxes: list[tuple[float, float, float, float]], most: int
) -> None:
    sizes = [(width + 1, height + 1) for width, height, _, _ in boxes]
    anchors = [(x, y) for _, _, x, y in boxes]
    placed = place(sizes, anchors, (0, 0, 200, 100), most=most)
    assert len(placed) <= most
    found = [
        (x - sizes[i][0] / 2, y - sizes[i][1] / 2, x + sizes[i][0] / 2, y + sizes[i][1] / 2)
        for i, x, y in placed
    ]
    assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= 200 and b[3] <= 100 for b in found)
    for one, other in combinations(found, 2):
        assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]


def test_the_first_name_has_the_place_that_it_wants() -> None:
    placed = place([(20, 10)] * 2, [(50, 50)] * 2, (0, 0, 100, 100), most=2, steps=((0, 0), (0, 1)))
    assert placed == [(0, 50, 50), (1, 50, 60)]


@pytest.mark.parametrize("p", [2.0, 1.0, 3.0])
@pytest.mark.parametrize("far", [0, 1000])
def test_distances_to_the_kth_neighbour(
    p: float, far: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpucluster.ops.distances.rows_per_block", lambda *_: 70)
    X = (far + np.random.default_rng(0).normal(size=(300, 6))).astype(np.float32)
    asked = np.array([0, 7, 299])
    found = kth_distances(X, asked, 4, p=p)
    exact = NearestNeighbors(n_neighbors=5, p=p, metric="minkowski", algorithm="brute")
    expected = exact.fit(X.astype(np.float64)).kneighbors(X[asked].astype(np.float64))[0][:, -1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_knee_is_where_the_curve_bends() -> None:
    curve = np.concatenate((np.linspace(0.1, 0.2, 90), np.linspace(0.25, 2.0, 10)))
    assert 0.19 <= knee(curve) <= 0.25
    assert knee(np.full(5, 0.3)) == 0.3
    assert knee(np.array([0.5])) == 0.5
    assert knee(np.array([0.0, 0.9, 1.0])) == 1.0  # it bends nowhere downwards


def test_a_tree_survives_its_table() -> None:
    rows = np.arange(100, 140)
    table = tree_table(TREE_OF_THREE, rows)
    assert table.schema.equals(TREE)
    assert table["cluster_id"].to_pylist()[:5] == [None, None, "cl_0", "cl_1", "cl_2"]
    assert table["parent"].to_pylist()[:5] == [None, 0, 0, 1, 1]
    assert table["child"].null_count == 40
    assert sorted(table["row"].drop_null().to_pylist()) == rows.tolist()
    found = density_tree(table)
    for name in ("parent", "birth", "size", "cluster"):
        np.testing.assert_array_equal(getattr(found, name), getattr(TREE_OF_THREE, name))
    np.testing.assert_array_equal(np.bincount(found.row_node), [5, 3, 15, 9, 8])


def test_text_is_one_line_that_fits() -> None:
    assert cut("a\n\x1b[31m  b") == "a ?[31m b"
    assert cut("x" * 40) == "x" * 31 + "\u2026"
    assert cut("x" * 32) == "x" * 32
    assert cut("\u65e5" * 40) == "\u65e5" * 15 + "\u2026"  # as wide
    assert cut("") == ""


def test_text_is_cut_to_its_width() -> None:
    with drawing():
        figure = Look().page(4, 1)
        wide, narrow = figure.text(0, 0, "W" * 30), figure.text(0, 0, "i" * 30)
    for text in (wide, narrow):
        shorten(text, 250)
        assert text.get_window_extent().width <= 250
    assert narrow.get_text() == "i" * 30
    assert 5 < len(wide.get_text()) < 20
    assert wide.get_text().endswith("\u2026")


def test_characters_without_a_font_are_told_once() -> None:
    nowhere = "".join(chr(0xE000 + n) for n in range(MOST_MISSING + 1))
    with drawing():
        figure = Look().page(4, 1)
        figure.text(0, 0, nowhere + nowhere)
    with pytest.warns(FallbackWarning, match="and others: boxes stand for them") as told:
        encoded(figure, "png", 50)
    assert len(told) == 1


def test_texts_of_any_script_look_for_a_font_that_has_them(monkeypatch, caplog) -> None:
    installed = fontManager.ttflist[0]
    monkeypatch.setattr(
        fontManager, "ttflist", [*fontManager.ttflist, replace(installed, name="Symbola")]
    )
    with drawing():
        figure = Look().page(4, 1)
        figure.text(0, 0, "card")
    text = encoded(figure, "svg", 50).decode()
    assert "'DejaVu Sans', 'Symbola'" in text
    assert not [each for each in caplog.records if "not found" in each.message]


@pytest.mark.parametrize(
    ("look", "says"),
    [
        (Look(theme="blue"), "theme: got 'blue', expected light, dark"),
        (Look(theme=["dark"]), "theme: got ['dark']"),  # type: ignore[arg-type]
        (Look(width=0.5), "width: got 0.5, expected 1 to 50 inches"),
        (Look(height=float("nan")), "height: got nan"),
        (Look(width="6"), "width: got '6'"),  # type: ignore[arg-type]
        (Look(dpi=0), "dpi: got 0, expected 20 to 1200"),
        (Look(dpi="300"), "dpi: got '300'"),  # type: ignore[arg-type]
    ],
)
def test_a_look_has_bounds(look: Look, says: str) -> None:
    with pytest.raises(ConfigError) as found:
        look.checked()
    assert says in str(found.value)


def test_a_page_has_no_more_dots_than_memory() -> None:
    with pytest.raises(ConfigError, match=r"50 by 50 inches are 3,600,000,000 dots at 1200 an"):
        Look(width=50, height=50, dpi=1200).page(6, 4)


def flow_of_two() -> Figure:
    before = Column(
        title="before",
        names=["money", "cards", "old $x$"],
        sizes=np.array([50, 40, 20]),
        n_noise=5,
        identity=np.array([0, 1, -1], np.int32),
        was_born=np.zeros(3, bool),
        dies=np.array([False, False, True]),
    )
    after = Column(
        title="after",
        names=["money", "cards", "new"],
        sizes=np.array([60, 35, 15]),
        n_noise=10,
        identity=np.arange(3, dtype=np.int32),
        was_born=np.array([False, False, True]),
        dies=np.zeros(3, bool),
    )
    links = np.array([[0, 0, 50], [1, 0, 8], [1, 1, 32], [2, -1, 10], [-1, 1, 3]])
    return draw_flow([before, after], [links], Look(width=5, height=3))


def test_a_flow_names_what_died_and_what_was_born() -> None:
    with drawing():
        figure = flow_of_two()
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"old $x$ (died)  20", "new (born)  15", "noise  5", "money  60"} <= texts
    assert "before\n3 clusters" in texts


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("width", [None, 5])
def test_nothing_of_a_flow_is_cut_off_by_the_page(number: int, width: float | None) -> None:
    columns = [
        Column(
            title=f"run_{n}{'abcdef' * 4} 2026-11-29",
            names=["virtual card, disposable, topping up", "\u65e5\u672c\u8a9e" * 9],
            sizes=np.array([50_000, 40_000]),
            n_noise=0,
            identity=np.arange(2, dtype=np.int32),
            was_born=np.array([n > 0, False]),
            dies=np.array([n == 0, False]),
        )
        for n in range(number)
    ]
    links = [np.array([[0, 0, 50_000], [1, 1, 40_000]])] * (number - 1)
    with drawing():
        figure = draw_flow(columns, links, Look(width=width))
        page = figure.bbox
        for text in figure.axes[0].texts:
            box = text.get_window_extent()
            assert page.x0 <= box.x0 <= box.x1 <= page.x1, text.get_text()
    names = {text.get_text() for text in figure.axes[0].texts}
    assert any(name.endswith("(died)  50,000") for name in names)


def test_small_sizes_are_counted_in_whole_documents() -> None:
    with drawing():
        figure = draw_sizes(
            np.array([2, 1]),
            np.arange(2, dtype=np.int32),
            ["a", "b"],
            Look(),
            n_noise=0,
            entropy=0.9,
        )
        figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == sorted(set(labels))


def test_many_clusters_flow_together() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 100, 200)
    columns = [
        Column(
            title=title,
            names=[f"cl_{i}" for i in range(200)],
            sizes=sizes,
            n_noise=0,
            identity=np.arange(200, dtype=np.int32),
            was_born=np.zeros(200, bool),
            dies=np.zeros(200, bool),
        )
        for title in ("one", "two", "three")
    ]
    links = np.column_stack((np.arange(200), np.arange(200), sizes))
    with drawing():
        figure = draw_flow(columns, [links, links], Look())
    texts = [text.get_text() for text in figure.axes[0].texts]
    rest = int(np.sort(sizes)[: 200 - 36].sum())
    assert texts.count(f"164 others  {rest:,}") == 2  # those in the middle have no names


def map_of_four() -> Figure:
    rng = np.random.default_rng(1)
    middles = np.array([(0, 0), (6, 1), (2, 5), (7, 6)], np.float32)
    groups = np.repeat(np.array([0, 1, 2, -1], np.int32), 200)
    points = middles[groups] + rng.normal(size=(800, 2)).astype(np.float32) / 2
    return draw_map(
        Dots(points.astype(np.float32), groups, ["one", "two", "three"]),
        Look(width=4, height=3),
        legend=False,
    )


def tree_of_three() -> Figure:
    return draw_density_tree(TREE_OF_THREE, ["one", "two", "three"], Look(width=4, height=3))


def levels_of_five() -> Figure:
    parents = np.array([-1, -1, 0, 0, 1], np.int32)
    names = ["money", "cards", "loans", "rates", "lost cards"]
    sizes = np.array([60, 40, 30, 25, 35])
    return draw_levels(parents, sizes, names, Look("dark", width=4), n_noise=10)


@pytest.mark.parametrize("drawn", [map_of_four, tree_of_three, levels_of_five, flow_of_two])
def test_pictures_are_those_that_were_looked_at(drawn) -> None:
    with drawing():
        content = encoded(drawn(), "png", 60)
    files = io.BytesIO(content), REFERENCES / f"{drawn.__name__}.png"
    found, expected = (np.asarray(Image.open(f).convert("RGB"), np.int16) for f in files)
    assert found.shape == expected.shape
    assert (np.abs(found - expected).max(axis=2) > NEAR).mean() < FEW


def test_depth_is_the_size_of_a_dot() -> None:
    points = np.array([[0, 0, 0], [1, 1, 5]], np.float32)
    with drawing():
        dots = Dots(points, np.array([0, 0], np.int32), ["one"])
        figure = draw_map(dots, Look(), legend=False)
    sizes = np.concatenate([each.get_sizes() for each in figure.axes[0].collections])
    assert sizes.max() / sizes.min() == pytest.approx(5)


def test_of_many_clusters_the_largest_have_silhouettes() -> None:
    labels = np.repeat(np.arange(100, dtype=np.int32), np.arange(102, 2, -1))
    values = np.random.default_rng(0).uniform(-0.2, 0.9, len(labels)).astype(np.float32)
    with drawing():
        figure = draw_silhouettes(values, labels, [f"cl_{i}" for i in range(100)], Look())
    assert len(figure.axes[0].collections) == 80
    assert figure.texts[0].get_text() == "the largest 80 of 100 clusters"
    mean = next(t.get_text() for t in figure.axes[0].texts if t.get_text().startswith("mean"))
    assert mean == f"mean {values.mean():.3f}"
