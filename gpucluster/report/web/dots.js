// Points as dots in pixels, drawn here rather than by a GPU: any machine shows the same picture.

const SIZES = 8; // of dots, where depth is shown
const [SMALLEST, LARGEST] = [0.6, 2.2]; // beside the size of a dot without depth

/** A picture of points, which knows for each pixel whose dot is on top. */
export class Dots {
  #context;
  #image;
  #owner;

  constructor(canvas) {
    this.canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
  }

  get context() {
    return this.#context;
  }

  /**
   * Draw points. `view` is {x, y, scale}: what lies in the middle, and pixels for one unit.
   * `colour` returns [red, green, blue] of a cluster, or null where it is not shown; those of which
   * `isBehind` is true are drawn first. `background` is a colour too, `radius` is in pixels.
   */
  draw(points, view, { colour, background, radius, isBehind = null, strength = 0.85 }) {
    const { width, height } = this.canvas;
    if (this.#image?.width !== width || this.#image?.height !== height) {
      this.#image = new ImageData(width, height);
      this.#owner = new Int32Array(width * height);
    }
    new Uint32Array(this.#image.data.buffer).fill(packed(background));
    this.#owner.fill(-1);
    const stamps = this.#stamps(points, radius, strength);
    const looks = new Map();
    const lookOf = (index) => {
      if (!looks.has(index)) looks.set(index, [colour(index), Boolean(isBehind?.(index))]);
      return looks.get(index);
    };
    for (const behind of isBehind ? [true, false] : [false]) {
      this.#stampAll(points, view, stamps, lookOf, behind);
    }
    this.#context.putImageData(this.#image, 0, 0);
  }

  #stampAll(points, view, stamps, lookOf, behind) {
    const { width, height } = this.canvas;
    const [low, high] = points.bounds.z;
    const toSize = points.isDeep ? (SIZES - 0.001) / (high - low) : 0;
    let [last, look] = [NaN, null];
    for (let i = 0; i < points.length; i++) {
      const left = (points.x[i] - view.x) * view.scale + width / 2;
      const top = (view.y - points.y[i]) * view.scale + height / 2;
      if (!(left > -20 && top > -20 && left < width + 20 && top < height + 20)) continue;
      if (points.cluster[i] !== last) {
        last = points.cluster[i];
        look = lookOf(last);
      }
      if (look[0] === null || look[1] !== behind) continue;
      const size = toSize ? Math.floor((points.z[i] - low) * toSize) || 0 : 0;
      stamp(this.#image.data, this.#owner, width, height, left, top, stamps[size], look[0], i);
    }
  }

  #stamps(points, radius, strength) {
    if (!points.isDeep) return [disc(radius, strength)];
    const step = (LARGEST - SMALLEST) / (SIZES - 1);
    return Array.from({ length: SIZES }, (_, i) => disc(radius * (SMALLEST + i * step), strength));
  }

  /** Return the point whose dot is at, or next to, a pixel; -1 where there is none. */
  at(left, top, reach) {
    if (!this.#owner) return -1;
    const { width, height } = this.canvas;
    const [x, y] = [Math.round(left), Math.round(top)];
    let [best, least] = [-1, Infinity];
    for (let row = Math.max(0, y - reach); row <= Math.min(height - 1, y + reach); row++) {
      for (let column = Math.max(0, x - reach); column <= Math.min(width - 1, x + reach); column++) {
        const distance = (row - y) ** 2 + (column - x) ** 2;
        if (distance < least && this.#owner[row * width + column] >= 0) {
          [best, least] = [this.#owner[row * width + column], distance];
        }
      }
    }
    return best;
  }
}

/** Return the pixels of a disc around its middle: [right, down, how much of 256 it covers]. */
function disc(radius, strength) {
  const reach = Math.ceil(radius);
  const found = [];
  for (let down = -reach; down <= reach; down++) {
    for (let right = -reach; right <= reach; right++) {
      const cover = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(right, down)));
      if (cover > 0) found.push(right, down, Math.round(cover * strength * 256));
    }
  }
  return Int16Array.from(found);
}

function stamp(data, owner, width, height, left, top, mask, [red, green, blue], index) {
  const [x, y] = [Math.round(left), Math.round(top)];
  for (let at = 0; at < mask.length; at += 3) {
    const [column, row] = [x + mask[at], y + mask[at + 1]];
    if (column < 0 || row < 0 || column >= width || row >= height) continue;
    const cover = mask[at + 2];
    const place = row * width + column;
    const byte = place * 4;
    data[byte] += ((red - data[byte]) * cover) >> 8;
    data[byte + 1] += ((green - data[byte + 1]) * cover) >> 8;
    data[byte + 2] += ((blue - data[byte + 2]) * cover) >> 8;
    if (cover > 100) owner[place] = index;
  }
}

const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
