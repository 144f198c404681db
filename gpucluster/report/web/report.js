// The report of a run: what is known of it, in one page that asks nobody.

import { block, parsed, written } from "./blocks.js";
import { ClusterTable } from "./cluster_table.js";
import { forPaper } from "./colours.js";
import { Documents } from "./documents.js";
import { count, h, notes, problem } from "./elements.js";
import { examplesOf, finder, knownOf } from "./finding.js";
import { Picture, pointsOf } from "./picture.js";
import { definition, head, lineage, quality, section, stages } from "./report_sections.js";

const ROWS = 15; // of the table at a time
const OWN_WORDS = "These clusters were not named: they are shown by keywords of their documents in this report. gpucluster label names them.";
const { signal } = new AbortController();

async function show(main) {
  const run = written("contents");
  const clusters = await parsed("clusters");
  let documents = null;
  let reading = null; // resolves to them
  const picture = new Picture(run.map, clusters, signal, (index) => table.mark(index));
  const table = new ClusterTable(clusters, (index) => picture.choose(index), signal, {
    examples: (index) => examplesOf(index, documents ?? reading, picture),
    searched: (indexes) => picture.find(indexes), step: ROWS,
  });
  const seen = (index) => {
    picture.choose(index);
    picture.element.scrollIntoView();
  };
  const print = (isPrinted) => {
    forPaper(isPrinted);
    table.isWhole = isPrinted;
    picture.isPrinted = isPrinted;
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  main.addEventListener("keydown", (event) => { // the map ends it by itself
    if (event.key === "Escape" && !event.defaultPrevented && event.target.type !== "search") picture.choose(null);
  });
  main.replaceChildren(...[
    head(run),
    notes("Should be clustered anew", run.reasons, "warn"),
    notes("Warnings", run.warnings, "warn"),
    notes("Not done", run.not_run, "warn"),
    h("div", { class: run.map.length ? "result" : "result mapless" },
      h("section", { class: "picture", "aria-label": "Map" }, h("h2", {}, "Map"), picture.element,
        finder(clusters, () => documents ?? reading, run.documents, picture),
        h("p", { class: "hint" }, knownOf(run.documents, run.counts.num_points))),
      section("Clusters", clusters.length ? table.element : h("p", { class: "none" }, "There is no cluster: all documents are noise."),
        run.has_own_words && h("p", { class: "hint" }, OWN_WORDS))),
    quality(run, clusters),
    lineage(run.lineage, clusters, seen, signal),
    stages(run),
    rejected(run.rejected),
    run.related.length > 0 && section("Other features of these documents", h("ul", {}, run.related.map((line) => h("li", {}, line)))),
    definition(run),
    h("footer", { class: "hint" }, `Made by gpucluster ${run.gpucluster_version}. This file is whole: it loads nothing.`),
  ].filter(Boolean));
  reading = read(run.map, picture, () => documents);
  documents = await reading;
  main.dataset.done = "";
}

/** Show the points, then return the documents; `documents` returns them when they are there. */
async function read(map, picture, documents) {
  const points = pointsOf(map, map.length ? await block("points") : new Uint8Array(0), documents);
  if (points.length) picture.show(points);
  return new Documents(await parsed("documents"), points);
}

function rejected(reasons) {
  const found = Object.entries(reasons);
  if (!found.length) return null;
  return section("Rejected rows", h("ul", {}, found.map(([reason, n]) => h("li", {}, `${reason}: ${count(n)}`))));
}

const main = document.getElementById("content");
show(main).catch((error) => main.replaceChildren(problem(error)));
