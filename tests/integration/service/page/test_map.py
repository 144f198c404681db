"""The table and the map of a run."""

from __future__ import annotations

import base64
import io

import numpy as np
import pyarrow as pa

# Pixels of the canvas that are neither background nor ink: [number, colours]
COLOURS = """() => {
  const canvas = document.querySelector("canvas");
  const context = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const found = new Map();
  for (let i = 0; i < data.length; i += 4) {
    const colour = `${data[i]},${data[i + 1]},${data[i + 2]}`;
    found.set(colour, (found.get(colour) ?? 0) + 1);
  }
  return [...found];
}"""
READ = """async ([text, cuts]) => {
  const { batches } = await import("/page/arrow.js");
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  let at = 0;
  const body = new ReadableStream({ pull(controller) {
    if (at >= bytes.length) return controller.close();
    const n = cuts[at % cuts.length];
    controller.enqueue(bytes.slice(at, at + n));
    at += n;
  } });
  const rows = [];
  for await (const { length, columns } of batches(body)) {
    for (let i = 0; i < length; i++) {
      rows.push(Object.values(columns).map((column) => {
        const value = column.at(i);
        return Number.isNaN(value) ? null : value;
      }));
    }
  }
  return rows;
}"""


def colours(page):
    page.evaluate("() => new Promise(requestAnimationFrame)")  # by then what changed is known
    page.wait_for_selector("canvas:not([data-due])")
    return dict(page.evaluate(COLOURS))


def over_a_dot(page):
    """Move the mouse until it is over a document; return where, and what is said there."""
    box = page.query_selector("canvas").bounding_box()
    for top in range(10, int(box["height"]), 12):
        for left in range(10, int(box["width"]), 12):
            place = box["x"] + left, box["y"] + top
            page.mouse.move(*place)
            if page.is_visible(".tip strong:not(:text-is('noise'))"):
                name, document, *_ = (e.inner_text() for e in page.query_selector_all(".tip > *"))
                return place, name, document
    raise AssertionError("there is no dot anywhere")


def members(world):
    asked = {"include_members": True, "include_centroids": True}
    path = f"/v1/clusters/{world.deep}/executions/{world.full}/artifacts"
    found = world.client.get(path, params=asked).json()
    return found["centroids"], found["members"]


def test_the_table_is_the_runs_clusters(run_page, world):
    clusters, _ = members(world)
    rows = [row.inner_text() for row in run_page.query_selector_all(".clusters tbody tr")]
    assert len(rows) == len(clusters) == 6
    for row, cluster in zip(rows, clusters, strict=True):  # by size, as they are numbered
        assert cluster["label"] in row
        assert str(cluster["num_members"]) in row
        assert f"{cluster['mean_cosine_similarity']:.3f}" in row


def test_the_table_is_sorted_and_searched_by_keyboard(run_page, world):
    clusters, _ = members(world)
    run_page.focus(".sort[data-key=least]")
    for order, turned in (("descending", True), ("ascending", False)):
        run_page.keyboard.press("Enter")
        assert run_page.get_attribute("th:has(.sort[data-key=least])", "aria-sort") == order
        shown = [e.inner_text() for e in run_page.query_selector_all("tbody td:nth-child(4)")]
        wanted = sorted((c["min_cosine_similarity"] for c in clusters), reverse=turned)
        assert shown == [f"{each:.3f}" for each in wanted]
        focused = run_page.evaluate("() => document.activeElement.dataset.key")
        assert focused == "least"
    run_page.fill(".clusters input", clusters[3]["label"].upper())
    assert run_page.inner_text(".clusters [role=status]") == "1 of 6"
    run_page.focus(".pick")
    run_page.keyboard.press("Space")
    assert run_page.get_attribute(".pick", "aria-pressed") == "true"
    assert clusters[3]["cluster_id"] in run_page.inner_text(".chosen-cluster")


def test_a_document_is_named_and_its_cluster_isolated(run_page, world):
    clusters, rows = members(world)
    place, name, document = over_a_dot(run_page)
    (row,) = [row for row in rows if row["document_id"] == document]
    cluster = clusters[row["cluster_index"]]
    assert name == cluster["label"]
    before = colours(run_page)
    run_page.mouse.click(*place)
    assert run_page.get_attribute(".pick[aria-pressed=true]", "data-index") == str(
        cluster["cluster_index"]
    )
    assert cluster["cluster_id"] in run_page.inner_text(".chosen-cluster")
    assert run_page.query_selector("canvas").get_attribute("data-drawn") == "240"
    alone = colours(run_page)
    assert alone != before
    run_page.focus("canvas")
    run_page.keyboard.press("Escape")
    assert run_page.query_selector(".pick[aria-pressed=true]") is None
    assert colours(run_page) == before


