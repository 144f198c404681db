"""Parts of a report by themselves, in a browser: what they do with values of every kind."""

from __future__ import annotations

import re

import pytest

from gpucluster.report.page import script_of

ROWS = """() => {
  %s
  const clusters = [5, 4, 3, 2, 1].map((n) => ({ cluster_id: `cl_${n}`, num_members: n }));
  const signal = new AbortController().signal;
  globalThis.table = new $cluster_table.ClusterTable(clusters, () => {}, signal, { step: 2 });
  document.body.append(table.element);
}"""
EXAMPLES = """() => {
  %s
  const reading = new Promise((resolve) => {
    globalThis.read = () => resolve({
      ids: ["d0"], textOf: () => "a central one",
      examplesOf: () => [{ document: 0, isCentral: true }],
    });
  });
  const place = document.createElement("div");
  place.id = "place";
  place.append($finding.examplesOf(0, reading, { familyOf: () => new Set([0]) }));
  document.body.append(place);
}"""
FINDER = """() => {
  %s
  const read = {
    having: (word) => (word === "pizza" ? [0] : []), points: [7], clusterOf: () => -1, ids: ["d1"],
    textOf: () => null,
  };
  globalThis.marked = null;
  const picture = { choose() {}, highlight(points) { marked = points && [...points]; } };
  let documents = null;
  const reading = new Promise((done) => { globalThis.arrive = () => done(read); });
  reading.then(() => { documents = read; });
  document.body.append(
    $finding.finder([], () => documents ?? reading, { count: 5 }, picture));
}"""
SIZES = """(sizes) => {
  %s
  document.body.append($histograms.bySize("Sizes", "clusters", sizes));
}"""
TABLE = """(clusters) => {
  %s
  const signal = new AbortController().signal;
  document.body.append(new $cluster_table.ClusterTable(clusters, () => {}, signal).element);
}"""
STAGES = """(stages) => {
  %s
  const usual = { name: "fit", device: "cpu", backend: "numpy", executor: "local", reason: "" };
  const more = { method: "exact", storage: "memory", reused: false };
  document.body.append(
    $report_sections.stages({ stages: stages.map((each) => ({ ...usual, ...more, ...each })) }));
}"""
LINEAGE = """(n) => {
  %s
  const links = Array.from({ length: n }, (_, i) =>
    ({ kind: "died", previous_cluster_id: `cl_${i}`, num_shared: i }));
  const found = { links, num_links: n + 5, counts: { died: n }, previous_run_id: "run_a",
    matched_by: "documents", flow: null };
  const signal = new AbortController().signal;
  document.body.append($report_sections.lineage(found, [], () => {}, signal));
}"""
SOME = """([examples, family, most]) => {
  %s
  const ids = ["a", "b", "c", "d", "e", "f", "g"];
  const given = { steps: [], undrawn: ids.map(() => 0), ids, texts: null, examples };
  const documents = new $documents.Documents(given, { length: 0, cluster: [] });
  return documents.examplesOf(new Set(family), most).map(({ document }) => ids[document]);
}"""
KNOWN = """([given, total]) => {
  %s
  return $finding.knownOf(given, total);
}"""
NONE = "\u2013"
SAMPLED = ": examples of each cluster first, then a uniform sample"
COLUMN = (
    "(n) => [...document.querySelectorAll(`tbody tr > :nth-child(${n})`)].map((e) => e.innerText)"
)


def test_more_rows_are_asked_for_by_keyboard_and_are_there_after_printing(tab):
    tab.evaluate(ROWS % script_of("cluster_table.js"))
    rows = "() => document.querySelectorAll('[data-index]').length"
    tab.focus("text=Show 2 more")
    tab.keyboard.press("Enter")
    assert tab.evaluate("() => document.activeElement.dataset.index") == "2"
    assert tab.evaluate(rows) == 4
    tab.evaluate("() => { table.isWhole = true; }")
    assert tab.evaluate(rows) == 5
    tab.evaluate("() => { table.isWhole = false; }")
    assert tab.evaluate(rows) == 4


