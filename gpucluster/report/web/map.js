// The map of a run: its members as dots, to move about in, ask and isolate.

import { colourOf, css, theme, whenThemeChanges } from "./colours.js";
import { Dots } from "./dots.js";
import { count, h } from "./elements.js";
import { Points } from "./points.js";

const BACKGROUND = { light: [255, 255, 255], dark: [20, 23, 27] };
const FADED = { light: [228, 230, 233], dark: [40, 44, 50] };
const MARGIN = 0.06; // of the picture, left free around all points
const MOST_NAMES = 24;
const REACH = 5; // pixels from a dot that still mean it
const STEP = 60;
const ZOOM = 1.25;

/** A picture that moves. `nameOf` tells what a cluster is called, `choose` is told who was clicked. */
export class ClusterMap {
  #points = new Points(0);
  #view = null; // null: all of it
  #chosen = null; // a set of clusters, or null: all
  #hasNoise = true;
  #waiting = false;
  #drag = null;
  #dots;

  constructor({ nameOf, choose, signal }) {
    this.nameOf = nameOf;
    this.choose = choose;
    this.canvas = h("canvas", {
      tabindex: "0", role: "img", class: "map",
      "aria-label": "Map of the documents. Arrow keys move it, plus and minus zoom, 0 shows all.",
    });
    this.tip = h("div", { class: "tip", hidden: true });
    this.element = h("div", { class: "frame" }, this.canvas, this.tip);
    this.#dots = new Dots(this.canvas);
    this.#listen(signal);
  }

  show(points) {
    this.#points = points;
    this.#later();
  }

  isolate(clusters) {
    this.#chosen = clusters;
    this.#later();
  }

  set hasNoise(value) {
    this.#hasNoise = value;
    this.#later();
  }

  reset() {
    this.#view = null;
    this.#later();
  }

  zoom(factor, left = this.canvas.width / 2, top = this.canvas.height / 2) {
    const view = this.#current();
    const [x, y] = [left - this.canvas.width / 2, top - this.canvas.height / 2];
    const scale = Math.min(this.#whole().scale * 1000, Math.max(this.#whole().scale / 4, view.scale * factor));
    this.#view = {
      x: view.x + x / view.scale - x / scale,
      y: view.y - y / view.scale + y / scale,
      scale,
    };
    this.#later();
  }

  move(right, down) {
    const view = this.#current();
    this.#view = { ...view, x: view.x - right / view.scale, y: view.y + down / view.scale };
    this.#later();
  }

