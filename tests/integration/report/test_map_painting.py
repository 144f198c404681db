"""What a map draws: by WebGL2 and without, in which colours, and how much at a time."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.mapped import as_array, islands, map_page, pixels, place, said, settle, show

WHITE, NOISE, FADED = (255, 255, 255), (150, 154, 160), (228, 230, 233)
FOUR = [(0, 0), (10, 0), (0, 6), (10, 6)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with map_page(tmp_path_factory.mktemp("profile")) as found:
        yield found


def four(**more):
    """Four points far apart: two clusters of one, noise, and one more."""
    x, y = zip(*FOUR, strict=True)
    return {"x": x, "y": y, "cluster": [0, 1, -1, 2]} | more


def colours_at(page, given):
    """Return the colour in the middle of each point's dot."""
    image = pixels(page)
    found = []
    for index in range(len(given["x"])):
        left, top = place(page, given, index)
        found.append(image[int(top), int(left)])
    return np.array(found)


def mixed(colour, ground=WHITE, strength=0.85):
    return np.array(ground) + (np.array(colour) - np.array(ground)) * strength


def palette(page, *indexes, theme="light"):
    return page.evaluate(
        """async ([indexes, theme]) => {
          const { colourOf } = await import("/page/colours.js");
          return indexes.map((index) => colourOf(index, theme));
        }""",
        [indexes, theme],
    )


def test_a_dot_is_where_its_point_is_in_the_colour_of_its_cluster(page):
    show(page, four())
    assert page.evaluate("() => map.canvas.getContext('webgl2') !== null")
    wanted = [mixed(colour) for colour in palette(page, 0, 1, -1, 2)]
    np.testing.assert_allclose(colours_at(page, four()), wanted, atol=3)
    image = pixels(page)
    assert (np.abs(image - WHITE).sum(axis=2) > 6).sum() < 4 * 60  # and nowhere else


