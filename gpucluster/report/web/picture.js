// The clusters of a report on a map, with what is known of its points.

import { columnsOf } from "./blocks.js";
import { count, h } from "./elements.js";
import { descendants, described, nameOf, parentsOf } from "./linked.js";
import { ClusterMap, drawn, framed } from "./map.js";
import { Points } from "./points.js";

const PAPER = 690; // pixels of a page of A4, within its margins

/** Return the points, of which ids and texts are asked for when they are wanted. */
export function pointsOf(head, bytes, documents) {
  const points = new Points(head.length);
  const columns = columnsOf(head, bytes);
  columns.document_id = { at: (i) => documents()?.idAt(i) ?? null };
  columns.text = { at: (i) => documents()?.textAt(i) ?? null };
  points.add({ length: head.length, columns });
  if (head.has_truth) points.truthNames = head.classes;
  return points;
}

/** A map, how it is moved, and what was chosen on it; without coordinates, why there is none. */
export class Picture {
  #families;
  #found = null; // clusters that a search found, or null
  #paper = null; // the map in the colours of paper: what a canvas of WebGL shows is printed as it was

  constructor(head, clusters, signal, chosen = () => {}) {
    this.clusters = clusters;
    this.#families = descendants(clusters);
    this.told = chosen;
    this.head = head;
    this.about = h("div", { class: "chosen-cluster", "aria-live": "polite" });
    this.state = h("p", { class: "hint", role: "status" }, head.reason ?? this.#sampled());
    this.map = head.length > 0 && new ClusterMap({
      nameOf: (index) => (clusters[index] ? nameOf(clusters[index]) : `cluster ${index}`),
      choose: (index) => this.choose(index), parents: parentsOf(clusters), signal,
    });
    this.element = h("div", {}, this.map && framed(this.map), this.state, this.about);
  }

  show(points) {
    if (this.map) this.map.show(points);
  }

  /** Isolate a cluster with those below it; null: none. */
  choose(index) {
    const hadFocus = this.about.contains(document.activeElement);
    this.about.replaceChildren(
      ...(index === null ? [] : described(this.clusters[index], () => this.choose(null))));
    if (hadFocus && this.map) this.map.canvas.focus({ preventScroll: true }); // its button is gone
    if (this.map) this.map.isolate(index === null ? this.#found : this.#families.get(index), index);
    this.told(index);
  }

  /** Isolate clusters that were found; null: nothing is searched. */
  find(indexes) {
    this.#found = indexes && new Set([...indexes].flatMap((index) => [...this.#families.get(index)]));
    this.choose(null);
  }

  /** Mark points; null: none. */
  highlight(points) {
    this.map?.highlight?.(points);
  }

  /** Keep the map as it is seen, on paper of another width and in its colours. */
  set isPrinted(value) {
    if (!this.map) return;
    const { element, canvas } = this.map;
    const [width, height] = [element.clientWidth, canvas.clientHeight];
    element.style.width = value ? `${width}px` : "";
    element.style.zoom = value ? Math.min(1, PAPER / width) : "";
    canvas.style.height = value ? `${height}px` : "";
    this.#paper?.remove();
    this.#paper = value ? this.map.copy() : null;
    if (value) canvas.after(this.#paper);
  }

  familyOf(index) {
    return this.#families.get(index);
  }

  #sampled() {
    const { length, placed, few, unplaced } = this.head;
    const rest = unplaced ? ` ${count(unplaced)} more joined clusters after the fit, and have no place here.` : "";
    if (length === placed) return `${drawn({ length }, placed)}.${rest}`;
    const kept = few > 0 ? `, and every cluster at least ${few}, as far as it has so many` : "";
    return `${count(length)} of ${count(placed)} documents: drawn so that sparse places keep more of `
      + `theirs than dense ones${kept}.${rest}`;
  }
}
