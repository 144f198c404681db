// Points as dots, drawn by WebGL2: a buffer for each column, which is sent as points arrive.

const VERTEX = `#version 300 es
  precision highp float;
  layout(location = 0) in float x;
  layout(location = 1) in float y;
  layout(location = 2) in float z;
  layout(location = 3) in int key;
  uniform vec2 middle, scale, depth, sizes;
  uniform float radius, fog;
  uniform vec3 background, faded;
  uniform bool isFaded;
  uniform sampler2D palette;
  out vec3 colour;
  out float size;

  void main() {
    float nearness = depth.y > depth.x && z >= depth.x ? (z - depth.x) / (depth.y - depth.x) : 0.0;
    gl_Position = vec4((vec2(x, y) - middle) * scale, 0.0, 1.0);
    size = radius * mix(sizes.x, sizes.y, nearness);
    gl_PointSize = 2.0 * size + 1.0;
    int wide = textureSize(palette, 0).x;
    vec3 own = isFaded ? faded : texelFetch(palette, ivec2((key + 1) % wide, (key + 1) / wide), 0).rgb;
    colour = mix(own, background, fog * (1.0 - nearness));
  }`;

const FRAGMENT = `#version 300 es
  precision highp float;
  in vec3 colour;
  in float size;
  uniform float strength;
  out vec4 pixel;

  void main() {
    float away = distance(gl_PointCoord, vec2(0.5)) * (2.0 * size + 1.0);
    float cover = clamp(size + 0.5 - away, 0.0, 1.0) * strength;
    pixel = vec4(colour * cover, cover);
  }`;

const COLUMNS = [["x", Float32Array], ["y", Float32Array], ["z", Float32Array], ["keys", Int32Array]];
const WIDE = 1024; // colours in a row of the texture
const ORDERS = 6; // that are kept: of what is faded, noise and the rest, in whole and in part

/** A painter of points. A picture begins, is drawn in parts, and is shown when it ends. */
export class GlDots {
  #gl;
  #at; // {name: place of a uniform}
  #buffers;
  #orders = new Map(); // {points in an order: their buffer}
  #sent = { points: null, keys: null, palette: null, length: 0 };
  #target;

  /** Return a painter on a canvas, or null where there is no WebGL2. */
  static on(canvas) {
    const gl = canvas.getContext("webgl2", {
      alpha: false, antialias: false, depth: false, stencil: false, preserveDrawingBuffer: true,
    });
    return gl && new GlDots(canvas, gl);
  }

  constructor(canvas, gl) {
    this.canvas = canvas;
    this.#gl = gl;
    this.prepare();
  }

