// What became of the clusters of the run before: bars as high as they have documents, and ribbons.

import { colourOf, css, theme, whenThemeChanges } from "./colours.js";
import { count, h, many, s } from "./elements.js";

const [WIDTH, BAR] = [100, 3]; // of the picture, which is as wide as there is room
const TALL = 360; // pixels of all documents of the larger run
const [ROW, GAP] = [22, 2]; // pixels that a name needs, however small its bar is
const MOST = 3; // bars that are told by name
const HELP = "Point at a name or a ribbon: it says how many documents went where.";

/** Show it; `choose` is told which cluster of this run was picked. */
export function flow({ columns, ribbons }, choose, signal) {
  const scale = TALL / Math.max(...columns.map(({ bars }) => bars.reduce((sum, bar) => sum + bar.size, 0)));
  const heights = columns.map(({ bars }) => bars.reduce((sum, bar) => sum + slot(bar, scale), 0));
  const height = Math.max(...heights);
  const placed = columns.map(({ bars }, side) => stacked(bars, scale, (height - heights[side]) / 2));
  const said = h("figcaption", { class: "hint", role: "status" }, HELP);
  const shapes = ribbons.map(([left, right, n, colour], i) => s("path", {
    d: ribbon(placed[0][left], placed[1][right], n * scale),
    class: colour < 0 ? "leaving" : null,
    pointerenter: () => tell([i], `${columns[0].bars[left].name} to ${columns[1].bars[right].name}: ${documents(n)}.`),
    pointerleave: () => tell(),
  }));
  const bars = columns.map((column, side) => column.bars.map((bar, i) => s("rect", {
    x: side * (WIDTH - BAR), y: placed[side][i].top, width: BAR, height: Math.max(1, placed[side][i].high),
    ...told(side, i),
  })));

  /** Point out ribbons and say what they are; without any, all are shown alike. */
  function tell(lit = null, text = HELP) {
    shapes.forEach((shape, i) => shape.classList.toggle("faint", lit !== null && !lit.includes(i)));
    said.textContent = text;
  }

  function told(side, at) {
    const bar = columns[side].bars[at];
    const own = ribbons.map((_, i) => i).filter((i) => ribbons[i][side] === at);
    const largest = own.toSorted((one, other) => ribbons[other][2] - ribbons[one][2]);
    const parts = largest.slice(0, MOST).map((i) =>
      `${count(ribbons[i][2])} ${side ? "of" : "to"} ${columns[1 - side].bars[ribbons[i][1 - side]].name}`);
    if (own.length > MOST) parts.push(`${count(own.length - MOST)} more`);
    const text = `${bar.name}${bar.fate ? ` (${bar.fate})` : ""}: ${documents(bar.size)}`;
    const enter = () => tell(own, `${[text, parts.join(", ")].filter(Boolean).join("; ")}.`);
    return { pointerenter: enter, focusin: enter, pointerleave: () => tell(), focusout: () => tell() };
  }

  function named(bar, side, at) {
    const parts = [
      h("span", { class: "word" }, bar.name), bar.fate && h("em", {}, bar.fate),
      h("span", { class: "size" }, count(bar.size))];
    const isPicked = side === 1 && bar.cluster >= 0;
    const { top, high } = placed[side][at];
    const item = h("li", { tabindex: isPicked ? null : "0", ...told(side, at) }, isPicked
      ? h("button", { type: "button", class: "pick", "data-index": bar.cluster, click: () => choose(bar.cluster) }, parts)
      : parts);
    item.style.top = `${top + high / 2 - ROW / 2}px`;
    return item;
  }

  const paint = () => {
    shapes.forEach((shape, i) => shape.setAttribute("fill", css(colourOf(ribbons[i][3], theme()))));
    bars.forEach((own, side) => own.forEach((shape, i) =>
      shape.setAttribute("fill", css(colourOf(columns[side].bars[i].colour, theme())))));
  };
  whenThemeChanges(paint, signal);
  paint();
  const names = columns.map(({ bars: own, title }, side) => {
    const list = h("ol", { "aria-label": title }, own.map((bar, i) => named(bar, side, i)));
    list.style.height = `${height}px`;
    return list;
  });
  const titles = columns.map(({ title, num_clusters: n }) =>
    h("p", {}, h("strong", {}, title), ` ${many(n, "clusters")}`));
  const picture = s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, height, preserveAspectRatio: "none", "aria-hidden": "true" }, shapes, bars);
  return h("figure", { class: "flow" },
    h("div", { class: "runs" }, titles), h("div", { class: "sides" }, names[0], picture, names[1]), said);
}

const documents = (n) => many(n, "documents");
const slot = (bar, scale) => Math.max(bar.size * scale, ROW) + GAP;

/** Return where each bar is, and from where on its ribbons start. */
function stacked(bars, scale, start) {
  let at = start;
  return bars.map((bar) => {
    const [high, room] = [bar.size * scale, slot(bar, scale)];
    const top = at + (room - high) / 2;
    at += room;
    return { top, high, free: top };
  });
}

/** Return the outline of a ribbon, and take its place on both sides. */
function ribbon(from, to, high) {
  const [a, b, middle] = [from.free, to.free, WIDTH / 2];
  from.free += high;
  to.free += high;
  return `M${BAR} ${a}C${middle} ${a} ${middle} ${b} ${WIDTH - BAR} ${b}V${b + high}`
    + `C${middle} ${b + high} ${middle} ${a + high} ${BAR} ${a + high}Z`;
}
