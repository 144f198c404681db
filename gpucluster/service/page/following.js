// How far a task is, as the service tells it. Events are read by fetch: an EventSource could not
// send the token in a header.

import { api, call, send } from "./session.js";

const LIVE = ["PENDING", "IN_PROGRESS"];
const AGAIN_MS = 2000;

/** Call `see` with a task whenever it changed, until it is over; return it then. */
export async function follow(taskId, see, signal) {
  for (;;) {
    try {
      const response = await send(api("tasks", taskId, "events"), { accept: "text/event-stream", signal });
      for await (const task of events(response.body)) {
        see(task);
        if (!LIVE.includes(task.status)) return task;
      }
    } catch (error) {
      if (signal.aborted || (error.status >= 400 && error.status < 500 && error.status !== 429)) throw error;
    }
    await pause(AGAIN_MS, signal); // the stream broke off: a proxy, or a server that stops
    const task = await call(api("tasks", taskId), { signal }).catch((error) => {
      if (signal.aborted || error.status === 404) throw error;
      return null;
    });
    if (task && !LIVE.includes(task.status)) return task;
  }
}

async function* events(body) {
  let text = "";
  for await (const piece of pieces(body)) {
    text += piece;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:"));
      if (data.length) yield JSON.parse(data.map((line) => line.slice(5)).join("\n"));
    }
  }
}

async function* pieces(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

/** Counts rows a second, anew for each stage. */
export class Speed {
  #stage = null;
  #first = { done: 0, now: 0 };
  #last = 0;

  of({ stage, done }, now = performance.now()) {
    if (stage !== this.#stage || done < this.#last) this.#first = { done, now };
    [this.#stage, this.#last] = [stage, done];
    const rows = done - this.#first.done;
    const seconds = (now - this.#first.now) / 1000;
    return rows > 0 && seconds > 0 ? rows / seconds : null;
  }
}
