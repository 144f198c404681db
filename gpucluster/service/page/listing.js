// A list of the API: searched, filtered, sorted and paged by the service, and kept in the address.

import { count, h, problem, scrolling } from "./elements.js";
import { call } from "./session.js";

const PAGE = 50;
const TYPING_MS = 250;

/**
 * Show a list. `columns` are {name, cell, class}, `sorts` and `statuses` are [value, word] pairs.
 * `body` makes the body of a request, where it is not the usual one.
 */
export function listing({ label, path, columns, query, signal, search, sorts, statuses, none, body = usual }) {
  const rows = h("div", { class: "rows" });
  let loading = new AbortController();
  let timer;

  function change(name, value) {
    if (value) query.set(name, value);
    else query.delete(name);
    if (name !== "page") query.delete("page");
    const text = query.toString();
    history.replaceState(null, "", location.hash.split("?")[0] + (text ? `?${text}` : ""));
    return load();
  }

  function wanted(page) {
    const [field, direction = "asc"] = (query.get("sort") ?? "").split(":");
    return { field, direction, search: query.get("search"), status: query.get("status"), limit: PAGE, offset: (page - 1) * PAGE };
  }

  async function load() {
    loading.abort();
    loading = new AbortController();
    const mine = AbortSignal.any([signal, loading.signal]);
    const page = Math.max(1, Number.parseInt(query.get("page") ?? "1", 10) || 1);
    const asked = wanted(page);
    const where = new URLSearchParams({ limit: PAGE, offset: asked.offset, include_total: true });
    rows.setAttribute("aria-busy", "true");
    try {
      const found = await call(`${path}?${where}`, { method: "POST", body: body(asked), signal: mine });
      rows.replaceChildren(table(found.results), pager(page, found.results.length, found.total_count ?? found.total));
    } catch (error) {
      if (!mine.aborted) rows.replaceChildren(problem(error));
    } finally {
      if (!mine.aborted) rows.removeAttribute("aria-busy");
    }
  }

  function table(items) {
    if (!items.length) return h("p", { class: "none" }, query.size ? "Nothing fits." : none);
    return scrolling(label, h("table", {},
      h("thead", {}, h("tr", {}, columns.map((column) =>
        h("th", { scope: "col", class: column.class }, column.name)))),
      h("tbody", {}, items.map((item) => h("tr", {}, columns.map((column) =>
        h("td", { class: column.class }, column.cell(item))))))));
  }

  function pager(page, n, total) {
    const first = (page - 1) * PAGE + 1;
    if (page === 1 && n === total) return "";
    return h("nav", { class: "pager", "aria-label": `Pages of ${label.toLowerCase()}` },
      h("button", { type: "button", disabled: page === 1, click: () => change("page", String(page - 1)) }, "Previous"),
      h("span", {}, n ? `${count(first)} to ${count(first + n - 1)} of ${count(total)}` : `of ${count(total)}`),
      h("button", { type: "button", disabled: first + n > total, click: () => change("page", String(page + 1)) }, "Next"));
  }

  function select(name, label, options, usual) {
    const chosen = query.get(name) ?? "";
    const element = h("select", { change: () => change(name, element.value) },
      [["", usual], ...options].map(([value, word]) =>
        h("option", { value, selected: value === chosen }, word)));
    return h("label", {}, label, element);
  }

  const given = h("input", { type: "search", value: query.get("search") ?? "", maxlength: "500",
    input: () => {
      clearTimeout(timer);
      timer = setTimeout(() => change("search", given.value.trim()), TYPING_MS);
    } });
  const controls = h("form", { class: "controls", role: "search", submit: (event) => event.preventDefault() },
    search && h("label", {}, search, given),
    statuses && select("status", "Status", statuses, "any"),
    sorts && select("sort", "Sort by", sorts, "newest first"));
  return { element: h("section", {}, controls, rows), load };
}

function usual({ search, field, direction, status }) {
  return {
    ...(search ? { search } : {}),
    ...(field ? { sort: { field, direction } } : {}),
    ...(status ? { filters: { AND: [{ field: "status", value: status }] } } : {}),
  };
}