  /** Make what lies on the side of the GPU, at first and when that was lost. */
  prepare() {
    const gl = this.#gl;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.#at = new Proxy({}, { get: (known, name) => (known[name] ??= gl.getUniformLocation(program, name)) });
    this.#buffers = COLUMNS.map(() => gl.createBuffer());
    COLUMNS.forEach(([, type], place) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.#buffers[place]);
      gl.enableVertexAttribArray(place);
      if (type === Int32Array) gl.vertexAttribIPointer(place, 1, gl.INT, 0, 0);
      else gl.vertexAttribPointer(place, 1, gl.FLOAT, false, 0, 0);
    });
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.#target = { frame: gl.createFramebuffer(), pixels: gl.createRenderbuffer(), width: 0, height: 0 };
    this.#orders.clear();
    this.#sent = { points: null, keys: null, palette: null, length: 0 };
  }

  /**
   * Begin a picture. `view` is {x, y, scale}: what lies in the middle, and pixels for one unit;
   * `radius` of a dot is in pixels, `strength` is how much it covers.
   */
  begin(look, view, { radius, strength }) {
    const gl = this.#gl;
    const { width, height } = this.canvas;
    this.#resize(width, height);
    this.#send(look);
    gl.viewport(0, 0, width, height);
    gl.uniform2f(this.#at.middle, view.x, view.y);
    gl.uniform2f(this.#at.scale, (2 * view.scale) / width, (2 * view.scale) / height);
    gl.uniform2f(this.#at.depth, ...(look.points.isDeep ? look.points.bounds.z : [0, 0]));
    gl.uniform2f(this.#at.sizes, ...look.sizes);
    gl.uniform1f(this.#at.radius, radius);
    gl.uniform1f(this.#at.strength, strength);
    gl.uniform1f(this.#at.fog, look.fog);
    gl.uniform3f(this.#at.background, ...look.background.map((part) => part / 255));
    gl.uniform3f(this.#at.faded, ...look.faded.map((part) => part / 255));
    gl.clearColor(...look.background.map((part) => part / 255), 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
  }

  /** Draw some points on what was drawn before. */
  draw(order, from, to, isFaded) {
    const gl = this.#gl;
    gl.uniform1i(this.#at.isFaded, isFaded);
    this.#ordered(order);
    gl.drawElements(gl.POINTS, to - from, gl.UNSIGNED_INT, 4 * from);
  }

  /** Show the picture. */
  end() {
    const gl = this.#gl;
    const { width, height } = this.canvas;
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
    gl.blitFramebuffer(0, 0, width, height, 0, 0, width, height, gl.COLOR_BUFFER_BIT, gl.NEAREST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.#target.frame);
  }

  /** Return what tells, when it is called, whether all until now was drawn. */
  fence() {
    const gl = this.#gl;
    const fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    return () => {
      if (gl.getSyncParameter(fence, gl.SYNC_STATUS) === gl.UNSIGNALED) return false; // null: lost
      gl.deleteSync(fence);
      return true;
    };
  }

  #resize(width, height) {
    const gl = this.#gl;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.#target.frame);
    if (this.#target.width === width && this.#target.height === height) return;
    gl.bindRenderbuffer(gl.RENDERBUFFER, this.#target.pixels);
    gl.renderbufferStorage(gl.RENDERBUFFER, gl.RGBA8, width, height);
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.RENDERBUFFER, this.#target.pixels);
    Object.assign(this.#target, { width, height });
  }

  /** Send what the side of the GPU has not got yet. */
  #send({ points, keys, palette, length }) {
    const gl = this.#gl;
    const sent = this.#sent;
    const isOther = sent.points !== points;
    COLUMNS.forEach(([name, type], place) => {
      const isKeys = name === "keys";
      const values = isKeys ? keys : points[name];
      const isWhole = isOther || (isKeys && sent.keys !== keys);
      const first = isWhole ? 0 : sent.length;
      gl.bindBuffer(gl.ARRAY_BUFFER, this.#buffers[place]);
      if (isWhole) gl.bufferData(gl.ARRAY_BUFFER, values.length * type.BYTES_PER_ELEMENT, gl.STATIC_DRAW);
      if (first < length) gl.bufferSubData(gl.ARRAY_BUFFER, 4 * first, values, first, length - first);
    });
    if (sent.palette !== palette) {
      const rows = Math.ceil(palette.length / 4 / WIDE);
      const texels = new Uint8Array(4 * WIDE * rows);
      texels.set(palette);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, WIDE, rows, 0, gl.RGBA, gl.UNSIGNED_BYTE, texels);
    }
    this.#sent = { points, keys, palette, length };
  }

  /** Return the buffer of an order; of the last few, since pictures take turns with their parts. */
  #ordered(order) {
    const gl = this.#gl;
    const buffer = this.#orders.get(order) ?? gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
    if (!this.#orders.delete(order)) gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, order, gl.STATIC_DRAW);
    this.#orders.set(order, buffer);
    if (this.#orders.size > ORDERS) {
      const [[oldest, unused]] = this.#orders;
      gl.deleteBuffer(unused);
      this.#orders.delete(oldest);
    }
  }
}