def test_the_map_moves_and_comes_back(run_page):
    before = colours(run_page)
    run_page.focus("canvas")
    for keys in (["+", "+"], ["ArrowLeft"], ["-"], ["ArrowDown", "="]):
        for key in keys:
            run_page.keyboard.press(key)
        assert colours(run_page) != before
        run_page.keyboard.press("0")
        assert colours(run_page) == before
    box = run_page.query_selector("canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    run_page.mouse.move(*middle)
    run_page.mouse.wheel(0, -300)
    zoomed = colours(run_page)
    assert zoomed != before
    run_page.mouse.down()
    run_page.mouse.move(middle[0] + 80, middle[1] + 40)
    run_page.mouse.up()
    assert colours(run_page) not in (zoomed, before)
    assert run_page.query_selector(".pick[aria-pressed=true]") is None  # that was no click
    run_page.click("text=Show all")
    assert colours(run_page) == before


def test_noise_can_be_hidden(run_page, world):
    _, rows = members(world)
    assert any(row["cluster_index"] == -1 for row in rows)
    before = colours(run_page)
    run_page.uncheck("label:has-text('noise') input")
    without = colours(run_page)
    assert without["255,255,255"] > before["255,255,255"]
    run_page.check("label:has-text('noise') input")
    assert colours(run_page) == before


def test_the_similarity_of_members_is_a_colour(run_page, world):
    _, rows = members(world)
    before = colours(run_page)
    run_page.select_option("select:near(canvas)", "similarity")
    assert colours(run_page) != before
    low, high = (float(each) for each in run_page.inner_text(".legend").split()[-2:])
    known = [row["cosine_similarity_to_centroid"] for row in rows if row["cluster_index"] >= 0]
    assert min(known) - 5e-4 <= low < high <= max(known) + 5e-4


def test_the_theme_may_change_at_any_time(run_page):
    swatch = "() => document.querySelector('.swatch').style.background"
    light = run_page.evaluate(swatch)
    assert colours(run_page)["255,255,255"] > 10_000
    run_page.emulate_media(color_scheme="dark")
    dark = colours(run_page)
    assert dark["20,23,27"] > 10_000
    assert run_page.evaluate(swatch) != light
    run_page.emulate_media(color_scheme="light")


def test_colours_stand_out_and_neighbours_differ(run_page):
    found = run_page.evaluate("""async () => {
      const { colourOf } = await import("/page/colours.js");
      const first = Array.from({ length: 300 }, (_, i) => i - 1);
      return ["light", "dark"].map((theme) => first.map((i) => colourOf(i, theme)));
    }""")
    for shown, ground in zip(found, ((255, 255, 255), (20, 23, 27)), strict=True):
        assert min(contrast(colour, ground) for colour in shown[1:]) >= 3
        assert contrast(shown[0], ground) >= 2.5  # noise keeps in the background
        steps = np.abs(np.diff(np.array(shown[1:]), axis=0)).sum(axis=1)
        assert steps.min() >= 60
        assert len(set(map(tuple, shown))) >= 290


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = np.array(colour) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_arrow_streams_are_read_as_they_are(run_page):
    rng = np.random.default_rng(0)
    schema = pa.schema(
        [
            pa.field("x", pa.float32()),
            pa.field("document_id", pa.string()),
            pa.field("cluster_index", pa.int32(), nullable=False),
        ]
    )
    for n_rows, nulls in ((0, 0), (1, 0), (1, 1), (77, 0.3), (2500, 0.1), (2500, 0)):
        missing = rng.random(n_rows) < nulls
        texts = [None if lost else "ä€😀x" * (i % 4) for i, lost in enumerate(missing)]
        columns = [
            pa.array(rng.normal(size=n_rows).astype(np.float32), mask=missing),
            pa.array(texts, pa.string()),
            pa.array(rng.integers(-1, 1 << 31, n_rows), pa.int32()),
        ]
        table = pa.table(columns, schema=schema)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(table, max_chunksize=700)
        text = base64.b64encode(sink.getvalue()).decode()
        cuts = rng.integers(1, 2000, 50).tolist()
        assert run_page.evaluate(READ, [text, cuts]) == [
            list(r.values()) for r in table.to_pylist()
        ]


def test_a_stream_that_breaks_off_is_no_map(run_page):
    for text in (b"", b"{}\n" * 20, b"\xff\xff\xff\xff\x10\x00\x00\x00abc"):
        told = run_page.evaluate(
            f"async (given) => {{ try {{ return await ({READ})(given); }}"
            " catch (error) { return error.message; } }",
            [base64.b64encode(text).decode(), [7]],
        )
        assert told in ([], "This is no Arrow stream.", "The stream broke off.")
        assert (told == []) == (text == b"")
