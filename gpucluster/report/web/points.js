// Points with their clusters, which are added in parts.

export class Points {
  length = 0;
  isDeep = false;
  bounds = { x: [Infinity, -Infinity], y: [Infinity, -Infinity], z: [Infinity, -Infinity] };
  #ids = []; // [first point, texts of a batch]
  #middles = null;

  constructor(capacity) {
    this.x = new Float32Array(capacity);
    this.y = new Float32Array(capacity);
    this.z = new Float32Array(capacity);
    this.cluster = new Int32Array(capacity);
  }

  add({ length, columns }) {
    const n = Math.min(length, this.x.length - this.length);
    this.#ids.push([this.length, columns.document_id]);
    for (const name of ["x", "y", "z"]) this[name].set(columns[name].subarray(0, n), this.length);
    this.cluster.set(columns.cluster_index.subarray(0, n), this.length);
    for (const name of ["x", "y", "z"]) {
      const [bounds, values] = [this.bounds[name], columns[name]];
      for (let i = 0; i < n; i++) {
        if (values[i] < bounds[0]) bounds[0] = values[i];
        if (values[i] > bounds[1]) bounds[1] = values[i];
      }
    }
    this.isDeep = this.bounds.z[1] > this.bounds.z[0];
    this.length += n;
    this.#middles = null;
  }

  get hasCoordinates() {
    return this.bounds.x[1] >= this.bounds.x[0];
  }

  idAt(index) {
    let [low, high] = [0, this.#ids.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#ids[middle][0] <= index) low = middle;
      else high = middle - 1;
    }
    const [first, texts] = this.#ids[low];
    return texts.at(index - first);
  }

  /** Return {index: [x, y, number]}: the middle of each cluster that was read so far. */
  middles() {
    this.#middles ??= this.#average();
    return this.#middles;
  }

  #average() {
    const sums = new Map();
    for (let i = 0; i < this.length; i++) {
      const index = this.cluster[i];
      if (index < 0 || Number.isNaN(this.x[i])) continue;
      const sum = sums.get(index) ?? [0, 0, 0];
      sum[0] += this.x[i];
      sum[1] += this.y[i];
      sum[2] += 1;
      sums.set(index, sum);
    }
    for (const sum of sums.values()) {
      sum[0] /= sum[2];
      sum[1] /= sum[2];
    }
    return sums;
  }
}
