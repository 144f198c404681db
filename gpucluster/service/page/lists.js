// What else the service holds: collections, taxonomies, webhooks.

import { badge, count, h, roughly, to, when } from "./elements.js";
import { listing } from "./listing.js";

function named(name, id, description) {
  return [h("span", { title: id }, name), description && h("small", {}, description)].filter(Boolean);
}

const COLLECTIONS = [
  { name: "Name", cell: (each) => named(each.collection_name, each.collection_id, each.description) },
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

const shown = (label, path, columns, none, search) => async ({ query, signal }) => {
  const list = listing({ label, path, columns, query, signal, search, none });
  await list.load();
  return [h("h1", { tabindex: "-1" }, label), list.element];
};

export const collections = shown("Collections", "/v1/collections/list", COLLECTIONS,
  "No collection yet. Make one with POST /v1/collections.", "Search");
export const taxonomies = shown("Taxonomies", "/v1/taxonomies/list", TAXONOMIES,
  "No taxonomy yet. Promote a run with POST /v1/clusters/{id}/promote.", "Search");
export const webhooks = shown("Webhooks", "/v1/organizations/webhooks/list", WEBHOOKS,
  "No webhook yet. Make one with POST /v1/organizations/webhooks.");
