// A small picture that is painted on: brush, eraser, scratch, spot and light. No DOM.
// Positions and sizes are in pixels of the picture; values are in [0, 1].
const Painting = (() => {
  "use strict";
  const clamp = (v, low = 0, high = 1) => Math.min(Math.max(v, low), high);

  class Painting {
    /** A picture of size x size pixels with three channels, (3, size, size) flat. */
    constructor(size, seed = 7) {
      this.size = size;
      this.area = size * size;
      this.random = generator(seed);
      this.load(new Float64Array(3 * this.area));
    }

    /** Start from a picture. */
    load(base) {
      this.base = base;
      this.paint = base.slice();
      this.begin();
    }

    /** Begin a stroke: within one, a pixel is painted once, however often it is met. */
    begin() {
      this.before = this.paint.slice();
      this.cover = new Float64Array(this.area); // how much the stroke covers, 0 to 1
      this.last = null;
    }

    /** Draw from the last point of the stroke to (x, y): add `ink` = [r, g, b], or bring
     * back the picture as it came where `ink` is null. Edges are one pixel soft. */
    stroke(x, y, radius, ink) {
      const { size, area, paint, before, base, cover } = this;
      const [x0, y0] = this.last ?? [x, y];
      const dx = x - x0, dy = y - y0, length = dx * dx + dy * dy;
      this.last = [x, y];
      for (let p = 0; p < area; p++) {
        const px = (p % size) + 0.5 - x0, py = Math.floor(p / size) + 0.5 - y0;
        const t = length ? clamp((px * dx + py * dy) / length) : 0;
        const inside = clamp(radius + 0.5 - Math.hypot(px - t * dx, py - t * dy));
        if (inside <= cover[p]) continue;
        cover[p] = inside;
        for (let c = 0, i = p; c < 3; c++, i += area)
          paint[i] = ink ? clamp(before[i] + inside * ink[c])
            : before[i] + inside * (base[i] - before[i]);
      }
    }

    /** A random place on the face of the nut, between its bore and its rim. */
    place() {
      const angle = 2 * Math.PI * this.random(), r = this.size * (0.22 + 0.06 * this.random());
      return [this.size / 2 + r * Math.cos(angle), this.size / 2 + r * Math.sin(angle)];
    }

    /** A thin bowed stroke, brighter or darker by `strength`. */
    scratch(strength) {
      const [x, y] = this.place(), angle = Math.PI * this.random();
      const half = 4 + 3 * this.random(), bow = 4 * this.random() - 2;
      this.begin();
      for (let s = -1; s <= 1; s += 0.25) {
        const u = s * half, v = bow * (1 - s * s);
        this.stroke(x + u * Math.cos(angle) - v * Math.sin(angle),
          y + u * Math.sin(angle) + v * Math.cos(angle), 0.8, [strength, strength, strength]);
      }
    }

    /** A stain of a random hue, about five pixels wide. */
    spot(strength) {
      const [x, y] = this.place(), ink = [0, 1, 2].map(() => strength * (0.4 + 1.2 * this.random()));
      this.begin();
      for (let k = 0; k < 4; k++)
        this.stroke(x + 3 * this.random() - 1.5, y + 3 * this.random() - 1.5, 1.5 + this.random(), ink);
    }

    /** The picture in another light: contrast about its mean, then brightness. */
    lit(brightness, contrast) {
      const mean = this.paint.reduce((a, b) => a + b, 0) / this.paint.length;
      return this.paint.map((v) => clamp(brightness * (mean + contrast * (v - mean))));
    }

    /** Whether each pixel differs from the picture as it came. */
    changed(least = 0.02) {
      return Uint8Array.from({ length: this.area }, (_, p) => Number([0, 1, 2].some((c) =>
        Math.abs(this.paint[p + c * this.area] - this.base[p + c * this.area]) > least)));
    }
  }

  /** Uniform numbers in [0, 1) from a seed (mulberry32). */
  function generator(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  return Object.assign(Painting, { clamp });
})();
if (typeof module !== "undefined") module.exports = Painting;
