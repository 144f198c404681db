// Points with what is known of each, which are added in parts.

const GOLDEN = 0.6180339887498949;
const LEVELS = 256; // of depth, by which points are sorted

export class Points {
  length = 0;
  isDeep = false;
  bounds = { x: [Infinity, -Infinity], y: [Infinity, -Infinity], z: [Infinity, -Infinity] };
  similarity = null; // to the centroid; NaN where there is none
  truth = null; // numbers of true classes, -1 where there is none
  truthNames = [];
  #ids = []; // [first point, texts of a batch]
  #texts = [];

  constructor(capacity) {
    this.x = new Float32Array(capacity);
    this.y = new Float32Array(capacity);
    this.z = new Float32Array(capacity);
    this.cluster = new Int32Array(capacity);
  }

  /**
   * Add a batch: columns x, y, z, cluster_index and, where they are known, document_id, text,
   * similarity and truth. Columns of texts have `at(i)`.
   */
  add({ length, columns }) {
    const n = Math.min(length, this.x.length - this.length);
    if (columns.document_id) this.#ids.push([this.length, columns.document_id]);
    if (columns.text) this.#texts.push([this.length, columns.text]);
    for (const name of ["x", "y", "z"]) this[name].set(columns[name].subarray(0, n), this.length);
    this.cluster.set(columns.cluster_index.subarray(0, n), this.length);
    if (columns.similarity) {
      this.similarity ??= new Float32Array(this.x.length).fill(NaN);
      this.similarity.set(columns.similarity.subarray(0, n), this.length);
    }
    if (columns.truth) {
      this.truth ??= new Int32Array(this.x.length).fill(-1);
      this.truth.set(columns.truth.subarray(0, n), this.length);
    }
    for (const name of ["x", "y", "z"]) {
      const [bounds, values] = [this.bounds[name], columns[name]];
      for (let i = 0; i < n; i++) {
        if (values[i] < bounds[0]) bounds[0] = values[i];
        if (values[i] > bounds[1]) bounds[1] = values[i];
      }
    }
    this.isDeep = this.bounds.z[1] > this.bounds.z[0];
    this.length += n;
  }

  get hasCoordinates() {
    return this.bounds.x[1] >= this.bounds.x[0];
  }

  idAt(index) {
    return found(this.#ids, index);
  }

  textAt(index) {
    return found(this.#texts, index);
  }

  /** Return how near a point is to who looks: 0 to 1, and 0 where there is no depth. */
  nearness(index) {
    const [low, high] = this.bounds.z;
    return this.isDeep ? (this.z[index] - low) / (high - low) || 0 : 0;
  }

  /** Return all points in an order of which every beginning is spread evenly over all of them. */
  spread() {
    const n = this.length;
    let step = Math.max(1, Math.round(n * GOLDEN));
    while (divisor(n, step) > 1) step += 1;
    const order = new Uint32Array(n);
    for (let i = 0, at = 0; i < n; i++) {
      order[i] = at;
      at += step;
      if (at >= n) at -= n;
    }
    return order;
  }

  /** Return points from the farthest to the nearest; those of one depth stay as they are. */
  byDepth(order) {
    if (!this.isDeep) return order;
    const levels = new Uint8Array(order.length);
    for (let i = 0; i < order.length; i++) levels[i] = this.nearness(order[i]) * (LEVELS - 1);
    const sorted = counted(order.length, LEVELS, (i) => levels[i]).order;
    for (let i = 0; i < order.length; i++) sorted[i] = order[sorted[i]];
    return sorted;
  }
}

/** Sort 0..n-1 by whole numbers below `kinds`; return the order and where each kind starts. */
export function counted(n, kinds, kindOf) {
  const starts = new Uint32Array(kinds + 1);
  for (let i = 0; i < n; i++) starts[kindOf(i) + 1] += 1;
  for (let kind = 0; kind < kinds; kind++) starts[kind + 1] += starts[kind];
  const next = starts.slice();
  const order = new Uint32Array(n);
  for (let i = 0; i < n; i++) order[next[kindOf(i)]++] = i;
  return { order, starts };
}

function divisor(a, b) {
  while (b) [a, b] = [b, a % b];
  return a;
}

/** Return the text of a point, of [first point, texts] in ascending order. */
function found(batches, index) {
  let [low, high] = [0, batches.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (batches[middle][0] <= index) low = middle;
    else high = middle - 1;
  }
  if (high < 0) return null;
  const [first, texts] = batches[low];
  return texts.at(index - first);
}
