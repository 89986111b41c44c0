// Layers of objects as the server sends them: packed to one bit per pixel, compressed by zlib.

const KEPT = 96; // Layers that stay unpacked, so that undo need not fetch them again.

export class Layers {
  #bits = new Map(); // Version -> Uint8Array, for each frame ceil(height * width / 8) bytes.

  constructor(about) {
    this.height = about.height;
    this.width = about.width;
    this.stride = Math.ceil((about.height * about.width) / 8);
  }

  get versions() {
    return [...this.#bits.keys()];
  }

  /** Unpack new layers, {version: base64}; drop the oldest that are not `used`. */
  async add(sent, used) {
    for (const [version, text] of Object.entries(sent)) {
      const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
      this.#bits.set(version, new Uint8Array(await new Response(stream).arrayBuffer()));
    }
    for (const version of used) {
      const bits = this.#bits.get(version);
      this.#bits.delete(version);
      if (bits) this.#bits.set(version, bits); // The most recently used are last.
    }
    for (const version of this.#bits.keys()) {
      if (this.#bits.size <= KEPT) break;
      if (!used.includes(version)) this.#bits.delete(version);
    }
  }

  /** Write an object's number where a frame of its layer has it; shifted by whole pixels. */
  paint(out, version, frame, id, dx = 0, dy = 0) {
    const bits = this.#bits.get(version);
    if (!bits) return;
    const { width, height, stride } = this;
    const start = frame * stride;
    for (let byte = 0; byte < stride; byte++) {
      const value = bits[start + byte];
      if (!value) continue;
      for (let bit = 0; bit < 8; bit++) {
        if (!(value & (128 >> bit))) continue;
        const place = byte * 8 + bit;
        if (!dx && !dy) {
          out[place] = id;
          continue;
        }
        const x = (place % width) + dx;
        const y = Math.floor(place / width) + dy;
        if (x >= 0 && x < width && y >= 0 && y < height) out[y * width + x] = id;
      }
    }
  }

  /** Return the box [x0, y0, x1, y1) of an object in a frame, or null. */
  box(version, frame) {
    const mask = new Uint8Array(this.height * this.width);
    this.paint(mask, version, frame, 1);
    let [x0, y0, x1, y1] = [this.width, this.height, 0, 0];
    for (let place = 0; place < mask.length; place++) {
      if (!mask[place]) continue;
      const x = place % this.width;
      const y = Math.floor(place / this.width);
      [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x + 1), Math.max(y1, y + 1)];
    }
    return x1 > x0 ? [x0, y0, x1, y1] : null;
  }
}
