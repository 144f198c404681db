// Metrics of a definition's runs over time, as small line charts.

import { count, decimal, h, s, to } from "./elements.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [300, 110, 8, 8, 10, 10];
const METRICS = [
  ["Silhouette", (run) => run.metrics?.silhouette_score, decimal],
  ["Noise ratio", (run) => run.metrics?.noise_ratio, decimal],
  ["Mean cosine to centroid", (run) => run.metrics?.mean_cosine_to_centroid, decimal],
  ["Clusters", (run) => run.num_clusters, count],
  ["Size entropy", (run) => run.metrics?.cluster_size_entropy, decimal],
];

/** Show runs, oldest first. A point is a link to its run; a ring says that it should cluster anew. */
export function overTime(clusterId, runs) {
  return h("div", { class: "charts" }, METRICS.map(([name, value, shown]) =>
    chart(clusterId, name, runs.map((run) => ({ run, y: value(run) ?? null })), shown)));
}

function chart(clusterId, name, points, shown) {
  const there = points.filter((point) => point.y !== null);
  const last = there.at(-1);
  const caption = h("figcaption", {}, h("span", {}, name), h("strong", {}, last ? shown(last.y) : "–"));
  if (!there.length) return h("figure", {}, caption, h("p", { class: "none" }, "not computed"));
  const [low, high] = range(there.map((point) => point.y));
  const x = (i) => LEFT + (WIDTH - LEFT - RIGHT) * (points.length === 1 ? 0.5 : i / (points.length - 1));
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ((value - low) / (high - low));
  return h("figure", {}, caption,
    s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": `${name} of ${points.length} runs` },
      s("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
      s("path", { class: "line", d: line(points, x, y) }),
      points.map((point, i) => point.y !== null && dot(clusterId, name, point, x(i), y(point.y), shown))),
    h("p", { class: "range" }, h("span", {}, `least ${shown(Math.min(...there.map((p) => p.y)))}`),
      h("span", {}, `most ${shown(Math.max(...there.map((p) => p.y)))}`)));
}

function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low === high ? [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1] : [low, high];
}

/** Return the line through the points; it breaks where a run has no value. */
function line(points, x, y) {
  let path = "";
  points.forEach((point, i) => {
    if (point.y === null) return;
    const begins = i === 0 || points[i - 1].y === null;
    path += `${begins ? "M" : "L"}${x(i).toFixed(1)} ${y(point.y).toFixed(1)}`;
  });
  return path;
}

function dot(clusterId, name, { run, y: value }, x, y, shown) {
  const fired = run.recluster_reasons?.length > 0;
  const text = `${shown(value)}, ${run.mode}, ${new Date(run.completed_at ?? run.created_at).toLocaleString("en-GB")}${
    fired ? ", should cluster anew" : ""}`;
  return s("a", { href: to("clusters", clusterId, "runs", run.run_id), "aria-label": `${name} ${text}` },
    s("title", {}, text),
    s("circle", { class: "target", cx: x, cy: y, r: 9 }),
    fired && s("circle", { class: "ring", cx: x, cy: y, r: 6.5 }),
    run.mode === "full"
      ? s("circle", { class: "dot", cx: x, cy: y, r: 3.5 })
      : s("rect", { class: "dot open", x: x - 3, y: y - 3, width: 6, height: 6 }));
}

/** Say in words why runs should be done anew, newest first. */
export function reasons(clusterId, runs) {
  const fired = runs.filter((run) => run.recluster_reasons?.length).reverse();
  if (!fired.length) return null;
  return h("details", { class: "reasons" },
    h("summary", {}, `Why to cluster anew (${fired.length} ${fired.length === 1 ? "run" : "runs"})`),
    h("ul", {}, fired.map((run) => h("li", {},
      h("a", { href: to("clusters", clusterId, "runs", run.run_id) }, run.run_id), ": ",
      run.recluster_reasons.map(reason).join("; ")))));
}

const WORDS = { "<": "is below", ">": "is above", "<=": "is not above", ">=": "is not below" };

/** Say one reason in words. */
export function reason(why) {
  const number = (x) => (typeof x === "number" ? (Number.isInteger(x) ? count(x) : decimal(x)) : String(x ?? "–"));
  const then = typeof why.baseline === "number" ? ` (${number(why.baseline)})` : "";
  const beside = why.baseline_run_id ? `, against ${why.baseline_run_id}${then}` : "";
  const name = String(why.metric).replaceAll("_", " ");
  return `${name} ${number(why.value)} ${WORDS[why.op] ?? why.op ?? ""} ${number(why.threshold)}${beside}`;
}
