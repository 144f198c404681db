// What else the service holds: collections, taxonomies, triggers, webhooks.

import { badge, count, h, roughly, to, when } from "./elements.js";
import { listing } from "./listing.js";

function named(name, id, description) {
  return [h("span", { title: id }, name), description && h("small", {}, description)].filter(Boolean);
}

const COLLECTIONS = [
  { name: "Name", cell: (each) => named(each.collection_name, each.collection_id, each.description) },
  { name: "Status", cell: (each) => h("span", { title: each.error ?? "" }, badge(each.status)) },
  { name: "Documents", class: "number", cell: (each) => count(each.num_documents) },
  { name: "Bytes", class: "number", cell: (each) => roughly(each.num_bytes) },
  { name: "Version", class: "number", cell: (each) => count(each.version) },
  { name: "Features", class: "wide", cell: (each) => Object.keys(each.features).join(", ") },
  { name: "Enriched by", class: "wide", cell: (each) => each.enrichments.map((one) => one.run_id).join(", ") },
  { name: "Changed", cell: (each) => when(each.updated_at) },
];
const TAXONOMIES = [
  { name: "Name", cell: (each) => named(each.taxonomy_name, each.taxonomy_id, each.description) },
  { name: "Kind", cell: (each) => each.taxonomy_type },
  { name: "Nodes", class: "number", cell: (each) => count(each.num_nodes) },
  { name: "Version", class: "number", cell: (each) => count(each.version) },
  { name: "Comes from", class: "wide", cell: (each) => origin(each) },
  { name: "Promoted", cell: (each) => when(each.promoted_at) },
];
const TRIGGERS = [
  { name: "Trigger", cell: (each) => named(each.trigger_id, each.trigger_id, each.description) },
  { name: "Status", cell: (each) => badge(each.status) },
  { name: "When", cell: (each) => moment(each) },
  { name: "Starts", cell: (each) => each.cluster_id
    ? [h("a", { href: to("clusters", each.cluster_id) }, each.cluster_id), ` (${each.mode})`] : each.mode },
  { name: "Times", class: "number", cell: (each) => count(each.execution_count) },
  { name: "Last", cell: (each) => when(each.last_triggered_at) },
  { name: "Next", cell: (each) => when(each.next_scheduled_at) },
  { name: "Last error", class: "wide", cell: (each) => each.last_execution_error ?? "" },
];
const TRIGGER_STATUSES = ["active", "paused", "disabled", "failed"].map((each) => [each, each]);
const WEBHOOKS = [
  { name: "Name", cell: (each) => named(each.webhook_name, each.webhook_id) },
  { name: "Status", cell: (each) => badge(each.is_active ? "active" : "paused") },
  { name: "Channels", cell: (each) => each.channels.map((one) => one.channel).join(", ") },
  { name: "Events", class: "wide", cell: (each) => each.event_types.join(", ") },
  { name: "Stopped because", cell: (each) => each.disabled_reason ?? "" },
  { name: "Made", cell: (each) => when(each.created_at) },
];

function origin({ cluster_id: cluster, source_run_id: run }) {
  return cluster ? h("a", { href: to("clusters", cluster, "runs", run) }, run) : run;
}

/** Say in words when a trigger fires. */
function moment({ trigger_type: type, schedule_config: at }) {
  if (type === "cron") return `${at.cron_expression} (${at.timezone})`;
  if (type === "interval") return `every ${count(at.interval_seconds)} s`;
  if (type === "event") return `${count(at.event_threshold)} × ${String(at.event_type).replaceAll("_", " ")} in ${at.collection_id}`;
  return [at.condition_type, at.metric, at.operator, at.threshold].filter((each) => each !== null && each !== undefined).join(" ");
}

const shown = (label, path, columns, none, more) => async ({ query, signal }) => {
  const list = listing({ label, path, columns, query, signal, none, ...more });
  await list.load();
  return [h("h1", { tabindex: "-1" }, label), list.element];
};

export const collections = shown("Collections", "/v1/collections/list", COLLECTIONS,
  "No collection yet. Make one with POST /v1/collections.", { search: "Search" });
export const taxonomies = shown("Taxonomies", "/v1/taxonomies/list", TAXONOMIES,
  "No taxonomy yet. Promote a run with POST /v1/clusters/{id}/promote.", { search: "Search" });
export const triggers = shown("Triggers", "/v1/clusters/triggers/list", TRIGGERS,
  "No trigger yet. Make one with POST /v1/clusters/triggers.", {
    statuses: TRIGGER_STATUSES,
    body: ({ status, limit, offset }) => ({ limit, offset, ...(status ? { status } : {}) }),
  });
export const webhooks = shown("Webhooks", "/v1/organizations/webhooks/list", WEBHOOKS,
  "No webhook yet. Make one with POST /v1/organizations/webhooks.");
