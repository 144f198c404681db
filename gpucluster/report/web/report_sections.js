// The sections of a report beside its map and its clusters.

import { count, decimal, duration, facts, h, scrolling, when } from "./elements.js";
import { flow } from "./flow.js";
import { bySize, histogram } from "./histograms.js";
import { nameOf } from "./linked.js";

const LINKS = 20; // of the lineage at a time
const SECONDS = 1000;
const SHORT = 24; // characters of what stands beside others

export function section(title, ...parts) {
  const id = `section-${title.toLowerCase().replaceAll(" ", "-")}`; // blocks have ids, too
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), parts);
}

export function head(run) {
  const took = new Date(run.completed_at) - new Date(run.created_at);
  return h("section", { class: "head" },
    h("h1", {}, run.name),
    run.description && h("p", {}, run.description),
    facts([
      ["Input", run.input],
      ["Algorithm", run.method],
      ...known(run).filter(isShort),
      ["Joined", run.base_run_id && h("code", {}, run.base_run_id)],
      ["Finished", when(run.completed_at)],
      ["Took", duration(took)],
      ["Device", run.device.device],
      ["Run", h("code", {}, run.run_id)],
    ]));
}

const known = (run) => run.facts.map(([name, text]) => [capital(name), text]);
const isShort = ([, text]) => text.length <= SHORT;

export function quality(run, clusters) {
  const external = run.external_metrics.length > 0 && [
    h("h3", {}, "Agreement with the truth"), measured(run.external_metrics)];
  const sizes = clusters.filter((each) => !each.hierarchy_level).map((each) => each.num_members);
  return section("Quality",
    run.metrics.length > 0 && measured(run.metrics),
    run.not_evaluated.length > 0 && h("p", { class: "hint" }, `Not evaluated here: ${run.not_evaluated.join(", ")}.`),
    external,
    run.drift.length > 0 && [h("h3", {}, "Beside the fit"), facts(run.drift.map(([name, text]) => [capital(name), text]))],
    h("div", { class: "histograms" },
      sizes.length > 0 && bySize("Sizes of the clusters", "clusters", sizes),
      run.similarity && histogram("Similarity to the centroid", "documents", run.similarity)));
}

function measured(metrics) {
  return scrolling("Metrics", h("table", { class: "metrics" },
    h("thead", {}, h("tr", {}, ["Metric", "Value", "What it measures", "Good"].map((word, i) =>
      h("th", { scope: "col", class: i === 1 ? "number" : null }, word)))),
    h("tbody", {}, metrics.map(({ name, title, value, about, good }) => h("tr", {},
      h("th", { scope: "row" }, title, h("small", {}, h("code", {}, name))),
      h("td", { class: "number" }, name.startsWith("num_") ? count(value) : decimal(value)),
      h("td", {}, about), h("td", {}, good))))));
}

/** Show what each stage was planned to take, and what it took. */
export function stages(run) {
  const total = (name) => {
    const given = run.stages.map((stage) => stage[name]).filter((seconds) => seconds !== null);
    return given.length ? given.reduce((sum, seconds) => sum + seconds) : null;
  };
  const time = (seconds) => (seconds === null ? "–" : duration(SECONDS * seconds));
  const words = ["Stage", "Took", "Planned", "Memory", "Planned", "Where", "Why"];
  return section("Plan and what it took", scrolling("Stages", h("table", {},
    h("thead", {}, h("tr", {}, words.map((word, i) =>
      h("th", { scope: "col", class: i > 0 && i < 5 ? "number" : null }, word)))),
    h("tbody", {}, run.stages.map((stage) => h("tr", {},
      h("th", { scope: "row" }, stage.name),
      h("td", { class: "number" }, time(stage.seconds)),
      h("td", { class: "number" }, time(stage.planned_seconds)),
      h("td", { class: "number" }, bytes(stage.peak_bytes)),
      h("td", { class: "number" }, bytes(stage.planned_bytes)),
      h("td", {}, [stage.backend, stage.device, stage.executor === "local" ? null : stage.executor,
        stage.storage === "memory" ? null : stage.storage].filter(Boolean).join(", ")),
      h("td", {}, stage.reused ? "finished before, reused" : because(stage))))),
    h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "all"),
      h("td", { class: "number" }, time(total("seconds"))),
      h("td", { class: "number" }, time(total("planned_seconds"))), h("td", { colspan: 4 }))))));
}

