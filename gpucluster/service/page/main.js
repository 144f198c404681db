// What is shown for which address, and who may see it.

import { cluster } from "./cluster.js";
import { clusters } from "./clusters.js";
import { h, problem, say, to } from "./elements.js";
import { collections, taxonomies, triggers, webhooks } from "./lists.js";
import { run } from "./run.js";
import { call, forget, remember, session } from "./session.js";
import { tasks } from "./tasks.js";

const VIEWS = [
  [["clusters"], clusters, "Clusters"],
  [["clusters", null], cluster],
  [["clusters", null, "runs", null], run],
  [["collections"], collections, "Collections"],
  [["taxonomies"], taxonomies, "Taxonomies"],
  [["triggers"], triggers, "Triggers"],
  [["webhooks"], webhooks, "Webhooks"],
  [["tasks"], tasks, "Tasks"],
];
const content = document.getElementById("content");
const nav = document.getElementById("nav");
const who = document.getElementById("who");
let leaving = new AbortController();
let isFirst = true;

addEventListener("hashchange", show);
addEventListener("signed-out", ({ detail }) => {
  const isNews = session.token !== null; // who gave no token yet did nothing wrong
  forget();
  askForToken(isNews ? detail : null);
});
start();

/** Go straight in where no token is needed, or one is known. */
async function start() {
  try {
    await enter();
  } catch (error) {
    if (error.status !== 401) content.replaceChildren(problem(error));
  }
}

async function enter() {
  const { results } = await call("/v1/namespaces");
  const names = results.map((each) => each.namespace_id).sort();
  if (!names.includes(session.namespace)) remember({ namespace: names.includes("default") ? "default" : names[0] ?? null });
  nav.replaceChildren(...VIEWS.filter(([, , title]) => title).map(([[name], , title]) =>
    h("a", { href: to(name), "data-name": name }, title)));
  who.replaceChildren(chooser(names), ...(session.token ? [h("button", { type: "button", click: signOut }, "Sign out")] : []));
  nav.hidden = who.hidden = false;
  await show();
}

function chooser(names) {
  const select = h("select", { "aria-label": "Namespace", change: () => {
    remember({ namespace: select.value });
    if (location.hash === to("clusters")) show();
    else location.hash = to("clusters");
  } }, names.map((name) => h("option", { value: name, selected: name === session.namespace }, name)));
  return select;
}

function signOut() {
  forget();
  askForToken();
}

function askForToken(refused) {
  leaving.abort();
  nav.hidden = who.hidden = true;
  const given = h("input", { id: "token", type: "password", autocomplete: "off", required: true });
  const form = h("form", { class: "sign-in", submit: (event) => {
    event.preventDefault();
    const token = given.value.trim();
    if (/^[\x21-\x7e]+$/.test(token)) {
      remember({ token });
      start();
    } else askForToken(new Error("That is no token: it holds other than plain characters."));
  } },
    h("h1", {}, "Sign in"),
    h("label", { for: "token" }, "Token"), given,
    h("p", { class: "hint" }, "It begins with gpc_. It is kept in this tab until you close it or sign out."),
    h("button", { class: "primary" }, "Sign in"),
    refused && problem(refused));
  content.replaceChildren(form);
  document.title = "Sign in – gpucluster";
  given.focus();
}

async function show() {
  if (!location.hash) history.replaceState(null, "", to("clusters"));
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [path, query = ""] = location.hash.slice(2).split("?");
  const parts = path.split("/").map(decoded);
  const found = VIEWS.find(([pattern]) => pattern.length === parts.length
    && pattern.every((step, i) => step === null || step === parts[i]));
  for (const link of nav.children) {
    if (link.dataset.name === parts[0]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  content.setAttribute("aria-busy", "true");
  try {
    if (!found) throw new Error("There is no such page.");
    const args = parts.filter((_, i) => found[0][i] === null);
    const shown = await found[1]({ args, query: new URLSearchParams(query), signal, again: show });
    if (signal.aborted) return;
    content.replaceChildren(...shown);
    settle();
  } catch (error) {
    if (signal.aborted || error.status === 401) return;
    content.replaceChildren(h("h1", { tabindex: "-1" }, "That did not work"), problem(error));
    settle();
  } finally {
    if (!signal.aborted) content.removeAttribute("aria-busy");
  }
}

/** Go on where whoever reads with a keyboard expects it: at the heading. */
function settle() {
  const heading = content.querySelector("h1");
  document.title = heading ? `${heading.textContent} – gpucluster` : "gpucluster";
  if (heading && !isFirst) heading.focus();
  if (!isFirst) say(document.title);
  isFirst = false;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
