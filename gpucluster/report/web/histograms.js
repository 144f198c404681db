// Distributions as small bars.

import { count, decimal, h, many, s } from "./elements.js";

const [WIDTH, HEIGHT, GAP] = [300, 110, 1];
const BINS = 24; // of sizes, at most

/** Show how many values lie in each of equal parts from `low` to `high`. */
export function histogram(title, unit, { counts, low, high }) {
  const name = (i) => `${decimal(low + (i * (high - low)) / counts.length)} to ${decimal(low + ((i + 1) * (high - low)) / counts.length)}`;
  return bars(title, unit, counts, name, decimal(low), decimal(high));
}

/** Show how many sizes lie between edges that grow by the same factor. */
export function bySize(title, unit, sizes) {
  const [least, most] = sizes.reduce(([low, high], n) => [Math.min(low, n), Math.max(high, n)], [Infinity, 1]);
  const first = Math.max(1, least);
  const factor = (most + 1) / first;
  const edges = least < 1 ? [0, first] : [first]; // documents join some clusters, and others not
  for (let i = 1; edges.at(-1) <= most; i++) {
    edges.push(Math.max(edges.at(-1) + 1, Math.round(first * factor ** (i / BINS))));
  }
  const counts = new Array(edges.length - 1).fill(0);
  for (const size of sizes) counts[edges.findLastIndex((edge) => edge <= size)] += 1;
  const name = (i) => (edges[i + 1] - edges[i] === 1 ? count(edges[i]) : `${count(edges[i])} to ${count(edges[i + 1] - 1)}`);
  return bars(title, unit, counts, name, many(edges[0], "documents"), count(edges.at(-1) - 1));
}

function bars(title, unit, counts, name, low, high) {
  const most = Math.max(1, ...counts);
  const width = WIDTH / counts.length;
  const least = (n) => (n > 0 ? 1.5 : 0); // what is there is seen
  const y = (n) => HEIGHT - Math.max(least(n), (HEIGHT * n) / most);
  const at = counts.indexOf(most);
  return h("figure", { class: "histogram" },
    h("figcaption", {}, h("span", {}, title), h("span", { class: "hint" }, `most: ${many(most, unit)}`)),
    s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none",
      "aria-label": `${title}, from ${low} to ${high}; most, ${many(most, unit)}, at ${name(at)}` },
      counts.map((n, i) => s("rect", { x: i * width, y: y(n), width: Math.max(1, width - GAP), height: HEIGHT - y(n) },
        s("title", {}, `${name(i)}: ${many(n, unit)}`)))),
    h("p", { class: "range" }, h("span", {}, low), h("span", {}, high)));
}
