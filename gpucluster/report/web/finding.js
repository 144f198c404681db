// Documents of a report: those that a word is in, and examples of a cluster.

import { count, h } from "./elements.js";
import { nameOf } from "./linked.js";

const MOST = 50; // documents that are listed
const EXAMPLES = 5;
const READING = "The documents are being read.";

/** A search over the documents, which may be promised; it marks those that it finds on the map. */
export function finder(clusters, documents, known, picture) {
  const list = h("ul", { class: "found" });
  const said = h("span", { class: "hint", role: "status" });
  const look = () => {
    const word = search.value.trim();
    const read = documents();
    if (word && read instanceof Promise) {
      said.textContent = READING;
      read.then(() => search.value.trim() === word && look(), () => {}); // who reads them tells of errors
      return;
    }
    const found = word ? read.having(word) : [];
    picture.choose(null);
    picture.highlight(word ? new Set(found.map((i) => read.points[i]).filter((point) => point >= 0)) : null);
    said.textContent = word && `${count(found.length)} of ${count(known.count)}`;
    list.replaceChildren(...found.slice(0, MOST).map((i) => entry(i)));
    if (found.length > MOST) list.append(h("li", { class: "hint" }, `and ${count(found.length - MOST)} more`));
  };
  const entry = (i) => {
    const cluster = documents().clusterOf(i);
    const name = cluster < 0 ? "noise" : nameOf(clusters[cluster]);
    return h("li", {}, shown(documents(), i), " ", cluster < 0
      ? h("small", {}, name)
      : h("button", { type: "button", class: "pick", click: () => picture.choose(cluster) }, name));
  };
  const search = h("input", { type: "search", input: look });
  return h("div", { class: "finder" },
    h("form", { class: "controls", role: "search", submit: (event) => event.preventDefault() },
      h("label", {}, "Find documents", search), said),
    list);
}

/** Say of how many documents id and text are here, and why not of all. */
export function knownOf({ count: n, num_texts: texts, has_texts: hasTexts, reason }, total) {
  const which = n < total ? `${count(n)} of ${count(total)} documents are` : total === 1 ? "The one document is" : `All ${count(total)} documents are`;
  const what = texts === n ? `${which} here with their texts` : texts > 0 ? `${which} here, ${count(texts)} with a text` : `${which} here by their ids`;
  const why = !hasTexts ? "; texts were left out" : reason ? `; there are no texts: ${reason}` : "";
  const rest = n < total ? ": examples of each cluster first, then a uniform sample" : "";
  return `${what}${rest}${why}.`;
}

/** Show examples of a cluster: near its centroid, and at its boundary; `documents` may be promised. */
export function examplesOf(index, documents, picture) {
  const listed = (read) => shownOf(picture.familyOf(index), read);
  if (!(documents instanceof Promise)) return listed(documents);
  const place = h("p", { class: "none" }, READING);
  documents.then((read) => place.replaceWith(listed(read)), () => {}); // who reads them tells of errors
  return place;
}

function shownOf(family, documents) {
  const found = documents.examplesOf(family, EXAMPLES);
  if (!found.length) return h("p", { class: "none" }, "No document of this cluster is in the report.");
  const group = (title, own) => own.length > 0 && [h("h4", {}, title),
    h("ul", { class: "found" }, own.map(({ document }) => h("li", {}, shown(documents, document))))];
  return h("div", { class: "examples" },
    group(family.size > 1 ? "Near the centroid, and near those of its parts" : "Near the centroid", found.filter((each) => each.isCentral)),
    group(family.size > 1 ? "At the boundaries of its parts" : "At the boundary", found.filter((each) => !each.isCentral)));
}

function shown(documents, i) {
  const text = documents.textOf(i);
  const id = h("code", {}, documents.ids[i]);
  return text === null ? id : [h("span", { dir: "auto" }, text), " ", h("small", {}, id)];
}
