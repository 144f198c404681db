// The map of a run: its members as dots, to move about in, ask and isolate.

import { GROUND, css, theme, whenThemeChanges } from "./colours.js";
import { count, decimal, h, many } from "./elements.js";
import { ZOOM, listen } from "./gestures.js";
import { Look, MODES } from "./looks.js";
import { middlesOf } from "./middles.js";
import { Names } from "./names.js";
import { Painting } from "./painting.js";
import { Grid } from "./picking.js";
import { Points } from "./points.js";

const MARGIN = 0.06; // of the picture, left free around all points
const REACH = 5; // pixels from a dot that still mean it
const [FARTHEST, NEAREST] = [0.25, 2000]; // beside the scale that shows all
const LONGEST = 240; // letters of a text that are shown
const INK = { light: "#15181c", dark: "#f2f4f6" };

/**
 * A picture that moves. `nameOf` tells what a cluster is called, `choose` is told who was clicked,
 * `parents` has the index of each cluster's parent, or null. Its element tells by the events
 * "points" and "colours" that there are other ones.
 */
export class ClusterMap {
  #points = new Points(0);
  #view = null; // null: all of it
  #chosen = null; // a set of clusters, or null: all
  #picked = null; // the cluster that was picked among them, or null
  #marked = null; // a set of points, or null: all
  #hasNoise = true;
  #colourBy = "cluster";
  #look = null;
  #grid = null;
  #middles = null; // of clusters
  #hasMore = false; // points came since they were found
  #names;
  #painting;
  #waiting = false;

