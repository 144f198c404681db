// Arrow IPC streams of flat int32, float32 and utf8 columns, read while they arrive.
//
// A stream is a row of messages: 0xFFFFFFFF, the length of a flatbuffer, the flatbuffer, a body.
// The flatbuffer of the first is the schema, each other one says where in its body columns lie.

const [SCHEMA, RECORD_BATCH] = [1, 3];
const [INT, FLOAT, UTF8] = [2, 3, 5];

/** Yield {length, columns} for each batch of a body; a column of texts has `at(i)`. */
export async function* batches(body) {
  const bytes = new Bytes(body);
  let fields = null;
  try {
    for (;;) {
      const message = await next(bytes);
      if (message === null) return;
      if (message.kind === SCHEMA) fields = schema(message.header);
      else if (message.kind === RECORD_BATCH && fields) yield batch(message, fields);
      else throw new Error(`An Arrow message of kind ${message.kind} was not expected.`);
    }
  } finally {
    bytes.close();
  }
}

async function next(bytes) {
  const start = await bytes.take(8, { mayEnd: true });
  if (start === null) return null;
  const view = new DataView(start.buffer);
  if (view.getUint32(0, true) !== 0xffffffff) throw new Error("This is no Arrow stream.");
  const size = view.getInt32(4, true);
  if (size === 0) return null;
  const metadata = await bytes.take(size);
  const flat = new DataView(metadata.buffer);
  const root = table(flat, flat.getUint32(0, true));
  const kind = root.at(1) ? root.view.getUint8(root.at(1)) : 0;
  const length = root.at(3) ? long(root.view, root.at(3)) : 0;
  return { kind, header: root.child(2), body: await bytes.take(length) };
}

/** Read a table of a flatbuffer: a vtable says where its fields lie. */
function table(view, position) {
  const vtable = position - view.getInt32(position, true);
  const size = view.getUint16(vtable, true);
  const at = (field) => {
    const slot = 4 + 2 * field;
    const offset = slot < size ? view.getUint16(vtable + slot, true) : 0;
    return offset ? position + offset : 0;
  };
  const follow = (place) => place + view.getUint32(place, true);
  return {
    view,
    at,
    child: (field) => (at(field) ? table(view, follow(at(field))) : null),
    /** Return [first, number] of the elements of a vector. */
    vector: (field) => {
      if (!at(field)) return [0, 0];
      const start = follow(at(field));
      return [start + 4, view.getUint32(start, true)];
    },
  };
}

function long(view, position) {
  return view.getUint32(position, true) + view.getInt32(position + 4, true) * 2 ** 32;
}

function schema(header) {
  const [start, n] = header.vector(1);
  return Array.from({ length: n }, (_, i) => {
    const place = start + 4 * i;
    const field = table(header.view, place + header.view.getUint32(place, true));
    const [first, length] = field.vector(0);
    const name = new TextDecoder().decode(new Uint8Array(header.view.buffer, first, length));
    const kind = field.at(2) ? field.view.getUint8(field.at(2)) : 0;
    const type = field.child(3);
    const number = type?.at(0) ? type.view.getInt16(type.at(0), true) : 0;
    const isKnown = kind === UTF8 || (kind === INT && number === 32) || (kind === FLOAT && number === 1);
    if (!isKnown || field.at(4)) throw new Error(`The column ${name} has a type that this page does not read.`);
    return { name, kind };
  });
}

function batch({ header, body }, fields) {
  const { view } = header;
  const length = header.at(0) ? long(view, header.at(0)) : 0;
  if (header.at(3)) throw new Error("Compressed batches are not read here.");
  const [nodes] = header.vector(1);
  const [buffers] = header.vector(2);
  let index = 0;
  const buffer = () => {
    const place = buffers + 16 * index++;
    return [long(view, place), long(view, place + 8)];
  };
  const columns = {};
  fields.forEach(({ name, kind }, i) => {
    const nulls = long(view, nodes + 16 * i + 8);
    const [validAt] = buffer();
    const valid = nulls ? new Uint8Array(body.buffer, validAt) : null;
    if (kind === UTF8) {
      const [offsets] = buffer();
      const [data, bytes] = buffer();
      columns[name] = texts(new Int32Array(body.buffer, offsets, length ? length + 1 : 0),
        new Uint8Array(body.buffer, data, bytes), valid);
    } else {
      const [data] = buffer();
      const values = new (kind === INT ? Int32Array : Float32Array)(body.buffer, data, length);
      if (valid && kind === FLOAT) {
        for (let row = 0; row < length; row++) if (!isSet(valid, row)) values[row] = NaN;
      }
      columns[name] = values;
    }
  });
  return { length, columns };
}

const isSet = (bits, i) => (bits[i >> 3] >> (i & 7)) & 1;

function texts(offsets, data, valid) {
  const decoder = new TextDecoder();
  return {
    at: (i) => (valid && !isSet(valid, i) ? null : decoder.decode(data.subarray(offsets[i], offsets[i + 1]))),
  };
}

/** The bytes of a stream, as many at a time as are asked for. */
class Bytes {
  #reader;
  #piece = new Uint8Array(0);

  constructor(body) {
    this.#reader = body.getReader();
  }

  /** Return the next `n` bytes in a buffer of their own; null at the end where that may be. */
  async take(n, { mayEnd = false } = {}) {
    const out = new Uint8Array(n);
    for (let filled = 0; filled < n;) {
      if (!this.#piece.length) {
        const { done, value } = await this.#reader.read();
        if (done && mayEnd && filled === 0) return null;
        if (done) throw new Error("The stream broke off.");
        this.#piece = value;
      }
      const part = this.#piece.subarray(0, n - filled);
      out.set(part, filled);
      filled += part.length;
      this.#piece = this.#piece.subarray(part.length);
    }
    return out;
  }

  close() {
    this.#reader.cancel().catch(() => {});
  }
}
