// A map alone, for a notebook.

import { block, parsed, written } from "./blocks.js";
import { Documents } from "./documents.js";
import { problem } from "./elements.js";
import { Picture, pointsOf } from "./picture.js";

async function show(main) {
  const head = written("contents").map;
  const picture = new Picture(head, await parsed("clusters"), new AbortController().signal);
  main.className = "alone picture";
  main.replaceChildren(picture.element);
  if (!head.length) return;
  let documents = null;
  const points = pointsOf(head, await block("points"), () => documents);
  picture.show(points);
  documents = new Documents(await parsed("documents"), points);
}

const main = document.getElementById("content");
show(main).catch((error) => main.replaceChildren(problem(error)));