  constructor({ nameOf, choose, signal, parents = null }) {
    this.nameOf = nameOf;
    this.choose = choose;
    this.parents = parents;
    this.tip = h("div", { class: "tip", hidden: true });
    this.#names = new Names({ nameOf, choose, parents });
    this.#painting = new Painting({
      canvasOf,
      changed: () => this.#resize(),
      finished: () => this.#finished(),
      signal,
    });
    this.element = h("div", { class: "frame" }, this.canvas, this.#names.element, this.tip);
    this.#listen(signal);
  }

  get canvas() {
    return this.#painting.canvas;
  }

  show(points) {
    if (points !== this.#points) this.#middles = null;
    this.#points = points;
    this.#hasMore = true;
    this.#anew();
    this.element.dispatchEvent(new Event("points"));
  }

  /** Show some clusters bright and the rest faded; null: all. `picked` is the one that was clicked. */
  isolate(clusters, picked = null) {
    this.#chosen = clusters;
    this.#picked = picked;
    this.#anew();
  }

  /** Show some points bright and the rest faded, by their numbers; null: all of them bright. */
  highlight(numbers) {
    this.#marked = numbers;
    this.#anew();
  }

  get hasNoise() {
    return this.#hasNoise;
  }

  set hasNoise(value) {
    this.#hasNoise = value;
    this.#anew();
  }

  get colourBy() {
    return this.#colourBy;
  }

  /** Colour by "cluster", "similarity" or "truth"; by cluster where that is not known. */
  set colourBy(mode) {
    this.#colourBy = mode;
    this.#anew();
  }

  /** Return by what dots can be coloured. */
  get colourings() {
    return MODES.filter((mode) => mode === "cluster" || this.#points[mode] !== null);
  }

  get legend() {
    return this.#looked().legend;
  }

  reset() {
    this.#view = null;
    this.#names.clear();
    this.#later();
  }

  /** Come nearer by a factor; a place, in pixels from the corner, stays where it is. */
  zoom(factor, left = this.canvas.clientWidth / 2, top = this.canvas.clientHeight / 2) {
    const view = this.#current();
    const whole = this.#whole().scale;
    const scale = Math.min(whole * NEAREST, Math.max(whole * FARTHEST, view.scale * factor));
    const [x, y] = [left - this.canvas.clientWidth / 2, top - this.canvas.clientHeight / 2];
    this.#view = {
      x: view.x + x / view.scale - x / scale,
      y: view.y - y / view.scale + y / scale,
      scale,
    };
    this.#later();
  }

  /** Move the points by pixels. */
  move(right, down) {
    const view = this.#current();
    this.#view = { ...view, x: view.x - right / view.scale, y: view.y + down / view.scale };
    this.#later();
  }

  /** Draw all points at once, in the theme of now, and return a copy without names. */
  copy() {
    this.#look = null;
    this.#draw();
    this.#painting.finish();
    const { canvas } = this;
    const copy = h("canvas", { width: canvas.width, height: canvas.height });
    copy.getContext("2d").drawImage(canvas, 0, 0);
    return copy;
  }

  /** Return a promise of the picture as it is seen, as a PNG. */
  picture() {
    const copy = this.copy();
    const colours = { ink: INK[theme()], halo: css(GROUND[theme()]) };
    this.#names.draw(copy.getContext("2d"), this.#ratio(), colours);
    return new Promise((done) => copy.toBlob(done, "image/png"));
  }

  #current() {
    return this.#view ?? this.#whole();
  }

  /** Return the view that shows all points: its middle, and pixels of the page for one unit. */
  #whole() {
    const { x, y } = this.#points.bounds;
    if (!this.#points.hasCoordinates) return { x: 0, y: 0, scale: 1 };
    const free = 1 - 2 * MARGIN;
    const across = (this.canvas.clientWidth * free) / (x[1] - x[0] || 1);
    const down = (this.canvas.clientHeight * free) / (y[1] - y[0] || 1);
    return { x: (x[0] + x[1]) / 2, y: (y[0] + y[1]) / 2, scale: Math.min(across, down) };
  }

  #anew() {
    this.#look = null;
    this.#grid = null;
    this.#later();
  }

  #later() {
    if (this.#waiting) return;
    this.#waiting = true;
    this.canvas.dataset.due = ""; // until all of it is drawn
    requestAnimationFrame(() => this.#painting.whenFree(() => {
      this.#waiting = false;
      this.#draw();
    }));
  }

  #looked() {
    if (this.#look) return this.#look;
    this.#look = new Look(this.#points, {
      theme: theme(),
      colourBy: this.#colourBy,
      chosen: this.#chosen,
      marked: this.#marked,
      hasNoise: this.#hasNoise,
    });
    this.element.dispatchEvent(new Event("colours"));
    return this.#look;
  }

  #draw() {
    const look = this.#looked();
    const view = this.#current();
    const ratio = this.#ratio();
    this.#painting.draw(look, { ...view, scale: view.scale * ratio }, this.#dots(ratio));
    this.#name();
  }

  /** Go on when all points are drawn: with where clusters lie, if there are more points than before. */
  #finished() {
    if (!this.#waiting) delete this.canvas.dataset.due;
    if (!this.#hasMore) return;
    this.#middles = null;
    this.#name();
  }

  #name() {
    if (!this.#points.hasCoordinates) return;
    if (!this.#middles) {
      this.#middles = middlesOf(this.#points, this.parents);
      this.#hasMore = false;
    }
    this.#names.place({
      middles: this.#middles,
      room: { width: this.canvas.clientWidth, height: this.canvas.clientHeight },
      view: this.#current(),
      whole: this.#whole().scale,
      chosen: this.#chosen,
      picked: this.#picked,
      hits: this.#looked().hits,
    });
  }

  #ratio() {
    return this.canvas.width / (this.canvas.clientWidth || 1);
  }

  /** Return how large dots are, in pixels of the page. */
  #radius() {
    const n = this.#points.length;
    const usual = n < 2_000 ? 3 : n < 20_000 ? 2.2 : n < 200_000 ? 1.5 : 1;
    const nearer = this.#current().scale / this.#whole().scale;
    const room = Math.sqrt(Math.min(1, this.canvas.clientWidth / 600));
    return usual * room * Math.min(3, Math.max(1, nearer ** 0.35));
  }

  #dots(ratio) {
    return { radius: this.#radius() * ratio, strength: this.#points.length < 200_000 ? 0.85 : 0.6 };
  }

  #listen(signal) {
    new ResizeObserver((entries, observer) => {
      if (signal.aborted) return observer.disconnect();
      this.#resize();
    }).observe(this.element);
    whenThemeChanges(() => this.#anew(), signal);
    listen(this.element, {
      zoom: (...given) => this.zoom(...given),
      step: (factor) => this.zoom(factor),
      move: (...given) => this.move(...given),
      reset: () => this.reset(),
      close: () => this.choose(null),
      hover: (event) => this.#hover(event),
      leave: () => { this.tip.hidden = true; },
      click: (event) => this.#click(event),
    }, signal);
  }

  #resize() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    this.#draw();
  }

  #under(event) {
    const box = this.canvas.getBoundingClientRect();
    const { x, y, scale } = this.#current();
    this.#grid ??= new Grid(this.#looked());
    const left = x + (event.clientX - box.left - box.width / 2) / scale;
    const top = y - (event.clientY - box.top - box.height / 2) / scale;
    return this.#grid.nearest(left, top, REACH / scale, this.#radius() / scale);
  }

  #hover(event) {
    const index = event.target === this.canvas ? this.#under(event) : -1;
    this.tip.hidden = index < 0;
    this.canvas.classList.toggle("over", index >= 0);
    if (index < 0) return;
    this.tip.replaceChildren(...this.#said(index));
    const box = this.element.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    this.tip.style.left = `${Math.max(0, Math.min(left + 12, box.width - width - 4))}px`;
    this.tip.style.top = `${top + 16 + height > box.height ? top - height - 8 : top + 16}px`;
  }

  /** Return what is said of a point. */
  #said(index) {
    const points = this.#points;
    const cluster = points.cluster[index];
    const text = points.textAt(index);
    const known = [
      points.similarity && !Number.isNaN(points.similarity[index]) && `similarity ${decimal(points.similarity[index])}`,
      points.truth && points.truthNames[points.truth[index]],
    ].filter(Boolean);
    return [
      h("strong", {}, cluster < 0 ? "noise" : this.nameOf(cluster)),
      h("span", {}, points.idAt(index) ?? "its id is not on this page"),
      text && h("q", {}, text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text),
      known.length > 0 && h("small", {}, known.join(" · ")),
    ].filter(Boolean);
  }

  #click(event) {
    const index = this.#under(event);
    if (event.pointerType === "touch") this.#hover(event);
    this.choose(index < 0 || this.#points.cluster[index] < 0 ? null : this.#points.cluster[index]);
  }
}

