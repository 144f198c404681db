// One definition: what it does, its runs, and how good they were.

import { overTime, reasons } from "./charts.js";
import { ask, badge, count, decimal, duration, facts, h, json, problem, say, to, when } from "./elements.js";
import { listing } from "./listing.js";
import { api, call } from "./session.js";

const MOST_RUNS = 200; // of the charts
const RUN_STATUSES = ["pending", "processing", "completed", "failed", "canceled"].map((each) => [each, each]);

const COLUMNS = (clusterId) => [
  { name: "Run", cell: (run) => h("a", { href: to("clusters", clusterId, "runs", run.run_id) }, run.run_id) },
  { name: "Status", cell: (run) => badge(run.status) },
  { name: "Mode", cell: (run) => run.mode },
  { name: "Clusters", class: "number", cell: (run) => run.status === "completed" ? count(run.num_clusters) : "–" },
  { name: "Documents", class: "number", cell: (run) => run.status === "completed" ? count(run.num_points) : "–" },
  { name: "Noise", class: "number wide", cell: (run) => decimal(run.metrics?.noise_ratio) },
  { name: "Silhouette", class: "number wide", cell: (run) => decimal(run.metrics?.silhouette_score) },
  { name: "Mean cosine", class: "number wide", cell: (run) => decimal(run.metrics?.mean_cosine_to_centroid) },
  { name: "Took", class: "number", cell: (run) => duration(run.execution_time_ms) },
  { name: "Begun", cell: (run) => when(run.started_at ?? run.created_at) },
];

export async function cluster({ args: [id], query, signal }) {
  const found = await call(api("clusters", id), { signal });
  const own = found.cluster_id;
  const list = listing({
    label: "Runs", path: `${api("clusters", own)}/executions/list`, columns: COLUMNS(own), query, signal,
    statuses: RUN_STATUSES, none: "It was not executed yet.",
  });
  const [runs] = await Promise.all([finished(own, signal), list.load()]);
  return [
    h("p", { class: "crumbs" }, h("a", { href: to("clusters") }, "Clusters")),
    h("h1", { tabindex: "-1" }, found.cluster_name),
    found.description && h("p", {}, found.description),
    about(found),
    actions(found, runs),
    runs.length > 0 && h("section", {}, h("h2", {}, "Metrics over time"), overTime(own, runs), reasons(own, runs)),
    h("section", {}, h("h2", {}, "Runs"), list.element),
    h("details", { class: "definition" }, h("summary", {}, "Definition"), json(found.definition)),
  ].filter(Boolean);
}

function about(found) {
  return facts([
    ["Status", badge(found.status)],
    ["Id", h("code", {}, found.cluster_id)],
    ["Method", found.algorithm ?? found.cluster_type],
    ["Collections", found.input_collections.join(", ")],
    ["Features", (found.feature_uris ?? []).join(", ")],
    ["Clusters", found.num_clusters === null ? null : count(found.num_clusters)],
    ["Documents", found.num_documents_clustered === null ? null : count(found.num_documents_clustered)],
    ["Joined since", found.num_documents_joined ? count(found.num_documents_joined) : null],
    ["Last run", when(found.last_executed_at)],
    ["Made", when(found.created_at)],
  ]);
}

/** Return completed runs, oldest first. */
async function finished(id, signal) {
  const body = { filters: { AND: [{ field: "status", value: "completed" }] } };
  const path = `${api("clusters", id)}/executions/list?limit=${MOST_RUNS}`;
  const { results } = await call(path, { method: "POST", body, signal });
  return results.reverse();
}

function actions(found, runs) {
  const live = ["pending", "processing"].includes(found.latest_run?.status) ? found.latest_run : null;
  const wrong = h("div", {});
  const hasModel = runs.some((run) => run.mode !== "assign");
  const box = h("div", { class: "actions" },
    live ? watching(found.cluster_id, live) : executing(found.cluster_id, hasModel, wrong),
    h("button", { type: "button", class: "danger", click: () => remove(found, wrong) }, "Delete"));
  return h("div", {}, box, wrong);
}

function watching(id, live) {
  return h("a", { class: "button", href: to("clusters", id, "runs", live.run_id) }, "Watch the live run");
}

function executing(id, hasModel, wrong) {
  const mode = h("select", { change: () => { bound.hidden = mode.value !== "assign"; } },
    h("option", { value: "full" }, "cluster anew"),
    h("option", { value: "assign", disabled: !hasModel }, "let new documents join"));
  const threshold = h("input", { value: "0.5", size: "5", pattern: "auto|-?[0-9]*\\.?[0-9]+", required: true,
    title: "A cosine similarity from -1 to 1, or auto" });
  const bound = h("label", { hidden: true }, "Threshold", threshold);
  const button = h("button", { class: "primary" }, "Execute");
  return h("form", { class: "execute", submit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    const body = { mode: mode.value };
    if (mode.value === "assign") {
      body.assignment_threshold = threshold.value === "auto" ? "auto" : Number(threshold.value);
    }
    try {
      const task = await call(`${api("clusters", id)}/execute`, { method: "POST", body });
      location.hash = to("clusters", id, "runs", task.additional_data.run_id);
    } catch (error) {
      wrong.replaceChildren(problem(error));
      button.disabled = false;
    }
  } }, h("label", {}, "Mode", mode), bound, button);
}

async function remove(found, wrong) {
  const filesToo = await ask(`Delete ${found.cluster_name}? A live run is stopped, triggers are disabled.`,
    "Delete", "the files of its runs too");
  if (filesToo === null) return;
  try {
    await call(`${api("clusters", found.cluster_id)}?delete_artifacts=${filesToo}`, { method: "DELETE" });
    location.hash = to("clusters");
    say(`${found.cluster_name} was deleted`);
  } catch (error) {
    wrong.replaceChildren(problem(error));
  }
}
