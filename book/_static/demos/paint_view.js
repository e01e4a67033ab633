// The pictures of "Paint a defect": the part, the map and the histogram of energies, drawn
// from what paint.js knows (`state`). On a part of size x size pixels.
const paintView = (ui, state, size, energies, threshold) => {
  "use strict";
  const canvases = {}; // small ones, one pixel a value, kept from drawing to drawing
  const small = (name, values, color) => {
    canvases[name] = EBM.picture(values, size, size, color, canvases[name]);
    return canvases[name];
  };

  /** Dark and light at once: seen on any ground. */
  function strokeTwice(g) {
    for (const [color, width] of [["#000", 3.5], ["#fff", 1.5]]) {
      Object.assign(g, { strokeStyle: color, lineWidth: width }).stroke();
    }
  }

  /** The part in its light, the map over it if wanted, and the ring of the brush. */
  function part(g, w, h) {
    const { shown, result, brush } = state, area = size * size;
    const color = (red, i) => [255 * red, 255 * shown[i + area], 255 * shown[i + 2 * area]];
    g.imageSmoothingEnabled = false;
    g.drawImage(small("part", shown, color), 0, 0, w, h);
    g.imageSmoothingEnabled = true;
    if (state.overlay && result) {
      const veil = (t) => [...EBM.heat(0.3 + 0.7 * t), 255 * Math.min(Math.max(1.5 * t, 0), 0.8)];
      g.drawImage(small("veil", result.shares, veil), 0, 0, w, h);
    }
    if (!brush) return;
    g.beginPath();
    g.arc((brush.x / size) * w, (brush.y / size) * h, Math.max(4, (brush.radius / size) * w), 0, 7);
    strokeTwice(g);
  }

  /** The map; around a real defect runs the border of its true mask. */
  function map(g, w, h) {
    const { result, truth } = state, s = w / size;
    if (!result) return;
    g.drawImage(small("map", result.shares), 0, 0, w, h);
    if (!truth) return;
    g.beginPath();
    for (let y = 1; y < size; y++)
      for (let x = 1; x < size; x++) {
        const here = truth[y * size + x];
        const [left, above] = [truth[y * size + x - 1], truth[(y - 1) * size + x]];
        if (here !== left) { g.moveTo(x * s, y * s); g.lineTo(x * s, (y + 1) * s); }
        if (here !== above) { g.moveTo(x * s, y * s); g.lineTo((x + 1) * s, y * s); }
      }
    strokeTwice(g);
  }

  // Energies are drawn on a scale that is even among normal parts, logarithmic far away.
  const [LEFT, RIGHT, BINS] = [-3, 7.5, 48], n = energies.length;
  const middle = energies[n >> 1], spread = energies[Math.floor(0.84 * n)] - middle;
  const scale = (e) => Math.min(Math.max(Math.asinh((e - middle) / spread), LEFT), RIGHT);
  const edges = Array.from({ length: BINS + 1 }, (_, i) => LEFT + ((RIGHT - LEFT) * i) / BINS);
  const counts = new Array(BINS).fill(0);
  for (const e of energies) {
    counts[Math.min(Math.floor(((scale(e) - LEFT) / (RIGHT - LEFT)) * BINS), BINS - 1)]++;
  }

  /** Round numbers on the axis, the roundest first, none too close to another. */
  function marks(axis) {
    const found = [];
    for (const step of [1000, 500, 200, 100, 50, 20, 10, 5, 2, 1, 0.5, 0.2]) {
      const first = Math.max(0, Math.ceil((middle + spread * Math.sinh(LEFT)) / step));
      for (let k = first; k < first + 12 && scale(k * step) < RIGHT; k++) {
        const x = axis.X(scale(k * step));
        const free = x >= 20 && found.every((m) => Math.abs(m.x - x) >= 38);
        if (free) found.push({ x, words: String(Number((k * step).toFixed(1))) });
      }
    }
    return found;
  }

  /** The energies of normal parts, the threshold, and this part. */
  function histogram(g, w, h) {
    const { ink, muted, blue, vermilion } = ui.colors;
    const axis = EBM.axes(g, ui.colors, {
      x: [LEFT, RIGHT], y: [0, 1.25 * Math.max(...counts)], box: [8, 4, w - 16, h - 42],
      xTicks: [], yTicks: [],
    });
    const words = (text, x, y, more) =>
      EBM.text(g, text, x, y, { color: ink, align: "center", baseline: "top", ...more });
    const line = (e, color, dash, name, y) => {
      const x = axis.X(scale(e)), end = x > 0.75 * w;
      g.save();
      g.setLineDash(dash);
      Object.assign(g, { strokeStyle: color, lineWidth: 2.5 }).beginPath();
      g.moveTo(x, axis.top);
      g.lineTo(x, axis.bottom);
      g.stroke();
      g.restore();
      const side = { color, align: end ? "right" : "left", weight: "600" };
      words(name, x + (end ? -6 : 6), axis.top + y, side);
    };
    EBM.bars(g, axis, edges, counts, { color: blue });
    words("energy, stretched around normal parts", w / 2, axis.bottom + 21);
    for (const mark of marks(axis)) words(mark.words, mark.x, axis.bottom + 5);
    line(threshold, muted, [5, 4], "threshold", 2);
    if (!state.result) return;
    const { energy } = state.result;
    line(energy, energy > threshold ? vermilion : blue, [], "this part", 18);
  }

  return { part, map, histogram };
};
