// Names on a map: those of the largest clusters for which there is room, more as one comes nearer.

import { h, many } from "./elements.js";

const [SMALLEST, LARGEST] = [11, 17]; // letters, in pixels
const NARROW = 700; // pixels of a map below which the largest are smaller
const FONT = "system-ui, sans-serif";
const LINE = 1.15; // height of a line, in letters
const APART = 4; // pixels between names
const ROOM = 20_000; // pixels of a map for each name, at least
const MOST = 500; // names for which room is sought
const [LONG, LONGEST] = [16, 26]; // letters of a name that is broken, of a line that is cut
const OPEN = 0.5; // of the shorter side: how far a cluster reaches whose children are named instead
const STILL = 0.8; // of that: until then it stays so, as one goes away
const SHIFTS = { wide: [0, -1, 1], small: [-1, 1, 0] }; // on a cluster, above and below it
const SMALL = 2; // names that are higher than a small cluster, which a name must not hide
const LOYAL = 2; // how many times larger a cluster must be to take the place of a name, as one zooms

/** Names as buttons above a map. */
export class Names {
  #buttons = new Map(); // {index: {button, lines that it shows}}
  #placed = new Map(); // {index: where its name is}
  #open = new Set(); // clusters whose children are named
  #scale = 0; // when they were placed last
  #widths = new Map();
  #pen = document.createElement("canvas").getContext("2d");

  constructor({ nameOf, choose, parents }) {
    this.nameOf = nameOf;
    this.choose = choose;
    this.parents = parents ?? [];
    this.children = Map.groupBy(this.parents.keys(), (index) => this.parents[index] ?? -1);
    this.element = h("div", { class: "names", role: "group", "aria-label": "Names of clusters" });
  }

  /** Forget which names are shown. */
  clear() {
    this.#placed.clear();
    this.#open.clear();
  }

  /**
   * Place names. `middles` says where clusters lie, `room` is {width, height} of the map, `view` is
   * {x, y, scale}, all in pixels of the page; `whole` is the scale that shows all of it; `chosen`
   * is a set of clusters, or null, `picked` the one of them that was clicked, or null, and `hits`
   * those, with what lies above them, that are named at all.
   */
  place({ middles, room, view, whole, chosen, picked, hits }) {
    const named = hits ? this.#withParents(hits) : middles;
    const shorter = Math.min(room.width, room.height);
    const isOpen = (index) => {
      const { width, height } = middles.get(index);
      const reach = (Math.max(width, height) * view.scale) / (shorter * OPEN);
      return chosen?.has(index) || (view.scale > 1.05 * whole && reach > (this.#open.has(index) ? STILL : 1));
    };
    const tallest = SMALLEST + (LARGEST - SMALLEST) * Math.min(1, room.width / NARROW);
    const isSame = view.scale === this.#scale;
    const near = this.#reached(middles, named, chosen, isOpen).map(({ index, largest }) => {
      const { x, y, number, height } = middles.get(index);
      const left = (x - view.x) * view.scale + room.width / 2;
      const top = (view.y - y) * view.scale + room.height / 2;
      return { index, left, top, number, reach: (height * view.scale) / 2, share: number / largest };
    }).filter(({ left, top }) => left >= 0 && top >= 0 && left <= room.width && top <= room.height);
    const shown = near.sort(bySize).slice(0, MOST).map((place) => {
      const before = this.#placed.get(place.index);
      const name = this.#measured(place.index, SMALLEST + (tallest - SMALLEST) * Math.sqrt(place.share));
      // One that slides along an edge must not push others away
      const isInside = Math.abs(place.left - room.width / 2) < (room.width - name.width) / 2
        && Math.abs(place.top - room.height / 2) < room.height / 2 - 2 * name.height;
      const rank = before ? (isSame && isInside ? Infinity : place.number * LOYAL) : place.number;
      return { ...place, ...name, rank, shift: before?.shift };
    });
    shown.sort((a, b) => (a.rank === b.rank ? bySize(a, b) : b.rank - a.rank));
    const placed = arranged(shown, room, Math.max(6, Math.round((room.width * room.height) / ROOM)));
    this.#placed = new Map(placed.map((name) => [name.index, name]));
    this.#scale = view.scale;
    this.#show(picked);
  }

