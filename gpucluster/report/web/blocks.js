// What a page in one file carries: JSON, and compressed blocks of JSON and of points.

const LEVELS = 255; // of z and similarity; this code means that there is none
const NO_CLASS = 0xffff;

/** Return what stands in an element as JSON. */
export function written(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

/** Return the bytes of a block. */
export async function block(id) {
  const bytes = decoded(document.getElementById(id).textContent);
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(inflated).arrayBuffer());
}

/** Return the JSON of a block. */
export async function parsed(id) {
  return JSON.parse(new TextDecoder().decode(await block(id)));
}

function decoded(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** Return the columns of points, by what is said of them and their bytes. */
export function columnsOf({ length, runs, ranges, has_truth: hasTruth }, bytes) {
  let at = 0;
  const plane = () => bytes.subarray(at, (at += length));
  const columns = {
    x: summed(plane(), plane(), ranges.x),
    y: summed(plane(), plane(), ranges.y),
    z: ranges.z ? levelled(plane(), ranges.z) : new Float32Array(length).fill(NaN),
    cluster_index: new Int32Array(length),
  };
  if (ranges.similarity) columns.similarity = levelled(plane(), ranges.similarity);
  if (hasTruth) {
    const [low, high] = [plane(), plane()];
    columns.truth = new Int32Array(length);
    for (let i = 0; i < length; i++) {
      const code = low[i] | (high[i] << 8);
      columns.truth[i] = code === NO_CLASS ? -1 : code;
    }
  }
  let start = 0;
  for (const [cluster, count] of runs) columns.cluster_index.fill(cluster, start, (start += count));
  return columns;
}

/** Return 16-bit values of which the differences are stored, those next to zero as the smallest. */
function summed(low, high, [least, most]) {
  const step = (most - least) / 0xffff;
  const values = new Float32Array(low.length);
  for (let i = 0, code = 0; i < low.length; i++) {
    const folded = low[i] | (high[i] << 8);
    code = (code + ((folded >>> 1) ^ -(folded & 1))) & 0xffff;
    values[i] = least + code * step;
  }
  return values;
}

function levelled(codes, [least, most]) {
  const step = (most - least) / (LEVELS - 1);
  return Float32Array.from(codes, (code) => (code === LEVELS ? NaN : least + code * step));
}