const canvasOf = () => h("canvas", {
  tabindex: "0", role: "img", class: "map",
  "aria-label": "Map of the documents. Arrow keys move it, plus and minus zoom, 0 shows all.",
});

/** Show a map with what it is moved by. */
export function framed(map) {
  const noise = h("input", { type: "checkbox", checked: true, change: () => { map.hasNoise = noise.checked; } });
  const colours = h("select", { change: () => { map.colourBy = colours.value; } });
  const colourBy = h("label", { class: "check", hidden: true }, "colour by", colours);
  const legend = h("div", { class: "legend" });
  map.element.addEventListener("points", () => {
    const modes = map.colourings;
    if (modes.length !== colours.length) colours.replaceChildren(...modes.map((mode) => h("option", {}, mode)));
    colours.value = map.colourBy;
    colourBy.hidden = modes.length < 2;
  });
  map.element.addEventListener("colours", () => legend.replaceChildren(...explained(map.legend)));
  return h("div", {},
    h("div", { class: "actions" },
      h("button", { type: "button", "aria-label": "Zoom in", click: () => map.zoom(ZOOM) }, "+"),
      h("button", { type: "button", "aria-label": "Zoom out", click: () => map.zoom(1 / ZOOM) }, "−"),
      h("button", { type: "button", click: () => map.reset() }, "Show all"),
      h("button", { type: "button", "aria-label": "Save picture", click: () => save(map) }, "Save"),
      h("label", { class: "check" }, noise, "noise"),
      colourBy),
    map.element, legend);
}

/** Return what the colours mean, where that is not the names of clusters. */
function explained(legend) {
  if (legend?.kind === "ramp") {
    const bar = h("span", { class: "ramp" });
    bar.style.background = `linear-gradient(to right, ${legend.colours.map(css).join(", ")})`;
    return [
      h("span", {}, "similarity to the centroid"), h("span", {}, decimal(legend.low)), bar, h("span", {}, decimal(legend.high)),
    ];
  }
  if (legend?.kind !== "classes") return [];
  const classes = legend.entries.map(({ name, colour }) => {
    const swatch = h("span", { class: "swatch" });
    swatch.style.background = css(colour);
    return h("span", { class: "class", title: name }, swatch, h("span", { class: "called" }, name));
  });
  return legend.more ? [...classes, h("span", {}, `and ${count(legend.more)} more`)] : classes;
}

/** Save the picture of a map as a file. */
async function save(map) {
  const address = URL.createObjectURL(await map.picture());
  h("a", { href: address, download: "map.png" }).click();
  setTimeout(() => URL.revokeObjectURL(address));
}

export const drawn = (points, total) =>
  points.length < total ? `${count(points.length)} of ${many(total, "documents")}` : many(total, "documents");
