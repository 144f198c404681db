// All definitions of the namespace.

import { badge, count, h, to, when } from "./elements.js";
import { listing } from "./listing.js";

export const STATUSES = ["PENDING", "IN_PROGRESS", "COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED"]
  .map((status) => [status, status.toLowerCase().replaceAll("_", " ")]);
const SORTS = [
  ["cluster_name:asc", "name"],
  ["updated_at:desc", "last changed"],
  ["num_documents_clustered:desc", "documents"],
  ["num_clusters:desc", "clusters found"],
];
const COLUMNS = [
  { name: "Name", cell: (each) => h("a", { href: to("clusters", each.cluster_id) }, each.cluster_name) },
  { name: "Status", cell: (each) => badge(each.status) },
  { name: "Method", cell: (each) => each.algorithm ?? each.cluster_type },
  { name: "Clusters", class: "number", cell: (each) => count(each.num_clusters) },
  { name: "Documents", class: "number", cell: (each) => count(each.num_documents_clustered) },
  { name: "Collections", class: "wide", cell: (each) => each.input_collections.join(", ") },
  { name: "Last run", cell: (each) => when(each.last_executed_at) },
];

export async function clusters({ query, signal }) {
  const list = listing({
    label: "Clusters", path: "/v1/clusters/list", columns: COLUMNS, query, signal,
    search: "Search", sorts: SORTS, statuses: STATUSES,
    none: "No definition yet. Make one with POST /v1/clusters.",
  });
  await list.load();
  return [h("h1", { tabindex: "-1" }, "Clusters"), list.element];
}
