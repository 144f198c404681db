// The canvas of a map and who paints on it: in part while it moves, in whole when it rests.

import { Dots } from "./dots.js";
import { GlDots } from "./gl.js";

const FRAME = 45; // milliseconds that a picture may take while it moves
const REST = 120; // milliseconds without a change after which all points are drawn
const PATIENCE = 2000; // milliseconds to wait until a lost context comes back
const LEAST = 16_384; // points in a frame, however long it takes
const FIRST = 65_536; // before anything was measured

export class Painting {
  #painter;
  #isLost = false;
  #speed = FIRST / FRAME; // points in a millisecond
  #rest = null; // what is left to draw of the last picture
  #timer = 0;
  #busy = 0; // pictures and parts of pictures that are not drawn yet
  #waiting = null; // what is to be done when they are

  /**
   * `canvasOf` makes a canvas; `changed` is called when all has to be drawn anew, `finished` when all
   * points of a picture are drawn.
   */
  constructor({ canvasOf, changed, finished, signal }) {
    this.finished = finished;
    const canvas = canvasOf();
    this.#painter = GlDots.on(canvas) ?? new Dots(canvas);
    if (this.#painter instanceof GlDots) this.#mind(canvas, canvasOf, changed, signal);
    signal.addEventListener("abort", () => this.#drop());
  }

  get canvas() {
    return this.#painter.canvas;
  }

  /** Act as soon as a picture can be drawn: not before the last one is. */
  whenFree(act) {
    if (this.#busy) this.#waiting = act;
    else act();
  }

  /** Draw what there is time for, and the rest when nothing has changed for a while. */
  draw(look, view, dots) {
    this.#drop();
    if (this.#isLost) return;
    const begun = performance.now();
    const most = this.#most(look.shown);
    this.#painter.begin(look, view, dots);
    for (const { order, length, isFaded } of look.layers(most)) this.#painter.draw(order, 0, length, isFaded);
    this.#end(most, look.shown);
    const rest = most < look.shown ? this.#strokes(look, view, dots) : null;
    this.#rest = rest;
    this.#timed(most, begun, () => {
      if (rest && this.#rest === rest) this.#timer = setTimeout(() => this.#goOn(rest), REST);
    });
  }

  /** Draw the rest at once. */
  finish() {
    const rest = this.#rest;
    this.#drop();
    while (rest && !rest.next().done);
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#rest = null;
  }

  /** Draw the rest, a part at a time, unless there is another picture meanwhile. */
  #goOn(rest) {
    if (this.#rest !== rest) return;
    const begun = performance.now();
    const { value, done } = rest.next();
    if (done) this.#rest = null;
    else this.#timed(value, begun, () => this.#goOn(rest));
  }

  /** Draw all; after each part its number of points is given. */
  *#strokes(look, view, dots) {
    this.#painter.begin(look, view, dots);
    for (const { order, length, isFaded } of look.layers()) {
      for (let from = 0, to; from < length; from = to) {
        to = from + this.#most(length - from);
        this.#painter.draw(order, from, to, isFaded);
        yield to - from;
      }
    }
    this.#end(look.shown, look.shown);
  }

  #end(number, all) {
    this.#painter.end();
    this.canvas.dataset.drawn = number;
    if (number === all) this.finished();
  }

  /** Wait until points are drawn and note how long that took; then comes a new picture, or `act`. */
  #timed(number, begun, act) {
    const isDrawn = this.#painter.fence();
    this.#busy += 1;
    const see = () => {
      if (!isDrawn()) return setTimeout(see);
      const speed = number / Math.max(1, performance.now() - begun); // some clocks stand for a while
      if (number >= LEAST) this.#speed = (this.#speed + speed) / 2;
      this.#busy -= 1;
      const next = this.#waiting ?? act;
      this.#waiting = null;
      next();
    };
    setTimeout(see);
  }

  /** Return how many of so many points a frame has time for: few different numbers. */
  #most(number) {
    const most = Math.max(LEAST, 2 ** (Math.floor(2 * Math.log2(this.#speed * FRAME)) / 2));
    return Math.min(number, Math.round(most));
  }

  /** Go on when the GPU took its context away, with what it has or without it. */
  #mind(canvas, canvasOf, changed, signal) {
    let timer = 0;
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault(); // or it never comes back
      this.#drop();
      this.#isLost = true;
      timer = setTimeout(() => {
        this.#isLost = false;
        this.#painter = new Dots(canvasOf());
        const hadFocus = canvas === document.activeElement;
        canvas.replaceWith(this.canvas);
        if (hadFocus) this.canvas.focus();
        changed();
      }, PATIENCE);
    }, { signal });
    canvas.addEventListener("webglcontextrestored", () => {
      if (!this.#isLost) return;
      clearTimeout(timer);
      this.#isLost = false;
      this.#painter.prepare();
      changed();
    }, { signal });
  }
}
