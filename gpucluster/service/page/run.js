// One run: how far it is, and what came of it.

import { reason } from "./charts.js";
import { ClusterTable } from "./cluster_table.js";
import { badge, count, decimal, duration, facts, h, notes, problem, roughly, say, to, when } from "./elements.js";
import { follow, Speed } from "./following.js";
import { descendants, described, nameOf, parentsOf } from "./linked.js";
import { ClusterMap, drawn, framed } from "./map.js";
import { read } from "./members.js";
import { api, call } from "./session.js";

const METRICS = [
  ["Silhouette", "silhouette_score"],
  ["Mean cosine to centroid", "mean_cosine_to_centroid"],
  ["Noise ratio", "noise_ratio"],
  ["Size entropy", "cluster_size_entropy"],
  ["Davies-Bouldin", "davies_bouldin_index"],
  ["Calinski-Harabasz", "calinski_harabasz_score"],
];

export async function run({ args: [clusterId, runId], signal, again }) {
  const path = `${api("clusters", clusterId)}/executions/${encodeURIComponent(runId)}`;
  const [cluster, found] = await Promise.all([
    call(api("clusters", clusterId), { signal }), call(path, { signal })]);
  for (let next = found.next_offset; next; ) { // more clusters than one answer shows
    const more = await call(`${path}?limit=10000&offset=${next}`, { signal });
    found.centroids.push(...more.centroids);
    next = more.next_offset;
  }
  const own = cluster.cluster_id;
  const isLive = ["pending", "processing"].includes(found.status);
  return [
    h("p", { class: "crumbs" }, h("a", { href: to("clusters") }, "Clusters"), " / ",
      h("a", { href: to("clusters", own) }, cluster.cluster_name)),
    h("h1", { tabindex: "-1" }, found.run_id),
    isLive && progress(found, path, signal, again),
    about(own, found),
    found.error_message && h("p", { class: "problem" }, found.error_message),
    notes("Should be clustered anew", found.recluster_reasons.map(reason), "warn"),
    notes("Warnings", found.warnings, "warn"),
    notes("Errors of labelling", found.llm_labeling_errors ?? [], "bad"),
    found.status === "completed" && result(found, path, signal),
  ].filter(Boolean);
}

function about(clusterId, found) {
  const isOver = found.status === "completed";
  const metrics = found.metrics ?? {};
  return facts([
    ["Status", badge(found.status)],
    ["Mode", found.mode],
    ["Joined", found.base_run_id && h("a", { href: to("clusters", clusterId, "runs", found.base_run_id) }, found.base_run_id)],
    ["Clusters", isOver ? count(found.num_clusters) : null],
    ["Documents", isOver ? count(found.num_points) : null],
    ["Noise", isOver ? count(found.num_noise) : null],
    ["Skipped", found.num_skipped ? count(found.num_skipped) : null],
    ...METRICS.map(([name, key]) => [name, typeof metrics[key] === "number" ? decimal(metrics[key]) : null]),
    ["Device", found.device],
    ["Begun", when(found.started_at ?? found.created_at)],
    ["Took", found.execution_time_ms === null ? null : duration(found.execution_time_ms)],
    ["Task", h("code", {}, found.task_id)],
    ["Trigger", found.trigger_id && h("code", {}, found.trigger_id)],
  ]);
}

/** Show how far a live run is, and what came of it as soon as it is over. */
function progress(found, path, signal, again) {
  const bar = h("progress", { "aria-label": "Progress" });
  const stage = h("strong", {}, "waiting");
  const rows = h("span", {});
  const speed = new Speed();
  const wrong = h("div", {});
  const see = (task) => {
    const at = task.additional_data?.progress;
    const waiting = task.additional_data?.waiting;
    stage.textContent = at ? at.stage : waiting ? `waiting: ${waiting.reason}` : task.status === "PENDING" ? "waiting for its turn" : "starting";
    if (at?.total) {
      bar.max = at.total;
      bar.value = Math.min(at.done, at.total);
    } else bar.removeAttribute("value");
    if (!at) return;
    const unit = at.unit ?? "rows";
    const rate = speed.of(at);
    rows.textContent = (at.done || at.total ? `${count(at.done)}${at.total ? ` of ${count(at.total)}` : ""} ${unit}` : "")
      + (rate ? `, ${roughly(rate)} ${unit}/s` : "");
  };
  const cancel = h("button", { type: "button", class: "danger", click: async () => {
    cancel.disabled = true;
    try {
      await call(`${path}/cancel`, { method: "POST" });
      stage.textContent = "stopping";
    } catch (error) {
      wrong.replaceChildren(problem(error));
      cancel.disabled = false;
    }
  } }, "Cancel");
  follow(found.task_id, see, signal).then((task) => {
    say(`The run is ${task.status.toLowerCase()}`);
    again();
  }).catch((error) => { if (!signal.aborted) wrong.replaceChildren(problem(error)); });
  return h("section", { class: "live" }, h("p", {}, stage, " ", rows), bar, h("div", { class: "actions" }, cancel), wrong);
}

/** Show the clusters of a run that is over: as a table, and on a map. */
function result(found, path, signal) {
  const clusters = found.centroids ?? [];
  const families = descendants(clusters);
  const chosen = h("div", { class: "chosen-cluster", "aria-live": "polite" });
  const choose = (index) => {
    map.isolate(index === null ? null : families.get(index), index);
    table.mark(index);
    chosen.replaceChildren(...(index === null ? [] : described(clusters[index], () => choose(null))));
  };
  const map = new ClusterMap({
    nameOf: (index) => (clusters[index] ? nameOf(clusters[index]) : `cluster ${index}`),
    choose,
    signal,
    parents: parentsOf(clusters),
  });
  const table = new ClusterTable(clusters, choose, signal);
  const state = h("p", { class: "hint", role: "status" }, "The map is being read.");
  const frame = framed(map);
  const see = (points) => {
    map.show(points);
    state.textContent = drawn(points, found.num_points);
  };
  read(path, found.num_points, see, signal).then((points) => {
    if (points.hasCoordinates) see(points);
    else {
      frame.remove();
      state.textContent = found.mode === "full"
        ? "This run has no coordinates: its definition has no dimension_reduction."
        : "Documents that join clusters get no coordinates.";
    }
    state.dataset.done = "";
  }).catch((error) => { if (!signal.aborted) state.replaceChildren(problem(error)); });
  return h("div", { class: "result" },
    h("section", { class: "picture" }, h("h2", {}, "Map"), frame, state, chosen),
    h("section", {}, h("h2", {}, "Clusters"), table.element));
}
