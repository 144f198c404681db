// Elements made of text alone: nothing in this page ever reads HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; functions listen, strings are text, null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Make an element of SVG. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** Return the address of a view; parts are escaped. */
export function to(...parts) {
  return "#/" + parts.map((part) => encodeURIComponent(part)).join("/");
}

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

export const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));
/** Return a number of things, by their word in the plural: "1 document", "2 documents". */
export const many = (n, things) => `${count(n)} ${n === 1 ? things.slice(0, -1) : things}`;
export const roughly = (n) => short.format(n);

export function decimal(x) {
  if (typeof x !== "number" || Number.isNaN(x)) return "–";
  return Math.abs(x) >= 1000 ? whole.format(Math.round(x)) : x.toFixed(3);
}

/** Show a time in the zone of whoever reads it. */
export function when(iso) {
  const time = iso ? new Date(iso) : null;
  return time && !Number.isNaN(time.getTime())
    ? h("time", { datetime: iso, title: iso }, moment.format(time))
    : "–";
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 90) return `${seconds.toFixed(1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const TONES = {
  completed: "good",
  active: "good",
  ready: "good",
  completed_with_errors: "warn",
  paused: "warn",
  failed: "bad",
  dead: "bad",
  in_progress: "live",
  processing: "live",
  importing: "live",
};

/** Show a status: by its word, and by a colour besides. */
export function badge(status) {
  const word = String(status ?? "unknown");
  const tone = TONES[word.toLowerCase()] ?? "calm";
  return h("span", { class: `badge ${tone}` }, word.toLowerCase().replaceAll("_", " "));
}

/** Show names and their values. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, shown.map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Show what is to be noted; null where that is nothing. */
export function notes(title, lines, tone) {
  if (!lines.length) return null;
  return h("section", { class: `notes ${tone}` }, h("h2", {}, title), h("ul", {}, lines.map((line) => h("li", {}, line))));
}

/** Show what went wrong. */
export function problem(error) {
  return h("p", { class: "problem", role: "alert" }, error.message || String(error));
}

/** Tell those who cannot see that something changed. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** Show JSON for reading. */
export const json = (value) => h("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));

/** A table that scrolls by itself where the window is narrow. */
export function scrolling(label, table) {
  return h("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, table);
}

/** Ask before something that cannot be undone; resolves to null, or to whether `option` too. */
export function ask(question, yes, option) {
  return new Promise((resolve) => {
    const close = (answer) => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    const box = h("input", { type: "checkbox" });
    const dialog = h("dialog", {
      "aria-label": yes,
      cancel: (event) => {
        event.preventDefault();
        close(null);
      },
    },
      h("p", {}, question),
      h("label", { class: "check" }, box, option),
      h("div", { class: "actions" },
        h("button", { type: "button", click: () => close(null) }, "Keep it"),
        h("button", { type: "button", class: "danger", click: () => close(box.checked) }, yes)));
    document.body.append(dialog);
    dialog.showModal();
  });
}
