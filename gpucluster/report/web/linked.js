// What the clusters of a run are called, how they hang together, and what is said of one.

import { count, decimal, facts, h } from "./elements.js";

/** Return what a cluster is called: by its label, else its keywords, else its id. */
export function nameOf(cluster) {
  return cluster.label?.trim() || (cluster.keywords ?? []).slice(0, 4).join(", ") || cluster.cluster_id;
}

const known = new WeakMap(); // what was found for a list of clusters

/** Return {index: set of its own index and those of all clusters below it}. */
export function descendants(clusters) {
  if (!known.has(clusters)) known.set(clusters, found(clusters));
  return known.get(clusters);
}

function found(clusters) {
  const places = new Map(clusters.map((cluster, index) => [cluster.cluster_id, index]));
  const families = new Map();
  const family = (index) => {
    if (!families.has(index)) {
      const own = new Set([index]);
      families.set(index, own);
      for (const child of clusters[index].child_cluster_ids ?? []) {
        if (places.has(child)) family(places.get(child)).forEach((each) => own.add(each));
      }
    }
    return families.get(index);
  };
  clusters.forEach((_, index) => family(index));
  return families;
}

/** Return the index of each cluster's parent; null: it has none. */
export function parentsOf(clusters) {
  const places = new Map(clusters.map((cluster, index) => [cluster.cluster_id, index]));
  return clusters.map((cluster) => places.get(cluster.parent_cluster_id) ?? null);
}

/** Say what is known of a cluster. */
export function described(cluster, close) {
  return [
    h("h3", {}, nameOf(cluster)),
    cluster.summary && h("p", {}, cluster.summary),
    facts([
      ["Id", h("code", {}, cluster.cluster_id)],
      ["Members", count(cluster.num_members)],
      ["Keywords", (cluster.keywords ?? []).join(", ")],
      ["Mean cosine", decimal(cluster.mean_cosine_similarity)],
      ["Least cosine", decimal(cluster.min_cosine_similarity)],
      ["Inside", cluster.parent_cluster_id],
      ["Stable id", cluster.stable_id && h("code", {}, cluster.stable_id)],
    ]),
    h("button", { type: "button", click: close }, "Show all clusters"),
  ].filter(Boolean);
}
