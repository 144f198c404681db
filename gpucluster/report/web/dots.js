// Points as dots in pixels, drawn by the processor: where there is no WebGL2.

const SIZES = 8; // of dots, where depth is shown

/** A painter of points. A picture begins, is drawn in parts, and is shown when it ends. */
export class Dots {
  #context;
  #image = null;
  #look;
  #view;
  #stamps;

  constructor(canvas) {
    this.canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
  }

  /**
   * Begin a picture. `view` is {x, y, scale}: what lies in the middle, and pixels for one unit;
   * `radius` of a dot is in pixels, `strength` is how much it covers.
   */
  begin(look, view, { radius, strength }) {
    const { width, height } = this.canvas;
    if (this.#image?.width !== width || this.#image?.height !== height) this.#image = new ImageData(width, height);
    new Uint32Array(this.#image.data.buffer).fill(packed(look.background));
    [this.#look, this.#view] = [look, view];
    const levels = look.points.isDeep ? SIZES : 1;
    this.#stamps = Array.from({ length: levels }, (_, i) => {
      const near = levels > 1 ? i / (levels - 1) : 0;
      const [far, full] = look.sizes;
      return { disc: disc(radius * (far + (full - far) * near), strength), fog: look.fog * (1 - near) };
    });
  }

  /** Draw some points on what was drawn before. */
  draw(order, from, to, isFaded) {
    const { data, width, height } = this.#image;
    const { points, keys, palette, faded, background } = this.#look;
    const view = this.#view;
    for (let at = from; at < to; at++) {
      const i = order[at];
      const left = Math.floor((points.x[i] - view.x) * view.scale + width / 2);
      const top = Math.floor((view.y - points.y[i]) * view.scale + height / 2);
      if (!(left > -20 && top > -20 && left < width + 20 && top < height + 20)) continue;
      const { disc: mask, fog } = this.#stamps[Math.round(points.nearness(i) * (this.#stamps.length - 1))];
      const key = 4 * (keys[i] + 1);
      const part = (channel) => {
        const full = isFaded ? faded[channel] : palette[key + channel];
        return full + (background[channel] - full) * fog;
      };
      stamp(data, width, height, left, top, mask, part(0), part(1), part(2));
    }
  }

  /** Show the picture. */
  end() {
    this.#context.putImageData(this.#image, 0, 0);
  }

  /** Return what tells, when it is called, whether all until now was drawn. */
  fence() {
    return () => true;
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

function stamp(data, width, height, x, y, mask, red, green, blue) {
  for (let at = 0; at < mask.length; at += 3) {
    const [column, row] = [x + mask[at], y + mask[at + 1]];
    if (column < 0 || row < 0 || column >= width || row >= height) continue;
    const cover = mask[at + 2];
    const byte = (row * width + column) * 4;
    data[byte] += ((red - data[byte]) * cover) >> 8;
    data[byte + 1] += ((green - data[byte + 1]) * cover) >> 8;
    data[byte + 2] += ((blue - data[byte + 2]) * cover) >> 8;
  }
}

const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