const because = ({ method, reason }) => [method === "exact" ? null : method, reason].filter(Boolean).join(": ");

/** Show what became of the clusters of the run before; `choose` is told which one was picked. */
export function lineage(found, clusters, choose, signal) {
  if (!found) return null;
  const names = new Map(clusters.map((cluster) => [cluster.cluster_id, nameOf(cluster)]));
  const rows = h("tbody", {});
  let shown = 0;
  const more = h("button", { type: "button", click: () => add(LINKS) });
  const add = (n) => {
    rows.append(...found.links.slice(shown, shown + n).map((each) => link(each, names)));
    shown = Math.min(found.links.length, shown + n);
    more.hidden = shown === found.links.length;
    more.textContent = `Show ${Math.min(LINKS, found.links.length - shown)} more`;
  };
  add(LINKS);
  addEventListener("beforeprint", () => add(Infinity));
  const words = ["Became", "Cluster before", "Cluster", "Documents", "Of before", "Of now"];
  return section("Since the run before",
    h("p", {}, "After ", h("code", {}, found.previous_run_id), `, matched by ${found.matched_by}.`),
    facts(Object.entries(found.counts).map(([kind, n]) => [capital(kind), count(n)])),
    found.flow
      ? flow(found.flow, choose, signal)
      : h("p", { class: "hint" }, "The flow is not drawn: the run before, or a cluster in it or in this one, is not there or damaged."),
    h("p", { class: "hint" }, "Documents, and their shares of a cluster, are those that are in both runs."),
    scrolling("Clusters of both runs", h("table", {},
      h("thead", {}, h("tr", {}, words.map((word, i) => h("th", { scope: "col", class: i > 2 ? "number" : null }, word)))),
      rows)),
    found.num_links > found.links.length && h("p", { class: "hint" },
      `The first ${count(found.links.length)} of ${count(found.num_links)}; lineage.parquet has all.`),
    more);
}

const part = (share) => (share === undefined ? "–" : `${(100 * share).toFixed(1)} %`);

function link(each, names) {
  const cell = (id, name) => h("td", {}, id ? (name ?? id) : "–", id && name && h("small", {}, id));
  return h("tr", {}, h("th", { scope: "row" }, each.kind),
    cell(each.previous_cluster_id, each.previous_name), cell(each.cluster_id, names.get(each.cluster_id)),
    h("td", { class: "number" }, count(each.num_shared)),
    h("td", { class: "number" }, part(each.share_of_previous)),
    h("td", { class: "number" }, part(each.share_of_current)));
}

/** Show how to do it again, and what lies on the disk. */
export function definition(run) {
  const text = JSON.stringify(run.definition, null, 2);
  const isShell = run.command.startsWith("gpucluster ");
  const long = [...known(run).filter((each) => !isShort(each)), ["Device", `${run.device.device}: ${run.device.reason}`]];
  return section("How it was made",
    h("div", { class: "long" }, facts(long)),
    h("h3", {}, isShell ? "The command that repeats it" : "In Python"),
    copied(run.command, "Copy the command"),
    h("details", {}, h("summary", {}, "The definition, as it was used: definition.json"),
      copied(text, "Copy the definition")),
    h("details", {}, h("summary", {}, "Versions"),
      facts(Object.entries(run.versions).map(([name, version]) => [name, version]))),
    h("details", {}, h("summary", {}, `Files (${count(run.files.length)})`), scrolling("Files", h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "File"),
        h("th", { scope: "col", class: "number" }, "Rows"), h("th", { scope: "col", class: "number" }, "Size"))),
      h("tbody", {}, run.files.map((file) => h("tr", {}, h("th", { scope: "row" }, file.name),
        h("td", { class: "number" }, count(file.rows)), h("td", { class: "number" }, bytes(file.bytes)))))))));
}

function copied(text, word) {
  const shown = h("pre", { tabindex: "0" }, text);
  const said = h("span", { class: "hint", role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "copied";
    } catch { // a frame may not write there
      getSelection().selectAllChildren(shown);
      said.textContent = "selected: copy it with the keyboard";
    }
  };
  return h("div", { class: "copied" }, shown,
    h("p", { class: "actions" }, h("button", { type: "button", click: copy }, word), said));
}

function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, n)) / 3));
  const shown = n / 1000 ** power;
  return `${shown >= 100 || power === 0 ? Math.round(shown) : shown.toFixed(1)} ${units[power]}`;
}

const capital = (word) => word[0].toUpperCase() + word.slice(1);