def test_without_webgl2_the_processor_draws_the_same(page):
    show(page, four())
    by_gl = colours_at(page, four())
    page.evaluate("""() => {
      const { getContext } = HTMLCanvasElement.prototype;
      window.restore = () => { HTMLCanvasElement.prototype.getContext = getContext; };
      HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
        return kind === "webgl2" ? null : getContext.call(this, kind, ...more);
      };
    }""")
    try:
        show(page, four())
    finally:
        page.evaluate("() => restore()")
    assert page.evaluate("() => map.canvas.getContext('2d') !== null")
    np.testing.assert_allclose(colours_at(page, four()), by_gl, atol=3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_deep", [False, True])
def test_both_painters_agree(page, seed, is_deep):
    rng = np.random.default_rng(seed)
    given = {
        "x": rng.uniform(-100, 100, 150).tolist(),
        "y": rng.uniform(-60, 60, 150).tolist(),
        "z": rng.normal(size=150).tolist() if is_deep else None,
        "cluster": rng.integers(-1, 5, 150).tolist(),
    }
    drawn = page.evaluate(
        """async (given) => {
          const seen = await look(given, { chosen: new Set([-1, 0, 1, 2]) });
          return Promise.all(["gl", "dots"].map((name) => painted(name, seen, 220, 140, 3, 0.85)));
        }""",
        given,
    )
    by_gl, by_processor = map(as_array, drawn)
    blurred = [_blurred(image) for image in (by_gl, by_processor)]
    assert np.abs(blurred[0] - 255).mean() > 10  # there is something
    assert np.abs(blurred[0] - blurred[1]).mean() < 3
    assert np.abs(blurred[0] - blurred[1]).max() < 40


def _blurred(image, size=7):
    """Return means over squares: both round places in their own way."""
    sums = np.pad(image.astype(float), ((1, 0), (1, 0), (0, 0))).cumsum(0).cumsum(1)
    strips = sums[size:] - sums[:-size]
    return (strips[:, size:] - strips[:, :-size]) / size**2


def test_depth_is_size_and_strength_and_the_nearest_lies_on_top(page):
    given = {"x": [-60, 0, 60, 60], "y": [0, 0, 0, 1], "z": [0, 1, 2, 0], "cluster": [0, 0, 0, 1]}
    image = as_array(
        page.evaluate("async (given) => painted('gl', await look(given), 180, 60, 5, 1)", given)
    )
    ink = [(np.abs(part - 255).sum(axis=2) > 60).sum() for part in np.split(image, 3, axis=1)]
    assert 0 < ink[0] < ink[1] < ink[2]
    middles = [np.array(image[30, left]) for left in (30, 90, 150)]
    contrast = [np.abs(middle - 255).sum() for middle in middles]
    assert contrast[0] < contrast[1] < contrast[2]
    np.testing.assert_allclose(middles[2], palette(page, 0)[0], atol=3)


def test_what_is_not_isolated_or_marked_is_faded(page):
    show(page, four())
    one, two, noise, three = colours_at(page, four())
    page.evaluate("() => map.isolate(new Set([0, 2]))")
    expected = [one, mixed(FADED), mixed(FADED), three]
    np.testing.assert_allclose(colours_at(page, four()), expected, atol=3)
    page.evaluate("() => map.highlight(new Set([1, 3]))")  # of both: only the last point
    expected = [mixed(FADED)] * 3 + [three]
    np.testing.assert_allclose(colours_at(page, four()), expected, atol=3)
    page.evaluate("() => { map.isolate(null); map.highlight(new Set()); }")
    np.testing.assert_allclose(colours_at(page, four()), [mixed(FADED)] * 4, atol=3)
    page.evaluate("() => map.highlight(null)")
    np.testing.assert_allclose(colours_at(page, four()), [one, two, noise, three], atol=3)


def test_noise_can_be_left_out(page):
    show(page, four())
    page.uncheck("label:has-text('noise') input")
    *_, noise, three = colours_at(page, four())
    assert tuple(noise) == WHITE
    assert tuple(three) != WHITE
    assert page.get_attribute("canvas.map", "data-drawn") == "3"


def test_the_colours_are_what_is_chosen_among_what_is_known(page):
    show(page, four())
    assert page.is_hidden("select")
    given = four(similarity=[0.2, 0.8, None, 0.5], truth=[0, 0, 1, -1], classes=["<b>a</b>", "b"])
    show(page, given)
    assert said(page, "option") == [*("cluster", "similarity", "truth")]
    assert page.inner_text(".legend") == ""
    page.select_option("select", "similarity")
    low, high, none, half = colours_at(page, given)
    brightness = [colour.sum() for colour in (low, half, high)]
    assert brightness == sorted(brightness, reverse=True)  # the likest is darkest
    np.testing.assert_allclose(none, mixed(NOISE), atol=3)
    assert page.eval_on_selector_all(
        ".legend > :not(.ramp)", "all => all.map((e) => e.innerText)"
    ) == [*("similarity to the centroid", "0.200", "0.800")]
    page.select_option("select", "truth")
    wanted = [mixed(colour) for colour in palette(page, 0, 0, 1, -1)]
    np.testing.assert_allclose(colours_at(page, given), wanted, atol=3)
    assert said(page, ".class") == [*("<b>a</b>", "b")]


def test_the_ramp_goes_one_way_in_lightness_and_stands_out(page):
    for theme, ground in (("light", 1.0), ("dark", 0.0086)):
        colours = page.evaluate(f"async () => (await import('/page/colours.js')).ramp('{theme}')")
        parts = np.array(colours) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        luminance = linear @ [0.2126, 0.7152, 0.0722]
        steps = np.diff(luminance)
        assert (steps < 0).all() if theme == "light" else (steps > 0).all()
        lighter, darker = np.maximum(luminance, ground), np.minimum(luminance, ground)
        assert ((lighter + 0.05) / (darker + 0.05)).min() > 1.6


def test_a_part_is_drawn_at_first_and_all_of_it_at_rest(page):
    n = 150_000
    page.evaluate(
        """(n) => {
          const at = (step) => Array.from({ length: n }, (_, i) => (i * step) % 1);
          const cluster = new Array(n).fill(0);
          show({ x: at(0.7548776662466927), y: at(0.5698402909980532), cluster });
        }""",
        n,
    )
    settle(page)
    assert page.evaluate("() => drawn.filter((each, i) => each !== drawn[i - 1])") == [65_536, n]
    full = pixels(page)
    page.evaluate("() => { map.move(10, 0); map.move(-10, 0); }")
    np.testing.assert_array_equal(pixels(page), full)


def test_a_clock_that_stood_still_is_no_speed_for_ever(page):
    n = 150_000
    moved = page.evaluate(
        """async (n) => {
          const { now } = performance;
          const rest = () => new Promise((done) => setTimeout(done, 400));
          let at = 0;
          performance.now = () => at; // as where clocks are coarse, against fingerprints
          const values = (step) => Array.from({ length: n }, (_, i) => (i * step) % 1);
          const x = values(0.7548776662466927);
          show({ x, y: values(0.5698402909980532), cluster: new Array(n).fill(0) });
          await rest();
          performance.now = () => (at += 500); // drawing takes long from now on
          const first = [];
          for (let i = 0; i < 8; i++) {
            drawn.length = 0;
            map.move(1, 0);
            await rest();
            first.push(drawn[0]);
          }
          performance.now = now;
          return first;
        }""",
        n,
    )
    assert moved[-1] < n / 2


def test_every_beginning_of_the_order_is_spread_evenly(page):
    for n in (0, 1, 2, 7, 1000, 4096, 65_537):
        order = np.array(
            page.evaluate(
                """(n) => [...pointsOf({ x: new Array(n).fill(0), y: new Array(n).fill(0),
                  cluster: new Array(n).fill(0) }).spread()]""",
                n,
            )
        )
        assert sorted(order) == list(range(n))
        for part in (100, 1000):
            if n > part:
                tenths = np.bincount(order[:part] * 10 // n, minlength=10)
                assert np.abs(tenths - part / 10).max() <= 3


def test_a_lost_context_comes_back(page):
    show(page, islands(FOUR))
    before = pixels(page)
    page.evaluate("""() => {
      window.lost = map.canvas.getContext("webgl2").getExtension("WEBGL_lose_context");
      lost.loseContext();
      map.move(1, 0);
      map.move(-1, 0);
      setTimeout(() => lost.restoreContext(), 50);
    }""")
    page.evaluate(
        "() => new Promise((done) => map.canvas.addEventListener('webglcontextrestored', done))"
    )
    np.testing.assert_array_equal(pixels(page), before)


def test_without_its_context_it_goes_on_by_the_processor(page):
    show(page, islands(FOUR))
    before = pixels(page)
    page.focus("canvas.map")
    page.evaluate("""() => {
      window.first = map.canvas;
      first.getContext("webgl2").getExtension("WEBGL_lose_context").loseContext();
    }""")
    while page.evaluate("() => map.canvas === first"):
        page.wait_for_timeout(50)
    after = pixels(page)
    assert np.abs(_blurred(after) - _blurred(before)).mean() < 1
    page.keyboard.press("+")
    assert not np.array_equal(pixels(page), after)