  #current() {
    return this.#view ?? this.#whole();
  }

  /** Return the view that shows all points. */
  #whole() {
    const { x, y } = this.#points.bounds;
    if (!this.#points.hasCoordinates) return { x: 0, y: 0, scale: 1 };
    const free = 1 - 2 * MARGIN;
    const across = (this.canvas.width * free) / (x[1] - x[0] || 1);
    const down = (this.canvas.height * free) / (y[1] - y[0] || 1);
    return { x: (x[0] + x[1]) / 2, y: (y[0] + y[1]) / 2, scale: Math.min(across, down) };
  }

  #later() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #draw() {
    const shown = theme();
    const points = this.#points;
    this.#dots.draw(points, this.#current(), {
      background: BACKGROUND[shown],
      radius: this.#radius(),
      colour: (index) => {
        if (index < 0 && !this.#hasNoise) return null;
        return this.#isFaded(index) ? FADED[shown] : colourOf(index, shown);
      },
      isBehind: this.#chosen && ((index) => this.#isFaded(index)),
    });
    this.#names(shown);
    this.canvas.dataset.drawn = points.length;
  }

  #isFaded(index) {
    return this.#chosen !== null && !this.#chosen.has(index);
  }

  #radius() {
    const n = this.#points.length;
    const usual = n < 2_000 ? 3 : n < 20_000 ? 2.2 : n < 200_000 ? 1.5 : 1;
    const nearer = this.#current().scale / this.#whole().scale;
    const room = Math.sqrt(Math.min(1, this.canvas.clientWidth / 600));
    return usual * room * (devicePixelRatio || 1) * Math.min(3, Math.max(1, nearer ** 0.35));
  }

  /** Write names by the middles of the largest clusters, where there is room. */
  #names(shown) {
    const { context } = this.#dots;
    const view = this.#current();
    const size = 12 * (devicePixelRatio || 1);
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = size / 3;
    const taken = [];
    const largest = [...this.#points.middles()].sort((a, b) => b[1][2] - a[1][2]);
    for (const [index, [x, y]] of largest) {
      if (taken.length >= MOST_NAMES) break;
      if (this.#isFaded(index)) continue;
      const left = (x - view.x) * view.scale + this.canvas.width / 2;
      const top = (view.y - y) * view.scale + this.canvas.height / 2 - size; // above a small cluster
      const name = cut(this.nameOf(index));
      const half = context.measureText(name).width / 2 + size / 2;
      const box = [left - half, top - size, left + half, top + size];
      const isOut = box[0] < 0 || box[1] < 0 || box[2] > this.canvas.width || box[3] > this.canvas.height;
      if (isOut || taken.some((other) => overlap(box, other))) continue;
      taken.push(box);
      context.strokeStyle = css(BACKGROUND[shown]);
      context.strokeText(name, left, top);
      context.fillStyle = shown === "dark" ? "#f2f4f6" : "#15181c";
      context.fillText(name, left, top);
    }
  }

  #listen(signal) {
    const { canvas } = this;
    const on = (name, act, options) => canvas.addEventListener(name, act, { signal, ...options });
    new ResizeObserver((entries, observer) => {
      if (signal.aborted) return observer.disconnect();
      const ratio = devicePixelRatio || 1;
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
      this.#draw();
    }).observe(canvas);
    whenThemeChanges(() => this.#later(), signal);
    on("wheel", (event) => {
      event.preventDefault();
      this.zoom(ZOOM ** (-event.deltaY / 100), ...this.#place(event));
    }, { passive: false });
    const fingers = new Map();
    on("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, this.#place(event));
      this.#drag = fingers.size === 1 ? { moved: 0 } : null;
    });
    on("pointermove", (event) => {
      const now = this.#place(event);
      const before = fingers.get(event.pointerId);
      if (!before) return this.#hover(event);
      const others = [...fingers].filter(([id]) => id !== event.pointerId);
      fingers.set(event.pointerId, now);
      if (others.length) {
        const [, other] = others[0];
        const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
        this.zoom(apart(now, other) / (apart(before, other) || 1), ...middle);
      } else {
        if (this.#drag) this.#drag.moved += apart(now, before);
        this.move(now[0] - before[0], now[1] - before[1]);
      }
    });
    on("pointerup", (event) => {
      fingers.delete(event.pointerId);
      if (this.#drag && this.#drag.moved < 4) this.#click(event);
      this.#drag = null;
    });
    on("pointercancel", (event) => fingers.delete(event.pointerId));
    on("pointerleave", () => { this.tip.hidden = true; });
    on("keydown", (event) => {
      const act = this.#keys()[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    });
  }

  #keys() {
    return {
      ArrowLeft: () => this.move(STEP, 0),
      ArrowRight: () => this.move(-STEP, 0),
      ArrowUp: () => this.move(0, STEP),
      ArrowDown: () => this.move(0, -STEP),
      "+": () => this.zoom(ZOOM),
      "=": () => this.zoom(ZOOM),
      "-": () => this.zoom(1 / ZOOM),
      0: () => this.reset(),
      Escape: () => this.choose(null),
    };
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / (box.width || 1);
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  #under(event) {
    return this.#dots.at(...this.#place(event), Math.round(REACH * (devicePixelRatio || 1)));
  }

  #hover(event) {
    const index = this.#under(event);
    this.tip.hidden = index < 0;
    this.canvas.classList.toggle("over", index >= 0);
    if (index < 0) return;
    const cluster = this.#points.cluster[index];
    this.tip.replaceChildren(
      h("strong", {}, cluster < 0 ? "noise" : this.nameOf(cluster)),
      h("span", {}, this.#points.idAt(index) ?? "no id"));
    const box = this.element.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    this.tip.style.left = `${Math.max(0, Math.min(left + 12, box.width - this.tip.offsetWidth - 4))}px`;
    this.tip.style.top = `${top + 16 + this.tip.offsetHeight > box.height ? top - this.tip.offsetHeight - 8 : top + 16}px`;
  }

  #click(event) {
    const index = this.#under(event);
    this.choose(index < 0 || this.#points.cluster[index] < 0 ? null : this.#points.cluster[index]);
  }
}

const apart = ([x, y], [left, top]) => Math.hypot(x - left, y - top);
const overlap = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];
const cut = (name) => (name.length > 32 ? `${name.slice(0, 31)}…` : name);

/** Show a map with what it is moved by. */
export function framed(map) {
  const noise = h("input", { type: "checkbox", checked: true, change: () => { map.hasNoise = noise.checked; } });
  return h("div", {},
    h("div", { class: "actions" },
      h("button", { type: "button", "aria-label": "Zoom in", click: () => map.zoom(ZOOM) }, "+"),
      h("button", { type: "button", "aria-label": "Zoom out", click: () => map.zoom(1 / ZOOM) }, "−"),
      h("button", { type: "button", click: () => map.reset() }, "Show all"),
      h("label", { class: "check" }, noise, "noise")),
    map.element);
}

export const drawn = (points, total) =>
  points.length < total ? `${count(points.length)} of ${count(total)} documents` : `${count(total)} documents`;
