// Drawing on a canvas for the demos: axes, lines, bars, matrices, one color scale.
// Adds to EBM (shell.js); knows nothing of any demo.
(() => {
  "use strict";
  // Inferno (Smith and van der Walt, CC0) at 17 equal steps; lightness rises evenly.
  const INFERNO = ["000004", "0b0724", "210c4a", "3d0965", "57106e", "71196e", "8a226a",
    "a32c61", "bc3754", "d24644", "e45a31", "f17020", "f98e09", "fcad12", "f9cb35",
    "f2ea69", "fcffa4"].map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));

  /** Share t in [0, 1] -> [red, green, blue] in 0..255. */
  function heat(t) {
    const place = 16 * Math.min(Math.max(t, 0), 1) || 0;
    const i = Math.min(Math.floor(place), 15);
    return INFERNO[i].map((low, c) => low + (place - i) * (INFERNO[i + 1][c] - low));
  }

  /** Base64 to bytes. */
  const bytes = (encoded) => Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));

  /** A matrix as a small canvas, one pixel per value. color(v, i) -> [r, g, b] or
   * [r, g, b, alpha]; values row by row, the first row on top. Reuses `old`. */
  function picture(values, columns, rows, color = heat, old = null) {
    const made = old ?? document.createElement("canvas");
    if (made.width !== columns || made.height !== rows) [made.width, made.height] = [columns, rows];
    const g = made.getContext("2d");
    const data = g.createImageData(columns, rows);
    for (let i = 0; i < columns * rows; i++) {
      const c = color(values[i], i);
      for (let k = 0; k < 3; k++) data.data[4 * i + k] = c[k];
      data.data[4 * i + 3] = c[3] ?? 255;
    }
    g.putImageData(data, 0, 0);
    return made;
  }

  /** About n round numbers that cover [low, high]. */
  function ticks(low, high, n = 4) {
    const rough = (high - low) / n, ten = 10 ** Math.floor(Math.log10(rough));
    const step = ten * [1, 2, 5, 10].find((m) => m * ten >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return found;
  }

  /** Digits that tell neighboring ticks apart. */
  const digits = (marks) => (marks.length < 2 ? 1
    : Math.min(Math.max(0, -Math.floor(Math.log10(marks[1] - marks[0]) + 1e-9)), 6));

  /** A mark of a logarithmic axis in few characters. */
  const power = (v) => (v < 1e4 ? String(Number(v.toPrecision(2))) : v.toExponential(0).replace("+", ""));

  /** Draw axes into the box and return the maps to pixels, X and Y, and back, value(px).
   * x, y: [low, high]. log: whether y is logarithmic. Colors from ui.colors. */
  function axes(g, colors, { x, y, xLabel = "", yLabel = "", box, xTicks, yTicks, log = false, grid = true }) {
    const [left, top, width, height] = box;
    const f = log ? Math.log10 : (v) => v;
    const X = (v) => left + (v - x[0]) / (x[1] - x[0]) * width;
    const value = (px) => x[0] + (px - left) / width * (x[1] - x[0]);
    const Y = (v) => top + height - (f(v) - f(y[0])) / (f(y[1]) - f(y[0])) * height;
    const xs = xTicks ?? ticks(x[0], x[1], Math.max(2, width / 55));
    const ys = yTicks ?? (log ? decades(y[0], y[1], height / 18) : ticks(y[0], y[1], Math.max(3, height / 25)));
    g.save();
    g.font = `12px ${EBM.font}`;
    g.lineWidth = 1;
    g.strokeStyle = colors.grid;
    g.fillStyle = colors.ink;
    g.textAlign = "center";
    g.textBaseline = "top";
    const stroke = (x0, y0, x1, y1) => { g.beginPath(); g.moveTo(x0, y0); g.lineTo(x1, y1); g.stroke(); };
    for (const v of xs) {
      if (grid) stroke(X(v), top, X(v), top + height);
      g.fillText(EBM.format(v, digits(xs)), X(v), top + height + 4);
    }
    g.textAlign = "right";
    g.textBaseline = "middle";
    for (const v of ys) {
      if (grid) stroke(left, Y(v), left + width, Y(v));
      g.fillText(log ? power(v) : EBM.format(v, digits(ys)), left - 5, Y(v));
    }
    g.strokeStyle = colors.ink;
    stroke(left, top + height, left + width, top + height);
    stroke(left, top, left, top + height);
    g.textAlign = "center";
    g.textBaseline = "alphabetic";
    g.fillText(xLabel, left + width / 2, top + height + 31);
    if (yLabel) { g.textAlign = "left"; g.fillText(yLabel, left - 30, top - 9); }
    g.restore();
    return { X, Y, value, left, top, width, height, right: left + width, bottom: top + height };
  }

  /** Powers of ten in [low, high], at most `most` of them. */
  function decades(low, high, most) {
    const found = [];
    for (let k = Math.ceil(Math.log10(low) - 1e-9); 10 ** k <= high * 1.001; k++) found.push(10 ** k);
    const every = Math.ceil(found.length / most);
    return found.length ? found.filter((_, i) => i % every === 0) : [low, high];
  }

  /** A polyline through the points (xs[i], ys[i]); values that are not finite break it. */
  function line(g, axis, xs, ys, { color, width = 2, dash = [] } = {}) {
    g.save();
    g.beginPath();
    g.rect(axis.left, axis.top - 2, axis.width, axis.height + 4);
    g.clip();
    g.beginPath();
    let pen = false;
    for (let i = 0; i < xs.length; i++) {
      const y = axis.Y(ys[i]);
      if (!Number.isFinite(y)) { pen = false; continue; }
      if (pen) g.lineTo(axis.X(xs[i]), y); else g.moveTo(axis.X(xs[i]), y);
      pen = true;
    }
    Object.assign(g, { strokeStyle: color, lineWidth: width, lineJoin: "round" });
    g.setLineDash(dash);
    g.stroke();
    g.restore();
  }

  /** Histogram bars from edges (n + 1) and heights (n). */
  function bars(g, axis, edges, heights, { color, alpha = 0.6 }) {
    g.save();
    const base = axis.bottom;
    for (let i = 0; i < heights.length; i++) {
      if (!heights[i]) continue;
      const left = axis.X(edges[i]), right = axis.X(edges[i + 1]), y = axis.Y(heights[i]);
      g.globalAlpha = alpha;
      g.fillStyle = color;
      g.fillRect(left, y, Math.max(right - left - 0.5, 0.5), base - y);
    }
    g.restore();
  }

  /** A filled circle with a ring, or with shape "cross" a saltire. */
  function dot(g, x, y, { color, ring = null, radius = 5, shape = "disc" }) {
    g.save();
    g.beginPath();
    if (shape === "cross") {
      for (const s of [-1, 1]) { g.moveTo(x - radius, y - s * radius); g.lineTo(x + radius, y + s * radius); }
      Object.assign(g, { strokeStyle: color, lineWidth: 2.5 }).stroke();
    } else {
      g.arc(x, y, radius, 0, 2 * Math.PI);
      g.fillStyle = color;
      g.fill();
      if (ring) Object.assign(g, { strokeStyle: ring, lineWidth: 2 }).stroke();
    }
    g.restore();
  }

  /** The square [-half, half]^2 on w x w pixels: X, Y to pixels, x, y back. */
  const square = (half, w) => ({
    X: (x) => (x + half) / (2 * half) * w, Y: (y) => (half - y) / (2 * half) * w,
    x: (px) => px / w * 2 * half - half, y: (py) => half - py / w * 2 * half,
  });

  /** Many small points, light with a dark rim: visible on any ground. */
  function points(g, s, xs, ys, { radius = 2.2, fill = "#ffffff", rim = "#10202c" } = {}) {
    g.save();
    Object.assign(g, { lineWidth: 1, fillStyle: fill, strokeStyle: rim });
    for (let i = 0; i < xs.length; i++) {
      g.beginPath();
      g.arc(s.X(xs[i]), s.Y(ys[i]), radius, 0, 2 * Math.PI);
      g.fill();
      g.stroke();
    }
    g.restore();
  }

  /** Words on the canvas. */
  function text(g, words, x, y, options = {}) {
    const { color, size = 12, align = "left", baseline = "alphabetic", weight = "", most } = options;
    g.save();
    g.font = `${weight} ${size}px ${EBM.font}`;
    Object.assign(g, { fillStyle: color, textAlign: align, textBaseline: baseline });
    g.fillText(words, x, y, most); // condensed where it would be wider than `most`
    g.restore();
  }

  /** Names with line samples, left to right from (x, y): [name, color, dash]. */
  function legend(g, colors, entries, x, y) {
    g.save();
    g.font = `12px ${EBM.font}`;
    for (const [name, color, dash = []] of entries) {
      Object.assign(g, { strokeStyle: color, lineWidth: 3, fillStyle: colors.ink, textBaseline: "middle" });
      g.setLineDash(dash);
      g.beginPath(); g.moveTo(x, y); g.lineTo(x + 18, y); g.stroke();
      g.fillText(name, x + 23, y + 0.5);
      x += 23 + g.measureText(name).width + 14;
    }
    g.restore();
  }

  Object.assign(window.EBM, { heat, bytes, picture, ticks, axes, line, bars, dot, square, points, text, legend });
})();
