// The clusters of a run as a table: sorted and searched here, since all of them are here.

import { colourOf, css, theme, whenThemeChanges } from "./colours.js";
import { count, decimal, h, scrolling } from "./elements.js";
import { descendants, nameOf } from "./linked.js";

const SLICES = 6; // colours of a cluster's parts that are shown
const MORE = 50; // rows at a time, unless another number is asked for
const COLUMNS = [
  ["name", "Cluster", (row) => row.name.toLowerCase()],
  ["size", "Members", (row) => row.num_members],
  ["mean", "Mean cos", (row) => row.mean_cosine_similarity],
  ["least", "Least cos", (row) => row.min_cosine_similarity],
  ["level", "Level", (row) => row.hierarchy_level],
];

export class ClusterTable {
  #rows;
  #sort = ["size", -1];
  #step;
  #most;
  #isWhole = false;
  #chosen = null;
  #open = new Set(); // indexes of the clusters whose examples are shown

  /**
   * `choose` is told which cluster was picked, `searched` of the indexes that fit what is searched
   * (null: nothing is). `examples` shows documents of a cluster, by its index. `step`: rows at a time.
   */
  constructor(clusters, choose, signal, { examples = null, searched = null, step = MORE } = {}) {
    this.#most = this.#step = step;
    this.choose = choose;
    this.examples = examples;
    this.searched = searched;
    this.#rows = clusters.map((cluster, index) => ({ ...cluster, index, name: nameOf(cluster) }));
    this.families = descendants(clusters);
    this.largest = this.#rows.reduce((most, row) => Math.max(most, row.num_members), 1);
    this.hasLevels = this.#rows.some((row) => row.hierarchy_level > 0);
    this.search = h("input", { type: "search", input: () => this.#find() });
    this.found = h("span", { class: "hint", role: "status" });
    this.rows = h("div", {});
    this.element = h("div", { class: "clusters" },
      h("form", { class: "controls", role: "search", submit: (event) => event.preventDefault() },
        h("label", {}, "Find a cluster", this.search), this.found),
      this.rows);
    whenThemeChanges(() => this.#show(), signal);
    this.#show();
  }

  /** Mark a cluster, by its index; null: none. One that is not seen comes below the others. */
  mark(index) {
    this.#chosen = index;
    if (index !== null && !this.rows.querySelector(`button[data-index="${index}"]`)) this.#show();
    for (const button of this.rows.querySelectorAll("button[data-index]")) {
      const isChosen = Number(button.dataset.index) === index;
      button.setAttribute("aria-pressed", String(isChosen));
      button.closest("tr").classList.toggle("chosen", isChosen);
      if (isChosen && this.#isBeside()) button.scrollIntoView({ block: "nearest" });
    }
  }

  /** Show all rows at once, or as many as were asked for. */
  set isWhole(value) {
    this.#isWhole = value;
    this.#show();
  }

  /** Whether a map is seen beside the table, as base.css has it where there is room. */
  #isBeside() {
    return getComputedStyle(this.element).getPropertyValue("--beside") === "1";
  }

  #find() {
    this.#most = this.#step;
    this.#show();
    const wanted = this.search.value.trim();
    this.searched?.(wanted ? new Set(this.#fitting().map((row) => row.index)) : null);
  }

  #fitting() {
    const wanted = this.search.value.trim().toLowerCase();
    return this.#rows.filter((row) => !wanted || text(row).includes(wanted));
  }

  #show() {
    const [key, direction] = this.#sort;
    const value = COLUMNS.find(([name]) => name === key)[2];
    const fitting = this.#fitting();
    fitting.sort((a, b) => compared(value(a), value(b), direction) || a.index - b.index);
    this.found.textContent = `${count(fitting.length)} of ${count(this.#rows.length)}`;
    const shown = this.#isWhole ? fitting : fitting.slice(0, this.#most);
    const left = fitting.length - shown.length;
    const chosen = fitting.indexOf(this.#rows[this.#chosen]);
    if (chosen >= shown.length) shown.push(fitting[chosen]);
    const add = () => {
      const first = this.#most;
      this.#most += this.#step;
      this.#show();
      this.rows.querySelectorAll("button[data-index]")[first].focus();
    };
    const more = left > 0 && h("button", { type: "button", click: add }, `Show ${Math.min(this.#step, left)} more`);
    this.rows.replaceChildren(scrolling("Clusters", h("table", {},
      h("thead", {}, h("tr", {}, this.#columns().map((column) => this.#heading(column)))),
      h("tbody", {}, shown.map((row) => [this.#row(row), this.#opened(row)])))), more || "");
  }

  #columns() {
    return COLUMNS.filter(([key]) => key !== "level" || this.hasLevels);
  }

  #heading([key, word]) {
    const [sorted, direction] = this.#sort;
    const isSorted = sorted === key;
    const turn = () => {
      this.#sort = [key, isSorted ? -direction : key === "name" || key === "level" ? 1 : -1];
      this.#show();
      this.rows.querySelector(`button[data-key="${key}"]`).focus();
    };
    return h("th", { scope: "col", class: key === "name" ? "" : "number",
      "aria-sort": isSorted ? (direction > 0 ? "ascending" : "descending") : null },
      h("button", { type: "button", class: "sort", "data-key": key, click: turn },
        word, h("span", { "aria-hidden": "true" }, isSorted ? (direction > 0 ? " ▲" : " ▼") : "")));
  }

  #row(row) {
    const isChosen = row.index === this.#chosen;
    const swatch = h("span", { class: "swatch" });
    swatch.style.background = this.#colour(row.index);
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${(100 * row.num_members) / this.largest}%`;
    const button = h("button", { type: "button", class: "pick", "data-index": row.index, "aria-pressed": String(isChosen),
      title: row.summary ?? row.cluster_id, click: () => this.choose(row.index === this.#chosen ? null : row.index) },
      swatch, h("span", { class: "called" }, row.name));
    const more = (row.keywords ?? []).filter((word) => !row.name.includes(word));
    const words = more.length > 0 && h("small", {}, more.slice(0, 5).join(", "));
    return h("tr", { class: isChosen ? "chosen" : null },
      h("th", { scope: "row" }, button, words, this.examples && this.#opener(row)),
      h("td", { class: "number size" }, count(row.num_members), bar),
      h("td", { class: "number" }, decimal(row.mean_cosine_similarity)),
      h("td", { class: "number" }, decimal(row.min_cosine_similarity)),
      this.hasLevels && h("td", { class: "number" }, count(row.hierarchy_level)));
  }

  /** Return the colour of a cluster's dots; of one with parts, whose dots are theirs, their colours. */
  #colour(index) {
    const colours = [...this.families.get(index)]
      .filter((each) => this.families.get(each).size === 1)
      .sort((a, b) => this.#rows[b].num_members - this.#rows[a].num_members)
      .slice(0, SLICES).map((each) => css(colourOf(each, theme())));
    if (colours.length === 1) return colours[0];
    const slice = 100 / colours.length;
    return `conic-gradient(${colours.map((each, i) => `${each} ${i * slice}% ${(i + 1) * slice}%`).join(", ")})`;
  }

  #opener(row) {
    const isOpen = this.#open.has(row.index);
    const turn = () => {
      if (isOpen) this.#open.delete(row.index);
      else this.#open.add(row.index);
      this.#show();
      this.rows.querySelector(`button[data-examples="${row.index}"]`).focus();
    };
    return h("button", { type: "button", class: "opener", "data-examples": row.index, click: turn,
      "aria-expanded": String(isOpen), "aria-label": `Examples of ${row.name}` },
      h("span", { "aria-hidden": "true" }, isOpen ? "▾ " : "▸ "), "examples");
  }

  #opened(row) {
    if (!this.#open.has(row.index)) return null;
    return h("tr", { class: "opened" }, h("td", { colspan: this.#columns().length }, this.examples(row.index)));
  }
}

function text(row) {
  return [row.name, row.cluster_id, row.summary, row.stable_id, ...(row.keywords ?? [])].join("\n").toLowerCase();
}

/** Compare in a direction; what is missing comes last in both. */
function compared(a, b, direction) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  return a < b ? -direction : direction;
}
