// Members of a run with their coordinates, as they arrive.

import { batches } from "./arrow.js";
import { Points } from "./points.js";
import { send } from "./session.js";

const MOST = 2_000_000; // that a browser is asked to hold and draw
const COLUMNS = ["x", "y", "z", "cluster_index", "document_id", "cosine_similarity_to_centroid"];
const ARROW = "application/vnd.apache.arrow.stream";

/** Read the members of a run; `see` is called after each batch. */
export async function read(path, total, see, signal) {
  const points = new Points(Math.min(total, MOST));
  const query = new URLSearchParams({ include_centroids: false, include_members: true, limit: MOST });
  for (const name of COLUMNS) query.append("columns", name);
  const response = await send(`${path}/data?${query}`, { accept: ARROW, signal });
  for await (const { length, columns } of batches(response.body)) {
    points.add({ length, columns: { ...columns, similarity: columns.cosine_similarity_to_centroid } });
    see(points);
  }
  return points;
}