def test_a_search_before_the_documents_are_read_says_so_and_is_done_when_they_are(tab):
    tab.evaluate(FINDER % script_of("finding.js"))
    tab.fill("input", "piz")
    tab.fill("input", "pizza")
    assert tab.inner_text("[role=status]") == "The documents are being read."
    assert tab.evaluate("() => marked") is None  # the map is not faded meanwhile
    tab.evaluate("() => arrive()")
    assert tab.inner_text("[role=status]") == "1 of 5"
    assert tab.inner_text(".found li") == "d1 noise"
    assert tab.evaluate("() => marked") == [7]


def test_a_table_has_as_many_clusters_as_a_run_may_have(tab):
    many = ROWS.replace("[5, 4, 3, 2, 1]", "Array.from({ length: 300_000 }, (_, i) => i)")
    tab.evaluate(many % script_of("cluster_table.js"))
    assert tab.inner_text("[role=status]") == "300,000 of 300,000"
    assert tab.inner_text(".number.size") == "299,999"


def test_clusters_that_nobody_joined_have_a_bar_of_their_own(tab):
    tab.evaluate(SIZES % script_of("histograms.js"), [0, 0, 3, 1, 1, 1])
    shown = [each.text_content() for each in tab.query_selector_all("rect title")]
    assert shown == ["0: 2 clusters", "1: 3 clusters", "2: 0 clusters", "3: 1 cluster"]
    assert tab.inner_text(".range span:first-child") == "0 documents"


def test_sizes_lie_between_edges_that_grow(tab):
    sizes = [5, 7, 900, 90_000]
    tab.evaluate(SIZES % script_of("histograms.js"), sizes)
    shown = [each.text_content() for each in tab.query_selector_all("rect title")]
    bounds = [re.findall(r"[\d,]+", line.split(":")[0]) for line in shown]
    low, high = ([int(pair[i].replace(",", "")) for pair in bounds] for i in (0, -1))
    assert (low[0], high[-1]) == (5, 90_000)
    assert [each - 1 for each in low[1:]] == high[:-1]  # none is left out, none counts twice
    counts = [int(line.split(":")[1].split()[0]) for line in shown]
    for lower, upper, count in zip(low, high, counts, strict=True):
        assert count == sum(lower <= size <= upper for size in sizes)
    widths = [(upper + 1) / lower for lower, upper in zip(low, high, strict=True)]
    assert max(widths[4:]) < 1.6  # of 24 that grow alike from 5 to 90,000: 1.5


def test_examples_come_when_the_documents_are_read(tab):
    tab.evaluate(EXAMPLES % script_of("finding.js"))
    assert tab.inner_text("#place") == "The documents are being read."
    tab.evaluate("() => read()")
    assert "a central one" in tab.inner_text("#place .examples")


def test_rows_are_sorted_by_any_column_and_what_is_missing_comes_last(tab):
    rows = [
        ("beta", 20, 0.5, 1),
        ("Alpha", 30, None, 0),
        ("gamma", 10, 0.9, 0),
        ("alpha", 20, 0, 2),
    ]
    names = ("label", "num_members", "mean_cosine_similarity", "hierarchy_level")
    given = [
        dict(zip(names, row, strict=True)) | {"cluster_id": f"cl_{i}"} for i, row in enumerate(rows)
    ]
    tab.evaluate(TABLE % script_of("cluster_table.js"), given)

    def shown():
        return [name.strip() for name in tab.evaluate(COLUMN, 1)]

    def sorted_by():
        head = tab.query_selector_all("th[aria-sort]")
        return [(each.inner_text().split()[0], each.get_attribute("aria-sort")) for each in head]

    assert shown() == ["Alpha", "beta", "alpha", "gamma"]
    assert sorted_by() == [("Members", "descending")]
    for key, first, second in (
        ("size", ["gamma", "beta", "alpha", "Alpha"], ["Alpha", "beta", "alpha", "gamma"]),
        ("name", ["Alpha", "alpha", "beta", "gamma"], ["gamma", "beta", "Alpha", "alpha"]),
        ("mean", ["gamma", "beta", "alpha", "Alpha"], ["alpha", "beta", "gamma", "Alpha"]),
        ("level", ["Alpha", "gamma", "beta", "alpha"], ["alpha", "beta", "Alpha", "gamma"]),
    ):
        tab.click(f"[data-key='{key}']")
        assert shown() == first
        assert tab.evaluate("() => document.activeElement.dataset.key") == key
        direction = sorted_by()[0][1]
        tab.click(f"[data-key='{key}']")
        assert shown() == second
        assert {direction, sorted_by()[0][1]} == {"ascending", "descending"}
    assert sorted_by() == [("Level", "descending")]


