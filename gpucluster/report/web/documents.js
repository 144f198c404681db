// The documents that a report knows by id and text, which are some of its points.

export class Documents {
  #of; // the document of each point, plus one; 0: not known
  #clusters;
  #examples = new Map(); // {cluster: its examples, with their places among those of all clusters}

  constructor({ steps, undrawn, ids, texts, examples }, points) {
    this.ids = ids;
    this.texts = texts;
    this.length = ids.length;
    this.points = new Int32Array(ids.length).fill(-1);
    this.#of = new Int32Array(points.length);
    this.#clusters = new Int32Array(ids.length);
    let point = 0;
    steps.forEach((step, i) => {
      point += step;
      this.points[i] = point;
      this.#of[point] = i + 1;
      this.#clusters[i] = points.cluster[point];
    });
    undrawn.forEach((cluster, i) => { this.#clusters[steps.length + i] = cluster; });
    examples.documents.forEach((document, i) => {
      const cluster = examples.clusters[i];
      if (!this.#examples.has(cluster)) this.#examples.set(cluster, []);
      this.#examples.get(cluster).push({ document, isCentral: examples.central[i] === 1, place: i });
    });
  }

  idAt(point) {
    return this.#of[point] ? this.ids[this.#of[point] - 1] : null;
  }

  textAt(point) {
    return this.#of[point] ? this.textOf(this.#of[point] - 1) : null;
  }

  textOf(document) {
    return this.texts?.[document] ?? null;
  }

  clusterOf(document) {
    return this.#clusters[document];
  }

  /** Return the examples of a cluster and of those below it in turn, central ones first. */
  examplesOf(family, most) {
    const all = [...family].flatMap((cluster) => this.#examples.get(cluster) ?? []);
    all.sort((a, b) => b.isCentral - a.isCentral || a.place - b.place);
    const seen = new Set();
    const found = all.filter(({ document }) => !seen.has(document) && seen.add(document));
    const central = found.filter((each) => each.isCentral);
    const kept = central.slice(0, Math.max(1, most - 2));
    return [...kept, ...found.slice(central.length).slice(0, most - kept.length)];
  }

  /** Return the documents of which the id or the text has a word. */
  having(word) {
    const wanted = word.toLowerCase();
    const found = [];
    for (let i = 0; i < this.length; i++) {
      const text = this.texts?.[i];
      if (text?.toLowerCase().includes(wanted) || this.ids[i].toLowerCase().includes(wanted)) found.push(i);
    }
    return found;
  }
}
