// The pictures of "Choose a threshold": each function draws one canvas from the state of
// threshold.js and the prepared run. No state of its own but the loaded sprites.
const thresholdView = (ui, state, run) => {
  "use strict";
  const M = ThresholdMath, { format } = EBM, { RUN, MAPS, pro, low, high, edges, bars } = run;
  const log = Math.log10, PIXELS = MAPS.size ** 2, layers = [], sprites = {};
  const mapBins = EBM.bytes(MAPS.bins), mapMasks = M.bits(EBM.bytes(MAPS.masks));
  const inMaps = () => state.mode === "maps";
  let axisOfScores = null;

  for (const [name, sheet] of [["images", RUN.thumbnails], ["maps", MAPS.pictures]]) {
    sprites[name] = Object.assign(new Image(), { onload: () => ui.redraw(), src: sheet.url });
  }

  /** Numbers under an axis, at places of their own. */
  function labels(g, axis, marks) {
    for (const [x, words] of marks) {
      EBM.text(g, words, axis.X(x), axis.bottom + 14, { color: ui.colors.ink, align: "center" });
    }
  }

  function thresholdLine(g, axis, value, y) {
    const { colors } = ui, x = axis.X(value);
    g.fillStyle = colors.ink;
    g.fillRect(x - 1.5, axis.top, 3, axis.height);
    EBM.dot(g, x, y, { color: colors.ink, ring: colors.paper, radius: 9 });
    EBM.text(g, "‹ ›", x, y, { color: colors.paper, align: "center", baseline: "middle", weight: "bold" });
    axisOfScores = axis;
  }

  /** Histograms of the image scores: normal ones up, defective ones down. */
  function scores(g, w, h) {
    if (inMaps()) { pixels(g, w, h); return; }
    const { colors } = ui, most = 1.1 * Math.max(...bars.normal, ...bars.defective);
    const axis = EBM.axes(g, colors, {
      x: [log(low), log(high)], y: [-most, most], box: [34, 24, w - 44, h - 64],
      xLabel: "score (log scale)", yLabel: "number of images", xTicks: [], yTicks: [],
    });
    const marks = [1, 2, 5, 10, 20, 50, 100, 200, 500].filter((t) => t >= low && t <= high);
    labels(g, axis, marks.map((t) => [log(t), String(t)]));
    const x = edges.map(log), middle = { ...axis, bottom: axis.Y(0) };
    EBM.bars(g, middle, x, bars.normal, { color: colors.blue, alpha: 0.85 });
    EBM.bars(g, middle, x, bars.defective.map((n) => -n), { color: colors.vermilion, alpha: 0.85 });
    const words = { align: "right", weight: "600" };
    EBM.text(g, "normal images ↑", w - 10, axis.top + 8, { color: colors.blue, ...words });
    EBM.text(g, "defective images ↓", w - 10, axis.bottom - 6, { color: colors.vermilion, ...words });
    thresholdLine(g, axis, log(state.threshold), axis.Y(0));
  }

  /** Shares of normal and defective pixels at or above each threshold of the map. */
  function pixels(g, w, h) {
    const { colors } = ui, n = MAPS.edges.length, bins = MAPS.edges.map((_, k) => k);
    const axis = EBM.axes(g, colors, {
      x: [0, n - 1], y: [2e-5, 1], log: true, box: [46, 24, w - 58, h - 64], xTicks: [],
      xLabel: "score of a pixel (bins)", yLabel: "share of pixels flagged (log scale)",
    });
    const marks = [0, 2, 5, 10, 20, 50, 100].filter((v) => v > MAPS.edges[0] && v < MAPS.edges[n - 1]);
    labels(g, axis, marks.map((t) => [MAPS.edges.findIndex((e) => e >= t), String(t)]));
    const at = (bin) => pro.bins.indexOf(bin);
    EBM.line(g, axis, bins, bins.map((k) => pro.fpr[at(k)]), { color: colors.blue });
    EBM.line(g, axis, bins, bins.map((k) => pro.recall[at(k)]), { color: colors.vermilion, dash: [7, 3] });
    const names = [["normal", colors.blue], ["defective", colors.vermilion, [7, 3]]];
    EBM.legend(g, colors, names, axis.left + 8, axis.bottom - 12);
    thresholdLine(g, axis, state.bin, h / 2);
  }

  function mark(g, axis, x, y) {
    if (!Number.isFinite(x) || !Number.isFinite(y)) return;
    EBM.dot(g, axis.X(x), axis.Y(y), { color: ui.colors.vermilion, ring: ui.colors.ink, radius: 6 });
  }

  const square = (w, h) => [40, 24, w - 52, h - 66];

  /** The ROC curve, or the PRO curve with the part that counts. */
  function curve(g, w, h) {
    const { colors } = ui, box = square(w, h), below = (axis, words) =>
      EBM.text(g, words, axis.right - 4, axis.bottom - 8, { color: colors.ink, align: "right" });
    if (inMaps()) {
      const axis = EBM.axes(g, colors, { x: [0, 0.6], y: [0, 1], box,
        xLabel: "share of normal pixels flagged", yLabel: "per-region overlap" });
      g.save();
      Object.assign(g, { globalAlpha: 0.25, fillStyle: colors.sky });
      g.fillRect(axis.left, axis.top, axis.X(0.3) - axis.left, axis.height);
      g.restore();
      EBM.line(g, axis, pro.fpr, pro.pro, { color: colors.green });
      below(axis, `AU-PRO up to 0.3: ${format(run.auPro, 3)}`);
      mark(g, axis, pro.fpr[run.proPoint()], pro.pro[run.proPoint()]);
      return;
    }
    const axis = EBM.axes(g, colors, { x: [0, 1], y: [0, 1], box,
      xLabel: "share of normal images flagged", yLabel: "share of defects found" });
    EBM.line(g, axis, [0, 1], [0, 1], { color: colors.muted, width: 1, dash: [4, 4] });
    EBM.line(g, axis, run.roc.fpr, run.roc.recall, { color: colors.green });
    below(axis, `AUROC ${format(RUN.image_auroc, 3)}`);
    mark(g, axis, state.now.fpr, state.now.recall);
  }

  /** The precision-recall curve, or how much of every defect is flagged. */
  function second(g, w, h) {
    const { colors } = ui, box = square(w, h);
    if (inMaps()) {
      const found = run.regions.map((r) => M.covered(r, state.bin)).sort((a, b) => b - a);
      const axis = EBM.axes(g, colors, { x: [0, found.length], y: [0, 1], box,
        xLabel: "defects, best found first", yLabel: "share of the defect flagged" });
      EBM.bars(g, axis, [...found.keys(), found.length], found, { color: colors.green, alpha: 0.8 });
      const mean = pro.pro[run.proPoint()];
      EBM.line(g, axis, [0, found.length], [mean, mean], { color: colors.ink, dash: [6, 4] });
      const words = { color: colors.ink, align: "right", weight: "600" };
      EBM.text(g, `mean = PRO ${format(mean)}`, axis.right, axis.top - 9, words);
      return;
    }
    const axis = EBM.axes(g, colors, { x: [0, 1], y: [0, 1], box,
      xLabel: "recall: share of defects found", yLabel: "precision" });
    EBM.line(g, axis, [0, 1], [run.share, run.share], { color: colors.muted, width: 1, dash: [4, 4] });
    EBM.line(g, axis, run.pr.recall, run.pr.precision, { color: colors.purple });
    const words = `average precision ${format(RUN.average_precision, 3)}`;
    EBM.text(g, words, axis.left + 6, axis.bottom - 8, { color: colors.ink });
    mark(g, axis, state.now.recall, state.now.precision);
  }

  /** Twelve images: those around the threshold, or some with their flagged pixels. */
  function strip(g, w, canvas) {
    const columns = w < 520 ? 6 : 12, side = w / columns - 6, step = side + 26;
    canvas.style.aspectRatio = `${w} / ${12 / columns * step}`;
    (inMaps() ? MAPS.shown : run.nearest()).slice(0, 12).forEach((i, k) => {
      const x = 3 + (k % columns) * (side + 6), y = 3 + Math.floor(k / columns) * step;
      if (inMaps()) map(g, k, x, y, side); else thumbnail(g, i, x, y, side);
    });
  }

  function thumbnail(g, i, x, y, side) {
    const { side: s, columns } = RUN.thumbnails, { colors } = ui, bad = run.labels[i];
    const flagged = RUN.scores[i] >= state.threshold, right = flagged === bad;
    const from = [s * (i % columns), s * Math.floor(i / columns), s, s];
    if (sprites.images.complete) g.drawImage(sprites.images, ...from, x, y, side, side);
    g.lineWidth = run.changed().includes(i) ? 6 : 2.5;
    g.strokeStyle = flagged ? colors.vermilion : colors.blue;
    g.strokeRect(x, y, side, side);
    const words = `${right ? "✓" : "✗"} ${RUN.kinds[RUN.kind[i]]}`;
    EBM.text(g, words, x, y + side + 14, { color: colors.ink, size: 11, most: side, weight: right ? "" : "bold" });
  }

  function map(g, k, x, y, side) {
    const n = MAPS.size, s = MAPS.pictures.side, first = k * PIXELS;
    if (sprites.maps.complete) g.drawImage(sprites.maps, s * k, 0, s, s, x, y, side, side);
    const edge = M.outline(mapMasks.subarray(first, first + PIXELS), n);
    const paint = edge.map((on, i) => (on ? 2 : mapBins[first + i] >= state.bin ? 1 : 0));
    const inks = [[0, 0, 0, 0], [255, 90, 0, 190], [255, 255, 255, 255]];
    layers[k] = EBM.picture(paint, n, n, (v) => inks[v], layers[k]);
    g.imageSmoothingEnabled = false;
    g.drawImage(layers[k], x, y, side, side);
    const words = RUN.kinds[RUN.kind[MAPS.shown[k]]];
    EBM.text(g, words, x, y + side + 14, { color: ui.colors.ink, size: 11, most: side });
  }

  return { scores, curve, second, strip, valueAt: (px) => axisOfScores.value(px) };
};