  /** Draw the names as they are shown, `ratio` times as large. */
  draw(context, ratio, { ink, halo }) {
    Object.assign(context, { textAlign: "center", textBaseline: "middle", lineJoin: "round" });
    for (const { left, top, size, lines } of [...this.#placed.values()].reverse()) {
      context.font = `600 ${size * ratio}px ${FONT}`;
      lines.forEach((line, i) => {
        const place = [left * ratio, (top + (i - (lines.length - 1) / 2) * size * LINE) * ratio];
        Object.assign(context, { lineWidth: 3 * ratio, strokeStyle: halo, fillStyle: ink });
        context.strokeText(line, ...place);
        context.fillText(line, ...place);
      });
    }
  }

  /** Return {index, largest number of its level} of those that are named if there is room. */
  #reached(middles, named, chosen, isOpen) {
    const found = [];
    const open = new Set();
    let level = [...middles.keys()].filter((index) => named.has(index)).filter((index) =>
      chosen ? chosen.has(index) && !chosen.has(this.parents[index]) : (this.parents[index] ?? -1) < 0);
    while (level.length) {
      const largest = level.reduce((most, index) => Math.max(most, middles.get(index).number), 0);
      const below = [];
      for (const index of level) {
        const children = (this.children.get(index) ?? []).filter((child) => middles.has(child) && named.has(child));
        if (children.length && isOpen(index)) {
          open.add(index);
          below.push(...children);
        } else found.push({ index, largest });
      }
      level = below;
    }
    this.#open = open;
    return found;
  }

  #withParents(clusters) {
    const all = new Set();
    for (let index of clusters) {
      for (; index >= 0 && !all.has(index); index = this.parents[index] ?? -1) all.add(index);
    }
    return all;
  }

  #measured(index, wanted) {
    const name = this.nameOf(index);
    const size = Math.round(2 * wanted) / 2;
    const key = `${size} ${name}`;
    if (!this.#widths.has(key)) {
      const lines = broken(name);
      this.#pen.font = `600 ${size}px ${FONT}`;
      const width = Math.max(...lines.map((line) => this.#pen.measureText(line).width));
      this.#widths.set(key, { lines, size, width, height: lines.length * size * LINE });
    }
    return this.#widths.get(key);
  }

  #show(picked) {
    for (const [index, { button }] of this.#buttons) {
      if (this.#placed.has(index)) continue;
      const hadFocus = button === document.activeElement;
      button.remove();
      this.#buttons.delete(index);
      if (hadFocus) this.element.parentElement.querySelector("canvas").focus();
    }
    for (const [index, { left, top, number, size, lines }] of this.#placed) {
      const shown = this.#buttons.get(index) ?? this.#button(index);
      if (shown.lines !== lines) {
        shown.button.textContent = lines.join("\n");
        shown.button.style.fontSize = `${size}px`;
        shown.lines = lines;
      }
      const { button } = shown;
      button.setAttribute("aria-label", `${this.nameOf(index)}, ${many(number, "documents")}`);
      button.setAttribute("aria-pressed", String(index === picked));
      button.style.transform = `translate(${left}px, ${top}px) translate(-50%, -50%)`;
    }
  }

  #button(index) {
    const button = h("button", { type: "button", class: "name", "data-index": index, title: this.nameOf(index),
      click: () => this.choose(button.getAttribute("aria-pressed") === "true" ? null : index) });
    this.element.append(button);
    this.#buttons.set(index, { button, lines: null });
    return this.#buttons.get(index);
  }
}

/**
 * Return the names for which there is room, without any overlap: those that come first go first.
 * Each has a place, a width and a height, how far its cluster reaches up and down, and the shift that
 * it had; one that is not quite in the picture is moved inside.
 */
export function arranged(names, room, most) {
  const placed = [];
  for (const name of names) {
    if (placed.length >= most) break;
    if (name.left < 0 || name.top < 0 || name.left > room.width || name.top > room.height) continue;
    const isSmall = 2 * name.reach < SMALL * name.height;
    const shifts = isSmall ? SHIFTS.small : SHIFTS.wide;
    for (const shift of shifts.toSorted((a, b) => (b === name.shift) - (a === name.shift))) {
      const half = [name.width / 2 + APART / 2, name.height / 2 + APART / 2];
      const left = inside(name.left, half[0], room.width);
      const top = inside(name.top + shift * (half[1] + (isSmall ? name.reach : 0)), half[1], room.height);
      const box = [left - half[0], top - half[1], left + half[0], top + half[1]];
      const isLarger = 2 * half[0] > room.width || 2 * half[1] > room.height;
      if (isLarger || placed.some((other) => overlap(box, other.box))) continue;
      placed.push({ ...name, left, top, shift, box });
      break;
    }
  }
  return placed;
}

const bySize = (a, b) => b.number - a.number || a.index - b.index;
const inside = (value, half, size) => Math.max(half, Math.min(size - half, value));
const overlap = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];

/** Break a long name into two lines where they are most alike, and cut what is still too long. */
function broken(name) {
  const letters = [...name];
  const spaces = letters.flatMap((letter, at) => (letter === " " ? [at] : []));
  if (letters.length <= LONG || !spaces.length) return [cut(letters)];
  const middle = letters.length / 2;
  const at = spaces.reduce((best, each) => (Math.abs(each - middle) < Math.abs(best - middle) ? each : best));
  return [cut(letters.slice(0, at)), cut(letters.slice(at + 1))];
}

const cut = (letters) => (letters.length > LONGEST ? `${letters.slice(0, LONGEST - 1).join("")}…` : letters.join(""));
