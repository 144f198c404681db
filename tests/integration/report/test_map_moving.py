"""How a map is used: names, what is under the pointer, hands, keys, and what is saved."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from tests.helpers.mapped import (
    SIZE,
    as_array,
    hover,
    islands,
    map_page,
    pixels,
    place,
    said,
    settle,
    show,
)

BOXES = """() => [...document.querySelectorAll(".name")].map((each) => {
  const { left, top, right, bottom } = each.getBoundingClientRect();
  const room = map.canvas.getBoundingClientRect();
  return [left - room.left, top - room.top, right - room.left, bottom - room.top];
})"""
NAMES = "() => [...document.querySelectorAll('.name')].map((each) => Number(each.dataset.index))"
READ = """async (text) => pixels(await createImageBitmap(
  new Blob([Uint8Array.fromBase64(text)], { type: "image/png" })))"""
FAMILIES = [None, None, 0, 0, 0, 1, 1, 1]  # two clusters of three each
NESTS = [(-9, 0), (-8, 2), (-8, -2), (9, 0), (8, 2), (8, -2)]


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    with map_page(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browsed):
    yield browsed
    browsed.mouse.move(1, 1)


def nested(n_each=60):
    """Two clusters of three each, of which only the lower ones have points of their own."""
    given = islands(NESTS, n_each)
    return given | {"cluster": [index + 2 for index in given["cluster"]]}


def names(page):
    settle(page)
    return set(page.evaluate(NAMES))


def apart(boxes, gap=0.0):
    left, top, right, bottom = np.array(boxes).reshape(-1, 4).T
    meets = (left[:, None] < right + gap) & (left < right[:, None] + gap)
    meets &= (top[:, None] < bottom + gap) & (top < bottom[:, None] + gap)
    return not np.triu(meets, 1).any()


def test_names_never_overlap_wherever_clusters_lie(page):
    rng = np.random.default_rng(0)
    for _ in range(40):
        n = int(rng.integers(1, 60))
        room = {"width": float(rng.uniform(120, 900)), "height": float(rng.uniform(100, 600))}
        wanted = [
            {
                "index": i,
                "left": rng.uniform(-50, room["width"] + 50),
                "top": rng.uniform(-50, room["height"] + 50),
                "width": rng.uniform(10, 200),
                "height": rng.uniform(10, 40),
                "reach": rng.uniform(0, 60),
                "shift": [None, -1, 0, 1][rng.integers(4)],
            }
            for i in range(n)
        ]
        most = int(rng.integers(1, 40))
        placed = page.evaluate(
            """async ([wanted, room, most]) =>
              (await import("/page/names.js")).arranged(wanted, room, most)""",
            [wanted, room, most],
        )
        assert len(placed) <= most
        boxes = np.array([each["box"] for each in placed]).reshape(-1, 4)
        assert apart(boxes)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= room["width"] + 1e-6).all()
        assert (boxes[:, 3] <= room["height"] + 1e-6).all()
        inside = [
            w
            for w in wanted
            if 0 <= w["left"] <= room["width"]
            and 0 <= w["top"] <= room["height"]
            and w["width"] + 4 <= room["width"]
        ]
        assert bool(placed) == bool(inside)
        if inside:
            assert placed[0]["index"] == inside[0]["index"]  # the first has all the room


@pytest.mark.parametrize("seed", range(3))
def test_names_on_a_map_never_overlap(page, seed):
    rng = np.random.default_rng(seed)
    centres = [tuple(each) for each in rng.normal(size=(60, 2)) * 5]
    words = ["a", "lost card", "what is the exchange rate, euro", "<img src=x onerror=alert(1)>"]
    called = [f"{words[i % 4]} {i}" for i in range(60)]
    show(page, islands(centres, 12, seed=seed), names=called)
    for act in ("map.move(0, 0)", "map.zoom(2, 300, 200)", "map.move(37, -21)", "map.zoom(0.7)"):
        page.evaluate(f"() => {act}")
        settle(page)
        boxes = page.evaluate(BOXES)
        assert len(boxes) >= 5
        assert apart(boxes)


def test_children_are_named_as_one_comes_nearer(page):
    show(page, nested(), parents=FAMILIES)
    assert names(page) == {0, 1}
    left, top = place(page, nested(), 0)
    page.evaluate("([left, top]) => map.zoom(2, left, top)", [left, top])
    assert {2, 3, 4} <= names(page)
    assert 0 not in names(page)
    page.evaluate("() => map.reset()")
    assert names(page) == {0, 1}
    page.evaluate("() => map.isolate(new Set([1, 5, 6, 7]))")  # who looks at one sees its parts
    assert names(page) == {5, 6, 7}
    page.evaluate("() => map.isolate(new Set([6]))")
    assert names(page) == {6}
    page.evaluate("() => { map.isolate(null); map.highlight(new Set([0, 1])); }")
    assert names(page) == {0}  # only what holds a marked point, or lies above it
    page.evaluate("() => map.highlight(null)")
    assert names(page) == {0, 1}


def test_names_stay_while_the_map_moves(page):
    rng = np.random.default_rng(5)
    show(page, islands([tuple(each) for each in rng.normal(size=(80, 2)) * 5], 10))
    page.evaluate("() => map.zoom(2)")
    settle(page)
    for _ in range(6):
        before = dict(zip(page.evaluate(NAMES), page.evaluate(BOXES), strict=True))
        page.evaluate("() => map.move(-12, 9)")
        after = names(page)
        kept = {
            index
            for index, (left, top, right, bottom) in before.items()
            if left > 100 and top > 60 and right < 724 and bottom < 430
        }
        assert kept <= after


def test_a_name_lies_where_its_cluster_is_densest(page):
    rng = np.random.default_rng(0)
    large, small = rng.normal(size=(90, 2)), rng.normal((30, 0), 1, (60, 2))
    at = np.concatenate([large, small, [[0, -20], [30, 20]]])
    given = {"x": at[:, 0], "y": at[:, 1], "cluster": np.zeros(len(at), int)}
    show(page, given)
    ((left, top, right, bottom),) = page.evaluate(BOXES)
    island = np.array([place(page, given, i) for i in range(90)])
    assert island[:, 0].min() < (left + right) / 2 < island[:, 0].max()
    assert island[:, 1].min() - 40 < (top + bottom) / 2 < island[:, 1].max() + 40


def test_a_name_chooses_its_cluster_by_mouse_and_keyboard(page):
    show(page, islands([(0, 0), (10, 4)]), names=["one", "<b>two</b>"])
    page.click(".name:has-text('<b>two</b>')")
    assert page.evaluate("() => choices") == [1]
    settle(page)
    assert page.get_attribute(".name[data-index='1']", "aria-pressed") == "true"
    page.focus("canvas.map")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # again: ends it
    assert page.evaluate("() => choices") == [1, None]
    settle(page)
    page.keyboard.press("ArrowLeft")  # keys move the map from here too
    page.keyboard.press("Escape")
    assert page.evaluate("() => choices") == [1, None, None]
    settle(page)
    assert page.get_attribute(".name[data-index='0']", "aria-label") == "one, 40 documents"


def test_of_names_in_what_is_isolated_only_the_picked_one_is_pressed(page):
    show(page, nested(), parents=FAMILIES)
    page.evaluate("() => map.isolate(new Set([0, 2, 3, 4]), 0)")
    assert names(page) == {2, 3, 4}
    page.click(".name[data-index='3']")  # a part of it, which was not picked yet
    page.evaluate("() => map.isolate(new Set([0, 2, 3, 4]))")  # what a search found
    settle(page)
    page.click(".name[data-index='2']")
    assert page.evaluate("() => choices") == [3, 2]


@pytest.mark.parametrize("is_deep", [False, True])
def test_the_nearest_bright_dot_is_found(page, is_deep):
    rng = np.random.default_rng(int(is_deep))
    n, reach, radius = 700, 0.6, 0.4
    given = {
        "x": rng.normal(size=n),
        "y": rng.normal(size=n),
        "z": rng.normal(size=n) if is_deep else None,
        "cluster": rng.integers(-1, 4, n),
    }
    given = {k: None if v is None else v.astype(np.float32).tolist() for k, v in given.items()}
    at = rng.normal(size=(200, 2)) * 1.5
    marked = rng.permutation(n)[:500].tolist()
    found = page.evaluate(
        """async ([given, at, marked, reach, radius]) => {
          const { Grid } = await import("/page/picking.js");
          const seen = { chosen: new Set([-1, 0, 2]), marked: new Set(marked), hasNoise: false };
          const grid = new Grid(await look(given, seen));
          return at.map(([x, y]) => grid.nearest(x, y, reach / 10, radius / 10));
        }""",
        [given, at.tolist(), marked, reach, radius],
    )
    x, y, cluster = (np.array(given[key]) for key in ("x", "y", "cluster"))
    bright = np.isin(cluster, [0, 2]) & np.isin(np.arange(n), marked)
    sizes = np.ones(n)
    if is_deep:
        z = np.array(given["z"])
        sizes = 0.6 + 1.6 * (z - z.min()) / (z.max() - z.min())
    for (left, top), index in zip(at, found, strict=True):
        away = np.hypot(x - left, y - top)
        edge = np.maximum(0, away - sizes * radius / 10)
        near = bright & (edge <= reach / 10)
        best = np.lexsort((away, np.where(near, edge, np.inf)))[0] if near.any() else -1
        assert index == best


def test_what_is_under_the_pointer_is_said(page):
    given = islands([(0, 0), (10, 6)], 1) | {
        "similarity": [0.25, None],
        "truth": [1, -1],
        "classes": ["no", "yes"],
        "ids": ["first", None],
        "texts": ["long " * 200, None],
    }
    show(page, given, names=["one", "two"])
    left, top = place(page, given, 0)
    hover(page, left + 6, top)
    assert page.is_visible(".tip")
    name, ident, text, more = said(page, ".tip > *")
    assert (name, ident, more) == ("one", "first", "similarity 0.250 · yes")
    assert 200 < len(text) < 260
    hover(page, left + 40, top)
    assert page.is_hidden(".tip")
    hover(page, *place(page, given, 1))
    assert said(page, ".tip > *") == ["two", "its id is not on this page"]
    page.evaluate("() => map.isolate(new Set([0]))")
    hover(page, 5, 5)
    hover(page, *place(page, given, 1))
    assert page.is_hidden(".tip")  # what is faded says nothing


def test_a_click_chooses_and_a_drag_moves(page):
    given = islands([(0, 0), (10, 6)], 1)
    show(page, given)
    before = pixels(page)
    box = page.query_selector("canvas.map").bounding_box()
    left, top = place(page, given, 0)
    page.mouse.click(box["x"] + left, box["y"] + top)
    page.mouse.click(box["x"] + left + 60, box["y"] + top)
    assert page.evaluate("() => choices") == [0, None]
    page.mouse.move(box["x"] + left, box["y"] + top)
    page.mouse.down()
    page.mouse.move(box["x"] + left + 50, box["y"] + top + 20, steps=4)
    page.mouse.up()
    assert page.evaluate("() => choices") == [0, None]
    moved = pixels(page)
    np.testing.assert_array_equal(moved[60:, 90:], before[40:-20, 40:-50])
    page.keyboard.press("0")
    np.testing.assert_array_equal(pixels(page), before)


def test_the_wheel_keeps_what_lies_under_it(page):
    given = islands([(0, 0), (10, 6), (3, 4)], 1)
    show(page, given)
    left, top = place(page, given, 0)
    hover(page, left, top)
    before = pixels(page)
    page.mouse.wheel(0, -400)
    after = pixels(page)
    assert not np.array_equal(after, before)
    at = int(top), int(left)
    np.testing.assert_allclose(after[at], before[at], atol=12)
    assert np.abs(before[at] - 255).sum() > 60


def test_dots_grow_less_than_what_lies_between_them(page):
    given = islands([(0, 0), (10, 6), (3, 4)], 1)
    show(page, given)
    left, top = (int(each) for each in place(page, given, 0))

    def ink():
        part = pixels(page)[top - 20 : top + 21, left - 20 : left + 21]
        return (np.abs(part - 255).sum(axis=2) > 60).sum()

    before = ink()
    page.evaluate("([left, top]) => map.zoom(8, left, top)", [left, top])
    assert 2.5 * before < ink() < 8 * before  # by 8 to the power of 0.35 across: an area of 4.3
    page.evaluate("([left, top]) => map.zoom(100, left, top)", [left, top])
    assert ink() < 14 * before  # three times across at most


def test_there_is_an_end_to_zooming(page):
    show(page, islands([(0, 0), (10, 6)], 1))
    before = pixels(page)
    page.evaluate("() => { map.zoom(1e12); map.zoom(1 / 2000); }")
    np.testing.assert_array_equal(pixels(page), before)
    page.evaluate("() => { map.zoom(1e-12); map.zoom(4); }")
    np.testing.assert_array_equal(pixels(page), before)


def test_keys_of_the_browser_stay_its_own(page):
    show(page, islands([(0, 0), (10, 6)], 5))
    before = pixels(page)
    page.focus("canvas.map")
    for key in ("ArrowLeft", "-", "ArrowUp"):
        for modifier in ("Control", "Meta"):
            page.keyboard.press(f"{modifier}+{key}")
            np.testing.assert_array_equal(pixels(page), before)
        page.keyboard.press(key)
        assert not np.array_equal(pixels(page), before)
        page.keyboard.press("0")


def test_the_map_has_the_focus_of_a_name_that_is_gone(page):
    show(page, islands([(0, 0), (10, 6)]))
    page.focus(".name[data-index='1']")
    page.evaluate("() => map.move(5000, 0)")
    assert names(page) == set()
    assert page.evaluate("() => document.activeElement === map.canvas")


def test_two_fingers_zoom_and_one_moves(page):
    given = islands([(0, 0), (10, 6), (3, 4)], 1)
    show(page, given)
    box = page.query_selector("canvas.map").bounding_box()
    fingers = page.context.new_cdp_session(page)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind, *shifts):
        points = [{"x": middle[0] + x, "y": middle[1], "id": i} for i, x in enumerate(shifts)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -40, 40)
    for half in (50, 60, 80):
        touch("touchMove", -half, half)
    touch("touchEnd")
    zoomed = pixels(page)
    page.evaluate("() => { map.reset(); map.zoom(2); }")
    np.testing.assert_allclose(zoomed, pixels(page), atol=40)  # by parts of a pixel
    page.evaluate("() => map.reset()")
    before = pixels(page)
    touch("touchStart", 0)
    for step in (10, 20, 30):
        touch("touchMove", step)
    touch("touchEnd")
    np.testing.assert_array_equal(pixels(page)[:, 70:], before[:, 40:-30])
    assert page.evaluate("() => choices") == []


def test_it_fits_a_phone_and_its_pixels(page):
    device = page.context.new_cdp_session(page)
    usual = SIZE | {"deviceScaleFactor": 1, "mobile": False}
    given = islands([(0, 0), (10, 6), (3, 4)], 30) | {"similarity": [0.5] * 90}
    show(page, given)
    try:
        device.send(
            "Emulation.setDeviceMetricsOverride",
            usual | {"width": 390, "height": 800, "deviceScaleFactor": 2},
        )
        page.wait_for_selector("canvas.map[width]")
        page.wait_for_timeout(100)
        width, shown, scrolled = page.evaluate(
            """() => [map.canvas.width, map.canvas.clientWidth,
              document.scrollingElement.scrollWidth]"""
        )
        assert width == 2 * shown
        assert scrolled <= 390
        image = pixels(page)
        assert (np.abs(image - 255).sum(axis=2) > 60).any()
    finally:
        device.send("Emulation.setDeviceMetricsOverride", usual)


def test_the_picture_is_saved_with_its_names(page):
    show(page, islands([(0, 0), (10, 6), (3, 4)]))
    drawn = pixels(page)
    with page.expect_download() as download:
        page.click("text=Save")
    assert download.value.suggested_filename == "map.png"
    file = base64.b64encode(download.value.path().read_bytes()).decode()
    saved = as_array(page.evaluate(READ, file))
    assert saved.shape == drawn.shape
    is_other = np.abs(saved - drawn).sum(axis=2) > 30
    found = np.zeros_like(is_other)
    for left, top, right, bottom in page.evaluate(BOXES):
        found[int(top) - 3 : int(bottom) + 4, int(left) - 3 : int(right) + 4] = True
    assert is_other.any()
    assert not (is_other & ~found).any()
