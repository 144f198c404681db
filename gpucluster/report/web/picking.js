// Which point lies under the pointer: by a grid, in which points are sorted by their cells.

import { counted } from "./points.js";

const MEMBERS = 4; // of a cell, about

export class Grid {
  #look;
  #columns;
  #rows;
  #order;
  #starts;

  constructor(look) {
    this.#look = look;
    const { points } = look;
    const side = Math.max(1, Math.min(1024, Math.round(Math.sqrt(look.length / MEMBERS))));
    this.#columns = axis(points.bounds.x, side);
    this.#rows = axis(points.bounds.y, side);
    const cells = side * side;
    const { order, starts } = counted(look.length, cells + 1, (i) =>
      look.isBright(i) ? this.#rows(points.y[i]) * side + this.#columns(points.x[i]) : cells);
    [this.#order, this.#starts, this.side] = [order, starts, side];
  }

  /**
   * Return the bright point whose dot is nearest to a place, by its edge and then by its middle; -1
   * where none is within reach. All lengths are in units of the coordinates.
   */
  nearest(x, y, reach, radius) {
    const { points, sizes } = this.#look;
    const far = reach + radius * Math.max(...sizes);
    const [left, right] = [this.#columns(x - far), this.#columns(x + far)];
    const [bottom, top] = [this.#rows(y - far), this.#rows(y + far)];
    let [best, least, middle] = [-1, reach, Infinity];
    for (let row = bottom; row <= top; row++) {
      const end = this.#starts[row * this.side + right + 1];
      for (let at = this.#starts[row * this.side + left]; at < end; at++) {
        const i = this.#order[at];
        const away = Math.hypot(points.x[i] - x, points.y[i] - y);
        const edge = Math.max(0, away - radius * this.#look.sizeOf(i));
        if (edge < least || (edge === least && away < middle)) [best, least, middle] = [i, edge, away];
      }
    }
    return best;
  }
}

/** Return what gives the cell of a value along one side. */
function axis([low, high], side) {
  const scale = side / (high - low || 1);
  return (value) => Math.max(0, Math.min(side - 1, Math.floor((value - low) * scale)));
}
