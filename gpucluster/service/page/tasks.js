// What the service works on.

import { STATUSES } from "./clusters.js";
import { badge, count, h, to, when } from "./elements.js";
import { listing } from "./listing.js";

const KINDS = {
  engine_cluster_build: "execution",
  api_collections_documents_create: "import",
  api_collections_documents_enrich: "enrichment",
  api_collections_export: "write-back",
  api_taxonomies_create: "taxonomy",
  api_taxonomies_execute: "application of a taxonomy",
};
const COLUMNS = [
  { name: "Task", cell: (task) => subject(task) },
  { name: "Status", cell: (task) => badge(task.status) },
  { name: "Works on", class: "wide", cell: (task) => (task.inputs ?? []).map(String).join(", ") },
  { name: "Progress", cell: (task) => progress(task.additional_data?.progress) ?? task.error ?? "" },
  { name: "Made", cell: (task) => when(task.created_at) },
];

function subject(task) {
  const word = KINDS[task.task_type] ?? task.task_type;
  const { cluster_id: cluster, run_id: run } = task.additional_data ?? {};
  return cluster && run ? h("a", { href: to("clusters", cluster, "runs", run), title: task.task_id }, word) : word;
}

function progress(at) {
  if (!at) return null;
  return `${at.stage}: ${count(at.done)}${at.total ? ` of ${count(at.total)}` : ""} ${at.unit ?? "rows"}`;
}

export async function tasks({ query, signal }) {
  const list = listing({
    label: "Tasks", path: "/v1/tasks/list", columns: COLUMNS, query, signal,
    search: "Search by id", statuses: STATUSES, none: "Nothing was asked for yet.",
  });
  await list.load();
  return [h("h1", { tabindex: "-1" }, "Tasks"), list.element];
}
