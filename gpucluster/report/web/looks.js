// What each point looks like: whether it is drawn, bright or faded, and in which colour.

import { colourOf, GROUND, FADED, NOISE, ramp, RAMP_STEPS } from "./colours.js";

const [HIDDEN, FAINT, STRAY, BRIGHT] = [0, 1, 2, 3]; // in the order of drawing; stray: bright noise
const SHARE = 0.02; // of the similarities that lie beyond either end of the ramp
const SAMPLE = 20_000; // similarities by which the ends are found
const MOST_CLASSES = 12; // in the legend

export const MODES = ["cluster", "similarity", "truth"];

/**
 * The look of points. `chosen` is a set of clusters, `marked` a set of points, null means all: what
 * is in both is bright, the rest is faded. `keys` numbers the colours of points in `palette`, which
 * has four bytes a colour and begins with that of the key -1.
 */
export class Look {
  #groups; // points that are faded, noise, and the rest, each in an order that spreads them evenly
  #layers = new Map(); // {most points: what is drawn of them}

  constructor(points, { theme, colourBy, chosen, marked, hasNoise }) {
    this.points = points;
    this.length = points.length;
    this.background = GROUND[theme];
    this.faded = FADED[theme];
    this.sizes = points.isDeep ? [0.6, 2.2] : [1, 1]; // of the farthest and the nearest dot
    this.fog = points.isDeep ? 0.45 : 0; // how far the farthest dot fades into the background
    this.#state(chosen, marked, hasNoise);
    this.#colour(theme, colourBy);
  }

  /** Say whether a point is drawn, and not faded. */
  isBright(index) {
    return this.states[index] >= STRAY;
  }

  /** Return the size of the dot of a point, beside that of the map. */
  sizeOf(index) {
    const [far, near] = this.sizes;
    return far + (near - far) * this.points.nearness(index);
  }

  /** How many points are drawn. */
  get shown() {
    return this.#groups.reduce((sum, group) => sum + group.length, 0);
  }

  /**
   * Return what is drawn where at most so many points can be, in the order of drawing: {order,
   * length, isFaded}. A part is spread evenly over all; bright points go before faded ones.
   */
  layers(most = this.shown) {
    if (!this.#layers.has(most)) {
      if (this.#layers.size > 1) this.#layers.clear();
      const [faint, stray, bright] = this.#groups.map((group) => group.length);
      const strays = Math.round(stray * Math.min(1, most / (stray + bright || 1)));
      const brights = Math.min(bright, most - strays);
      const lengths = [Math.min(faint, most - strays - brights), strays, brights];
      this.#layers.set(most, this.#groups.map((group, i) => this.#layer(group, lengths[i], i === 0)));
    }
    return this.#layers.get(most);
  }

  #layer(order, length, isFaded) {
    const { points } = this;
    return { order: points.isDeep ? points.byDepth(order.subarray(0, length)) : order, length, isFaded };
  }

  #state(chosen, marked, hasNoise) {
    const { points } = this;
    this.states = new Uint8Array(this.length);
    this.hits = marked && new Set(); // clusters of the marked points, or null
    const lengths = [0, 0, 0, 0];
    for (let i = 0; i < this.length; i++) {
      const cluster = points.cluster[i];
      const isShown = !Number.isNaN(points.x[i]) && !Number.isNaN(points.y[i]) && (cluster >= 0 || hasNoise);
      if (isShown) {
        const isBright = (chosen === null || chosen.has(cluster)) && (marked === null || marked.has(i));
        this.states[i] = !isBright ? FAINT : cluster < 0 ? STRAY : BRIGHT;
        if (isBright && marked) this.hits.add(cluster);
      }
      lengths[this.states[i]] += 1;
    }
    lengths[HIDDEN] = 0;
    const groups = lengths.map((length) => new Uint32Array(length));
    const filled = [0, 0, 0, 0];
    for (const index of points.spread()) groups[this.states[index]][filled[this.states[index]]++] = index;
    this.#groups = groups.slice(FAINT);
  }

  #colour(theme, colourBy) {
    const { points } = this;
    this.legend = null;
    if (colourBy === "similarity" && points.similarity) {
      const [low, high] = ends(points.similarity, this.length);
      const colours = ramp(theme);
      const step = (RAMP_STEPS - 1) / (high - low || 1);
      this.keys = new Int32Array(this.length);
      for (let i = 0; i < this.length; i++) {
        const at = Math.round((points.similarity[i] - low) * step);
        this.keys[i] = Number.isNaN(at) ? -1 : Math.min(RAMP_STEPS - 1, Math.max(0, at));
      }
      this.palette = packed([NOISE[theme], ...colours]);
      this.legend = { kind: "ramp", low, high, colours };
    } else {
      const isTruth = colourBy === "truth" && points.truth !== null;
      this.keys = isTruth ? points.truth : points.cluster;
      const numbers = occurrences(this.keys, this.length);
      const colours = Array.from(numbers, (_, i) => colourOf(i - 1, theme));
      this.palette = packed(colours);
      if (isTruth) this.legend = classes(points.truthNames, numbers, colours);
    }
  }
}

/** Return the values between which all but the most extreme ones lie. */
function ends(values, n) {
  const step = Math.max(1, Math.floor(n / SAMPLE));
  const some = [];
  for (let i = 0; i < n; i += step) if (!Number.isNaN(values[i])) some.push(values[i]);
  if (!some.length) return [0, 1];
  some.sort((a, b) => a - b);
  const at = (share) => some[Math.round(share * (some.length - 1))];
  return [at(SHARE), at(1 - SHARE)];
}

/** Return how often each key occurs, that of -1 first. */
function occurrences(keys, n) {
  let most = -1;
  for (let i = 0; i < n; i++) if (keys[i] > most) most = keys[i];
  const numbers = new Array(most + 2).fill(0);
  for (let i = 0; i < n; i++) numbers[keys[i] + 1] += 1;
  return numbers;
}

function classes(names, numbers, colours) {
  const largest = names.map((name, i) => ({ name, number: numbers[i + 1] ?? 0, colour: colours[i + 1] }))
    .filter(({ number }) => number > 0)
    .sort((a, b) => b.number - a.number);
  return { kind: "classes", entries: largest.slice(0, MOST_CLASSES), more: Math.max(0, largest.length - MOST_CLASSES) };
}

function packed(colours) {
  const bytes = new Uint8Array(4 * colours.length);
  colours.forEach((colour, i) => bytes.set([...colour, 255], 4 * i));
  return bytes;
}