def test_clusters_are_found_by_all_that_is_said_of_them(tab):
    known = {"label": "one", "summary": "About Rome", "keywords": ["ticket"], "stable_id": "cs_77"}
    given = [
        known | {"cluster_id": "cl_5", "num_members": 1},
        {"cluster_id": "x", "num_members": 1},
    ]
    tab.evaluate(TABLE % script_of("cluster_table.js"), given)
    for word, found in (("ROME", 1), ("tick", 1), ("cs_7", 1), ("cl_", 1), ("one", 1), (" ", 2)):
        tab.fill("input", word)
        assert tab.inner_text("[role=status]") == f"{found} of 2"


def test_times_and_bytes_are_told_in_units_that_people_read(tab):
    told = {
        (0.0123, None, 0): f"12 ms, {NONE}, 0 B",
        (89.96, 5_399, 999): "90.0 s, 1 h 30 min, 999 B",
        (90, 5_300, 1_000): "2 min, 88 min, 1.0 kB",
        (7_260, 1, 123_456_789): "2 h 1 min, 1.0 s, 123 MB",
        (1, 1, 4.2e15): "1.0 s, 1.0 s, 4200 TB",
    }
    names = ("seconds", "planned_seconds", "peak_bytes")
    given = [dict(zip(names, values, strict=True)) for values in told]
    tab.evaluate(STAGES % script_of("report_sections.js"), given)
    columns = [tab.evaluate(COLUMN, number) for number in (2, 3, 4)]
    assert [", ".join(row) for row in zip(*columns, strict=True)] == list(told.values())
    assert tab.inner_text("tfoot").split("\t")[:3] == ["all", "2 h 4 min", "2 h 58 min"]


def test_links_are_shown_a_few_at_a_time_and_all_on_paper(tab):
    tab.evaluate(LINEAGE % script_of("report_sections.js"), 65)
    rows = "() => document.querySelectorAll('tbody tr').length"
    assert tab.evaluate(rows) == 20
    tab.click("text=Show 20 more")
    assert tab.evaluate(rows) == 40
    tab.click("text=Show 20 more")
    assert tab.inner_text("button") == "Show 5 more"
    tab.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(rows) == 65
    assert tab.is_hidden("button")
    assert "The first 65 of 70" in tab.inner_text("section")


@pytest.mark.parametrize(
    ("clusters", "central", "family", "shown"),
    [
        ([0] * 7, [1, 1, 1, 1, 0, 0, 0], [0], "abcef"),  # room is left for the boundary
        ([0] * 7, [1] * 7, [0], "abc"),
        ([0, 1, 0, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 1], "abcef"),  # in turn
        ([0, 1, 0, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1], "bdfg"),
    ],
)
def test_examples_are_some_of_the_middle_and_some_of_the_boundary(
    tab, clusters, central, family, shown
):
    given = {"clusters": clusters, "documents": list(range(7)), "central": central}
    found = tab.evaluate(SOME % script_of("documents.js"), [given, family, 5])
    assert "".join(found) == shown


@pytest.mark.parametrize(
    ("given", "total", "words"),
    [
        ((9, 9, True, None), 9, "All 9 documents are here with their texts."),
        ((9, 4, True, None), 9, "All 9 documents are here, 4 with a text."),
        (
            (9, 0, True, "it is gone"),
            9,
            "All 9 documents are here by their ids; there are no texts: it is gone.",
        ),
        (
            (5, 0, False, None),
            9_000,
            f"5 of 9,000 documents are here by their ids{SAMPLED}; texts were left out.",
        ),
    ],
)
def test_it_is_said_what_is_known_of_documents(tab, given, total, words):
    names = ("count", "num_texts", "has_texts", "reason")
    known = dict(zip(names, given, strict=True))
    assert tab.evaluate(KNOWN % script_of("finding.js"), [known, total]) == words
